"""Numbers that follow from words: how each part of a simulation gets a generator of its own from one seed."""

from __future__ import annotations

import hashlib

__all__ = ["hash_of"]


def hash_of(text: str) -> int:
    """Return a number that depends on a text alone (Python's own hash differs between processes)."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
