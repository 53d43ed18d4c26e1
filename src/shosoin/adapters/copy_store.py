"""Durable store of multicast copies: what slaves may still fetch here, and what was sent to other KMEs.

``<directory>/copies.sqlite``: table ``copy`` has a sealed copy for each key_ID and slave of this KME; table ``sent``
has a row for each key_ID and slave of another KME until that KME has claimed it. A row is gone, durably, before what it
stands for is used, and a key is served only when both rows were there: so an old copy of either KME's disk alone serves
nothing twice.

Security: encryption at rest (AES-256-GCM) is computational and guards stolen disks. SQLite overwrites deleted rows
(``secure_delete``); what a flash or copy-on-write file system keeps is out of reach.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from shosoin.adapters.copy_sealing import CopySeal, HeldCopy, can_be_stored, copy_of_row, row_of_copy
from shosoin.adapters.private_files import destroy
from shosoin.base import KmeId, Rejected, SaeId
from shosoin.keys.errors import KeyDamaged, KeyNotFound, StreamRefused

__all__ = [
    "COPIES_NAME",
    "DAMAGED_SUFFIX",
    "CopiesDamaged",
    "CopyStorage",
    "CopyStore",
    "HeldCopy",
    "open_copy_store",
]

COPIES_NAME = "copies.sqlite"
"""In the state directory of a KME."""
DAMAGED_SUFFIX = ".damaged"
"""Added to the name of a file that was set aside."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS copy (
    key_id TEXT NOT NULL, slave TEXT NOT NULL, master TEXT NOT NULL, peer TEXT NOT NULL, born_s REAL NOT NULL,
    length_bytes INTEGER NOT NULL, named TEXT NOT NULL, simulated INTEGER NOT NULL, sealed BLOB NOT NULL,
    PRIMARY KEY (peer, key_id, slave)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sent (
    key_id TEXT NOT NULL, slave TEXT NOT NULL, peer TEXT NOT NULL, born_s REAL NOT NULL,
    PRIMARY KEY (key_id, slave)) WITHOUT ROWID;
"""
_PLACE = "peer = ? AND key_id = ? AND slave = ?"


class CopiesDamaged(StreamRefused):
    """The file is no sound database: which copies are unused can no longer be told."""

    code = "keys.copies_damaged"
    hint = "the copies in it count as burned"


class CopyStorage(Protocol):
    """What keeps multicast copies; every change is durable when its method returns, or did not happen.

    Raises (all methods):
        StreamRefused: it cannot be read or written; ``StoreUnavailable`` if that may pass.
    """

    @property
    def epoch(self) -> int:
        """Changes whenever what is stored may have changed otherwise than through this object; 0 before the first."""
        ...

    def tick(self) -> None:
        """Do what has to be done every few seconds."""
        ...

    def index(self) -> list[HeldCopy]:
        """Return what is held, without the bits."""
        ...

    def add_held(self, copies: Sequence[HeldCopy]) -> None:
        """Store copies for slaves of this KME."""
        ...

    def take_held(self, copies: Sequence[HeldCopy]) -> list[bytearray]:
        """Remove copies and return their bits.

        Raises:
            KeyDamaged: one of them does not open; all are gone.
            KeyNotFound: one of them is not there; all are gone.
        """
        ...

    def drop_held(self, copies: Sequence[HeldCopy]) -> None:
        """Remove copies."""
        ...

    def add_sent(self, rows: Sequence[tuple[str, SaeId, KmeId]], born_s: float) -> None:
        """Write down what other KMEs may claim: key_ID, slave, KME of the slave."""
        ...

    def shared_with(self, peers: Sequence[KmeId], key_ids: Sequence[str]) -> list[KmeId]:
        """Return those of some KMEs that may claim a copy of one of these keys."""
        ...

    def claim(self, peer: KmeId, slave: SaeId, key_ids: Sequence[str]) -> bool:
        """Remove the rows of all these keys, if all are there; whether they were."""
        ...

    def expire(self, before_s: float, now_s: float) -> None:
        """Remove everything born before a time of the wall clock; what was born after ``now_s`` counts as born then."""
        ...

    def burn(self, peer: KmeId) -> None:
        """Remove what came from a KME's masters, and all that may be claimed of keys of which it may claim a copy."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


