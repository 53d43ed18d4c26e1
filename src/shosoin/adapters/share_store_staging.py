"""Shares that are being written: where their bytes are until ``finish``, and how much of that one owner may use.

A share starts in memory and moves to a file when it grows beyond ``SMALL_BYTES``. All bookkeeping happens on the event
loop; worker threads only write bytes and sum them. Ranges may come in any order, at the same time, and more than once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shosoin.adapters.share_store_errors import StageIncomplete, StagingFull
from shosoin.adapters.share_store_sums import ChunkSums, Intervals, Piece
from shosoin.base import OwnerId, Rejected
from shosoin.vault.ports import ShareKey

__all__ = ["SMALL_BYTES", "Area", "Staging", "StoreLimits"]

SMALL_BYTES = 64 << 10
_RETRY_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """What one store may use. Everything that a caller can make grow is bounded here."""

    memory_bytes: int = 256 << 20
    """Small shares in memory, staged or finished without a record, of all owners."""
    memory_bytes_per_owner: int = 64 << 20
    areas: int = 65_536
    """Staging areas of all owners, in memory and on disk."""
    files: int = 512
    """Of those, open files."""
    files_per_owner: int = 128
    pieces_per_area: int = 1024
    """Disjoint ranges that one area may consist of while it has gaps."""
    share_bytes: int = 1 << 46
    """Longest share."""
    staging_age_s: float = 3600.0
    """An area that nobody touched for so long is dropped."""
    orphan_age_s: float = 3600.0
    """A record that stays ``STAGED`` for so long is deleted."""
    reserve_bytes: int = 64 << 20
    """Free space below which no large share is written, and below half of which no small one is, so that records can
    still be changed and shares deleted."""
    threads: int = 4
    """Threads for file I/O."""


@dataclass(slots=True, eq=False)
class Area:
    """One share that is being written."""

    key: ShareKey
    content_id: int
    touched_s: float
    memory: bytearray = field(default_factory=bytearray)
    spilled: bool = False
    """Whether the bytes go to a file; never goes back."""
    in_memory: list[tuple[int, int]] = field(default_factory=list)
    """Ranges that were in memory when the share outgrew it."""
    descriptor: int = -1
    covered: Intervals = field(default_factory=Intervals)
    sums: ChunkSums = field(default_factory=ChunkSums)
    in_flight: list[tuple[int, int]] = field(default_factory=list)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    opening: threading.Lock = field(default_factory=threading.Lock)
    dropped: bool = False

    def __post_init__(self) -> None:
        self.idle.set()

    def keep_in_memory(self, offset: int, data: memoryview) -> int:
        """Copy bytes of a small share; returns by how much the memory grew."""
        end = offset + len(data)
        grown = max(0, end - len(self.memory))
        if grown:
            self.memory.extend(bytes(grown))
        self.memory[offset:end] = data
        self.covered.add(offset, end)
        return grown

    def launch(self, start: int, end: int) -> None:
        """Note that a thread is about to write a range."""
        again = self.covered.overlaps(start, end) or any(a < end and start < b for a, b in self.in_flight)
        if again:
            self.sums.spoil(start, end)
        self.in_flight.append((start, end))
        self.idle.clear()

    def land(self, start: int, end: int, pieces: Iterable[Piece] | None) -> None:
        """Note that the thread is done; ``None`` when it failed."""
        self.in_flight.remove((start, end))
        if pieces is not None:
            self.covered.add(start, end)
            self.sums.add(pieces)
        if not self.in_flight:
            self.idle.set()

    def require(self, size_bytes: int) -> None:
        """Check that exactly ``[0, size_bytes)`` was written.

        Raises:
            StageIncomplete: bytes are missing, or there are more.
        """
        if not self.covered.is_exactly(size_bytes):
            raise StageIncomplete(f"staged {_shape(self.covered)}, expected bytes 0 to {size_bytes}")


def _shape(covered: Intervals) -> str:
    ranges = list(covered)
    if not ranges:
        return "nothing"
    return (
        f"{len(ranges)} ranges from {ranges[0][0]} to {ranges[-1][1]}"
        if len(ranges) > 1
        else (f"bytes {ranges[0][0]} to {ranges[0][1]}")
    )


class Staging:
    """All staging areas of a store, within its limits."""

    def __init__(self, limits: StoreLimits, next_id: Callable[[], int]) -> None:
        self.limits = limits
        self._next_id = next_id
        self._areas: dict[ShareKey, Area] = {}
        self._memory: Counter[OwnerId] = Counter()
        self._files: Counter[OwnerId] = Counter()

    def __len__(self) -> int:
        return len(self._areas)

    def get(self, key: ShareKey) -> Area | None:
        """Return the area of a share, if there is one."""
        return self._areas.get(key)

    def admit(self, key: ShareKey, offset: int, size_bytes: int, now_s: float) -> Area:
        """Return the area to write a range into, created on first use.

        Raises:
            Rejected: the range is impossible, or leaves too many gaps.
            StagingFull: a limit is reached.
        """
        end = offset + size_bytes
        if offset < 0 or end > self.limits.share_bytes:
            raise Rejected(f"bytes {offset} to {end} of a share of at most {self.limits.share_bytes}")
        area = self._areas.get(key)
        if area is not None and len(area.covered) >= self.limits.pieces_per_area:
            raise Rejected(f"more than {self.limits.pieces_per_area} separate ranges of one share are staged")
        small = end <= SMALL_BYTES and not (area and area.spilled)
        if small:
            self._check_memory(key.owner, end - (len(area.memory) if area else 0))
        elif area is None or not area.spilled:
            self._check_files(key.owner)
        if area is None:
            area = self._create(key, now_s)
        area.touched_s = now_s
        if not small and not area.spilled:
            area.spilled, area.in_memory = True, list(area.covered)
            self._files[key.owner] += 1
        return area

    def _create(self, key: ShareKey, now_s: float) -> Area:
        if len(self._areas) >= self.limits.areas:
            raise StagingFull(f"{self.limits.areas} shares are staged", retry_after_s=_RETRY_AFTER_S)
        area = self._areas[key] = Area(key, self._next_id(), now_s)
        return area

    def _check_memory(self, owner: OwnerId, growth_bytes: int) -> None:
        if growth_bytes <= 0:
            return
        mine, total = self._memory[owner] + growth_bytes, self._memory.total() + growth_bytes
        if mine > self.limits.memory_bytes_per_owner or total > self.limits.memory_bytes:
            raise StagingFull("the memory for small staged shares is in use", retry_after_s=_RETRY_AFTER_S)

    def _check_files(self, owner: OwnerId) -> None:
        if self._files[owner] >= self.limits.files_per_owner or self._files.total() >= self.limits.files:
            raise StagingFull("too many large shares are staged at once", retry_after_s=_RETRY_AFTER_S)

    def count_memory(self, owner: OwnerId, change_bytes: int) -> None:
        """Note that small shares take more or less memory."""
        self._memory[owner] += change_bytes

    def remove(self, area: Area) -> None:
        """Forget an area; what to do with its bytes is the caller's business."""
        if self._areas.get(area.key) is area:
            del self._areas[area.key]
            if area.spilled:
                self._files[area.key.owner] -= 1

    def all(self) -> list[Area]:
        """Return all areas."""
        return list(self._areas.values())

    def older_than(self, moment_s: float) -> list[Area]:
        """Return areas that nobody touched since."""
        return [area for area in self._areas.values() if area.touched_s < moment_s and not area.in_flight]
