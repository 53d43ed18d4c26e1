"""The reference kernels on buffers: slower than the native ones, equal to them bit for bit, and always there."""

from __future__ import annotations

import numpy as np

from shosoin.kernels import reference
from shosoin.kernels.buffers import Buffer, check_shapes, check_xor, contents
from shosoin.kernels.fields import GF2_128, Values
from shosoin.kernels.reference_key_ids import ReferenceKeyIds

__all__ = ["NumpyKernels"]


_BLOCKS_MAX = 1 << 56


def _elements(packed: bytes) -> list[int]:
    return [int.from_bytes(packed[at : at + 16], "little") for at in range(0, len(packed), 16)]


def _packed(element: int) -> bytes:
    return element.to_bytes(16, "little")


def _read(inputs: list[Buffer], outputs: list[Buffer]) -> list[Values]:
    arrays = [contents(buffer) for buffer in inputs]
    check_shapes(arrays, [contents(buffer, writable=True) for buffer in outputs])
    return [GF2_128.from_bytes(array) for array in arrays]


def _write(outputs: list[Buffer], values: list[Values]) -> None:
    for output, value in zip(outputs, values, strict=True):
        contents(output, writable=True)[:] = GF2_128.to_bytes(value)


class NumpyKernels:
    """The path named ``reference``."""

    name = "reference"

    def multiply(self, a: bytes, b: bytes) -> bytes:
        """Return a * b."""
        return _packed(GF2_128.multiply(_elements(a)[0], _elements(b)[0]))

    def power(self, base: bytes, exponent: bytes) -> bytes:
        """Return base^exponent."""
        return _packed(reference.power(GF2_128, _elements(base)[0], _elements(exponent)[0]))

    def linear_map_into(self, weights: bytes, inputs: list[Buffer], outputs: list[Buffer]) -> None:
        """Write sums of products."""
        values = _read(inputs, outputs)
        constants = _elements(weights)
        rows = [constants[start : start + len(inputs)] for start in range(0, len(constants), len(inputs))]
        _write(outputs, reference.linear_map(GF2_128, rows, values))

    def split_into(self, points: bytes, inputs: list[Buffer], outputs: list[Buffer]) -> None:
        """Write shares."""
        secret, *coefficients = _read(inputs, outputs)
        _write(outputs, reference.split(GF2_128, secret, coefficients, _elements(points)))

    def split_generated_into(
        self, points: bytes, k: int, seed: Buffer, first: int, secret: list[Buffer], outputs: list[Buffer]
    ) -> None:
        """Write shares with generated coefficients."""
        (values,) = _read(secret, outputs)
        key = contents(seed)
        if key.size != 32:
            raise ValueError(f"got a seed of {key.size} bytes, expected 32")
        if first > _BLOCKS_MAX - len(values):
            raise ValueError("first_block and the elements must not exceed 2^56")
        shares = reference.split_generated(GF2_128, values, key.tobytes(), _elements(points), k, first_block=first)
        _write(outputs, shares)

    def evaluate(self, point: bytes, data: Buffer, ascending: bool) -> bytes:
        """Return the value of a polynomial."""
        array = contents(data)
        if array.size % 16:
            raise ValueError(f"got {array.size} bytes, expected a multiple of 16")
        if not array.size:
            return bytes(16)
        values = GF2_128.from_bytes(array)
        value = reference.evaluate(GF2_128, _elements(point)[0], values, ascending=ascending)
        return GF2_128.to_bytes(value).tobytes()

    def xor_into(self, a: Buffer, b: Buffer, output: Buffer) -> None:
        """Write a + b."""
        x, y, to = contents(a), contents(b), contents(output, writable=True)
        check_xor(x, y, to)
        np.bitwise_xor(x, y, out=to)

    def wipe(self, buffer: Buffer) -> None:
        """Write zeros."""
        contents(buffer, writable=True)[:] = 0

    def key_ids(self, secret: bytes) -> ReferenceKeyIds:
        """Return what makes and reads the IDs of one stream."""
        return ReferenceKeyIds(secret)
