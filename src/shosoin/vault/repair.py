"""Rebuilding shares that were not written, were lost, or proved bad, until every placed site holds a good one.

The owner's client finds what is missing, shows what it takes of every link, lets the sites rebuild it among themselves
(``repair_node``), audits the result, and only then proposes a register value that counts on it. It never sees a share.
Whatever stops half way leaves the old state: a share counts when the register says so, and what an attempt staged is
dropped, or used by the next attempt, which has new pads.

A share is called wrong only by a check with the owner's keys (``verify``), never because answers contradict each other.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shosoin.base import ObjectId, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Event
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.catalog import Conflict, Outcome, Proposal
from shosoin.vault.concurrency import gather_few, settle
from shosoin.vault.context import CLASSES, VaultContext
from shosoin.vault.envelope import canonical_json
from shosoin.vault.exposure import checked_statuses
from shosoin.vault.names import Names
from shosoin.vault.repair_audit import Verdict, audit_rebuilt, keyed_states
from shosoin.vault.repair_order import Party, RepairOrder, sign_orders
from shosoin.vault.repair_plan import (
    Link,
    Links,
    Need,
    Reason,
    chunk_bytes,
    held_shares,
    helper_sets,
    key_bits,
    read_links,
    wanted_links,
)
from shosoin.vault.repair_run import AttemptRun, SiteFailed
from shosoin.vault.values import Body, RegisterValue

__all__ = ["Repaired", "Repairer"]

_ATTEMPTS_MAX = 8
"""Helper sets that are tried for one share before it is left for later."""
_PROPOSALS_MAX = 5
_AT_ONCE = 4
"""Registers that are repaired side by side."""
_BAD = {"wrong": Reason.WRONG, "damaged": Reason.DAMAGED, "missing": Reason.LOST}


class RepairWrong(Unavailable):
    """What was rebuilt fails its audit: a helper lied. It does not count, and was dropped."""

    code = "vault.repair_wrong"


class Unpinned(Unavailable):
    """The share is rebuilt, and its site has not accepted the value that counts on it."""

    code = "vault.repair_unpinned"
    hint = "repair again; nothing has to be rebuilt"


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
class _Work:
    """One share while it is rebuilt."""

    need: Need
    bits: dict[Link, int] = field(default_factory=dict)
    attempts: int = 0
    failed: list[tuple[SiteId, ...]] = field(default_factory=list)
    """Helper sets whose result was wrong."""
    avoided: set[SiteId] = field(default_factory=set)
    """Sites that did not do their part."""
    suspects: set[SiteId] = field(default_factory=set)
    last: ShosoinError | None = None
    facts: dict[str, Any] | None = None
    """How the share that counts in the end travelled, for the label."""


@dataclass(slots=True)
class Repairer:
    """Finds what is missing and rebuilds it."""

    context: VaultContext
    names: Names
    rate_bytes_per_s: float | None = None
    key_budget_bits: int | None = None
    _ready_s: float = 0.0
    _open: list[AttemptRun] = field(default_factory=list)
    """Attempts that have not been ended."""

    async def plan(
        self, names: Sequence[str] | None, states: Mapping[str, Mapping[SiteId, str]] | None = None
    ) -> list[Need]:
        """Return what has to be repaired, with helpers, key bits and wait; no key of a link between nodes is drawn.

        ``states`` are findings of keyed checks by name (``VerifyReport.per_site``).
        """
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
        if class_ == "its":  # closes links of which nobody says who sees their keys, and refuses an exposed placement
            for _, value, _ in values:
                await checked_statuses(context, value.placement, value.scheme, value)
        held = await held_shares(context, channels, [value.register_id for _, value, _ in values])
        needs = [
            Need(name, value, body, site, reason)
            for name, value, certificate in values
            for body in value.bodies
            for site in value.placement
            if (reason := _reason(value, body, site, certificate, held, states.get(name, {})))
        ]
        if any(need.reason != Reason.UNCONFIRMED for need in needs):
            links = await read_links(context, channels)
            for need in needs:
                self._choose(need, links, silent=set(channels) - set(held))
        return needs

    def _choose(self, need: Need, links: Links, silent: set[SiteId]) -> None:
        """Choose helpers and count what it takes; say what is in the way if nobody can help."""
        if need.target in silent:
            need.problem = f"{need.target} does not answer"
            return
        if need.reason == Reason.UNCONFIRMED:
            return
        sets = helper_sets(self.context, need, links)
        helpers = sets[0] if sets else tuple(need.body.good[: need.value.scheme.k])
        wanted = wanted_links(self.context, helpers, need.target)
        need.bits = key_bits(need.value, need.size_bytes, wanted, need.target)
        need.stock = {link: links.states[link].stored_bits for link in wanted if link in links.states}
        if sets:
            need.helpers = helpers
            links.spend(need.bits)
            return
        waits = [links.wait_s(link, need.bits[link]) for link in wanted]
        need.wait_s = None if None in waits else max((wait for wait in waits if wait is not None), default=None)
        bad = next((link for link in wanted if not links.usable(link, need.bits[link])), None)
        fit = [site for site in need.body.good if site != need.target and site not in links.silent]
        if len(fit) < need.value.scheme.k or bad is None:
            need.problem = f"{len(fit)} sites with good shares answer, {need.value.scheme.k} are needed"
        else:
            need.problem = links.problem(bad)

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
        return needs

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
        work = _Work(need)
        durable_at = len(need.body.good)
        problem = need.problem
        try:
            if not problem:
                durable_at = len((await self._rebuilt(work, more)).durable_at)
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

    def _tell(self, work: _Work, problem: str) -> None:
        need = work.need
        fields = {"object": str(need.value.register_id), "site": str(need.target), "reason": need.reason}
        name, severity = ("vault.repair_left", "warning") if problem else ("vault.repaired", "info")
        self.context.sink.emit(Event(name, severity, fields))
        for site in sorted(work.suspects):
            self.context.sink.emit(
                Event("vault.repair_suspect", "alarm", {**fields, "site": str(site), "kind": "repair_wrong"})
            )

    async def _rebuilt(self, work: _Work, more: Callable[[int], None]) -> Outcome:
        """Try helper sets until one gives a good share, then have the register count on it."""
        need = work.need
        if need.reason != Reason.UNCONFIRMED:
            await self._try_helpers(work, more)
        outcome = await count_on(self.context, need.value, need.body, need.target, work.facts)
        op = {"op": "erase", "object": need.value.register_id}
        channel = self.context.channels(need.value.class_)[need.target]
        await settle(self.context.runtime, [channel.exchange([op], timeout_s=5.0)])  # versions from before it was away
        return outcome

    async def _try_helpers(self, work: _Work, more: Callable[[int], None]) -> None:
        need = work.need
        while work.attempts < _ATTEMPTS_MAX:
            helpers = await self._next_helpers(work)
            if helpers is None:
                break
            work.attempts += 1
            need.helpers = helpers
            for link, bits in key_bits(
                need.value, need.size_bytes, wanted_links(self.context, helpers, need.target), need.target
            ).items():
                work.bits[link] = work.bits.get(link, 0) + bits
            if await self._attempt(work, helpers, more):
                self._locate(work, helpers)
                return
        self._locate(work, None)
        raise work.last or RepairWrong(f"nobody can help {need.target} now")

    async def _next_helpers(self, work: _Work) -> tuple[SiteId, ...] | None:
        """Return the planned helpers, then others: without sites that failed, and not a set that went wrong before."""
        need = work.need
        if not work.attempts:
            return need.helpers or None
        links = await read_links(self.context, self.context.channels(need.value.class_))
        sets = helper_sets(self.context, need, links)
        return next((each for each in sets if each not in work.failed and not work.avoided.intersection(each)), None)

    async def _attempt(self, work: _Work, helpers: tuple[SiteId, ...], more: Callable[[int], None]) -> bool:
        """Make one attempt; true if a good share is recorded at the target."""
        run = self._run_of(work.need, helpers, more)
        self._open.append(run)
        discard, staged = False, 0
        try:
            staged = await run.open()
            await run.transfer(staged)
            await run.seal()
            finding = await audit_rebuilt(self.context, work.need.value, work.need.body, run)
            work.suspects.update(finding.suspects)
            work.facts = _facts(run)
            discard = finding.verdict == Verdict.WRONG
            if not discard:
                await run.adopt()
                discard = finding.verdict == Verdict.UNKNOWN  # if the check by keys fails or ends, nothing may stay
                discard = discard and not await self._reads_well(work)
        except ShosoinError as error:
            await self._end(run, discard=discard)
            if not isinstance(error, SiteFailed):
                raise
            self._note_failure(work, helpers, error)
            return False
        await self._end(run, discard=discard)
        if discard:
            if not staged:  # else the start may be what other helpers gave: these are asked once more, for all of it
                work.failed.append(helpers)
            work.last = RepairWrong(f"what {', '.join(helpers)} gave for {work.need.target} is not its share")
        return not discard

    async def _end(self, run: AttemptRun, *, discard: bool) -> None:
        await run.abort(discard=discard)
        self._open.remove(run)

    def _note_failure(self, work: _Work, helpers: tuple[SiteId, ...], error: SiteFailed) -> None:
        """Decide what a failed attempt says about its sites."""
        work.last = error
        if error.site == work.need.target and not error.forged:
            raise error
        if error.code == "vault.repair_no_key" or error.forged:
            work.failed.append(helpers)  # which end of a pair is at fault is not known: try others
        else:
            work.avoided.add(error.site)

    async def _reads_well(self, work: _Work) -> bool:
        """Check a recorded share with the owner's keys, where too few others answer an audit."""
        need = work.need
        body = replace(need.body, good=_with(need.value, need.body, need.target))
        states = await keyed_states(self.context, need.value, body)
        return states.get(need.target) == "ok"

    def _locate(self, work: _Work, good: tuple[SiteId, ...] | None) -> None:
        """Suspect who took part whenever it went wrong, and not when it went well."""
        if work.failed:
            common = set(work.failed[0]).intersection(*work.failed[1:]) - set(good or ()) - {self.context.home}
            if good is not None or len(work.failed) > 1:
                work.suspects |= common

    def _run_of(self, need: Need, helpers: tuple[SiteId, ...], more: Callable[[int], None]) -> AttemptRun:
        context = self.context
        order = self._order(need, helpers)
        (proof,) = sign_orders([order], context.signer)
        return AttemptRun(
            order,
            base64.b64encode(proof).decode(),
            context.channels(need.value.class_),
            context.runtime,
            chunk_bytes(need.value.scheme.k),
            self._pace,
            more,
        )

    def _order(self, need: Need, helpers: tuple[SiteId, ...]) -> RepairOrder:
        context, value, body = self.context, need.value, need.body
        nodes = {site.name: site.node for site in context.sites}
        place = {site: index for index, site in enumerate(value.placement, start=1)}
        parties = [Party(site, nodes[site], place[site]) for site in sorted(helpers, key=place.__getitem__)]
        return RepairOrder(
            owner=context.owner,
            object_id=value.register_id,
            version=body.version,
            epoch=body.epoch,
            class_=value.class_,
            size_bytes=body.layout.total,
            masks=body.layout.masks // ELEMENT_BYTES,
            counter=value.counter,
            target=Party(need.target, nodes[need.target], place[need.target]),
            helpers=tuple(parties),
            attempt=context.entropy.random_bytes(16).hex(),
            replaces=need.reason in {Reason.WRONG, Reason.DAMAGED},
            counted=need.target in body.good,
        )

    async def _pace(self, size_bytes: int) -> None:
        """Wait so that no more bytes are rebuilt in a second than was asked for."""
        if not self.rate_bytes_per_s:
            return
        now_s = self.context.runtime.now_s()
        start_s = max(now_s, self._ready_s)
        self._ready_s = start_s + size_bytes / self.rate_bytes_per_s
        if start_s > now_s:
            await self.context.runtime.sleep(start_s - now_s)


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


