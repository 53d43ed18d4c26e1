"""Looking names up and changing them: the index registers of all classes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shosoin.base import ObjectId, ShosoinError, Unavailable
from shosoin.base.ports import Event
from shosoin.vault import index as names_index
from shosoin.vault.catalog import PROVEN, UNPROVEN, Conflict, Proposal, Reading
from shosoin.vault.catalog_answers import TooFewSites
from shosoin.vault.concurrency import gather, settle
from shosoin.vault.context import CLASSES, KEYLESS_CLASS, VaultContext
from shosoin.vault.exposure import checked_statuses
from shosoin.vault.index import Entry, IndexState, Part, condemned_name, index_register, load_index, missing_bodies
from shosoin.vault.index_parts import StagedParts, index_value, stage_parts
from shosoin.vault.staging import withdraw_unoffered

__all__ = ["Names"]

_ATTEMPTS = 5


@dataclass(slots=True)
class Names:
    """The owner's index as of the last ``load``."""

    context: VaultContext
    states: dict[str, IndexState] = field(default_factory=dict)
    alarms: list[Event] = field(default_factory=list)
    _merged: Mapping[str, Entry] = field(default_factory=dict)
    """The names that exist in all classes together, worked out from ``_merged_of``."""
    _merged_of: list[Any] = field(default_factory=list)
    _outdated: set[str] = field(default_factory=set)
    """Classes whose parts are fetched again, even if the register says what it said."""

    def read_again(self) -> None:
        """Have the next ``load`` fetch every part; what is loaded stays, because others may be at work with it."""
        self._outdated.update(self.states)

    async def load(self, *, whole: bool = True) -> Mapping[str, Entry]:
        """Read the index of every class and return the names that exist; ``alarms`` starts anew.

        Raises:
            Unavailable, NotRecoverable: some of it cannot be read now. Who only looks one name up passes ``whole`` as
                false, gets what there is, and asks ``unreadable``.
        """
        self.alarms = []
        before = dict(self.states)
        states = await gather(self.context.runtime, (self._load_class(class_) for class_ in CLASSES))
        self.states = {state.class_: self._newer(state, before.get(state.class_)) for state in states}
        if whole and self.unreadable is not None:
            raise self.unreadable
        return self.entries()

    def _newer(self, loaded: IndexState, before: IndexState | None) -> IndexState:
        """Return what was loaded, or what another operation on this vault has learned since and is at work with.

        What was known ``before`` the load began does not count: it may have been passed over.
        """
        now = self.states.get(loaded.class_)
        if now is None or now is before or now.value is None:
            return loaded
        return now if loaded.value is None or loaded.value.counter < now.value.counter else loaded

    @property
    def unreadable(self) -> ShosoinError | None:
        """Why some names may be missing, or old, in what was last loaded."""
        return next((state.unreadable for state in self.states.values() if state.unreadable is not None), None)

    @property
    def doubt(self) -> ShosoinError | None:
        """Why what was last loaded may not be all, or not the newest."""
        old = [class_ for class_, state in self.states.items() if not state.newest]
        stale = TooFewSites(f"too few sites answer to rule out a newer index of class {old[0]}") if old else None
        return self.unreadable or stale

    def entries(self) -> Mapping[str, Entry]:
        """Return the names that exist, as last loaded."""
        said = [state.said for state in self.states.values()]
        if not _are_same(said, self._merged_of):
            self._merged_of, self._merged = said, names_index.newest(self.states)
        return self._merged

    def durable_at(self, name: str) -> int:
        """Return at how many sites what the index says of a name, as last loaded, is durable."""
        found = [entry for state in self.states.values() if (entry := state.entries().get(name))]
        if not found:
            return 0
        entry = max(found, key=lambda entry: entry.rank)
        return self.states[entry.class_].durable_at(entry)

    def durable_everywhere(self) -> dict[str, int]:
        """Return for every name at how many sites what the index says of it, as last loaded, is durable."""
        return {name: self.states[entry.class_].durable_at(entry) for name, entry in self.entries().items()}

    async def _load_class(self, class_: str) -> IndexState:
        """Read an index; if it changed while its parts were fetched, what is missing of them is nobody's fault."""
        register_id = index_register(self.context.owner, class_)
        try:
            reading = await self._read(class_, register_id)
            for _ in range(_ATTEMPTS):
                state, alarms = await self._load_parts(class_, register_id, reading)
                if state.unreadable is None and not alarms:
                    return state
                before, reading = reading, await self._read(class_, register_id)
                if _version(before) == _version(reading):
                    break
        except Unavailable as error:
            return IndexState(class_, register_id, None, [], UNPROVEN, error)
        for alarm in alarms:
            self.context.sink.emit(alarm)
        self.alarms += alarms
        return state

    async def _load_parts(self, class_: str, register_id: ObjectId, reading: Reading) -> tuple[IndexState, list[Event]]:
        context = self.context
        known = self.states.get(class_)
        same = known and known.value and reading.value and known.value.text == reading.value.text
        if known and same and known.unreadable is None and class_ not in self._outdated:
            return replace(known, freshness=reading.freshness, newest=reading.newest), []
        state = IndexState(class_, register_id, reading.value, [], reading.freshness, newest=reading.newest)
        if reading.value is None:
            if not reading.newest:
                state.unreadable = TooFewSites(f"too few sites answer to say that there is no index of class {class_}")
            return state, []
        if class_ == "its" and missing_bodies(reading.value, context.memo):
            try:
                await checked_statuses(context, context.members, context.register_scheme, reading.value)
            except ShosoinError as error:
                return IndexState(class_, register_id, None, [], UNPROVEN, error), []
        fetcher = context.fetcher(class_, reading.value.placement, reading.value.scheme)
        loaded = await load_index(state, context.owner, fetcher, context.memo, reading.certificate)
        self._outdated.discard(class_)
        return loaded, fetcher.alarms

    async def _read(self, class_: str, register_id: ObjectId) -> Reading:
        """Read an index register. Without keys it still can be told, under class pqc, that there is no such index.

        What was proven when it was last read or written needs no quorum's word again.
        """
        context, known = self.context, self.states.get(class_)
        last = known.value.digest if known is not None and known.value is not None else None
        vouched: dict[ObjectId, str | None] = {}
        if known is not None and known.freshness == PROVEN:
            vouched[register_id] = last
        try:
            return (await context.catalog.read_many(context.channels(class_), [register_id], vouched))[0]
        except Unavailable:
            if class_ == KEYLESS_CLASS:
                raise
            reading = await context.catalog.read(context.channels(KEYLESS_CLASS), register_id)
            if reading.value is not None or reading.freshness != PROVEN:
                raise
            return reading

    async def commit(
        self,
        class_: str,
        fresh: list[Entry],
        expected: Mapping[str, str | None],
        ahead: StagedParts | None = None,
    ) -> int:
        """Add entries to the index of a class, unless a name went to another object than ``expected``.

        What was written ``ahead`` is used if it fits, and withdrawn if not.

        Sequence numbers are assigned here. An entry that the index has already, or has overtaken with a later version
        of the same object, is left out. Returns the number of sites that hold what was added durably.

        Raises:
            Conflict: another writer gave one of the names to another object meanwhile.
            Unavailable: too few sites take part, or part of the index cannot be read.
        """
        try:
            return await self._commit(class_, fresh, expected, ahead)
        finally:
            if ahead is not None and not ahead.used:
                await ahead.withdraw()

    async def _commit(
        self, class_: str, fresh: list[Entry], expected: Mapping[str, str | None], ahead: StagedParts | None
    ) -> int:
        for _ in range(_ATTEMPTS):
            await self._make_whole()
            known = self.entries()
            left = [entry for entry in fresh if not _says(known, entry)]
            taken = [entry.name for entry in left if _object_of(known, entry.name) != expected[entry.name]]
            if taken:
                raise Conflict(f"the name {taken[0]!r} was changed by somebody else meanwhile")
            if not left:
                return min((self.durable_at(entry.name) for entry in fresh), default=0)
            condemned = self._condemned(class_)
            if any(not entry.deleted and entry.object_id in condemned for entry in left):
                raise Conflict("the object was removed before it got its name, because it had none for long")
            if any(not entry.deleted and self._is_removed(entry) for entry in left):
                raise Conflict("the object got its name, and somebody else removed it meanwhile")
            state, numbered = self.states[class_], self._numbered(class_, left)
            fits = ahead is not None and ahead.fits(state, numbered)
            durable_at = await self._try_commit(state, numbered, ahead if fits else None)
            if durable_at:
                return durable_at
            await self._reload()
        raise Conflict("the index changes faster than it can be written; try again")

    def _numbered(self, class_: str, entries: Sequence[Entry]) -> list[Entry]:
        """Give entries the next sequence number; an object that has its name already keeps the number of its birth."""
        sequence, known = self._next_sequence(), self.states[class_].entries()
        births = {e.name: known[e.name].born for e in entries if _is_same_object(known.get(e.name), e)}
        return [replace(entry, sequence=sequence, born=births.get(entry.name, sequence)) for entry in entries]

    async def _make_whole(self) -> None:
        """Read the indexes again if something of them may be missing or old: nothing may be numbered or named then.

        A number that is too low hides what gets it behind what a name was before. Another operation on this vault may
        have read them last.

        Raises:
            Unavailable: too few sites answer to rule out newer ones.
        """
        if self.doubt is None:
            return
        await self._reload()
        if self.doubt is not None:
            raise self.doubt

    async def _reload(self) -> None:
        """Read the indexes again without forgetting this operation's alarms."""
        alarms = self.alarms
        await self.load()
        self.alarms = [*alarms, *self.alarms]

    async def condemn(self, class_: str, object_ids: Sequence[ObjectId]) -> set[ObjectId]:
        """Decide that objects without a name never get one; return those for which that holds (see ``unnamed``).

        Raises: as ``commit``.
        """
        for _ in range(_ATTEMPTS):
            await self._make_whole()
            named, condemned = self.object_ids(), self._condemned(class_)
            free = [object_id for object_id in object_ids if object_id not in named]
            fresh = [object_id for object_id in free if object_id not in condemned]
            if fresh:
                await self.check_routes(class_)
            if not fresh or await self._try_commit(self.states[class_], [self._verdict(class_, o) for o in fresh]):
                return set(free)
            await self._reload()
        raise Conflict("the index changes faster than it can be written; try again")

    def object_ids(self) -> set[str]:
        """Return the IDs of all objects that have a name, as last loaded."""
        return {entry.object_id for entry in self.entries().values()}

    def _condemned(self, class_: str) -> set[str]:
        return {e.object_id for name, e in self.states[class_].entries().items() if name == condemned_name(e.object_id)}

    def _is_removed(self, entry: Entry) -> bool:
        """Whether the index says that the object is gone for good: no try that comes late may give it its name back."""
        known = self.states[entry.class_].entries().get(entry.name)
        return known is not None and known.deleted and known.object_id == entry.object_id

    def _verdict(self, class_: str, object_id: ObjectId) -> Entry:
        scheme = self.context.register_scheme
        return Entry(
            name=condemned_name(object_id),
            object_id=object_id,
            sequence=self._next_sequence(),
            class_=class_,
            size_bytes=0,
            content_type="",
            k=scheme.k,
            n=scheme.n,
            version="",
            counter=0,
            created_wall_s=self.context.clock.wall_s(),
            deleted=True,
        )

    async def rewrite(self, class_: str) -> None:
        """Write the index of a class anew, for the members of the configuration.

        Raises:
            Unavailable: too few sites take part.
            Exposed: an allowed coalition would learn the names by the keys that it sees.
        """
        for _ in range(_ATTEMPTS):
            await self._make_whole()
            state = self.states[class_]
            if state.value is None or not self._moved(state):
                return
            await self.check_routes(class_)
            if await self._try_commit(state, []):
                return
            await self._reload()
        raise Conflict("the index changes faster than it can be written; try again")

    async def check_routes(self, class_: str) -> None:
        """Refuse to share names of class ``its`` where an allowed coalition sees the keys; call before a commit.

        Raises:
            Exposed: one does.
        """
        if class_ == "its":
            await checked_statuses(self.context, self.context.members, self.context.register_scheme)

    def _moved(self, state: IndexState) -> bool:
        """Whether other sites, or another scheme, are configured than those under which the index is kept."""
        context, value = self.context, state.value
        return value is not None and (
            value.placement != context.members
            or value.scheme != context.register_scheme
            or value.electorate != context.electorate
            or value.former is not None
        )

    def _next_sequence(self) -> int:
        return max(state.highest_sequence() for state in self.states.values()) + 1

    async def _try_commit(self, state: IndexState, fresh: list[Entry], ahead: StagedParts | None = None) -> int:
        """Write the new parts, unless that was done ahead, and propose them; 0 means that another commit came first."""
        context, class_ = self.context, state.class_
        staged = ahead or await stage_parts(context, state, fresh, moved=self._moved(state))
        self.alarms += staged.alarms
        proposal = Proposal(state.register_id, staged.value(context), fresh=False)
        try:
            outcome = (await context.catalog.propose(context.channels(class_), [proposal]))[0]
        finally:
            await withdraw_unoffered(staged.stager, [proposal] * len(staged.keys), staged.keys)
        if isinstance(outcome.error, Conflict):
            return 0
        if outcome.error is not None:
            raise outcome.error
        new_parts, value = staged.parts(outcome.accepted_by), proposal.value
        self.states[class_] = IndexState(class_, state.register_id, value, [*staged.kept, *new_parts], PROVEN)
        short = [part for part in staged.dropped if len(part.holders) > len(outcome.durable_at)]
        if short and not staged.moved:
            await self._take_back(state, staged.kept, short, new_parts)
        elif staged.dropped:
            await self._erase_old(class_, state)
        return len(outcome.durable_at)

    async def stage_ahead(self, class_: str, fresh: list[Entry]) -> StagedParts | None:
        """Write the parts that ``commit`` will need if nothing comes in between; ``None`` if that cannot be done now.

        So sites write the index while the objects that it names are decided. Nothing counts on it until ``commit``.
        """
        state = self.states.get(class_)
        if state is None or self.doubt is not None:
            return None
        try:
            return await stage_parts(self.context, state, self._numbered(class_, fresh), moved=self._moved(state))
        except ShosoinError:
            return None  # the commit will meet it again, and say so

    async def _take_back(self, before: IndexState, kept: list[Part], short: list[Part], fresh: list[Part]) -> None:
        """Count again on folded parts that more sites hold than pinned the new ones: a site left in between.

        Their shares are still there, because nobody was told to erase them. The next commit that finds the site back
        folds them for good.
        """
        class_, now = before.class_, self.states[before.class_]
        if now.value is None:
            raise TypeError("an index that was written has a value")
        parts = [*(part for part in before.parts if part in kept or part in short), *fresh]
        bodies = [part.counted() for part in parts]
        value = index_value(self.context, before, now.value, bodies, 0, dict(now.value.facts))
        proposal = Proposal(before.register_id, value, fresh=False)
        outcome = (await self.context.catalog.propose(self.context.channels(class_), [proposal]))[0]
        if outcome.error is None:
            self.states[class_] = IndexState(class_, before.register_id, value, parts, PROVEN)
        else:
            fields = {"class": class_, "sites": str(min(len(part.holders) for part in fresh))}
            self.context.sink.emit(Event("vault.names_less_durable", "warning", fields))

    async def _erase_old(self, class_: str, state: IndexState) -> None:
        """Tell the sites to erase folded parts; best effort, the next commit says it again."""
        ops = [{"op": "erase", "object": state.register_id}]
        channels = self.context.channels(class_).values()
        await settle(self.context.runtime, (channel.exchange(ops, timeout_s=5.0) for channel in channels))


def _are_same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _version(reading: Reading) -> str | None:
    return reading.value.version if reading.value else None


def _is_same_object(known: Entry | None, entry: Entry) -> bool:
    return known is not None and known.object_id == entry.object_id


def _object_of(known: Mapping[str, Entry], name: str) -> str | None:
    entry = known.get(name)
    return entry.object_id if entry else None


def _says(known: Mapping[str, Entry], entry: Entry) -> bool:
    """Whether the index says already what ``entry`` says, or something later about the same object."""
    found = known.get(entry.name)
    if found is None:
        return entry.deleted
    return not entry.deleted and found.object_id == entry.object_id and found.counter >= entry.counter
