"""Build a quasi-cyclic LDPC code from its column degrees: even rows, no 4-cycle, few 6-cycles.

Columns are placed from light to heavy, as in progressive edge growth (Hu, Eleftheriou, Arnold, IEEE Trans. IT 51, 386,
2005). Columns with two edges form one ring over as many rows, and the sum of their shifts is odd: in the lifted graph
they are a single long cycle, not many short chains, which two columns with three edges could close to a light word.
Rows are filled evenly. A shift is drawn among those that close no cycle of length 4 in the lifted graph, keep the
checks of a light column far apart on that long cycle, and close the fewest cycles of length 6. Everything is whole
numbers and one generator, so that the same recipe gives the same table anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.reconciliation.code import Edge, LdpcCode

__all__ = ["Recipe", "build", "four_cycles"]

_MASK = (1 << 64) - 1
_CAREFUL_DEGREE_MAX = 8
"""Heavier columns recover by themselves: their shifts avoid 4-cycles only."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that determines a table."""

    name: str
    rows: int
    lifting: int
    degrees: Mapping[int, int]
    """How many base columns have how many edges."""

    @property
    def columns(self) -> int:
        """Base columns."""
        return sum(self.degrees.values())


class _Draws:
    """SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), seeded with the recipe's name: choices, not secrets."""

    def __init__(self, name: str) -> None:
        self._state = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")

    def below(self, limit: int) -> int:
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & _MASK
        return ((z ^ z >> 31) * limit) >> 64

    def shuffled(self, count: int) -> list[int]:
        items = list(range(count))
        for i in range(count - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]
        return items


