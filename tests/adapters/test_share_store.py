"""The real share store: order of flushes, rot, limits, faults of the disk, upkeep. Killed processes: see ``_crash``."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import stat
import threading
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from shosoin.adapters.share_store import ShareStore
from shosoin.adapters.share_store_errors import (
    DiskFull,
    RecordsLost,
    StageIncomplete,
    StagingFull,
    StorageFailed,
    StoreLocked,
)
from shosoin.adapters.share_store_files import Disk, StoreDirectory
from shosoin.adapters.share_store_records import Records, connect
from shosoin.adapters.share_store_sums import CHUNK_BYTES, ChunkSums, combine, pieces_of
from shosoin.adapters.share_store_surgery import overwrite_share_bytes
from shosoin.adapters.share_store_writer import GroupWriter
from shosoin.base import ObjectId, OwnerId, Rejected, Unavailable
from shosoin.vault.ports import RegisterRow, ShareDamaged, ShareKey, ShareRow, ShareState
from tests.adapters.store_support import MIB, OWNER, ManualClock, content, key, open_store, put, row, stage

BIG = MIB + 768
REGISTER = ObjectId("1" * 32)


class FaultyDisk(Disk):
    """A disk that writes down what it is asked and fails on demand."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []
        self.fail: dict[str, OSError] = {}
        self.gate: threading.Event | None = None

    def _note(self, name: str, path: object) -> None:
        self.log.append((name, str(path)))
        if name in self.fail:
            raise self.fail[name]

    def create(self, path):
        self._note("create", path)
        return super().create(path)

    def write_at(self, descriptor, data, offset):
        if self.gate is not None:
            assert self.gate.wait(30)
        self._note("write", Path(f"/proc/self/fd/{descriptor}").readlink())
        super().write_at(descriptor, data, offset)

    def sync(self, descriptor):
        self._note("sync", Path(f"/proc/self/fd/{descriptor}").readlink())
        super().sync(descriptor)

    def rename(self, source, target):
        self._note("rename", target)
        super().rename(source, target)

    def sync_directory(self, path):
        self._note("sync_directory", path)
        super().sync_directory(path)

    def unlink(self, path):
        self._note("unlink", path)
        super().unlink(path)


@pytest.fixture
def disk() -> FaultyDisk:
    return FaultyDisk()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock, disk: FaultyDisk) -> AsyncIterator[ShareStore]:
    opened = open_store(tmp_path / "store", clock, disk=disk)
    yield opened
    await opened.close()


def file_of(store: ShareStore, made: ShareRow) -> Path:
    return store._directory.share_path(int(made.locator[1:], 16))


def files(store: ShareStore) -> list[Path]:
    root = store._directory
    return [*root.staging.iterdir(), *(path for path in root.shares.rglob("*") if path.is_file())]


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1]))


# ------------------------------------------------------------------------------------------------ order and form


async def test_a_file_and_its_name_are_flushed_then_it_is_recorded_then_filed_away(store, disk):
    def record(tx):
        disk.log.append(("record", ""))
        tx.put_share(made)

    disk.log.clear()
    made = row(key(), BIG, await stage(store, key(), content(BIG)))
    await store.transact(record)
    target = file_of(store, made)
    steps = [entry for entry in disk.log if entry[0] not in {"create", "write"}]
    staged = store._directory.staging / target.name
    assert steps == [
        ("sync", str(staged)),
        ("sync_directory", str(staged.parent)),
        ("record", ""),
        ("rename", str(target)),
        ("sync_directory", str(target.parent)),
    ]
    assert max(i for i, (name, _) in enumerate(disk.log) if name == "write") < disk.log.index(
        next(entry for entry in disk.log if entry[0] == "sync")
    )


async def test_every_commit_is_flushed_and_deleted_rows_are_zeroed(store):
    pragmas = {
        name: store._connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "secure_delete")
    }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "secure_delete": 1}


