"""Whether both ends hold the same block: one hash under a function drawn after the receiver had corrected it.

The block, read as elements of GF(2^128), is a polynomial; its value at a random point r, times a random factor a, cut
to t bits. Two different blocks of L elements have one value at r except with probability (L-1)/2^128, and where they
differ there, the products agree in t bits with probability 2^-t. So two different blocks pass with probability at most

    (L-1)/2^128 + 2^-t

which ``hash_bits`` keeps at or below ``eps_cor``. The function is public and the hash is sent in clear: its t bits are
a leak, and the proofs subtract log2(2/eps_cor) for it. What t is above that is added to the counted leak.

Source: Carter and Wegman, JCSS 18, 1979 (composition of universal classes); Lim et al. 2014, equation (1).
"""

from __future__ import annotations

import hmac
import math

import numpy as np
import numpy.typing as npt

from shosoin.kernels import digest, element_mul

__all__ = [
    "FUNCTION_BYTES",
    "HASH_BITS_MAX",
    "collision_probability",
    "excess_bits",
    "hash_bits",
    "hash_block",
    "hashes_agree",
]

FUNCTION_BYTES = 32
HASH_BITS_MAX = 128
_ELEMENT_BITS = 128


def collision_probability(block_bits: int, bits: int) -> float:
    """Return the chance that two different blocks of that length have one hash of ``bits`` bits."""
    elements = -(-block_bits // _ELEMENT_BITS)
    return (max(elements, 1) - 1) * 2.0**-128 + 2.0**-bits


def hash_bits(block_bits: int, eps_cor: float) -> int:
    """Return the shortest hash that keeps two different blocks apart except with probability ``eps_cor``.

    Raises:
        ValueError: no hash of at most 128 bits does.
    """
    for bits in range(max(1, math.floor(-math.log2(eps_cor))), HASH_BITS_MAX + 1):
        if collision_probability(block_bits, bits) <= eps_cor:
            return bits
    raise ValueError(f"eps_cor {eps_cor} is out of reach for blocks of {block_bits} bits")


def excess_bits(block_bits: int, eps_cor: float) -> int:
    """Return the bits of the hash that log2(2/eps_cor) does not cover."""
    return max(0, hash_bits(block_bits, eps_cor) - math.floor(math.log2(2 / eps_cor)))


def hash_block(block: npt.NDArray[np.uint8], function: bytes, bits: int) -> bytes:
    """Return the hash of a packed block, packed.

    Args:
        block: packed bits; both ends know how many, so that zeros at the end change nothing.
        function: 32 public bytes, drawn after both ends had fixed their block.
        bits: length of the hash.
    """
    if len(function) != FUNCTION_BYTES:
        raise ValueError(f"got a function of {len(function)} bytes, expected {FUNCTION_BYTES}")
    raw = block.tobytes()
    value = int.from_bytes(digest(function[:16], raw + bytes(-len(raw) % 16)), "little")
    product = element_mul(value, int.from_bytes(function[16:], "little"))
    return (product & ((1 << bits) - 1)).to_bytes((bits + 7) // 8, "little")


def hashes_agree(one: bytes, other: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(one, other)
