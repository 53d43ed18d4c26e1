"""The owner's half of the catalog: read registers, and change them with one linearizable step each.

A change goes through three phases over all sites of the placement: prepare (learn what may have been chosen), accept
(a quorum q pins the shares and accepts), commit (a quorum q holds the certificate). A put returns after the third.
The creator of a random register ID skips the first phase: nobody else can have used round 1. Many registers of one
batch travel together.

Reads ask every site and need ``read_quorum`` answers, which meet every certificate; fewer, but at least k, are served
as ``unproven``. Crash faults are covered here; signed answers against lying sites are not yet (design, section 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shosoin.base import Entropy, ObjectId, PeerFault, Rejected, ShosoinError, SiteId, Unavailable
from shosoin.base.ports import Runtime
from shosoin.vault.acceptor import Ballot
from shosoin.vault.channel import Channel
from shosoin.vault.concurrency import collect, failure
from shosoin.vault.scheme import Scheme
from shosoin.vault.values import RegisterValue, ValueForged

__all__ = ["Catalog", "Conflict", "Outcome", "Reading"]

PROVEN = "proven"
UNPROVEN = "unproven"
_ATTEMPTS = 6
_BACKOFF_S = 0.05
_READ_GRACE_S = 0.3
_WRITE_GRACE_S = 3.0


class Conflict(Rejected):
    """Somebody else changed the object first."""

    code = "vault.conflict"
    hint = "the other writer's version stands, whole; look at it and put again if yours should replace it"


class TooFewSites(Unavailable):
    """Fewer sites answer than the operation needs."""

    code = "vault.too_few_sites"
    hint = "start the missing sites and try again; nothing was changed"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a read found: the committed value (``None`` when nothing was ever committed) and how sure it is."""

    value: RegisterValue | None
    freshness: str
    answered: tuple[SiteId, ...]


@dataclass(slots=True)
class Proposal:
    """One register's wanted change."""

    register_id: ObjectId
    value: RegisterValue
    fresh: bool
    """Whether the register ID is random and new, so that phase one may be skipped."""