def _with(value: RegisterValue, body: Body, site: SiteId) -> tuple[SiteId, ...]:
    return tuple(each for each in value.placement if each in body.good or each == site)


async def count_on(
    context: VaultContext, value: RegisterValue, body: Body, target: SiteId, facts: Mapping[str, Any] | None
) -> Outcome:
    """Propose the register's value with the target among the good sites of a body; return what came of it.

    ``facts`` say how its share travelled; ``None`` if it has been there before. A target that promised another
    proposer more is asked again, for only what it accepted is pinned.

    Raises:
        Conflict: the register does not count on that body any more.
        Unavailable: too few sites take part, or the target does not.
    """
    channels = context.channels(value.class_)
    for _ in range(_PROPOSALS_MAX):
        current = (await context.catalog.read(channels, value.register_id)).value
        same = [each for each in current.bodies if each.version == body.version] if current is not None else []
        if current is None or not same:
            raise Conflict("the object got a new version, or was removed, while its share was rebuilt")
        bodies = tuple(
            each.with_good(_with(current, each, target), target, facts) if each.version == body.version else each
            for each in current.bodies
        )
        proposal = Proposal(value.register_id, _with_bodies(current, bodies), fresh=False)
        (outcome,) = await context.catalog.propose(channels, [proposal])
        if outcome.error is None and target in outcome.durable_at:
            return outcome
        if outcome.error is not None and not isinstance(outcome.error, Conflict):
            raise outcome.error
    raise Unpinned(f"{target} holds the share, and did not take part in the change of the register")


def _facts(run: AttemptRun) -> dict[str, Any]:
    """Return how a rebuilt share travelled, as the helpers say where their keys came from."""
    keys: dict[str, dict[str, Any]] = {}
    for origins in run.origins.values():
        for origin in origins:
            same = {name: origin.get(name) for name in ("kind", "simulated", "epsilon")}
            known = keys.setdefault(canonical_json(same).decode(), {**same, "keys": 0})
            known["keys"] += origin["keys"]
    helpers = [str(helper.site) for helper in run.order.helpers]
    how = "one-time pad" if run.order.class_ == "its" else "AES-256 in counter mode"
    return {"how": f"rebuilt by {', '.join(helpers)} under {how}", "keys": list(keys.values())}


def _with_bodies(value: RegisterValue, bodies: Sequence[Body]) -> RegisterValue:
    """Return the value with another site part."""
    outer: dict[str, Any] = json.loads(value.text)
    outer["site"] = {"bodies": [body.to_json() for body in bodies]}
    return RegisterValue.parse(canonical_json(outer).decode())
