"""Durable store of one pair's key streams: an SQLite journal and one encrypted file per block.

``<directory>/journal.sqlite`` holds small records, block files hold key bits, both sealed (``stream_sealing``).
A commit is durable when it returns: blocks are written, synced and renamed and their directory synced, then the
journal commits (WAL, ``synchronous=FULL``), then consumed bytes are overwritten. After any failure the store refuses
further work: what is on disk is then no longer known.

Security: overwriting is best effort on flash and copy-on-write file systems.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from shosoin.adapters.private_files import read_private
from shosoin.adapters.stream_sealing import BLOCK_NONCE_BYTES, CHECK_BYTES, BlockSeal, RecordSeal, SealedBlock
from shosoin.base import Rejected
from shosoin.keys.blocks import BLOCK_NAME
from shosoin.keys.errors import StoreUnavailable, StreamRefused
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.store import Batch, WipeRange

__all__ = ["FileStreamStore", "read_or_make_storage_key"]

_MAGIC = b"SHOSBLK1"
_HEADER = struct.Struct(">8sII16s")
_SCHEMA = "CREATE TABLE IF NOT EXISTS record (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID"

_SQLITE_OUT_OF_REACH = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
_SYSTEM_OUT_OF_REACH = {errno.EACCES, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EPERM, errno.EROFS}


def read_or_make_storage_key(path: Path) -> bytes:
    """Return the 32-byte storage key in ``path``, made if absent.

    Raises:
        Rejected: if the file has another length.
        Denied: others can read it.
    """
    if not path.exists():
        _write_durably(path, os.urandom(32))
    key = read_private(path, "[kme] storage_key_file", bytes_max=1 << 16)
    if len(key) != 32:
        raise Rejected(f"storage key {path} has {len(key)} bytes, expected 32", code="store.bad_key")
    return key


class FileStreamStore:
    """``StreamStore`` in a directory of its own, held exclusively.

    Raises:
        StreamRefused: if the journal is damaged, or blocks lie there without one.
        StoreUnavailable: if another process holds the directory or the journal, or they are out of reach: nothing says
            then that anything is damaged, so nothing may be thrown away.
    """

    def __init__(self, directory: Path, storage_key: bytes) -> None:
        self._directory = directory
        self._failed = False
        self._blocks = directory / "blocks"
        try:
            self._blocks.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
            # Without this a power failure can take the whole pair away, and it would start anew from its secret.
            for place in (directory, directory.parent, directory.parent.parent):
                _sync_directory(place)
            self._lock = _lock(directory / "lock")
        except OSError as err:
            kind = StoreUnavailable if err.errno in _SYSTEM_OUT_OF_REACH else StreamRefused
            raise kind(f"{directory} cannot be used: {err.strerror}") from err
        self._records = RecordSeal(storage_key)
        self._cells = BlockSeal(storage_key)
        journal = directory / "journal.sqlite"
        try:
            if not journal.exists() and any(self._blocks.iterdir()):
                raise StreamRefused(f"{journal} is missing beside stored blocks")
            self._database = self._open(journal)
            _sync_directory(directory)
        except BaseException:
            self._lock.close()
            raise

    def load(self) -> dict[str, bytes]:
        """Return all records; remove blocks that no record names."""
        try:
            rows = self._database.execute("SELECT name, value FROM record").fetchall()
            records = {name: self._unseal(name, value) for name, value in rows}
        except sqlite3.Error as err:
            raise _refusal(f"the journal in {self._directory}", err) from err
        except ValueError as err:
            raise StreamRefused(f"the journal in {self._directory} is damaged") from err
        found = {path.name for path in self._blocks.iterdir()}
        named = {name.removeprefix("block/") for name in records if name.startswith("block/")}
        if not records and found:
            raise StreamRefused(f"the journal in {self._directory} is empty beside {len(found)} stored blocks")
        for orphan in found - named:
            self._destroy(self._blocks / orphan)
        return records

    def commit(self, batch: Batch) -> None:
        """Make the batch durable."""
        if self._failed:
            raise StreamRefused(f"an earlier write to {self._directory} failed")
        try:
            for name, content in batch.blocks.items():
                self._write_block(name, content)
            if batch.blocks:
                _sync_directory(self._blocks)
            self._write_records(batch)
            for name, wipes in groupby(sorted(batch.wipes, key=_block_of), key=_block_of):
                self._wipe(name, wipes)
            for name in batch.drops:
                self._destroy(self._path(name))
        except (OSError, sqlite3.Error) as err:
            self._failed = True
            raise StreamRefused(f"writing to {self._directory} failed: {err}") from err

    def read_block(self, name: str) -> tuple[bytearray, Sequence[int]]:
        """Return a block's bytes and the granules whose check fails (zeroed); no bytes if the file is beyond use."""
        try:
            raw = self._path(name).read_bytes()
        except OSError:
            return bytearray(), (0,)
        granules = _granules_of(raw, len(raw))
        if granules is None:
            return bytearray(), (0,)
        size, nonce = granules * GRANULE_BYTES, raw[_HEADER.size - BLOCK_NONCE_BYTES : _HEADER.size]
        cells, checks = raw[_HEADER.size : _HEADER.size + size], raw[_HEADER.size + size :]
        return self._cells.open(SealedBlock(nonce, cells, checks))

    def close(self) -> None:
        """Let go of the directory."""
        self._database.close()
        self._lock.close()

    # Journal

    def _open(self, journal: Path) -> sqlite3.Connection:
        database = sqlite3.connect(journal, isolation_level=None, check_same_thread=False)
        try:
            journal.chmod(0o600)
            for statement in ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA secure_delete=ON", _SCHEMA):
                database.execute(statement)
            damage = database.execute("PRAGMA integrity_check(1)").fetchone()
        except sqlite3.Error as err:
            database.close()
            raise _refusal(f"the journal {journal}", err) from err
        if damage != ("ok",):
            database.close()
            raise StreamRefused(f"the journal {journal} is damaged: {damage[0]}")
        return database

    def _write_records(self, batch: Batch) -> None:
        puts = [(name, self._records.seal(name, value)) for name, value in batch.records.items() if value is not None]
        deletes = [(name,) for name, value in batch.records.items() if value is None]
        if not puts and not deletes:
            return
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany("INSERT OR REPLACE INTO record VALUES (?, ?)", puts)
        self._database.executemany("DELETE FROM record WHERE name = ?", deletes)
        self._database.execute("COMMIT")

    def _unseal(self, name: Any, value: Any) -> bytes:
        if not isinstance(name, str) or not isinstance(value, bytes):  # SQLite does not mind
            raise ValueError("a record of another type")  # noqa: TRY004  # what its caller takes for damage
        return self._records.unseal(name, value)

    # Blocks

    def _path(self, name: str) -> Path:
        if not BLOCK_NAME.fullmatch(name):
            raise ValueError(f"not a block name: {name!r}")
        return self._blocks / name

    def _write_block(self, name: str, content: bytes) -> None:
        sealed = self._cells.seal(content)
        header = _HEADER.pack(_MAGIC, len(content) // GRANULE_BYTES, 0, sealed.nonce)
        _write_file(self._path(name), (header, sealed.cells, sealed.checks))

    def _wipe(self, name: str, wipes: Iterable[WipeRange]) -> None:
        """Overwrite ranges of one block and sync it once; of a file that is beyond use, everything."""
        path = self._path(name)
        if not path.exists():
            return  # a copy made file by file may lack it: nothing is left to overwrite
        with path.open("r+b") as file:
            granules = _granules_of(file.read(_HEADER.size), path.stat().st_size)
            if granules is None:
                file.seek(0)
                file.write(bytes(path.stat().st_size))
                wipes = ()
            checks = _HEADER.size + (granules or 0) * GRANULE_BYTES
            for wipe in wipes:
                file.seek(_HEADER.size + wipe.first * GRANULE_BYTES)
                file.write(bytes(wipe.count * GRANULE_BYTES))
                file.seek(checks + wipe.first * CHECK_BYTES)
                file.write(bytes(wipe.count * CHECK_BYTES))
            file.flush()
            os.fdatasync(file.fileno())

    def _destroy(self, path: Path) -> None:
        """Overwrite and remove a file; a file that is already gone is fine."""
        try:
            with path.open("r+b") as file:
                file.write(bytes(path.stat().st_size))
                file.flush()
                os.fdatasync(file.fileno())
            path.unlink()
        except FileNotFoundError:
            return


def _refusal(what: str, err: sqlite3.Error) -> StreamRefused:
    if getattr(err, "sqlite_errorcode", 0) & 0xFF in _SQLITE_OUT_OF_REACH:
        return StoreUnavailable(f"{what} cannot be used now: {err}")
    return StreamRefused(f"{what} is damaged: {err}")


def _granules_of(raw: bytes, size_bytes: int) -> int | None:
    """Return how many granules a block file has, from its head and its size; ``None`` if they contradict each other."""
    if len(raw) < _HEADER.size:
        return None
    magic, granules, _, _ = _HEADER.unpack_from(raw)
    right = magic == _MAGIC and size_bytes == _HEADER.size + granules * (GRANULE_BYTES + CHECK_BYTES)
    return int(granules) if right else None


def _block_of(wipe: WipeRange) -> str:
    return wipe.block


def _lock(path: Path) -> Any:
    file = path.open("w")
    path.chmod(0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        file.close()
        raise StoreUnavailable(f"{path.parent} is in use by another process") from err
    return file


def _write_file(path: Path, parts: Iterable[bytes]) -> None:
    part = path.with_name(path.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:  # buffered: a raw write may be short without an error
        for content in parts:
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def _write_durably(path: Path, content: bytes) -> None:
    _write_file(path, (content,))
    _sync_directory(path.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
