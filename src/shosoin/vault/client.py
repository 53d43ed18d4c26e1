"""The vault as an owner uses it: put, get, ls, stat, rm, verify, audit.

``Vault`` decides the order of things and nothing else: shares are durable before the register counts on them, the
register is committed before the index names the object, and old versions are erased after both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from shosoin.base import AssuranceLabel, ObjectId, Rejected, SiteId, Unavailable, VersionId
from shosoin.base.ports import Event
from shosoin.vault.audit import Audited, ShareFound
from shosoin.vault.audit_ledger import SLOT_S, BodyName
from shosoin.vault.audit_round import EVERYTHING, AuditOptions, AuditRound, run_round
from shosoin.vault.catalog import UNPROVEN, Reading
from shosoin.vault.concurrency import gather_few
from shosoin.vault.context import CLASSES, VaultContext
from shosoin.vault.exposure import checked_statuses, note_read
from shosoin.vault.fetching import Fetcher, NotRecoverable
from shosoin.vault.found_bad import note_accused, note_found
from shosoin.vault.guard import ReadGate, check_plan, label_of_reading, verdicts_on
from shosoin.vault.index import Entry
from shosoin.vault.key_needs import check_stock, links_without_stock, plan_put
from shosoin.vault.leaving import Ties, erase_leftovers, find_ties
from shosoin.vault.moving import Moved, move_objects
from shosoin.vault.names import Names
from shosoin.vault.naming import BadName, checked_name
from shosoin.vault.oversight import foreseen_put, labelled, listing_of, policy_in_force
from shosoin.vault.policies import Policies
from shosoin.vault.ports import Buffer
from shosoin.vault.putting import BytesSource, Putter, erase_everywhere, remove_objects
from shosoin.vault.reading import ObjectReader
from shosoin.vault.receipts import (
    Foreseen,
    GetReceipt,
    KeyPlan,
    Labelled,
    Listing,
    PolicyInForce,
    PutReceipt,
    RemoveReceipt,
    Stat,
    VerifyReport,
)
from shosoin.vault.repair import Repaired, Repairer
from shosoin.vault.repair_plan import Need
from shosoin.vault.scheme import Scheme
from shosoin.vault.tally import Tally
from shosoin.vault.unnamed import remove_unnamed
from shosoin.vault.values import RegisterValue
from shosoin.vault.verifying import TOGETHER, keyed_entry, record_keyed, verify_small
from shosoin.vault.writing import ByteSource

__all__ = ["ByteSink", "Vault"]

_READ_TOGETHER_BYTES = 2 << 20
_READ_TOGETHER = 64
_BATCHES = 2
"""Batches that are read side by side, so that owner and sites work at the same time."""
_READ_ATTEMPTS = 4


class ByteSink(Protocol):
    """Where plaintext goes."""

    async def write(self, data: Buffer) -> None:
        """Take the next bytes."""
        ...


class ReplacedMeanwhile(Unavailable):
    """The object got a new version while it was read."""

    code = "vault.replaced_meanwhile"
    hint = "read it again from the start"


class NotFound(Rejected):
    """No object of that name."""

    code = "vault.not_found"
    hint = "`shosoin ls` shows the names that exist"


class Vault:
    """One owner's objects over that owner's sites."""

    def __init__(self, context: VaultContext) -> None:
        self._context = context
        self._names = Names(context)

    async def plan(self, size_bytes: int, *, scheme: Scheme | None = None, class_: str = "its") -> KeyPlan:
        """Return the key bits that a put of so many bytes takes per remote site, the stock, and the wait.

        The figure is an upper bound; one reading of the object later takes about as much again at k-1 sites.
        """
        return await plan_put(self._context, size_bytes, scheme or self._context.default_scheme, class_)

    async def put(
        self,
        source: ByteSource,
        name: str,
        *,
        scheme: Scheme | tuple[int, int] | None = None,
        class_: str = "its",
        content_type: str | None = None,
        progress: Callable[[int], None] | None = None,
        deal_check: bool = False,
    ) -> PutReceipt:
        """Store an object under a name; an object of that name gets a new version.

        Raises:
            BadName, BadScheme: before anything is read or drawn.
            PolicyRefused: the policy for the name is not met; nothing is left behind.
            Unavailable: too few sites or too little key (``retry_after_s`` where known); nothing was committed.
            Conflict: another writer was faster; that writer's version stands, whole.
            SourceChanged: the file grew or shrank while it was read.
        """
        name = checked_name(name)
        chosen = self._scheme(scheme)
        self._context.channels(class_)
        await check_plan(self._context, [name], chosen, class_)
        if class_ == "its":
            await check_stock(self._context, [source.size_hint or 0], chosen)
        used_before = self._context.bits_used()
        await self._names.load()
        putter = Putter(self._context, self._names, chosen, class_, deal_check)
        return (await putter.put({name: source}, content_type, progress, used_before=used_before))[0]

    async def put_many(
        self,
        contents: Mapping[str, bytes],
        *,
        scheme: Scheme | tuple[int, int] | None = None,
        class_: str = "its",
        deal_check: bool = False,
    ) -> list[PutReceipt]:
        """Store many small objects with shared exchanges and one index commit."""
        chosen = self._scheme(scheme)
        sources = {checked_name(name): BytesSource(content) for name, content in contents.items()}
        if len(sources) < len(contents):
            raise BadName("two of the names are one name in normal form C")
        await check_plan(self._context, sources, chosen, class_)
        if class_ == "its":
            await check_stock(self._context, list(map(len, contents.values())), chosen)
        used_before = self._context.bits_used()
        await self._names.load()
        putter = Putter(self._context, self._names, chosen, class_, deal_check)
        return await putter.put(sources, used_before=used_before)

    async def get(
        self,
        name: str,
        sink: ByteSink,
        *,
        start: int = 0,
        length: int | None = None,
        progress: Callable[[int], None] | None = None,
        despite_policy: bool = False,
    ) -> GetReceipt:
        """Write an object, or a range of it, to a sink; every byte is checked before it is written.

        A site that lies is named in ``alarms``; the right bytes are served all the same while k good shares answer.
        With ``despite_policy`` an object that does not meet its policy is read all the same, and ``warnings`` say so.

        Raises:
            PolicyRefused: its policy, of today or of its put, is not met; no key was drawn.
            NotFound: no object of that name.
            Unavailable: fewer than k sites answer, or too little key is in stock (then no key was used).
            NotRecoverable: more sites lie than the scheme survives; nothing wrong was written.
        """
        started_s = self._context.clock.now_s()
        used_before = self._context.bits_used()
        name = checked_name(name)
        gate = ReadGate(self._context, self._names.durable_at, despite_policy)
        for _ in range(_READ_ATTEMPTS):
            reading, value = await self._object(name)
            reader = self._reader(value)
            warnings = gate.admit(name, value, reading)
            if value.class_ == "its":
                reader.fetcher.last = await links_without_stock(
                    self._context, value, reader.bytes_from_each_site(start, length)
                )
                warnings = gate.admit_route(name, value, reading)
            written = 0
            try:
                async for piece in reader.read(start, length):
                    await sink.write(piece)
                    written += len(piece)
                    if progress is not None:
                        progress(written)
            except (Unavailable, NotRecoverable) as error:
                replaced = await self._replaced(value)
                reader.fetcher.publish(replaced=replaced)
                if not replaced:
                    raise
                if written:
                    raise ReplacedMeanwhile(f"{name!r} got a new version after {written} bytes were read") from error
                continue
            missing = any(alarm.fields["kind"] == "share_missing" for alarm in reader.fetcher.alarms)
            alarms = reader.fetcher.publish(replaced=missing and await self._replaced(value))
            await record_keyed(self._context, alarms)
            note_accused(self._context, *_body_of(reader), alarms)
            return GetReceipt(
                name=name,
                size_bytes=written,
                seconds=self._context.clock.now_s() - started_s,
                key_bits_used={
                    site: bits - used_before.get(site, 0) for site, bits in self._context.bits_used().items()
                },
                sites_used=sorted(reader.fetcher.sites_used),
                alarms=[*self._names.alarms, *alarms],
                label=self._label(name, value, reading),
                freshness=reading.freshness,
                warnings=warnings,
            )
        raise ReplacedMeanwhile(f"{name!r} is replaced faster than it can be read")

    async def _replaced(self, value: RegisterValue) -> bool:
        """Whether the object has another version than ``value`` by now."""
        reading = await self._context.catalog.read(self._context.channels(value.class_), value.register_id)
        return reading.value is None or reading.value.version != value.version

    async def get_many(self, names: list[str], *, despite_policy: bool = False) -> dict[str, bytes]:
        """Return many small objects with shared exchanges.

        Raises:
            PolicyRefused: the policy of one of them is not met; nothing of its batch was read.
            NotFound: one of the names does not exist.
        """
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
        for _ in range(_READ_ATTEMPTS):
            channels = self._context.channels(class_)
            readings = await self._context.catalog.read_many(channels, *_ids_and_versions(entries))
            pairs = [
                (entry, self._reader(self._live(entry.name, reading)))
                for entry, reading in zip(entries, readings, strict=True)
            ]
            readers = [reader for _, reader in pairs]
            read = {reader.value.register_id: reading for reader, reading in zip(readers, readings, strict=True)}
            for entry, reader in pairs:
                gate.admit(entry.name, reader.value, read[reader.value.register_id])
            try:
                found = await self._read_pairs(class_, pairs, read, gate)
            except (Unavailable, NotRecoverable):
                if not await self._publish(readers, ended=False):
                    raise
                continue
            await self._publish(readers, ended=True)
            return found
        raise ReplacedMeanwhile("the objects are replaced faster than they can be read")

    async def _publish(self, readers: Sequence[ObjectReader], *, ended: bool) -> bool:
        """Report what reads found; shares are missed at nobody if one of the objects was replaced meanwhile.

        Returns whether one was, which a read that ``ended`` well asks only if shares were missing.
        """
        alarms = [alarm for reader in readers for alarm in reader.fetcher.alarms]
        replaced = False
        if not ended or any(alarm.fields["kind"] == "share_missing" for alarm in alarms):
            for reader in readers:
                replaced = replaced or await self._replaced(reader.value)
        for reader in readers:
            found = reader.fetcher.publish(replaced=replaced)
            note_accused(self._context, *_body_of(reader), found)
        return replaced

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

    async def ls(self, prefix: str = "") -> list[Listing]:
        """Return the names that exist, in order."""
        entries = await self._names.load()
        return [listing_of(entries[name]) for name in sorted(entries) if name.startswith(prefix)]

    async def labels(self, prefix: str = "", *, names: Sequence[str] | None = None) -> list[Labelled]:
        """Return the labels of all names that begin with a prefix, or of those named, without touching a share.

        Raises:
            NotFound: one of the names does not exist.
        """
        entries = await self._names.load()
        wanted = sorted(entries) if names is None else [checked_name(name) for name in dict.fromkeys(names)]
        missing = next((name for name in wanted if name not in entries), None)
        if missing is not None:
            raise NotFound(f"there is no object named {missing!r}")
        chosen = [entries[name] for name in wanted if name.startswith(prefix)]
        return await labelled(self._context, self._names, chosen)

    def policy(self, name: str) -> PolicyInForce:
        """Return the policy that binds a name, whether it exists or not."""
        return policy_in_force(self._context, checked_name(name))

    @property
    def policies(self) -> Policies:
        """All policies of the owner."""
        return self._context.policies

    async def foresee(self, name: str, *, scheme: Scheme | None = None, class_: str = "its") -> Foreseen:
        """Return what can be known of a put before it, and how its policy would fare; no key is drawn."""
        return await foreseen_put(self._context, checked_name(name), self._scheme(scheme), class_)

    async def stat(self, name: str) -> Stat:
        """Return what is known of an object without reading it."""
        name = checked_name(name)
        reading, value = await self._object(name)
        entry = self._names.entries()[name]
        label = self._label(name, value, reading)
        policy = verdicts_on(self._context, name, value, label)
        return Stat(listing_of(entry), label, list(value.placement), value.bodies[0].layout.total, policy)

    async def rm(self, name: str) -> RemoveReceipt:
        """Remove an object: tombstone its register, erase its shares, take its name out of the index.

        An interrupted removal is finished by the next one.
        """
        name = checked_name(name)
        entries = await self._names.load()
        if name not in entries:
            raise NotFound(f"there is no object named {name!r}")
        entry = entries[name]
        if entry.class_ == "its":
            await checked_statuses(self._context, self._context.members, self._context.register_scheme)
        channels = self._context.channels(entry.class_)
        reading = await self._context.catalog.read(channels, ObjectId(entry.object_id))
        placed = reading.value.placement if reading.value is not None else ()
        if reading.value is None or reading.value.tombstone:
            ops = [{"op": "erase", "object": entry.object_id}]
            erased = (await erase_everywhere(self._context, channels, ops))[entry.object_id]
        else:
            outcome, erased = (await remove_objects(self._context, entry.class_, [reading.value]))[0]
            if outcome.error is not None:
                raise outcome.error
        deleted = replace(entry, deleted=True, size_bytes=0)
        await self._names.commit(entry.class_, [deleted], {name: entry.object_id})
        known = dict.fromkeys(
            (*(site.name for site in self._context.sites), *placed)
        )  # nobody asks a site unknown here
        pending = [site for site in known if site not in erased]
        return RemoveReceipt(name, entry.object_id, erased, pending)

    async def rm_unnamed(self, *, older_than_s: float = 86_400.0) -> list[str]:
        """Remove objects that never got their name, because their writer died; return their object IDs.

        Safe beside writers that are only slow (see ``vault.unnamed``).
        """
        removed = await remove_unnamed(self._context, self._names, older_than_s)
        return [str(value.register_id) for value in removed]

    async def move_retired(self, *, progress: Callable[[int, int], None] | None = None) -> list[Moved]:
        """Move everything off the sites that the configuration calls retired (see ``vault.moving``)."""
        moved = await move_objects(self._context, self._names, progress)
        await erase_leftovers(self._context, self._names)
        return moved

    async def ties(self) -> Ties:
        """Say what still ties objects to sites that are no members (see ``vault.leaving``); nothing is changed."""
        return await find_ties(self._context, self._names)

    async def verify(self, name: str, *, progress: Callable[[int], None] | None = None) -> VerifyReport:
        """Read and check every share of an object at every site."""
        name = checked_name(name)
        _, value = await self._object(name)
        return await self._verify(name, value, progress)

    async def _verify(
        self, name: str, value: RegisterValue, progress: Callable[[int], None] | None = None
    ) -> VerifyReport:
        reader = self._reader(value)
        if value.class_ == "its":
            await checked_statuses(self._context, value.placement, value.scheme, value)
            note_read(self._context, value)
        try:
            states = await reader.verify(value.placement, progress)
        except (Unavailable, NotRecoverable):
            if not await self._publish([reader], ended=False):
                raise
            raise ReplacedMeanwhile(f"{name!r} got a new version while it was verified") from None
        if await self._publish([reader], ended=True):
            raise ReplacedMeanwhile(f"{name!r} got a new version while it was verified")
        note_found(self._context, [(*_body_of(reader), states)])
        await self._context.runtime.in_thread(self._context.evidence.append, keyed_entry([reader], [states]))
        return VerifyReport(name, states, [*self._names.alarms, *reader.fetcher.alarms])

    async def verify_many(
        self,
        names: Sequence[str] | None = None,
        *,
        prefix: str = "",
        progress: Callable[[int, int], None] | None = None,
        on_found: Callable[[str, Audited], None] | None = None,
    ) -> Tally:
        """Read and check every share of many objects: those named, or all whose names begin with ``prefix``.

        An object that cannot be decoded counts as doubtful at every site; one that was removed or replaced meanwhile
        is left out. Class ``its`` takes as many key bits as reading each object from every site.

        Raises:
            NotFound: one of the names does not exist.
        """
        started_s = self._context.clock.now_s()
        entries = await self._names.load()
        chosen, done, tally = self._chosen(entries, names, prefix), 0, Tally()
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
        readings = await context.catalog.read_many(context.channels(class_), *_ids_and_versions(entries))
        live = [
            (entry.name, reading.value)
            for entry, reading in zip(entries, readings, strict=True)
            if reading.value is not None and _is_live(reading)
        ]
        readers = [self._reader(value) for _, value in live]
        plain = await verify_small(context, readers)
        note_found(context, [(*_body_of(readers[at]), states) for at, states in plain.items()])
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

    async def audit(
        self, names: Sequence[str] | None = None, *, fresh: bool = False, slot_s: float = SLOT_S
    ) -> dict[str, Audited]:
        """Have the sites prove, without reading a share, that they still hold good ones; of all objects unless named.

        Returns per name the state of each site (see ``vault.audit``). Bad sites raise events; they are named by answers
        that contradict each other, so a name is a reason to ``verify``. For many objects see ``audit_round``.

        Raises:
            NotFound: one of the names does not exist.
        """
        found: dict[str, Audited] = {}
        options = AuditOptions(slot_s, fresh)
        await self.audit_round(names, index=False, options=options, on_found=found.__setitem__)
        return dict(sorted(found.items()))

    async def audit_round(
        self,
        names: Sequence[str] | None = None,
        *,
        prefix: str = "",
        index: bool = True,
        options: AuditOptions | None = None,
        progress: Callable[[int, int], None] | None = None,
        on_found: Callable[[str, Audited], None] | None = None,
    ) -> AuditRound:
        """Audit the named objects, or all whose names begin with ``prefix``, and then the index too.

        ``progress`` hears the objects done and to do, ``on_found`` the states of each object.

        Raises:
            NotFound: one of the names does not exist.
            Unavailable: too few sites answer, or the evidence cannot be written.
        """
        entries = await self._names.load()
        chosen = self._chosen(entries, names, prefix)
        selection = None if names is not None else EVERYTHING + prefix
        return await run_round(
            self._context,
            self._names,
            chosen,
            options or AuditOptions(),
            selection=selection,
            index=index and names is None,
            progress=progress,
            on_found=on_found,
        )

    @staticmethod
    def _chosen(entries: Mapping[str, Entry], names: Sequence[str] | None, prefix: str) -> list[Entry]:
        if names is None:
            return [entries[name] for name in sorted(entries) if name.startswith(prefix)]
        wanted = [checked_name(name) for name in dict.fromkeys(names)]
        missing = next((name for name in wanted if name not in entries), None)
        if missing is not None:
            raise NotFound(f"there is no object named {missing!r}")
        return [entries[name] for name in wanted]

    async def repair(
        self,
        names: Sequence[str] | None = None,
        *,
        verify: bool = False,
        rate_bytes_per_s: float | None = None,
        key_budget_bits: int | None = None,
        planned: Callable[[Sequence[Need]], bool] = lambda _: True,
        progress: Callable[[int], None] | None = None,
    ) -> list[Repaired]:
        """Have the sites rebuild shares that were not written, are lost or (found by ``verify``) bad.

        Those of all objects unless some are named, and of the index. ``planned`` is shown what will be done, and what
        it takes of every link, before any key between nodes is drawn; if it returns false nothing is. Shares that
        cannot be rebuilt are in the result with the reason.

        Raises:
            NotFound: one of the names does not exist.
        """
        entries = await self._names.load()
        wanted = sorted(entries) if names is None else [checked_name(name) for name in dict.fromkeys(names)]
        missing = next((name for name in wanted if name not in entries), None)
        if missing is not None:
            raise NotFound(f"there is no object named {missing!r}")
        states: dict[str, dict[SiteId, str]] = {}
        for name in wanted if verify else ():
            # What cannot be read now may still lack shares that can be rebuilt; what is half removed stops no other.
            with suppress(Unavailable, *((NotFound,) if names is None else ())):
                try:
                    states[name] = (await self.verify(name)).per_site
                except NotRecoverable:
                    if names is not None:
                        raise
                    fields = {"object": entries[name].object_id, "kind": "not_recoverable"}
                    self._context.sink.emit(Event("vault.repair_unreadable", "alarm", fields))
        repairer = Repairer(self._context, self._names, rate_bytes_per_s, key_budget_bits)
        needs = await repairer.plan(wanted, states, verify_index=verify)
        if not planned(needs):
            return []
        done = await repairer.run(needs, progress)
        self._names.read_again()  # who holds the names has changed
        return done

    def _scheme(self, scheme: Scheme | tuple[int, int] | None) -> Scheme:
        chosen = scheme if isinstance(scheme, Scheme) else Scheme(*scheme) if scheme else self._context.default_scheme
        self._context.placement(chosen)
        return chosen

    async def _object(self, name: str) -> tuple[Reading, RegisterValue]:
        """Look a name up, in as much of the index as can be read.

        An object that was removed although the index names it lost its name to another one meanwhile, or its removal is
        not finished: the index is read once more to tell.
        """
        looked_up: str | None = None
        for _ in range(_READ_ATTEMPTS):
            entries = await self._names.load(whole=False)
            entry = entries.get(name)
            if entry is None or entry.object_id == looked_up:
                break
            (object_id,), vouched = _ids_and_versions([entry])
            channels = self._context.channels(entry.class_)
            reading = await self._context.catalog.read(channels, object_id, vouched.get(object_id))
            value = reading.value
            if value is not None and not value.tombstone:
                if self._names.doubt is not None:
                    reading = replace(reading, freshness=UNPROVEN)  # what was not read may say something newer
                return reading, value
            looked_up = entry.object_id
        if self._names.doubt is not None:
            raise self._names.doubt
        if looked_up is not None and entry is not None:
            raise NotFound(f"the object named {name!r} was removed")
        raise NotFound(f"there is no object named {name!r}")

    @staticmethod
    def _live(name: str, reading: Reading) -> RegisterValue:
        if reading.value is None or not _is_live(reading):
            raise NotFound(f"the object named {name!r} was removed")
        return reading.value

    def _reader(self, value: RegisterValue) -> ObjectReader:
        context = self._context
        fetcher: Fetcher = context.fetcher(value.class_, value.placement, value.scheme)
        return ObjectReader(value, context.owner, fetcher, context.signer.public_key, context.runtime)

    def _label(self, name: str, value: RegisterValue, reading: Reading) -> AssuranceLabel:
        """Return the label of an object, which is as durable as its name at most."""
        return label_of_reading(self._context, value, reading, self._names.durable_at(name))


def _ids_and_versions(entries: Sequence[Entry]) -> tuple[list[ObjectId], dict[ObjectId, VersionId]]:
    """Return the registers of entries, and the versions that the index vouches for: it names what was acknowledged."""
    ids = [ObjectId(entry.object_id) for entry in entries]
    versions = {ObjectId(entry.object_id): VersionId(entry.version) for entry in entries if entry.version}
    return ids, versions


def _body_of(reader: ObjectReader) -> tuple[BodyName, int]:
    """Return the name of the body that a reader reads, and its epoch."""
    return (reader.key.object_id, reader.key.version), reader.key.epoch


def _is_live(reading: Reading) -> bool:
    return reading.value is not None and not reading.value.tombstone
