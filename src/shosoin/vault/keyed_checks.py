"""Checking objects under their keys, one or many together; what is found goes to the evidence and to the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from shosoin.base import ObjectId, SiteId, Unavailable
from shosoin.vault.audit import Audited, ShareFound
from shosoin.vault.context import CLASSES, VaultContext
from shosoin.vault.exposure import checked_statuses, note_read
from shosoin.vault.fetching import NotRecoverable
from shosoin.vault.found_bad import note_found
from shosoin.vault.index import Entry
from shosoin.vault.lookup import Lookup, ReplacedMeanwhile, body_of, chosen_entries, ids_and_versions
from shosoin.vault.names import Names
from shosoin.vault.receipts import VerifyReport
from shosoin.vault.tally import Tally
from shosoin.vault.values import RegisterValue
from shosoin.vault.verifying import TOGETHER, keyed_entry, verify_small

__all__ = ["Verifier"]


class Verifier:
    """Verifies objects of one owner."""

    def __init__(self, context: VaultContext, names: Names, lookup: Lookup) -> None:
        self._context, self._names, self._lookup = context, names, lookup

    async def verify(self, name: str, progress: Callable[[int], None] | None) -> VerifyReport:
        """Check one object; see ``Vault.verify``."""
        _, value = await self._lookup.find(name)
        return await self._verify(name, value, progress)

    async def _verify(
        self, name: str, value: RegisterValue, progress: Callable[[int], None] | None = None
    ) -> VerifyReport:
        reader = self._lookup.reader(value)
        if value.class_ == "its":
            await checked_statuses(self._context, value.placement, value.scheme, value)
            note_read(self._context, value)
        try:
            states = await reader.verify(value.placement, progress)
        except (Unavailable, NotRecoverable):
            if not await self._lookup.publish([reader], ended=False):
                raise
            raise ReplacedMeanwhile(f"{name!r} got a new version while it was verified") from None
        if await self._lookup.publish([reader], ended=True):
            raise ReplacedMeanwhile(f"{name!r} got a new version while it was verified")
        note_found(self._context, [(*body_of(reader), states)])
        await self._context.runtime.in_thread(self._context.evidence.append, keyed_entry([reader], [states]))
        return VerifyReport(name, states, [*self._names.alarms, *reader.fetcher.alarms])

    async def verify_many(
        self,
        names: Sequence[str] | None,
        prefix: str,
        progress: Callable[[int, int], None] | None,
        on_found: Callable[[str, Audited], None] | None,
    ) -> Tally:
        """Check many objects; see ``Vault.verify_many``."""
        started_s = self._context.clock.now_s()
        entries = await self._names.load()
        chosen, done, tally = chosen_entries(entries, names, prefix), 0, Tally()
        for class_ in CLASSES:
            same = [entry for entry in chosen if entry.class_ == class_]
            for at in range(0, len(same), TOGETHER):
                some = same[at : at + TOGETHER]
                for name, object_id, states in await self._verify_some(class_, some):
                    told = tally.count(name, object_id, states)
                    if on_found is not None:
                        on_found(name, told)
                done += len(some)
                if progress is not None:
                    progress(done, len(chosen))
        tally.seconds = self._context.clock.now_s() - started_s
        return tally

    async def _verify_some(
        self, class_: str, entries: Sequence[Entry]
    ) -> list[tuple[str, ObjectId, Mapping[SiteId, str]]]:
        context = self._context
        readings = await context.catalog.read_many(context.channels(class_), *ids_and_versions(entries))
        live = [
            (entry.name, reading.value)
            for entry, reading in zip(entries, readings, strict=True)
            if reading.value is not None and not reading.value.tombstone
        ]
        readers = [self._lookup.reader(value) for _, value in live]
        plain = await verify_small(context, readers)
        note_found(context, [(*body_of(readers[at]), states) for at, states in plain.items()])
        await context.runtime.in_thread(
            context.evidence.append, keyed_entry([readers[at] for at in plain], list(plain.values()))
        )
        found: list[tuple[str, ObjectId, Mapping[SiteId, str]]] = []
        for at, (name, value) in enumerate(live):
            states: Mapping[SiteId, str] | None = plain.get(at) or await self._verify_alone(name, value)
            if states is not None:
                found.append((name, value.register_id, states))
        return found

    async def _verify_alone(self, name: str, value: RegisterValue) -> Mapping[SiteId, str] | None:
        """Verify one object of many; ``None`` if it was replaced meanwhile."""
        try:
            return (await self._verify(name, value)).per_site
        except ReplacedMeanwhile:
            return None
        except NotRecoverable:
            return dict.fromkeys(value.placement, ShareFound.DOUBTFUL)
        except Unavailable as error:
            if error.code != "vault.too_few_sites":
                raise
            return dict.fromkeys(value.placement, ShareFound.UNCHECKED)
