"""Changing registers: prepare, accept, commit, over all sites and for many registers together.

Prepare learns the newest certified value and collects the promises that justify what follows it; accept has a quorum
pin the shares and sign, which makes the certificate; commit has a quorum hold the certificate, and then the change is
done. The creator of a random register ID skips the first phase: nobody else can have used round 1. So does whoever
brought the newest value about, for the ballot right after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shosoin.base import Entropy, ObjectId, SiteId
from shosoin.base.ports import Runtime
from shosoin.vault import envelope
from shosoin.vault.acceptor import Certified
from shosoin.vault.attestations import Certificate, SignatureSet
from shosoin.vault.ballots import FIRST_ROUND, round_of
from shosoin.vault.catalog_answers import AnswerReader, Asked, ask
from shosoin.vault.channel import Channel
from shosoin.vault.concurrency import gather_few
from shosoin.vault.electorate import Electorate, decided_by
from shosoin.vault.proposal_operations import Operation, accept_operations, commit_operations, with_sets
from shosoin.vault.proposal_rounds import STEP_MAX, higher_round, ladder, lagging_sites
from shosoin.vault.proposals import Attempt, Conflict, Done, Memory, Outcome, Proposal
from shosoin.vault.scheme import Scheme
from shosoin.vault.values import RegisterValue

__all__ = ["Proposer"]

_ATTEMPTS = 6
_BACKOFF_S = 0.05
_PREPARED_TOGETHER = 24
"""Each of them may need signatures of its own, and a request carries 64 sets at most."""
_BATCHES = 2
"""Exchanges that run side by side, so that owner and sites work at the same time."""
_WRITE_GRACE_S = 3.0


class Proposer:
    """Changes registers of one owner; ``scheme`` gives the quorums of new ones (its n is all members)."""

    def __init__(
        self,
        scheme: Scheme,
        members: Sequence[SiteId],
        electorate: Electorate,
        answers: AnswerReader,
        *,
        entropy: Entropy,
        runtime: Runtime,
        name: str,
        memory: Memory,
    ) -> None:
        self._scheme = scheme
        self._members = tuple(members)
        self._electorate = electorate
        self._answers = answers
        self._entropy = entropy
        self._runtime = runtime
        self._name = name
        self._memory = memory

    async def propose(self, channels: Mapping[SiteId, Channel], proposals: Sequence[Proposal]) -> list[Outcome]:
        """Try to make each proposal the next value of its register.

        A proposal succeeds only if its value follows the current one (``RegisterValue.follows``). The outcome of each
        proposal is reported; nothing is raised for single ones.
        """
        batches: list[list[Proposal]] = []
        left_bytes = 0
        for proposal in proposals:
            size_bytes = len(proposal.value.text)
            full = not batches or (not proposal.fresh and len(batches[-1]) >= _PREPARED_TOGETHER)
            if full or size_bytes > left_bytes:
                batches.append([])
                # an answer to a prepare carries a value of each register too, and signatures
                left_bytes = envelope.HEADER_BYTES_MAX // 8
            batches[-1].append(proposal)
            left_bytes -= size_bytes
        works = [self.propose_batch(channels, batch, {}) for batch in batches]
        return [outcome for found in await gather_few(self._runtime, works, at_once=_BATCHES) for outcome in found]

    async def propose_batch(
        self, channels: Mapping[SiteId, Channel], proposals: Sequence[Proposal], last: dict[ObjectId, Attempt]
    ) -> list[Outcome]:
        """Propose values; ``last`` remembers the attempt of each that came furthest."""
        outcomes = [Outcome(proposal) for proposal in proposals]
        for number in range(_ATTEMPTS):
            pending = [
                Attempt(outcome, (FIRST_ROUND, self._name))
                for outcome in outcomes
                if outcome.error is None and not outcome.done
            ]
            if not pending:
                return outcomes
            if number:
                jitter = self._entropy.random_bytes(1)[0] / 255
                await self._runtime.sleep(_BACKOFF_S * number * (0.5 + jitter))
            prepared = await self._prepare(channels, pending, number)
            certified = await self._accept(channels, prepared)
            await self._commit(channels, certified)
            last |= {attempt.register_id: attempt for attempt in certified}
        for outcome in outcomes:
            if outcome.error is None and not outcome.done:
                outcome.error = outcome.unreached.too_few(
                    f"{len(outcome.held_by)} sites took part in the commit, {self._scheme.write_quorum} are needed",
                    self._scheme,
                )
        return outcomes

    async def _prepare(self, channels: Mapping[SiteId, Channel], attempts: list[Attempt], number: int) -> list[Attempt]:
        """Phase one: ballots and promises; drops what met a conflict, or turns out to be done."""
        skip = [attempt for attempt in attempts if number == 0 and self._needs_no_promises(attempt)]
        preparing = [attempt for attempt in attempts if attempt not in skip]
        if not preparing:
            return skip
        round_number = self._first_round(preparing, number)
        asked, led_up = Asked({}, {}), False
        for _ in range(_ATTEMPTS):
            for attempt in preparing:
                attempt.ballot = (round_number, self._name)
            operations = [{"op": "prepare", "register": a.register_id, "ballot": list(a.ballot)} for a in preparing]
            asked = await ask(
                self._runtime,
                channels,
                dict.fromkeys(self._members, operations),
                enough=self._scheme.write_quorum,
                grace_s=_WRITE_GRACE_S,
            )
            for index, attempt in enumerate(preparing):
                attempt.promised = self._answers.promises(attempt.register_id, attempt.ballot, index, asked)
            if all(decided_by(attempt.value.electorates, list(attempt.promised)) for attempt in preparing):
                break
            lagging = lagging_sites(asked.answers)
            led_up = bool(lagging) and not led_up
            higher = higher_round(self._scheme, asked.answers, round_number, lagging=led_up)
            if higher is None:
                break
            if lagging:
                await self._lift(channels, preparing, lagging, higher)
            round_number = higher
        for attempt in preparing:
            attempt.outcome.unreached = asked
            self._judge(attempt, asked)
        ready = [each for each in preparing if each.outcome.error is None and not self._needs_top_settled(each)]
        for attempt in preparing:
            overtaken = isinstance(attempt.outcome.error, Conflict) and not _is_held(attempt)
            if overtaken or (attempt.outcome.error is None and attempt not in ready):
                await self._settle_top(channels, attempt)
        return skip + ready

    def _needs_no_promises(self, attempt: Attempt) -> bool:
        """Whether an attempt may skip phase one: it creates its register, or goes on right after a change of ours."""
        if attempt.outcome.proposal.fresh:
            return True
        done = self._memory.take(attempt.register_id)
        ballot = done.next_ballot(attempt.value) if done is not None else None
        if ballot is not None:
            attempt.after, attempt.ballot = done, ballot
        return attempt.after is not None

    def _first_round(self, attempts: Sequence[Attempt], number: int) -> int:
        """Return a round for an attempt, beyond what is certified and that for which a site refused the last one.

        A liar may promise and not accept; then an honest site that is ahead has to take part.
        """
        told = [results for one in attempts for results in one.outcome.unreached.answers.values()]
        ahead = [round_of(each.get("promised")) for results in told for each in results if each.get("granted") is False]
        lowest = max(2, *(self._memory.round_of(one.register_id) + 1 for one in attempts)) + number
        return max(lowest, min(max(ahead, default=0) + 1, lowest + STEP_MAX))

    async def _lift(
        self, channels: Mapping[SiteId, Channel], attempts: Sequence[Attempt], sites: Sequence[SiteId], to_round: int
    ) -> None:
        """Move sites that do not jump as far as others already are: step by step, in one request.

        A proposer who reached some sites alone may have driven those up; the rest would never follow otherwise.
        """
        reads = [{"op": "register", "register": attempt.register_id} for attempt in attempts]
        asked = await self._ask_briefly(channels, dict.fromkeys(sites, reads))
        ladders = {
            site: [
                op for attempt, held in zip(attempts, results, strict=True) for op in ladder(attempt, held, to_round)
            ]
            for site, results in asked.answers.items()
        }
        await self._ask_briefly(channels, {site: ops for site, ops in ladders.items() if ops})

    async def _ask_briefly(
        self, channels: Mapping[SiteId, Channel], operations: Mapping[SiteId, list[Operation]]
    ) -> Asked:
        return await ask(
            self._runtime,
            channels,
            dict(operations),
            enough=len(operations),
            grace_s=0.0,
            timeout_s=_WRITE_GRACE_S,
        )

    def _judge(self, attempt: Attempt, asked: Asked) -> None:
        """Decide whether the value may follow what the promises tell."""
        wanted, top, outcome = attempt.value, attempt.top, attempt.outcome
        deciding = (*wanted.electorates, top.value.electorate if top is not None else self._electorate)
        unknown = top is None and not self._electorate.rules_out(self._members, attempt.promised)
        if unknown or not decided_by(deciding, attempt.promised):
            outcome.error = asked.too_few(
                f"{len(attempt.promised)} of {self._scheme.n} sites take part, "
                f"{self._scheme.write_quorum} are needed to write",
                self._scheme,
            )
        elif top is None:
            if wanted.parent is not None or wanted.revision:
                outcome.error = Conflict("the object was changed by somebody else meanwhile")
        elif wanted.text != top.value.text and not _was_replaced(wanted, top) and not wanted.follows(top.value):
            outcome.error = Conflict("the object was changed by somebody else meanwhile")

    def _needs_top_settled(self, attempt: Attempt) -> bool:
        """Whether a quorum must hold the newest certified value before anything is built, or said, on it.

        That is so if it comes after ours, for then ours is done if it is; and if it hands the register over to other
        members, for the new ones may decide alone only once the old ones know.
        """
        top, wanted = attempt.top, attempt.value
        if top is None or wanted.text == top.value.text:
            return False
        if _was_replaced(wanted, top):
            return True
        handed_over = _is_held(attempt) or top.value.digest in self._memory.settled
        return top.value.former is not None and not handed_over

    async def _settle_top(self, channels: Mapping[SiteId, Channel], attempt: Attempt) -> None:
        """Have a quorum hold the newest certified value; the next attempt sees what came of it."""
        top, outcome = attempt.top, attempt.outcome
        if top is None:
            return
        (settled,) = await self.propose_batch(channels, [Proposal(attempt.register_id, top.value, fresh=False)], {})
        outcome.unreached = settled.unreached
        if settled.done and _was_replaced(attempt.value, top):
            outcome.done = True  # it came to be, and was replaced before we heard of it
            outcome.held_by = settled.held_by

    async def _accept(self, channels: Mapping[SiteId, Channel], attempts: list[Attempt]) -> list[Attempt]:
        """Phase two. Returns the attempts whose values are certified now."""
        if not attempts:
            return []
        before = [attempt.outcome.proposal.offered for attempt in attempts]
        for attempt in attempts:
            attempt.outcome.proposal.offered = True
        operations: dict[SiteId, list[Operation]] = {site: [] for site in self._members}
        sets: dict[SiteId, dict[str, SignatureSet]] = {site: {} for site in self._members}
        for attempt in attempts:
            for site, operation in accept_operations(self._members, attempt, sets).items():
                operations[site].append(operation)
        asked = await ask(
            self._runtime,
            channels,
            {site: with_sets(ops, sets[site]) for site, ops in operations.items()},
            enough=self._scheme.write_quorum,
            grace_s=_WRITE_GRACE_S,
        )
        for index, attempt in enumerate(attempts):
            if len(asked.answers) == len(self._members) and not any(map(_is_granted, asked.results(index))):
                attempt.outcome.proposal.offered = before[index]  # nobody took it, so it may be withdrawn
        return [attempt for index, attempt in enumerate(attempts) if self._certify(attempt, index, asked)]

    def _certify(self, attempt: Attempt, index: int, asked: Asked) -> bool:
        """Make the certificate out of the acceptances, if they are enough and their sites hold enough shares."""
        outcome, value = attempt.outcome, attempt.value
        outcome.unreached = asked
        accepted = self._answers.acceptances(value, attempt.ballot, index, asked)
        needed = value.scheme.durable_min if value.added else 0
        if not decided_by(value.electorates, accepted) or len(value.durable_sites(accepted)) < needed:
            return False
        signatures = SignatureSet.of({site: one.signature for site, one in accepted.items()})
        certificate = Certificate.of(signatures.name, {site: one.path for site, one in accepted.items()})
        attempt.certified = Certified(attempt.ballot, value, certificate, signatures, tuple(accepted))
        outcome.accepted_by = list(accepted)
        return True

    async def _commit(self, channels: Mapping[SiteId, Channel], attempts: list[Attempt]) -> None:
        """Phase three: every site learns the certificate; done when a quorum holds it."""
        if not attempts:
            return
        certified = [one.certified for one in attempts if one.certified is not None]
        sets = {one.signatures.name: one.signatures for one in certified}
        told = [commit_operations(self._members, one) for one in certified]
        asked = await ask(
            self._runtime,
            channels,
            {site: with_sets([each[site] for each in told], sets) for site in self._members},
            enough=self._scheme.write_quorum,
            grace_s=_WRITE_GRACE_S,
        )
        for index, attempt in enumerate(attempts):
            outcome = attempt.outcome
            outcome.unreached = asked
            outcome.held_by = [site for site, results in asked.answers.items() if results[index].get("granted") is True]
            outcome.done = decided_by(attempt.value.electorates, outcome.held_by)
            if outcome.done and attempt.certified is not None:
                self._memory.brought_about(attempt.register_id, Done(attempt.certified, tuple(outcome.held_by)))
            if outcome.done and attempt.value.former is not None:
                self._memory.settled.add(attempt.value.digest)


def _is_granted(result: Mapping[str, Any]) -> bool:
    return result.get("granted") is True


def _is_held(attempt: Attempt) -> bool:
    """Whether a quorum holds the newest certified value, as the promises tell.

    If not, a reader may not see what stands in the way of a writer; whoever meets it has to carry it to its end.
    """
    top = attempt.top
    if top is None:
        return True
    holders = [site for site, one in attempt.promised.items() if one.top is not None and one.top.ballot == top.ballot]
    return decided_by(top.value.electorates, holders)


def _was_replaced(wanted: RegisterValue, top: Certified) -> bool:
    """Whether the wanted value was the current one before the newest.

    Ancestors name versions: a change of the site part alone may have come before or may have been passed over.
    """
    newest = top.value
    changed = newest.version == wanted.version and newest.revision > 0
    return wanted.revision == 0 and (changed or wanted.version in newest.ancestors)
