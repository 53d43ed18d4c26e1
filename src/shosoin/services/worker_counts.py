"""What workers have counted, as they report it, and all of it together.

A worker reports every second and when it ends; one that is killed takes at most its last second along. What is counted
of keys is counted where the streams are, and misses nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from shosoin.services.request_tally import RequestTally

__all__ = ["WorkerCounts"]


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
    def load(cls, report: bytes) -> WorkerCounts:
        """Return what ``dump`` was called on."""
        latencies, refusals, groups, greedy, *numbers, callers = json.loads(report)
        counts = cls(callers=Counter(callers))
        counts.connections, counts.connections_refused, counts.bodies_bytes, counts.turned_away, counts.cut = numbers
        for method, status, total_s, classes in latencies:
            entry = counts.tally.latencies[method, status]
            entry.total_s, entry.counts = total_s, classes
        counts.tally.refusals.update({(peer, direction, code): count for peer, direction, code, count in refusals})
        counts.tally.groups.update(groups)
        counts.tally.connections_refused = greedy
        return counts

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
