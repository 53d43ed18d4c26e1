"""What a kind of store offers so that everything in it can be brought under another storage key.

The command that rotates a storage key knows no store. It makes sure that nobody else works on them, that the new key is
on record before the first of them changes, and that the old one goes only when the last has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shosoin.keys.blocks import Block
from shosoin.keys.errors import StreamRefused
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.store import Batch, StreamStore, WipeRange

__all__ = ["ReencryptableStores", "StoreSize", "Told", "copy_store", "size_of"]

_GROUP_BLOCKS = 64
_GROUP_GRANULES = (4 << 20) // GRANULE_BYTES
Told = Callable[[int], None]
"""Told the bytes of blocks done so far."""


@dataclass(frozen=True, slots=True)
class StoreSize:
    """What one store holds."""

    records: int
    blocks: int
    block_bytes: int


class ReencryptableStores(Protocol):
    """All stores of one kind of a KME."""

    def names(self) -> Sequence[str]:
        """Return the names of the stores; that of a pair's store is its peer."""
        ...

    def check(self, name: str, keys: Sequence[bytes]) -> StoreSize:
        """Return what a store holds under one of the keys, after making sure that all its records open.

        Raises:
            StreamRefused: they do not, or the store is in use.
        """
        ...

    def check_room(self, sizes: Iterable[StoreSize]) -> None:
        """Make sure that there is room for what re-encryption needs besides.

        Raises:
            Unavailable: there is not.
        """
        ...

    def reencrypt(self, name: str, old_key: bytes, new_key: bytes, told: Told) -> None:
        """Bring a store from the old key under the new one.

        It may be stopped at any moment, and called again: then it goes on, and does nothing once it is done. When it
        returns, nothing is stored under the old key any more.

        Raises:
            StreamRefused: what is stored cannot be read under either key, or not be written.
        """
        ...


def size_of(records: dict[str, bytes]) -> StoreSize:
    """Return what a journal says is stored.

    Raises:
        StreamRefused: the record of a block is none.
    """
    try:
        blocks = [Block.load(raw) for name, raw in records.items() if name.startswith("block/")]
    except (KeyError, TypeError, ValueError) as err:
        raise StreamRefused("the journal holds a record that is not that of a block") from err
    return StoreSize(len(records), len(blocks), sum(block.granules for block in blocks) * GRANULE_BYTES)


def copy_store(source: StreamStore, target: StreamStore, told: Told) -> None:
    """Copy all of a store into an empty one; what was overwritten or is damaged is overwritten there too."""
    records, done_bytes = source.load(), 0
    blocks = {name: Block.load(raw) for name, raw in records.items() if name.startswith("block/")}
    for group in _groups(blocks):
        contents = {block.name: _read(source, block) for block in group}
        wipes = [WipeRange(name, first, count) for name, (_, gone) in contents.items() for first, count in _runs(gone)]
        names = {block.record_name: records[block.record_name] for block in group}
        target.commit(Batch(names, {name: bytes(content) for name, (content, _) in contents.items()}, wipes))
        for content, _ in contents.values():
            content[:] = bytes(len(content))
        done_bytes += sum(block.granules for block in group) * GRANULE_BYTES
        told(done_bytes)
    target.commit(Batch({name: raw for name, raw in records.items() if name not in blocks}))


def _groups(blocks: Mapping[str, Block]) -> Iterator[list[Block]]:
    """Yield blocks together, so that not each waits for the disk alone: a few MiB, and not too many."""
    group: list[Block] = []
    for block in blocks.values():
        group.append(block)
        if len(group) == _GROUP_BLOCKS or sum(each.granules for each in group) >= _GROUP_GRANULES:
            yield group
            group = []
    if group:
        yield group


def _read(source: StreamStore, block: Block) -> tuple[bytearray, Sequence[int]]:
    content, damaged = source.read_block(block.name)
    if len(content) == block.granules * GRANULE_BYTES:
        return content, damaged
    # Beyond use: its keys are burned as they come up, which needs a block of that name and size.
    return bytearray(block.granules * GRANULE_BYTES), range(block.granules)


def _runs(granules: Sequence[int]) -> list[tuple[int, int]]:
    """Return sorted numbers as runs of (first, count)."""
    runs: list[tuple[int, int]] = []
    for granule in granules:
        if runs and sum(runs[-1]) == granule:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((granule, 1))
    return runs
