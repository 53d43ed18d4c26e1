"""The disk of one pair at one KME: commits in small steps, any of which may be the last one.

A snapshot shares nothing that changes with its original. Blocks are immutable values, so that copies cost little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

from shosoin.base import KmeId, SaeId
from shosoin.keys.copies import HeldCopy
from shosoin.keys.errors import StreamRefused
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.store import Batch, WipeRange

__all__ = ["DiskCrash", "SimulatedDisk", "StoredBlock"]


class DiskCrash(Exception):
    """The process ends inside a commit."""


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block file: bytes, and granules whose check fails."""

    content: bytes = field(repr=False)
    damaged: frozenset[int] = frozenset()

    def without(self, first: int, count: int) -> StoredBlock:
        """Return the block with granules overwritten."""
        low, high = first * GRANULE_BYTES, (first + count) * GRANULE_BYTES
        content = self.content[:low] + bytes(high - low) + self.content[high:]
        return StoredBlock(content, self.damaged | frozenset(range(first, first + count)))


@dataclass(slots=True)
class CopyRows:
    """The table of multicast copies: what is held here, and what the other end may claim, with when it was born."""

    held: dict[tuple[KmeId, str, SaeId], HeldCopy] = field(default_factory=dict)
    sent: dict[tuple[str, SaeId, KmeId], float] = field(default_factory=dict)

    def burn(self) -> None:
        """Remove everything: it all is of one pair."""
        self.held.clear()
        self.sent.clear()

    def expire(self, before_s: float, now_s: float) -> None:
        """Remove what is older; what is from the future grows old from now."""
        held = {place: replace(copy, born_s=min(copy.born_s, now_s)) for place, copy in self.held.items()}
        self.held = {place: copy for place, copy in held.items() if copy.born_s >= before_s}
        self.sent = {row: min(born_s, now_s) for row, born_s in self.sent.items() if born_s >= before_s}


class SimulatedDisk:
    """``StreamStore`` in memory that outlives its process.

    Order inside a commit is that of ``Batch``: blocks, then all records at once, then overwriting and removal.
    """

    def __init__(self, secret: bytes = b"") -> None:
        self.records: dict[str, bytes] = {}
        self.blocks: dict[str, StoredBlock] = {}
        self.suspect = False
        """An old copy, or left behind by another copy, that no handshake has brought up to date."""
        self.crash_after: int | None = None
        """Steps of commits that still happen before the process ends."""
        self.copies_crash_after: int | None = None
        """Likewise, of changes of the table of copies: each is two steps, itself and nothing."""
        self.full_after: int | None = None
        """Steps of commits that still happen before one fails and the process may not go on."""
        self._failed = False
        self.copies = CopyRows()
        self.copies_burned_before_s = -1.0
        """As below, for multicast copies: from the moment the journal is burned."""
        self.secret = secret
        """The file of the pair secret, which lies beside the journal."""
        self.burned_before_s = -1.0
        """What links made before then was burned here, or this end agreed with one where it was."""
        self.awaits_rekey = False
        """Its operator healed it and wants nothing served under the present secret."""

    def copy(self) -> SimulatedDisk:
        """Return the disk as it is now."""
        disk = SimulatedDisk(self.secret)
        disk.records, disk.blocks = dict(self.records), dict(self.blocks)
        disk.copies = CopyRows(dict(self.copies.held), dict(self.copies.sent))
        disk.copies_burned_before_s = self.copies_burned_before_s
        disk.burned_before_s, disk.awaits_rekey = self.burned_before_s, self.awaits_rekey
        return disk

    def mixed_with(self, other: SimulatedDisk, takes_other: Callable[[str], bool]) -> SimulatedDisk:
        """Return this journal beside block files of which some are as ``other`` has them, or has them not."""
        disk = self.copy()
        for name in self.blocks:
            if not takes_other(name):
                continue
            if name in other.blocks:
                disk.blocks[name] = other.blocks[name]
            else:
                del disk.blocks[name]
        return disk

    def open(self) -> None:
        """Let a new process use the disk."""
        self.crash_after = self.copies_crash_after = self.full_after = None
        self._failed = False

    def load(self) -> dict[str, bytes]:
        """Return all records, after removing blocks that no record names."""
        for name in [name for name in self.blocks if f"block/{name}" not in self.records]:
            del self.blocks[name]
        return dict(self.records)

    def commit(self, batch: Batch) -> None:
        """Carry out a batch step by step.

        Raises:
            DiskCrash: the process ends here.
            StreamRefused: the disk is full, or was before.
        """
        for step in self._steps(batch):
            if self.crash_after == 0:
                raise DiskCrash
            if self._failed or self.full_after == 0:
                self._failed = True
                raise StreamRefused("no space left on device")
            if self.crash_after is not None:
                self.crash_after -= 1
            if self.full_after is not None:
                self.full_after -= 1
            step()

    def change_copies(self, change: Callable[[], object]) -> None:
        """Change the table of copies, in one transaction.

        Raises:
            DiskCrash: the process ends before it or after it.
        """
        for step in (change, lambda: None):
            if self.copies_crash_after == 0:
                raise DiskCrash
            if self.copies_crash_after is not None:
                self.copies_crash_after -= 1
            step()

    def read_block(self, name: str) -> tuple[bytearray, list[int]]:
        """Return a block's bytes and the granules whose check fails."""
        block = self.blocks.get(name)
        if block is None:
            return bytearray(), [0]
        content = bytearray(block.content)
        for granule in block.damaged:
            content[granule * GRANULE_BYTES : (granule + 1) * GRANULE_BYTES] = bytes(GRANULE_BYTES)
        return content, sorted(block.damaged)

    def close(self) -> None:
        """Do nothing: there are no files."""

    def rot(self, name: str, granule: int) -> None:
        """Spoil a granule so that its check fails."""
        block = self.blocks[name]
        self.blocks[name] = StoredBlock(block.content, block.damaged | {granule})

    def _steps(self, batch: Batch) -> Iterator[Callable[[], None]]:
        for name, content in batch.blocks.items():
            yield partial(self._put, name, content)
        yield partial(self._journal, batch)
        for wipe in batch.wipes:
            yield partial(self._wipe, wipe)
        for name in batch.drops:
            yield partial(self._drop, name)

    def _put(self, name: str, content: bytes) -> None:
        self.blocks[name] = StoredBlock(content)

    def _journal(self, batch: Batch) -> None:
        for name, value in batch.records.items():
            if value is None:
                self.records.pop(name, None)
            else:
                self.records[name] = value

    def _wipe(self, wipe: WipeRange) -> None:
        block = self.blocks.get(wipe.block)
        if block is not None:
            self.blocks[wipe.block] = block.without(wipe.first, wipe.count)

    def _drop(self, name: str) -> None:
        self.blocks.pop(name, None)
