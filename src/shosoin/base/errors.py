"""Errors: the class says which layer failed, the kind it inherits says what the caller can do.

Five kinds exist. Each edge (HTTP, command line) maps the *kind* with one table; it never inspects messages.
An exception without a kind is a defect of ours (HTTP 500, exit code 70). Messages are lower case, say what was
got and what was expected, and never carry secret material.
"""

from __future__ import annotations

__all__ = ["Alarm", "Denied", "PeerFault", "Rejected", "ShosoinError", "Unavailable"]


class ShosoinError(Exception):
    """Common base of every expected failure.

    Subclasses set ``code`` (``layer.what_happened``) and may set ``hint``, one sentence on what to do next.
    """

    code: str = "base.error"
    hint: str = ""

    def __init__(self, message: str, *, code: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if hint is not None:
            self.hint = hint


class Rejected(ShosoinError):
    """The request itself is wrong; repeating it cannot succeed (HTTP 400, exit 2)."""

    code = "base.rejected"


class Denied(ShosoinError):
    """The caller may not do this (HTTP 401, exit 3)."""

    code = "base.denied"


class Unavailable(ShosoinError):
    """The request is right but cannot be served now (HTTP 503, exit 4)."""

    code = "base.unavailable"

    def __init__(
        self, message: str, *, code: str | None = None, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, code=code, hint=hint)
        self.retry_after_s = retry_after_s


class PeerFault(ShosoinError):
    """The other side broke the protocol (HTTP 502, exit 5)."""

    code = "base.peer_fault"


class Alarm(ShosoinError):
    """A security property failed; never retried, always recorded (HTTP 500, exit 6)."""

    code = "base.alarm"
