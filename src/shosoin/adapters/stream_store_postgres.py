"""Durable store of one pair's key streams in a PostgreSQL database: for operators who run a cluster of their own.

A commit is one transaction, and durable when it returns. A pair has one owner (``postgres_owner``), and every commit
and read checks that it still is.
After any failure the store refuses further work: what is stored is then no longer known. Whoever opens the pair anew
reads what was committed, as after a crash.

Security: what is sealed and what is not is as in files (``stream_sealing``). Deleting and overwriting concern the
present version of a row: PostgreSQL keeps old ones in its tables until they are reused, in its log, at its standbys and
in its backups, where they are safe only as long as the storage key is (docs/guides/postgresql.md).
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from shosoin.adapters.postgres import PostgresDatabase
from shosoin.adapters.postgres_owner import PostgresOwner
from shosoin.adapters.stream_sealing import BLOCK_NONCE_BYTES, CHECK_BYTES, BlockSeal, RecordSeal, SealedBlock
from shosoin.adapters.stream_tables import PIECE_GRANULES, statements
from shosoin.keys.blocks import BLOCK_NAME
from shosoin.keys.errors import StreamRefused
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.store import Batch, WipeRange

if TYPE_CHECKING:
    from psycopg import Cursor

__all__ = ["PostgresStreamStore"]

_KEY = struct.Struct(f">I{BLOCK_NONCE_BYTES}s32s")
"""Granules, nonce and data key of a block."""
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
        self._seal = RecordSeal(storage_key, self._context)
        self._reading = threading.Lock()
        self._owner = PostgresOwner(database, kme, peer, self._where, hold_s=hold_s, wait_s=wait_s)
        self._pair = self._owner.place
        try:
            self._reader = database.connect()
        except BaseException:
            self._owner.connection.close()
            raise

    @property
    def owner(self) -> PostgresOwner:
        """The ownership of the pair, for what else belongs to it."""
        return self._owner

    @property
    def token(self) -> int:
        """The fencing token of this owner."""
        return self._owner.token

    def load(self) -> dict[str, bytes]:
        """Return all records; remove blocks that no record names."""
        with self._owner.transaction() as cursor:
            records = self._unsealed(cursor.execute(self._do["records"], [self._pair]).fetchall())
            found = {name for (name,) in cursor.execute(self._do["blocks"], [self._pair, self._pair])}
            if not records and found:
                raise StreamRefused(f"the journal of {self._where} is empty beside {len(found)} stored blocks")
            for name in found - {name.removeprefix("block/") for name in records if name.startswith("block/")}:
                self._drop(cursor, name)
        return records

    def commit(self, batch: Batch) -> None:
        """Make the batch durable, as one transaction."""
        with self._owner.transaction() as cursor:
            for name, content in batch.blocks.items():
                self._write_block(cursor, name, content)
            self._write_records(cursor, batch)
            for wipe in batch.wipes:
                self._wipe(cursor, wipe)
            for name in batch.drops:
                self._drop(cursor, name)

    def read_block(self, name: str) -> tuple[bytearray, Sequence[int]]:
        """Return a block's bytes and the granules whose check fails (zeroed); no bytes if it is beyond use."""
        self._owner.require_sound()
        with self._reading, self._owner.guarded(self._reader, _READ_S):
            cursor = self._reader.cursor(binary=True)
            owner = cursor.execute(self._do["block_key"], [name, self._pair]).fetchone()
            if owner is None or owner[0] != self.token:
                raise self._owner.fenced()
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
        with self._owner.transaction() as cursor:
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
        self._reader.close()
        self._owner.close()

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
        if not BLOCK_NAME.fullmatch(name):
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


def _key_name(block: str) -> str:
    return f"key/{block}"


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
