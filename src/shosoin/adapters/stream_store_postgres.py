"""Durable store of one pair's key streams in a PostgreSQL database: for operators who run a cluster of their own.

A commit is one transaction, and durable when it returns. A pair has one owner: the process whose session holds the
pair's advisory lock. Each owner takes a *fencing token*, one higher than the last, and every commit checks it in the
same transaction; so an owner that was paused, replaced and woken cannot write over its successor. The lock alone would
do while sessions and processes die together; the token holds where they do not (a pooler, a failover, an operator who
ends a session). An owner says with every commit, empty ones included, for how long it holds the pair; whoever comes
after that ends its session.
After any failure the store refuses further work: what is stored is then no longer known. Whoever opens the pair anew
reads what was committed, as after a crash.

Security: what is sealed and what is not is as in files (``stream_sealing``). Deleting and overwriting concern the
present version of a row: PostgreSQL keeps old ones in its tables until they are reused, in its log, at its standbys and
in its backups, where they are safe only as long as the storage key is (docs/guides/postgresql.md).
"""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shosoin.adapters.postgres import PostgresDatabase, reason_of, within
from shosoin.adapters.stream_sealing import BLOCK_NONCE_BYTES, CHECK_BYTES, BlockSeal, RecordSeal, SealedBlock
from shosoin.adapters.stream_tables import FORMAT, PIECE_GRANULES, statements, tables
from shosoin.keys.errors import StoreUnavailable, StreamRefused
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.store import Batch, WipeRange

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

__all__ = ["PostgresStreamStore"]

_NAME = re.compile(r"(?:in|out)-[0-9]{12}")
_KEY = struct.Struct(f">I{BLOCK_NONCE_BYTES}s32s")
"""Granules, nonce and data key of a block."""
_POLL_S = 0.1
_COMMIT_S = 15.0
"""Also for a synchronous standby to answer."""
_READ_S = 3.0
"""A read may happen while an SAE waits, and others with it."""


