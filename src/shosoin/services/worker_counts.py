"""What workers have counted, as they report it, and all of it together.

A worker reports every second and when it ends; one that is killed takes at most its last second along. What is counted
of keys is counted where the streams are, and misses nothing.

What a report must be is checked: it becomes metrics, where a counter that goes back or a label without end spoils more
than the worker's own numbers.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from shosoin.services.request_tally import Latencies, RequestTally

__all__ = ["WorkerCounts"]

_LABELS_MAX = 1 << 16
"""Of one kind in one report; an honest worker has some dozens, and as many callers as connections."""
_LABEL_CHARACTERS_MAX = 64
_COUNT_MAX = 1 << 53


@dataclass(slots=True)
class WorkerCounts:
    """Requests and connections of one worker, or of several."""

    tally: RequestTally = field(default_factory=RequestTally)
    connections: int = 0
    """Open at this moment."""
    connections_refused: int = 0
    bodies_bytes: int = 0
    """Held at this moment."""
    turned_away: int = 0
    """Connections refused for revocation."""
    cut: int = 0
    """Connections ended for revocation or expiry."""
    callers: Counter[str] = field(default_factory=Counter)
    """Open at this moment, by the SAE that the certificate names."""

    def dump(self) -> bytes:
        """Return the report."""
        latencies = [[*key, each.total_s, each.counts] for key, each in self.tally.latencies.items()]
        refusals = [[*key, count] for key, count in self.tally.refusals.items()]
        now = [self.connections, self.connections_refused, self.bodies_bytes, self.turned_away, self.cut, self.callers]
        return json.dumps([latencies, refusals, self.tally.groups, self.tally.connections_refused, *now]).encode()

    @classmethod
    def load(cls, report: bytes, *, after: WorkerCounts | None = None) -> WorkerCounts:
        """Return what ``dump`` was called on.

        Args:
            after: the report before this one, of the same worker.

        Raises:
            ValueError: it is no report, or a counter is lower than before.
        """
        try:
            counts = cls._read(json.loads(report))
        except (ValueError, TypeError, AttributeError, RecursionError) as err:
            raise ValueError("not a report") from err
        if after is not None and _is_below(counts.counters(), after.counters()):
            raise ValueError("a counter went back")
        return counts

    @classmethod
    def _read(cls, found: Any) -> WorkerCounts:
        latencies, refusals, groups, greedy, *numbers, callers = found
        counts = cls(callers=_counter(callers.items()))
        now = map(_count, numbers)
        counts.connections, counts.connections_refused, counts.bodies_bytes, counts.turned_away, counts.cut = now
        for method, status, total_s, classes in _few(latencies):
            counts.tally.latencies[_label(method), _status(status)] = _latencies(total_s, classes)
        told = (((_label(peer), _label(way), _label(code)), count) for peer, way, code, count in refusals)
        counts.tally.refusals = _counter(told)
        counts.tally.groups = _counter(groups.items())
        counts.tally.connections_refused = _count(greedy)
        return counts

    def counters(self) -> dict[object, float]:
        """Return all that only ever grows, by what names it."""
        tally = self.tally
        found: dict[object, float] = {}
        for key, each in tally.latencies.items():
            found.update({(key, bound): count for bound, count in enumerate([*each.counts, each.total_s])})
        for counter in (tally.refusals, tally.groups):
            found.update(counter.items())
        single = (tally.connections_refused, self.connections_refused, self.turned_away, self.cut)
        found.update(enumerate(single))
        return found

    def over(self) -> WorkerCounts:
        """Return what remains of a worker that has ended."""
        return WorkerCounts(self.tally, 0, self.connections_refused, 0, self.turned_away, self.cut)

    @classmethod
    def total(cls, all_counts: Iterable[WorkerCounts]) -> WorkerCounts:
        """Return the sum."""
        total = cls()
        for counts in all_counts:
            for key, entry in counts.tally.latencies.items():
                into = total.tally.latencies[key]
                into.total_s += entry.total_s
                into.counts = [mine + theirs for mine, theirs in zip(into.counts, entry.counts, strict=True)]
            total.tally.refusals.update(counts.tally.refusals)
            total.tally.groups.update(counts.tally.groups)
            total.tally.connections_refused += counts.tally.connections_refused
            total.connections += counts.connections
            total.connections_refused += counts.connections_refused
            total.bodies_bytes += counts.bodies_bytes
            total.turned_away += counts.turned_away
            total.cut += counts.cut
            total.callers.update(counts.callers)
        return total


def _is_below(now: dict[object, float], before: dict[object, float]) -> bool:
    return any(now.get(name, 0) < count for name, count in before.items())


def _few(items: Any) -> list[Any]:
    if len(found := list(items)) > _LABELS_MAX:
        raise ValueError("too many labels")
    return found


def _counter(items: Any) -> Counter[Any]:
    named = [(key if isinstance(key, tuple) else _label(key), _count(count)) for key, count in _few(items)]
    return Counter(dict(named))


def _label(value: Any) -> str:
    if type(value) is not str or len(value) > _LABEL_CHARACTERS_MAX or not all(" " <= sign <= "~" for sign in value):
        raise ValueError("no label")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _COUNT_MAX:
        raise ValueError("no count")
    return value


def _status(value: Any) -> int:
    if not 100 <= _count(value) <= 599:
        raise ValueError("no HTTP status")
    return int(value)


def _latencies(total_s: Any, classes: Any) -> Latencies:
    fresh = Latencies()
    counts = [_count(count) for count in classes]
    if type(total_s) not in {int, float} or not 0 <= total_s < math.inf or len(counts) != len(fresh.counts):
        raise ValueError("no times")
    fresh.total_s, fresh.counts = float(total_s), counts
    return fresh
