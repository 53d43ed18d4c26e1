"""Records that are older than their directory: whatever was restored, no share that newer records named is erased."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest

from shosoin.adapters.share_store import ShareStore
from shosoin.adapters.share_store_errors import DiskFull, RecordsLost, StorageFailed
from shosoin.adapters.share_store_files import Disk
from shosoin.adapters.share_store_records import connect
from shosoin.vault.ports import ShareRow, ShareState
from tests.adapters.store_support import OWNER, content, key, open_store, put, row, stage

BIG = 66_000
"""A little more than what travels as a row."""


class WatchedDisk(Disk):
    """Calls back before and after everything that changes a name or makes one durable."""

    def __init__(self) -> None:
        self.before: Callable[[str, Path], None] = lambda _, __: None
        self.after: Callable[[str, Path], None] = lambda _, __: None
        self.lock: AbstractContextManager[object] = nullcontext()

    @contextmanager
    def _watched(self, operation: str, path: Path) -> Iterator[None]:
        with self.lock:
            self.before(operation, path)
            yield
            self.after(operation, path)

    def create(self, path):
        with self._watched("create", path):
            return super().create(path)

    def sync(self, descriptor):
        with self._watched("sync", Path(f"/proc/self/fd/{descriptor}").readlink()):
            super().sync(descriptor)

    def rename(self, source, target):
        with self._watched("rename", target):
            super().rename(source, target)

    def sync_directory(self, path):
        with self._watched("sync_directory", path):
            super().sync_directory(path)

    def unlink(self, path):
        with self._watched("unlink", path):
            super().unlink(path)


def failing(name: str, place: str, code: int) -> Callable[[str, Path], None]:
    """Fail one kind of operation on paths that hold ``place``."""

    def fail(operation: str, path: Path) -> None:
        if operation == name and place in str(path):
            raise OSError(code, os.strerror(code))

    return fail


def share_files(root: Path) -> dict[str, bytes]:
    """Return the content of every share file, filed away or not, by its name."""
    return {path.name: path.read_bytes() for path in [*root.glob("shares/*/*"), *root.glob("staging/*")]}


async def delete(store: ShareStore, number: int) -> None:
    """Delete a share."""
    await store.transact(lambda tx: tx.delete_share(key(number)))


async def drained(store: ShareStore) -> None:
    """Wait until nothing is left to erase."""
    assert await asyncio.to_thread(store._eraser.wait_idle, 30)


async def open_and_erase(root: Path) -> None:
    """Start a store, let it erase what it takes for garbage, and stop it."""
    store = open_store(root)
    await drained(store)
    await store.close()


# ------------------------------------------------------------------------------------------------ every crash point


@dataclass(frozen=True)
class Moment:
    """A store's directory as a crash would leave it, and what had been acknowledged until then."""

    root: Path
    acknowledged: dict[int, int]
    """Seed of the content by number of the share."""
    changing: int | None
    """A share whose change was under way."""


