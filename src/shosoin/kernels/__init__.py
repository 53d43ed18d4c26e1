"""One door to the kernels: arithmetic in GF(2^128) on buffers, native where it can be, NumPy where not.

Elements are 16 bytes, little-endian (bit i of the integer is the coefficient of X^i), modulus X^128+X^7+X^2+X+1.
Buffers are bytes-like with a length that is a multiple of 16. Points and weights are public integers below 2^128.
``reference.py`` is the specification; every native path gives the same bytes.

The environment variable ``SHOSOIN_KERNELS`` chooses a path: ``auto`` (default), ``avx512``, ``avx2``, ``portable`` or
``reference``.

>>> from shosoin.kernels import POINTS, combine_into, lagrange_weights, split_into
>>> shares = [bytearray(16) for _ in range(3)]
>>> split_into(b"sixteen byte key", [bytes(range(16))], POINTS[:3], shares)
>>> out = bytearray(16)
>>> combine_into(lagrange_weights([POINTS[2], POINTS[0]]), [shares[2], shares[0]], out)
>>> bytes(out)
b'sixteen byte key'

Security: constant time in data, coefficients, seeds and MAC keys on every native path; the reference avoids tables and
branches on secrets but Python's integers promise nothing.
"""

from shosoin.kernels.digest import Digest, polynomial_mac
from shosoin.kernels.elements import (
    ELEMENT_BYTES,
    POINTS,
    element_inv,
    element_mul,
    element_pow,
    lagrange_weights,
    point_of,
)
from shosoin.kernels.paths import active_path, available_paths
from shosoin.kernels.sharing import (
    combine_into,
    linear_map_into,
    split_generated_into,
    split_into,
    wipe,
    xor_into,
)

__all__ = [
    "ELEMENT_BYTES",
    "POINTS",
    "Digest",
    "active_path",
    "available_paths",
    "combine_into",
    "element_inv",
    "element_mul",
    "element_pow",
    "lagrange_weights",
    "linear_map_into",
    "point_of",
    "polynomial_mac",
    "split_generated_into",
    "split_into",
    "wipe",
    "xor_into",
]