async def test_everything_is_private_to_the_user(store):
    await put(store, key(1), content(BIG))
    await store.write(key(2), 0, content(BIG))
    root = store._directory.root
    for path in [root, *root.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


async def test_names_from_outside_never_become_paths(store):
    evil = OwnerId("a..-..b")
    await put(store, key(1, owner=evil), content(BIG))
    assert [path.name for path in files(store)] == [file_of(store, (await _only(store, evil))).name]
    assert all(int(path.name, 16) for path in files(store))


async def _only(store: ShareStore, owner: OwnerId) -> ShareRow:
    return (await store.transact(lambda tx: list(tx.list_shares(owner, "", 10))))[0]


async def test_a_foreign_locator_is_refused(store):
    for locator in ("", "f../../etc/passwd", "m0000000000000001", "f" + "0" * 15, "b" + "0" * 17, "x" + "0" * 16):
        with pytest.raises(Rejected):
            await store.read(row(key(), 10, locator), 0, 1)


async def test_a_second_process_is_kept_out(store, tmp_path):
    with pytest.raises(StoreLocked):
        open_store(tmp_path / "store")


async def test_content_numbers_are_never_used_again(tmp_path):
    first = open_store(tmp_path / "store")
    one = await put(first, key(1), content(BIG))
    await first.transact(lambda tx: tx.delete_share(key(1)))
    await first.close()
    second = open_store(tmp_path / "store")
    two = await put(second, key(1), content(BIG))
    await second.close()
    assert one.locator < two.locator


# ------------------------------------------------------------------------------------------------ group commit


async def test_steps_that_come_together_share_one_commit(store):
    before = store._writer.commits
    await asyncio.gather(
        *(
            store.transact(lambda tx, n=n: tx.put_register(OWNER, ObjectId(f"{n:032x}"), RegisterRow()))
            for n in range(1000)
        )
    )
    assert store._writer.commits - before < 100


async def test_a_look_commits_nothing_and_changes_nothing(store):
    made = await put(store, key(), content(100))
    commits = store._writer.commits
    assert await store.look_each([lambda tx: tx.share(key())]) == [made]
    with pytest.raises(Unavailable):
        await store.look_each([lambda tx: tx.delete_share(key())])
    assert store._writer.commits == commits
    assert await store.look_each([lambda tx: tx.share(key())]) == [made]


async def test_a_look_does_not_see_what_is_not_durable(store, disk):
    """A step whose flush has not ended is not there yet."""
    await put(store, key(), content(100))
    connection = store._connection
    connection.execute("BEGIN IMMEDIATE")  # as the writer does, before it flushes
    Records(connection, {}).delete_share(key())
    try:
        assert (await store.look_each([lambda tx: tx.share(key())]))[0] is not None
    finally:
        connection.execute("ROLLBACK")


async def test_nobody_hears_of_a_step_before_its_commit(store, tmp_path):
    """Another connection sees the row at the moment the caller is told, never later."""
    other = sqlite3.connect(tmp_path / "store" / "records.sqlite")
    for number in range(50):
        name = f"{number:032x}"
        await store.transact(lambda tx, n=name: tx.put_register(OWNER, ObjectId(n), RegisterRow()))
        assert other.execute("SELECT count(*) FROM registers WHERE register_id = ?", (name,)).fetchone() == (1,)
    other.close()


async def test_when_the_disk_is_full_the_whole_group_is_told_and_later_steps_work(store):
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    await store._writer.run(lambda tx: tx.connection.execute(f"PRAGMA max_page_count = {pages + 20}"), outside=True)

    def write(number, size):
        value = RegisterRow(accepted_value="x" * size)
        return store.transact(lambda tx: tx.put_register(OWNER, ObjectId(f"{number:032x}"), value))

    results = await asyncio.gather(*(write(number, 50_000) for number in range(8)), return_exceptions=True)
    full = [number for number, result in enumerate(results) if result is not None]
    assert full
    assert all(isinstance(results[number], DiskFull) for number in full)
    for number in range(8):
        found = await store.transact(lambda tx, n=number: tx.register(OWNER, ObjectId(f"{n:032x}")))
        assert (found is None) == (number in full)
    await write(99, 10)
    assert store.failed is None


async def test_the_writer_outlives_whatever_happens_in_its_thread(tmp_path):
    """A thread that died would leave every caller waiting for ever."""
    connection = connect(tmp_path / "records.sqlite", writer=True)
    problems = [LookupError("before the step")]

    def records() -> Records:
        if problems:
            raise problems.pop()
        return Records(connection, {})

    writer = GroupWriter(connection, records)

    def leave(_: Records) -> None:
        raise SystemExit("inside the step")

    with pytest.raises(StorageFailed):
        await writer.run(lambda step: None)
    assert await writer.run(lambda step: 5) == 5
    with pytest.raises(SystemExit):
        await asyncio.wrap_future(writer.post(leave))
    assert await writer.run(lambda step: 6) == 6
    writer.close()
    connection.close()


async def test_a_step_that_raises_stop_iteration_keeps_nobody_waiting(store):
    def stop(_):
        raise StopIteration

    results = await asyncio.gather(
        store.transact(stop), *(store.transact(lambda _: 1) for _ in range(5)), return_exceptions=True
    )
    assert isinstance(results[0], RuntimeError)
    assert results[1:] == [1] * 5


async def test_a_start_with_much_to_erase_does_not_race_with_itself(tmp_path, monkeypatch):
    """The eraser's first step may come before the store is complete, if it is started too early."""
    directory = StoreDirectory(tmp_path / "store", Disk())
    directory.staging.mkdir(parents=True)
    for number in range(50):
        (directory.staging / f"{number}").write_bytes(b"x")
    began = threading.Thread.start

    def start_and_let_run(thread: threading.Thread) -> None:
        began(thread)
        if thread.name == "shosoin-eraser":
            thread.join(0.05)

    monkeypatch.setattr(threading.Thread, "start", start_and_let_run)
    store = open_store(tmp_path / "store")
    monkeypatch.undo()
    await put(store, key(), content(5000))
    assert await asyncio.to_thread(store._eraser.wait_idle, 30)
    assert files(store) == []
    await store.close()


async def test_a_cancelled_caller_does_not_stop_the_others(store):
    tasks = [
        asyncio.create_task(
            store.transact(lambda tx, n=n: tx.put_register(OWNER, ObjectId(f"{n:032x}"), RegisterRow()))
        )
        for n in range(10)
    ]
    await asyncio.sleep(0)
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for number, result in enumerate(results) if number != 3] == [None] * 9


