"""Local checksums of shares, one CRC-32 per 256 KiB chunk, whatever the order in which the bytes arrive.

Writes come in pieces that do not respect chunk borders. Each piece is summed by whoever writes it; sums of adjacent
pieces are combined without looking at the bytes again, because a CRC is linear: crc(A || B) = crc(A) * x^(8|B|) +
crc(B) modulo the generator. A chunk that was written twice is *stale*: it is summed again from the file.

Security: CRC-32 finds bit rot, not attackers. The sums never leave the site (a sum of a share would be a test for
guesses of the secret).
"""

from __future__ import annotations

import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from shosoin.vault.ports import Buffer

__all__ = ["CHUNK_BYTES", "ChunkSums", "Intervals", "Piece", "chunk_ranges", "combine", "pieces_of"]

CHUNK_BYTES = 256 << 10
_POLYNOMIAL = 0xEDB88320  # reflected: bit 31 is x^0
_ONE = 1 << 31
_PAGE = 256


def _times(a: int, b: int) -> int:
    """Multiply two reflected polynomials modulo the generator."""
    product = 0
    while b:
        if b & _ONE:
            product ^= a
        b = (b << 1) & 0xFFFFFFFF
        a = (a >> 1) ^ (_POLYNOMIAL if a & 1 else 0)
    return product


@lru_cache(maxsize=4096)
def _shift(size_bytes: int) -> int:
    """Return x^(8 * size_bytes)."""
    result, power = _ONE, _ONE >> 8
    while size_bytes:
        if size_bytes & 1:
            result = _times(result, power)
        power = _times(power, power)
        size_bytes >>= 1
    return result


def combine(left: int, right: int, right_bytes: int) -> int:
    """Return the CRC-32 of two byte strings put together."""
    return _times(left, _shift(right_bytes)) ^ right


class Piece(NamedTuple):
    """A summed part of one chunk; ``start`` and ``end`` count from the start of the chunk."""

    chunk: int
    start: int
    end: int
    crc: int


def chunk_ranges(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (chunk, start in the chunk, end in the chunk) for a range of a share."""
    while start < end:
        chunk, low = divmod(start, CHUNK_BYTES)
        high = min(CHUNK_BYTES, end - chunk * CHUNK_BYTES)
        yield chunk, low, high
        start = chunk * CHUNK_BYTES + high


def pieces_of(offset: int, data: Buffer) -> list[Piece]:
    """Sum what is written at ``offset``, chunk by chunk."""
    view, pieces, at = memoryview(data), [], 0
    for chunk, low, high in chunk_ranges(offset, offset + len(view)):
        pieces.append(Piece(chunk, low, high, zlib.crc32(view[at : at + high - low])))
        at += high - low
    return pieces


class Intervals:
    """Disjoint ranges of integers, kept merged: which bytes are there."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __len__(self) -> int:
        return len(self._starts)

    def add(self, start: int, end: int) -> None:
        """Add a range."""
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def overlaps(self, start: int, end: int) -> bool:
        """Whether any part of a range is there."""
        index = bisect_right(self._ends, start)
        return index < len(self._starts) and self._starts[index] < end

    def is_exactly(self, end: int) -> bool:
        """Whether the ranges are ``[0, end)`` and nothing else."""
        return self._starts == [0] and self._ends == [end]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._ends, strict=True))


class ChunkSums:
    """The sums of a share that is being written."""

    def __init__(self) -> None:
        self._open: dict[int, list[Piece]] = {}
        self._pages: dict[int, array[int]] = {}
        self._closed = Intervals()
        self._stale: set[int] = set()

    def spoil(self, start: int, end: int) -> None:
        """Note that a range is written more than once: its chunks are to be summed from the file."""
        self._stale.update(chunk for chunk, _, _ in chunk_ranges(start, end))

    def add(self, pieces: Iterable[Piece]) -> None:
        """Note the sums of bytes that were written."""
        for piece in pieces:
            if piece.chunk not in self._stale:
                self._add(piece)

    def _add(self, piece: Piece) -> None:
        pieces = self._open.setdefault(piece.chunk, [])
        at = bisect_left(pieces, piece)
        if at < len(pieces) and pieces[at].start == piece.end:
            after = pieces.pop(at)
            piece = Piece(piece.chunk, piece.start, after.end, combine(piece.crc, after.crc, after.end - after.start))
        if at and pieces[at - 1].end == piece.start:
            at -= 1
            before = pieces.pop(at)
            crc = combine(before.crc, piece.crc, piece.end - piece.start)
            piece = Piece(piece.chunk, before.start, piece.end, crc)
        pieces.insert(at, piece)
        if piece.end - piece.start == CHUNK_BYTES:
            self._close(piece)

    def _close(self, piece: Piece) -> None:
        del self._open[piece.chunk]
        page, slot = divmod(piece.chunk, _PAGE)
        self._pages.setdefault(page, array("I", bytes(4 * _PAGE)))[slot] = piece.crc
        self._closed.add(piece.chunk, piece.chunk + 1)

    def result(self, size_bytes: int) -> tuple[array[int], list[int]]:
        """Return one sum per chunk of a complete share, and the chunks whose sum must be made from the file."""
        chunks = -(-size_bytes // CHUNK_BYTES)
        sums, missing = array("I", bytes(4 * chunks)), []
        for chunk in range(chunks):
            crc = self._sum(chunk, min(CHUNK_BYTES, size_bytes - chunk * CHUNK_BYTES))
            if crc is None:
                missing.append(chunk)
            else:
                sums[chunk] = crc
        return sums, missing

    def _sum(self, chunk: int, size_bytes: int) -> int | None:
        if chunk in self._stale:
            return None
        if self._closed.overlaps(chunk, chunk + 1):
            page, slot = divmod(chunk, _PAGE)
            return self._pages[page][slot]
        pieces = self._open.get(chunk, [])
        return pieces[0].crc if len(pieces) == 1 and pieces[0].end - pieces[0].start == size_bytes else None