@dataclass(slots=True)
class Outcome:
    """What came of a proposal: the sites that hold the certificate, or the error."""

    proposal: Proposal
    accepted_by: list[SiteId] = field(default_factory=list)
    held_by: list[SiteId] = field(default_factory=list)
    error: ShosoinError | None = None
    refused: dict[SiteId, str] = field(default_factory=dict)


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
        self._public_key = public_key
        self._entropy = entropy
        self._runtime = runtime
        self._proposer = proposer

    async def read(self, channels: Mapping[SiteId, Channel], register_id: ObjectId) -> Reading:
        """Read one register."""
        return (await self.read_many(channels, [register_id]))[0]

    async def read_many(self, channels: Mapping[SiteId, Channel], register_ids: Sequence[ObjectId]) -> list[Reading]:
        """Read registers with one exchange per site.

        Raises:
            TooFewSites: fewer than k sites answered.
            ValueForged: a site holds a value that the owner did not sign and no site holds a better one.
        """
        operations = [{"op": "register", "register": register_id} for register_id in register_ids]
        answers = await self._ask(channels, operations, enough=self._scheme.read_quorum, grace_s=_READ_GRACE_S)
        if len(answers) < self._scheme.k:
            raise TooFewSites(f"{len(answers)} of {self._scheme.n} sites answer, at least {self._scheme.k} are needed")
        return [
            self._reading(register_id, {site: results[index] for site, results in answers.items()})
            for index, register_id in enumerate(register_ids)
        ]

    def _reading(self, register_id: ObjectId, answers: Mapping[SiteId, dict[str, Any]]) -> Reading:
        best: tuple[Ballot, RegisterValue] | None = None
        sound: list[SiteId] = []
        for site, answer in answers.items():
            if "error" in answer:
                continue
            try:
                found = self._committed(register_id, answer)
            except (ValueForged, PeerFault):
                continue
            sound.append(site)
            if found and (best is None or found[0] > best[0]):
                best = found
        if len(sound) < self._scheme.k:
            raise TooFewSites(
                f"{len(sound)} of {self._scheme.n} sites give a sound answer, {self._scheme.k} are needed"
            )
        freshness = PROVEN if len(sound) >= self._scheme.read_quorum else UNPROVEN
        return Reading(best[1] if best else None, freshness, tuple(sound))

    def _committed(self, register_id: ObjectId, answer: dict[str, Any]) -> tuple[Ballot, RegisterValue] | None:
        return self._stored(register_id, answer, "committed", "committed_ballot")

    def _stored(
        self, register_id: ObjectId, answer: dict[str, Any], name: str, ballot_name: str
    ) -> tuple[Ballot, RegisterValue] | None:
        text = answer.get(name)
        if text is None:
            return None
        ballot = _ballot(answer.get(ballot_name))
        value = RegisterValue.parse(str(text))
        value.verify(self._public_key)
        if value.register_id != register_id:
            raise ValueForged("a site answered with another register's value")
        return ballot, value

    async def propose(self, channels: Mapping[SiteId, Channel], proposals: Sequence[Proposal]) -> list[Outcome]:
        """Try to make each proposal the next value of its register.

        A proposal succeeds only if its ``value.parent`` is the version it replaces. Values of writers that crashed
        half way are completed first. The outcome of each proposal is reported; nothing is raised for single ones.
        """
        outcomes = [Outcome(proposal) for proposal in proposals]
        pending = [
            _Attempt(outcome.proposal, (1, self._proposer), outcome.proposal.value, outcome) for outcome in outcomes
        ]
        for attempt_number in range(_ATTEMPTS):
            prepared = await self._prepare(channels, pending, attempt_number)
            chosen = await self._accept(channels, prepared)
            await self._commit(channels, chosen)
            pending = [
                _Attempt(outcome.proposal, (2, self._proposer), outcome.proposal.value, outcome)
                for outcome in outcomes
                if outcome.error is None and len(outcome.held_by) < self._scheme.write_quorum
            ]
            if not pending:
                return outcomes
            jitter = self._entropy.random_bytes(1)[0] / 255
            await self._runtime.sleep(_BACKOFF_S * (attempt_number + 1) * (0.5 + jitter))
        for attempt in pending:
            attempt.outcome.error = TooFewSites(
                f"only {len(attempt.outcome.held_by)} sites took part in the commit, "
                f"{self._scheme.write_quorum} are needed"
            )
        return outcomes

    async def _prepare(
        self, channels: Mapping[SiteId, Channel], attempts: list[_Attempt], attempt_number: int
    ) -> list[_Attempt]:
        """Phase one. Fills in ballot and value; drops attempts that met a conflict."""
        skip = [attempt for attempt in attempts if attempt.proposal.fresh and attempt_number == 0]
        asked = [attempt for attempt in attempts if attempt not in skip]
        if not asked:
            return skip
        round_number = 2 + attempt_number
        for _ in range(_ATTEMPTS):
            for attempt in asked:
                attempt.ballot = (round_number, self._proposer)
            operations = [
                {"op": "prepare", "register": a.proposal.register_id, "ballot": list(a.ballot)} for a in asked
            ]
            answers = await self._ask(channels, operations, enough=self._scheme.write_quorum, grace_s=_WRITE_GRACE_S)
            highest = self._highest_promise(answers)
            if highest < round_number or all(self._granted(answers, index) for index in range(len(asked))):
                break
            round_number = highest + 1
        ready = []
        for index, attempt in enumerate(asked):
            self._adopt(attempt, {site: results[index] for site, results in answers.items()})
            if attempt.outcome.error is None:
                ready.append(attempt)
        return skip + ready

    def _granted(self, answers: Mapping[SiteId, list[dict[str, Any]]], index: int) -> bool:
        return sum(bool(results[index].get("granted")) for results in answers.values()) >= self._scheme.write_quorum

    @staticmethod
    def _highest_promise(answers: Mapping[SiteId, list[dict[str, Any]]]) -> int:
        """Return the highest round promised to anyone where we were refused."""
        refused = [
            result["promised"][0]
            for results in answers.values()
            for result in results
            if result.get("granted") is False and isinstance(result.get("promised"), list)
        ]
        return max((number for number in refused if type(number) is int), default=0)

    def _adopt(self, attempt: _Attempt, answers: Mapping[SiteId, dict[str, Any]]) -> None:
        """Decide which value phase two must carry: an unfinished one if there is any, else ours."""
        granted = {site: answer for site, answer in answers.items() if answer.get("granted") is True}
        if len(granted) < self._scheme.write_quorum:
            attempt.outcome.error = TooFewSites(
                f"{len(granted)} of {self._scheme.n} sites take part, {self._scheme.write_quorum} are needed to write"
            )
            return
        register_id = attempt.proposal.register_id
        accepted: tuple[Ballot, RegisterValue] | None = None
        committed: tuple[Ballot, RegisterValue] | None = None
        for answer in granted.values():
            accepted = _newer(accepted, self._stored(register_id, answer, "accepted", "accepted_ballot"))
            committed = _newer(committed, self._committed(register_id, answer))
        current = committed[1] if committed else None
        wanted = attempt.proposal.value
        if accepted and (committed is None or accepted[0] > committed[0]):
            if current is None or accepted[1].version != current.version:
                attempt.value = accepted[1]  # chosen perhaps, never committed: finish it before anything else
            current = accepted[1]
        if current is not None and current.version == wanted.version:
            attempt.value = wanted  # our own value from an earlier round
        elif attempt.value is wanted and (current.version if current else None) != wanted.parent:
            attempt.outcome.error = Conflict("the object was changed by somebody else meanwhile")

    async def _accept(self, channels: Mapping[SiteId, Channel], attempts: list[_Attempt]) -> list[_Attempt]:
        """Phase two. Returns the attempts that a quorum accepted."""
        if not attempts:
            return []
        operations = [
            {
                "op": "accept",
                "register": attempt.proposal.register_id,
                "ballot": list(attempt.ballot),
                "value": attempt.value.text,
            }
            for attempt in attempts
        ]
        answers = await self._ask(channels, operations, enough=self._scheme.write_quorum, grace_s=_WRITE_GRACE_S)
        chosen = []
        for index, attempt in enumerate(attempts):
            attempt.outcome.accepted_by = []
            for site, results in answers.items():
                if results[index].get("granted") is True:
                    attempt.outcome.accepted_by.append(site)
                elif "error" in results[index]:
                    attempt.outcome.refused[site] = str(results[index]["error"])
            if len(attempt.outcome.accepted_by) >= self._scheme.write_quorum:
                chosen.append(attempt)
        return chosen

    async def _commit(self, channels: Mapping[SiteId, Channel], attempts: list[_Attempt]) -> None:
        """Phase three: every site learns the certificate."""
        if not attempts:
            return
        operations = [
            {
                "op": "commit",
                "register": attempt.proposal.register_id,
                "ballot": list(attempt.ballot),
                "value": attempt.value.text,
                "certificate": attempt.outcome.accepted_by,
            }
            for attempt in attempts
        ]
        answers = await self._ask(channels, operations, enough=self._scheme.write_quorum, grace_s=_WRITE_GRACE_S)
        for index, attempt in enumerate(attempts):
            held = [site for site, results in answers.items() if results[index].get("granted") is True]
            if attempt.value.version == attempt.proposal.value.version:
                attempt.outcome.held_by = held

    async def _ask(
        self,
        channels: Mapping[SiteId, Channel],
        operations: Sequence[dict[str, Any]],
        *,
        enough: int,
        grace_s: float,
    ) -> dict[SiteId, list[dict[str, Any]]]:
        """Send each site the operations; return the answers of those that gave as many results.

        Once ``enough`` have answered the rest get ``grace_s`` more, so that one frozen site cannot stall everybody.
        """
        tasks = await collect(
            self._runtime,
            (channels[site].exchange(operations) for site in self._members),
            enough=enough,
            grace_s=grace_s,
        )
        answers = {}
        for site, task in zip(self._members, tasks, strict=True):
            error = failure(task)
            if error is None and len(task.result().results) == len(operations):
                answers[site] = task.result().results
            elif isinstance(error, Exception) and not isinstance(error, ShosoinError | TimeoutError):
                raise error  # a defect of ours, not a site's
        return answers


def _newer(
    best: tuple[Ballot, RegisterValue] | None, found: tuple[Ballot, RegisterValue] | None
) -> tuple[Ballot, RegisterValue] | None:
    return found if found and (best is None or found[0] > best[0]) else best


def _ballot(raw: Any) -> Ballot:
    if isinstance(raw, list) and len(raw) == 2 and type(raw[0]) is int and isinstance(raw[1], str):
        return raw[0], raw[1]
    raise PeerFault("a ballot that cannot be read", code="vault.bad_ballot")
