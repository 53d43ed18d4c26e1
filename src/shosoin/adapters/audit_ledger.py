"""The owner's memory of audits in a small SQLite file (``vault.audit_ledger`` says what for).

Two processes of one owner may use it at once; each save is one commit, flushed before it returns. If the file is lost,
audits go on: they spend one more challenge of each object, or, when none is left, ask the sites what they know.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shosoin.base import Unavailable
from shosoin.vault.audit_ledger import AuditRecord, BodyName

__all__ = ["FileLedger", "LedgerBroken"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS audits (
    object_id TEXT NOT NULL, version TEXT NOT NULL, audited_wall_s REAL NOT NULL, record TEXT NOT NULL,
    PRIMARY KEY (object_id, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_BUSY_MS = 10_000
_APPLICATION_ID = 0x53484155  # "SHAU"


class LedgerBroken(Unavailable):
    """The ledger cannot be read or written."""

    code = "adapters.audit_ledger"
    hint = (
        "make room on the disk; if the file is broken, move it away: audits then spend one more answer of each object"
    )


class FileLedger:
    """``AuditLedger`` in a file; opened on first use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(self._path, isolation_level=None)
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.executescript(_SCHEMA)
            self._connection = connection
        return self._connection

    @contextmanager
    def _used(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._open()
        except (sqlite3.Error, OSError) as error:
            raise LedgerBroken(f"{self._path.name}: {error}") from error

    def records(self, names: Sequence[BodyName]) -> dict[BodyName, AuditRecord]:
        """Return the records that exist."""
        query = "SELECT record FROM audits WHERE object_id = ? AND version = ?"
        with self._used() as connection:
            rows = {name: connection.execute(query, [*map(str, name)]).fetchone() for name in names}
        return {name: AuditRecord.from_text(row[0]) for name, row in rows.items() if row is not None}

    def save(self, records: Mapping[BodyName, AuditRecord]) -> None:
        """Write records in one commit."""
        if not records:
            return
        rows = [(*map(str, name), record.audited_wall_s, record.to_text()) for name, record in records.items()]
        with self._used() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany("INSERT OR REPLACE INTO audits VALUES (?,?,?,?)", rows)
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def forget_before(self, wall_s: float) -> int:
        """Forget bodies last audited before a moment."""
        with self._used() as connection:
            return connection.execute("DELETE FROM audits WHERE audited_wall_s < ?", (wall_s,)).rowcount

    def note(self, name: str) -> Any:
        """Return a JSON value that was kept."""
        with self._used() as connection:
            row = connection.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def keep_note(self, name: str, value: Any) -> None:
        """Keep a JSON value."""
        with self._used() as connection:
            connection.execute("INSERT OR REPLACE INTO notes VALUES (?,?)", (name, json.dumps(value)))

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
