"""The file system under a share store, and where everything lies in its directory.

::

    records.sqlite (-wal, -shm)   all records; shares of up to 64 KiB as rows
    incarnation                   which records this directory belongs to, and how often they were opened
    lock                          held while a process has the store open
    staging/<id>                  shares that are being written, or are finished and in no record yet
    shares/<xx>/<id>              shares that a record named once; xx are the last two digits of the id

Where a file lies is evidence of its own: nothing comes under ``shares`` before the record that names it is durable, and
nothing leaves the list of garbage before its name there is durably gone. So a file under ``shares`` that the records
know nothing of proves that newer records existed.

Names are numbers that the store counts itself; nothing that a caller sends ever becomes part of a path.
Every operation that can lose data goes through ``Disk``, so that tests fail each of them and record their order.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

from shosoin.adapters.share_store_errors import StoreLocked
from shosoin.vault.ports import Buffer

__all__ = ["Disk", "StoreDirectory"]

_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700
_WIPE_BYTES = 1 << 20
_NAME = re.compile(r"[0-9a-f]{16}")
_ERASABLE = re.compile(r"(?:staging|shares/[0-9a-f]{2})/(?!\.{1,2}\Z)[^/]+")


class Disk:
    """File operations, one method each; raises ``OSError`` as the system does."""

    def create(self, path: Path) -> int:
        """Create a file that must not exist and return its descriptor."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _FILE_MODE)

    def open_to_read(self, path: Path) -> int:
        """Return a descriptor of an existing file."""
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    def write_at(self, descriptor: int, data: Buffer, offset: int) -> None:
        """Write all of ``data``."""
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, offset)
            view, offset = view[written:], offset + written

    def read_at(self, descriptor: int, size_bytes: int, offset: int) -> bytes:
        """Read ``size_bytes``, fewer only at the end of the file."""
        first = os.pread(descriptor, size_bytes, offset)
        if len(first) in {0, size_bytes}:
            return first
        parts = [first]
        while part := os.pread(descriptor, size_bytes - sum(map(len, parts)), offset + sum(map(len, parts))):
            parts.append(part)
        return b"".join(parts)

    def sync(self, descriptor: int) -> None:
        """Make a file's content durable."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Move a file inside the store."""
        os.rename(source, target)  # noqa: PTH104  # beside its kin

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory durable."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def unlink(self, path: Path) -> None:
        """Remove a name."""
        path.unlink(missing_ok=True)

    def free_bytes(self, path: Path) -> int:
        """Return what an unprivileged user may still write."""
        stats = os.statvfs(path)
        return stats.f_bavail * stats.f_frsize

    def erase(self, path: Path) -> None:
        """Overwrite a file once with zeros and remove it; no error if it is gone.

        Security: best effort. Copy-on-write file systems, snapshots and flash translation layers keep old blocks.
        """
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        try:
            remaining, offset, zeros = os.fstat(descriptor).st_size, 0, memoryview(bytes(_WIPE_BYTES))
            while offset < remaining:
                self.write_at(descriptor, zeros[: remaining - offset], offset)
                offset += _WIPE_BYTES
            self.sync(descriptor)
        finally:
            os.close(descriptor)
        self.unlink(path)