class PostgresStreamStore:
    """``StreamStore`` of the pair of ``kme`` and ``peer``.

    Args:
        hold_s: for how long after its last commit an owner cannot be replaced while its session lives.
        wait_s: how long to wait for another owner to let go.

    Raises:
        StoreUnavailable: the database cannot be used, or another process owns the pair.
        StreamRefused: the tables are of another version.
    """

    def __init__(
        self,
        database: PostgresDatabase,
        kme: str,
        peer: str,
        storage_key: bytes,
        *,
        hold_s: float = 30.0,
        wait_s: float = 10.0,
    ) -> None:
        self._where = f"the pair of {kme} and {peer} in schema {database.schema}"
        self._context = f"{kme}\0{peer}\0".encode()
        self._do = statements(database.schema)
        self._hold_s = hold_s
        self._seal = RecordSeal(storage_key, self._context)
        self._failed = ""
        self._reading = threading.Lock()
        self._writer = database.connect()
        try:
            with self._guarded(self._writer, wait_s + _COMMIT_S):
                _make_tables(self._writer, database.schema, self._do)
                self._pair = self._find_pair(kme, peer)
                self._wait_for_lock(wait_s)
                self._token = self._take()
            self._reader = database.connect()
        except BaseException:
            self._writer.close()
            raise

    @property
    def token(self) -> int:
        """The fencing token of this owner."""
        return self._token

    def load(self) -> dict[str, bytes]:
        """Return all records; remove blocks that no record names."""
        with self._transaction() as cursor:
            records = self._unsealed(cursor.execute(self._do["records"], [self._pair]).fetchall())
            found = {name for (name,) in cursor.execute(self._do["blocks"], [self._pair, self._pair])}
            if not records and found:
                raise StreamRefused(f"the journal of {self._where} is empty beside {len(found)} stored blocks")
            for name in found - {name.removeprefix("block/") for name in records if name.startswith("block/")}:
                self._drop(cursor, name)
        return records

    def commit(self, batch: Batch) -> None:
        """Make the batch durable, as one transaction."""
        with self._transaction() as cursor:
            for name, content in batch.blocks.items():
                self._write_block(cursor, name, content)
            self._write_records(cursor, batch)
            for wipe in batch.wipes:
                self._wipe(cursor, wipe)
            for name in batch.drops:
                self._drop(cursor, name)

    def read_block(self, name: str) -> tuple[bytearray, Sequence[int]]:
        """Return a block's bytes and the granules whose check fails (zeroed); no bytes if it is beyond use."""
        self._require_sound()
        with self._reading, self._guarded(self._reader, _READ_S):
            cursor = self._reader.cursor(binary=True)
            owner = cursor.execute(self._do["block_key"], [name, self._pair]).fetchone()
            if owner is None or owner[0] != self._token:
                raise self._fenced()
            rows = cursor.execute(self._do["pieces"], [self._pair, name]).fetchall()
        try:
            granules, nonce, key = _KEY.unpack(self._seal.unseal(_key_name(name), owner[1] or b""))
        except (ValueError, struct.error):
            return bytearray(), (0,)
        cells, checks = bytearray(granules * GRANULE_BYTES), bytearray(granules * CHECK_BYTES)
        for number, some_cells, some_checks in rows:
            _put_piece(cells, number, some_cells, GRANULE_BYTES)
            _put_piece(checks, number, some_checks, CHECK_BYTES)
        return BlockSeal(key).open(SealedBlock(nonce, bytes(cells), bytes(checks)))

    def reseal(self, storage_key: bytes) -> None:
        """Bring everything under another storage key, in one transaction.

        Data keys of blocks change their seal, blocks stay as they are; one whose data key is damaged is dropped, and
        its keys are burned as they come up.
        """
        fresh = RecordSeal(storage_key, self._context)
        with self._transaction() as cursor:
            records = self._unsealed(cursor.execute(self._do["records"], [self._pair]).fetchall())
            sealed = [(self._pair, name, fresh.seal(name, value)) for name, value in records.items()]
            if sealed:
                cursor.executemany(self._do["put_record"], sealed)
            for name, value in cursor.execute(self._do["block_keys"], [self._pair]).fetchall():
                try:
                    key = self._seal.unseal(_key_name(name), value)
                except ValueError:
                    self._drop(cursor, name)
                else:
                    cursor.execute(self._do["put_block"], [self._pair, name, fresh.seal(_key_name(name), key)])
        self._seal = fresh

    def close(self) -> None:
        """Let go of the pair; whoever waits for it may take it at once."""
        try:
            if not self._failed:
                with self._guarded(self._writer, _READ_S):
                    self._writer.execute(self._do["let_go"], [self._pair, self._token])
        except StoreUnavailable:
            self._failed = "the connection was lost while the store was closed"  # whoever comes next waits a little
        finally:
            self._reader.close()
            self._writer.close()

    # Ownership

    def _find_pair(self, kme: str, peer: str) -> int:
        self._writer.execute(self._do["make_pair"], [kme, peer])
        return int(_one(self._writer.execute(self._do["find_pair"], [kme, peer])))

    def _wait_for_lock(self, wait_s: float) -> None:
        deadline_s = time.monotonic() + wait_s
        while not _one(self._writer.execute(self._do["lock"], [self._pair])):
            holder, is_over = self._writer.execute(self._do["holder"], [self._pair]).fetchone() or ("", False)
            if is_over:
                self._writer.execute(self._do["end_holder"], [self._pair, self._pair])
            elif time.monotonic() >= deadline_s:
                raise StoreUnavailable(f"{self._where} is in use by {holder or 'another process'}")
            time.sleep(_POLL_S)

    def _take(self) -> int:
        holder = f"process {os.getpid()} at {socket.gethostname()}"
        return int(_one(self._writer.execute(self._do["take"], [holder, self._hold_s, self._pair])))

    def _fenced(self) -> StoreUnavailable:
        return StoreUnavailable(f"another process has taken {self._where}")

    # Failing

    def _require_sound(self) -> None:
        if self._failed:
            raise StoreUnavailable(f"an earlier access to {self._where} failed: {self._failed}")

    @contextmanager
    def _transaction(self) -> Iterator[Cursor[Any]]:
        """Run the body in a transaction of the owner; whatever goes wrong is the end of this store."""
        self._require_sound()
        warnings: list[str] = []
        notice = _noting(warnings)
        with self._guarded(self._writer, _COMMIT_S):
            self._writer.add_notice_handler(notice)
            try:
                with self._writer.transaction(), self._writer.cursor(binary=True) as cursor:
                    held = cursor.execute(self._do["hold"], [self._hold_s, self._pair, self._token])
                    if held.rowcount != 1:
                        raise self._fenced()
                    yield cursor
            finally:
                self._writer.remove_notice_handler(notice)
            if warnings:  # committed here, but a synchronous standby may lack it
                raise StoreUnavailable(f"a commit to {self._where} is in doubt: {warnings[0]}")

    @contextmanager
    def _guarded(self, connection: Connection[Any], seconds: float) -> Iterator[None]:
        import psycopg  # noqa: PLC0415  # an extra

        try:
            with within(connection, seconds):
                yield
        except (psycopg.Error, OSError) as err:
            self._failed = reason_of(err)
            raise StoreUnavailable(f"access to {self._where} failed: {self._failed}") from err
        except StreamRefused as err:
            self._failed = err.message
            raise

    # What is stored

    def _unsealed(self, rows: Iterable[tuple[str, bytes]]) -> dict[str, bytes]:
        try:
            return {name: self._seal.unseal(name, value) for name, value in rows}
        except ValueError as err:
            raise StreamRefused(f"the journal of {self._where} is damaged") from err

    def _write_records(self, cursor: Cursor[Any], batch: Batch) -> None:
        puts = [(name, value) for name, value in batch.records.items() if value is not None]
        gone = [(self._pair, name) for name, value in batch.records.items() if value is None]
        if puts:
            sealed = [(self._pair, name, self._seal.seal(name, value)) for name, value in puts]
            cursor.executemany(self._do["put_record"], sealed)
        if gone:
            cursor.executemany(self._do["delete_record"], gone)

    def _write_block(self, cursor: Cursor[Any], name: str, content: bytes) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"not a block name: {name!r}")
        self._drop(cursor, name)
        key = os.urandom(32)
        sealed = BlockSeal(key).seal(content)
        packed = _KEY.pack(len(content) // GRANULE_BYTES, sealed.nonce, key)
        cursor.execute(self._do["put_block"], [self._pair, name, self._seal.seal(_key_name(name), packed)])
        with cursor.copy(self._do["copy_pieces"]) as copy:
            copy.set_types(["int4", "text", "int4", "bytea", "bytea"])
            for number, cells, checks in _pieces(sealed):
                copy.write_row((self._pair, name, number, cells, checks))

    def _wipe(self, cursor: Cursor[Any], wipe: WipeRange) -> None:
        """Delete pieces that are consumed whole, and overwrite what is consumed of others."""
        low, high = wipe.first, wipe.first + wipe.count
        first, last = -(-low // PIECE_GRANULES), high // PIECE_GRANULES
        if first < last:
            cursor.execute(self._do["delete_some_pieces"], [self._pair, wipe.block, first, last - 1])
        for start, end in _partly(low, high):
            number, place, count = start // PIECE_GRANULES, start % PIECE_GRANULES, end - start
            zeros, from_byte = bytes(count * GRANULE_BYTES), place * GRANULE_BYTES + 1
            no_checks, from_check = bytes(count * CHECK_BYTES), place * CHECK_BYTES + 1
            where = [self._pair, wipe.block, number]
            cursor.execute(self._do["wipe_piece"], [zeros, from_byte, no_checks, from_check, *where])

    def _drop(self, cursor: Cursor[Any], name: str) -> None:
        cursor.execute(self._do["delete_block"], [self._pair, name])
        cursor.execute(self._do["delete_pieces"], [self._pair, name])


def _make_tables(connection: Connection[Any], schema: str, do: dict[str, bytes]) -> None:
    if not _one(connection.execute(do["has_tables"])):
        with connection.transaction():
            connection.execute(do["lock_tables"])  # two processes may start at once
            if not _one(connection.execute(do["has_tables"])):
                connection.execute(tables(schema))
    version = _one(connection.execute(do["format"]))
    if version != FORMAT:
        raise StreamRefused(f"the tables in schema {schema} have version {version}, expected {FORMAT}")


def _one(cursor: Cursor[Any]) -> Any:
    row = cursor.fetchone()
    return row[0] if row is not None else None


def _key_name(block: str) -> str:
    return f"key/{block}"


def _noting(warnings: list[str]) -> Callable[[Any], None]:
    def note(diagnostic: Any) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            warnings.append(str(diagnostic.message_primary))

    return note


def _pieces(sealed: SealedBlock) -> Iterator[tuple[int, bytes, bytes]]:
    cells, checks = PIECE_GRANULES * GRANULE_BYTES, PIECE_GRANULES * CHECK_BYTES
    for number, start in enumerate(range(0, len(sealed.cells), cells)):
        yield number, sealed.cells[start : start + cells], sealed.checks[number * checks : (number + 1) * checks]


def _put_piece(whole: bytearray, number: int, part: bytes, unit_bytes: int) -> None:
    """Put a piece in its place; one that does not fit there is damage like any other, which the checks find."""
    start = number * PIECE_GRANULES * unit_bytes
    if 0 <= start < len(whole) and len(part) == min(PIECE_GRANULES * unit_bytes, len(whole) - start):
        whole[start : start + len(part)] = part


def _partly(low: int, high: int) -> Iterator[tuple[int, int]]:
    """Return the parts of a range of granules that lie in pieces it does not cover."""
    while low < high:
        boundary = (low // PIECE_GRANULES + 1) * PIECE_GRANULES
        end = min(high, boundary)
        if end - low < PIECE_GRANULES:
            yield low, end
        low = end
