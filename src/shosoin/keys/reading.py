"""Reading many keys at once: few contiguous runs, each cut into its keys."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence

from shosoin.keys.blocks import Block
from shosoin.keys.cache import BlockCache
from shosoin.keys.errors import KeyDamaged
from shosoin.keys.intervals import IntervalSet
from shosoin.keys.key_id import GRANULE_BYTES, KeyAddress, spans_of

__all__ = ["BlockTable", "read_keys"]


class BlockTable:
    """Blocks of one end, found by index or by stream offset."""

    __slots__ = ("_by_index", "_starts")

    def __init__(self) -> None:
        self._by_index: dict[int, Block] = {}
        self._starts: list[tuple[int, int]] = []

    def add(self, block: Block) -> None:
        """Add a block."""
        self._by_index[block.index] = block
        insort(self._starts, (block.start, block.index))

    def remove(self, block: Block) -> None:
        """Take a block out; one that is not there is fine."""
        if self._by_index.pop(block.index, None) is not None:
            self._starts.remove((block.start, block.index))

    def get(self, index: int) -> Block | None:
        """Return a block by its index."""
        return self._by_index.get(index)

    def at(self, offset: int) -> Block | None:
        """Return the block that holds a granule of the stream."""
        place = bisect_right(self._starts, (offset, 1 << 63)) - 1
        block = self._by_index[self._starts[place][1]] if place >= 0 else None
        return block if block is not None and offset < block.end else None

    def spanned_by(self, addresses: Sequence[KeyAddress]) -> int:
        """Return of how many blocks the bits of one of these keys are, at most; all of them are in the table."""
        spans = spans_of(addresses)
        if self._count(min(low for low, _ in spans), max(high for _, high in spans)) == 1:
            return 1  # as nearly always
        return max(self._count(low, high) for low, high in spans)

    def _count(self, low: int, high: int) -> int:
        first, last = (bisect_right(self._starts, (offset, 1 << 63)) for offset in (low, high - 1))
        return last - first + 1

    def __contains__(self, index: object) -> bool:
        return index in self._by_index

    def __len__(self) -> int:
        return len(self._by_index)

    def __iter__(self) -> Iterator[Block]:
        """Iterate over the blocks in stream order."""
        return iter([self._by_index[index] for _, index in self._starts])


def read_keys(
    cache: BlockCache, blocks: BlockTable, addresses: Sequence[KeyAddress], runs: IntervalSet
) -> list[bytearray]:
    """Return the bits of each key; they are gone from memory here, all of them even if one is damaged.

    Args:
        runs: all granules of these keys, of which no two may share one.

    Raises:
        KeyDamaged: if any granule fails its check.
    """
    if len(addresses) == 1:
        return [_read_one(cache, blocks, addresses[0])]
    contents = {start: _read_run(cache, blocks, start, end) for start, end in runs}
    if any(content is None for content in contents.values()):
        _wipe(contents.values())
        raise KeyDamaged("stored key bytes fail their check")
    keys, start, end, content = [], 0, 0, bytearray()
    for offset, length in addresses:
        if not start <= offset < end:
            start, end = runs.around(offset)
            content = contents[start] or bytearray()
        low = (offset - start) * GRANULE_BYTES
        keys.append(content[low : low + length])
    _wipe(contents.values())
    return keys


def _wipe(contents: Iterable[bytearray | None]) -> None:
    for content in contents:
        if content is not None:
            content[:] = bytes(len(content))


def _read_one(cache: BlockCache, blocks: BlockTable, address: KeyAddress) -> bytearray:
    content = _read_run(cache, blocks, address.offset, address.end)
    if content is None:
        raise KeyDamaged("stored key bytes fail their check")
    if len(content) == address.length_bytes:
        return content
    key = content[: address.length_bytes]
    content[:] = bytes(len(content))
    return key


def _read_run(cache: BlockCache, blocks: BlockTable, start: int, end: int) -> bytearray | None:
    block = blocks.at(start)
    if block is not None and end <= block.end:
        try:
            return cache.take(block.name, start - block.start, end - start)
        except KeyDamaged:
            return None
    return _read_pieces(cache, blocks, start, end)


def _read_pieces(cache: BlockCache, blocks: BlockTable, start: int, end: int) -> bytearray | None:
    """Read from several blocks; all are taken, even if one is damaged."""
    content, sound = bytearray(), True
    while start < end:
        block = blocks.at(start)
        if block is None:
            sound = False
            break
        count = min(block.end, end) - start
        try:
            piece = cache.take(block.name, start - block.start, count)
        except KeyDamaged:
            sound = False
        else:
            content += piece
            piece[:] = bytes(len(piece))
        start += count
    if sound:
        return content
    _wipe([content])
    return None
