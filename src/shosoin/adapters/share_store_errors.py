"""What a share store raises, and how errors of the file system and of SQLite become that.

A full disk passes by itself, so it is an ordinary ``Unavailable``. After a failed ``fsync`` nobody knows which pages
reached the disk and a second ``fsync`` may report success for pages that were dropped, so a store that saw one writes
nothing more until it is opened again.

Source: Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020; SQLite result codes.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Sequence
from typing import Any

from shosoin.base import Alarm, Rejected, Unavailable

__all__ = [
    "DiskFull",
    "RecordsDamaged",
    "RecordsLost",
    "StageIncomplete",
    "StagingFull",
    "StorageFailed",
    "StoreBusy",
    "StoreLocked",
    "from_os_error",
    "from_sqlite_error",
    "sound",
]

_FULL = {errno.ENOSPC, errno.EDQUOT}


class DiskFull(Unavailable):
    """No room; nothing half done stays."""

    code = "vault.disk_full"
    hint = "free space on the volume of the node's directory or lower the owners' quotas"


class StorageFailed(Unavailable):
    """The disk failed; the store answers reads and refuses writes until it is opened again."""

    code = "vault.storage_failed"
    hint = "look at the kernel log, check the disk, then restart the node"


class StoreBusy(Unavailable):
    """Too much is queued."""

    code = "vault.store_busy"


class StoreLocked(Unavailable):
    """Another process has the store open."""

    code = "vault.store_locked"


class StagingFull(Unavailable):
    """Too much is staged and not finished."""

    code = "vault.staging_full"


class StageIncomplete(Rejected):
    """Not exactly the bytes of the share were written."""

    code = "vault.stage_incomplete"


class RecordsLost(Alarm):
    """The records are gone, or older than the directory they lie in."""

    code = "vault.records_lost"
    hint = (
        "put the newest records back into the node's directory; if they are lost, keep the directory aside, start with"
        " an empty one and repair from the other sites"
    )


class RecordsDamaged(Alarm):
    """A record holds what nobody ever wrote."""

    code = "vault.records_damaged"
    hint = "check the disk, keep the node's directory aside, start with an empty one and repair from the other sites"


def sound(row: Any, *types: type | tuple[type, ...]) -> Sequence[Any]:
    """Return a row of the records whose values have the types that the store writes; SQLite itself does not mind.

    Raises:
        RecordsDamaged: there is no such row, or it holds other types.
    """
    if row is None or len(row) != len(types) or not all(map(isinstance, row, types)):
        raise RecordsDamaged("a record of the store holds what was never written there")
    found: Sequence[Any] = row
    return found


def from_os_error(err: OSError, doing: str) -> DiskFull | StorageFailed:
    """Return what a failed file operation means."""
    if err.errno in _FULL:
        return DiskFull(f"no space left while {doing}", retry_after_s=30.0)
    return StorageFailed(f"{errno.errorcode.get(err.errno or 0, 'unknown error')} while {doing}")


def from_sqlite_error(err: sqlite3.Error) -> DiskFull | StorageFailed | StoreBusy:
    """Return what a failed database operation means."""
    primary = getattr(err, "sqlite_errorcode", 0) & 0xFF
    if primary == sqlite3.SQLITE_FULL:
        return DiskFull("no space left while records were written", retry_after_s=30.0)
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreBusy("the records are locked by another program", retry_after_s=1.0)
    return StorageFailed(f"the records failed: {getattr(err, 'sqlite_errorname', type(err).__name__)}")
