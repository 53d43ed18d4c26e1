"""Quasi-cyclic LDPC codes in NumPy: the syndrome, and the layered decoder that every native path repeats bit for bit.

A code is a base matrix whose entries are shifts: check ``i`` of base row ``r`` holds, for each edge ``(r, c, s)``, bit
``(i + s) mod Z`` of base column ``c``. The decoder looks for the error pattern with a given syndrome. It works in whole
numbers, eight to the nat: posteriors of 16 bits, messages of at most 127, and the box-plus
``a + b = min(a, b) - c(|a - b|) + c(a + b)`` with ``c(x) = ln(1 + e^-x)`` from a table of 64 bytes.
A check answers its weakest edges with the box-plus of all the others, and the rest with the box-plus of all edges
(A-min*, Jones et al., "Approximate-MIN* constraint node updating for LDPC code decoding", MILCOM 2003), so what a check
remembers is two magnitudes and two bits an edge. Rows are layers: each uses what the one before found out.

Time depends on the code, the magnitudes and the number of iterations, which can be seen. Here, corrections come from
memory at places that depend on messages; the native paths do without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CORRECTION", "GROUP_EDGES", "MESSAGE_MAX", "NO_EDGE", "UNITS_PER_NAT", "ReferenceLdpcKernels", "box_plus"]

UNITS_PER_NAT = 8
MESSAGE_MAX = 127
GROUP_EDGES = 8
"""Edges of a check are combined in groups of so many, then the groups: sums of rounded numbers stay accurate."""

NO_EDGE = 255
"""No edge yet: the neutral element of the box-plus."""

CORRECTION: npt.NDArray[np.int32] = np.array(
    [round(float(np.log1p(np.exp(-x / UNITS_PER_NAT))) * UNITS_PER_NAT) for x in range(63)] + [0], dtype=np.int32
)

Array = npt.NDArray[Any]


def box_plus(a: Array, b: Array) -> Array:
    """Return the magnitude of the parity of two bits from their magnitudes, 0 to 127, or 255 for "no bit"."""
    near = CORRECTION[np.minimum(np.abs(a - b), 63)]
    far = CORRECTION[np.minimum(a + b, 63)]
    result: Array = np.maximum(np.minimum(a, b) - near + far, 0)
    return result


class ReferenceLdpcKernels:
    """The specification."""

    def syndrome(self, rows: int, lifting: int, edges: bytes, bits: Any) -> bytes:
        """Return the parity of every check, ``rows * lifting`` bits packed little-endian.

        Args:
            rows: base rows.
            lifting: Z, bits of a block; a multiple of 8 (native paths: of 512).
            edges: little-endian 16-bit triples (row, column, shift), sorted by row.
            bits: packed bits of all columns, whole blocks.
        """
        blocks = _unpack(bits, lifting)
        return _pack(self._parities(rows, lifting, _edges(edges), blocks))

    def decode(
        self, rows: int, lifting: int, edges: bytes, magnitudes: bytes, syndrome: Any, iterations_max: int
    ) -> tuple[bytes, int, bool]:
        """Return the likeliest error pattern found, the iterations used, and whether it has the wanted syndrome.

        Args:
            magnitudes: little-endian 16-bit, one a base column: how sure it is that its bits are zero, in 1/8 nat,
                0 to 127; 0 for bits of which nothing is known. A column with 32767 is zero and left out.
            syndrome: packed, ``rows * lifting`` bits.
        """
        table = _edges(edges)
        prior = np.frombuffer(magnitudes, dtype="<i2").astype(np.int32)
        used = table[prior[table[:, 1]] != 32767]
        layers = [used[used[:, 0] == row] for row in range(rows)]
        wanted = _unpack(syndrome, lifting)
        posterior = np.repeat(prior[:, None], lifting, axis=1)
        messages = [np.zeros((len(layer), lifting), dtype=np.int32) for layer in layers]
        signs = [row.astype(bool) for row in wanted]
        errors = np.zeros(posterior.shape, dtype=np.uint8)
        for iteration in range(1, iterations_max + 1):
            for row, layer in enumerate(layers):
                if len(layer):
                    messages[row] = self._update(layer, lifting, posterior, messages[row], signs[row])
            errors = (posterior < 0).astype(np.uint8)
            if np.array_equal(self._parities(rows, lifting, used, errors), wanted):
                return _pack(errors), iteration, True
        return _pack(errors), iterations_max, False

    def _update(self, layer: Array, lifting: int, posterior: Array, old: Array, odd: Array) -> Array:
        """Pass one layer: change ``posterior`` in place, return the new messages."""
        extrinsic = np.stack([np.roll(posterior[column], -shift) for column, shift in layer[:, 1:].tolist()]) - old
        magnitude = np.minimum(np.abs(extrinsic), MESSAGE_MAX)
        negative = extrinsic < 0
        least, others = self._combine(list(magnitude))
        every = box_plus(others, least)
        size = np.minimum(np.where(magnitude == least, others, every), MESSAGE_MAX)
        parity = odd ^ (negative.sum(axis=0) % 2).astype(bool)
        new = np.where(negative ^ parity, -size, size)
        updated = extrinsic + new
        for edge, (column, shift) in enumerate(layer[:, 1:].tolist()):
            posterior[column] = np.roll(updated[edge], shift)
        return new

    def _combine(self, magnitudes: Sequence[Array]) -> tuple[Array, Array]:
        """Return the least magnitude of each check and the box-plus of all the others (255 if there is none)."""
        total: tuple[Array, Array] | None = None
        for start in range(0, len(magnitudes), GROUP_EDGES):
            least = magnitudes[start]
            others = np.full_like(least, NO_EDGE)
            for value in magnitudes[start + 1 : start + GROUP_EDGES]:
                others = box_plus(others, np.maximum(least, value))
                least = np.minimum(least, value)
            if total is not None:
                others = box_plus(box_plus(total[1], others), np.maximum(total[0], least))
                least = np.minimum(total[0], least)
            total = (least, others)
        if total is None:
            raise ValueError("a check needs an edge")
        return total

    @staticmethod
    def _parities(rows: int, lifting: int, edges: Array, blocks: Array) -> Array:
        parities = np.zeros((rows, lifting), dtype=np.uint8)
        for row, column, shift in edges.tolist():
            parities[row] ^= np.roll(blocks[column], -shift)
        return parities


def _edges(edges: bytes) -> npt.NDArray[np.int64]:
    return np.frombuffer(edges, dtype="<u2").reshape(-1, 3).astype(np.int64)


def _unpack(bits: Any, lifting: int) -> npt.NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(bits, dtype=np.uint8), bitorder="little").reshape(-1, lifting)


def _pack(bits: npt.NDArray[np.uint8]) -> bytes:
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()
