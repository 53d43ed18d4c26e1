"""A harness: bytes in, and either nothing happens or an error of a kind that says no secret and fits a log line.

What a harness may raise is decided here once. A ``ShosoinError`` of one of the five kinds is an answer; anything else
is a finding, because an edge would turn it into HTTP 500 or exit code 70. Memory and time are bounded by whoever runs
the harness (``run`` tells libFuzzer so; the test suite has a time limit per test).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shosoin.base import Alarm, Denied, PeerFault, Rejected, ShosoinError, Unavailable

__all__ = ["Finding", "Harness", "check_told"]

KINDS = (Rejected, Denied, Unavailable, PeerFault, Alarm)
MESSAGE_CHARACTERS_MAX = 4000
_CODE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")


class Finding(AssertionError):
    """A parser did what it must not."""


@dataclass(frozen=True, slots=True)
class Harness:
    """One parser and its oracle.

    ``parse`` takes any bytes; it raises ``ShosoinError`` when it refuses them and ``Finding`` when a property breaks.
    """

    name: str
    parse: Callable[[bytes], None]
    seeds: Callable[[], Sequence[bytes]]
    """Makes valid inputs with our own encoders."""
    secrets: tuple[bytes, ...] = ()
    """What no error may quote."""
    size_max: int = 8192

    def __call__(self, raw: bytes) -> None:
        """Run once.

        Raises:
            Finding, or whatever the parser should not have raised.
        """
        try:
            self.parse(raw)
        except ShosoinError as error:
            check_told(error, self.secrets)


def check_told(error: ShosoinError, secrets: Sequence[bytes] = ()) -> None:
    """Check that an error can be shown to anybody.

    Raises:
        Finding: no kind, a code or message that does not fit a log line, or a secret in it.
    """
    if not isinstance(error, KINDS):
        raise Finding(f"{type(error).__name__} has no kind") from error
    if not _CODE.fullmatch(error.code):
        raise Finding(f"code {error.code!r}") from error
    told = f"{error.message} {error.hint}"
    if len(told) > MESSAGE_CHARACTERS_MAX:
        raise Finding(f"a message of {len(told)} characters") from error
    if not told.replace("\n", " ").isprintable():
        raise Finding(f"a message that a terminal would obey: {told[:80]!r}") from error
    for secret in secrets:
        if any(form in told for form in _forms(secret)):
            raise Finding("a secret in the text of an error") from error


def _forms(secret: bytes) -> Iterator[str]:
    yield secret.hex()
    yield repr(secret)[2:-1]
    yield base64.b64encode(secret).decode().rstrip("=")[:-1]
