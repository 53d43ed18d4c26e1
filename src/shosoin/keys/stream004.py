"""One ETSI GS QKD 004 stream at the key manager that feeds it: which chunk is which key, and who had it.

A stream joins two SAEs, *near* and *far*. Its *home* is the KME of near: there each chunk is drawn once, as a key of
near for far, out of the ordinary key stream. Near's copy waits here until near asks for it; far's copy waits in far's
KME, which is told the key_ID when far asks. So no key bit ever crosses, and that a bit is given once to each side rests
on the key streams alone; this module decides what may be asked, and forgets what is over.

Applications count chunks with 32 bits that wrap. Here positions are whole numbers; an index means the position nearest
to the last one. Index 2^32 - 1 means "the next one that I have not had", as the binary form has no other way to say so.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from shosoin.base import SaeId, Unavailable
from shosoin.keys.errors import KeysError
from shosoin.keys.wire004 import Qos, Status

__all__ = ["NEXT_INDEX", "CallRefused", "Chunk", "HomeStream", "Positions", "index_of", "position_of"]

NEXT_INDEX = (1 << 32) - 1
"""Asks for the next chunk, unless it is the index of a chunk that is near."""
_SPAN = 1 << 32
_BEHIND_MAX = 4096
"""Chunks further behind an end's latest one are given up."""
_TOLD_AGAIN = 64
"""Chunks whose key_ID far's KME may ask for once more, should an answer get lost."""
WINDOW_MAX = 1024
"""Chunks that one end may be ahead of the other, at most."""


class CallRefused(KeysError, Unavailable):
    """A call that ends with another status than 0; the code is its name."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message, code=f"etsi004.{status.name.lower()}")
        self.status = status


def position_of(index: int, latest: int, following: int) -> int:
    """Return the position that an index means.

    Args:
        latest: a position near which the application works.
        following: the next position that this end has not had.
    """
    base = max(0, latest - _SPAN // 2)
    position = base + (index - base) % _SPAN
    is_near = latest - _BEHIND_MAX <= position <= latest + WINDOW_MAX
    return following if index == NEXT_INDEX and not is_near else position


def index_of(position: int) -> int:
    """Return the index of a position."""
    return position % _SPAN


class Positions:
    """Which chunks one end has had; what lies far behind the latest one counts as had.

    >>> had = Positions()
    >>> for position in (0, 1, 3): had.add(position)
    >>> [had.has(position) for position in range(5)], had.following
    ([True, True, False, True, False], 4)
    """

    def __init__(self, following: int = 0) -> None:
        self.following = following
        """One more than the highest."""
        self._floor = max(0, following - _BEHIND_MAX)
        self._above: set[int] = set()

    def has(self, position: int) -> bool:
        """Whether this end has had a chunk, or may not have it any more."""
        return position < self._floor or position in self._above

    def check(self, position: int) -> None:
        """Check that this end has not had a chunk.

        Raises:
            CallRefused: it has.
        """
        if self.has(position):
            raise CallRefused(Status.INSUFFICIENT_KEY, "this end has had that chunk")

    def add(self, position: int) -> None:
        """Count a chunk."""
        if self.has(position):
            return
        self._above.add(position)
        self.following = max(self.following, position + 1)
        if self.following - self._floor > _BEHIND_MAX:
            self._floor = self.following - _BEHIND_MAX
            self._above = {one for one in self._above if one >= self._floor}
        while self._floor in self._above:
            self._above.remove(self._floor)
            self._floor += 1


@dataclass(slots=True, eq=False)
class Chunk:
    """One chunk of a stream."""

    key_id: str
    drawn_s: float
    bits: bytearray = field(repr=False)
    """Near's copy; empty once near has had it."""
    release: Callable[[], None] = field(repr=False)
    """Gives back the memory that the copy was charged for."""
    until_s: float = math.inf
    """When its bits are as old as the pair of SAEs may use."""
    told: bool = False
    """Whether far's KME knows the key_ID."""

    @property
    def settled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.told and not self.bits

    def wipe(self) -> None:
        """Forget near's copy."""
        self.bits[:] = bytes(len(self.bits))
        self.bits = bytearray()
        self.release()


