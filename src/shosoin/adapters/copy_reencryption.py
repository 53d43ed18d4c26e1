"""Re-encryption of the multicast copies of a KME: one transaction of their database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

from shosoin.adapters.copy_store import COPIES_NAME, DAMAGED_SUFFIX, CopyStore
from shosoin.adapters.private_files import destroy
from shosoin.keys.reencryption import StoreSize, Told

__all__ = ["CopyStores"]


class CopyStores:
    """``ReencryptableStores`` with one store, the copies; its name is that of the file."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / COPIES_NAME
        self._damaged = directory / (COPIES_NAME + DAMAGED_SUFFIX)

    def names(self) -> Sequence[str]:
        """Return the name of the file, if it is there."""
        return [COPIES_NAME] if self._path.exists() or self._damaged.exists() else []

    def check(self, name: str, keys: Sequence[bytes]) -> StoreSize:
        """Return how many copies there are; those that do not open are lost, not an obstacle."""
        del name
        if not self._path.exists():
            return StoreSize(0, 0, 0)
        with closing(CopyStore(self._path, keys[0])) as store:
            return StoreSize(len(store.index()), 0, 0)

    def check_room(self, sizes: Iterable[StoreSize]) -> None:
        """Ask for nothing: copies are few, and stay in their place."""

    def reencrypt(self, name: str, old_key: bytes, new_key: bytes, told: Told) -> None:
        """Bring all copies under the new key; a damaged file that was put aside goes, for it serves nothing."""
        del name
        if self._path.exists():
            with closing(CopyStore(self._path, old_key)) as store:
                store.reseal(new_key)
        destroy(self._damaged)
        told(0)
