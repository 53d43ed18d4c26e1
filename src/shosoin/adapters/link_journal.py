"""The journal of one end of a link: small sealed records in an SQLite database.

``<directory>/journal.sqlite`` is durable when ``commit`` returns (WAL, ``synchronous=FULL``); all records of a commit
are there after a crash, or none. Records are sealed under a storage key (``stream_sealing``). Removed ones are
overwritten in the database (``secure_delete``); the write-ahead log beside it holds older ones, sealed as they were,
until it goes when the journal is closed, or after a crash, closed the next time. One process holds the directory. After
any failure to write, the journal refuses further work: what is on disk is then not known, and a key bit might be used
twice.

Security: encryption at rest is computational, and overwriting is best effort on flash and copy-on-write file systems. A
directory restored from a backup has forgotten what was used since; the other end notices and refuses.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from shosoin.adapters.private_files import sync_directory
from shosoin.adapters.stream_sealing import RecordSeal
from shosoin.base import Alarm, Unavailable

__all__ = ["FileLinkJournal"]

_SCHEMA = "CREATE TABLE IF NOT EXISTS record (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"
_CONTEXT = b"link"


class FileLinkJournal:
    """``Journal`` in a directory of its own, held exclusively.

    Args:
        directory: made if absent, readable for its owner only.
        storage_key: 32 bytes that seal the records.

    Raises:
        Unavailable: the directory is out of reach or held by another process.
        Alarm: what is there is damaged, or was sealed under another key.
    """

    def __init__(self, directory: Path, storage_key: bytes) -> None:
        self._directory = directory
        self._seal = RecordSeal(storage_key, _CONTEXT)
        self._has_failed = False
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            self._lock = _lock(directory / "lock")
        except OSError as err:
            raise Unavailable(
                f"the link's state in {directory} cannot be used: {err.strerror}", code="link.journal_out_of_reach"
            ) from err
        try:
            self._database = _open(directory / "journal.sqlite")
            sync_directory(directory)
            sync_directory(directory.parent)
        except BaseException:
            self._lock.close()
            raise

    def load(self) -> dict[str, bytes]:
        """Return all records."""
        try:
            rows = self._database.execute("SELECT name, value FROM record").fetchall()
            return {name: self._seal.unseal(name, value) for name, value in rows}
        except sqlite3.OperationalError as err:
            raise _out_of_reach(self._directory, err) from err
        except (sqlite3.Error, ValueError, TypeError, AttributeError) as err:
            raise _damaged(self._directory) from err

    def commit(self, records: Mapping[str, bytes | None]) -> None:
        """Store or remove records together; durable on return."""
        if self._has_failed:
            raise Unavailable(f"an earlier write to {self._directory} failed", code="link.journal_out_of_reach")
        puts = [(name, self._seal.seal(name, value)) for name, value in records.items() if value is not None]
        removed = [(name,) for name, value in records.items() if value is None]
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT OR REPLACE INTO record VALUES (?, ?)", puts)
            self._database.executemany("DELETE FROM record WHERE name = ?", removed)
            self._database.execute("COMMIT")
        except sqlite3.Error as err:
            self._has_failed = True
            raise Unavailable(f"writing to {self._directory} failed: {err}", code="link.journal_out_of_reach") from err

    def close(self) -> None:
        """Let go of the directory."""
        self._database.close()
        self._lock.close()


def _open(path: Path) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as err:
        raise _out_of_reach(path, err) from err
    try:
        path.chmod(0o600)
        for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA secure_delete=ON", _SCHEMA):
            database.execute(statement)
        damage = database.execute("PRAGMA integrity_check(1)").fetchone()
    except (sqlite3.OperationalError, OSError) as err:  # a full disk, say: nothing is known to be damaged
        database.close()
        raise _out_of_reach(path, err) from err
    except sqlite3.Error as err:
        database.close()
        raise _damaged(path) from err
    if damage != ("ok",):
        database.close()
        raise _damaged(path)
    return database


def _lock(path: Path) -> IO[str]:
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _out_of_reach(path: Path, err: Exception) -> Unavailable:
    return Unavailable(f"the link's state in {path} cannot be used: {err}", code="link.journal_out_of_reach")


def _damaged(path: Path) -> Alarm:
    return Alarm(
        f"the link's journal in {path} is damaged or sealed under another key",
        code="link.journal_damaged",
        hint="remove the state of both ends and give them a new start key",
    )