async def test_a_closed_store_refuses(tmp_path):
    store = open_store(tmp_path / "store")
    made = await put(store, key(), content(BIG))
    await store.close()
    for call in (
        store.transact(lambda tx: None),
        store.read(made, 0, 1),
        store.write(key(2), 0, content(BIG)),
        store.look_each([lambda tx: tx.share(key())]),
    ):
        with pytest.raises(Unavailable):
            await call


# ------------------------------------------------------------------------------------------------ rot


@pytest.mark.parametrize("offset", [0, CHUNK_BYTES - 1, CHUNK_BYTES, BIG - 1])
async def test_one_flipped_bit_in_a_file_is_found_where_it_is(store, offset):
    made = await put(store, key(), content(BIG))
    flip(file_of(store, made), offset)
    with pytest.raises(ShareDamaged):
        await store.read(made, offset, 1)
    with pytest.raises(ShareDamaged):
        await store.read(made, 0, BIG)
    elsewhere = (offset + 2 * CHUNK_BYTES) % (4 * CHUNK_BYTES)
    assert await store.read(made, elsewhere, 5) == content(BIG)[elsewhere : elsewhere + 5]


async def test_one_flipped_bit_in_a_row_is_found(store, tmp_path):
    made = await put(store, key(), content(5000))
    overwrite_share_bytes(
        tmp_path / "store",
        made.key.object_id,
        100,
        bytes([content(5000)[100] ^ 1]),
        refresh_checksum=False,
    )
    with pytest.raises(ShareDamaged):
        await store.read(made, 4000, 1)


