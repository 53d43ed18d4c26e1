"""Storing objects: stage, check the deal, commit the register, name the object, erase what was replaced."""

from __future__ import annotations

import mimetypes
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from shosoin.base import ObjectId, ShosoinError, SiteId, Unavailable, VersionId
from shosoin.base.ports import Event
from shosoin.vault.assurance import KeyFacts, record_facts
from shosoin.vault.audit_bodies import bodies_of
from shosoin.vault.audit_ledger import AuditRecord
from shosoin.vault.catalog import Conflict, Outcome, Proposal
from shosoin.vault.channel import Channel
from shosoin.vault.concurrency import settle, succeeded
from shosoin.vault.context import VaultContext
from shosoin.vault.deal_check import checked_deals, sites_needed
from shosoin.vault.guard import check_written, clauses_at_put, label_now
from shosoin.vault.index import Entry
from shosoin.vault.index_parts import StagedParts
from shosoin.vault.names import Names
from shosoin.vault.ports import ShareKey
from shosoin.vault.receipts import PutReceipt
from shosoin.vault.scheme import Scheme
from shosoin.vault.signing import SIGNED_TOGETHER_MAX
from shosoin.vault.staging import Stager, withdraw_unoffered
from shosoin.vault.values import Body, RegisterValue, ValueDraft, sign_values
from shosoin.vault.verdicts import PolicyRefused
from shosoin.vault.writing import ByteSource, Draft, Written, draft_object, finish_objects, new_key

__all__ = ["BytesSource", "PolicyUnmet", "Putter", "guessed_type", "remove_objects"]

_WAITING_BYTES_MAX = 16 << 20
"""Bodies of a batch that are kept in memory until their roots are signed."""


class PolicyUnmet(Unavailable):
    """A new version stands, but is less durable than its policy asks for."""

    code = "vault.policy_unmet"


