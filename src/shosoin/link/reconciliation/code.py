"""Quasi-cyclic LDPC codes: what a table says, and how it is written.

A table is text: a line of facts, then a line for each base column with its edges ``row:shift``. What a shift means is
in :mod:`shosoin.kernels.reference_ldpc`. The tables of the package are data beside this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np

__all__ = ["Edge", "LdpcCode", "code_from_text", "code_named", "code_to_text", "edges_of"]

Edge = tuple[int, int, int]
_FORMAT = "shosoin-qc-ldpc-1"


@dataclass(frozen=True, slots=True)
class LdpcCode:
    """A parity-check matrix of ``rows * lifting`` checks on ``columns * lifting`` bits.

    Raises:
        ValueError: an edge outside the matrix, or two at one place.
    """

    name: str
    rows: int
    columns: int
    lifting: int
    edges: tuple[Edge, ...]
    """(row, column, shift), sorted."""

    def __post_init__(self) -> None:
        table = np.array(self.edges, dtype=np.int64).reshape(-1, 3)
        limits = np.array([self.rows, self.columns, self.lifting])
        if not np.all((table >= 0) & (table < limits)) or self.edges != tuple(sorted(self.edges)):
            raise ValueError(f"code {self.name} has an edge outside its matrix, or unsorted edges")
        if len({edge[:2] for edge in self.edges}) != len(self.edges):
            raise ValueError(f"code {self.name} has two edges at one place")

    @property
    def bits(self) -> int:
        """Bits of a frame, payload and others."""
        return self.columns * self.lifting

    @property
    def syndrome_bits(self) -> int:
        """Bits of a syndrome."""
        return self.rows * self.lifting

    def packed_edges(self) -> bytes:
        """Return the edges as the kernels take them."""
        return np.array(self.edges, dtype="<u2").tobytes()

    def untainted_columns(self) -> tuple[int, ...]:
        """Return columns no two of which share a check, weak ones first: any of them may be punctured together.

        Their part of the matrix has full column rank, since each has a check of its own.
        """
        of: dict[int, set[int]] = {}
        for row, column, _ in self.edges:
            of.setdefault(column, set()).add(row)
        chosen: list[int] = []
        taken: set[int] = set()
        for column in sorted(of, key=lambda c: (len(of[c]), c)):
            if not of[column] & taken:
                chosen.append(column)
                taken |= of[column]
        return tuple(chosen)


def code_to_text(code: LdpcCode) -> str:
    """Return the table of a code."""
    lines = [f"{_FORMAT} {code.name} {code.rows} {code.columns} {code.lifting}"]
    of: list[list[str]] = [[] for _ in range(code.columns)]
    for row, column, shift in code.edges:
        of[column].append(f"{row}:{shift}")
    return "\n".join([*lines, *(" ".join(edges) for edges in of)]) + "\n"


def code_from_text(text: str) -> LdpcCode:
    """Read a table.

    Raises:
        ValueError: it is none.
    """
    first, *lines = text.splitlines()
    form, name, rows, columns, lifting = first.split()
    if form != _FORMAT or len(lines) != int(columns):
        raise ValueError(f"expected a table of format {_FORMAT}")
    edges = [
        (int(row), column, int(shift))
        for column, line in enumerate(lines)
        for row, shift in (edge.split(":") for edge in line.split())
    ]
    return LdpcCode(name, int(rows), int(columns), int(lifting), tuple(sorted(edges)))


@cache
def code_named(name: str) -> LdpcCode:
    """Return a code of the package."""
    return code_from_text(files("shosoin.link.reconciliation.codes").joinpath(f"{name}.txt").read_text("ascii"))


@cache
def edges_of(name: str) -> bytes:
    """Return the edges of a code of the package as the kernels take them."""
    return code_named(name).packed_edges()
