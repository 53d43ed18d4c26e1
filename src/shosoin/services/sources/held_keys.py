"""Key material that a device has pushed and no block has used yet: bounded, in order, each index once.

Per key stream the indexes ascend: whatever lies below a stream's mark was used or burned, and is refused
(``shosoin.adapters.used_tickets`` keeps the marks). Of each stream the even indexes are for one direction of the link
and the odd ones for the other, so that the two ends never choose the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from shosoin.base.ports import Clock

__all__ = ["HeldKeys"]

_STREAMS_MAX = 64
"""With material in them."""
_MARKS_MAX = 4096
"""Streams whose marks are known; those that were named longest ago are forgotten, to be read again."""
_PARITIES = (0, 1)
_KEYS_MAX = 1 << 16
_GRACE_S = 2.0
"""How long what is held does not give way to what comes."""


@dataclass(slots=True)
class _Piece:
    bits: bytearray = field(repr=False)
    since_s: float


class HeldKeys:
    """What one end holds."""

    def __init__(self, clock: Clock, *, capacity_bytes: int, expiry_s: float) -> None:
        self._clock, self._capacity, self._expiry_s = clock, capacity_bytes, expiry_s
        self._streams: dict[str, dict[int, _Piece]] = {}
        self._below: dict[str, dict[int, int]] = {}
        """Lowest usable index by stream and parity; the stream that was named last comes last."""
        self.held_bytes = 0
        self._count = 0
        self.expired = 0

    def knows(self, stream: str) -> bool:
        """Whether both marks of a stream are set."""
        return len(self._below.get(stream, ())) == len(_PARITIES)

    def set_mark(self, stream: str, parity: int, below: int) -> None:
        """Count everything of a stream and parity below an index as used."""
        marks = self._below.pop(stream, {})
        marks[parity] = max(below, marks.get(parity, 0))
        self._below[stream] = marks
        self._forget_marks()
        pieces = self._streams.get(stream, {})
        for index in [each for each in pieces if each % 2 == parity and each < below]:
            self._drop(stream, index)

    def refusal(self, stream: str, index: int, size_bytes: int) -> str:
        """Return why a piece cannot be taken, empty if it can."""
        self.expire()
        pieces = self._streams.get(stream)
        if pieces is not None and index in pieces:
            return "duplicate"
        if index < self._below.get(stream, {}).get(index % 2, 0):
            return "used"
        if pieces is None and len(self._streams) >= _STREAMS_MAX:
            return "too many streams"
        while self.held_bytes + size_bytes > self._capacity or self._count >= _KEYS_MAX:
            if not self._give_way():
                return "full"
        return ""

    def put(self, stream: str, index: int, bits: bytearray) -> None:
        """Hold a piece that is not refused."""
        self._streams.setdefault(stream, {})[index] = _Piece(bits, self._clock.now_s())
        self.held_bytes += len(bits)
        self._count += 1

    def choose(self, parity: int, least_bytes: int, pieces_max: int) -> tuple[str, list[int]] | None:
        """Return the stream that has most for a direction, and its lowest indexes; ``None`` if they make no block."""
        self.expire()
        best = max(self._streams, key=lambda name: self._size(name, parity), default=None)
        if best is None or self._size(best, parity) < least_bytes:
            return None
        return best, sorted(index for index in self._streams[best] if index % 2 == parity)[:pieces_max]

    def present(self, stream: str, indexes: Iterable[int]) -> list[int]:
        """Return those of some indexes that are held."""
        self.expire()
        pieces = self._streams.get(stream, {})
        return [index for index in indexes if index in pieces]

    def take(self, stream: str, index: int) -> bytearray | None:
        """Return a piece and hold it no longer."""
        piece = self._streams.get(stream, {}).get(index)
        if piece is None:
            return None
        bits = bytearray(piece.bits)
        self._drop(stream, index)
        return bits

    def expire(self) -> None:
        """Drop what is too old: the other end never had it, or this one never needed it."""
        oldest_s = self._clock.now_s() - self._expiry_s
        for stream, pieces in list(self._streams.items()):
            while pieces and pieces[first := next(iter(pieces))].since_s < oldest_s:  # in order of arrival
                self._drop(stream, first)
                self.expired += 1

    def _forget_marks(self) -> None:
        """Forget those of the streams that were named longest ago and have no material here."""
        while len(self._below) > _MARKS_MAX:
            del self._below[next(name for name in self._below if name not in self._streams)]

    def _give_way(self) -> bool:
        """Drop what has waited longest, unless that is not long: both ends had time to use it if both have it."""
        firsts = ((name, next(iter(pieces.items()))) for name, pieces in self._streams.items())
        oldest = min(((piece.since_s, name, index) for name, (index, piece) in firsts), default=(math.inf, "", 0))
        since_s, stream, index = oldest
        if since_s > self._clock.now_s() - _GRACE_S:
            return False
        self._drop(stream, index)
        self.expired += 1
        return True

    def wipe(self) -> None:
        """Drop everything."""
        for stream, pieces in list(self._streams.items()):
            for index in list(pieces):
                self._drop(stream, index)

    def _size(self, stream: str, parity: int) -> int:
        return sum(len(piece.bits) for index, piece in self._streams[stream].items() if index % 2 == parity)

    def _drop(self, stream: str, index: int) -> None:
        piece = self._streams[stream].pop(index)
        self.held_bytes -= len(piece.bits)
        self._count -= 1
        piece.bits[:] = bytes(len(piece.bits))
        if not self._streams[stream]:
            del self._streams[stream]