class _Ring:
    """The long cycle of the columns with two edges, and where on it a check lies."""

    def __init__(self, rows: list[int], lifting: int) -> None:
        self.rows = rows
        self.lifting = lifting
        self.turn = 0
        """By how much a check's number has grown after one turn through all rows."""
        self._offsets: dict[int, int] = {}

    def steps_by(self, step: int) -> None:
        self._offsets[self.rows[len(self._offsets)]] = self.turn % self.lifting
        self.turn += step

    def _positions(self, row: int, shifts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Where the check lies that a row with these shifts gives to bit 0 of a column."""
        turns = (-shifts - self._offsets[row]) * pow(self.turn % self.lifting, -1, self.lifting) % self.lifting
        return turns * len(self.rows) + self.rows.index(row)

    def close_shifts(self, row: int, other: int, its_shift: int) -> npt.NDArray[np.intp]:
        """Shifts that would bring two checks of a column within a sixty-fourth of the cycle."""
        if row not in self._offsets or other not in self._offsets:
            return np.zeros(0, dtype=np.intp)
        length = len(self.rows) * self.lifting
        here = self._positions(row, np.arange(self.lifting, dtype=np.int64))
        apart = (here - self._positions(other, np.array([its_shift], dtype=np.int64))) % length
        return np.flatnonzero(np.minimum(apart, length - apart) < length // 64)


class _Builder:
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.draws = _Draws(recipe.name)
        self.load = [0] * recipe.rows
        self.differences: list[list[list[int]]] = [[[] for _ in range(recipe.rows)] for _ in range(recipe.rows)]
        self.edges: list[Edge] = []
        self.ring = _Ring([], recipe.lifting)

    def run(self) -> LdpcCode:
        recipe = self.recipe
        degrees = sorted(degree for degree, count in recipe.degrees.items() for _ in range(count))
        places = self._places()
        pairs = recipe.degrees.get(2, 0)
        if pairs:
            self.ring = _Ring(self.draws.shuffled(recipe.rows)[:pairs], recipe.lifting)
            self._close_ring(places[:pairs])
        for degree, column in list(zip(degrees, places, strict=True))[pairs:]:
            self._place(column, self._lightest(degree), careful=degree <= _CAREFUL_DEGREE_MAX)
        return LdpcCode(recipe.name, recipe.rows, recipe.columns, recipe.lifting, tuple(sorted(self.edges)))

    def _places(self) -> list[int]:
        """Return a place for each column, from light to heavy: random, but no light one where frames end."""
        places = self.draws.shuffled(self.recipe.columns)
        pairs, kept = self.recipe.degrees.get(2, 0), self.recipe.columns * 17 // 20
        spare = iter([at for at in range(pairs, len(places)) if places[at] < kept])
        for at in range(pairs):
            if places[at] >= kept:
                other = next(spare)
                places[at], places[other] = places[other], places[at]
        return places

    def _close_ring(self, columns: list[int]) -> None:
        """Place the columns with two edges, the last one so that the steps add up to an odd number."""
        size = self.recipe.lifting
        for at, column in enumerate(columns):
            first, second = self.draws.below(size), self.draws.below(size)
            if at == len(columns) - 1 and (self.ring.turn + first - second) % 2 == 0:
                second = (second + 1) % size
            self.ring.steps_by(first - second)
            self._record(column, [(self.ring.rows[at], first), (self.ring.rows[(at + 1) % len(columns)], second)])

    def _lightest(self, degree: int) -> list[int]:
        """Return the rows with the fewest edges; among equals those that met the fewest of the chosen ones before."""
        chosen: list[int] = []
        order = self.draws.shuffled(self.recipe.rows)
        for _ in range(degree):
            free = [row for row in order if row not in chosen]
            met = {row: sum(len(self.differences[row][other]) for other in chosen) for row in free}
            chosen.append(min(free, key=lambda row: (self.load[row], met[row])))
        return chosen

    def _place(self, column: int, rows: list[int], *, careful: bool) -> None:
        placed: list[tuple[int, int]] = []
        for row in rows:
            placed.append((row, self._shift(row, placed, careful=careful)))
        self._record(column, placed)

    def _record(self, column: int, placed: list[tuple[int, int]]) -> None:
        for row, shift in placed:
            self.load[row] += 1
            self.edges.append((row, column, shift))
            for other, its_shift in placed:
                if other != row:
                    self.differences[row][other].append((shift - its_shift) % self.recipe.lifting)

    def _shift(self, row: int, placed: list[tuple[int, int]], *, careful: bool) -> int:
        size = self.recipe.lifting
        cost = np.zeros(size, dtype=np.int64)
        for other, its_shift in placed:
            closed = np.array(self.differences[row][other], dtype=np.int64)
            cost[(closed + its_shift) % size] += 1 << 40
            if careful:
                cost[self.ring.close_shifts(row, other, its_shift)] += 1 << 20
                np.add.at(cost, (self._two_steps(row, other) + its_shift) % size, 1)
        best = np.flatnonzero(cost == cost.min())
        if cost.min() >= 1 << 40:
            raise ValueError(f"recipe {self.recipe.name} leaves no shift without a 4-cycle")
        return int(best[self.draws.below(best.size)])

    def _two_steps(self, row: int, other: int) -> npt.NDArray[np.int64]:
        """Differences between two rows over a third one: a column with such a difference closes a 6-cycle."""
        sums = [
            np.add.outer(np.array(self.differences[row][middle]), np.array(self.differences[middle][other])).reshape(-1)
            for middle in range(self.recipe.rows)
            if self.differences[row][middle] and self.differences[middle][other]
        ]
        return np.concatenate(sums) if sums else np.zeros(0, dtype=np.int64)


def build(recipe: Recipe) -> LdpcCode:
    """Return the code of a recipe.

    Raises:
        ValueError: the recipe has more columns with two edges than rows, or is too dense for its lifting.
    """
    if recipe.degrees.get(2, 0) > recipe.rows:
        raise ValueError(f"recipe {recipe.name} has more columns with two edges than rows")
    return _Builder(recipe).run()


def four_cycles(code: LdpcCode) -> int:
    """Return the number of 4-cycles of the lifted graph per lifted bit: pairs of columns that meet twice."""
    of: dict[int, list[tuple[int, int]]] = {}
    for row, column, shift in code.edges:
        of.setdefault(column, []).append((row, shift))
    seen: dict[tuple[int, int, int], int] = {}
    for edges in of.values():
        for i, (row, shift) in enumerate(edges):
            for other, its_shift in edges[:i]:
                key = (row, other, (shift - its_shift) % code.lifting)
                seen[key] = seen.get(key, 0) + 1
    return sum(count * (count - 1) // 2 for count in seen.values())
