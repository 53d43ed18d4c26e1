"""A share node's store in memory, with the faults of a real one at hand.

``MemorySiteStore`` keeps the contract of ``SiteStore`` (the same suite runs on it and on the real store), forgets what
was never made durable when told to crash, and fails when and where a test wants it to:

>>> store = MemorySiteStore()
>>> store.crash()                       # staged bytes are gone, records stay
>>> store.full = True                   # every write fails with code vault.disk_full
>>> def die_before_commit(point):
...     if point == "transact.commit":
...         raise SystemError("killed")
>>> store.probe = die_before_commit     # called at every step that a crash could interrupt

Points, in order: ``write``; ``finish``, ``finish.done``; ``transact``, ``transact.commit``, ``transact.done``.
What a probe raises leaves the method; effects up to that point stay.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from shosoin.base import ObjectId, OwnerId, Rejected, ShosoinError, Unavailable
from shosoin.vault.ports import (
    Buffer,
    RegisterRow,
    ShareDamaged,
    ShareKey,
    ShareRow,
    ShareState,
    SiteTransaction,
)

__all__ = ["MemorySiteStore"]

T = TypeVar("T")
_ABSENT: Any = object()


@dataclass(slots=True)
class _Area:
    """Bytes of a share that is being written."""

    content: bytearray = field(default_factory=bytearray)
    ranges: list[tuple[int, int]] = field(default_factory=list)

    def put(self, offset: int, data: Buffer) -> None:
        end = offset + len(data)
        self.content.extend(bytes(max(0, end - len(self.content))))
        self.content[offset:end] = data
        merged: list[tuple[int, int]] = []
        for low, high in sorted([*self.ranges, (offset, end)]):
            if merged and low <= merged[-1][1]:
                merged[-1] = merged[-1][0], max(high, merged[-1][1])
            else:
                merged.append((low, high))
        self.ranges = merged


@dataclass(slots=True)
class _Tables:
    """Everything durable."""

    shares: dict[ShareKey, ShareRow] = field(default_factory=dict)
    contents: dict[str, bytearray] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    registers: dict[tuple[OwnerId, ObjectId], RegisterRow] = field(default_factory=dict)
    signatures: dict[str, str] = field(default_factory=dict)
    challenges: dict[ShareKey, tuple[str, ...]] = field(default_factory=dict)
    used: dict[OwnerId, int] = field(default_factory=dict)
    attempts: dict[tuple[ShareKey, str], bool] = field(default_factory=dict)


class _Step:
    """``SiteTransaction`` that can be undone."""

    def __init__(self, tables: _Tables, finished: dict[str, tuple[ShareKey, bytes]]) -> None:
        self._tables = tables
        self._finished = finished
        self._undo: list[tuple[dict[Any, Any], Any, Any]] = []
        self.claimed: list[str] = []

    def _set(self, table: dict[Any, Any], key: Any, value: Any) -> None:
        self._undo.append((table, key, table.get(key, _ABSENT)))
        if value is _ABSENT:
            table.pop(key, None)
        else:
            table[key] = value

    def undo(self) -> None:
        for table, key, value in reversed(self._undo):
            if value is _ABSENT:
                table.pop(key, None)
            else:
                table[key] = value

    def register(self, owner: OwnerId, register_id: ObjectId) -> RegisterRow | None:
        return self._tables.registers.get((owner, register_id))

    def put_register(self, owner: OwnerId, register_id: ObjectId, row: RegisterRow) -> None:
        old = self.register(owner, register_id)
        self._set(self._tables.registers, (owner, register_id), row)
        name = old.signature_set if old else None
        if name and not any(kept.signature_set == name for kept in self._tables.registers.values()):
            self._set(self._tables.signatures, name, _ABSENT)

    def put_signatures(self, name: str, text: str) -> None:
        self._set(self._tables.signatures, name, text)

    def signatures(self, name: str) -> str | None:
        return self._tables.signatures.get(name)

    def share(self, key: ShareKey) -> ShareRow | None:
        return self._tables.shares.get(key)

    def put_share(self, row: ShareRow) -> None:
        old = self.share(row.key)
        if old is None or old.locator != row.locator:
            self._claim(row)
            if old is not None:
                self._set(self._tables.contents, old.locator, _ABSENT)
        elif old.size_bytes != row.size_bytes:
            raise Rejected("a share recorded with another size", code="vault.stage_incomplete")
        self._set(self._tables.shares, row.key, row)
        self._count(row.key.owner, row.size_bytes - (old.size_bytes if old else 0))

    def _claim(self, row: ShareRow) -> None:
        key, content = self._finished.get(row.locator, (None, b""))
        if key != row.key or len(content) != row.size_bytes:
            raise Rejected("the staged bytes are gone; write the share again", code="vault.stage_incomplete")
        self._set(self._tables.contents, row.locator, bytearray(content))
        self.claimed.append(row.locator)

    def _count(self, owner: OwnerId, change_bytes: int) -> None:
        self._set(self._tables.used, owner, self.used_bytes(owner) + change_bytes)

    def shares_of(self, owner: OwnerId, object_id: ObjectId) -> Sequence[ShareRow]:
        rows = (row for row in self._tables.shares.values() if (row.key.owner, row.key.object_id) == (owner, object_id))
        return sorted(rows, key=_order)

    def list_shares(self, owner: OwnerId, after: str, limit: int) -> Sequence[ShareRow]:
        rows = [row for row in self._tables.shares.values() if row.key.owner == owner and row.key.object_id > after]
        rows.sort(key=_order)
        if limit <= 0:
            return []
        last = rows[:limit][-1].key.object_id if rows else ""
        return [row for row in rows if row.key.object_id <= last]

    def delete_share(self, key: ShareKey) -> None:
        old = self.share(key)
        if old is not None:
            self._set(self._tables.shares, key, _ABSENT)
            self._set(self._tables.contents, old.locator, _ABSENT)
            self._count(key.owner, -old.size_bytes)

    def used_bytes(self, owner: OwnerId) -> int:
        return self._tables.used.get(owner, 0)

    def challenges(self, key: ShareKey) -> Sequence[str]:
        return self._tables.challenges.get(key, ())

    def add_challenge(self, key: ShareKey, challenge: str) -> None:
        known = self._tables.challenges.get(key, ())
        if challenge not in known:
            self._set(self._tables.challenges, key, (*known, challenge))

    def use_attempt(self, key: ShareKey, attempt: str) -> bool:
        if (key, attempt) in self._tables.attempts:
            return False
        self._set(self._tables.attempts, (key, attempt), True)
        return True


def _order(row: ShareRow) -> tuple[str, str, int]:
    return row.key.object_id, row.key.version, row.key.epoch


class MemorySiteStore:
    """``SiteStore`` in memory; steps run at once, one after the other."""

    def __init__(self) -> None:
        self._tables = _Tables()
        self._areas: dict[ShareKey, _Area] = {}
        self._finished: dict[str, tuple[ShareKey, bytes]] = {}
        self._ids = count(1)
        self.full = False
        """Whether the disk is full: writes fail with code ``vault.disk_full``, deleting works."""
        self.probe: Callable[[str], None] = lambda _: None
        """Called at every point that a crash could interrupt; may raise."""

    def crash(self) -> None:
        """Lose what is not durable: staged bytes, and finished bytes that no record claimed."""
        self._areas.clear()
        self._finished.clear()

    async def transact(self, step: Callable[[SiteTransaction], T]) -> T:
        """Run ``step`` atomically."""
        self.probe("transact")
        result = self._apply(step)[0]
        self.probe("transact.done")
        return result

    def _apply(self, step: Callable[[SiteTransaction], T]) -> tuple[T, Callable[[], None]]:
        """Run a step at once; return its result and a way to undo it, as long as no later step stands."""
        view = _Step(self._tables, self._finished)
        grown = sum(map(len, self._tables.contents.values())) if self.full else 0
        try:
            result = step(view)
            if self.full and sum(map(len, self._tables.contents.values())) > grown:
                raise _disk_full()
            self.probe("transact.commit")
        except BaseException:
            view.undo()
            raise
        for locator in view.claimed:
            self._finished.pop(locator, None)
        return result, view.undo

    async def transact_each(self, steps: Sequence[Callable[[SiteTransaction], T]]) -> list[T | ShosoinError]:
        """Run several steps, each atomic by itself."""
        return [await _outcome(self.transact(step)) for step in steps]

    async def look_each(self, looks: Sequence[Callable[[SiteTransaction], T]]) -> list[T | ShosoinError]:
        """Run several steps that only read, as any others: whoever saw something waits until it is durable."""
        return await self.transact_each(looks)

    async def write(self, key: ShareKey, offset: int, data: Buffer) -> None:
        """Put bytes into the staging area of a share."""
        self.probe("write")
        if offset < 0:
            raise Rejected("bytes before the start of a share")
        if self.full:
            self._areas.pop(key, None)
            raise _disk_full()
        if len(data):
            self._areas.setdefault(key, _Area()).put(offset, data)

    async def finish(self, key: ShareKey, size_bytes: int) -> str:
        """Make the staged bytes durable and return their locator."""
        self.probe("finish")
        area = self._areas.get(key)
        if area is None or area.ranges != [(0, size_bytes)]:
            raise Rejected(f"not exactly bytes 0 to {size_bytes} were staged", code="vault.stage_incomplete")
        del self._areas[key]
        if self.full:
            raise _disk_full()
        locator = f"m{next(self._ids):016x}"
        self._finished[locator] = key, bytes(area.content)
        self.probe("finish.done")
        return locator

    async def read(self, row: ShareRow, offset: int, length: int) -> bytes:
        """Return bytes of a share."""
        if offset < 0 or length < 0 or offset + length > row.size_bytes:
            raise Rejected("a range that is not inside the share", code="vault.bad_range")
        content: Buffer | None = self._tables.contents.get(row.locator)
        if content is None and row.locator in self._finished:
            content = self._finished[row.locator][1]
        if content is None or row.locator in self._tables.damaged:
            raise ShareDamaged("the share does not match its checksum, or is gone")
        return bytes(content[offset : offset + length])

    async def read_each(self, wanted: Sequence[tuple[ShareRow, int, int]]) -> list[Buffer | ShosoinError]:
        """Read several ranges."""
        return [await _outcome(self.read(*one)) for one in wanted]

    async def discard(self, key: ShareKey) -> None:
        """Forget what is staged, and what is finished and unclaimed, of one share."""
        self._areas.pop(key, None)
        for locator in [found for found, (owner_key, _) in self._finished.items() if owner_key == key]:
            del self._finished[locator]

    def rot(self, key: ShareKey) -> None:
        """Damage a share so that its own checksum tells (``ShareDamaged`` on every read)."""
        self._tables.damaged.add(self._tables.shares[key].locator)

    def falsify(self, key: ShareKey, offset: int, data: Buffer) -> None:
        """Change a share and its checksum: a site that lies."""
        content = self._tables.contents[self._tables.shares[key].locator]
        if offset + len(data) > len(content):
            raise ValueError("beyond the end of the share")
        content[offset : offset + len(data)] = data

    def lose(self, key: ShareKey) -> None:
        """Lose the bytes of a share but keep its record."""
        del self._tables.contents[self._tables.shares[key].locator]

    def shares(self, state: ShareState | None = None) -> list[ShareRow]:
        """Return all share records, or those in one state."""
        rows = (row for row in self._tables.shares.values() if state in {None, row.state})
        return sorted(rows, key=_order)

    @property
    def staged(self) -> int:
        """Number of shares with bytes that are not part of any record."""
        return len(self._areas) + len(self._finished)


async def _outcome(work: Awaitable[T]) -> T | ShosoinError:
    try:
        return await work
    except ShosoinError as error:
        return error


def _disk_full() -> Unavailable:
    return Unavailable("no space left", code="vault.disk_full", retry_after_s=30.0)