@pytest.mark.parametrize("length", [0, 1, CHUNK_BYTES, BIG - 1])
async def test_a_truncated_file_is_found(store, length):
    made = await put(store, key(), content(BIG))
    os.truncate(file_of(store, made), length)
    with pytest.raises(ShareDamaged):
        await store.read(made, BIG - 1, 1)
    with pytest.raises(ShareDamaged):
        await store.read(made, 0, BIG)


@pytest.mark.parametrize("size", [5000, BIG])
async def test_a_lying_site_has_fitting_checksums(store, tmp_path, size):
    made = await put(store, key(), content(size))
    lie = b"these bytes are not the share's"
    assert overwrite_share_bytes(tmp_path / "store", made.key.object_id, 40, lie, refresh_checksum=True) == 1
    expected = bytearray(content(size))
    expected[40 : 40 + len(lie)] = lie
    assert await store.read(made, 0, size) == bytes(expected)
    assert (await store.scrub(1 << 30)).damaged == ()


async def test_a_lie_across_chunks_has_fitting_checksums(store, tmp_path):
    made = await put(store, key(), content(BIG))
    lie = content(3 * CHUNK_BYTES, 5)
    overwrite_share_bytes(tmp_path / "store", made.key.object_id, CHUNK_BYTES - 7, lie, refresh_checksum=True)
    data = content(BIG)
    expected = data[: CHUNK_BYTES - 7] + lie + data[CHUNK_BYTES - 7 + len(lie) :]
    assert await store.read(made, 0, BIG) == expected


async def test_surgery_refuses_what_is_not_there(store, tmp_path):
    made = await put(store, key(), content(100))
    with pytest.raises(Rejected):
        overwrite_share_bytes(tmp_path / "store", ObjectId("f" * 32), 0, b"x", refresh_checksum=True)
    with pytest.raises(Rejected):
        overwrite_share_bytes(tmp_path / "store", made.key.object_id, 99, b"xy", refresh_checksum=True)
    with pytest.raises(Rejected):
        overwrite_share_bytes(tmp_path / "nowhere", made.key.object_id, 0, b"x", refresh_checksum=True)


async def test_scrubbing_finds_rot_marks_it_and_clears_the_mark_after_repair(store):
    made = [await put(store, key(number), content(BIG, number)) for number in range(4)]
    small = await put(store, key(9), content(5000))
    flip(file_of(store, made[1]), BIG - 1)
    file_of(store, made[2]).unlink()
    report = await store.scrub(1 << 30)
    assert set(report.damaged) == {key(1), key(2)}
    assert report.round_complete
    assert report.shares_checked == 5
    assert set(await store.damaged()) == {key(1), key(2)}
    assert await store.read(small, 0, 10) == content(5000)[:10]
    flip(file_of(store, made[1]), BIG - 1)
    await put(store, key(2), content(BIG, 2))
    report = await store.scrub(1 << 30)
    assert report.damaged == ()
    assert await store.damaged() == []


async def test_scrubbing_in_small_steps_covers_everything_also_over_restarts(tmp_path):
    store = open_store(tmp_path / "store")
    made = [await put(store, key(number), content(BIG, number)) for number in range(3)]
    made.append(await put(store, key(3), content(5000)))
    flip(file_of(store, made[2]), BIG - 1)
    damaged: list[ShareKey] = []
    rounds = 0
    for rounds in range(1, 100):
        report = await store.scrub(CHUNK_BYTES)
        damaged += report.damaged
        if report.round_complete:
            break
        if rounds % 7 == 0:
            await store.close()
            store = open_store(tmp_path / "store")
    await store.close()
    assert damaged == [key(2)]
    assert 5 < rounds < 50


