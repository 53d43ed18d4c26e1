"""The owner's half of the catalog: read registers, and change them with one linearizable step each.

A change goes through three phases over all sites of the placement: prepare (learn what may have been chosen), accept
(a quorum q pins the shares and accepts), commit (a quorum q holds the certificate). A put returns after the third.
The creator of a random register ID skips the first phase: nobody else can have used round 1. Many registers of one
batch travel together.

Reads ask ``read_quorum`` sites, whose answers meet every certificate, and every other site too unless those agree; what
only some know is written back to the others first, so that no later read goes back. Fewer answers, but at least k, are
served as ``unproven``. Crash faults are covered here; signed answers against lying sites are not (design, section 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shosoin.base import Entropy, ObjectId, PeerFault, Rejected, ShosoinError, SiteId
from shosoin.base.ports import Runtime
from shosoin.vault import envelope
from shosoin.vault.acceptor import Ballot
from shosoin.vault.catalog_answers import AnswerReader, Asked, SiteAnswers, Stored, asked_of, later, newer, round_of
from shosoin.vault.channel import TIMEOUT_S, Channel
from shosoin.vault.concurrency import collect, gather_few, succeeded
from shosoin.vault.scheme import Scheme
from shosoin.vault.signing import SignatureForged
from shosoin.vault.values import RegisterValue

__all__ = ["Catalog", "Conflict", "Outcome", "Reading"]

PROVEN = "proven"
UNPROVEN = "unproven"
_ATTEMPTS = 6
_BACKOFF_S = 0.05
_READ_TOGETHER = 64
_BATCHES = 2
"""Exchanges that run side by side, so that owner and sites work at the same time."""
_WRITE_BACK_TIMEOUT_S = 3.0
_READ_GRACE_S = 0.3
_WRITE_GRACE_S = 3.0


class Conflict(Rejected):
    """Somebody else changed the object first."""

    code = "vault.conflict"
    hint = "the other writer's version stands, whole; look at it and put again if yours should replace it"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a read found: the committed value (``None`` when nothing was ever committed) and how sure it is."""

    value: RegisterValue | None
    freshness: str
    certificate: tuple[SiteId, ...] = ()
    """Sites that accepted the value, and so hold and pin what it counts on."""


@dataclass(slots=True)
class Proposal:
    """One register's wanted change."""

    register_id: ObjectId
    value: RegisterValue
    fresh: bool
    """Whether the register ID is random and new, so that phase one may be skipped."""
    offered: bool = False
    """Whether a site may have accepted the value: from then on its shares must not be withdrawn."""


@dataclass(slots=True)
class Outcome:
    """What came of a proposal: the sites that hold the certificate, or the error."""

    proposal: Proposal
    accepted_by: list[SiteId] = field(default_factory=list)
    held_by: list[SiteId] = field(default_factory=list)
    unreached: Asked = field(default_factory=lambda: Asked({}, {}))
    """The last exchange, for the reasons of the sites that did not take part."""
    error: ShosoinError | None = None

    def committed(self, scheme: Scheme) -> bool:
        """Whether a quorum holds the certificate."""
        return len(self.held_by) >= scheme.write_quorum

    @property
    def durable_at(self) -> list[SiteId]:
        """Sites that hold and pin the share that the value adds."""
        return self.proposal.value.durable_sites(self.accepted_by)


@dataclass(slots=True)
class _Attempt:
    proposal: Proposal
    ballot: Ballot
    value: RegisterValue
    outcome: Outcome


