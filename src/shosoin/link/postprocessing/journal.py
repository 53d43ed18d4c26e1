"""What an end must still know after a crash, as small records in one durable store.

* ``auth/mark/DIRECTION`` and ``auth/key/DIRECTION/POSITION``: the key streams of ``authentication``.
* ``next/block`` and ``next/pulse``: numbers below were used. Stored ahead of use, so that no pulse is announced twice
  and no block number means two things.
* ``key/BLOCK``: a finished key that not everybody is known to have; see ``KeptKey``.

Records with other names are left alone: they are of whoever runs the end.

Blocks in flight are not in it. A session that ends abandons them, and the pulses they were made of are never used
again: so nothing is ever disclosed twice about one bit.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

__all__ = ["Journal", "KeptKey", "kept_keys", "number_of"]


class Journal(Protocol):
    """A durable store of small records, of one end.

    Raises (both methods): ``Unavailable`` or ``Alarm`` when the store is out of reach or damaged.
    """

    def load(self) -> dict[str, bytes]:
        """Return all records."""
        ...

    def commit(self, records: Mapping[str, bytes | None]) -> None:
        """Store or (``None``) remove records, all together; durable on return."""
        ...


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A finished key in the journal.

    At the receiver it is there from the moment that decides that the block has a key, until the transmitter has
    confirmed (``is_agreed``) and the key was taken (``is_stored``). At the transmitter it is there before the receiver
    can know the key, until the receiver has confirmed and the key was taken, or the receiver says it has no such block.
    """

    block: int
    is_agreed: bool
    is_stored: bool
    own_position: int
    """Where the own stream grew with this block; before the other end confirms, nothing beyond may be used."""
    report: Mapping[str, Any]
    refill_bytes: tuple[int, int]
    material: bytes
    """Refills of both streams that were not added yet, then the key."""

    @property
    def name(self) -> str:
        """The record's name."""
        return f"key/{self.block}"

    def encode(self) -> bytes:
        """Return the record."""
        report = json.dumps(self.report, separators=(",", ":")).encode()
        flags = self.is_agreed | self.is_stored << 1
        return struct.pack("<BQIII", flags, self.own_position, *self.refill_bytes, len(report)) + report + self.material

    @classmethod
    def decode(cls, block: int, raw: bytes) -> KeptKey:
        """Read a record."""
        flags, position, there, back, size = struct.unpack_from("<BQIII", raw)
        start = struct.calcsize("<BQIII")
        report = json.loads(raw[start : start + size])
        return cls(block, bool(flags & 1), bool(flags & 2), position, report, (there, back), raw[start + size :])

    def agreed(self) -> KeptKey:
        """Return it as confirmed by the other end, its refills added to the streams."""
        return replace(self, is_agreed=True, refill_bytes=(0, 0), material=self.material[sum(self.refill_bytes) :])

    def without_key(self) -> KeptKey:
        """Return it as taken."""
        return replace(self, is_stored=True, material=b"")

    def __repr__(self) -> str:
        return f"KeptKey(block={self.block}, agreed={self.is_agreed}, stored={self.is_stored}, redacted)"


def kept_keys(records: Mapping[str, bytes]) -> dict[int, KeptKey]:
    """Return the keys of a journal by block, in order."""
    blocks = sorted(int(name.removeprefix("key/")) for name in records if name.startswith("key/"))
    return {block: KeptKey.decode(block, records[f"key/{block}"]) for block in blocks}


def number_of(records: Mapping[str, bytes], name: str) -> int:
    """Return a counter, 0 if it was never stored."""
    return int.from_bytes(records.get(name, b""), "little")