async def test_a_share_deleted_while_it_is_scrubbed_is_no_damage(store):
    made = await put(store, key(), content(BIG))
    target = store._reader.targets(0, 1)[0]
    await store.transact(lambda tx: tx.delete_share(key()))
    file_of(store, made).unlink(missing_ok=True)
    assert store._reader.check(target, 0, 1 << 30)[0]


# ------------------------------------------------------------------------------------------------ erasing


async def test_a_deleted_file_is_overwritten_before_it_is_unlinked(store, disk):
    made = await put(store, key(), content(BIG))
    path = file_of(store, made)
    with path.open("rb") as held:
        disk.log.clear()
        await store.transact(lambda tx: tx.delete_share(key()))
        assert await asyncio.to_thread(store._eraser.wait_idle, 30)
        assert held.read() == bytes(BIG)
    names = [name for name, where in disk.log if where.startswith(str(path))]
    assert names == ["write", "write", "sync", "unlink"]
    assert files(store) == []


async def test_what_could_not_be_erased_is_erased_after_the_next_start(tmp_path, disk):
    store = open_store(tmp_path / "store", disk=disk)
    await put(store, key(), content(BIG))
    disk.fail["unlink"] = OSError(errno.EIO, "no")
    await store.transact(lambda tx: tx.delete_share(key()))
    assert await asyncio.to_thread(store._eraser.wait_idle, 30)
    assert len(files(store)) == 1
    await store.close()
    store = open_store(tmp_path / "store")
    assert await asyncio.to_thread(store._eraser.wait_idle, 30)
    assert files(store) == []
    await store.close()


@pytest.mark.parametrize("how", ["discard", "replace", "expire"])
async def test_bytes_that_nothing_names_leave_the_disk(store, clock, how):
    await put(store, key(1), content(BIG))
    await stage(store, key(2), content(BIG))
    await store.write(key(3), 0, content(BIG))
    assert len(files(store)) == 3
    if how == "discard":
        await store.discard(key(2))
        await store.discard(key(3))
        left = 1
    elif how == "replace":
        await put(store, key(1), content(5000))
        left = 2
    else:
        clock.moment_s += 4000
        await store.collect_orphans()
        left = 1
    await store.transact(lambda tx: None)
    assert await asyncio.to_thread(store._eraser.wait_idle, 30)
    await store.transact(lambda tx: None)
    assert await asyncio.to_thread(store._eraser.wait_idle, 30)
    assert len(files(store)) == left


async def test_deleted_small_shares_leave_the_database(store, tmp_path):
    secret = b"0123456789abcdefSHARE" * 100
    await put(store, key(), secret)
    await store.compact_log()
    records = tmp_path / "store" / "records.sqlite"
    assert secret[:500] in records.read_bytes()
    await store.transact(lambda tx: tx.delete_share(key()))
    await store.compact_log()
    for path in (tmp_path / "store").glob("records.sqlite*"):
        assert secret[:40] not in path.read_bytes()


# ------------------------------------------------------------------------------------------------ faults of the disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["create", "write", "sync", "sync_directory"])
async def test_a_full_disk_is_told_and_leaves_nothing(store, disk, call, code):
    kept = await put(store, key(1), content(BIG))
    disk.fail[call] = OSError(code, "full")
    with pytest.raises(DiskFull) as told:
        await stage(store, key(2), content(BIG))
    assert told.value.code == "vault.disk_full"
    assert told.value.retry_after_s
    disk.fail.clear()
    await store.transact(lambda tx: None)
    store._eraser.wake()
    assert await asyncio.to_thread(store._eraser.wait_idle, 30)
    assert files(store) == [file_of(store, kept)]
    assert store.failed is None
    await put(store, key(2), content(BIG))


