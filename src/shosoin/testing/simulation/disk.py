"""A share node's disk under simulated time: it is slow, it dies at any call, it fills up, it can be set back.

Steps of a transaction show at once and become durable in the order of the log, when the disk has had its time; they
return only then. A crash keeps a random prefix of what was not durable yet. Staged bytes, and finished bytes that no
record names, are gone after it, as ``SiteStore`` says.

A *crash point* is the number of a call and a phase: ``before`` it did anything, ``during`` (its effects show and are
not durable), or ``after`` (durable, and nobody was told).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TypeVar

from shosoin.base import ObjectId, OwnerId, ShosoinError, SimulationRng
from shosoin.testing.memory_store import MemorySiteStore
from shosoin.testing.simulation.kernel import Process
from shosoin.vault.ports import Buffer, RegisterRow, ShareKey, ShareRow, ShareState, SiteTransaction

__all__ = ["PHASES", "SimulatedDisk"]

T = TypeVar("T")
PHASES = ("before", "during", "after")


class SimulatedDisk(MemorySiteStore):
    """``SiteStore`` that outlives the processes of its node."""

    def __init__(self, seed: int = 0, *, latency_s: float = 0.0) -> None:
        super().__init__()
        self._rng = SimulationRng(seed)
        self._latency_s = latency_s
        self._process: Process | None = None
        self._journal: list[Callable[[], None]] = []
        """How to undo what is not durable yet, oldest first."""
        self._log_end = 0
        self._log_synced = 0
        self._saved: object = None
        self.dealt: dict[ShareKey, bytes] = {}
        """Shares as a dealer made them, before anything befell them: what a check compares with."""
        self.made_s: dict[ShareKey, float] = {}
        """When each share was last written, by a dealer or a repair."""
        self.calls = 0
        self.crash_points: dict[int, str] = {}
        self.on_crash: Callable[[], None] = lambda: None
        """Kills the process that uses the disk."""

    def mount(self, process: Process | None) -> None:
        """Let a new process use the disk."""
        self._process = process

    def crash(self) -> None:
        """Lose what is not durable, except a random prefix of the log."""
        kept = self._rng.integer(0, len(self._journal))
        for undo in reversed(self._journal[kept:]):
            undo()
        self._journal.clear()
        self._log_synced = self._log_end
        super().crash()

    def save(self) -> None:
        """Remember everything durable and not, as a snapshot of a running machine does."""
        self._saved = deepcopy(self._tables)

    def set_back(self) -> bool:
        """Return to what was saved; whether there was anything."""
        if self._saved is None:
            return False
        self._journal.clear()
        self._log_synced = self._log_end
        self._tables = deepcopy(self._saved)  # type: ignore[assignment]  # saved by ``save``
        super().crash()
        return True

    def committed(self, owner: OwnerId, register_id: ObjectId) -> str | None:
        """Return the committed value of a register."""
        row = self._tables.registers.get((owner, register_id))
        return row.committed_value if row else None

    def registers(self) -> list[tuple[OwnerId, ObjectId, RegisterRow]]:
        """Return all registers."""
        return [(owner, register_id, row) for (owner, register_id), row in self._tables.registers.items()]

    def challenges(self) -> dict[ShareKey, tuple[str, ...]]:
        """Return the challenges that were written down for each share."""
        return dict(self._tables.challenges)

    def content(self, row: ShareRow) -> bytes:
        """Return the bytes of a share as they lie there; empty if they are gone."""
        return bytes(self._tables.contents.get(row.locator, b""))

    async def transact(self, step: Callable[[SiteTransaction], T]) -> T:
        """Run ``step`` atomically."""
        outcome = (await self.transact_each([step]))[0]
        if isinstance(outcome, ShosoinError):
            raise outcome
        return outcome

    async def transact_each(self, steps: Sequence[Callable[[SiteTransaction], T]]) -> list[T | ShosoinError]:
        """Run several steps, each atomic by itself, made durable together."""
        await self._enter()
        outcomes: list[T | ShosoinError] = []
        for step in steps:
            try:
                result, undo = self._apply(step)
            except ShosoinError as error:
                outcomes.append(error)
            else:
                outcomes.append(result)
                self._journal.append(undo)
                self._log_end += 1
        await self._sync()
        return outcomes

    async def _sync(self) -> None:
        """Wait until everything in the log so far is durable."""
        mine = self._log_end
        self._perhaps_crash("during")
        await self._pause()
        if mine > self._log_synced:
            del self._journal[: mine - self._log_synced]
            self._log_synced = mine
        self._perhaps_crash("after")

    async def write(self, key: ShareKey, offset: int, data: Buffer) -> None:
        """Put bytes into the staging area of a share."""
        await self._enter()
        await super().write(key, offset, bytes(data))
        self._perhaps_crash("after")

    async def finish(self, key: ShareKey, size_bytes: int) -> str:
        """Make the staged bytes durable and return their locator."""
        await self._enter()
        locator = await super().finish(key, size_bytes)
        self._note(key, locator)
        self._perhaps_crash("during")
        await self._pause()
        self._perhaps_crash("after")
        return locator

    def _note(self, key: ShareKey, locator: str) -> None:
        if all(tried != key for tried, _ in self._tables.attempts):  # else it may come from a repair
            self.dealt.setdefault(key, self._finished[locator][1])
        self.made_s[key] = self._process.kernel.now_s if self._process is not None else 0.0

    @property
    def settled(self) -> bool:
        """Whether everything that shows is durable."""
        return not self._journal

    def values(self, owner: OwnerId) -> list[str]:
        """Return the committed values of all registers."""
        rows = [row for (whose, _), row in self._tables.registers.items() if whose == owner]
        return [row.committed_value for row in rows if row.committed_value is not None]

    def row(self, key: ShareKey) -> ShareRow | None:
        """Return the record of a share."""
        return self._tables.shares.get(key)

    def bytes_of(self, row: ShareRow) -> bytes | None:
        """Return the bytes of a share; ``None`` if they are gone or their checksum does not fit."""
        content = self._tables.contents.get(row.locator)
        return None if content is None or row.locator in self._tables.damaged else bytes(content)

    def forget(self, key: ShareKey) -> None:
        """Lose a share and its record, as if it had never been written."""
        self._apply(lambda tx: tx.delete_share(key))

    async def read(self, row: ShareRow, offset: int, length: int) -> bytes:
        """Return bytes of a share."""
        await self._enter()
        return await super().read(row, offset, length)

    async def discard(self, key: ShareKey) -> None:
        """Forget what is staged of one share."""
        await self._enter()
        await super().discard(key)

    async def collect_orphans(self, before_wall_s: float) -> int:
        """Drop shares that stayed ``STAGED`` since before a time; return how many."""

        def collect(tx: SiteTransaction) -> int:
            old = [row.key for row in self.shares(ShareState.STAGED) if row.created_wall_s < before_wall_s]
            for key in old:
                tx.delete_share(key)
            return len(old)

        return await self.transact(collect)

    async def _enter(self) -> None:
        """Begin a call: the place where a planned crash may come before it does anything."""
        if self._process is not None:
            self._process.check()
        self.calls += 1
        self._perhaps_crash("before")
        await self._pause()

    async def _pause(self) -> None:
        if self._process is not None and self._latency_s:
            await self._process.runtime.sleep(self._rng.uniform(0.1, 2.0) * self._latency_s)

    def _perhaps_crash(self, phase: str) -> None:
        if self.crash_points.get(self.calls) == phase:
            del self.crash_points[self.calls]
            self.on_crash()
            if self._process is not None:
                self._process.check()
