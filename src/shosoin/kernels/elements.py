"""Single elements: points, products, inverses, interpolation weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from shosoin.kernels.paths import NATIVE, PATH
from shosoin.kernels.reference import GF2_128

__all__ = ["ELEMENT_BYTES", "POINTS", "element_inv", "element_mul", "element_pow", "lagrange_weights", "point_of"]

ELEMENT_BYTES = 16
POINTS: tuple[int, ...] = tuple(range(1, 17))
"""Evaluation points of sites 1 to 16: 1, X, X+1, X^2, X^2+1, ... read as polynomials; never 0, all distinct."""


def point_of(index: int) -> int:
    """Return the evaluation point of site ``index`` (1 to 16)."""
    if not 1 <= index <= len(POINTS):
        raise ValueError(f"site index {index} is not in 1 to {len(POINTS)}")
    return POINTS[index - 1]


def _raw(value: int) -> bytes:
    return value.to_bytes(ELEMENT_BYTES, "little")


def element_mul(a: int, b: int) -> int:
    """Multiply two elements; both may be secret."""
    if NATIVE is None:
        return GF2_128.multiply(a, b)
    return int.from_bytes(NATIVE.multiply(PATH, _raw(a), _raw(b)), "little")


def element_pow(a: int, e: int) -> int:
    """Raise an element to a public power of 0 or more."""
    if e < 0:
        raise ValueError("the exponent must not be negative")
    result = 1
    while e:
        if e & 1:
            result = element_mul(result, a)
        a = element_mul(a, a)
        e >>= 1
    return result


def element_inv(a: int) -> int:
    """Return the inverse: a^(2^128 - 2).

    Raises:
        ZeroDivisionError: for 0.
    """
    if a == 0:
        raise ZeroDivisionError("0 has no inverse")
    return element_pow(a, (1 << 128) - 2)


def lagrange_weights(points: Sequence[int], at: int = 0) -> tuple[int, ...]:
    """Return w with f(at) = sum_i w[i] f(points[i]) for every polynomial f of degree below ``len(points)``.

    Raises:
        ValueError: points are not distinct.
    """
    return _weights(tuple(points), at)


@lru_cache(maxsize=4096)
def _weights(points: tuple[int, ...], at: int) -> tuple[int, ...]:
    if len(set(points)) != len(points):
        raise ValueError("evaluation points must be distinct")
    weights = []
    for i, x in enumerate(points):
        above, below = 1, 1
        for j, other in enumerate(points):
            if j != i:
                above = element_mul(above, at ^ other)
                below = element_mul(below, x ^ other)
        weights.append(element_mul(above, element_inv(below)))
    return tuple(weights)
