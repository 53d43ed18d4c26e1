"""Names of streams that are over, all of them for ever, in a table of bounded size.

A Bloom filter: a name that was added is always found, and one that was not is found by mistake now and then. So what
is over never begins again, and once in a while a new stream is refused as if it were over; its device takes another
name. Of a new name the chance is below 1 : 10^9 after a million streams, 1 : 10^5 after four million, 1 : 40 after
sixteen million (one a minute for thirty years).

Bits of a name lie together in one of ``_PLACES`` blocks of 64 bytes, a row each, so that adding one writes one row.
"""

from __future__ import annotations

import sqlite3
from hashlib import blake2b

__all__ = ["BLOCK_BYTES", "SCHEMA", "add_ended", "is_ended", "place_of"]

SCHEMA = "CREATE TABLE IF NOT EXISTS ended (place INTEGER PRIMARY KEY, bits BLOB NOT NULL);"
_PLACES = 1 << 18
BLOCK_BYTES = 64
_BITS_PER_NAME = 8
_BIT_MASK = BLOCK_BYTES * 8 - 1


def add_ended(database: sqlite3.Connection, name: str) -> None:
    """Remember a name, within the caller's transaction."""
    place, bits = place_of(name)
    bits |= _found(database, place)
    row = place, bits.to_bytes(BLOCK_BYTES, "big")
    database.execute("INSERT OR REPLACE INTO ended VALUES (?, ?)", row)


def is_ended(database: sqlite3.Connection, name: str) -> bool:
    """Whether a name was added; rarely also whether it was not."""
    place, bits = place_of(name)
    return _found(database, place) & bits == bits


def _found(database: sqlite3.Connection, place: int) -> int:
    row = database.execute("SELECT bits FROM ended WHERE place = ?", (place,)).fetchone()
    return int.from_bytes(row[0], "big") if row else 0


def place_of(name: str) -> tuple[int, int]:
    """Return the block of a name, and its bits there."""
    digest = int.from_bytes(blake2b(name.encode(), digest_size=16, person=b"shosoin ended").digest(), "big")
    place, digest = digest % _PLACES, digest // _PLACES
    bits = 0
    for _ in range(_BITS_PER_NAME):
        bits |= 1 << (digest & _BIT_MASK)
        digest //= _BIT_MASK + 1
    return place, bits
