"""A share node's durable store: records in SQLite, small shares as rows beside them, large shares as files.

>>> store = ShareStore.open(Path("/var/lib/shosoin/node"), clock=clock)           # doctest: +SKIP
>>> await store.write(key, 0, share)                                              # doctest: +SKIP
>>> locator = await store.finish(key, len(share))                                 # doctest: +SKIP
>>> await store.transact(lambda step: step.put_share(row_with(locator)))          # doctest: +SKIP

The order of events makes every crash harmless: bytes are flushed, then their name, and only then can a record mention
them; when the record is flushed the file moves to where recorded files lie, and then it is acknowledged.
``docs/specs/share-node.md`` has the table of what each crash leaves behind. One thing is free: the bytes of a small
share travel with the record that claims them, in the same commit, so ``finish`` costs no I/O for them (bytes without a
record are garbage after a crash in any case).

Security: shares lie as they came; protect the volume. Local checksums find bit rot, not attackers (``vault`` finds
those). Erasing overwrites once and is best effort.
Not here: more than one volume, compression (shares do not compress).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

from shosoin.adapters.share_store_erasing import Eraser
from shosoin.adapters.share_store_errors import RecordsDamaged, from_sqlite_error
from shosoin.adapters.share_store_files import Disk, StoreDirectory
from shosoin.adapters.share_store_reading import Reader
from shosoin.adapters.share_store_records import Finished, Records, connect, content_of
from shosoin.adapters.share_store_recovery import Recovery, check_in, check_records, look_around, recover
from shosoin.adapters.share_store_scrubbing import Place, ScrubReport, scrub, scrub_place, write_down
from shosoin.adapters.share_store_staging import Staging, StoreLimits
from shosoin.adapters.share_store_uploads import Filing, Uploads, filed
from shosoin.adapters.share_store_workers import Workers
from shosoin.adapters.share_store_writer import GroupWriter
from shosoin.base import Rejected, ShosoinError, Unavailable
from shosoin.base.ports import Clock
from shosoin.vault.ports import Buffer, ShareKey, ShareRow, SiteTransaction

__all__ = ["ScrubReport", "ShareStore", "StoreLimits"]

T = TypeVar("T")
_COUNTER_BITS = 36
_ORPHANS_PER_CALL = 1000
_SMALL_READ_BYTES = 64 << 10
_LOOKS_AT_ONCE = 64
"""The loop stands still meanwhile: a millisecond or two."""


class ShareStore:
    """``SiteStore`` over one directory. All methods belong to one event loop; a store is open in one process."""

    def __init__(self, directory: StoreDirectory, clock: Clock, limits: StoreLimits) -> None:
        self._directory = directory
        self._clock = clock
        self._limits = limits
        check_records(directory)
        self._connection = connect(directory.records, writer=True)
        try:
            found = look_around(self._connection, directory)
            generation = check_in(self._connection, directory)
            self.recovered: Recovery = recover(self._connection, directory, found)
        except BaseException:
            self._connection.close()
            raise
        ids = count((generation << _COUNTER_BITS) + 1)
        self._finished: dict[int, Finished] = {}
        self._writer = GroupWriter(self._connection, self._records)
        self._reader = Reader(directory)
        self._workers = Workers(limits.threads)
        self._eraser = Eraser(directory, self._writer)
        self._uploads = Uploads(
            directory,
            Staging(limits, lambda: next(ids)),
            self._finished,
            clock=clock,
            writer=self._writer,
            workers=self._workers,
            erase_soon=self._eraser.wake,
        )
        self._uploads.unfiled.update(self.recovered.unfiled)
        self._scrub_place: Place | None = None
        self._closed = False
        self._eraser.start()  # last: its steps need all of the above

    @classmethod
    def open(
        cls, path: Path, *, clock: Clock, limits: StoreLimits | None = None, disk: Disk | None = None
    ) -> ShareStore:
        """Open or create a store and recover from whatever happened before. Blocks; call it before serving.

        Raises:
            StoreLocked: another process has it open.
            RecordsLost: the records are missing or older than the directory; nothing was changed.
            StorageFailed, RecordsDamaged: the records cannot be read.
            Rejected: the records have an unknown format.
        """
        directory = StoreDirectory(path, disk or Disk())
        directory.prepare()
        try:
            return cls(directory, clock, limits or StoreLimits())
        except BaseException as err:
            directory.release()
            if isinstance(err, sqlite3.Error):
                raise from_sqlite_error(err) from err
            if isinstance(err, ValueError | TypeError | OverflowError):
                raise RecordsDamaged(f"what lies beside the shares cannot be read: {type(err).__name__}") from err
            raise

    async def close(self) -> None:
        """Finish what is queued and let go of the directory; staged bytes are dropped at the next start."""
        self._closed = True
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._workers.close()
        self._uploads.close()
        self._eraser.close()
        self._writer.close()
        self._reader.close()
        self._connection.close()
        self._directory.release()

    async def transact(self, step: Callable[[SiteTransaction], T]) -> T:
        """Run ``step`` atomically; when this returns its effects survive a crash.

        Raises:
            DiskFull: nothing of the step is kept; or all of it, but no room was left for the new name of a large share.
            StorageFailed: the disk failed; writes are refused until the store is opened again.
        """
        filing: list[Filing] = []
        result = await self._writer.run(self._noting(step, filing))
        await filed(filing)
        return result

    async def transact_each(self, steps: Sequence[Callable[[SiteTransaction], T]]) -> list[T | ShosoinError]:
        """Run several steps, each atomic by itself, and return what each returned or why it failed."""
        filing: list[list[Filing]] = [[] for _ in steps]
        outcomes = await self._writer.run_each(list(map(self._noting, steps, filing)))
        for index, begun in enumerate(filing):
            try:
                await filed(begun)
            except ShosoinError as error:
                outcomes[index] = error
        return outcomes

    async def look_each(self, looks: Sequence[Callable[[SiteTransaction], T]]) -> list[T | ShosoinError]:
        """Run several steps that only read what is durable.

        A few run here and now: handing them to a thread and back takes ten times as long as looking.
        """
        if len(looks) > _LOOKS_AT_ONCE:
            return await self._writer.run_each(looks)
        self._check_open()
        return self._look_now(looks)

    def _check_open(self) -> None:
        """Refuse to read on the loop once ``close`` was called: another thread is closing what that reads from."""
        if self._closed:
            raise Unavailable("the share store is closed", code="vault.store_closed")

    def _look_now(self, looks: Sequence[Callable[[SiteTransaction], T]]) -> list[T | ShosoinError]:
        found: list[T | ShosoinError] = []
        try:
            connection = self._reader.connection()
            records = Records(connection, {})
            connection.execute("BEGIN")  # one state for all of them
            try:
                for look in looks:
                    try:
                        found.append(look(records))
                    except ShosoinError as error:
                        found.append(error)
            finally:
                connection.execute("ROLLBACK")
        except sqlite3.Error as err:
            raise from_sqlite_error(err) from err
        return found

    def _noting(self, step: Callable[[SiteTransaction], T], filing: list[Filing]) -> Callable[[Records], T]:
        """Return a step that also notes, once it is durable, which files began to move because of it."""

        def noting(records: Records) -> T:
            result = step(records)
            if records.claimed_files:
                records.after_commit.append(lambda: filing.extend(self._uploads.filing(records.claimed_files)))
            return result

        return noting

    def _records(self) -> Records:
        return Records(
            self._connection,
            self._finished,
            unfiled=self._uploads.unfiled,
            claimed=self._claim,
            make_sure_of_room=self._uploads.make_sure_of_room_for_row,
            file_path=self._file_path,
            erase_soon=self._eraser.wake,
        )

    def _claim(self, finished: Finished) -> None:
        self._uploads.claim(finished)

    def _file_path(self, content_id: int) -> str:
        return self._directory.relative(self._directory.share_path(content_id))

    async def write(self, key: ShareKey, offset: int, data: Buffer) -> None:
        """Put bytes into the staging area of a share (created on first use); not durable yet.

        Raises:
            StagingFull: too much is staged by this owner or by all; ``retry_after_s`` says when to try again.
            DiskFull: no room; what was staged of this share is dropped.
            Rejected: an impossible range, or too many gaps.
        """
        await self._uploads.write(key, offset, data)

    async def finish(self, key: ShareKey, size_bytes: int) -> str:
        """Make the staged bytes durable and return their locator.

        Raises:
            StageIncomplete: not exactly ``[0, size_bytes)`` was written; what was written stays staged.
            DiskFull: no room; the staged bytes are dropped.
            StorageFailed: the disk failed; the staged bytes are dropped.
        """
        return await self._uploads.finish(key, size_bytes)

    async def discard(self, key: ShareKey) -> None:
        """Forget a staging area, and finished bytes that no record claimed; no error if there is none."""
        self._uploads.discard(key)

    async def read(self, row: ShareRow, offset: int, length: int) -> Buffer:
        """Return bytes of a share.

        Raises:
            ShareDamaged: the local checksum of a touched chunk fails, or the bytes are gone.
            Rejected: the range is not inside the share.
        """
        (found,) = await self.read_each([(row, offset, length)])
        if isinstance(found, ShosoinError):
            raise found
        return found

    async def read_each(self, wanted: Sequence[tuple[ShareRow, int, int]]) -> list[Buffer | ShosoinError]:
        """Read several ranges (row, offset, length).

        Small ones are read one after the other in one thread, and here and now if they are few and lie in rows: for
        each range the whole row is read and summed.
        """
        in_rows = all(row.locator[:1] == "b" for row, _, _ in wanted)
        few = len(wanted) <= _LOOKS_AT_ONCE and sum(row.size_bytes for row, _, _ in wanted) <= _SMALL_READ_BYTES
        if in_rows and few:
            self._check_open()
            return [self._read_now(*one) for one in wanted]
        found: list[Buffer | ShosoinError | None] = [None] * len(wanted)
        small = [index for index, (_, _, length) in enumerate(wanted) if length <= _SMALL_READ_BYTES]
        large = [index for index, (_, _, length) in enumerate(wanted) if length > _SMALL_READ_BYTES]

        def read_small() -> None:
            for index in small:
                found[index] = self._read_now(*wanted[index])

        async def read_large(index: int) -> None:
            found[index] = await self._workers.run(partial(self._read_now, *wanted[index]))

        works = [read_large(index) for index in large]
        if small:
            works.append(self._workers.run(read_small))
        await asyncio.gather(*works)
        return [outcome for outcome in found if outcome is not None]

    def _read_now(self, row: ShareRow, offset: int, length: int) -> Buffer | ShosoinError:
        """Read in this thread."""
        try:
            content_id, in_file = _place_of(row, offset, length)
            finished = self._finished.get(content_id)
            return self._reader.read(content_id, in_file, finished, offset, length) if length else b""
        except ShosoinError as error:
            return error
        except sqlite3.Error as err:
            return from_sqlite_error(err)

    async def scrub(self, bytes_max: int) -> ScrubReport:
        """Check shares at rest, about ``bytes_max`` bytes of them; goes on where the last call stopped.

        The place is kept in the records, so that restarts do not starve the end of a large store.
        """
        place = self._scrub_place
        if place is None:
            place = await self._writer.run(scrub_place)
        found = await self._workers.run(partial(scrub, self._reader, place, bytes_max))
        await self._writer.run(lambda step: write_down(step, found))
        self._scrub_place = found.place
        return found.report()

    async def damaged(self, limit: int = 1000) -> list[ShareKey]:
        """Return shares that are known to be damaged: they wait for repair."""
        return await self._workers.run(lambda: self._reader.damaged(limit))

    async def collect_orphans(self) -> list[ShareKey]:
        """Drop staging areas that nobody touches and records that stayed ``STAGED`` too long; returns the latter.

        ``PINNED`` and ``COMMITTED`` shares are never collected.
        """
        self._uploads.expire()
        before_s = self._clock.wall_s() - self._limits.orphan_age_s

        def collect(step: Records) -> list[ShareKey]:
            keys = step.staged_before(before_s, _ORPHANS_PER_CALL)
            for key in keys:
                step.delete_share(key)
            return keys

        return await self._writer.run(collect)

    async def compact_log(self) -> None:
        """Write the log of the records back and truncate it: deleted rows leave the log."""
        await self._writer.run(
            lambda step: step.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone(), outside=True
        )

    @property
    def failed(self) -> str | None:
        """Why writes are refused since the disk failed; ``None`` while all is well."""
        return self._writer.failed


def _place_of(row: ShareRow, offset: int, length: int) -> tuple[int, bool]:
    """Return (content number, whether in a file) of a range that lies inside its share."""
    if offset < 0 or length < 0 or offset + length > row.size_bytes:
        raise Rejected(f"bytes {offset} to {offset + length} of a share of {row.size_bytes}", code="vault.bad_range")
    return content_of(row.locator)