class History:
    """A life of a store, photographed around every operation of the file system and after every commit."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.live = place / "live"
        self.acknowledged: dict[int, int] = {}
        self.changing: int | None = None
        self.moments: list[Moment] = []
        self.quiet: list[Moment] = []
        """Those at which nothing was under way: when somebody would copy the records."""
        self.disk = WatchedDisk()
        self.disk.lock = threading.RLock()  # a file must not go while a photo is taken
        self.disk.after = self.disk.before = self.note

    def note(self, _: str, __: Path) -> None:
        self.photograph()

    def photograph(self) -> Moment:
        with self.disk.lock:
            root = self.place / f"moment-{len(self.moments)}"
            shutil.copytree(self.live, root, ignore=lambda *_: {"records.sqlite-shm"})
            self.moments.append(Moment(root, dict(self.acknowledged), self.changing))
            return self.moments[-1]

    async def live_through(self) -> None:
        """Put, replace and delete; wait for the eraser in between, so that nothing changes while a photo is taken."""
        store = open_store(self.live, disk=self.disk)
        for number, seed in [(1, 1), (2, 2), (1, 3), (2, None), (3, 4)]:
            self.changing = number
            if seed is None:
                await delete(store, number)
                self.acknowledged.pop(number)
            else:
                await put(store, key(number), content(BIG, seed))
                self.acknowledged[number] = seed
            await drained(store)
            await store.compact_log()  # a copy of records.sqlite alone is a whole copy
            self.changing = None
            self.quiet.append(self.photograph())
        await store.close()


@pytest.fixture
async def history(tmp_path: Path) -> History:
    made = History(tmp_path)
    await made.live_through()
    assert len(made.moments) > 40
    return made


async def test_a_start_after_a_crash_at_any_moment_is_accepted_and_erases_only_what_nobody_counts_on(history):
    for moment in history.moments:
        store = open_store(moment.root)
        assert store.recovered.damaged == (), moment
        rows = {
            int(row.key.object_id, 16): row for row in await store.transact(lambda tx: tx.list_shares(OWNER, "", 9))
        }
        expected = dict(moment.acknowledged)
        expected.pop(moment.changing, None)
        for number, seed in expected.items():
            assert await store.read(rows[number], 0, BIG) == content(BIG, seed)
        assert set(rows) - {moment.changing} == set(expected)
        await drained(store)
        assert set(share_files(moment.root)) == {row.locator[1:] for row in rows.values()}
        await store.close()


async def test_an_older_copy_of_the_records_never_erases_what_newer_ones_named(history):
    """Every copy taken at a quiet moment, in the directory of every later moment."""
    refused = accepted = 0
    root = history.place / "mixed"
    for position, later in enumerate(history.moments):
        named = {name: data for name, data in share_files(later.root).items() if name in recorded(later.root)}
        for old in [each for each in history.quiet if history.moments.index(each) < position]:
            if not root.exists():
                shutil.copytree(later.root, root)
            for path in root.glob("records.sqlite*"):
                path.unlink()
            shutil.copy(old.root / "records.sqlite", root)
            try:
                await open_and_erase(root)
            except RecordsLost:
                refused += 1
                assert share_files(root) == share_files(later.root)
                continue  # nothing was changed, so the directory serves for the next
            accepted += 1
            left = share_files(root)
            shutil.rmtree(root)
            # What may go was recorded just now and not filed away yet, so it was not acknowledged.
            lost = {name for name, data in named.items() if left.get(name) != data}
            assert all((later.root / "staging" / name).exists() for name in lost), (old, later, lost)
            assert not lost or later.changing is not None
        shutil.rmtree(root, ignore_errors=True)
    assert refused > 20
    assert accepted > 0


def recorded(root: Path) -> set[str]:
    """Return the names of the share files that the records of a copy name."""
    copy = root.with_name("counted")
    copy.mkdir()
    for path in root.glob("records.sqlite*"):
        shutil.copy(path, copy)
    with closing(connect(copy / "records.sqlite", writer=True)) as connection:
        names = {f"{number:016x}" for (number,) in connection.execute("SELECT id FROM contents WHERE data IS NULL")}
    shutil.rmtree(copy)
    return names


# ------------------------------------------------------------------------------------------------ what was restored


async def two_shares(tmp_path: Path) -> tuple[Path, bytes, ShareRow]:
    """Make a store with a newer share than a copy of its records knows."""
    root = tmp_path / "store"
    store = open_store(root)
    await put(store, key(1), content(BIG))
    await store.compact_log()
    old = (root / "records.sqlite").read_bytes()
    made = await put(store, key(2), content(BIG, 2))
    await store.close()
    return root, old, made


async def test_refused_records_change_nothing_so_that_the_right_ones_can_come_back(tmp_path):
    root, old, made = await two_shares(tmp_path)
    new = (root / "records.sqlite").read_bytes()
    (root / "records.sqlite").write_bytes(old)
    (root / "staging" / "0123456789abcdef").write_bytes(b"perhaps of use to somebody")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for _ in range(2):
        with pytest.raises(RecordsLost, match=f"{made.locator[1:]} is one") as told:
            open_store(root)
    assert told.value.hint is not None
    assert "newest records" in told.value.hint
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    (root / "records.sqlite").write_bytes(new)
    store = open_store(root)
    assert await store.read(made, 0, BIG) == content(BIG, 2)
    await store.close()


async def test_a_backup_unpacked_over_the_directory_is_refused(tmp_path):
    """It brings back the directory's own memory too; the newer share files stay and tell."""
    root = tmp_path / "store"
    store = open_store(root)
    await put(store, key(1), content(BIG))
    await store.close()
    shutil.copytree(root, tmp_path / "backup")
    for seed in (2, 3):
        store = open_store(root)
        made = await put(store, key(seed), content(BIG, seed))
        await store.close()
    shutil.copytree(tmp_path / "backup", root, dirs_exist_ok=True)
    with pytest.raises(RecordsLost):
        open_store(root)
    assert (root / "shares" / made.locator[-2:] / made.locator[1:]).read_bytes() == content(BIG, 3)


async def test_old_records_under_the_log_of_newer_ones_are_refused(tmp_path):
    """SQLite takes the log for its own: pages of two ages in one file."""
    root = tmp_path / "store"
    store = open_store(root)
    await put(store, key(1), content(BIG))
    await store.compact_log()
    old = (root / "records.sqlite").read_bytes()
    for number in range(2, 20):  # small shares between them spread the table of contents over pages
        await put(store, key(number), content(BIG if number % 2 else 3000, number))
    await store.compact_log()
    await put(store, key(100), content(BIG, 100))  # the log holds the pages that this changes, and no others
    killed = tmp_path / "killed"
    shutil.copytree(root, killed, ignore=lambda *_: {"records.sqlite-shm"})
    await store.close()
    assert (killed / "records.sqlite-wal").stat().st_size > 0
    (killed / "records.sqlite").write_bytes(old)
    before = share_files(killed)
    with pytest.raises((RecordsLost, StorageFailed)):
        open_store(killed)
    assert share_files(killed) == before


# ------------------------------------------------------------------------------------------------ names


