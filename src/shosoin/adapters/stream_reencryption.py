"""Re-encryption of stores in directories: a copy under the new key, two renames, and the old directory overwritten.

Beside ``links/PEER`` lie, while it lasts, ``rotation/PEER.part`` (the copy being made), ``rotation/PEER.new`` (the
copy complete and durable) and ``rotation/PEER.old`` (the store under the old key, no longer used). Which of them
exist says how far it came:

    links/PEER                      not begun, or done if it opens under the new key
    links/PEER + PEER.part          the copy is thrown away and made again
    links/PEER + PEER.new           the copy is complete: the old store goes to PEER.old, the copy to links/PEER
    PEER.new + PEER.old             the copy goes to links/PEER
    links/PEER + PEER.old           the old store is overwritten and removed

It needs as much free space as the largest store. Overwriting is best effort on flash and copy-on-write file systems,
and does not reach what SQLite has let go of before; all of that is encrypted under the old key, which is gone at the
end.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from shosoin.adapters.private_files import destroy, sync_directory
from shosoin.adapters.stream_store import FileStreamStore
from shosoin.base import Unavailable
from shosoin.keys.errors import StreamRefused
from shosoin.keys.reencryption import StoreSize, Told, copy_store, size_of

__all__ = ["FileStores"]

_ROOM_BYTES = 16 << 20
"""For journals and checks."""


class FileStores:
    """``ReencryptableStores`` of a KME that keeps its pairs in ``links/PEER`` of its state directory."""

    def __init__(self, directory: Path) -> None:
        self._links = directory / "links"
        self._rotation = directory / "rotation"

    def names(self) -> Sequence[str]:
        """Return the peers of which something is stored, also between the two renames."""
        found = _names(self._links)
        moved = {name.removesuffix(".new") for name in _names(self._rotation) if name.endswith(".new")}
        return sorted({*found, *moved})

    def discard(self, peer: str) -> None:
        """Overwrite and remove all that is stored of a pair."""
        _destroy_directory(self._links / peer)

    def check(self, name: str, keys: Sequence[bytes]) -> StoreSize:
        """Return what is stored of a pair under the first key that opens it."""
        place = self._links / name if (self._links / name).exists() else self._rotation / f"{name}.new"
        for key in keys[:-1]:
            try:
                return _size(place, key)
            except StreamRefused:
                continue
        return _size(place, keys[-1])

    def check_room(self, sizes: Iterable[StoreSize]) -> None:
        """Make sure that the largest store fits on the disk a second time."""
        largest_bytes = max((size.block_bytes for size in sizes), default=0)
        needed_bytes = largest_bytes + largest_bytes // 3 + _ROOM_BYTES
        free_bytes = shutil.disk_usage(self._links.parent).free
        if free_bytes < needed_bytes:
            raise Unavailable(
                f"re-encryption needs {needed_bytes} bytes free in {self._links.parent}, there are {free_bytes}",
                code="store.no_space",
            )

    def reencrypt(self, name: str, old_key: bytes, new_key: bytes, told: Told) -> None:
        """Bring a pair's store under the new key."""
        live = self._links / name
        part, new, old = (self._rotation / f"{name}.{state}" for state in ("part", "new", "old"))
        try:
            self._rotation.mkdir(mode=0o700, exist_ok=True)
            sync_directory(self._rotation.parent)
            if not new.exists() and not old.exists() and not _opens(live, new_key):
                _destroy_directory(part)
                _copy(live, old_key, part, new_key, told)
                _move(part, new)
            if new.exists():
                if live.exists():
                    _move(live, old)
                _move(new, live)
            _destroy_directory(old)
            _destroy_directory(part)
            _remove_if_empty(self._rotation)
        except OSError as err:
            raise StreamRefused(f"re-encrypting the store of {name} failed: {err.strerror}") from err


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.is_dir()} if directory.exists() else set()


def _size(place: Path, key: bytes) -> StoreSize:
    store = FileStreamStore(place, key)
    try:
        return size_of(store.load())
    finally:
        store.close()


def _opens(place: Path, key: bytes) -> bool:
    """Whether a store that holds anything is under this key."""
    try:
        return _size(place, key).records > 0
    except StreamRefused:
        return False


def _copy(live: Path, old_key: bytes, part: Path, new_key: bytes, told: Told) -> None:
    source = FileStreamStore(live, old_key)
    try:
        target = FileStreamStore(part, new_key)
        try:
            copy_store(source, target, told)
        finally:
            target.close()
    finally:
        source.close()


def _move(source: Path, target: Path) -> None:
    source.rename(target)
    for directory in {source.parent, target.parent}:
        sync_directory(directory)


def _destroy_directory(directory: Path) -> None:
    """Overwrite and remove everything in a directory, and the directory; gone already is fine."""
    if not directory.exists():
        return
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            destroy(path)
    directory.rmdir()
    sync_directory(directory.parent)


def _remove_if_empty(directory: Path) -> None:
    if not any(directory.iterdir()):
        directory.rmdir()
        sync_directory(directory.parent)
