"""Polynomial hashes: the one-time MAC of plaintext segments, and the audit digest of shares."""

from __future__ import annotations

from typing import Any

from shosoin.kernels.elements import ELEMENT_BYTES, element_inv, element_mul, element_pow
from shosoin.kernels.paths import NATIVE, PATH
from shosoin.kernels.reference import GF2_128, horner

__all__ = ["Digest", "polynomial_mac"]


def _horner(r: int, data: Any) -> int:
    """Return sum_i r^(L-1-i) d_i."""
    if memoryview(data).nbytes % ELEMENT_BYTES:
        raise ValueError("the length must be a multiple of 16 bytes")
    if NATIVE is not None:
        return int.from_bytes(NATIVE.horner(PATH, r.to_bytes(ELEMENT_BYTES, "little"), data), "little")
    rows = GF2_128.rows(memoryview(data).cast("B"))
    return GF2_128.value(horner(GF2_128, r, rows)) if len(rows) else 0


def polynomial_mac(key: bytes, data: Any) -> bytes:
    """Return the one-time MAC ``s + sum_i r^(L-i) d_i`` (i from 0), with r, s the halves of ``key``.

    Security: a forger without the key succeeds with probability at most L/2^128 for L elements; ``key`` is 32 uniform
    bytes, used for one message only.

    Raises:
        ValueError: the key is not 32 bytes, or the length is no multiple of 16.
    """
    if len(key) != 2 * ELEMENT_BYTES:
        raise ValueError("a MAC key has 32 bytes")
    r, s = int.from_bytes(key[:ELEMENT_BYTES], "little"), int.from_bytes(key[ELEMENT_BYTES:], "little")
    return (element_mul(_horner(r, data), r) ^ s).to_bytes(ELEMENT_BYTES, "little")


class Digest:
    """The digest ``sum_j r^(start + j) y_j`` over everything that ``update`` is given, in order.

    Linear: the digest of a combination of vectors is the same combination of their digests.

    Args:
        r: 16 bytes; public in audits, secret in AMD codes.
        start_exponent: exponent of r at the first element.
    """

    def __init__(self, r: bytes, start_exponent: int = 0) -> None:
        if len(r) != ELEMENT_BYTES:
            raise ValueError("r has 16 bytes")
        self._r = int.from_bytes(r, "little")
        self._inverse = element_inv(self._r) if self._r else 0
        self._power = element_pow(self._r, start_exponent)
        self._total = 0

    def update(self, data: Any) -> None:
        """Take the next elements."""
        count = memoryview(data).nbytes // ELEMENT_BYTES
        if memoryview(data).nbytes % ELEMENT_BYTES:
            raise ValueError("the length must be a multiple of 16 bytes")
        if not count:
            return
        if not self._r:
            self._update_at_zero(data)
            return
        # sum_j r^j y_j = r^(L-1) * sum_j (1/r)^(L-1-j) y_j: the Horner kernel, run with the inverse
        last = element_pow(self._r, count - 1)
        term = element_mul(_horner(self._inverse, data), last)
        self._total ^= element_mul(term, self._power)
        self._power = element_mul(element_mul(self._power, last), self._r)

    def _update_at_zero(self, data: Any) -> None:
        """With r = 0 only an element at exponent 0 counts."""
        if self._power:
            self._total ^= int.from_bytes(bytes(memoryview(data).cast("B")[:ELEMENT_BYTES]), "little")
        self._power = 0

    def finish(self) -> bytes:
        """Return the digest so far (16 bytes)."""
        return self._total.to_bytes(ELEMENT_BYTES, "little")