class BytesSource:
    """Plaintext that is in memory already."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self.size_hint: int | None = len(content)

    async def read(self, size_bytes: int) -> bytes:
        """Return the next bytes."""
        piece, self._content = self._content[:size_bytes], self._content[size_bytes:]
        return bytes(piece)


@dataclass(slots=True)
class _Item:
    """One object of a batch on its way."""

    name: str
    key: ShareKey
    parent: RegisterValue | None
    fresh: bool
    replaced: Entry | None
    written: Written | None = None
    value: RegisterValue | None = None
    durable_at: Sequence[SiteId] = ()

    @property
    def share_bytes(self) -> int:
        """Length of the share at every site, once the body was written."""
        return self.written.layout.total if self.written else 0


@dataclass(slots=True)
class Putter:
    """Stores one object or a batch under one scheme and class."""

    context: VaultContext
    names: Names
    scheme: Scheme
    class_: str
    deal_check: bool = False
    """Check the deal in classes that can do without, too."""

    @property
    def placement(self) -> tuple[SiteId, ...]:
        """Sites that get shares."""
        return self.context.placement(self.scheme)

    def _stager(self) -> Stager:
        context, placement = self.context, self.placement
        return Stager(
            context.channels(self.class_),
            placement,
            self.scheme,
            self.class_,
            home=context.home,
            entropy=context.entropy,
            runtime=context.runtime,
            sites_min=sites_needed(self.class_, self.scheme),
        )

    async def put(
        self,
        sources: Mapping[str, ByteSource],
        content_type: str | None = None,
        progress: Callable[[int], None] | None = None,
        *,
        used_before: Mapping[SiteId, int] | None = None,
    ) -> list[PutReceipt]:
        """Store every source under its name; all are committed or reported, none is half there.

        Raises:
            PolicyRefused: what happened does not meet the policy; nothing is left behind.
            PolicyUnmet: the new version stands, but fewer sites hold it than the policy asks for.
            Conflict: somebody changed one of the names meanwhile (objects of a batch that are not concerned stay).
            Unavailable: too few sites, or the key streams are dry.
            SourceChanged: a source grew or shrank.
        """
        started_s = self.context.clock.now_s()
        used_before = used_before if used_before is not None else self.context.bits_used()
        facts_before = self.context.key_facts(self.class_)
        items = await self._items(list(sources))
        stager = self._stager()
        try:
            await self._write(items, sources, stager, content_type, progress)
            await stager.drain()
            alarms = await self._make_values(items, stager, facts_before)
        except BaseException:
            await stager.abort([item.key for item in items])
            raise
        outcomes, index_parts = await self._propose_and_write_index(items, stager)
        try:
            for item, outcome in zip(items, outcomes, strict=True):
                item.durable_at = outcome.durable_at
            committed = [item for item, outcome in zip(items, outcomes, strict=True) if outcome.error is None]
            committed, refusal = await self._without_unpinned(committed)
            named_at = await self._name(committed, index_parts)
        finally:
            if index_parts is not None and not index_parts.used:
                await index_parts.withdraw()
        await self._erase_replaced(committed)
        self._remember(committed)
        for error in (*(outcome.error for outcome in outcomes), refusal):
            if error is not None:
                raise error
        used = {site: bits - used_before.get(site, 0) for site, bits in self.context.bits_used().items()}
        seconds = self.context.clock.now_s() - started_s
        receipts = [self._receipt(item, seconds, used, alarms, named_at) for item in committed]
        for item in committed:
            self._check_final(item, named_at)
        return receipts

    async def _without_unpinned(self, items: list[_Item]) -> tuple[list[_Item], PolicyRefused | None]:
        """Take new objects back that fewer sites pinned than their policy asks for: they have no name yet.

        A further version cannot be taken back, for its register has moved on (see ``_check_final``). Returns what
        stays, and the first refusal.
        """
        refused: dict[str, PolicyRefused] = {}
        for item in items:
            try:
                if item.value is not None and item.fresh:
                    undone = "it gets no name and is taken back"
                    check_written(self.context, item.name, item.value, item.durable_at, undone=undone)
            except PolicyRefused as error:
                refused[item.name] = error
        if refused:
            await self._withdraw([item for item in items if item.name in refused])
        return [item for item in items if item.name not in refused], next(iter(refused.values()), None)

    def _check_final(self, item: _Item, named_at: int) -> None:
        """Say so if what stands now, object and name, is less durable than the policy asks for.

        Raises:
            PolicyUnmet: it is.
        """
        if item.value is None:
            return
        pinned = list(item.durable_at)[:named_at]
        try:
            check_written(self.context, item.name, item.value, pinned, undone="the new version stands all the same")
        except PolicyRefused as error:
            raise PolicyUnmet(error.message, hint=error.hint) from None

    async def _items(self, names: list[str]) -> list[_Item]:
        """Decide for each name whether a new object starts or a version follows."""
        known = self.names.entries()
        same = {name: known[name] for name in names if name in known and known[name].class_ == self.class_}
        readings = (
            await self.context.catalog.read_many(
                self.context.channels(self.class_), [_object_id(entry) for entry in same.values()]
            )
            if same
            else []
        )
        current = {name: reading.value for name, reading in zip(same, readings, strict=True)}
        items = []
        for name in names:
            value = current.get(name)
            following = value is not None and not value.tombstone
            key = new_key(self.context.owner, value.register_id if following and value else None, self.context.entropy)
            parent = value if following else None
            items.append(_Item(name, key, parent, not following, known.get(name)))
        return items

    async def _write(
        self,
        items: list[_Item],
        sources: Mapping[str, ByteSource],
        stager: Stager,
        content_type: str | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        """Share every body; roots are signed together, as many as memory allows."""
        context = self.context
        drafts: list[tuple[_Item, Draft]] = []
        waiting_bytes = 0
        for item in items:
            draft = await draft_object(
                stager,
                item.key,
                sources[item.name],
                name=item.name,
                content_type=content_type or guessed_type(item.name),
                created_wall_s=context.clock.wall_s(),
                scheme=self.scheme,
                entropy=context.entropy,
                runtime=context.runtime,
                progress=progress,
            )
            drafts.append((item, draft))
            waiting_bytes += draft.waiting_bytes
            if len(drafts) >= SIGNED_TOGETHER_MAX or waiting_bytes >= _WAITING_BYTES_MAX or item is items[-1]:
                written = await finish_objects([draft for _, draft in drafts], context.signer, context.entropy)
                for (done, _), what in zip(drafts, written, strict=True):
                    done.written = what
                drafts, waiting_bytes = [], 0

    async def _make_values(self, items: list[_Item], stager: Stager, facts_before: KeyFacts) -> list[Event]:
        """Check the deals and sign the values of all objects together."""
        context = self.context
        found = await checked_deals(
            context,
            stager,
            [(item.key, item.share_bytes) for item in items],
            class_=self.class_,
            scheme=self.scheme,
            placement=self.placement,
            always=self.deal_check,
        )
        drafts = [
            self._value_draft(item, each.good, stager, facts_before) for item, each in zip(items, found, strict=True)
        ]
        for item, value in zip(items, sign_values(drafts, context.signer), strict=True):
            item.value = value
            check_written(context, item.name, value, value.bodies[0].good, undone="nothing was committed")
        return [alarm for each in found for alarm in each.alarms]

    def _value_draft(self, item: _Item, good: tuple[SiteId, ...], stager: Stager, facts_before: KeyFacts) -> ValueDraft:
        context, written = self.context, item.written
        if written is None:
            raise TypeError("an object that was not written has no value")
        facts = record_facts(
            class_=self.class_,
            home=context.home,
            good=good,
            channels=context.channels(self.class_),
            before=facts_before,
            key_shares=stager.key_shares,
            entropy=context.entropy,
            domains=context.domains,
            deal_checked=self.class_ == "its" or self.deal_check,
            relays=context.relays,
            relay_domains=context.relay_domains,
            placement=self.placement,
        ) | {"policy": clauses_at_put(context, item.name)}
        return ValueDraft(
            kind="object",
            register_id=item.key.object_id,
            owner=context.owner,
            version=item.key.version,
            parent=item.parent,
            scheme=self.scheme,
            class_=self.class_,
            placement=self.placement,
            electorate=context.electorate,
            bodies=(Body(item.key.version, written.layout, good, item.key.epoch),),
            added=1,
            created_wall_s=written.manifest.created_wall_s,
            facts=facts,
        )

    async def _propose_and_write_index(
        self, items: list[_Item], stager: Stager
    ) -> tuple[list[Outcome], StagedParts | None]:
        """Propose every value, and write what names them meanwhile; not with keys that would be lost if it fails."""
        if self.class_ == "its" or not items:
            return await self._propose(items, stager), None
        runtime = self.context.runtime
        writing = runtime.start(self.names.stage_ahead(self.class_, list(map(self._entry, items))))
        try:
            outcomes = await self._propose(items, stager)
            await runtime.wait([writing], timeout_s=None, first=False)
        except BaseException:
            writing.cancel()  # it withdraws what it wrote, unless it is through
            await runtime.wait([writing], timeout_s=None, first=False)
            if succeeded(writing) and (written := writing.result()) is not None:
                await written.withdraw()
            raise
        return outcomes, writing.result()

    async def _propose(self, items: list[_Item], stager: Stager) -> list[Outcome]:
        """Propose every value. Shares that no site can count on are withdrawn, others must stay."""
        proposals = [Proposal(item.key.object_id, item.value, item.fresh) for item in items if item.value is not None]
        try:
            return await self.context.catalog.propose(self.context.channels(self.class_), proposals)
        finally:
            await withdraw_unoffered(stager, proposals, [item.key for item in items])

    def _remember(self, items: Sequence[_Item]) -> None:
        """Note where the shares are, so that audits need not ask the registers; what cannot be noted is looked up."""
        owner, now_s = self.context.owner, self.context.clock.wall_s()
        values = [item.value for item in items if item.value is not None]
        bodies = [body for value in values for body in bodies_of("", owner, value)]
        with suppress(Unavailable):
            self.context.ledger.save(
                {body.name: AuditRecord(body.key.epoch, terms=body.terms(now_s)) for body in bodies}
            )

    async def _name(self, items: list[_Item], index_parts: StagedParts | None) -> int:
        """Enter the committed objects into the index; withdraw new ones whose name somebody else took.

        Returns the number of sites at which the names are durable.
        """
        if not items:
            return 0
        try:
            expected = {item.name: item.replaced.object_id if item.replaced else None for item in items}
            entries = [self._entry(item) for item in items]
            return await self.names.commit(self.class_, entries, expected, index_parts)
        except Conflict:
            await self._withdraw([item for item in items if item.fresh])
            raise
        except Unavailable as error:
            # Whether the index took the entry is unknown, so the object must stay.
            raise Unavailable(
                f"the content is stored, but its name could not be confirmed: {error.message}",
                code="vault.name_unconfirmed",
                hint="put again when the sites are back; until then the name may show the old or the new content",
                retry_after_s=error.retry_after_s,
            ) from error

    def _entry(self, item: _Item) -> Entry:
        if item.written is None:
            raise TypeError("an object that was not written has no entry")
        manifest = item.written.manifest
        return Entry(
            name=item.name,
            object_id=item.key.object_id,
            sequence=0,
            class_=self.class_,
            size_bytes=manifest.size_bytes,
            content_type=manifest.content_type,
            k=self.scheme.k,
            n=self.scheme.n,
            version=item.key.version,
            counter=item.value.counter if item.value else 1,
            created_wall_s=manifest.created_wall_s,
        )

    async def _withdraw(self, items: list[_Item]) -> None:
        """Remove new objects, but only those that the index then never names: a try of ours may have got there."""
        values = [item.value for item in items if item.value is not None]
        try:
            condemned = await self.names.condemn(self.class_, [value.register_id for value in values])
        except ShosoinError:
            return  # they stay without a name until ``rm_unnamed``; the conflict is what the caller has to know
        await remove_objects(self.context, self.class_, [value for value in values if value.register_id in condemned])

    async def _erase_replaced(self, items: list[_Item]) -> None:
        """Erase old versions of the same object, and objects of another class that lost their name."""
        channels = self.context.channels(self.class_)
        ops = [{"op": "erase", "object": item.key.object_id} for item in items if not item.fresh]
        if ops:
            await settle(self.context.runtime, (channel.exchange(ops, timeout_s=5.0) for channel in channels.values()))
        for item in items:
            if item.fresh and item.replaced is not None and item.replaced.class_ != self.class_:
                await self._remove_other(item.replaced)

    async def _remove_other(self, entry: Entry) -> None:
        """Remove what a name stood for; a version that came meanwhile is another writer's, and stays."""
        reading = await self.context.catalog.read(self.context.channels(entry.class_), _object_id(entry))
        if reading.value is not None and reading.value.version == entry.version:
            await remove_objects(self.context, entry.class_, [reading.value])

    def _receipt(
        self, item: _Item, seconds: float, used: dict[SiteId, int], alarms: list[Event], named_at: int
    ) -> PutReceipt:
        if item.value is None or item.written is None:
            raise TypeError("an object that was not committed has no receipt")
        good = item.durable_at
        label = label_now(self.context, item.value, pinned=good)
        durable_at = min(len(good), named_at)
        return PutReceipt(
            name=item.name,
            object_id=item.key.object_id,
            version=item.key.version,
            size_bytes=item.written.manifest.size_bytes,
            durable_at=durable_at,
            acknowledged=list(good),
            missing=[site for site in self.placement if site not in good],
            key_bits_used=used,
            seconds=seconds,
            label=replace(label, durable_at=min(label.durable_at, durable_at)),
            alarms=[*self.names.alarms, *alarms],
        )


