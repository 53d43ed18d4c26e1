"""Fields for the reference kernels: what they need of a field, the field in use, and small ones to enumerate.

A kernel handles two sorts of things. *Constants* (points, weights, a hash key) are Python integers whose bits are the
coefficients of a polynomial over GF(2), so that addition is exclusive or. *Values* (secrets, shares) come in arrays
whose first axis counts elements; only the field knows what an element is. So a field may as well compute with linear
forms in unknowns, which is how secrecy is checked.
"""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["GF2_128", "Constants", "Field", "SmallField", "Values"]

Values: TypeAlias = npt.NDArray[Any]
"""Elements, counted by the first axis; what follows belongs to the field."""


class Constants(Protocol):
    """Arithmetic on constants."""

    def multiply(self, a: int, b: int) -> int:
        """Return a * b."""
        ...

    def inverse(self, a: int) -> int:
        """Return 1 / a.

        Raises:
            ZeroDivisionError: a is 0.
        """
        ...


class Field(Constants, Protocol):
    """A field of characteristic 2, as the reference kernels use it."""

    def zeros_like(self, values: Values) -> Values:
        """Return as many zeros."""
        ...

    def add(self, a: Values, b: Values) -> Values:
        """Return a + b, element by element."""
        ...

    def scale(self, constant: int, values: Values) -> Values:
        """Return constant * values; the constant is public."""
        ...

    def scale_by_secret(self, constant: int, values: Values) -> Values:
        """Return constant * values without a branch or an address that depends on the constant."""
        ...

    def from_blocks(self, blocks: npt.NDArray[np.uint8]) -> Values:
        """Return one uniform element for each uniform block of 16 bytes; shape (count, 16)."""
        ...


class _BinaryField128:
    """GF(2)[X] modulo X^128 + X^7 + X^2 + X + 1; values are pairs (low, high) of 64-bit words, shape (count, 2)."""

    _MODULUS = (1 << 128) | 0x87
    _CHUNK = 4096  # elements worked on at once: a dozen arrays of this length fit the second-level cache

    def multiply(self, a: int, b: int) -> int:
        """Return a * b in 128 equal steps."""
        product = 0
        for bit in range(128):
            product ^= a * (b >> bit & 1)
            a <<= 1
            a ^= self._MODULUS * (a >> 128)
        return product

    def inverse(self, a: int) -> int:
        """Return a^(2^128 - 2)."""
        if a == 0:
            raise ZeroDivisionError("0 has no inverse")
        result = 1
        for _ in range(127):
            a = self.multiply(a, a)
            result = self.multiply(result, a)
        return result

    def from_bytes(self, data: npt.NDArray[np.uint8]) -> Values:
        """View bytes as elements; shape (bytes,) to (bytes / 16, 2)."""
        return data.view("<u8").reshape(-1, 2)

    def to_bytes(self, values: Values) -> npt.NDArray[np.uint8]:
        """Return elements as bytes; shape (count, 2) to (16 * count,)."""
        return np.ascontiguousarray(values, dtype="<u8").view(np.uint8).reshape(-1)

    def from_blocks(self, blocks: npt.NDArray[np.uint8]) -> Values:
        """Take a block as it stands."""
        return self.from_bytes(np.ascontiguousarray(blocks).reshape(-1))

    def zeros_like(self, values: Values) -> Values:
        """Return as many zeros."""
        return np.zeros_like(values)

    def add(self, a: Values, b: Values) -> Values:
        """Add modulo 2."""
        return np.bitwise_xor(a, b)

    def scale(self, constant: int, values: Values) -> Values:
        """Multiply by a public constant: only its set bits cost."""
        return self._in_chunks(constant, values, secret=False)

    def scale_by_secret(self, constant: int, values: Values) -> Values:
        """Multiply by a secret constant: every bit costs, and masks what it adds."""
        return self._in_chunks(constant, values, secret=True)

    def _in_chunks(self, constant: int, values: Values, *, secret: bool) -> Values:
        result = np.empty(values.shape, np.uint64)
        for start in range(0, len(values), self._CHUNK):
            part = values[start : start + self._CHUNK]
            low, high = np.ascontiguousarray(part[:, 0]), np.ascontiguousarray(part[:, 1])
            low, high = self._times_constant(constant, low, high, secret=secret)
            result[start : start + self._CHUNK, 0] = low
            result[start : start + self._CHUNK, 1] = high
        return result

    def _times_constant(self, constant: int, low: Values, high: Values, *, secret: bool) -> tuple[Values, Values]:
        """Horner's rule, four bits of the constant at a time, from the top."""
        multiples = [(low, high)]  # values * X^t for t = 0 to 3
        for _ in range(3):
            multiples.append(self._times_power(*multiples[-1], 1))
        total_low, total_high = np.zeros_like(low), np.zeros_like(high)
        digits = 32 if secret else -(-constant.bit_length() // 4)
        for digit in reversed(range(digits)):
            total_low, total_high = self._times_power(total_low, total_high, 4)
            for t, (low_t, high_t) in enumerate(multiples):
                bit = constant >> (4 * digit + t) & 1
                if secret:
                    mask = np.uint64(bit * 0xFFFF_FFFF_FFFF_FFFF)
                    total_low ^= low_t & mask
                    total_high ^= high_t & mask
                elif bit:
                    total_low ^= low_t
                    total_high ^= high_t
        return total_low, total_high

    @staticmethod
    def _times_power(low: Values, high: Values, t: int) -> tuple[Values, Values]:
        """Multiply by X^t, t < 57: what leaves at the top returns times X^7 + X^2 + X + 1."""
        up, down = np.uint64(t), np.uint64(64 - t)
        carry = high >> down
        new_high = high << up
        new_high |= low >> down
        new_low = low << up
        for shift in (0, 1, 2, 7):
            new_low ^= carry << np.uint64(shift)
        return new_low, new_high


GF2_128 = _BinaryField128()
"""The field of every sharing, MAC and digest."""


class SmallField:
    """GF(2^bits) for bits up to 8, small enough to try everything; values are bytes, shape (count,).

    Not for production. Example: ``SmallField(2, 0b111)`` is GF(4).
    """

    def __init__(self, bits: int, modulus: int) -> None:
        self.size = 1 << bits
        self._bits = bits
        self._modulus = modulus

    def multiply(self, a: int, b: int) -> int:
        """Return a * b."""
        product = 0
        for bit in range(self._bits):
            product ^= a * (b >> bit & 1)
            a <<= 1
            a ^= self._modulus * (a >> self._bits)
        return product

    def inverse(self, a: int) -> int:
        """Return 1 / a by trying every element."""
        for candidate in range(1, self.size):
            if self.multiply(a, candidate) == 1:
                return candidate
        raise ZeroDivisionError("0 has no inverse")

    def from_blocks(self, blocks: npt.NDArray[np.uint8]) -> Values:
        """Take the low bits of the first byte."""
        return blocks[:, 0] & np.uint8(self.size - 1)

    def zeros_like(self, values: Values) -> Values:
        """Return as many zeros."""
        return np.zeros_like(values)

    def add(self, a: Values, b: Values) -> Values:
        """Add modulo 2."""
        return np.bitwise_xor(a, b)

    def scale(self, constant: int, values: Values) -> Values:
        """Multiply, with the table of the constant's multiples."""
        multiples = np.array([self.multiply(constant, value) for value in range(self.size)], np.uint8)
        return multiples[values]

    def scale_by_secret(self, constant: int, values: Values) -> Values:
        """Multiply; nothing is secret in a field this small."""
        return self.scale(constant, values)
