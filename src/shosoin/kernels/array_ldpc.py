"""The layered decoder of ``reference_ldpc`` for many frames at once, on arrays that may live on a GPU.

Frames of one code with the same magnitudes are decoded side by side: every step works on arrays of shape (frames, Z),
so that a GPU has enough to do. Each frame comes out as the reference decodes it alone, bit for bit and in as many
iterations; those that are finished are carried along and not looked at again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from shosoin.kernels.arrays import Arrays
from shosoin.kernels.buffers import Buffer, contents
from shosoin.kernels.reference_ldpc import CORRECTION, GROUP_EDGES, MESSAGE_MAX, NO_EDGE

__all__ = ["ArrayLdpc"]

Array = Any  # of the namespace in use
_LEFT_OUT = 32767
Decoded = tuple[bytes, int, bool]
Edges = list[tuple[int, int]]


@dataclass(slots=True)
class _State:
    """What changes while frames are decoded."""

    posteriors: list[Array]
    """Per base column, shape (frames, Z)."""
    messages: list[list[Array]] = field(default_factory=list)
    """Per base row and edge."""


class ArrayLdpc:
    """Decodes; syndromes are best computed where the bits are."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays
        self._xp = arrays.xp
        self._table = arrays.put(CORRECTION.astype(np.int32))

    def decode_many(
        self,
        rows: int,
        lifting: int,
        edges: bytes,
        magnitudes: bytes,
        syndromes: Sequence[Buffer],
        iterations_max: int,
    ) -> list[Decoded]:
        """Return for each syndrome what ``ReferenceLdpcKernels.decode`` returns for it alone.

        Raises:
            ValueError: there are no syndromes, or a check has two edges to one column.
        """
        if not syndromes:
            raise ValueError("got no syndrome, expected at least one frame")
        put, frames = self._arrays.put, len(syndromes)
        prior = np.frombuffer(magnitudes, dtype="<i2").astype(np.int32)
        layers = _layers(rows, edges, prior)
        wanted = np.stack([_unpack(syndrome, lifting) for syndrome in syndromes])
        targets = [put(wanted[:, row].astype(bool)) for row in range(rows)]
        whole = np.ones((frames, lifting), np.int32)
        state = _State([put(whole * value) for value in prior])
        state.messages = [[put(whole * 0) for _ in layer] for layer in layers]
        found: dict[int, Decoded] = {}
        for iteration in range(1, iterations_max + 1):
            for row, layer in enumerate(layers):
                if layer:
                    self._update(state, row, layer, targets[row])
            errors = [posterior < 0 for posterior in state.posteriors]
            right = self._arrays.get(self._matches(layers, errors, targets))
            last = iteration == iterations_max
            chosen = [n for n in range(frames) if n not in found and (last or right[n])]
            if chosen:
                bits = np.stack([self._arrays.get(block) for block in errors], axis=1)
                found |= {n: (_pack(bits[n]), iteration, bool(right[n])) for n in chosen}
            if len(found) == frames:
                break
        return [found[n] for n in range(frames)]

    def _update(self, state: _State, row: int, layer: Edges, odd: Array) -> None:
        """Pass one layer: change posteriors and messages."""
        xp = self._xp
        old = state.messages[row]
        extrinsic = [
            xp.roll(state.posteriors[column], -shift, axis=1) - message
            for (column, shift), message in zip(layer, old, strict=True)
        ]
        sizes = [self._at_most(xp.abs(value), MESSAGE_MAX) for value in extrinsic]
        parity = odd
        for value in extrinsic:
            parity = xp.logical_xor(parity, value < 0)
        least, others = self._combine(sizes)
        every = self._box_plus(others, least)
        for edge, (column, shift) in enumerate(layer):
            size = self._at_most(xp.where(sizes[edge] == least, others, every), MESSAGE_MAX)
            message = xp.where(xp.logical_xor(extrinsic[edge] < 0, parity), -size, size)
            old[edge] = message
            state.posteriors[column] = xp.roll(extrinsic[edge] + message, shift, axis=1)

    def _combine(self, sizes: list[Array]) -> tuple[Array, Array]:
        """Return the least magnitude of each check and the box-plus of all others (``NO_EDGE`` if there is none)."""
        xp = self._xp
        total: tuple[Array, Array] | None = None
        for start in range(0, len(sizes), GROUP_EDGES):
            least = sizes[start]
            others = xp.full_like(least, NO_EDGE)
            for value in sizes[start + 1 : start + GROUP_EDGES]:
                others = self._box_plus(others, xp.maximum(least, value))
                least = xp.minimum(least, value)
            if total is not None:
                others = self._box_plus(self._box_plus(total[1], others), xp.maximum(total[0], least))
                least = xp.minimum(total[0], least)
            total = (least, others)
        if total is None:
            raise ValueError("a check needs an edge")
        return total

    def _box_plus(self, a: Array, b: Array) -> Array:
        xp = self._xp
        size = xp.minimum(a, b) - self._correction(xp.abs(a - b)) + self._correction(a + b)
        return xp.where(size < 0, xp.zeros_like(size), size)

    def _correction(self, distance: Array) -> Array:
        xp = self._xp
        near = xp.reshape(self._at_most(distance, len(CORRECTION) - 1), (-1,))
        return xp.reshape(xp.take(self._table, near, axis=0), distance.shape)

    def _at_most(self, values: Array, limit: int) -> Array:
        return self._xp.where(values > limit, self._xp.full_like(values, limit), values)

    def _matches(self, layers: list[Edges], errors: list[Array], targets: list[Array]) -> Array:
        """Return of each frame whether its errors have its syndrome."""
        xp = self._xp
        wrong = None
        for layer, target in zip(layers, targets, strict=True):
            parity = target
            for column, shift in layer:
                parity = xp.logical_xor(parity, xp.roll(errors[column], -shift, axis=1))
            some = xp.any(parity, axis=1)
            wrong = some if wrong is None else xp.logical_or(wrong, some)
        return xp.logical_not(wrong)


def _layers(rows: int, edges: bytes, prior: npt.NDArray[np.int32]) -> list[Edges]:
    table = np.frombuffer(edges, dtype="<u2").reshape(-1, 3).astype(np.int64)
    used = table[prior[table[:, 1]] != _LEFT_OUT]
    layers = [[(column, shift) for _, column, shift in used[used[:, 0] == row].tolist()] for row in range(rows)]
    if any(len({column for column, _ in layer}) < len(layer) for layer in layers):
        raise ValueError("a check must not have two edges to one column")
    return layers


def _unpack(bits: Buffer, lifting: int) -> npt.NDArray[np.uint8]:
    return np.unpackbits(contents(bits), bitorder="little").reshape(-1, lifting)


def _pack(bits: npt.NDArray[np.bool_]) -> bytes:
    return np.packbits(bits.reshape(-1), bitorder="little").tobytes()
