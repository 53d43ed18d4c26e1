"""Multicast copies as values, as rows of a table, and sealed: the same in every kind of store.

Security: AES-256-GCM under a key derived from the storage key; a copy is bound to its place, its master and what is
declared of its bits, so that none can stand for another.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shosoin.base import KmeId, SaeId
from shosoin.keys.copies import HeldCopy

__all__ = ["CopySeal", "HeldCopy", "can_be_stored", "copy_of_row", "row_of_copy"]

_NONCE_BYTES = 12


def row_of_copy(one: HeldCopy) -> tuple[Any, ...]:
    """Return the columns of a copy, without its bits."""
    named = " ".join(sorted(one.named))
    return one.key_id, one.slave, one.master, one.peer, one.born_s, one.length_bytes, named, one.simulated


def copy_of_row(row: Sequence[Any]) -> HeldCopy:
    """Return the copy of such columns.

    Raises:
        Rejected, AttributeError, TypeError, ValueError: ``row_of_copy`` never made them.
    """
    key_id, slave, master, peer, born_s, length, named, simulated = row
    return HeldCopy(
        key_id,
        SaeId(slave),
        SaeId(master),
        KmeId(peer),
        float(born_s),
        int(length),
        frozenset(map(SaeId, named.split())),
        simulated=bool(simulated),
    )


def can_be_stored(key_id: str) -> bool:
    """Whether a name that somebody else made up can stand in a table at all.

    >>> [can_be_stored(name) for name in ("3f2a", chr(0), chr(0xD800))]
    [True, False, False]
    """
    return key_id.isascii() and "\0" not in key_id


class CopySeal:
    """Seals copies under a storage key."""

    def __init__(self, storage_key: bytes) -> None:
        self._cipher = AESGCM(blake2b(key=storage_key, digest_size=32, person=b"shosoin copies").digest())

    def sealed(self, one: HeldCopy, bits: bytes) -> bytes:
        """Return the bits of a copy, sealed."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, bits, _context(one))

    def opened(self, one: HeldCopy, sealed: object) -> bytes | None:
        """Return the bits of a copy, ``None`` if it was altered or sealed under another key."""
        if not isinstance(sealed, bytes) or len(sealed) < _NONCE_BYTES:
            return None
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _context(one))
        except InvalidTag:
            return None


def _context(one: HeldCopy) -> bytes:
    return f"{one.key_id}\0{one.slave}\0{one.master}\0{one.peer}\0{int(one.simulated)}".encode()
