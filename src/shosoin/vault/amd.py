"""Algebraic manipulation detection: a code word that a liar cannot shift unnoticed.

Shamir shares are linear, so a site that adds d to its share shifts the secret by a known multiple of d. A record
therefore ends with (x, f(x)): x a fresh random element and f(x) = x^e + sum_i d_i x^i over the record's elements. Who
shifts record, x and f by known amounts without knowing x is caught except with probability at most (L+2)/2^128.
The top exponent e must be odd: in characteristic 2 an even power is additive and would cancel.

Source: Cramer, Dodis, Fehr, Padro, Wichs, "Detection of algebraic manipulation", EUROCRYPT 2008, section 3.1.
"""

from __future__ import annotations

import hmac

from shosoin.base import Entropy
from shosoin.kernels import ELEMENT_BYTES, Digest, element_pow

__all__ = ["OVERHEAD_BYTES", "amd_decode", "amd_encode"]

OVERHEAD_BYTES = 2 * ELEMENT_BYTES


def _tag(record: bytes | memoryview, x: bytes) -> bytes:
    elements = len(record) // ELEMENT_BYTES
    exponent = elements + 2 if elements % 2 else elements + 3
    digest = Digest(x, start_exponent=1)
    digest.update(record)
    top = element_pow(int.from_bytes(x, "little"), exponent)
    return (int.from_bytes(digest.finish(), "little") ^ top).to_bytes(ELEMENT_BYTES, "little")


def amd_encode(record: bytes, entropy: Entropy) -> bytes:
    """Append a code word to a record whose length is a multiple of 16 bytes."""
    if len(record) % ELEMENT_BYTES:
        raise ValueError("record length must be a multiple of 16 bytes")
    x = entropy.random_bytes(ELEMENT_BYTES)
    return record + x + _tag(record, x)


def amd_decode(coded: bytes | memoryview) -> bytes | None:
    """Return the record, or ``None`` if the code word does not hold."""
    view = memoryview(coded)
    if len(view) < OVERHEAD_BYTES or len(view) % ELEMENT_BYTES:
        return None
    record, x, tag = view[:-OVERHEAD_BYTES], bytes(view[-OVERHEAD_BYTES:-ELEMENT_BYTES]), bytes(view[-ELEMENT_BYTES:])
    return bytes(record) if hmac.compare_digest(_tag(record, x), tag) else None
