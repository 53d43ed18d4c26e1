"""The records of a share store in SQLite: schema, and one step's view of them.

Durability: write-ahead log with ``synchronous=FULL`` (every commit is flushed), ``secure_delete`` (deleted rows are
zeroed in the database file; pages in the log are overwritten when the log is reused or truncated).
Bytes of shares belong to *contents*: a small share is a column, a large one a file named after the content's number.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shosoin.adapters.share_store_errors import RecordsDamaged, StageIncomplete, sound
from shosoin.base import ObjectId, OwnerId, Rejected, VersionId
from shosoin.vault.ports import RegisterRow, ShareKey, ShareRow, ShareState

__all__ = ["Finished", "Records", "connect", "content_of", "create_schema", "locator_of", "share_key"]

SCHEMA_VERSION = 2
_APPLICATION_ID = 0x53484F53  # "SHOS"
_BUSY_MS = 10_000
_LOCATOR = re.compile(r"[bf][0-9a-f]{16}")

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE shares (
    owner TEXT NOT NULL, object_id TEXT NOT NULL, version TEXT NOT NULL, epoch INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL, state TEXT NOT NULL, created_wall_s REAL NOT NULL, x_index INTEGER NOT NULL,
    threshold INTEGER NOT NULL, mask_elements INTEGER NOT NULL, locator TEXT NOT NULL, class TEXT NOT NULL,
    content_id INTEGER NOT NULL,
    PRIMARY KEY (owner, object_id, version, epoch)
) WITHOUT ROWID;
CREATE UNIQUE INDEX shares_by_content ON shares (content_id);
CREATE INDEX shares_staged ON shares (created_wall_s) WHERE state = 'staged';
CREATE TABLE contents (
    id INTEGER PRIMARY KEY, size_bytes INTEGER NOT NULL, damaged INTEGER NOT NULL DEFAULT 0,
    sums BLOB NOT NULL, data BLOB
);
CREATE INDEX contents_damaged ON contents (id) WHERE damaged = 1;
CREATE TABLE usage (owner TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE challenges (
    owner TEXT NOT NULL, object_id TEXT NOT NULL, version TEXT NOT NULL, epoch INTEGER NOT NULL,
    answered TEXT NOT NULL, PRIMARY KEY (owner, object_id, version, epoch)
) WITHOUT ROWID;
CREATE TABLE registers (
    owner TEXT NOT NULL, register_id TEXT NOT NULL,
    promised_round INTEGER NOT NULL, promised_by TEXT NOT NULL,
    accepted_round INTEGER NOT NULL, accepted_by TEXT NOT NULL, accepted_value TEXT,
    committed_round INTEGER NOT NULL, committed_by TEXT NOT NULL, committed_value TEXT,
    certificate TEXT, signature_set TEXT, UNIQUE (owner, register_id)
);
CREATE TABLE signature_sets (name TEXT PRIMARY KEY, refs INTEGER NOT NULL, text TEXT NOT NULL);
CREATE TABLE garbage (path TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_ATTEMPTS = """
CREATE TABLE IF NOT EXISTS attempts (
    owner TEXT NOT NULL, object_id TEXT NOT NULL, version TEXT NOT NULL, epoch INTEGER NOT NULL,
    attempt TEXT NOT NULL, PRIMARY KEY (owner, object_id, version, epoch, attempt)
) WITHOUT ROWID
"""
"""Attempts to repair a share; records of format 1 that were made without the table get it when they are opened."""

_OF_WRITER = ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "cache_size = -65536")
_KEY = "owner = ? AND object_id = ? AND version = ? AND epoch = ?"
_SHARE = (
    "owner, object_id, version, epoch, size_bytes, state, created_wall_s, x_index, threshold, mask_elements, locator,"
    " class"
)
_SHARE_TYPES = ((int, float), int, int, int, str, str)
_STATES = frozenset(state.value for state in ShareState)
_TEXT_OR_NONE = (str, type(None))
_REGISTER_TYPES = (int, str, int, str, _TEXT_OR_NONE, int, str, _TEXT_OR_NONE, _TEXT_OR_NONE, _TEXT_OR_NONE)
_REGISTER = (
    "promised_round, promised_by, accepted_round, accepted_by, accepted_value,"
    " committed_round, committed_by, committed_value, certificate, signature_set"
)


def connect(path: Path, *, writer: bool) -> sqlite3.Connection:
    """Open the records; only one connection of a store may be the writer."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256)
    try:
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        for setting in _OF_WRITER if writer else ("query_only = ON",):
            connection.execute(f"PRAGMA {setting}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def create_schema(connection: sqlite3.Connection, store_id: str) -> None:
    """Create the tables in new records; check the version of existing ones.

    Raises:
        Rejected: the records were written by a newer version, or by another program.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION and connection.execute("PRAGMA application_id").fetchone()[0] == _APPLICATION_ID:
        connection.execute(_ATTEMPTS)
        return
    if version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise Rejected(
            f"records of format {version}, this version reads format {SCHEMA_VERSION}", code="vault.records_version"
        )
    connection.execute("BEGIN IMMEDIATE")
    for statement in (*_SCHEMA.split(";"), _ATTEMPTS):
        connection.execute(statement)
    connection.executemany(
        "INSERT INTO meta VALUES (?, ?)", [("store_id", store_id), ("generation", "0"), ("scrub", "0")]
    )
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def locator_of(content_id: int, *, in_file: bool) -> str:
    """Return the locator that a ``ShareRow`` carries."""
    return f"{'f' if in_file else 'b'}{content_id:016x}"


def content_of(locator: str) -> tuple[int, bool]:
    """Return (content number, whether in a file) of a locator.

    Raises:
        Rejected: not one of ours.
    """
    if not _LOCATOR.fullmatch(locator):
        raise Rejected(f"not a locator of this store: {locator[:40]!r}", code="vault.bad_locator")
    return int(locator[1:], 16), locator[0] == "f"


@dataclass(frozen=True, slots=True)
class Finished:
    """Bytes of a share that are complete, and durable if they are a file, but belong to no record yet."""

    content_id: int
    key: ShareKey
    size_bytes: int
    sums: bytes
    data: bytes | None
    """The bytes of a small share; ``None`` for a file."""
    finished_s: float

    @property
    def locator(self) -> str:
        """Its locator."""
        return locator_of(self.content_id, in_file=self.data is None)


def _share(row: Sequence[Any]) -> ShareRow:
    owner, object_id, version, epoch, *rest = row
    size, state, created, x_index, threshold, masks, locator, class_ = sound(rest, int, str, *_SHARE_TYPES)
    if state not in _STATES:
        raise RecordsDamaged("a share is recorded in a state that does not exist")
    key = share_key(owner, object_id, version, epoch)
    return ShareRow(key, size, ShareState(state), created, x_index, threshold, masks, locator, class_)


def share_key(*values: Any) -> ShareKey:
    """Return the key of a share from its four columns."""
    owner, object_id, version, epoch = sound(values, str, str, str, int)
    try:
        return ShareKey(OwnerId(owner), ObjectId(object_id), VersionId(version), epoch)
    except Rejected as err:
        raise RecordsDamaged("a share is recorded under a name that cannot be") from err


def _values(key: ShareKey) -> tuple[str, str, str, int]:
    return str(key.owner), str(key.object_id), str(key.version), key.epoch


@dataclass(slots=True)
class Records:
    """One step's view of the records (``SiteTransaction``), inside a transaction that the writer has begun."""

    connection: sqlite3.Connection
    finished: Mapping[int, Finished]
    after_commit: list[Callable[[], None]] = field(default_factory=list)
    """Runs on the caller's loop when everything is durable."""
    claimed_files: list[int] = field(default_factory=list)
    """Contents in files that this step claimed."""
    unfiled: Collection[int] = ()
    """Contents in files that were claimed earlier and are not filed away: whoever counts on them waits for that."""
    claimed: Callable[[Finished], None] = lambda _: None
    make_sure_of_room: Callable[[int], None] = lambda _: None
    """Raises ``DiskFull`` if so many more bytes would take the space that is reserved for records."""
    file_path: Callable[[int], str] = lambda _: ""
    erase_soon: Callable[[], None] = lambda: None
    _registers: dict[tuple[OwnerId, ObjectId], RegisterRow | None] = field(default_factory=dict)
    """What this step read or wrote: a step asks for its register more than once."""

    def register(self, owner: OwnerId, register_id: ObjectId) -> RegisterRow | None:
        """Return a register, or ``None`` if nobody wrote it."""
        key = owner, register_id
        if key not in self._registers:
            self._registers[key] = self._read_register(owner, register_id)
        return self._registers[key]

    def _read_register(self, owner: OwnerId, register_id: ObjectId) -> RegisterRow | None:
        found = self.connection.execute(
            f"SELECT {_REGISTER} FROM registers WHERE owner = ? AND register_id = ?",  # noqa: S608  # constants
            (str(owner), str(register_id)),
        ).fetchone()
        if found is None:
            return None
        promised, by, accepted, accepted_by, value, committed, committed_by, *certified = sound(found, *_REGISTER_TYPES)
        return RegisterRow((promised, by), (accepted, accepted_by), value, (committed, committed_by), *certified)

    def put_register(self, owner: OwnerId, register_id: ObjectId, row: RegisterRow) -> None:
        """Replace a register; signatures that none refers to any more are deleted."""
        before = self.register(owner, register_id)
        self._count_references(before.signature_set if before else None, row.signature_set)
        self._registers[owner, register_id] = row
        self.connection.execute(
            f"INSERT INTO registers (owner, register_id, {_REGISTER}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608
            " ON CONFLICT (owner, register_id) DO UPDATE SET promised_round = excluded.promised_round,"
            " promised_by = excluded.promised_by, accepted_round = excluded.accepted_round,"
            " accepted_by = excluded.accepted_by, accepted_value = excluded.accepted_value,"
            " committed_round = excluded.committed_round, committed_by = excluded.committed_by,"
            " committed_value = excluded.committed_value, certificate = excluded.certificate,"
            " signature_set = excluded.signature_set",
            (
                str(owner),
                str(register_id),
                *row.promised,
                *row.accepted_ballot,
                row.accepted_value,
                *row.committed_ballot,
                row.committed_value,
                row.certificate,
                row.signature_set,
            ),
        )

    def _count_references(self, before: str | None, name: str | None) -> None:
        """Count the registers that refer to each set of signatures, when one of them is replaced."""
        if before == name:
            return
        change = "UPDATE signature_sets SET refs = refs + ? WHERE name = ?"
        if name is not None:
            self.connection.execute(change, (1, name))
        if before is not None:
            self.connection.execute(change, (-1, before))
            self.connection.execute("DELETE FROM signature_sets WHERE name = ? AND refs = 0", (before,))

    def put_signatures(self, name: str, text: str) -> None:
        """Keep signatures that registers will refer to."""
        if self.connection.execute("SELECT 1 FROM signature_sets WHERE name = ?", (name,)).fetchone() is None:
            self.connection.execute("INSERT INTO signature_sets VALUES (?, 0, ?)", (name, text))

    def signatures(self, name: str) -> str | None:
        """Return signatures that a register refers to."""
        found = self.connection.execute("SELECT text FROM signature_sets WHERE name = ?", (name,)).fetchone()
        return str(sound(found, str)[0]) if found else None

    def share(self, key: ShareKey) -> ShareRow | None:
        """Return a share's record."""
        query = f"SELECT {_SHARE} FROM shares WHERE {_KEY}"  # noqa: S608  # constants
        found = self.connection.execute(query, _values(key)).fetchone()
        return None if found is None else _share(found)

    def put_share(self, row: ShareRow) -> None:
        """Insert or replace a share's record.

        Raises:
            StageIncomplete: the locator is not that of the record replaced and not one that ``finish`` gave out for
                this key and size since the start of the process.
        """
        content_id, _ = content_of(row.locator)
        old = self.share(row.key)
        if old is None or old.locator != row.locator:
            self._claim(row, content_id)
        elif old.size_bytes != row.size_bytes:
            raise StageIncomplete(f"a share of {old.size_bytes} bytes recorded with {row.size_bytes}")
        elif content_id in self.unfiled:
            self.claimed_files.append(content_id)
        if old is not None and old.locator != row.locator:
            self._drop_content(old.locator)
        self.connection.execute(
            f"INSERT OR REPLACE INTO shares ({_SHARE}, content_id) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608
            (
                *_values(row.key),
                row.size_bytes,
                row.state.value,
                row.created_wall_s,
                row.x_index,
                row.threshold,
                row.mask_elements,
                row.locator,
                row.class_,
                content_id,
            ),
        )
        self._count(row.key.owner, row.size_bytes - (old.size_bytes if old else 0))

    def _claim(self, row: ShareRow, content_id: int) -> None:
        found = self.finished.get(content_id)
        if found is None or found.key != row.key or found.size_bytes != row.size_bytes or found.locator != row.locator:
            raise StageIncomplete("the staged bytes are gone; write the share again")
        if found.data is not None:
            self.make_sure_of_room(found.size_bytes)
        self.connection.execute(
            "INSERT INTO contents (id, size_bytes, sums, data) VALUES (?,?,?,?)",
            (content_id, found.size_bytes, found.sums, found.data),
        )
        if found.data is None:
            self.claimed_files.append(content_id)
        self.after_commit.append(lambda: self.claimed(found))

    def _drop_content(self, locator: str) -> None:
        content_id, in_file = content_of(locator)
        self.connection.execute("DELETE FROM contents WHERE id = ?", (content_id,))
        if in_file:
            self.add_garbage(self.file_path(content_id))
        self.after_commit.append(self.erase_soon)

    def add_garbage(self, path: str) -> None:
        """Note a file that is to be erased."""
        self.connection.execute("INSERT OR IGNORE INTO garbage VALUES (?)", (path,))

    def _count(self, owner: OwnerId, change_bytes: int) -> None:
        if change_bytes:
            self.connection.execute(
                "INSERT INTO usage VALUES (?, ?) ON CONFLICT (owner) DO UPDATE SET bytes = bytes + excluded.bytes",
                (str(owner), change_bytes),
            )

    def shares_of(self, owner: OwnerId, object_id: ObjectId) -> Sequence[ShareRow]:
        """Return the records of all versions and epochs of an object."""
        query = f"SELECT {_SHARE} FROM shares WHERE owner = ? AND object_id = ? ORDER BY version, epoch"  # noqa: S608
        return [_share(row) for row in self.connection.execute(query, (str(owner), str(object_id)))]

    def list_shares(self, owner: OwnerId, after: str, limit: int) -> Sequence[ShareRow]:
        """Return records in order of object ID, starting after the given one.

        The last object is never cut in two, so the answer can be a little longer than ``limit``.
        """
        query = (
            f"SELECT {_SHARE} FROM shares WHERE owner = ? AND object_id > ?"  # noqa: S608  # constants
            " ORDER BY object_id, version, epoch LIMIT ?"
        )
        rows = [_share(row) for row in self.connection.execute(query, (str(owner), str(after), limit))]
        if len(rows) < limit or not rows:
            return rows
        last = rows[-1].key.object_id
        return [row for row in rows if row.key.object_id != last] + list(self.shares_of(owner, last))

    def delete_share(self, key: ShareKey) -> None:
        """Delete a record; its bytes are overwritten and removed after the transaction is durable.

        The challenges answered for it are kept: the same bytes can come back by repair, with the same masks.
        """
        old = self.share(key)
        if old is None:
            return
        self.connection.execute(f"DELETE FROM shares WHERE {_KEY}", _values(key))  # noqa: S608  # constants
        self._drop_content(old.locator)
        self._count(key.owner, -old.size_bytes)

    def used_bytes(self, owner: OwnerId) -> int:
        """Return the bytes that an owner's shares take, staged ones included."""
        found = self.connection.execute("SELECT bytes FROM usage WHERE owner = ?", (str(owner),)).fetchone()
        return int(sound(found, int)[0]) if found else 0

    def challenges(self, key: ShareKey) -> Sequence[str]:
        """Return the audit challenges already answered for a share, oldest first."""
        query = f"SELECT answered FROM challenges WHERE {_KEY}"  # noqa: S608  # constants
        found = self.connection.execute(query, _values(key)).fetchone()
        return str(sound(found, str)[0]).split() if found else []

    def add_challenge(self, key: ShareKey, challenge: str) -> None:
        """Record an audit challenge; one that is known already is not recorded twice."""
        known = self.challenges(key)
        if challenge not in known:
            self.connection.execute(
                "INSERT OR REPLACE INTO challenges VALUES (?,?,?,?,?)", (*_values(key), " ".join([*known, challenge]))
            )

    def use_attempt(self, key: ShareKey, attempt: str) -> bool:
        """Record that an attempt to repair a share was begun; false if it was recorded before."""
        done = self.connection.execute("INSERT OR IGNORE INTO attempts VALUES (?,?,?,?,?)", (*_values(key), attempt))
        return done.rowcount == 1

    def staged_before(self, wall_s: float, limit: int) -> list[ShareKey]:
        """Return shares that were staged before a moment and never became part of anything."""
        query = (
            f"SELECT {_SHARE} FROM shares WHERE state = 'staged' AND created_wall_s < ?"  # noqa: S608  # constants
            " ORDER BY created_wall_s LIMIT ?"
        )
        return [_share(row).key for row in self.connection.execute(query, (wall_s, limit))]
