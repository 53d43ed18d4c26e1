"""Products of long polynomials over GF(2), and Toeplitz matrices times vectors: what privacy amplification computes.

Bit i of a bit string is bit ``i % 8`` of byte ``i // 8`` and the coefficient of X^i. Native paths multiply by an
additive Fourier transform over GF(2^64) (``docs/concepts/kernels.md``); ``reference_toeplitz`` is the specification.

>>> from shosoin.kernels import toeplitz_into
>>> output = bytearray(1)
>>> toeplitz_into(bytes([0b101]), 3, bytes([0b01101]), output, 2)  # rows 101 and 110
>>> bin(output[0])
'0b10'
"""

from __future__ import annotations

from typing import Protocol

from shosoin.kernels import paths
from shosoin.kernels.array_toeplitz import ArrayToeplitz
from shosoin.kernels.arrays import arrays_in_use
from shosoin.kernels.buffers import Buffer, size_bytes
from shosoin.kernels.reference_toeplitz import ReferenceToeplitz

__all__ = ["PRODUCT_BITS_MAX", "binary_product_into", "toeplitz_into"]

PRODUCT_BITS_MAX = 1 << 30
"""The most bits a factor may have: of a Toeplitz product the seed's, of a plain one each factor's."""


class Products(Protocol):
    """Long products on one path."""

    def toeplitz_into(self, key: Buffer, key_bits: int, seed: Buffer, output: Buffer, output_bits: int) -> None:
        """As the function of this module; sizes are right."""

    def product_into(self, a: Buffer, b: Buffer, output: Buffer) -> None:
        """As ``binary_product_into``; sizes are right."""


def toeplitz_into(key: Buffer, key_bits: int, seed: Buffer, output: Buffer, output_bits: int) -> None:
    """Write ``output[i] = XOR_j seed[i - j + key_bits - 1] & key[j]`` for 0 <= i < output_bits.

    Args:
        key: ``key_bits`` bits, at least one, in as few bytes as they fit; bits beyond them are ignored.
        key_bits: the columns of the matrix.
        seed: ``key_bits + output_bits - 1`` bits, at most 2^30, likewise: the diagonals, beginning top right.
        output: ``output_bits`` bits, at least one, likewise; bits beyond them become zero. It overlaps no other buffer.
        output_bits: the rows.

    Raises:
        TypeError: something is no buffer.
        ValueError: sizes do not fit, or a buffer is not contiguous, not writable or overlaps another.
        MemoryError: the scratch memory, up to 16 bits for each bit of the seed (natively), is not there.

    Security: natively no branch and no address depends on a bit of the key or the seed, and scratch memory is wiped.
    The reference promises neither.
    """
    if key_bits < 1 or output_bits < 1:
        raise ValueError(f"got {key_bits} bits of key and {output_bits} bits of output, expected at least 1 of each")
    if key_bits + output_bits - 1 > PRODUCT_BITS_MAX:
        raise ValueError(f"got {key_bits + output_bits - 1} bits of seed, expected at most {PRODUCT_BITS_MAX}")
    _check_size("the key", key, key_bits)
    _check_size("the seed", seed, key_bits + output_bits - 1)
    _check_size("the output", output, output_bits)
    _products().toeplitz_into(key, key_bits, seed, output, output_bits)


def binary_product_into(a: Buffer, b: Buffer, output: Buffer) -> None:
    """Write the product of two polynomials over GF(2), without carries.

    Args:
        a: coefficients, at most 2^30.
        b: likewise.
        output: as many bytes as both factors have; the topmost bit becomes zero. It overlaps no other buffer.

    Raises:
        TypeError: something is no buffer.
        ValueError: sizes do not fit, or a buffer is not contiguous, not writable or overlaps another.
        MemoryError: the scratch memory, up to 16 bits for each bit of output (natively), is not there.

    Security: as ``toeplitz_into``.
    """
    sizes = size_bytes(a), size_bytes(b)
    if max(sizes) * 8 > PRODUCT_BITS_MAX:
        raise ValueError(f"got factors of {sizes[0]} and {sizes[1]} bytes, expected at most {PRODUCT_BITS_MAX // 8}")
    _check_size("the output", output, sum(sizes) * 8)
    _products().product_into(a, b, output)


def _products() -> Products:
    arrays = arrays_in_use()
    if arrays is not None:
        return ArrayToeplitz(arrays)
    return paths.family("Toeplitz", ReferenceToeplitz)


def _check_size(what: str, buffer: Buffer, bits: int) -> None:
    expected = (bits + 7) // 8
    if size_bytes(buffer) != expected:
        raise ValueError(f"got {size_bytes(buffer)} bytes for {what}, expected {expected} for {bits} bits")
