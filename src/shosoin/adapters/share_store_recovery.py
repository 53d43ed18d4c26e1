"""What a share store does when it is opened: find out what a crash left behind.

The records decide, so they must be the newest. A file in ``staging`` that no record names is garbage (its ``finish`` or
its record was never acknowledged); a record whose file is gone or short is damaged and waits for repair. Records that
are older than the directory would declare newer shares garbage, so two witnesses beside them are heard first: the
directory remembers how often its records were opened; and a file under ``shares`` was named by a record once, so one
that is in no record and on no list of garbage was named by records that came after these. Such records are refused
before anything is changed, so that the right ones can still be brought back.
"""

from __future__ import annotations

import secrets
import sqlite3
from dataclasses import dataclass, field

from shosoin.adapters.share_store_errors import RecordsDamaged, RecordsLost, sound
from shosoin.adapters.share_store_files import StoreDirectory
from shosoin.adapters.share_store_records import create_schema, share_key
from shosoin.vault.ports import ShareKey

__all__ = ["Findings", "Recovery", "check_in", "check_records", "look_around", "recover"]

_DIGITS_MAX = 18


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found when the store was opened."""

    staging_dropped: int
    files_unclaimed: int
    """Files under ``shares`` with names that the store never gives."""
    damaged: tuple[ShareKey, ...]
    """Shares whose file is gone or has the wrong length."""
    unfiled: tuple[int, ...] = ()
    """Recorded files for which there is no room where they belong; they are read where they are."""


@dataclass(slots=True)
class Findings:
    """What lies in the directory, compared with the records."""

    missing: dict[int, int]
    """Recorded files that are gone or have the wrong length: content number and size in bytes."""
    to_file: list[int] = field(default_factory=list)
    """Recorded files that are still in ``staging``."""
    twice: list[int] = field(default_factory=list)
    """Recorded files that are under ``shares`` and have their old name still."""
    left: list[str] = field(default_factory=list)
    """Files in ``staging`` that no record names."""
    foreign: list[str] = field(default_factory=list)


def check_records(directory: StoreDirectory) -> None:
    """Look whether there are records, before a connection would create them.

    Raises:
        RecordsLost: they are missing from a directory that had some.
    """
    if directory.read_incarnation() and not directory.records_existed:
        raise RecordsLost(f"{directory.records} is gone, but its shares are not")


def look_around(connection: sqlite3.Connection, directory: StoreDirectory) -> Findings:
    """Create records where there are none, compare them with the directory, and change nothing.

    Raises:
        RecordsLost: the records belong to another directory, or are older than the directory.
        Rejected: the records have an unknown format.
    """
    remembered = directory.read_incarnation()
    create_schema(connection, secrets.token_hex(16))
    store_id, generation = _identity(connection)
    if remembered and remembered[0] != store_id:
        raise RecordsLost("the records belong to another directory")
    if remembered and remembered[1] > generation:
        raise RecordsLost(
            f"the records were opened {generation} times, their directory {remembered[1]} times: they are an old copy"
        )
    return _compare(connection, directory)


def _identity(connection: sqlite3.Connection) -> tuple[str, int]:
    store_id, generation = (
        sound(connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone(), str)[0]
        for name in ("store_id", "generation")
    )
    if not generation.isdecimal() or len(generation) > _DIGITS_MAX:
        raise RecordsDamaged("how often the records were opened cannot be read")
    return store_id, int(generation)


def _compare(connection: sqlite3.Connection, directory: StoreDirectory) -> Findings:
    recorded: dict[int, int] = dict(connection.execute("SELECT id, size_bytes FROM contents WHERE data IS NULL"))
    garbage = {path for (path,) in connection.execute("SELECT path FROM garbage")}
    found, filed, newer = Findings(dict(recorded)), set(), []
    for path, content_id, size_bytes in directory.share_files():
        if content_id in recorded:
            filed.add(content_id)
            if recorded[content_id] == size_bytes:
                del found.missing[content_id]
        elif content_id is None:
            found.foreign.append(path)
        elif path not in garbage:
            newer.append(path)
    if newer:
        raise RecordsLost(
            f"{len(newer)} share files ({newer[0]} is one) were recorded and are not in these records: they are an old"
            " copy"
        )
    for path, content_id, size_bytes in directory.staged_files():
        if content_id not in recorded:
            found.left.append(path)
        elif content_id in filed:
            found.twice.append(content_id)
        else:
            found.to_file.append(content_id)
            if recorded[content_id] == size_bytes:
                del found.missing[content_id]
    return found


def check_in(connection: sqlite3.Connection, directory: StoreDirectory) -> int:
    """Note that the records were opened once more, and return how often that was."""
    store_id, generation = _identity(connection)
    connection.execute("UPDATE meta SET value = ? WHERE name = 'generation'", (str(generation + 1),))
    directory.write_incarnation(store_id, generation + 1)
    return generation + 1


def recover(connection: sqlite3.Connection, directory: StoreDirectory, found: Findings) -> Recovery:
    """File away what was recorded, list garbage for erasure, mark what is damaged."""
    for content_id in found.twice:
        directory.disk.unlink(directory.staged_path(content_id))  # not overwritten: both names mean the same bytes
    unfiled = []
    for content_id in found.to_file:
        try:
            directory.file_away(content_id)
        except OSError:  # it can be read where it is
            unfiled.append(content_id)
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT OR IGNORE INTO garbage VALUES (?)", [(path,) for path in found.left + found.foreign])
    connection.executemany("UPDATE contents SET damaged = 1 WHERE id = ?", [(missing,) for missing in found.missing])
    connection.execute("COMMIT")
    damaged = tuple(_owner_of(connection, missing) for missing in found.missing)
    return Recovery(len(found.left), len(found.foreign), damaged, tuple(unfiled))


def _owner_of(connection: sqlite3.Connection, content_id: int) -> ShareKey:
    row = connection.execute(
        "SELECT owner, object_id, version, epoch FROM shares WHERE content_id = ?", (content_id,)
    ).fetchone()
    return share_key(*(row or ()))
