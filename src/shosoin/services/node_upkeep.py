"""What a share node does when nobody asks: check shares at rest, drop what was staged and left.

Both run in small rounds, so that they never compete with requests for long, and both tell what they found.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from shosoin.adapters.share_store import ScrubReport
from shosoin.base import ShosoinError, SiteId
from shosoin.base.ports import Event, EventSink
from shosoin.services.node_config import NodeLimitSection
from shosoin.vault.ports import ShareKey

__all__ = ["Upkeep"]


class UpkeepStore(Protocol):
    """What upkeep needs of a store."""

    async def scrub(self, bytes_max: int) -> ScrubReport:
        """Check some shares at rest."""
        ...

    async def collect_orphans(self) -> list[ShareKey]:
        """Drop what was left."""
        ...

    async def compact_log(self) -> None:
        """Take deleted rows out of the log."""
        ...

    @property
    def failed(self) -> str | None:
        """Why writes are refused."""
        ...


class Upkeep:
    """Rounds of upkeep until cancelled."""

    def __init__(self, store: UpkeepStore, site: SiteId, limits: NodeLimitSection, sink: EventSink) -> None:
        self._store = store
        self._site = site
        self._limits = limits
        self._sink = sink
        self._told_failure = False

    async def run(self) -> None:
        """Do rounds for ever."""
        while True:
            await asyncio.sleep(self._limits.upkeep_interval_s)
            await self.round()

    async def round(self) -> None:
        """Do one round; what fails is told and tried again in the next."""
        for task in (self._collect, self._scrub):
            try:
                await task()
            except ShosoinError as err:
                self._emit("vault.upkeep_failed", "warning", code=err.code, message=err.message)
        if self._store.failed and not self._told_failure:
            self._told_failure = True
            self._emit("vault.storage_failed", "warning", reason=self._store.failed)

    async def _collect(self) -> None:
        collected = await self._store.collect_orphans()
        if collected:
            self._emit("vault.orphans_collected", "info", shares=len(collected))
        await self._store.compact_log()

    async def _scrub(self) -> None:
        bytes_max = int(self._limits.scrub_bytes_per_s * self._limits.upkeep_interval_s)
        report = await self._store.scrub(max(bytes_max, 1))
        for key in report.damaged:
            self._emit("vault.share_damaged", "warning", **describe(key))
        if report.round_complete:
            self._emit("vault.scrub_complete", "info")

    def _emit(self, name: str, severity: str, **fields: object) -> None:
        self._sink.emit(Event(name, severity, {"site": self._site, **fields}))


def describe(key: ShareKey) -> dict[str, object]:
    """Return a share's name as event fields."""
    return {"owner": key.owner, "object": key.object_id, "version": key.version, "epoch": key.epoch}