def open_copy_store(path: Path, storage_key: bytes) -> tuple[CopyStore, bool]:
    """Return the store, and whether it began anew because the file was damaged; that one lies beside it then.

    Nothing is lost but what the file held: a copy is served only if a row says so, here and at the other KME.
    """
    try:
        return CopyStore(path, storage_key), False
    except CopiesDamaged:
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        path.replace(path.with_name(path.name + DAMAGED_SUFFIX))
        return CopyStore(path, storage_key), True


class CopyStore:
    """Both tables; every method is one transaction, durable when it returns.

    Raises:
        StreamRefused: the file cannot be read or written.
        CopiesDamaged: it is damaged.
    """

    def __init__(self, path: Path, storage_key: bytes) -> None:
        self._path = path
        self._seal = CopySeal(storage_key)
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as err:
            raise StreamRefused(f"{path} cannot be used: {err}") from err
        try:
            self._prepare()
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        try:
            self._path.chmod(0o600)
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA secure_delete=ON"):
                self._database.execute(statement)
            self._database.executescript(_SCHEMA)
            damage = self._database.execute("PRAGMA integrity_check(1)").fetchone()
        except (OSError, sqlite3.OperationalError) as err:
            raise StreamRefused(f"{self._path} cannot be used: {err}") from err
        except sqlite3.Error as err:
            raise CopiesDamaged(f"{self._path} is damaged: {err}") from err
        if damage != ("ok",):
            raise CopiesDamaged(f"{self._path} is damaged: {damage[0]}")

    epoch = 1
    """A file is nobody else's."""

    def tick(self) -> None:
        """Do nothing."""

    def index(self) -> list[HeldCopy]:
        """Return what is held, without the bits."""
        rows = self._all("SELECT key_id, slave, master, peer, born_s, length_bytes, named, simulated FROM copy", ())
        try:
            return [copy_of_row(row) for row in rows]
        except (Rejected, AttributeError, TypeError, ValueError) as err:
            raise StreamRefused(f"{self._path} holds what was not written here") from err

    def add_held(self, copies: Sequence[HeldCopy]) -> None:
        """Store copies for slaves of this KME."""
        rows = [(*row_of_copy(one), self._seal.sealed(one, bytes(one.bits))) for one in copies]
        self._change([("INSERT INTO copy VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)])

    def take_held(self, copies: Sequence[HeldCopy]) -> list[bytearray]:
        """Remove copies and return their bits.

        Raises:
            KeyDamaged: one of them does not open; all are gone.
            KeyNotFound: one of them has expired meanwhile; all are gone.
        """
        query = f"SELECT sealed FROM copy WHERE {_PLACE}"  # noqa: S608
        sealed = [self._all(query, one.place) for one in copies]
        self.drop_held(copies)
        if not all(sealed):
            raise KeyNotFound
        try:
            return [self._unsealed(one, rows[0][0]) for one, rows in zip(copies, sealed, strict=True)]
        except TypeError as err:
            raise KeyDamaged("a stored copy of a multicast key fails its check") from err

    def drop_held(self, copies: Sequence[HeldCopy]) -> None:
        """Remove copies."""
        statement = f"DELETE FROM copy WHERE {_PLACE}"  # noqa: S608
        self._change([(statement, [one.place for one in copies])])

    def add_sent(self, rows: Sequence[tuple[str, SaeId, KmeId]], born_s: float) -> None:
        """Write down what other KMEs may claim: key_ID, slave, KME of the slave."""
        self._change([("INSERT INTO sent VALUES (?, ?, ?, ?)", [(*row, born_s) for row in rows])])

    def shared_with(self, peers: Sequence[KmeId], key_ids: Sequence[str]) -> list[KmeId]:
        """Return those of some KMEs that may claim a copy of one of these keys."""
        query = "SELECT peer FROM sent WHERE key_id = ?"
        named = filter(can_be_stored, key_ids)
        found = {peer for key_id in named for (peer,) in self._all(query, (key_id,))}
        return [peer for peer in peers if peer in found]

    def claim(self, peer: KmeId, slave: SaeId, key_ids: Sequence[str]) -> bool:
        """Remove the rows of all these keys, if all are there; whether they were."""
        if not all(map(can_be_stored, key_ids)):
            return False
        try:
            self._database.execute("BEGIN IMMEDIATE")
            whole = all(  # up to the first that is not there: a peer may name very many
                self._database.execute(
                    "DELETE FROM sent WHERE key_id = ? AND slave = ? AND peer = ?", (key_id, slave, peer)
                ).rowcount
                for key_id in key_ids
            )
            self._database.execute("COMMIT" if whole else "ROLLBACK")
        except sqlite3.Error as err:
            self._roll_back()
            raise self._failed(err) from err
        return whole

    def expire(self, before_s: float, now_s: float) -> None:
        """Remove everything born before a time of the wall clock; what was born after ``now_s`` counts as born then."""
        tables = ("copy", "sent")
        redated = [(f"UPDATE {table} SET born_s = ? WHERE born_s > ?", [(now_s, now_s)]) for table in tables]  # noqa: S608
        self._change([*redated, *((f"DELETE FROM {table} WHERE born_s < ?", [(before_s,)]) for table in tables)])  # noqa: S608

    def burn(self, peer: KmeId) -> None:
        """Remove what came from a KME's masters, and all that may be claimed of keys of which it may claim a copy."""
        shared = "DELETE FROM sent WHERE key_id IN (SELECT key_id FROM sent WHERE peer = ?)"
        self._change([("DELETE FROM copy WHERE peer = ?", [(peer,)]), (shared, [(peer,)])])
        try:  # whose copies are in a damaged file nobody can tell
            destroy(self._path.with_name(self._path.name + DAMAGED_SUFFIX))
        except OSError as err:
            raise StreamRefused(f"{self._path.name}{DAMAGED_SUFFIX} cannot be removed: {err.strerror}") from err

    def reseal(self, storage_key: bytes) -> None:
        """Seal every copy under another storage key, in one transaction; copies that do not open are removed.

        Called again after it was done, under either key, it changes nothing.
        """
        fresh, changed, gone = CopySeal(storage_key), [], []
        for one in self.index():
            ((sealed,),) = self._all(f"SELECT sealed FROM copy WHERE {_PLACE}", one.place)  # noqa: S608
            if fresh.opened(one, sealed) is not None:
                continue
            bits = self._seal.opened(one, sealed)
            if bits is None:
                gone.append(one.place)
            else:
                changed.append((fresh.sealed(one, bits), *one.place))
        self._change(
            [
                (f"UPDATE copy SET sealed = ? WHERE {_PLACE}", changed),  # noqa: S608
                (f"DELETE FROM copy WHERE {_PLACE}", gone),  # noqa: S608
            ]
        )
        self._seal = fresh

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _all(self, query: str, values: Sequence[object]) -> list[Any]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as err:
            raise self._failed(err) from err

    def _change(self, statements: Sequence[tuple[str, Sequence[Sequence[object]]]]) -> None:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for statement, rows in statements:
                self._database.executemany(statement, rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as err:
            self._roll_back()
            raise self._failed(err) from err

    def _roll_back(self) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")

    def _failed(self, err: sqlite3.Error) -> StreamRefused:
        return StreamRefused(f"{self._path} failed: {err}")

    def _unsealed(self, one: HeldCopy, sealed: object) -> bytearray:
        bits = self._seal.opened(one, sealed)
        if bits is None:
            raise TypeError("a row of another type, or altered")
        return bytearray(bits)
