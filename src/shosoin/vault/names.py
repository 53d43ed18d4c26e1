"""Looking names up and changing them: the index registers of all classes together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from shosoin.base import VersionId
from shosoin.base.ports import Event
from shosoin.vault import index as names_index
from shosoin.vault.amd import amd_encode
from shosoin.vault.assurance import record_facts
from shosoin.vault.catalog import Conflict, Proposal
from shosoin.vault.concurrency import gather, settle
from shosoin.vault.context import CLASSES, VaultContext
from shosoin.vault.deal_check import checked_sites
from shosoin.vault.index import Entry, IndexState, index_register, load_index
from shosoin.vault.staging import Stager
from shosoin.vault.values import Body, RegisterValue
from shosoin.vault.writing import new_key, write_record

__all__ = ["Names"]

_ATTEMPTS = 5


@dataclass(slots=True)
class Names:
    """The owner's index as of the last ``load``."""

    context: VaultContext
    states: dict[str, IndexState] = field(default_factory=dict)
    alarms: list[Event] = field(default_factory=list)

    async def load(self) -> dict[str, Entry]:
        """Read the index of every class and return the names that exist; ``alarms`` starts anew."""
        self.alarms = []
        states = await gather(self.context.runtime, (self._load_class(class_) for class_ in CLASSES))
        self.states = {state.class_: state for state in states}
        return self.entries()

    def entries(self) -> dict[str, Entry]:
        """Return the names that exist, as last loaded."""
        return names_index.newest(self.states)

    async def _load_class(self, class_: str) -> IndexState:
        context = self.context
        register_id = index_register(context.owner, class_)
        reading = await context.catalog.read(context.channels(class_), register_id)
        known = self.states.get(class_)
        if known and known.value and reading.value and known.value.version == reading.value.version:
            return known
        state = IndexState(class_, register_id, reading.value, [], reading.freshness)
        if reading.value is None:
            return state
        fetcher = context.fetcher(class_, reading.value.placement, reading.value.scheme)
        loaded = await load_index(state, context.owner, fetcher, context.memo)
        self.alarms += fetcher.alarms
        return loaded

    async def commit(self, class_: str, fresh: list[Entry]) -> None:
        """Add entries to the index of a class, if each name still means what it meant at the last load.

        Sequence numbers are assigned here.

        Raises:
            Conflict: another writer changed one of the names meanwhile.
            Unavailable: too few sites take part.
        """
        expected = {entry.name: self._known(entry.name) for entry in fresh}
        for _ in range(_ATTEMPTS):
            sequence = names_index.highest_sequence(self.states) + 1
            numbered = [replace(entry, sequence=sequence) for entry in fresh]
            if await self._try_commit(self.states[class_], numbered):
                return
            await self.load()
            changed = [name for name, before in expected.items() if self._known(name) != before]
            if changed:
                raise Conflict(f"the name {changed[0]!r} was changed by somebody else meanwhile")
        raise Conflict("the index changes faster than it can be written; try again")

    def _known(self, name: str) -> tuple[str, str] | None:
        entry = self.entries().get(name)
        return (entry.object_id, entry.version) if entry else None

    async def _try_commit(self, state: IndexState, fresh: list[Entry]) -> bool:
        context, class_, scheme = self.context, state.class_, self.context.register_scheme
        kept, entries = state.folded(fresh)
        key = new_key(context.owner, state.register_id, context.entropy)
        stager = Stager(
            context.channels(class_),
            context.members,
            scheme,
            class_,
            home=context.home,
            entropy=context.entropy,
            runtime=context.runtime,
            sites_min=max(scheme.durable_min, scheme.write_quorum),
        )
        record = amd_encode(names_index.encode_part(entries), context.entropy)
        try:
            layout = await write_record(stager, key, record, scheme=scheme, entropy=context.entropy)
            await stager.drain()
            good, alarms = await checked_sites(context, stager, key, class_, scheme, context.members)
        except BaseException:
            await stager.abort([key])
            raise
        self.alarms += alarms
        body = Body(key.version, layout, good)
        value = self._value(state, [*kept, body], stager)
        outcome = (
            await context.catalog.propose(context.channels(class_), [Proposal(state.register_id, value, fresh=False)])
        )[0]
        if outcome.error is None:
            self.states[class_] = replace_state(state, value, kept, body, entries)
            if len(kept) < len(state.parts):
                await self._erase_old(class_, state)
            return True
        await stager.abort([key])
        if isinstance(outcome.error, Conflict):
            return False
        raise outcome.error

    def _value(self, state: IndexState, bodies: list[Body], stager: Stager) -> RegisterValue:
        context, scheme = self.context, self.context.register_scheme
        facts = record_facts(
            class_=state.class_,
            home=context.home,
            good=stager.alive,
            channels=context.channels(state.class_),
            key_shares=stager.key_shares,
            entropy=context.entropy,
            domains=context.domains,
            deal_checked=state.class_ == "its",
        )
        return RegisterValue.make(
            kind="index",
            register_id=state.register_id,
            owner=context.owner,
            version=VersionId.from_bytes(context.entropy.random_bytes(16)),
            parent=state.value.version if state.value else None,
            scheme=scheme,
            class_=state.class_,
            placement=context.members,
            members=context.members,
            quorum=scheme.write_quorum,
            bodies=tuple(bodies),
            created_wall_s=context.clock.wall_s(),
            facts=facts,
            signer=context.signer,
        )

    async def _erase_old(self, class_: str, state: IndexState) -> None:
        """Tell the sites to erase folded parts; best effort, the next commit says it again."""
        ops = [{"op": "erase", "object": state.register_id}]
        channels = self.context.channels(class_).values()
        await settle(self.context.runtime, (channel.exchange(ops, timeout_s=5.0) for channel in channels))


def replace_state(
    state: IndexState, value: RegisterValue, kept: list[Body], body: Body, entries: list[Entry]
) -> IndexState:
    """Return the index as it is after our own commit, without reading it back."""
    parts = [part for part in state.parts if part[0] in kept]
    return IndexState(state.class_, state.register_id, value, [*parts, (body, entries)], "proven")
