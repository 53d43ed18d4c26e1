"""Sets of integers as few disjoint intervals: which granules of a stream were fetched or wiped."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

__all__ = ["IntervalSet", "joined"]


class IntervalSet:
    """Integers in sorted, disjoint, non-touching half-open intervals.

    >>> fetched = IntervalSet()
    >>> fetched.add(0, 4); fetched.add(4, 8)
    >>> list(fetched), fetched.overlaps(7, 9), fetched.overlaps(8, 9)
    ([(0, 8)], True, False)
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Add ``start <= x < end``. Cost: O(log n) plus the intervals swallowed."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any integer of ``start <= x < end`` is in the set."""
        place = bisect_right(self._ends, start)
        return place < len(self._starts) and self._starts[place] < end

    def covers(self, start: int, end: int) -> bool:
        """Whether all integers of ``start <= x < end`` are in the set."""
        place = bisect_right(self._starts, start) - 1
        return start >= end or (place >= 0 and self._ends[place] >= end)

    def around(self, value: int) -> tuple[int, int]:
        """Return the interval that holds ``value``, which must be in the set."""
        place = bisect_right(self._starts, value) - 1
        return self._starts[place], self._ends[place]

    def remove(self, start: int, end: int) -> None:
        """Take ``start <= x < end`` out of the set."""
        if start >= end:
            return
        first = bisect_right(self._ends, start)
        last = bisect_left(self._starts, end)
        if first >= last:
            return
        kept = [(self._starts[first], start), (end, self._ends[last - 1])]
        kept = [(low, high) for low, high in kept if low < high]
        self._starts[first:last] = [low for low, _ in kept]
        self._ends[first:last] = [high for _, high in kept]

    def first_fit(self, start: int, length: int) -> int | None:
        """Return the lowest x >= ``start`` such that ``length`` integers from x on are all in the set."""
        for place in range(bisect_right(self._ends, start), len(self._starts)):
            low = max(start, self._starts[place])
            if self._ends[place] - low >= length:
                return low
        return None

    @property
    def end(self) -> int:
        """One more than the largest integer, 0 when empty."""
        return self._ends[-1] if self._ends else 0

    def size(self) -> int:
        """How many integers are in the set."""
        return sum(self._ends) - sum(self._starts)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))


def joined(spans: Iterable[tuple[int, int]]) -> IntervalSet:
    """Return the set of all integers in half-open spans; cheap where each begins at the end of the one before.

    >>> list(joined([(0, 2), (2, 5), (9, 10), (7, 9)]))
    [(0, 5), (7, 10)]
    """
    found, low, high = IntervalSet(), 0, 0
    for start, end in spans:
        if start != high:
            found.add(low, high)
            low = start
        high = end
    found.add(low, high)
    return found
