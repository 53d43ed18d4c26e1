"""Plaintext of the few blocks that are being handed out, read through the store and wiped as it goes."""

from __future__ import annotations

from collections import OrderedDict

from shosoin.keys.errors import KeyDamaged
from shosoin.keys.intervals import IntervalSet
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.store import StreamStore

__all__ = ["BlockCache"]


class BlockCache:
    """At most ``blocks_max`` decrypted blocks in memory; a granule read is zeroed in the same step.

    Security: the bytes returned are the caller's to erase; the cache's own copy is overwritten.
    """

    def __init__(self, store: StreamStore, *, blocks_max: int = 3) -> None:
        self._store = store
        self._blocks_max = blocks_max
        self._plain: OrderedDict[str, tuple[bytearray, IntervalSet]] = OrderedDict()

    def take(self, name: str, first: int, count: int) -> bytearray:
        """Return ``count`` granules from the block's granule ``first`` on, and forget them here.

        Raises:
            KeyDamaged: if a granule's stored check failed; the granules are forgotten as well.
        """
        plain, damaged = self._load(name)
        low, high = first * GRANULE_BYTES, (first + count) * GRANULE_BYTES
        content = plain[low:high]
        plain[low:high] = bytes(len(content))
        if damaged.overlaps(first, first + count) or len(content) < high - low:
            content[:] = bytes(len(content))
            raise KeyDamaged(f"stored key bytes of block {name} fail their check")
        return content

    def forget(self, name: str) -> None:
        """Wipe a block's plaintext."""
        entry = self._plain.pop(name, None)
        if entry is not None:
            entry[0][:] = bytes(len(entry[0]))

    def forget_all(self) -> None:
        """Wipe everything."""
        for name in list(self._plain):
            self.forget(name)

    def _load(self, name: str) -> tuple[bytearray, IntervalSet]:
        entry = self._plain.get(name)
        if entry is None:
            content, damaged = self._store.read_block(name)
            bad = IntervalSet()
            for granule in damaged:
                bad.add(granule, granule + 1)
            entry = self._plain[name] = (content, bad)
            while len(self._plain) > self._blocks_max:
                self.forget(next(iter(self._plain)))
        self._plain.move_to_end(name)
        return entry
