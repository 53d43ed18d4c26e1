"""Long products over GF(2) as ``reference_toeplitz`` computes them, on arrays that may live on a GPU.

A Fourier transform in double precision and exact rounding: the bound of the reference holds for every transform whose
error grows with the logarithm of its size, as those of all libraries do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from shosoin.kernels.arrays import Arrays
from shosoin.kernels.buffers import Buffer, contents

__all__ = ["ArrayToeplitz"]


class ArrayToeplitz:
    """A family of kernels like ``ReferenceToeplitz``; sizes are right."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def toeplitz_into(self, key: Buffer, key_bits: int, seed: Buffer, output: Buffer, output_bits: int) -> None:
        """Write ``output[i] = XOR_j seed[i - j + key_bits - 1] & key[j]``."""
        product = self._product(_bits(key, key_bits), _bits(seed, key_bits + output_bits - 1))
        contents(output, writable=True)[:] = np.packbits(product[key_bits - 1 :][:output_bits], bitorder="little")

    def product_into(self, a: Buffer, b: Buffer, output: Buffer) -> None:
        """Write the product of two polynomials, as long as both together."""
        target = contents(output, writable=True)
        target[:] = 0
        left, right = _bits(a), _bits(b)
        if left.size and right.size:
            packed = np.packbits(self._product(left, right), bitorder="little")
            target[: packed.size] = packed

    def _product(self, a: Any, b: Any) -> Any:
        xp, put = self._arrays.xp, self._arrays.put
        size = a.size + b.size - 1
        points = 1 << max(1, size - 1).bit_length()
        spectrum = xp.fft.rfft(put(a.astype(np.float64)), n=points) * xp.fft.rfft(put(b.astype(np.float64)), n=points)
        counts = xp.astype(xp.round(xp.fft.irfft(spectrum, n=points)[:size]), xp.int64)
        return self._arrays.get(xp.astype(counts % 2, xp.uint8))


def _bits(buffer: Buffer, count: int | None = None) -> Any:
    return np.unpackbits(contents(buffer), count=count, bitorder="little")
