"""The specification of every kernel, in NumPy and generic in the field.

An element is one row of an array; a field knows how to add rows and to multiply them by a constant or by each other.
``GF2_128`` is the field in use; tests substitute small fields, and a secrecy checker can substitute linear forms.
Nothing here indexes a table by a secret; loops and branches follow public constants alone, except that ``multiply``
always runs all 128 steps.

Source: Shamir, "How to share a secret", CACM 22 (1979); layouts in ``docs/specs/kernels.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["GF2_128", "Field", "horner", "linear_map", "split", "vandermonde"]

Rows = npt.NDArray[Any]


class Field(Protocol):
    """What the kernels need of a field. Constants are Python integers; data are arrays with one row per element."""

    def add(self, a: Rows, b: Rows) -> Rows:
        """Add element by element."""
        ...

    def scale(self, rows: Rows, constant: int) -> Rows:
        """Multiply every element by a public constant."""
        ...

    def zeros_like(self, rows: Rows) -> Rows:
        """Return as many zeros."""
        ...

    def multiply(self, a: int, b: int) -> int:
        """Multiply two constants."""
        ...

    def power(self, a: int, exponent: int) -> int:
        """Raise a constant to a public power."""
        ...


class _GF2To128:
    """GF(2)[X] modulo X^128 + X^7 + X^2 + X + 1; rows are pairs of little-endian 64-bit words."""

    _MODULUS = (1 << 128) | 0x87
    _FOLD = np.uint64(0x87)

    def rows(self, data: Any) -> Rows:
        """View bytes as elements: shape (L/16, 2), dtype uint64."""
        return np.frombuffer(data, dtype="<u8").reshape(-1, 2)

    def row(self, value: int) -> Rows:
        """Return one element as a row."""
        return np.frombuffer(value.to_bytes(16, "little"), dtype="<u8").reshape(1, 2)

    def value(self, row: Rows) -> int:
        """Return a row as an integer."""
        return int.from_bytes(row.astype("<u8").tobytes(), "little")

    def add(self, a: Rows, b: Rows) -> Rows:
        """Add: exclusive or."""
        return a ^ b

    def zeros_like(self, rows: Rows) -> Rows:
        """Return as many zeros."""
        return np.zeros_like(rows)

    def times_x(self, rows: Rows) -> Rows:
        """Multiply by X."""
        carry = rows >> np.uint64(63)
        out = rows << np.uint64(1)
        out[:, 1] ^= carry[:, 0]
        out[:, 0] ^= carry[:, 1] * self._FOLD
        return out

    def scale(self, rows: Rows, constant: int) -> Rows:
        """Multiply by a public constant: add up the rows shifted by each of its bits."""
        total = self.zeros_like(rows)
        shifted = rows
        for bit in range(constant.bit_length()):
            if bit:
                shifted = self.times_x(shifted)
            if constant >> bit & 1:
                total = total ^ shifted
        return total

    def multiply(self, a: int, b: int) -> int:
        """Multiply two elements; all 128 steps are taken whatever their bits are."""
        product = 0
        for bit in range(128):
            product ^= a * (b >> bit & 1)
            a <<= 1
            a ^= self._MODULUS * (a >> 128)
        return product

    def power(self, a: int, exponent: int) -> int:
        """Raise to a public power of 0 or more."""
        result = 1
        while exponent:
            if exponent & 1:
                result = self.multiply(result, a)
            a = self.multiply(a, a)
            exponent >>= 1
        return result


GF2_128 = _GF2To128()


def linear_map(field: Field, weights: Sequence[Sequence[int]], inputs: Sequence[Rows]) -> list[Rows]:
    """Return ``sum_i weights[m][i] * inputs[i]`` for every m."""
    outputs = []
    for row in weights:
        total = field.zeros_like(inputs[0])
        for weight, rows in zip(row, inputs, strict=True):
            total = field.add(total, field.scale(rows, weight))
        outputs.append(total)
    return outputs


def vandermonde(field: Field, points: Sequence[int], k: int) -> list[list[int]]:
    """Return the powers 0 to k-1 of every point."""
    return [[field.power(point, j) for j in range(k)] for point in points]


def split(field: Field, secret: Rows, coefficients: Sequence[Rows], points: Sequence[int]) -> list[Rows]:
    """Return ``secret + sum_j coefficients[j-1] * x^j`` for every point x."""
    return linear_map(field, vandermonde(field, points, len(coefficients) + 1), [secret, *coefficients])


def horner(field: Field, r: int, rows: Rows) -> Rows:
    """Return ``sum_i r^(L-1-i) * rows[i]`` as one row, by halving: pairs are joined with r, then r is squared.

    Equal to the element-by-element rule, in about log2(L) vector steps.
    """
    while len(rows) > 1:
        if len(rows) % 2:
            rows = np.concatenate([field.zeros_like(rows[:1]), rows])
        rows = field.add(field.scale(np.ascontiguousarray(rows[0::2]), r), rows[1::2])
        r = field.multiply(r, r)
    return rows
