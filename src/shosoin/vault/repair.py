"""Rebuilding shares that were not written, were lost, or proved bad, until every placed site holds a good one.

The owner's client finds what is missing, shows what it takes of every link, lets the sites rebuild it among themselves
(``repair_node``), audits the result, and only then proposes a register value that counts on it. It never sees a share.
Whatever stops half way leaves the old state: a share counts when the register says so, and what an attempt staged is
dropped, or used by the next attempt, which has new pads.

A share is called wrong only by a check with the owner's keys (``verify``), never because answers contradict each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from shosoin.base import ObjectId, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Event
from shosoin.vault.catalog import Conflict, Outcome
from shosoin.vault.concurrency import gather_few, settle
from shosoin.vault.context import CLASSES, VaultContext
from shosoin.vault.exposure import checked_statuses
from shosoin.vault.fetching import NotRecoverable
from shosoin.vault.found_bad import note_rebuilt
from shosoin.vault.names import Names
from shosoin.vault.repair_audit import keyed_states
from shosoin.vault.repair_plan import (
    Link,
    Links,
    Need,
    Reason,
    held_shares,
    helper_sets,
    read_links,
    wanted_links,
)
from shosoin.vault.repair_register import count_on
from shosoin.vault.repair_run import AttemptRun
from shosoin.vault.repair_work import ShareWork
from shosoin.vault.values import Body, RegisterValue

__all__ = ["Repaired", "Repairer"]

_AT_ONCE = 4
"""Registers that are repaired side by side."""
_BAD = {"wrong": Reason.WRONG, "damaged": Reason.DAMAGED, "missing": Reason.LOST}


@dataclass(frozen=True, slots=True)
class Repaired:
    """What came of one share."""

    name: str
    object_id: ObjectId
    version: str
    site: SiteId
    reason: str
    done: bool
    durable_at: int
    """Sites that hold and pin a good share of everything the register's value adds, afterwards."""
    helpers: tuple[SiteId, ...]
    size_bytes: int
    key_bits: dict[Link, int]
    """Key bits of each link, over all attempts (an upper bound for attempts that failed)."""
    attempts: int
    seconds: float
    suspects: tuple[SiteId, ...] = ()
    """Sites whose answers did not fit, or that took part in every attempt that went wrong."""
    problem: str = ""
    """Why it was not done."""