def _object_id(entry: Entry) -> ObjectId:
    return ObjectId(entry.object_id)


def guessed_type(name: str) -> str:
    """Return a content type by the name's ending."""
    return mimetypes.guess_type(name, strict=False)[0] or "application/octet-stream"


async def remove_objects(
    context: VaultContext, class_: str, values: Sequence[RegisterValue]
) -> list[tuple[Outcome, list[SiteId]]]:
    """Commit a tombstone for each object and have the sites erase its shares; report where that happened."""
    if not values:
        return []
    channels = context.channels(class_)
    tombstones = sign_values([_tombstone(context, value) for value in values], context.signer)
    proposals = [Proposal(value.register_id, value, fresh=False) for value in tombstones]
    outcomes = await context.catalog.propose(channels, proposals)
    removed = [outcome for outcome in outcomes if outcome.error is None]
    ops = [{"op": "erase", "object": outcome.proposal.register_id} for outcome in removed]
    erased = await erase_everywhere(context, channels, ops) if ops else {}
    return [(outcome, erased.get(outcome.proposal.register_id, [])) for outcome in outcomes]


async def erase_everywhere(
    context: VaultContext, channels: Mapping[SiteId, Channel], ops: Sequence[dict[str, str]]
) -> dict[str, list[SiteId]]:
    """Have every site erase what no committed value counts on; return per object the sites that hold nothing now."""
    tasks = await settle(context.runtime, (channel.exchange(ops, timeout_s=5.0) for channel in channels.values()))
    erased: dict[str, list[SiteId]] = {op["object"]: [] for op in ops}
    for site, task in zip(channels, tasks, strict=True):
        try:
            results = task.result().results
        except ShosoinError:
            continue
        for op, result in zip(ops, results, strict=False):
            if result.get("left") == 0:
                erased[op["object"]].append(site)
    return erased


def _tombstone(context: VaultContext, value: RegisterValue) -> ValueDraft:
    return ValueDraft(
        kind="tombstone",
        register_id=value.register_id,
        owner=context.owner,
        version=VersionId.from_bytes(context.entropy.random_bytes(16)),
        parent=value,
        scheme=value.scheme,
        class_=value.class_,
        placement=value.placement,
        electorate=context.electorate,
        bodies=(),
        added=0,
        created_wall_s=context.clock.wall_s(),
        facts={},
    )
