"""Memory that requests may hold at once, so that no caller takes what all share.

A bound on each body times the number of connections is still more than a machine has. Here all requests together have
a budget, and one caller at most half of what the others leave of it, so that something is left however many help each
other; what does not fit is refused with 503 before it is read or made.

>>> budget = MemoryBudget(100, code="example.busy")
>>> with budget.claim() as claim:
...     claim.take("sae-a", 40)
...     budget.held_bytes
40
>>> budget.held_bytes
0
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from shosoin.base import Unavailable

__all__ = ["Budget", "Claim", "MemoryBudget"]

_BUSY_RETRY_S = 1.0


class Budget(Protocol):
    """What is told of memory that requests may hold."""

    @property
    def held_bytes(self) -> int:
        """What is held at this moment."""
        ...

    @property
    def total_bytes(self) -> int:
        """What all may hold together."""
        ...


class MemoryBudget:
    """Bytes that may be held: ``total_bytes`` by all, by one caller half of what the others do not hold."""

    def __init__(self, total_bytes: int, *, code: str) -> None:
        self.total_bytes = total_bytes
        self._code = code
        self._held_by: dict[str, int] = {}
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """What is held at this moment."""
        return self._held_bytes

    def claim(self) -> Claim:
        """Return a claim on nothing yet; whatever it takes comes back when its context ends."""
        return Claim(self)

    def reserve(self, caller: str, size_bytes: int) -> None:
        """Set memory aside for a caller.

        Raises:
            Unavailable: it is not there now.
        """
        before_bytes = self._held_by.get(caller, 0)
        own_bytes, others_bytes = before_bytes + size_bytes, self._held_bytes - before_bytes
        if own_bytes > (self.total_bytes - others_bytes) // 2:
            raise Unavailable("too many request bytes at once", code=self._code, retry_after_s=_BUSY_RETRY_S)
        if own_bytes:  # else nothing would come back, and the name stay for ever
            self._held_by[caller] = own_bytes
        self._held_bytes += size_bytes

    def release(self, caller: str, size_bytes: int) -> None:
        """Give memory back."""
        self._held_bytes -= size_bytes
        self._held_by[caller] -= size_bytes
        if not self._held_by[caller]:
            del self._held_by[caller]


class Claim:
    """What one request holds of a budget, as a context manager."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._caller, self._size_bytes = "", 0

    def take(self, caller: str, size_bytes: int) -> None:
        """Hold ``size_bytes`` for a caller, instead of whatever was held before.

        Raises:
            Unavailable: they are not there now; nothing is held then.
        """
        self.drop()
        self._budget.reserve(caller, size_bytes)
        self._caller, self._size_bytes = caller, size_bytes

    def drop(self) -> None:
        """Give everything back."""
        if self._size_bytes:
            self._budget.release(self._caller, self._size_bytes)
            self._size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()
