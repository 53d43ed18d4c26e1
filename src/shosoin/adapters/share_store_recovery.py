"""What a share store does when it is opened: find out what a crash left behind.

The records decide. A file that no record names is garbage (its ``finish`` or its record was never acknowledged); a
record whose file is gone or short is damaged and waits for repair. Because the records decide, records that are older
than the directory must not be believed, or they would declare newer shares garbage: the directory remembers how often
its records were opened, and refuses records that were opened less often.
"""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import dataclass

from shosoin.adapters.share_store_errors import RecordsLost
from shosoin.adapters.share_store_files import StoreDirectory
from shosoin.adapters.share_store_records import create_schema
from shosoin.base import ObjectId, OwnerId, VersionId
from shosoin.vault.ports import ShareKey

__all__ = ["Recovery", "check_in", "check_records", "recover"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found when the store was opened."""

    staging_dropped: int
    files_unclaimed: int
    damaged: tuple[ShareKey, ...]
    """Shares whose file is gone or has the wrong length."""


def check_records(directory: StoreDirectory) -> None:
    """Look whether there are records, before a connection would create them.

    Raises:
        RecordsLost: they are missing from a directory that had some.
    """
    if directory.read_incarnation() and not directory.records_existed:
        raise RecordsLost(f"{directory.records} is gone, but its shares are not")


def check_in(connection: sqlite3.Connection, directory: StoreDirectory) -> int:
    """Create or check the records, note that they were opened once more, and return how often that was.

    Raises:
        RecordsLost: the records belong to another directory, or are older than the directory.
        Rejected: the records have an unknown format.
    """
    remembered = directory.read_incarnation()
    create_schema(connection, secrets.token_hex(16))
    store_id, generation = (
        connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0]
        for name in ("store_id", "generation")
    )
    if remembered and remembered[0] != store_id:
        raise RecordsLost("the records belong to another directory")
    if remembered and remembered[1] > int(generation):
        raise RecordsLost(
            f"the records were opened {generation} times, their directory {remembered[1]} times: they are an old copy"
        )
    connection.execute("UPDATE meta SET value = ? WHERE name = 'generation'", (str(int(generation) + 1),))
    directory.write_incarnation(store_id, int(generation) + 1)
    return int(generation) + 1


def recover(connection: sqlite3.Connection, directory: StoreDirectory) -> Recovery:
    """Compare records and files; list garbage for erasure and mark what is damaged."""
    expected: dict[int, int] = dict(connection.execute("SELECT id, size_bytes FROM contents WHERE data IS NULL"))
    staged = directory.staged_files()
    unclaimed = []
    for path, content_id, size_bytes in directory.share_files():
        if content_id in expected:
            if expected[content_id] == size_bytes:
                del expected[content_id]
        else:
            unclaimed.append(path)
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT OR IGNORE INTO garbage VALUES (?)", [(path,) for path in staged + unclaimed])
    connection.executemany("UPDATE contents SET damaged = 1 WHERE id = ?", [(missing,) for missing in expected])
    connection.execute("COMMIT")
    return Recovery(len(staged), len(unclaimed), tuple(_owner_of(connection, missing) for missing in expected))


def _owner_of(connection: sqlite3.Connection, content_id: int) -> ShareKey:
    owner, object_id, version, epoch = connection.execute(
        "SELECT owner, object_id, version, epoch FROM shares WHERE content_id = ?", (content_id,)
    ).fetchone()
    return ShareKey(OwnerId(owner), ObjectId(object_id), VersionId(version), epoch)
