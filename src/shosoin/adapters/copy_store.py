"""Durable store of multicast copies: what slaves may still fetch here, and what was sent to other KMEs.

``<directory>/copies.sqlite``: table ``copy`` has a sealed copy for each key_ID and slave of this KME; table ``sent``
has a row for each key_ID and slave of another KME until that KME has claimed it. A row is gone, durably, before what it
stands for is used, and a key is served only when both rows were there: so an old copy of either KME's disk alone serves
nothing twice.

Security: encryption at rest (AES-256-GCM) is computational and guards stolen disks. SQLite overwrites deleted rows
(``secure_delete``); what a flash or copy-on-write file system keeps is out of reach.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shosoin.base import KmeId, Rejected, SaeId
from shosoin.keys.copies import HeldCopy
from shosoin.keys.errors import KeyDamaged, KeyNotFound, StreamRefused

__all__ = ["COPIES_NAME", "DAMAGED_SUFFIX", "CopiesDamaged", "CopyStore", "HeldCopy", "open_copy_store"]

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
_NONCE_BYTES = 12
_PLACE = "peer = ? AND key_id = ? AND slave = ?"


class CopiesDamaged(StreamRefused):
    """The file is no sound database: which copies are unused can no longer be told."""

    code = "keys.copies_damaged"
    hint = "the copies in it count as burned"


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
        self._seal = _seal_of(storage_key)
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

    def index(self) -> list[HeldCopy]:
        """Return what is held, without the bits."""
        rows = self._all("SELECT key_id, slave, master, peer, born_s, length_bytes, named, simulated FROM copy", ())
        try:
            return [
                HeldCopy(
                    key_id,
                    SaeId(slave),
                    SaeId(master),
                    KmeId(peer),
                    float(born_s),
                    int(length),
                    frozenset(map(SaeId, named.split())),
                    simulated=bool(simulated),
                )
                for key_id, slave, master, peer, born_s, length, named, simulated in rows
            ]
        except (Rejected, AttributeError, TypeError, ValueError) as err:
            raise StreamRefused(f"{self._path} holds what was not written here") from err

    def add_held(self, copies: Sequence[HeldCopy]) -> None:
        """Store copies for slaves of this KME."""
        rows = [
            (
                *(one.key_id, one.slave, one.master, one.peer, one.born_s, one.length_bytes),
                *(" ".join(sorted(one.named)), one.simulated, self._sealed(one)),
            )
            for one in copies
        ]
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

    def claim(self, peer: KmeId, slave: SaeId, key_ids: Sequence[str]) -> bool:
        """Remove the rows of all these keys, if all are there; whether they were."""
        try:
            self._database.execute("BEGIN IMMEDIATE")
            removed = sum(
                self._database.execute(
                    "DELETE FROM sent WHERE key_id = ? AND slave = ? AND peer = ?", (key_id, slave, peer)
                ).rowcount
                for key_id in key_ids
            )
            whole = removed == len(key_ids)
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
        """Remove everything that came from a KME's masters or may be claimed by a KME."""
        self._change([(f"DELETE FROM {table} WHERE peer = ?", [(peer,)]) for table in ("copy", "sent")])  # noqa: S608

    def reseal(self, storage_key: bytes) -> None:
        """Seal every copy under another storage key, in one transaction; copies that do not open are removed.

        Called again after it was done, under either key, it changes nothing.
        """
        fresh, changed, gone = _seal_of(storage_key), [], []
        for one in self.index():
            ((sealed,),) = self._all(f"SELECT sealed FROM copy WHERE {_PLACE}", one.place)  # noqa: S608
            if _opened(fresh, one, sealed) is not None:
                continue
            bits = _opened(self._seal, one, sealed)
            if bits is None:
                gone.append(one.place)
            else:
                changed.append((_sealed(fresh, one, bits), *one.place))
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

    def _sealed(self, one: HeldCopy) -> bytes:
        return _sealed(self._seal, one, bytes(one.bits))

    def _unsealed(self, one: HeldCopy, sealed: object) -> bytearray:
        bits = _opened(self._seal, one, sealed)
        if bits is None:
            raise TypeError("a row of another type, or altered")
        return bytearray(bits)


def _seal_of(storage_key: bytes) -> AESGCM:
    return AESGCM(blake2b(key=storage_key, digest_size=32, person=b"shosoin copies").digest())


def _sealed(seal: AESGCM, one: HeldCopy, bits: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + seal.encrypt(nonce, bits, _context(one))


def _opened(seal: AESGCM, one: HeldCopy, sealed: object) -> bytes | None:
    """Return the bits of a copy, ``None`` if it was altered or sealed under another key."""
    if not isinstance(sealed, bytes) or len(sealed) < _NONCE_BYTES:
        return None
    try:
        return seal.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _context(one))
    except InvalidTag:
        return None


def _context(one: HeldCopy) -> bytes:
    return f"{one.key_id}\0{one.slave}\0{one.master}\0{one.peer}\0{int(one.simulated)}".encode()
