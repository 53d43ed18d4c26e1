"""A round of audits: all objects of an owner or some, index included, resumable, paced, in bounded memory.

What was audited is in the ledger after every batch, so a round that was stopped goes on where it was. Objects whose
shares were placed as the ledger remembers are not looked up in the registers; whatever is then not as it should be is
looked up and asked again, because shares may have moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from shosoin.base import ObjectId, Rejected, SiteId, VersionId
from shosoin.base.ports import Event
from shosoin.vault.audit import Audited, ShareFound, worst
from shosoin.vault.audit_batch import AuditedBody, ask_bodies, keep_found
from shosoin.vault.audit_bodies import AuditBody, bodies_of
from shosoin.vault.audit_ledger import SLOT_S, AuditRecord
from shosoin.vault.concurrency import gather_few
from shosoin.vault.context import CLASSES, VaultContext
from shosoin.vault.index import Entry
from shosoin.vault.names import Names
from shosoin.vault.tally import Tally

__all__ = ["EVERYTHING", "AuditOptions", "AuditRound", "run_round"]

_TOGETHER = 512
_TOGETHER_BYTES = 1 << 30
_AT_ONCE = 2
"""Batches under way, so that owner and sites work at the same time."""
_TERMS_S = SLOT_S
"""How long the ledger's word counts for where shares are; shares that moved are missed and looked up at once."""
_RESUME_S = 86_400.0
"""How old a stopped round may be to be gone on with."""
_IN_A_ROW = 3
"""Rounds without any answer that make silence an alarm."""
EVERYTHING = "prefix "
"""The selection of all objects."""
_OPEN, _STREAKS = "open round", "streaks"


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """How a round is done."""

    slot_s: float = SLOT_S
    """A new challenge is spent when so much time has passed since the last one."""
    fresh: bool = False
    """Spend a new challenge now."""
    resume: bool = False
    """Go on with a round of the same selection that was stopped."""
    bytes_per_s_max: float | None = None
    """Bytes of shares, of all sites together, that may be digested per second."""


@dataclass(slots=True, kw_only=True)
class AuditRound(Tally):
    """What a round found, in bounded memory; objects of a stopped round that it goes on with are counted too."""

    started_wall_s: float
    resumed: int = 0
    """Objects that were audited before the round was stopped."""
    new: int = 0
    """Bodies that got a new challenge."""
    repeated: int = 0
    spent: int = 0
    """Bodies that answer no new challenge in this epoch any more."""
    share_bytes: int = 0
    """Bytes of all shares that were digested."""
    index: dict[str, Audited] = field(default_factory=dict)
    """The parts of each index, the worst of them counting, by ``index CLASS``."""
    in_a_row: dict[SiteId, dict[str, int]] = field(default_factory=dict)
    """Rounds in a row in which a site was ``silent``, or answered and ``refused`` everything."""


OnFound = Callable[[str, Audited], None]


async def run_round(
    context: VaultContext,
    names: Names,
    entries: Sequence[Entry],
    options: AuditOptions,
    *,
    selection: str | None,
    index: bool,
    progress: Callable[[int, int], None] | None = None,
    on_found: OnFound | None = None,
) -> AuditRound:
    """Audit objects, as last loaded into ``names``, and with ``index`` the parts of every index.

    ``selection`` says in a text what was chosen; a stopped round goes on only if it is the same. ``progress`` hears the
    objects done and to do; ``on_found`` every object with its states.
    """
    if options.bytes_per_s_max is not None and options.bytes_per_s_max <= 0:
        raise Rejected("a rate must be above 0", code="vault.bad_rate")
    work = _Round(context, names, options, progress, on_found)
    return await work.run(entries, selection, index)


