"""Reading objects back: under their policies, one or many together, and again if they are replaced meanwhile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from shosoin.base import ObjectId, SiteId, Unavailable
from shosoin.base.ports import Event
from shosoin.vault.catalog import Reading
from shosoin.vault.concurrency import gather_few
from shosoin.vault.context import VaultContext
from shosoin.vault.fetching import NotRecoverable
from shosoin.vault.found_bad import note_accused
from shosoin.vault.guard import ReadGate
from shosoin.vault.index import Entry
from shosoin.vault.key_needs import links_without_stock
from shosoin.vault.lookup import (
    READ_ATTEMPTS,
    Lookup,
    NotFound,
    ReplacedMeanwhile,
    body_of,
    ids_and_versions,
    live_value,
)
from shosoin.vault.names import Names
from shosoin.vault.naming import checked_name
from shosoin.vault.ports import Buffer
from shosoin.vault.reading import ObjectReader
from shosoin.vault.receipts import GetReceipt
from shosoin.vault.scheme import Scheme
from shosoin.vault.verifying import record_keyed

__all__ = ["ByteSink", "Getter"]

_READ_TOGETHER_BYTES = 2 << 20
_READ_TOGETHER = 64
_BATCHES = 2
"""Batches that are read side by side, so that owner and sites work at the same time."""


class ByteSink(Protocol):
    """Where plaintext goes."""

    async def write(self, data: Buffer) -> None:
        """Take the next bytes."""
        ...


@dataclass(slots=True)
class _Copied:
    """What of an object has gone to the sink."""

    sink: ByteSink
    progress: Callable[[int], None] | None
    size_bytes: int = 0

    async def take(self, pieces: AsyncIterator[memoryview]) -> None:
        async for piece in pieces:
            await self.sink.write(piece)
            self.size_bytes += len(piece)
            if self.progress is not None:
                self.progress(self.size_bytes)


class Getter:
    """Reads objects of one owner; see ``Vault.get`` and ``Vault.get_many`` for what is promised."""

    def __init__(self, context: VaultContext, names: Names, lookup: Lookup) -> None:
        self._context, self._names, self._lookup = context, names, lookup

    async def get(
        self,
        name: str,
        sink: ByteSink,
        *,
        start: int,
        length: int | None,
        progress: Callable[[int], None] | None,
        despite_policy: bool,
    ) -> GetReceipt:
        """Write an object, or a range of it, to a sink."""
        started_s = self._context.clock.now_s()
        used_before = self._context.bits_used()
        gate = ReadGate(self._context, self._names.durable_at, despite_policy)
        for _ in range(READ_ATTEMPTS):
            reading, value = await self._lookup.find(name)
            reader = self._lookup.reader(value)
            warnings = gate.admit(name, value, reading)
            if value.class_ == "its":
                wanted = reader.bytes_from_each_site(start, length)
                reader.fetcher.last = await links_without_stock(self._context, value, wanted)
                warnings = gate.admit_route(name, value, reading)
            copied = _Copied(sink, progress)
            try:
                await copied.take(reader.read(start, length))
            except (Unavailable, NotRecoverable) as error:
                replaced = await self._lookup.was_replaced(value)
                reader.fetcher.publish(replaced=replaced)
                if not replaced:
                    raise
                if copied.size_bytes:
                    message = f"{name!r} got a new version after {copied.size_bytes} bytes were read"
                    raise ReplacedMeanwhile(message) from error
                continue
            return GetReceipt(
                name=name,
                size_bytes=copied.size_bytes,
                alarms=[*self._names.alarms, *await self._found(reader)],
                seconds=self._context.clock.now_s() - started_s,
                key_bits_used=self._used_since(used_before),
                sites_used=sorted(reader.fetcher.sites_used),
                label=self._lookup.label(name, value, reading),
                freshness=reading.freshness,
                warnings=warnings,
            )
        raise ReplacedMeanwhile(f"{name!r} is replaced faster than it can be read")

    async def _found(self, reader: ObjectReader) -> list[Event]:
        """Report what a reading that ended well found wrong, and keep it."""
        missing = any(alarm.fields["kind"] == "share_missing" for alarm in reader.fetcher.alarms)
        alarms = reader.fetcher.publish(replaced=missing and await self._lookup.was_replaced(reader.value))
        await record_keyed(self._context, alarms)
        note_accused(self._context, *body_of(reader), alarms)
        return alarms

    def _used_since(self, before: Mapping[SiteId, int]) -> dict[SiteId, int]:
        return {site: bits - before.get(site, 0) for site, bits in self._context.bits_used().items()}

    async def get_many(self, names: Sequence[str], *, despite_policy: bool) -> dict[str, bytes]:
        """Return many small objects with shared exchanges."""
        asked = {name: checked_name(name) for name in names}
        before: dict[str, str] = {}
        while True:
            entries = await self._names.load()
            for name in asked.values():
                if name not in entries:
                    raise NotFound(f"there is no object named {name!r}")
            now = {name: entries[name].object_id for name in asked.values()}
            try:
                return await self._get_all(asked, entries, despite_policy=despite_policy)
            except NotFound:
                if now == before:
                    raise
                before = now  # a name may have gone to another object meanwhile: look once more

    async def _get_all(
        self, asked: Mapping[str, str], entries: Mapping[str, Entry], *, despite_policy: bool
    ) -> dict[str, bytes]:
        durable = self._names.durable_everywhere()
        gate = ReadGate(self._context, lambda name: durable.get(name, 0), despite_policy)
        by_class: dict[str, list[Entry]] = {}
        for name in set(asked.values()):
            by_class.setdefault(entries[name].class_, []).append(entries[name])
        works = [
            self._get_batch(class_, wanted[at : at + _READ_TOGETHER], gate)
            for class_, wanted in by_class.items()
            for at in range(0, len(wanted), _READ_TOGETHER)
        ]
        found: dict[str, bytes] = {}
        for batch in await gather_few(self._context.runtime, works, at_once=_BATCHES):
            found |= batch
        return {name: found[normal] for name, normal in asked.items()}

    async def _get_batch(self, class_: str, entries: list[Entry], gate: ReadGate) -> dict[str, bytes]:
        for _ in range(READ_ATTEMPTS):
            channels = self._context.channels(class_)
            readings = await self._context.catalog.read_many(channels, *ids_and_versions(entries))
            pairs = [
                (entry, self._lookup.reader(live_value(entry.name, reading)))
                for entry, reading in zip(entries, readings, strict=True)
            ]
            readers = [reader for _, reader in pairs]
            read = {reader.value.register_id: reading for reader, reading in zip(readers, readings, strict=True)}
            for entry, reader in pairs:
                gate.admit(entry.name, reader.value, read[reader.value.register_id])
            try:
                found = await self._read_pairs(class_, pairs, read, gate)
            except (Unavailable, NotRecoverable):
                if not await self._lookup.publish(readers, ended=False):
                    raise
                continue
            await self._lookup.publish(readers, ended=True)
            return found
        raise ReplacedMeanwhile("the objects are replaced faster than they can be read")

    async def _read_pairs(
        self,
        class_: str,
        pairs: Sequence[tuple[Entry, ObjectReader]],
        read: Mapping[ObjectId, Reading],
        gate: ReadGate,
    ) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        groups: dict[tuple[Scheme, tuple[SiteId, ...]], list[tuple[Entry, ObjectReader]]] = {}
        for entry, reader in pairs:
            value = reader.value
            groups.setdefault((value.scheme, value.placement), []).append((entry, reader))
        for group in groups.values():
            if class_ == "its":
                wanted = sum(reader.bytes_from_each_site(0, None) for _, reader in group)
                last = await links_without_stock(self._context, group[0][1].value, wanted)
                for entry, reader in group:
                    reader.fetcher.last = last
                    gate.admit_route(entry.name, reader.value, read[reader.value.register_id])
            small = [pair for pair in group if pair[1].body.layout.total <= _READ_TOGETHER_BYTES // _READ_TOGETHER]
            if small:
                clears = await small[0][1].fetcher.fetch([reader.whole_range() for _, reader in small])
                for (_, reader), clear in zip(small, clears, strict=True):
                    reader.take_whole(clear)
            for entry, reader in group:
                found[entry.name] = b"".join([bytes(piece) async for piece in reader.read(0, None)])
        return found