@pytest.mark.parametrize("call", ["sync", "sync_directory"])
async def test_after_a_failed_flush_nothing_is_written_until_the_store_is_opened_again(tmp_path, disk, call):
    store = open_store(tmp_path / "store", disk=disk)
    kept = await put(store, key(1), content(BIG))
    disk.fail[call] = OSError(errno.EIO, "bad sector")
    with pytest.raises(StorageFailed):
        await stage(store, key(2), content(BIG))
    disk.fail.clear()
    assert store.failed
    with pytest.raises(StorageFailed):
        await store.write(key(3), 0, content(10))
    with pytest.raises(StorageFailed):
        await store.finish(key(2), BIG)
    with pytest.raises(StorageFailed):
        await store.transact(lambda tx: tx.put_register(OWNER, REGISTER, RegisterRow()))
    assert await store.transact(lambda tx: tx.share(key(1))) == kept
    assert await store.read(kept, 0, BIG) == content(BIG)
    await store.close()
    store = open_store(tmp_path / "store")
    assert await store.read(kept, 0, BIG) == content(BIG)
    await put(store, key(2), content(BIG))
    await store.close()


async def test_an_error_while_writing_bytes_is_passed_on_and_can_be_tried_again(store, disk):
    await store.write(key(), 0, content(1000))
    disk.fail["write"] = OSError(errno.EIO, "bad sector")
    with pytest.raises(StorageFailed):
        await store.write(key(), 1000, content(BIG)[1000:])
    disk.fail.clear()
    await store.write(key(), 1000, content(BIG)[1000:])
    await store.write(key(), 0, content(BIG)[:1000])
    made = row(key(), BIG, await store.finish(key(), BIG))
    await store.transact(lambda tx: tx.put_share(made))
    assert await store.read(made, 0, BIG) == content(BIG)


async def test_bytes_are_refused_before_the_reserve_is_touched(tmp_path):
    store = open_store(tmp_path / "store")
    await put(store, key(), content(5000))
    await store.close()
    store = open_store(tmp_path / "store", reserve_bytes=1 << 62)
    for size in (BIG, 5000):  # a file, and a row of the records
        with pytest.raises(DiskFull):
            await put(store, key(2), content(size))
        await store.discard(key(2))
    await store.transact(lambda tx: tx.put_register(OWNER, REGISTER, RegisterRow()))
    await store.transact(lambda tx: tx.delete_share(key()))
    assert len(store._finished) == 0
    assert files(store) == []
    await store.close()


async def test_finish_waits_for_writes_that_are_still_under_way(store, disk):
    disk.gate = threading.Event()
    writing = asyncio.create_task(store.write(key(), 0, content(BIG)))
    await asyncio.sleep(0)
    finishing = asyncio.create_task(store.finish(key(), BIG))
    await asyncio.sleep(0)
    assert not finishing.done()
    disk.gate.set()
    await writing
    made = row(key(), BIG, await finishing)
    await store.transact(lambda tx: tx.put_share(made))
    assert await store.read(made, 0, BIG) == content(BIG)