class _Round:
    """One round on its way."""

    def __init__(
        self,
        context: VaultContext,
        names: Names,
        options: AuditOptions,
        progress: Callable[[int, int], None] | None,
        on_found: OnFound | None,
    ) -> None:
        self._context = context
        self._names = names
        self._options = options
        self._progress = progress
        self._on_found = on_found
        self._total = 0
        self._charged_bytes = 0
        self._started_s = context.clock.now_s()
        self._asked: Counter[SiteId] = Counter()
        self._silent: Counter[SiteId] = Counter()
        self._refused: Counter[SiteId] = Counter()
        self.result = AuditRound(started_wall_s=context.clock.wall_s())

    async def run(self, entries: Sequence[Entry], selection: str | None, index: bool) -> AuditRound:
        """Audit everything."""
        since_s = self._resumed_since(selection)
        states = self._names.states if index else {}
        indexes = {f"index {class_}": state.value for class_, state in states.items() if state.value is not None}
        self._total = len(entries) + len(indexes)
        for label, value in indexes.items():
            await self._audit({label: bodies_of(label, self._context.owner, value)}, fresh=self._options.fresh)
        works = [
            self._batch(class_, some[at : at + _TOGETHER], since_s)
            for class_ in CLASSES
            if (some := [entry for entry in entries if entry.class_ == class_])
            for at in range(0, len(some), _TOGETHER)
        ]
        await gather_few(self._context.runtime, works, at_once=_AT_ONCE)
        self._count_streaks()
        if selection is not None:
            self._context.ledger.keep_note(_OPEN, None)
        if selection == EVERYTHING and index:
            self._context.ledger.forget_before(self.result.started_wall_s)  # objects that are gone
        self.result.seconds = self._context.clock.now_s() - self._started_s
        return self.result

    def _resumed_since(self, selection: str | None) -> float | None:
        """Return since when objects count as audited in this round; note the round as open."""
        if selection is None:
            return None
        context, open_round = self._context, self._context.ledger.note(_OPEN)
        if self._options.fresh:
            selection = f"fresh {selection}"
        known = self._options.resume and isinstance(open_round, dict) and open_round.get("selection") == selection
        if known and 0 <= context.clock.wall_s() - open_round["started"] < _RESUME_S:
            self.result.started_wall_s = open_round["started"]
            return float(open_round["started"])
        context.ledger.keep_note(_OPEN, {"selection": selection, "started": self.result.started_wall_s})
        return None

    async def _batch(self, class_: str, entries: Sequence[Entry], since_s: float | None) -> None:
        names = {entry.name: (ObjectId(entry.object_id), VersionId(entry.version)) for entry in entries}
        known = self._context.ledger.records(list(names.values()))
        left = []
        for entry in entries:
            record = known.get(names[entry.name])
            if since_s is not None and record is not None and record.states and record.audited_wall_s >= since_s:
                self.result.resumed += 1
                self._count(entry.name, ObjectId(entry.object_id), record.states)
            else:
                left.append(entry)
        self._tell()
        if left:
            await self._audit_entries(class_, left, {entry.name: known.get(names[entry.name]) for entry in left})

    async def _audit_entries(
        self, class_: str, entries: Sequence[Entry], known: Mapping[str, AuditRecord | None]
    ) -> None:
        """Audit objects where the ledger remembers them; look the others up, and those that are not well."""
        context = self._context
        remembered: dict[str, list[AuditBody]] = {}
        for entry in entries:
            body = self._remembered(entry, known[entry.name])
            if body is not None:
                remembered[entry.name] = [body]
        fresh = self._options.fresh
        well = await self._audit(remembered, fresh=fresh, looked_up=False)
        doubted = [entry for entry in entries if entry.name not in well]
        if not doubted:
            return
        vouched = {ObjectId(entry.object_id): VersionId(entry.version) for entry in doubted if entry.version}
        readings = await context.catalog.read_many(
            context.channels(class_), [ObjectId(entry.object_id) for entry in doubted], vouched
        )
        live = {
            entry.name: bodies_of(entry.name, context.owner, reading.value)
            for entry, reading in zip(doubted, readings, strict=True)
            if reading.value is not None and not reading.value.tombstone
        }
        self._total -= len(doubted) - len(live)  # removals that stopped between register and index
        await self._audit({label: live[label] for label in live if label not in remembered}, fresh=fresh)
        await self._audit({label: live[label] for label in live if label in remembered}, fresh=False)

    def _remembered(self, entry: Entry, record: AuditRecord | None) -> AuditBody | None:
        if record is None or record.terms is None:
            return None
        if not 0 <= self._context.clock.wall_s() - record.terms["learned"] < _TERMS_S:
            return None
        name = ObjectId(entry.object_id), VersionId(entry.version)
        return AuditBody.from_terms(entry.name, self._context.owner, name, record.terms)

    async def _audit(
        self, wanted: Mapping[str, Sequence[AuditBody]], *, fresh: bool, looked_up: bool = True
    ) -> set[str]:
        """Audit bodies by label, in batches of bounded size; return the labels that are well.

        What was not ``looked_up`` and is not well is not counted yet, because it will be asked again.
        """
        found: dict[str, list[AuditedBody]] = {}
        for batch in _batches([body for each in wanted.values() for body in each]):
            await self._pace(batch)
            answers = await ask_bodies(self._context, batch, slot_s=self._options.slot_s, fresh=fresh)
            final = [one for one in answers if looked_up or one.well]
            await keep_found(self._context, final, looked_up=looked_up, final=True)
            if not looked_up:
                doubted = [one for one in answers if not one.well]
                await keep_found(self._context, doubted, looked_up=False, final=False)
            for one in answers:
                self.result.share_bytes += one.body.size_bytes * (len(one.body.points) - len(one.silent))
            for one in final:
                found.setdefault(one.body.label, []).append(one)
        for label, each in found.items():
            self._account(each)
            body = each[0].body
            self._count(label, body.key.object_id, worst(one.states for one in each), index=body.part_of_index)
        self._tell()
        return set(found)

    async def _pace(self, batch: Sequence[AuditBody]) -> None:
        """Wait until the shares asked for before are not more than the rate allows."""
        rate, before = self._options.bytes_per_s_max, self._charged_bytes
        self._charged_bytes += sum(body.size_bytes * len(body.points) for body in batch)
        if rate is not None:
            ahead_s = before / rate - (self._context.clock.now_s() - self._started_s)
            if ahead_s > 0:
                await self._context.runtime.sleep(ahead_s)

    def _account(self, found: Sequence[AuditedBody]) -> None:
        for one in found:
            self.result.new += one.new
            self.result.repeated += not one.new
            self.result.spent += one.left == 0
            self._asked.update(list(one.body.points))
            self._silent.update(one.silent)
            self._refused.update(site for site, state in one.states.items() if state is ShareFound.REFUSED)

    def _count(self, label: str, object_id: ObjectId, states: Mapping[SiteId, str], *, index: bool = False) -> None:
        told = self.result.count(label, object_id, states)
        if index:
            self.result.index[label] = told
        elif self._on_found is not None:
            self._on_found(label, told)

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self.result.objects, self._total)

    def _count_streaks(self) -> None:
        """Count rounds in a row in which a site answered nothing, or refused all it was asked."""
        context = self._context
        before = context.ledger.note(_STREAKS) or {}
        for site, asked in self._asked.items():
            was = before.get(site, {})
            counted = {"silent": self._silent[site], "refused": self._refused[site]}
            before[site] = {what: was.get(what, 0) + 1 if count == asked else 0 for what, count in counted.items()}
            self.result.in_a_row[site] = before[site]
            for what, rounds in before[site].items():
                if rounds >= _IN_A_ROW:
                    fields = {"site": str(site), "kind": f"audit_{what}", "rounds": str(rounds)}
                    context.sink.emit(Event("vault.audit_unanswered", "alarm", fields))
        context.ledger.keep_note(_STREAKS, before)


def _batches(bodies: Sequence[AuditBody]) -> list[list[AuditBody]]:
    """Group bodies that are asked for in one exchange per site: of one class, and not too many bytes."""
    batches: list[list[AuditBody]] = []
    left_bytes = 0
    for body in bodies:
        full = not batches or len(batches[-1]) >= _TOGETHER or body.size_bytes > left_bytes
        if full or batches[-1][0].class_ != body.class_:
            batches.append([])
            left_bytes = _TOGETHER_BYTES
        batches[-1].append(body)
        left_bytes -= body.size_bytes
    return batches