@dataclass(slots=True)
class Repairer:
    """Finds what is missing and rebuilds it."""

    context: VaultContext
    names: Names
    rate_bytes_per_s: float | None = None
    key_budget_bits: int | None = None
    verify_index: bool = False
    _ready_s: float = 0.0
    _open: list[AttemptRun] = field(default_factory=list)
    """Attempts that have not been ended."""
    _left_bits: int | None = None
    """What the plan leaves of the budget, for attempts that have to be made again."""

    async def plan(
        self,
        names: Sequence[str] | None,
        states: Mapping[str, Mapping[SiteId, str]] | None = None,
        *,
        verify_index: bool = False,
    ) -> list[Need]:
        """Return what has to be repaired, with helpers, key bits and wait; no key of a link between nodes is drawn.

        ``states`` are findings of keyed checks by name (``VerifyReport.per_site``). With ``verify_index`` the shares of
        the index are checked in that way here, because it has no name under which anybody could.
        """
        self.verify_index = verify_index
        found: list[Need] = []
        for class_ in CLASSES:
            values = await self._values(class_, names)
            if values:
                found += await self._needs(class_, values, states or {})
        return self._within_budget(found)

    async def _values(
        self, class_: str, names: Sequence[str] | None
    ) -> list[tuple[str, RegisterValue, tuple[SiteId, ...]]]:
        """Return the committed values of a class: of named objects, and of the index."""
        context, known = self.context, self.names.entries()
        wanted = sorted(known) if names is None else list(dict.fromkeys(names))
        asked = [(name, ObjectId(known[name].object_id)) for name in wanted if known[name].class_ == class_]
        state = self.names.states.get(class_)
        if state is not None and state.value is not None:
            asked.append((f"(names of class {class_})", state.register_id))
        readings = await context.catalog.read_many(context.channels(class_), [each for _, each in asked])
        return [
            (name, reading.value, reading.certificate)
            for (name, _), reading in zip(asked, readings, strict=True)
            if reading.value is not None and not reading.value.tombstone
        ]

    async def _needs(
        self,
        class_: str,
        values: Sequence[tuple[str, RegisterValue, tuple[SiteId, ...]]],
        states: Mapping[str, Mapping[SiteId, str]],
    ) -> list[Need]:
        context = self.context
        channels = context.channels(class_)
        refusal = await self._exposed([value for _, value, _ in values]) if class_ == "its" else ""
        held = await held_shares(context, channels, [value.register_id for _, value, _ in values])
        checked = await self._index_states(values) if self.verify_index and not refusal else {}
        needs = [
            Need(name, value, body, site, reason)
            for name, value, certificate in values
            for body in value.bodies
            for site in value.placement
            if (
                reason := _reason(
                    value, body, site, certificate, held, states.get(name) or checked.get(body.version, {})
                )
            )
        ]
        _note_unfit(needs)
        if any(need.reason != Reason.UNCONFIRMED for need in needs):
            links = await read_links(context, channels)
            for need in needs:
                self._choose(need, links, silent=set(channels) - set(held))
                need.problem = refusal or need.problem
        return needs

    async def _index_states(
        self, values: Sequence[tuple[str, RegisterValue, tuple[SiteId, ...]]]
    ) -> dict[str, Mapping[SiteId, str]]:
        """Check the shares of the index's parts with the owner's keys; return the states of each part's sites."""
        found: dict[str, Mapping[SiteId, str]] = {}
        for _, value, _ in values:
            for body in value.bodies if value.kind != "object" else ():
                with suppress(Unavailable, NotRecoverable):  # what cannot be read now may still lack shares
                    found[body.version] = await keyed_states(self.context, value, body)
        return found

    async def _exposed(self, values: Sequence[RegisterValue]) -> str:
        """Say why shares must not move now: a coalition would learn k of them, or nobody says who sees the keys."""
        for value in values:
            try:
                await checked_statuses(self.context, value.placement, value.scheme, value)
            except ShosoinError as error:
                return error.message
        return ""

    def _choose(self, need: Need, links: Links, silent: set[SiteId]) -> None:
        """Choose helpers and count what it takes; say what is in the way if nobody can help."""
        if need.target not in {site.name for site in self.context.sites}:
            need.problem = f"{need.target} is no site of the configuration: move the object first"
            return
        if need.target not in self.context.members:
            need.problem = f"{need.target} is being replaced: move the object first"
            return
        if need.target in silent:
            need.problem = f"{need.target} does not answer"
            return
        if need.reason == Reason.UNCONFIRMED:
            return
        need.key_bytes_max = links.key_bytes_max()
        sets = helper_sets(self.context, need, links)
        others, class_ = need.fit, need.value.class_
        helpers = sets[0] if sets else tuple(others[: need.value.scheme.k])
        wanted = wanted_links(need.value.placement, helpers, need.target)
        need.bits = need.key_bits(wanted)
        need.stock = {link: links.states[link].stored_bits for link in wanted if link in links.states}
        if sets:
            need.helpers = helpers
            links.spend(need.bits)
            return
        waits = [links.wait_s(link, need.bits[link], class_) for link in wanted]
        need.wait_s = None if None in waits else max((wait for wait in waits if wait is not None), default=None)
        bad = next((link for link in wanted if not links.usable(link, need.bits[link], class_)), None)
        known = {site.name for site in self.context.sites}
        fit = [site for site in others if site in known and site not in links.silent]
        if len(fit) < need.value.scheme.k or bad is None:
            need.problem = f"{len(fit)} sites with good shares answer, {need.value.scheme.k} are needed"
        else:
            need.problem = links.problem(bad, class_)

    def _within_budget(self, needs: list[Need]) -> list[Need]:
        left = self.key_budget_bits
        for need in needs:
            total = sum(need.bits.values())
            if left is None or not need.helpers:
                continue
            if total > left:
                need.problem = f"it takes {total} key bits, {left} of the budget are left"
                need.helpers = ()
            else:
                left -= total
        self._left_bits = left
        return needs

    def _allow(self, bits: int) -> bool:
        """Take key bits for an attempt that was not planned, if the budget has them."""
        if self._left_bits is None:
            return True
        if bits > self._left_bits:
            return False
        self._left_bits -= bits
        return True

    async def run(self, needs: Sequence[Need], progress: Callable[[int], None] | None = None) -> list[Repaired]:
        """Rebuild what can be rebuilt; what fails is reported and left as it was."""
        done = [0]

        def more(count: int) -> None:
            done[0] += count
            if progress is not None:
                progress(done[0])

        by_register: dict[ObjectId, list[Need]] = {}
        for need in needs:
            by_register.setdefault(need.value.register_id, []).append(need)
        works = [self._register(group, more) for group in by_register.values()]
        try:
            found = await gather_few(self.context.runtime, works, at_once=_AT_ONCE)
        finally:  # some are left only if we were told to stop
            await settle(self.context.runtime, [attempt.abort(discard=False) for attempt in self._open])
        return [repaired for group in found for repaired in group]

    async def _register(self, needs: Sequence[Need], more: Callable[[int], None]) -> list[Repaired]:
        """Repair one register's shares, one after the other: each changes its value."""
        return [await self._one(need, more) for need in needs]

    async def _one(self, need: Need, more: Callable[[int], None]) -> Repaired:
        started_s = self.context.clock.now_s()
        work = ShareWork(self.context, need, self._pace, more, self._allow, self._open)
        durable_at = len(set(need.body.good) - {need.target})  # if nothing comes of it
        problem = need.problem
        try:
            if not problem:
                durable_at = len((await self._rebuilt(work)).durable_at)
        except ShosoinError as error:
            problem = error.message
        self._tell(work, problem)
        return Repaired(
            name=need.name,
            object_id=need.value.register_id,
            version=need.body.version,
            site=need.target,
            reason=need.reason,
            done=not problem,
            durable_at=durable_at,
            helpers=need.helpers,
            size_bytes=need.size_bytes,
            key_bits=work.bits,
            attempts=work.attempts,
            seconds=self.context.clock.now_s() - started_s,
            suspects=tuple(sorted(work.suspects)),
            problem=problem,
        )

    def _tell(self, work: ShareWork, problem: str) -> None:
        need = work.need
        fields = {"object": str(need.value.register_id), "site": str(need.target), "reason": need.reason}
        name, severity = ("vault.repair_left", "warning") if problem else ("vault.repaired", "info")
        self.context.sink.emit(Event(name, severity, fields))
        for site in sorted(work.suspects):
            self.context.sink.emit(
                Event("vault.repair_suspect", "alarm", {**fields, "site": str(site), "kind": "repair_wrong"})
            )

    async def _rebuilt(self, work: ShareWork) -> Outcome:
        """Try helper sets until one gives a good share, then have the register count on it."""
        need = work.need
        if need.reason != Reason.UNCONFIRMED:
            await work.rebuild()
        try:
            outcome = await count_on(self.context, need.value, need.body, need.target, work.facts)
        except Conflict:
            await self._withdraw(need)
            raise
        note_rebuilt(self.context, (need.value.register_id, need.body.version), need.body.epoch, need.target)
        op = {"op": "erase", "object": need.value.register_id}
        channel = self.context.channels(need.value.class_)[need.target]
        await settle(self.context.runtime, [channel.exchange([op], timeout_s=5.0)])  # versions from before it was away
        return outcome

    async def _withdraw(self, need: Need) -> None:
        """Have the target drop a share of a version that nothing counts on any more, best effort."""
        where = {"object": need.value.register_id, "version": need.body.version, "epoch": need.body.epoch}
        channel = self.context.channels(need.value.class_)[need.target]
        erase = {"op": "erase", "object": need.value.register_id}
        await settle(self.context.runtime, [channel.exchange([{"op": "abort", **where}, erase], timeout_s=5.0)])

    async def _pace(self, size_bytes: int) -> None:
        """Wait so that no more bytes are rebuilt in a second than was asked for."""
        if not self.rate_bytes_per_s:
            return
        now_s = self.context.runtime.now_s()
        start_s = max(now_s, self._ready_s)
        self._ready_s = start_s + size_bytes / self.rate_bytes_per_s
        if start_s > now_s:
            await self.context.runtime.sleep(start_s - now_s)


def _note_unfit(needs: Sequence[Need]) -> None:
    """Note with every need which sites' shares of the same body are known to be bad: they would spoil it."""
    bad: dict[tuple[ObjectId, str], set[SiteId]] = {}
    for need in needs:
        if need.reason in _BAD.values():
            bad.setdefault((need.value.register_id, need.body.version), set()).add(need.target)
    for need in needs:
        need.unfit = frozenset(bad.get((need.value.register_id, need.body.version), ())) - {need.target}


def _reason(
    value: RegisterValue,
    body: Body,
    site: SiteId,
    certificate: Sequence[SiteId],
    held: Mapping[SiteId, set[tuple[str, str, int]]],
    states: Mapping[SiteId, str],
) -> str:
    """Return why a site's share of a body has to be rebuilt, or nothing."""
    if site not in body.good:
        return Reason.NOT_WRITTEN
    if site in held and (value.register_id, body.version, body.epoch) not in held[site]:
        return Reason.LOST
    if states.get(site) in _BAD:
        return _BAD[states[site]]
    if site in held and body in value.added_bodies and site not in certificate:
        return Reason.UNCONFIRMED
    return ""