class Catalog:
    """Registers over all sites of one owner; ``scheme`` gives the quorums (its n is the number of members)."""

    def __init__(
        self,
        scheme: Scheme,
        members: Sequence[SiteId],
        public_key: bytes,
        entropy: Entropy,
        runtime: Runtime,
        proposer: str,
    ) -> None:
        self._scheme = scheme
        self._members = tuple(members)
        self._answers = AnswerReader(public_key)
        self._entropy = entropy
        self._runtime = runtime
        self._proposer = proposer
        self._readers = max(scheme.read_quorum, scheme.k)

    async def read(self, channels: Mapping[SiteId, Channel], register_id: ObjectId) -> Reading:
        """Read one register."""
        return (await self.read_many(channels, [register_id]))[0]

    async def read_many(self, channels: Mapping[SiteId, Channel], register_ids: Sequence[ObjectId]) -> list[Reading]:
        """Read registers with one exchange per site.

        Raises:
            TooFewSites: fewer than k sites answered.
            SignatureForged: a site holds a value that the owner did not sign and no site holds a better one.
        """
        readings: list[Reading] = []
        for at in range(0, len(register_ids), _READ_TOGETHER):
            readings += await self._read_batch(channels, register_ids[at : at + _READ_TOGETHER])
        return readings

    async def _read_batch(self, channels: Mapping[SiteId, Channel], register_ids: Sequence[ObjectId]) -> list[Reading]:
        operations = [{"op": "register", "register": register_id} for register_id in register_ids]
        asked = await self._ask_readers(channels, operations)
        found = self._answers.held(register_ids, asked)
        rest = [site for site in self._members if site not in asked.answers and site not in asked.errors]
        if rest and any(stored.behind() or len(stored.held) < self._readers for stored in found):
            more = await self._ask(
                channels,
                dict.fromkeys(rest, operations),
                enough=self._readers - len(asked.answers),
                grace_s=_READ_GRACE_S,
            )
            asked = Asked(asked.answers | more.answers, asked.errors | more.errors)
            found = self._answers.held(register_ids, asked)
        sound = min(len(stored.held) for stored in found)
        if sound < self._scheme.k:
            raise asked.too_few(
                f"{sound} of {self._scheme.n} sites give a sound answer, at least {self._scheme.k} are needed",
                self._scheme,
            )
        await self._write_back(channels, register_ids, found)
        return [self._reading(stored) for stored in found]

    async def _ask_readers(self, channels: Mapping[SiteId, Channel], operations: list[dict[str, Any]]) -> Asked:
        """Ask as many sites as a read needs; all others too when one of them fails or is slow."""
        asked, others = self._members[: self._readers], self._members[self._readers :]
        running = [self._runtime.start(channels[site].exchange(operations)) for site in asked]
        try:
            await self._runtime.wait(running, timeout_s=_READ_GRACE_S, first=False)
            more = () if all(map(succeeded, running)) else others
            tasks = await collect(
                self._runtime,
                (channels[site].exchange(operations) for site in more),
                enough=self._readers,
                grace_s=_READ_GRACE_S,
                running=running,
            )
        finally:
            for task in running:
                task.cancel()
        return asked_of(dict.fromkeys((*asked, *more), operations), tasks)

    async def _write_back(
        self, channels: Mapping[SiteId, Channel], register_ids: Sequence[ObjectId], found: Sequence[SiteAnswers]
    ) -> None:
        """Give the newest committed value to the sites that answered without it.

        What at most f_r sites report may be a lie about the register: such a value is proposed like any other, which
        succeeds only if it was chosen.
        """
        operations: dict[SiteId, list[dict[str, Any]]] = {}
        doubtful: list[tuple[ObjectId, SiteAnswers]] = []
        for register_id, stored in zip(register_ids, found, strict=True):
            behind = stored.behind()
            if stored.best is not None and behind and len(stored.held) - len(behind) <= self._scheme.register_liars:
                doubtful.append((register_id, stored))
            elif stored.best is not None:
                for site in behind:
                    operations.setdefault(site, []).append(_commit_operation(register_id, stored.best))
        await self._finish_doubtful(channels, doubtful)
        if not operations:
            return
        asked = await self._ask(
            channels, operations, enough=len(operations), grace_s=0.0, timeout_s=_WRITE_BACK_TIMEOUT_S
        )
        answers = asked.answers
        for register_id, stored in zip(register_ids, found, strict=True):
            for site in stored.behind():
                sent = operations.get(site, [])
                index = next((i for i, op in enumerate(sent) if op["register"] == register_id), None)
                if index is not None and site in answers and answers[site][index].get("granted") is True:
                    stored.held[site] = stored.best

    async def _finish_doubtful(
        self, channels: Mapping[SiteId, Channel], doubtful: Sequence[tuple[ObjectId, SiteAnswers]]
    ) -> None:
        """Carry values that few sites know to their end; what turns out to be stale or unchosen changes nothing."""
        proposals = [
            Proposal(register_id, stored.best.value, fresh=False)
            for register_id, stored in doubtful
            if stored.best is not None
        ]
        for (_, stored), outcome in zip(doubtful, await self.propose(channels, proposals), strict=True):
            if outcome.error is None and stored.best is not None:
                finished = Stored(stored.best.ballot, stored.best.value, tuple(outcome.accepted_by))
                stored.best = finished
                stored.held.update(dict.fromkeys(outcome.held_by, finished))

    def _reading(self, found: SiteAnswers) -> Reading:
        """Return the newest value; proven if a read quorum answered and every later one must meet a holder."""
        holders = len(found.held) - len(found.behind())
        meets = holders >= self._scheme.n - self._scheme.read_quorum + 1
        proven = len(found.held) >= self._scheme.read_quorum and (found.best is None or meets)
        freshness = PROVEN if proven else UNPROVEN
        if found.best is None:
            return Reading(None, freshness)
        return Reading(found.best.value, freshness, found.best.certificate)

    async def propose(self, channels: Mapping[SiteId, Channel], proposals: Sequence[Proposal]) -> list[Outcome]:
        """Try to make each proposal the next value of its register.

        A proposal succeeds only if its ``value.parent`` is the version it replaces. Values of writers that crashed
        half way are completed first. The outcome of each proposal is reported; nothing is raised for single ones.
        """
        batches: list[list[Proposal]] = []
        left_bytes = 0
        for proposal in proposals:
            size_bytes = len(proposal.value.text)
            if size_bytes > left_bytes:
                batches.append([])
                # an answer to a prepare may carry two values of each register, so an eighth of a header leaves room
                left_bytes = envelope.HEADER_BYTES_MAX // 8
            batches[-1].append(proposal)
            left_bytes -= size_bytes
        works = [self._propose_batch(channels, batch) for batch in batches]
        return [outcome for found in await gather_few(self._runtime, works, at_once=_BATCHES) for outcome in found]

    async def _propose_batch(self, channels: Mapping[SiteId, Channel], proposals: Sequence[Proposal]) -> list[Outcome]:
        outcomes = [Outcome(proposal) for proposal in proposals]
        for attempt_number in range(_ATTEMPTS):
            pending = [
                _Attempt(outcome.proposal, (1, self._proposer), outcome.proposal.value, outcome)
                for outcome in outcomes
                if outcome.error is None and not outcome.committed(self._scheme)
            ]
            if not pending:
                return outcomes
            if attempt_number:
                jitter = self._entropy.random_bytes(1)[0] / 255
                await self._runtime.sleep(_BACKOFF_S * attempt_number * (0.5 + jitter))
            prepared = await self._prepare(channels, pending, attempt_number)
            await self._commit(channels, await self._accept(channels, prepared))
        for outcome in outcomes:
            if outcome.error is None and not outcome.committed(self._scheme):
                outcome.error = outcome.unreached.too_few(
                    f"{len(outcome.held_by)} sites took part in the commit, {self._scheme.write_quorum} are needed",
                    self._scheme,
                )
        return outcomes

    async def _prepare(
        self, channels: Mapping[SiteId, Channel], attempts: list[_Attempt], attempt_number: int
    ) -> list[_Attempt]:
        """Phase one. Fills in ballot and value; drops attempts that met a conflict."""
        skip = [attempt for attempt in attempts if attempt.proposal.fresh and attempt_number == 0]
        preparing = [attempt for attempt in attempts if attempt not in skip]
        if not preparing:
            return skip
        round_number = 2 + attempt_number
        asked = Asked({}, {})
        for _ in range(_ATTEMPTS):
            for attempt in preparing:
                attempt.ballot = (round_number, self._proposer)
            operations = [
                {"op": "prepare", "register": a.proposal.register_id, "ballot": list(a.ballot)} for a in preparing
            ]
            asked = await self._ask(
                channels,
                dict.fromkeys(self._members, operations),
                enough=self._scheme.write_quorum,
                grace_s=_WRITE_GRACE_S,
            )
            highest = self._highest_promise(asked.answers)
            if highest < round_number or all(self._granted(asked.answers, i) for i in range(len(preparing))):
                break
            round_number = highest + 1
        for index, attempt in enumerate(preparing):
            self._adopt(attempt, index, asked)
        return skip + [attempt for attempt in preparing if attempt.outcome.error is None]

    def _granted(self, answers: Mapping[SiteId, list[dict[str, Any]]], index: int) -> bool:
        return sum(results[index].get("granted") is True for results in answers.values()) >= self._scheme.write_quorum

    def _highest_promise(self, answers: Mapping[SiteId, list[dict[str, Any]]]) -> int:
        """Return the highest round that refused us; the f_r highest claims are passed over, they may be lies."""
        claims = []
        for results in answers.values():
            rounds = [round_of(result.get("promised")) for result in results if result.get("granted") is False]
            if rounds:
                claims.append(max(rounds))
        claims.sort(reverse=True)
        return claims[self._scheme.register_liars] if len(claims) > self._scheme.register_liars else 0

    def _adopt(self, attempt: _Attempt, index: int, asked: Asked) -> None:
        """Decide which value phase two must carry: one that may have been chosen already, else ours."""
        answers = {site: results[index] for site, results in asked.answers.items()}
        register_id, wanted = attempt.proposal.register_id, attempt.proposal.value
        accepted: dict[SiteId, Stored | None] = {}
        committed: Stored | None = None
        known: dict[str, RegisterValue] = {wanted.text: wanted}
        for site, answer in answers.items():
            if answer.get("granted") is not True:
                continue
            try:
                accepted[site] = self._answers.stored(register_id, answer, "accepted", known)
                committed = later(committed, self._answers.committed(register_id, answer, known))
            except (SignatureForged, PeerFault):
                accepted.pop(site, None)  # an unsound answer is no promise
        if len(accepted) < self._scheme.write_quorum:
            attempt.outcome.error = asked.too_few(
                f"{len(accepted)} of {self._scheme.n} sites take part, {self._scheme.write_quorum} are needed to write",
                self._scheme,
            )
            return
        unfinished = self._maybe_chosen(accepted, committed)
        current = unfinished.value if unfinished else committed.value if committed else None
        if current is not None and current.version == wanted.version:
            attempt.value = wanted  # our own value from an earlier round
        elif unfinished is not None:
            attempt.value = unfinished.value  # finish it before anything else
        elif (current.version if current else None) != wanted.parent:
            attempt.outcome.error = Conflict("the object was changed by somebody else meanwhile")

    def _maybe_chosen(self, accepted: Mapping[SiteId, Stored | None], committed: Stored | None) -> Stored | None:
        """Return the value of the highest accepted ballot if a quorum may have accepted it.

        A value that too few sites can have accepted, the silent ones included, was not chosen and never will be:
        a quorum has just promised to accept nothing older. It is left behind.
        """
        best: Stored | None = None
        for stored in accepted.values():
            best = newer(best, stored)
        if best is None or (committed is not None and best.value.counter <= committed.value.counter):
            return None
        supporters = sum(
            stored is not None and stored.value.version == best.value.version for stored in accepted.values()
        )
        silent = self._scheme.n - len(accepted)
        return best if supporters + silent >= self._scheme.write_quorum else None

    async def _accept(self, channels: Mapping[SiteId, Channel], attempts: list[_Attempt]) -> list[_Attempt]:
        """Phase two. Returns the attempts that a quorum accepted."""
        if not attempts:
            return []
        for attempt in attempts:
            attempt.proposal.offered = attempt.proposal.offered or attempt.value is attempt.proposal.value
        operations = [
            {
                "op": "accept",
                "register": attempt.proposal.register_id,
                "ballot": list(attempt.ballot),
                "value": attempt.value.text,
            }
            for attempt in attempts
        ]
        asked = await self._ask(
            channels,
            dict.fromkeys(self._members, operations),
            enough=self._scheme.write_quorum,
            grace_s=_WRITE_GRACE_S,
        )
        chosen = []
        for index, attempt in enumerate(attempts):
            attempt.outcome.unreached = asked
            accepted_by = [site for site, results in asked.answers.items() if results[index].get("granted") is True]
            durable = attempt.value.durable_sites(accepted_by)
            needed = attempt.value.scheme.durable_min if attempt.value.added else 0
            if len(accepted_by) >= self._scheme.write_quorum and len(durable) >= needed:
                attempt.outcome.accepted_by = accepted_by
                chosen.append(attempt)
        return chosen

    async def _commit(self, channels: Mapping[SiteId, Channel], attempts: list[_Attempt]) -> None:
        """Phase three: every site learns the certificate."""
        if not attempts:
            return
        asked = await self._ask(
            channels,
            {site: [_commit_to(site, attempt) for attempt in attempts] for site in self._members},
            enough=self._scheme.write_quorum,
            grace_s=_WRITE_GRACE_S,
        )
        for index, attempt in enumerate(attempts):
            attempt.outcome.unreached = asked
            held = [site for site, results in asked.answers.items() if results[index].get("granted") is True]
            if attempt.value.version == attempt.proposal.value.version:
                attempt.outcome.held_by = held

    async def _ask(
        self,
        channels: Mapping[SiteId, Channel],
        operations: Mapping[SiteId, list[dict[str, Any]]],
        *,
        enough: int,
        grace_s: float,
        timeout_s: float = TIMEOUT_S,
    ) -> Asked:
        """Send sites their operations.

        Once ``enough`` have answered the rest get ``grace_s`` more, so that one frozen site cannot stall everybody.
        """
        tasks = await collect(
            self._runtime,
            (channels[site].exchange(ops, timeout_s=timeout_s) for site, ops in operations.items()),
            enough=enough,
            grace_s=grace_s,
        )
        return asked_of(operations, tasks)


def _commit_to(site: SiteId, attempt: _Attempt) -> dict[str, Any]:
    """Tell a site that a value was chosen: the whole value unless the site has just accepted it."""
    stored = Stored(attempt.ballot, attempt.value, tuple(attempt.outcome.accepted_by))
    operation = _commit_operation(attempt.proposal.register_id, stored)
    if site in stored.certificate:
        del operation["value"]
        operation["version"] = stored.value.version
    return operation


def _commit_operation(register_id: ObjectId, stored: Stored) -> dict[str, Any]:
    return {
        "op": "commit",
        "register": register_id,
        "ballot": list(stored.ballot),
        "value": stored.value.text,
        "certificate": list(stored.certificate),
    }
