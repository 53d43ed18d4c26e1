"""What an HTTP service of a KME answered, as plain numbers: how often, how fast, and why not.

Every label is a name of ours: a call of the standard, a KME of the directory, an error code of the program. Nothing
that a client wrote becomes one, so the number of counters is bounded however hostile the clients are.

>>> tally = RequestTally()
>>> tally.answered("status", 200, 0.003)
>>> tally.latencies["status", 200].cumulative()[2:4]
[('0.0025', 0), ('0.005', 1)]
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import accumulate

from shosoin.keys.errors import PeerRefused

__all__ = ["Latencies", "RequestTally"]

_CALLERS_MAX = 4096
"""Whoever comes later is counted and not remembered."""
_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)


@dataclass(slots=True)
class Latencies:
    """How long requests took, in classes of time."""

    total_s: float = 0.0
    counts: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS_S) + 1))

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def add(self, seconds: float) -> None:
        """Count a request."""
        self.counts[bisect_left(_BOUNDS_S, seconds)] += 1
        self.total_s += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """Return, for each upper bound in ascending order, how many requests took at most so long."""
        return list(zip([*map(str, _BOUNDS_S), "+Inf"], accumulate(self.counts), strict=True))


@dataclass(slots=True)
class RequestTally:
    """Counters of one service."""

    latencies: defaultdict[tuple[str, int], Latencies] = field(default_factory=lambda: defaultdict(Latencies))
    """By method of the interface and HTTP status."""
    refusals: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By KME of the other SAE, direction of the stream, and error code; empty where the request names none of ours."""
    connections_refused: int = 0
    """Connections of SAEs that had too many."""
    groups: Counter[str] = field(default_factory=Counter)
    """Connections by TLS key-exchange group, empty where the TLS library cannot tell."""
    _group_of: dict[str, str] = field(default_factory=dict)

    @property
    def answers(self) -> int:
        """How many requests were answered, whatever the answer."""
        return sum(each.count for each in self.latencies.values())

    def answered(self, method: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.latencies[method, status].add(seconds)

    def refused(self, code: str, peer: str = "", direction: str = "") -> None:
        """Count why an answer was an error; what follows in a code that another KME refused with is its own word."""
        name = PeerRefused.code if code.startswith(PeerRefused.code) else code
        self.refusals[peer, direction, name] += 1

    def connected(self, group: str, caller: str) -> bool:
        """Count a connection; return whether this caller's last one had another group, or there was none."""
        self.groups[group] += 1
        if self._group_of.get(caller) == group or len(self._group_of) >= _CALLERS_MAX:
            return False
        self._group_of[caller] = group
        return True

    def connection_refused(self) -> None:
        """Count a connection that was ended at once."""
        self.connections_refused += 1
