"""The specification of long products over GF(2): polynomials, and Toeplitz matrices by way of them.

Bit i of a bit string is bit ``i % 8`` of byte ``i // 8``; it is the coefficient of X^i. A Toeplitz matrix is constant
along its diagonals, so it times a vector is a slice of the product of two polynomials. That product is the ordinary one
over the integers, coefficient by coefficient, modulo 2; and convolutions of integers come from a Fourier transform in
floating point, rounded.

Rounding is exact. With at most n ones in a factor and transforms of N points, the error of a coefficient in double
precision stays below about ``20 n log2(N) 2**-53`` (Brent, Percival and Zimmermann, "Error bounds on complex
floating-point multiplication", Mathematics of Computation 76, 2007), which for the longest strings
accepted here, 2^30 bits, is 10^-4; half an integer would be too much.

What it does not do: run in constant time, or in little memory (about 60 bytes for a bit).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shosoin.kernels.buffers import Buffer, contents

__all__ = ["ReferenceToeplitz", "product_bits"]

Bits = npt.NDArray[np.uint8]


class ReferenceToeplitz:
    """Long products in NumPy. Callers have checked sizes."""

    def toeplitz_into(self, key: Buffer, key_bits: int, seed: Buffer, output: Buffer, output_bits: int) -> None:
        """Write ``output[i] = XOR_j seed[i - j + key_bits - 1] & key[j]``."""
        target = _apart(output, key, seed)
        product = product_bits(_bits(key, key_bits), _bits(seed, key_bits + output_bits - 1))
        target[:] = np.packbits(product[key_bits - 1 :][:output_bits], bitorder="little")

    def product_into(self, a: Buffer, b: Buffer, output: Buffer) -> None:
        """Write the product of two polynomials, as long as both together."""
        target = _apart(output, a, b)
        packed = np.packbits(product_bits(_bits(a), _bits(b)), bitorder="little")
        target[: packed.size] = packed
        target[packed.size :] = 0


def product_bits(a: Bits, b: Bits) -> Bits:
    """Return the coefficients of the product of two polynomials over GF(2), given and returned one to a byte."""
    if not a.size or not b.size:
        return np.empty(0, np.uint8)
    size = a.size + b.size - 1
    points = 1 << max(1, size - 1).bit_length()
    spectrum = np.fft.rfft(a, points)
    spectrum *= np.fft.rfft(b, points)
    counts: Bits = (np.rint(np.fft.irfft(spectrum, points)[:size]).astype(np.int64) & 1).astype(np.uint8)
    return counts


def _bits(buffer: Buffer, count: int | None = None) -> Bits:
    return np.unpackbits(contents(buffer), count=count, bitorder="little")


def _apart(output: Buffer, *inputs: Buffer) -> Bits:
    target = contents(output, writable=True)
    if any(np.may_share_memory(target, contents(one)) for one in inputs):
        raise ValueError("the output must not overlap another buffer")
    return target