class StoreDirectory:
    """The directory of one store."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self.root = root
        self.disk = disk
        self.records = root / "records.sqlite"
        self.staging = root / "staging"
        self.shares = root / "shares"
        self._incarnation = root / "incarnation"
        self._lock = -1
        self.records_existed = False
        """Whether there were records before ``prepare``."""

    def prepare(self) -> None:
        """Create what is missing, private to this user, and take the lock.

        Raises:
            StoreLocked: another process has the store open.
        """
        created = False
        for directory in (self.root, self.staging, self.shares, *(self.shares / f"{x:02x}" for x in range(256))):
            if not directory.exists():
                directory.mkdir(mode=_DIRECTORY_MODE, parents=directory == self.root)
                created = True
        self.root.chmod(_DIRECTORY_MODE)
        self._take_lock()
        self.records_existed = self.records.exists() and self.records.stat().st_size > 0
        self._touch_private(self.records)
        if created:
            for directory in (self.shares, self.root, self.root.parent):
                self.disk.sync_directory(directory)

    def _touch_private(self, path: Path) -> None:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE))
        path.chmod(_FILE_MODE)

    def _take_lock(self) -> None:
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise StoreLocked(f"another process holds the share store {self.root}") from None
        self._lock = descriptor

    def release(self) -> None:
        """Give the lock back."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def staged_path(self, content_id: int) -> Path:
        """Where a share is written."""
        return self.staging / f"{content_id:016x}"

    def share_path(self, content_id: int) -> Path:
        """Where a finished share lies."""
        name = f"{content_id:016x}"
        return self.shares / name[-2:] / name

    def relative(self, path: Path) -> str:
        """Return a path as the records keep it."""
        return path.relative_to(self.root).as_posix()

    def file_away(self, content_id: int) -> None:
        """Move a share whose record is durable to where recorded shares lie; no error if it was erased meanwhile.

        The old name may come back after a loss of power. Then both names mean the same bytes, and a start drops it.
        """
        target = self.share_path(content_id)
        with contextlib.suppress(FileNotFoundError):
            self.disk.rename(self.staged_path(content_id), target)
            self.disk.sync_directory(target.parent)

    def erase(self, relative: str) -> None:
        """Overwrite and remove one file of ``staging`` or ``shares``.

        A share can be deleted while it is still being filed away; looking at its first place first misses it nowhere.
        """
        if not _ERASABLE.fullmatch(relative):
            raise ValueError(f"not a file of the store: {relative!r}")
        path = self.root / relative
        if path.parent != self.staging:
            self.disk.erase(self.staging / path.name)
        self.disk.erase(path)

    def open_share(self, content_id: int) -> int:
        """Return a descriptor to read a finished share, wherever it lies.

        Raises:
            FileNotFoundError: it is gone.
        """
        for path in (self.share_path(content_id), self.staged_path(content_id)):
            with contextlib.suppress(FileNotFoundError):
                return self.disk.open_to_read(path)
        return self.disk.open_to_read(self.share_path(content_id))  # filed away between the two looks

    def staged_files(self) -> Iterator[tuple[str, int | None, int]]:
        """Yield (relative path, id or ``None`` for a foreign name, size in bytes) of all files in ``staging``."""
        with os.scandir(self.staging) as entries:
            for entry in entries:
                content_id = int(entry.name, 16) if _NAME.fullmatch(entry.name) else None
                yield f"staging/{entry.name}", content_id, entry.stat(follow_symlinks=False).st_size

    def share_files(self) -> Iterator[tuple[str, int | None, int]]:
        """Yield (relative path, id or ``None`` for a foreign name, size in bytes) of all files under ``shares``."""
        for directory in sorted(path for path in self.shares.iterdir() if path.is_dir()):
            with os.scandir(directory) as entries:
                for entry in entries:
                    known = _NAME.fullmatch(entry.name) and entry.name.endswith(directory.name)
                    content_id = int(entry.name, 16) if known else None
                    yield f"shares/{directory.name}/{entry.name}", content_id, entry.stat(follow_symlinks=False).st_size

    def read_incarnation(self) -> tuple[str, int] | None:
        """Return (store ID, generation) as this directory remembers them, ``None`` in a new one."""
        try:
            store_id, generation = self._incarnation.read_text().split()
            return store_id, int(generation)
        except FileNotFoundError:
            return None

    def write_incarnation(self, store_id: str, generation: int) -> None:
        """Remember them durably."""
        temporary = self._incarnation.with_suffix(".part")
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        descriptor = self.disk.create(temporary)
        try:
            self.disk.write_at(descriptor, f"{store_id} {generation}\n".encode(), 0)
            self.disk.sync(descriptor)
        finally:
            os.close(descriptor)
        self.disk.rename(temporary, self._incarnation)
        self.disk.sync_directory(self.root)
