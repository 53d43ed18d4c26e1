"""The specification of every kernel, in NumPy and generic in the field.

Native kernels equal these functions with ``GF2_128`` bit for bit. Another field may be put in: a small one, to
enumerate every case, or one whose elements are linear forms in the unknowns, to decide what a coalition can learn.
Nothing here branches on a secret or indexes a table by one; Python's integers still promise no constant time.

Source: Shamir, "How to share a secret", Communications of the ACM 22, 1979; Wegman and Carter, "New hash functions
and their use in authentication and set equality", JCSS 22, 1981; layouts in ``docs/specs/kernels.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from shosoin.kernels.fields import GF2_128, Constants, Field, SmallField, Values

__all__ = [
    "GF2_128",
    "Field",
    "SmallField",
    "Values",
    "coefficients_from_seed",
    "evaluate",
    "lagrange_weights",
    "linear_map",
    "power",
    "split",
    "split_generated",
]

_LANES_MAX = 4096


def power(field: Constants, base: int, exponent: int) -> int:
    """Return base^exponent; the exponent is public and not negative."""
    result = 1
    for bit in reversed(range(exponent.bit_length())):
        result = field.multiply(result, result)
        if exponent >> bit & 1:
            result = field.multiply(result, base)
    return result


def lagrange_weights(field: Constants, points: Sequence[int], at: int = 0) -> tuple[int, ...]:
    """Return w with f(at) = sum_i w[i] f(points[i]) for every polynomial f of degree below ``len(points)``.

    Raises:
        ValueError: points are not distinct.
    """
    if len(set(points)) != len(points):
        raise ValueError("evaluation points must be distinct")
    above, below = [], []
    for i, x in enumerate(points):
        numerator = denominator = 1
        for j, other in enumerate(points):
            if j != i:
                numerator = field.multiply(numerator, at ^ other)
                denominator = field.multiply(denominator, x ^ other)
        above.append(numerator)
        below.append(denominator)
    return tuple(map(field.multiply, above, _inverses(field, below)))


def _inverses(field: Constants, constants: Sequence[int]) -> list[int]:
    """Invert all at the cost of one inverse and three products each (Montgomery's trick)."""
    products = [1]
    for constant in constants:
        products.append(field.multiply(products[-1], constant))
    rest = field.inverse(products[-1])
    inverses = []
    for constant, product in zip(reversed(constants), reversed(products[:-1]), strict=True):
        inverses.append(field.multiply(rest, product))
        rest = field.multiply(rest, constant)
    return inverses[::-1]


def linear_map(field: Field, rows: Sequence[Sequence[int]], inputs: Sequence[Values]) -> list[Values]:
    """Return ``sum_i rows[m][i] * inputs[i]`` for every m."""
    outputs = []
    for row in rows:
        total = field.zeros_like(inputs[0])
        for weight, values in zip(row, inputs, strict=True):
            total = field.add(total, field.scale(weight, values))
        outputs.append(total)
    return outputs


def split(field: Field, secret: Values, coefficients: Sequence[Values], points: Sequence[int]) -> list[Values]:
    """Return ``secret + sum_j coefficients[j-1] * x^j`` for every point x, by Horner's rule."""
    shares = []
    for point in points:
        total = field.zeros_like(secret)
        for coefficient in reversed(coefficients):
            total = field.scale(point, field.add(total, coefficient))
        shares.append(field.add(total, secret))
    return shares


def split_generated(
    field: Field, secret: Values, seed: bytes, points: Sequence[int], k: int, *, first_block: int = 0
) -> list[Values]:
    """Return the same with the coefficients that ``seed`` stands for."""
    return split(field, secret, coefficients_from_seed(field, seed, k, len(secret), first_block), points)


def coefficients_from_seed(field: Field, seed: bytes, k: int, count: int, first_block: int = 0) -> list[Values]:
    """Return coefficients 1 to k-1 of ``count`` elements.

    Coefficient j of element e is block ``(first_block + e) * (k-1) + j-1`` of the AES-256-CTR key stream of ``seed``
    with a 128-bit big-endian counter from 0 (NIST SP 800-38A, section 6.5). Zero is as likely as any other value.
    """
    blocks = _key_stream(seed, first_block * (k - 1), count * (k - 1)).reshape(count, k - 1, 16)
    return [field.from_blocks(blocks[:, j]) for j in range(k - 1)]


def _key_stream(seed: bytes, first: int, count: int) -> npt.NDArray[np.uint8]:
    encryptor = Cipher(algorithms.AES256(seed), modes.CTR(first.to_bytes(16, "big"))).encryptor()
    stream = encryptor.update(bytes(16 * count))
    return np.frombuffer(stream, np.uint8) if count else np.empty(0, np.uint8)


def evaluate(field: Field, point: int, values: Values, *, ascending: bool = False) -> Values:
    """Return ``sum_j point^(count-1-j) values[j]``, or with ``ascending`` ``sum_j point^j values[j]``; one element.

    Horner's rule on many lanes at once: zeros in front change nothing, so the values fill rows of a power of two; the
    rows are joined with ``point^lanes``, and then neighbouring lanes are joined until one is left.
    """
    if ascending:
        values = values[::-1]
    lanes = 1
    while lanes < min(len(values), _LANES_MAX):
        lanes *= 2
    total = field.zeros_like(_padded(values[:0], lanes))
    step = power(field, point, lanes)
    for row in _rows(values, lanes):
        total = field.add(field.scale_by_secret(step, total), row)
    while lanes > 1:
        lanes //= 2
        # Lanes l and l + lanes are `lanes` places apart.
        total = field.add(field.scale_by_secret(power(field, point, lanes), total[:lanes]), total[lanes:])
    return total


def _rows(values: Values, lanes: int) -> list[Values]:
    """Cut into rows of ``lanes``, the first padded with zeros in front."""
    ragged = len(values) % lanes
    whole = [values[start : start + lanes] for start in range(ragged, len(values), lanes)]
    return [_padded(values[:ragged], lanes), *whole] if ragged else whole


def _padded(values: Values, lanes: int) -> Values:
    padding = np.zeros((lanes - len(values), *values.shape[1:]), values.dtype)
    return np.concatenate([padding, values])
