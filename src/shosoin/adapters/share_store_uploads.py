"""From the first byte of a share to where it stays: write, finish, file away; or discard.

``finish`` flushes the file and then its name in ``staging``. Once the record that claims it is durable, the file moves
to ``shares``: what lies there was recorded. Small shares skip all that; their bytes wait in memory for the record.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import zlib
from array import array
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future
from pathlib import Path

from shosoin.adapters.share_store_errors import DiskFull, StageIncomplete, StorageFailed, from_os_error
from shosoin.adapters.share_store_files import StoreDirectory
from shosoin.adapters.share_store_reading import file_sum
from shosoin.adapters.share_store_records import Finished, Records
from shosoin.adapters.share_store_staging import Area, Staging
from shosoin.adapters.share_store_sums import Piece, pieces_of
from shosoin.adapters.share_store_workers import Workers
from shosoin.adapters.share_store_writer import GroupWriter
from shosoin.base.ports import Clock
from shosoin.vault.ports import Buffer, ShareKey

__all__ = ["Filing", "Uploads", "filed"]

Filing = asyncio.Task[None]
"""A recorded file on its way to where it stays."""


async def filed(filing: Collection[Filing]) -> None:
    """Wait until recorded files are where they stay; giving up does not stop them.

    Raises:
        DiskFull: no room for the name. The record is there, and its bytes are read from where they are.
        StorageFailed: the disk failed.
    """
    if filing:
        await asyncio.wait(filing)
        for each in filing:
            each.result()


class Uploads:
    """Everything that is not in the records yet. Its state belongs to the event loop."""

    def __init__(
        self,
        directory: StoreDirectory,
        staging: Staging,
        finished: dict[int, Finished],
        *,
        clock: Clock,
        writer: GroupWriter,
        workers: Workers,
        erase_soon: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._disk = directory.disk
        self._clock = clock
        self._staging = staging
        self._limits = staging.limits
        self._finished = finished  # by content number, until a record claims it; other threads only look things up
        self._writer = writer
        self._workers = workers
        self._erase_soon = erase_soon
        self._filing: dict[int, Filing] = {}
        """Recorded files that are on their way to ``shares``, by content number."""
        self.unfiled: set[int] = set()
        """These, and those for which there was no room."""

    async def write(self, key: ShareKey, offset: int, data: Buffer) -> None:
        """Put bytes into a staging area."""
        view = memoryview(data).cast("B")
        if not len(view):
            return
        self._refuse_if_failed()
        area = self._staging.admit(key, offset, len(view), self._clock.now_s())
        if not area.spilled:
            self._staging.count_memory(key.owner, area.keep_in_memory(offset, view))
            return
        end = offset + len(view)
        area.launch(offset, end)
        await self._workers.run(
            lambda: self._write_file(area, offset, view), lambda done: self._land(area, offset, end, done)
        )

    def _write_file(self, area: Area, offset: int, view: memoryview) -> list[Piece]:
        try:
            self._make_sure_of_room(len(view), self._limits.reserve_bytes)
            with area.opening:
                early = self._open(area) if area.descriptor < 0 else []
            self._disk.write_at(area.descriptor, view, offset)
        except OSError as err:
            raise from_os_error(err, "writing a share") from err
        return early + pieces_of(offset, view)

    def make_sure_of_room_for_row(self, size_bytes: int) -> None:
        """Refuse a small share that would take what is reserved for records.

        Half of the reserve is open to small shares: the index of names is made of them, and an owner who removes an
        object to make room changes it.

        Raises:
            DiskFull: it would.
        """
        self._make_sure_of_room(size_bytes, self._limits.reserve_bytes // 2)

    def _make_sure_of_room(self, size_bytes: int, reserve_bytes: int) -> None:
        if self._disk.free_bytes(self._directory.root) < reserve_bytes + size_bytes:
            raise DiskFull("the space left is reserved for records", retry_after_s=30.0)

    def _open(self, area: Area) -> list[Piece]:
        """Create the file of a share that outgrew memory, with what was in memory."""
        path, pieces = self._directory.staged_path(area.content_id), []
        descriptor = self._disk.create(path)
        try:
            with memoryview(area.memory) as memory:
                for start, end in area.in_memory:
                    self._disk.write_at(descriptor, memory[start:end], start)
                    pieces += pieces_of(start, memory[start:end])
        except BaseException:
            os.close(descriptor)
            self._disk.unlink(path)
            raise
        area.descriptor = descriptor
        return pieces

    def _land(self, area: Area, start: int, end: int, done: Future[list[Piece]]) -> None:
        failure = None if done.cancelled() else done.exception()
        area.land(start, end, None if done.cancelled() or failure else done.result())
        if isinstance(failure, DiskFull):
            self._drop(area)
        elif area.dropped:
            self._release(area)
        elif area.memory and area.descriptor >= 0:
            self._forget_memory(area)

    def _forget_memory(self, area: Area) -> None:
        self._staging.count_memory(area.key.owner, -len(area.memory))
        area.memory = bytearray()

    async def finish(self, key: ShareKey, size_bytes: int) -> str:
        """Make the staged bytes durable and return their locator."""
        self._refuse_if_failed()
        area = self._staging.get(key)
        while area is not None and area.in_flight:
            await area.idle.wait()
        if area is None or area.dropped or self._staging.get(key) is not area:
            raise StageIncomplete("nothing is staged for this share")
        area.require(size_bytes)
        self._staging.remove(area)
        if area.descriptor >= 0:  # otherwise all of it is in memory, even if it was about to outgrow that
            return (await self._workers.run(lambda: self._settle(area, size_bytes), self._settled)).locator
        sums = array("I", [zlib.crc32(area.memory)]).tobytes()
        return self._keep(Finished(area.content_id, key, size_bytes, sums, bytes(area.memory), self._clock.now_s()))

    def _keep(self, finished: Finished) -> str:
        self._finished[finished.content_id] = finished
        return finished.locator

    def _settle(self, area: Area, size_bytes: int) -> Finished:
        sums, missing = area.sums.result(size_bytes)
        path = self._directory.staged_path(area.content_id)
        try:
            for chunk in missing:
                sums[chunk] = file_sum(self._disk, area.descriptor, chunk, size_bytes)
            self._flush(lambda: self._disk.sync(area.descriptor))
            self._flush(lambda: self._disk.sync_directory(path.parent))
        except OSError as err:
            self._erase(area.content_id, path)
            raise from_os_error(err, "finishing a share") from err
        finally:
            os.close(area.descriptor)
        return Finished(area.content_id, area.key, size_bytes, sums.tobytes(), None, self._clock.now_s())

    def _flush(self, flush: Callable[[], None]) -> None:
        """Flush; a failure is final, because the next flush may succeed for pages that never reached the disk."""
        try:
            flush()
        except OSError as err:
            meaning = from_os_error(err, "flushing a share")
            if isinstance(meaning, StorageFailed):
                self._writer.refuse_writes(meaning.message)
            raise

    def _settled(self, done: Future[Finished]) -> None:
        if not done.cancelled() and done.exception() is None:
            self._keep(done.result())

    def claim(self, finished: Finished) -> None:
        """Let go of bytes that a durable record names now; a file begins to move, whoever waits for that.

        They may have been discarded while the commit ran; the record is there all the same.
        """
        self._forget(self._finished.pop(finished.content_id, None))
        if finished.data is None:
            self.unfiled.add(finished.content_id)
            self._begin_filing(finished.content_id)

    def _begin_filing(self, content_id: int) -> Filing:
        filing = self._filing.get(content_id)
        if filing is None:
            filing = self._filing[content_id] = asyncio.get_running_loop().create_task(self._file_away(content_id))
            filing.add_done_callback(lambda done: self._filed(content_id, done))
        return filing

    async def _file_away(self, content_id: int) -> None:
        await self._workers.run(lambda: self._move(content_id))

    def _move(self, content_id: int) -> None:
        try:
            self._flush(lambda: self._directory.file_away(content_id))
        except OSError as err:
            raise from_os_error(err, "filing a share") from err

    def _filed(self, content_id: int, done: Filing) -> None:
        self._filing.pop(content_id, None)
        # A failure is told to those who wait; whoever counts on the share later, upkeep and the next start try again.
        if not done.cancelled() and done.exception() is None:
            self.unfiled.discard(content_id)

    def filing(self, content_ids: Iterable[int]) -> list[Filing]:
        """Return what began when these were claimed, or begins again because it failed."""
        return [self._begin_filing(content_id) for content_id in content_ids if content_id in self.unfiled]

    def _forget(self, finished: Finished | None) -> None:
        if finished is not None and finished.data is not None:
            self._staging.count_memory(finished.key.owner, -finished.size_bytes)

    def discard(self, key: ShareKey) -> None:
        """Drop what is staged, and what is finished and unclaimed, of one share."""
        area = self._staging.get(key)
        if area is not None:
            self._drop(area)
        for finished in [found for found in self._finished.values() if found.key == key]:
            self._abandon(finished)

    def expire(self) -> int:
        """Drop what nobody touched for longer than the limits allow; returns how many shares that were.

        What could not be filed away for want of room is tried again.
        """
        if not self._writer.failed:
            self.filing(list(self.unfiled))
        moment_s = self._clock.now_s() - self._limits.staging_age_s
        areas = self._staging.older_than(moment_s)
        unclaimed = [found for found in self._finished.values() if found.finished_s < moment_s]
        for area in areas:
            self._drop(area)
        for finished in unclaimed:
            self._abandon(finished)
        return len(areas) + len(unclaimed)

    def close(self) -> None:
        """Close the files of all staging areas; the next start removes them."""
        for area in self._staging.all():
            if area.descriptor >= 0:
                os.close(area.descriptor)
                area.descriptor = -1

    def _drop(self, area: Area) -> None:
        if not area.dropped:
            area.dropped = True
            self._staging.remove(area)
            self._forget_memory(area)
        self._release(area)

    def _release(self, area: Area) -> None:
        if area.descriptor >= 0 and not area.in_flight:
            os.close(area.descriptor)
            area.descriptor = -1
            self._erase(area.content_id, self._directory.staged_path(area.content_id))

    def _abandon(self, finished: Finished) -> None:
        self._forget(self._finished.pop(finished.content_id, None))
        if finished.data is None:
            self._erase(finished.content_id, self._directory.staged_path(finished.content_id))

    def _erase(self, content_id: int, path: Path) -> None:
        """List a file as garbage, unless a record claimed it in the meantime."""
        relative = self._directory.relative(path)
        with contextlib.suppress(Exception):  # if this fails, the next start finds the file
            noted = self._writer.post(lambda step: _list_garbage(step, content_id, relative))
            noted.add_done_callback(lambda _: self._erase_soon())

    def _refuse_if_failed(self) -> None:
        if self._writer.failed:
            raise StorageFailed(f"writes are refused since: {self._writer.failed}")


def _list_garbage(step: Records, content_id: int, relative: str) -> None:
    if step.connection.execute("SELECT 1 FROM contents WHERE id = ?", (content_id,)).fetchone() is None:
        step.add_garbage(relative)