async def test_both_names_after_a_loss_of_power_are_one_share(tmp_path):
    root = tmp_path / "store"
    store = open_store(root)
    made = await put(store, key(), content(BIG))
    await store.close()
    filed = root / "shares" / made.locator[-2:] / made.locator[1:]
    os.link(filed, root / "staging" / filed.name)
    store = open_store(root)
    await drained(store)
    assert list((root / "staging").iterdir()) == []
    assert await store.read(made, 0, BIG) == content(BIG)
    assert store.recovered.damaged == ()
    await store.close()


@pytest.mark.parametrize(("code", "told"), [(errno.ENOSPC, DiskFull), (errno.EIO, StorageFailed)])
async def test_a_share_that_cannot_be_filed_away_is_read_where_it_is_and_filed_at_the_next_start(tmp_path, code, told):
    disk = WatchedDisk()
    store = open_store(tmp_path / "store", disk=disk)
    disk.before = failing("rename", "/shares/", code)
    with pytest.raises(told):
        await put(store, key(), content(BIG))
    made = await store.transact(lambda tx: tx.share(key()))
    assert made is not None
    assert await store.read(made, 0, BIG) == content(BIG)
    assert (store.failed is None) == (told is DiskFull)
    await store.close()
    store = open_store(tmp_path / "store")
    filed = tmp_path / "store" / "shares" / made.locator[-2:] / made.locator[1:]
    assert filed.read_bytes() == content(BIG)
    assert await store.read(made, 0, BIG) == content(BIG)
    await store.close()


async def test_of_several_steps_each_is_told_whether_its_share_was_filed_away(tmp_path):
    disk = WatchedDisk()
    store = open_store(tmp_path / "store", disk=disk)
    rows = [row(key(n), BIG, await stage(store, key(n), content(BIG, n)), ShareState.COMMITTED) for n in (1, 2, 3)]
    disk.before = failing("rename", rows[1].locator[1:], errno.ENOSPC)
    steps = [lambda tx, made=made: tx.put_share(made) for made in rows]
    told = await store.transact_each(steps)
    assert [type(each) for each in told] == [type(None), DiskFull, type(None)]
    assert len(list((tmp_path / "store").glob("shares/*/*"))) == 2
    await store.close()


async def test_a_full_disk_at_a_start_keeps_a_recorded_share_where_it_is(tmp_path):
    disk = WatchedDisk()
    store = open_store(tmp_path / "store", disk=disk)
    disk.before = failing("rename", "/shares/", errno.ENOSPC)
    with pytest.raises(DiskFull):
        await put(store, key(), content(BIG))
    await store.close()
    store = open_store(tmp_path / "store", disk=disk)
    await drained(store)
    made = await store.transact(lambda tx: tx.share(key()))
    assert made is not None
    assert await store.read(made, 0, BIG) == content(BIG)
    assert store.recovered.damaged == ()
    await store.close()


@pytest.mark.parametrize("held", ["before", "after"])
async def test_a_share_deleted_while_it_is_filed_away_leaves_no_file(tmp_path, held):
    disk, reached, gate = WatchedDisk(), threading.Event(), threading.Event()
    store = open_store(tmp_path / "store", disk=disk)

    def hold(operation: str, path: Path) -> None:
        if operation == "rename" and "/shares/" in str(path):
            reached.set()
            assert gate.wait(30)

    setattr(disk, held, hold)
    putting = asyncio.create_task(put(store, key(), content(BIG)))
    assert await asyncio.to_thread(reached.wait, 30)
    await store.transact(lambda tx: tx.delete_share(key()))
    await drained(store)
    gate.set()
    await putting
    await drained(store)
    assert share_files(tmp_path / "store") == {}
    await store.close()
    await open_and_erase(tmp_path / "store")


async def test_a_caller_that_gives_up_does_not_stop_the_filing(tmp_path):
    disk, reached, gate = WatchedDisk(), threading.Event(), threading.Event()
    store = open_store(tmp_path / "store", disk=disk)

    def hold(operation: str, path: Path) -> None:
        if operation == "rename" and "/shares/" in str(path):
            reached.set()
            assert gate.wait(30)

    disk.before = hold
    putting = asyncio.create_task(put(store, key(), content(BIG)))
    assert await asyncio.to_thread(reached.wait, 30)
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    gate.set()
    await store.close()
    assert len(list((tmp_path / "store").glob("shares/*/*"))) == 1


async def test_an_erased_file_stays_listed_until_its_name_is_durably_gone(tmp_path):
    """Struck off earlier, the name could come back after a loss of power and look like a share of newer records."""
    disk = WatchedDisk()
    store = open_store(tmp_path / "store", disk=disk)
    made = await put(store, key(), content(BIG))
    disk.before = failing("sync_directory", "/shares/", errno.EIO)
    await store.transact(lambda tx: tx.delete_share(key()))
    await drained(store)

    async def listed() -> list[str]:
        rows = await store._writer.run(lambda tx: tx.connection.execute("SELECT path FROM garbage").fetchall())
        return [path for (path,) in rows]

    assert await listed() == [f"shares/{made.locator[-2:]}/{made.locator[1:]}"]
    disk.before = lambda *_: None
    store._eraser.wake()
    await drained(store)
    assert await listed() == []
    await store.close()
