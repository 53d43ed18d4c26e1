"""One door to the kernels: arithmetic in GF(2^128) on buffers and key_IDs; native where it can be, NumPy where not.

An element is 16 bytes, little-endian: bit i is the coefficient of X^i, modulo X^128 + X^7 + X^2 + X + 1. Buffers are
contiguous (bytes, bytearray, memoryview, NumPy array, mmap) and hold whole elements; outputs are the caller's.
``SHOSOIN_KERNELS`` in the environment forces a path: ``auto`` (the default), ``native``, ``avx512``, ``avx2``,
``portable`` or ``reference``. ``shosoin.kernels.reference`` is the specification; every path gives the same bytes.
Bulk functions let other threads run.

>>> from shosoin.kernels import POINTS, combine_into, lagrange_weights, split_into
>>> coefficient = bytes(range(16))  # in earnest: uniform, secret, used once
>>> shares = [bytearray(16) for _ in range(3)]
>>> split_into(b"sixteen byte key", [coefficient], POINTS[:3], shares)
>>> secret = bytearray(16)
>>> combine_into(lagrange_weights([POINTS[2], POINTS[0]]), [shares[2], shares[0]], secret)
>>> bytes(secret)
b'sixteen byte key'
"""

from shosoin.kernels.buffers import Buffer, new_buffer
from shosoin.kernels.elements import (
    ELEMENT_BYTES,
    POINTS,
    element_inv,
    element_mul,
    element_pow,
    lagrange_weights,
    point_of,
)
from shosoin.kernels.key_ids import KEY_ID_SECRET_BYTES, KeyIds, key_ids
from shosoin.kernels.paths import active_path, available_paths
from shosoin.kernels.polynomials import Digest, PolynomialMac, digest, polynomial_mac
from shosoin.kernels.sharing import (
    combine_into,
    linear_map_into,
    split_generated_into,
    split_into,
    wipe,
    xor_into,
)
from shosoin.kernels.toeplitz import binary_product_into, toeplitz_into

__all__ = [
    "ELEMENT_BYTES",
    "KEY_ID_SECRET_BYTES",
    "POINTS",
    "Buffer",
    "Digest",
    "KeyIds",
    "PolynomialMac",
    "active_path",
    "available_paths",
    "binary_product_into",
    "combine_into",
    "digest",
    "element_inv",
    "element_mul",
    "element_pow",
    "key_ids",
    "lagrange_weights",
    "linear_map_into",
    "new_buffer",
    "point_of",
    "polynomial_mac",
    "split_generated_into",
    "split_into",
    "toeplitz_into",
    "wipe",
    "xor_into",
]