class HomeStream:
    """A stream at its home.

    Args:
        window: chunks that one end may be ahead of the other.
    """

    def __init__(self, ksid: UUID, near: SaeId, far: SaeId, qos: Qos, window: int, now_s: float) -> None:
        self.ksid, self.near, self.far = ksid, near, far
        self.qos, self.window = qos, max(1, min(window, WINDOW_MAX))
        self.near_open = self.far_open = False
        """Whether each has called OPEN_CONNECT, and not CLOSE since."""
        self.closed = False
        """Whether one of the two has called CLOSE: what is reserved can be had, and nothing more is drawn."""
        self.active_s = now_s
        self.had = Positions()
        """By near."""
        self.told = Positions()
        """To far's KME."""
        self._chunks: dict[int, Chunk] = {}
        self._waiting = 0
        self._settled: deque[int] = deque()

    @property
    def latest(self) -> int:
        """The highest position that either end has had, -1 at first."""
        return max(self.had.following, self.told.following) - 1

    @property
    def is_connected(self) -> bool:
        """Whether both ends are there."""
        return self.near_open and self.far_open

    def chunk(self, position: int) -> Chunk | None:
        """Return a chunk that is reserved."""
        return self._chunks.get(position)

    def check_new(self, position: int) -> None:
        """Check that a chunk may be drawn.

        Raises:
            CallRefused: it may not.
        """
        if self.closed or not self.is_connected:
            raise CallRefused(Status.PEER_NOT_CONNECTED_GET_KEY, "the peer application is not connected")
        if self._waiting >= self.window or position > self.latest + self.window:
            raise CallRefused(Status.INSUFFICIENT_KEY, f"more than {self.window} chunks ahead")
        if self.had.has(position) or self.told.has(position):
            raise CallRefused(Status.INSUFFICIENT_KEY, "that chunk is gone")

    def add(self, position: int, chunk: Chunk) -> None:
        """Reserve a chunk that was drawn."""
        self._chunks[position] = chunk
        self._waiting += 1

    def take(self, position: int, now_s: float) -> bytearray:
        """Return near's copy of a reserved chunk; whoever gets it overwrites it.

        Raises:
            CallRefused: near has had it, or it is gone.
        """
        chunk = self._chunks.get(position)
        if chunk is None or not chunk.bits:
            raise CallRefused(Status.INSUFFICIENT_KEY, "that chunk is gone")
        bits = bytearray(chunk.bits)
        chunk.wipe()
        self.had.add(position)
        self._settle(position, chunk, now_s)
        return bits

    def tell(self, position: int, now_s: float) -> Chunk:
        """Return a reserved chunk for far.

        Raises:
            CallRefused: it is gone.
        """
        chunk = self._chunks.get(position)
        if chunk is None:
            raise CallRefused(Status.INSUFFICIENT_KEY, "that chunk is gone")
        if not chunk.told:
            chunk.told = True
            self.told.add(position)
            self._settle(position, chunk, now_s)
        self.active_s = now_s
        return chunk

    def expire(self, now_s: float) -> list[str]:
        """Erase chunks that, or whose bits, are too old; return the key_IDs that far's KME has not heard of."""
        key_ids = []
        while self._chunks:
            position, chunk = next(iter(self._chunks.items()))
            if now_s <= min(chunk.drawn_s + self.qos.ttl_s, chunk.until_s):
                break
            key_ids += self.drop(position)
        return key_ids

    def close_near(self) -> None:
        """Erase near's copies: it needs no more."""
        self.near_open, self.closed = False, True
        for position, chunk in list(self._chunks.items()):
            if chunk.bits:
                chunk.wipe()
                self.had.add(position)
                self._settle(position, chunk, self.active_s)

    def close_far(self) -> list[str]:
        """Return the key_IDs that far will not ask for any more; its KME burns them."""
        self.far_open, self.closed = False, True
        key_ids = []
        for position, chunk in list(self._chunks.items()):
            if not chunk.told:
                key_ids.append(chunk.key_id)
                chunk.told = True
                self.told.add(position)
                self._settle(position, chunk, self.active_s)
        return key_ids

    def end(self) -> list[str]:
        """Erase everything; return the key_IDs that far's KME has not heard of."""
        self.near_open = self.far_open = False
        self.closed = True
        return [key_id for position in list(self._chunks) for key_id in self.drop(position)]

    def is_over(self, now_s: float, alone_s: float) -> bool:
        """Whether both ends have left, or nothing has happened for the TTL; an end alone waits ``alone_s`` at most."""
        if not self.near_open and not self.far_open:
            return True
        held = self.is_connected or self.closed
        patience_s = self.qos.ttl_s if held else min(self.qos.ttl_s, alone_s)
        return now_s - self.active_s > patience_s

    def _settle(self, position: int, chunk: Chunk, now_s: float) -> None:
        self.active_s = now_s
        if not chunk.settled:
            return
        self._waiting -= 1
        self._settled.append(position)
        while len(self._settled) > _TOLD_AGAIN:
            self._chunks.pop(self._settled.popleft(), None)

    def drop(self, position: int) -> list[str]:
        """Erase a chunk that neither end can have any more; return its key_ID if far's KME has not heard of it."""
        chunk = self._chunks.pop(position)
        if chunk.settled:
            return []
        self._waiting -= 1
        unheard = [] if chunk.told else [chunk.key_id]
        chunk.wipe()
        self.had.add(position)
        self.told.add(position)
        return unheard
