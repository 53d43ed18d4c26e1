"""Build a quasi-cyclic LDPC code from its column degrees: even rows, no 4-cycle, few 6-cycles.

Columns are placed from light to heavy, as in progressive edge growth (Hu, Eleftheriou, Arnold, IEEE Trans. IT 51, 386,
2005). Rows are filled evenly. A shift is drawn among those that close no cycle of length 4 in the lifted graph, and
close the fewest of length 6. Everything is whole numbers and one generator, so that the same recipe gives the same
table anywhere.
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


class _Builder:
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.draws = _Draws(recipe.name)
        self.load = [0] * recipe.rows
        self.differences: list[list[list[int]]] = [[[] for _ in range(recipe.rows)] for _ in range(recipe.rows)]
        self.edges: list[Edge] = []

    def run(self) -> LdpcCode:
        recipe = self.recipe
        degrees = sorted(degree for degree, count in recipe.degrees.items() for _ in range(count))
        places = self.draws.shuffled(recipe.columns)
        ring = self.draws.shuffled(recipe.rows)
        for index, (degree, column) in enumerate(zip(degrees, places, strict=True)):
            rows = self._chain(ring, index) if degree == 2 else self._lightest(degree)
            self._place(column, rows, careful=degree <= _CAREFUL_DEGREE_MAX)
        return LdpcCode(recipe.name, recipe.rows, recipe.columns, recipe.lifting, tuple(sorted(self.edges)))

    @staticmethod
    def _chain(ring: list[int], index: int) -> list[int]:
        """Two neighbours on a ring of rows, then two that are further apart: few short cycles of light columns."""
        turn, at = divmod(index, len(ring))
        return [ring[at], ring[(at + 1 + turn) % len(ring)]]

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
        ValueError: the recipe is too dense for its lifting.
    """
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
