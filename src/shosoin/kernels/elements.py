"""Single elements: evaluation points, products, inverses, interpolation weights.

Here an element is a Python integer, 0 <= a < 2^128, whose bit i is the coefficient of X^i.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from shosoin.kernels import reference
from shosoin.kernels.paths import active

__all__ = [
    "ELEMENT_BYTES",
    "POINTS",
    "element_inv",
    "element_mul",
    "element_pow",
    "lagrange_weights",
    "pack",
    "pack_all",
    "point_of",
]

ELEMENT_BYTES = 16

POINTS: tuple[int, ...] = tuple(range(1, 17))
"""Evaluation points 1, X, X+1, X^2, X^2+1, X^2+X, ...: the integers 1 to 16, read as polynomials."""

_GROUP_ORDER = (1 << 128) - 1


def point_of(index: int) -> int:
    """Return the evaluation point of the site in place ``index``, 1 to 16.

    Raises:
        ValueError: there is no such place; 0 would hand out the secret.
    """
    if not 1 <= index <= len(POINTS):
        raise ValueError(f"got place {index}, expected 1 to {len(POINTS)}")
    return POINTS[index - 1]


def pack(element: int) -> bytes:
    """Return an element as 16 bytes.

    Raises:
        ValueError: it is negative, or 2^128 or more.
    """
    try:
        return element.to_bytes(ELEMENT_BYTES, "little")
    except OverflowError as err:
        raise ValueError("an element must be at least 0 and below 2^128") from err


def pack_all(elements: Sequence[int]) -> bytes:
    """Return elements one after the other, 16 bytes each.

    Raises:
        ValueError: as ``pack``.
    """
    try:
        return b"".join([element.to_bytes(ELEMENT_BYTES, "little") for element in elements])
    except OverflowError as err:
        raise ValueError("an element must be at least 0 and below 2^128") from err


def element_mul(a: int, b: int) -> int:
    """Return a * b.

    Raises:
        ValueError: an argument is no element.

    Security: constant time in both, natively; what Python does with integers is another matter.
    """
    return int.from_bytes(active().multiply(pack(a), pack(b)), "little")


def element_pow(a: int, e: int) -> int:
    """Return a^e; 0^0 is 1.

    Raises:
        ValueError: a is no element, or e is negative.

    Security: the exponent is public; a may be secret.
    """
    if e < 0:
        raise ValueError(f"got exponent {e}, expected at least 0")
    if e > _GROUP_ORDER:
        # The same power, and still above 0, so that 0 keeps its powers.
        e = (e - 1) % _GROUP_ORDER + 1
    return int.from_bytes(active().power(pack(a), pack(e)), "little")


def element_inv(a: int) -> int:
    """Return 1 / a.

    Raises:
        ValueError: a is no element.
        ZeroDivisionError: a is 0.

    Security: a may be secret, but whether it is 0 shows.
    """
    if a == 0:
        raise ZeroDivisionError("0 has no inverse")
    return element_pow(a, _GROUP_ORDER - 1)


class _Active:
    """The constants of the field, computed by the path in use."""

    multiply = staticmethod(element_mul)
    inverse = staticmethod(element_inv)


def lagrange_weights(points: Sequence[int], at: int = 0) -> tuple[int, ...]:
    """Return w with f(at) = sum_i w[i] f(points[i]) for every polynomial f of degree below ``len(points)``.

    Raises:
        ValueError: points are not distinct, or one is no element.

    Security: points are public.

    >>> lagrange_weights([1, 2, 3])
    (1, 1, 1)
    """
    return _weights(tuple(points), at)


@lru_cache(maxsize=4096)
def _weights(points: tuple[int, ...], at: int) -> tuple[int, ...]:
    return reference.lagrange_weights(_Active, points, at)
