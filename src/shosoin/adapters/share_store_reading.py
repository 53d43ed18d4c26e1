"""Reading shares: every chunk that is touched is read whole and compared with its local checksum."""

from __future__ import annotations

import os
import sqlite3
import threading
import zlib
from array import array
from dataclasses import dataclass

from shosoin.adapters.share_store_errors import sound
from shosoin.adapters.share_store_files import Disk, StoreDirectory
from shosoin.adapters.share_store_records import Finished, connect, share_key
from shosoin.adapters.share_store_sums import CHUNK_BYTES
from shosoin.base import Unavailable
from shosoin.vault.ports import Buffer, ShareDamaged, ShareKey

__all__ = ["Reader", "ScrubTarget", "file_sum"]


@dataclass(frozen=True, slots=True)
class ScrubTarget:
    """A share at rest that is to be checked."""

    content_id: int
    key: ShareKey
    size_bytes: int
    marked: bool
    """Whether it is known to be damaged."""


def file_sum(disk: Disk, descriptor: int, chunk: int, size_bytes: int) -> int:
    """Return the sum of one chunk of a file of ``size_bytes``."""
    length = min(CHUNK_BYTES, size_bytes - chunk * CHUNK_BYTES)
    return zlib.crc32(disk.read_at(descriptor, length, chunk * CHUNK_BYTES))


class Reader:
    """Reads in worker threads; each thread has its own connection."""

    def __init__(self, directory: StoreDirectory) -> None:
        self._directory = directory
        self._disk = directory.disk
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False

    def connection(self) -> sqlite3.Connection:
        """Return this thread's connection.

        Raises:
            Unavailable: the store is closed.
        """
        if self._closed:
            raise Unavailable("the share store is closed", code="vault.store_closed")
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = self._local.connection = connect(self._directory.records, writer=False)
            with self._lock:
                self._connections.append(found)
        return found

    def close(self) -> None:
        """Close all connections; the threads must have ended."""
        self._closed = True
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def read(self, content_id: int, in_file: bool, finished: Finished | None, offset: int, length: int) -> Buffer:
        """Return a range of a share.

        Raises:
            ShareDamaged: a sum does not fit, or bytes are missing.
        """
        if in_file:
            sums = finished.sums if finished else self._sums(content_id, offset, length)
            first = 0 if finished is None else offset // CHUNK_BYTES
            return self._read_file(content_id, sums, first, offset, length)
        if finished is not None and finished.data is not None:
            return finished.data[offset : offset + length]
        return self._read_row(content_id)[offset : offset + length]

    def _sums(self, content_id: int, offset: int, length: int) -> bytes:
        first, last = offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES
        row = self.connection().execute(
            "SELECT substr(sums, ?, ?) FROM contents WHERE id = ?", (4 * first + 1, 4 * (last - first + 1), content_id)
        )
        found = row.fetchone()
        if found is None or not isinstance(found[0], bytes) or len(found[0]) != 4 * (last - first + 1):
            raise ShareDamaged("the bytes of the share are gone")
        return found[0]

    def _read_row(self, content_id: int) -> bytes:
        found = (
            self.connection().execute("SELECT size_bytes, sums, data FROM contents WHERE id = ?", (content_id,))
        ).fetchone()
        if found is None or found[2] is None:
            raise ShareDamaged("the bytes of the share are gone")
        size_bytes, sums, data = found
        whole = isinstance(data, bytes) and isinstance(sums, bytes) and len(sums) == 4 and len(data) == size_bytes
        if not whole or array("I", sums)[0] != zlib.crc32(data):
            raise ShareDamaged("the share does not match its checksum")
        return bytes(data)

    def _read_file(self, content_id: int, sums: bytes, first_sum: int, offset: int, length: int) -> Buffer:
        first = offset // CHUNK_BYTES
        start, end = first * CHUNK_BYTES, -(-(offset + length) // CHUNK_BYTES) * CHUNK_BYTES
        try:
            descriptor = self._directory.open_share(content_id)
            try:
                content = self._disk.read_at(descriptor, min(end, os.fstat(descriptor).st_size) - start, start)
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as err:
            raise ShareDamaged(f"the file of the share cannot be read: {type(err).__name__}") from err
        if len(content) < offset + length - start:
            raise ShareDamaged("the file of the share is too short")
        self._compare(content, array("I", sums)[first_sum:], first)
        return memoryview(content)[offset - start : offset - start + length]

    @staticmethod
    def _compare(content: bytes, sums: array[int], first: int) -> None:
        view = memoryview(content)
        for index, at in enumerate(range(0, len(view), CHUNK_BYTES)):
            if zlib.crc32(view[at : at + CHUNK_BYTES]) != sums[index]:
                raise ShareDamaged(f"chunk {first + index} of the share does not match its checksum")

    def targets(self, after: int, limit: int) -> list[ScrubTarget]:
        """Return shares to check, in order of their numbers, starting after one."""
        rows = self.connection().execute(
            "SELECT c.id, s.owner, s.object_id, s.version, s.epoch, c.size_bytes, c.damaged"
            " FROM contents c JOIN shares s ON s.content_id = c.id WHERE c.id > ? ORDER BY c.id LIMIT ?",
            (after, limit),
        )
        return [
            ScrubTarget(number, share_key(*key), *sound((size, bool(damaged)), int, bool))
            for number, *key, size, damaged in rows
        ]

    def damaged(self, limit: int) -> list[ShareKey]:
        """Return shares that are marked as damaged."""
        rows = self.connection().execute(
            "SELECT s.owner, s.object_id, s.version, s.epoch FROM contents c JOIN shares s ON s.content_id = c.id"
            " WHERE c.damaged = 1 ORDER BY c.id LIMIT ?",
            (limit,),
        )
        return [share_key(*row) for row in rows]

    def check(self, target: ScrubTarget, start: int, bytes_max: int) -> tuple[bool, int]:
        """Check a share from byte ``start`` on; returns (whole so far, where to go on)."""
        length = min(target.size_bytes - start, bytes_max)
        in_file = self._is_file(target.content_id)
        end = target.size_bytes if not in_file else start + length
        try:
            for at in range(start, end, 16 * CHUNK_BYTES):
                self.read(target.content_id, in_file, None, at, min(16 * CHUNK_BYTES, end - at))
        except ShareDamaged:
            return not self._exists(target.content_id), target.size_bytes
        return True, end

    def _is_file(self, content_id: int) -> bool:
        query = "SELECT data IS NULL FROM contents WHERE id = ?"
        found = self.connection().execute(query, (content_id,)).fetchone()
        return bool(found and found[0])

    def _exists(self, content_id: int) -> bool:
        return self.connection().execute("SELECT 1 FROM contents WHERE id = ?", (content_id,)).fetchone() is not None