async def test_a_cancelled_write_still_counts_when_its_thread_ends(store, disk):
    disk.gate = threading.Event()
    writing = asyncio.create_task(store.write(key(), 0, content(BIG)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    disk.gate.set()
    made = row(key(), BIG, await store.finish(key(), BIG))
    await store.transact(lambda tx: tx.put_share(made))
    assert await store.read(made, 0, BIG) == content(BIG)


async def test_discarding_under_a_running_write_leaves_nothing(store, disk):
    disk.gate = threading.Event()
    writing = asyncio.create_task(store.write(key(), 0, content(BIG)))
    await asyncio.sleep(0)
    await store.discard(key())
    disk.gate.set()
    await writing
    await store.transact(lambda tx: None)
    assert await asyncio.to_thread(store._eraser.wait_idle, 30)
    assert files(store) == []
    with pytest.raises(StageIncomplete):
        await store.finish(key(), BIG)


# ------------------------------------------------------------------------------------------------ recovery


async def test_a_start_finds_what_is_gone_or_short_and_removes_what_nobody_names(tmp_path):
    store = open_store(tmp_path / "store")
    made = [await put(store, key(number), content(BIG, number)) for number in range(3)]
    await store.close()
    file_of(store, made[0]).unlink()
    os.truncate(file_of(store, made[1]), BIG - 1)
    stray = store._directory.shares / "ab" / "stray"
    stray.write_bytes(b"x")
    (store._directory.staging / "left").write_bytes(b"x")
    store = open_store(tmp_path / "store")
    assert set(store.recovered.damaged) == {key(0), key(1)}
    assert (store.recovered.staging_dropped, store.recovered.files_unclaimed) == (1, 1)
    assert set(await store.damaged()) == {key(0), key(1)}
    assert await asyncio.to_thread(store._eraser.wait_idle, 30)
    assert {path.name for path in files(store)} == {file_of(store, made[1]).name, file_of(store, made[2]).name}
    assert await store.read(made[2], 0, BIG) == content(BIG, 2)
    await store.close()


async def test_missing_records_stop_the_start_and_no_share_is_touched(tmp_path):
    store = open_store(tmp_path / "store")
    made = await put(store, key(), content(BIG))
    await store.close()
    (tmp_path / "store" / "records.sqlite").unlink()
    for _ in range(2):
        with pytest.raises(RecordsLost, match=r"is gone|belong to another directory"):
            open_store(tmp_path / "store")
    assert file_of(store, made).read_bytes() == content(BIG)


async def test_an_old_copy_of_the_records_stops_the_start(tmp_path):
    store = open_store(tmp_path / "store")
    await store.close()
    records = tmp_path / "store" / "records.sqlite"
    old = records.read_bytes()
    store = open_store(tmp_path / "store")
    made = await put(store, key(), content(BIG))
    await store.close()
    new = records.read_bytes()
    records.write_bytes(old)
    with pytest.raises(RecordsLost):
        open_store(tmp_path / "store")
    records.write_bytes(new)
    store = open_store(tmp_path / "store")
    assert await store.read(made, 0, BIG) == content(BIG)
    await store.close()


async def test_records_of_another_store_stop_the_start(tmp_path):
    for name in ("one", "two"):
        await open_store(tmp_path / name).close()
    (tmp_path / "two" / "records.sqlite").replace(tmp_path / "one" / "records.sqlite")
    with pytest.raises(RecordsLost):
        open_store(tmp_path / "one")


async def test_records_from_before_there_was_repair_get_its_table(tmp_path):
    await open_store(tmp_path / "store").close()
    connection = sqlite3.connect(tmp_path / "store" / "records.sqlite")
    connection.execute("DROP TABLE attempts")
    connection.close()
    store = open_store(tmp_path / "store")
    assert await store.transact(lambda tx: tx.use_attempt(key(1), "aa" * 16))
    await store.close()


async def test_records_of_a_newer_format_are_refused(tmp_path):
    await open_store(tmp_path / "store").close()
    connection = sqlite3.connect(tmp_path / "store" / "records.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Rejected, match="format 99"):
        open_store(tmp_path / "store")
    with pytest.raises(Rejected, match="format 99"):
        open_store(tmp_path / "store")  # the lock was given back


def test_the_eraser_cannot_leave_its_directories(tmp_path):
    directory = StoreDirectory(tmp_path, Disk())
    for path in (
        "records.sqlite",
        "../x",
        "staging/../records.sqlite",
        "shares/ab/../../lock",
        "/etc/passwd",
        "staging/..",
    ):
        with pytest.raises(ValueError, match="not a file of the store"):
            directory.erase(path)


# ------------------------------------------------------------------------------------------------ limits and upkeep


async def test_orphans_are_collected_by_age_and_state(store, clock):
    now_s = clock.wall_s()
    for number, state in enumerate(ShareState):
        await put(store, key(number), content(BIG), state, created_wall_s=now_s)
    young = await put(store, key(8), content(5000), ShareState.STAGED, created_wall_s=now_s + 600)
    clock.moment_s += 3600.5
    assert await store.collect_orphans() == [key(0)]
    left = {found.key for found in await store.transact(lambda tx: list(tx.list_shares(OWNER, "", 100)))}
    assert left == {key(1), key(2), young.key}
    assert await store.transact(lambda tx: tx.used_bytes(OWNER)) == 2 * BIG + 5000


async def test_a_share_pinned_in_time_is_not_collected(store, clock):
    made = await put(store, key(), content(BIG), ShareState.STAGED, created_wall_s=clock.wall_s())
    clock.moment_s += 4000
    pinning = store.transact(lambda tx: tx.put_share(made.with_state(ShareState.PINNED)))
    _, collected = await asyncio.gather(pinning, store.collect_orphans())
    assert collected == []
    assert await store.read(made, 0, BIG) == content(BIG)


async def test_memory_for_small_shares_is_bounded_per_owner_and_in_all(tmp_path):
    store = open_store(tmp_path / "store", memory_bytes=100_000, memory_bytes_per_owner=60_000)
    other = OwnerId("owner-2")
    await store.write(key(1), 0, content(50_000))
    with pytest.raises(StagingFull) as told:
        await store.write(key(2), 0, content(20_000))
    assert told.value.retry_after_s
    await store.write(key(3, owner=other), 0, content(50_000))
    with pytest.raises(StagingFull):
        await store.write(key(4, owner=other), 0, content(1))
    locator = await store.finish(key(1), 50_000)
    with pytest.raises(StagingFull):
        await store.write(key(2), 0, content(20_000))  # finished bytes wait in memory for their record
    await store.transact(lambda tx: tx.put_share(row(key(1), 50_000, locator)))
    await store.write(key(2), 0, content(20_000))
    await store.discard(key(3, owner=other))
    await store.write(key(2), 20_000, content(100_000))  # outgrows memory
    await store.write(key(5), 0, content(60_000))
    assert store._uploads._staging._memory.total() == 60_000
    await store.close()


async def test_open_files_are_bounded_per_owner(tmp_path):
    store = open_store(tmp_path / "store", files=3, files_per_owner=2)
    other = OwnerId("owner-2")
    for number in (1, 2):
        await store.write(key(number), 0, content(BIG))
    with pytest.raises(StagingFull):
        await store.write(key(3), 0, content(BIG))
    await store.write(key(4, owner=other), 0, content(BIG))
    with pytest.raises(StagingFull):
        await store.write(key(5, owner=other), 0, content(BIG))
    await store.finish(key(1), BIG)
    await store.write(key(3), 0, content(BIG))
    await store.close()


async def test_gaps_and_lengths_are_bounded(tmp_path):
    store = open_store(tmp_path / "store", pieces_per_area=8, share_bytes=1 << 30)
    for number in range(8):
        await store.write(key(), number * 10, b"x")
    with pytest.raises(Rejected):
        await store.write(key(), 100, b"x")
    with pytest.raises(Rejected):
        await store.write(key(2), 1 << 30, b"x")
    await store.write(key(3), (1 << 30) - 1, b"x")  # a hole takes no room, and is never served
    with pytest.raises(StageIncomplete):
        await store.finish(key(3), 1 << 30)
    await store.close()


# ------------------------------------------------------------------------------------------------ checksums


def test_sums_of_parts_combine_to_the_sum_of_the_whole():
    for left, right in [(b"", b"x"), (b"x", b""), (content(1), content(7)), (content(1000), content(70_000, 1))]:
        assert combine(zlib.crc32(left), zlib.crc32(right), len(right)) == zlib.crc32(left + right)


def test_a_chunk_written_twice_is_summed_from_the_file():
    data = content(3 * CHUNK_BYTES)
    sums = ChunkSums()
    sums.add(pieces_of(0, data))
    sums.spoil(CHUNK_BYTES + 5, CHUNK_BYTES + 6)
    found, missing = sums.result(len(data))
    assert missing == [1]
    assert (found[0], found[2]) == (zlib.crc32(data[:CHUNK_BYTES]), zlib.crc32(data[2 * CHUNK_BYTES :]))
