"""Data as a polynomial, evaluated at one point: a one-time MAC and a linear digest.

Two different messages of L elements agree at no more than L points, so a secret random point tells them apart except
with probability L/2^128.

Source: Wegman and Carter, "New hash functions and their use in authentication and set equality", JCSS 22, 1981; den
Boer, "A simple and key-economical unconditional authentication scheme", Journal of Computer Security 2, 1993.
"""

from __future__ import annotations

from shosoin.kernels.buffers import Buffer, size_bytes
from shosoin.kernels.elements import ELEMENT_BYTES, element_mul, element_pow, pack
from shosoin.kernels.paths import active

__all__ = ["Digest", "PolynomialMac", "digest", "polynomial_mac"]


def polynomial_mac(key: Buffer, data: Buffer) -> bytes:
    """Return the 16-byte tag ``s + sum_i r^(L-i) d_i`` of elements d_0 to d_(L-1), with ``key = r || s``.

    Raises:
        TypeError: something is no buffer.
        ValueError: the key is not 32 bytes, or the data no multiple of 16.

    Security: information-theoretic; a forger succeeds with probability at most L/2^128. The key is uniform and for one
    message only. All messages under keys from one place have one length, or their length is authenticated as well:
    zeros in front change no tag.
    """
    mac = PolynomialMac(key)
    mac.update(data)
    return mac.finish()


class PolynomialMac:
    """``polynomial_mac`` over pieces, each a multiple of 16 bytes."""

    __slots__ = ("_finished", "_r", "_s", "_total")

    def __init__(self, key: Buffer) -> None:
        raw = bytes(key)
        if len(raw) != 2 * ELEMENT_BYTES:
            raise ValueError(f"got a MAC key of {len(raw)} bytes, expected {2 * ELEMENT_BYTES}")
        self._r = raw[:ELEMENT_BYTES]
        self._s = int.from_bytes(raw[ELEMENT_BYTES:], "little")
        self._total = 0
        self._finished = False

    def update(self, data: Buffer) -> None:
        """Take the next elements.

        Raises:
            TypeError: ``data`` is no buffer.
            ValueError: its length is no multiple of 16, or the tag was taken.
        """
        if self._finished:
            raise ValueError("a one-time key authenticates one message, and its tag was taken")
        value = active().evaluate(self._r, data, False)  # in falling powers
        count = size_bytes(data) // ELEMENT_BYTES
        if self._total:
            r = int.from_bytes(self._r, "little")
            self._total = element_mul(self._total, element_pow(r, count))
        self._total ^= int.from_bytes(value, "little")

    def finish(self) -> bytes:
        """Return the tag and end.

        Raises:
            ValueError: it was taken before.
        """
        if self._finished:
            raise ValueError("a one-time key authenticates one message, and its tag was taken")
        self._finished = True
        return pack(element_mul(self._total, int.from_bytes(self._r, "little")) ^ self._s)

    def __repr__(self) -> str:
        return "PolynomialMac(redacted)"


def digest(r: Buffer, data: Buffer) -> bytes:
    """Return what ``Digest(r)`` makes of ``data``: 16 bytes, at a fraction of its cost for short data.

    Raises:
        TypeError: ``data`` is no buffer.
        ValueError: r is not 16 bytes, or the data no multiple of 16.
    """
    point = bytes(r)
    if len(point) != ELEMENT_BYTES:
        raise ValueError(f"got a point of {len(point)} bytes, expected {ELEMENT_BYTES}")
    return active().evaluate(point, data, True)  # in rising powers


class Digest:
    """The digest ``sum_j r^(start_exponent + j) y_j`` of elements y_0, y_1, ... in the order they come.

    Linear: the digest of a combination of vectors is that combination of their digests, so digests of shares are
    shares of the digest of the secret.

    Args:
        r: 16 bytes.
        start_exponent: power of r at the first element, at least 0.

    Raises:
        ValueError: r is not 16 bytes, or the exponent negative.

    Security: no MAC by itself, and linear in what it digests: given out unmasked it tells one linear combination.
    """

    __slots__ = ("_power", "_r", "_total")

    def __init__(self, r: Buffer, start_exponent: int = 0) -> None:
        self._r = bytes(r)
        if len(self._r) != ELEMENT_BYTES:
            raise ValueError(f"got a point of {len(self._r)} bytes, expected {ELEMENT_BYTES}")
        self._power = element_pow(int.from_bytes(self._r, "little"), start_exponent)
        self._total = 0

    def update(self, data: Buffer) -> None:
        """Take the next elements.

        Raises:
            TypeError: ``data`` is no buffer.
            ValueError: its length is no multiple of 16.
        """
        value = active().evaluate(self._r, data, True)  # in rising powers
        self._total ^= element_mul(int.from_bytes(value, "little"), self._power)
        count = size_bytes(data) // ELEMENT_BYTES
        self._power = element_mul(self._power, element_pow(int.from_bytes(self._r, "little"), count))

    def finish(self) -> bytes:
        """Return the digest of what came so far, 16 bytes."""
        return pack(self._total)

    def __repr__(self) -> str:
        return "Digest(redacted)"
