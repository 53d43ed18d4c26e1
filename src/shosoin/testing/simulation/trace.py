"""What happened, in order: one line of plain English for each event, and a digest of all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from hashlib import sha256

from shosoin.base.ports import Event

__all__ = ["EventTrace", "Trace"]


class Trace:
    """Lines with times in simulated milliseconds, and counts of what was exercised."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self.lines: list[str] = []
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []

    def tell(self, who: str, what: str, *, count: str = "") -> None:
        """Add an event."""
        self.lines.append(f"{1000 * self._now_s():10.1f} ms  {who:<10} {what}")
        if count:
            self.counts[count] += 1

    def violate(self, what: str) -> None:
        """Report that a promise was broken."""
        self.violations.append(what)
        self.tell("!!!", what)

    def digest(self) -> str:
        """Return a digest of all lines: equal digests mean equal runs."""
        return sha256("\n".join(self.lines).encode()).hexdigest()


class EventTrace:
    """An event sink that tells the trace and keeps alarms."""

    def __init__(self, trace: Trace, who: str, listener: Callable[[str, Event], None]) -> None:
        self._trace = trace
        self._who = who
        self._listener = listener

    def emit(self, event: Event) -> None:
        """Record an event."""
        fields = ", ".join(f"{key} {value}" for key, value in event.fields.items())
        self._trace.tell(self._who, f"reports {event.name} ({event.severity}): {fields}")
        self._listener(self._who, event)
