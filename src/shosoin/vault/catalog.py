"""The owner's half of the catalog: read registers, and change them with one linearizable step each (see ``proposing``).

Up to f_r sites may lie. Whatever one site shows counts only with its certificate, so lies are omissions: a reader hears
of the last acknowledged change from a truthful site among ``read_quorum`` answers. Before a read returns as ``proven``
it makes sure that a quorum holds what it found, so that no later read goes back; a caller that knows of the version
from elsewhere (an index names only what was acknowledged) *vouches* for it and saves that. Fewer answers, but at least
k, are served as ``unproven``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shosoin.base import Entropy, ObjectId, SiteId, VersionId
from shosoin.base.ports import Event, EventSink, Runtime
from shosoin.vault import envelope
from shosoin.vault.attestations import SignatureSet
from shosoin.vault.catalog_answers import AnswerReader, Asked, SignersTooFew, SignersUnknown, SiteAnswers, ask, asked_of
from shosoin.vault.channel import Channel
from shosoin.vault.concurrency import collect, succeeded
from shosoin.vault.electorate import Electorate, decided_by
from shosoin.vault.proposal_operations import commit_operation, with_sets
from shosoin.vault.proposals import Attempt, Conflict, Memory, Outcome, Proposal
from shosoin.vault.proposing import Proposer
from shosoin.vault.scheme import Scheme
from shosoin.vault.values import RegisterValue

__all__ = ["Catalog", "Conflict", "Memory", "Outcome", "Proposal", "Reading"]

PROVEN = "proven"
UNPROVEN = "unproven"
_READ_TOGETHER = 64
_ANSWER_BYTES = envelope.HEADER_BYTES_MAX // 4 * 3
_VALUE_BYTES = 16 << 10
_SIGNED_BYTES = 4600
"""A site's signature in base64, with its name."""
_READ_ATTEMPTS = 3
_WRITE_BACK_TIMEOUT_S = 3.0
_READ_GRACE_S = 0.3
_Operations = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a read found: the certified value (``None`` when there is none) and how sure it is."""

    value: RegisterValue | None
    freshness: str
    certificate: tuple[SiteId, ...] = ()
    """Sites that accepted the value, and so hold and pin what it counts on."""
    newest: bool = True
    """Whether enough sites answered to rule out a newer value, if not that this one will stand."""


class Catalog:
    """Registers over all sites of one owner; ``scheme`` gives the quorums of new ones (its n is all members)."""

    def __init__(
        self,
        scheme: Scheme,
        members: Sequence[SiteId],
        electorate: Electorate,
        answers: AnswerReader,
        *,
        entropy: Entropy,
        runtime: Runtime,
        sink: EventSink,
        proposer: str,
        memory: Memory,
    ) -> None:
        self._scheme = scheme
        self._members = tuple(members)
        self._electorate = electorate
        self._answers = answers
        self._runtime = runtime
        self._sink = sink
        self._memory = memory
        self._proposer = Proposer(
            scheme, members, electorate, answers, entropy=entropy, runtime=runtime, name=proposer, memory=memory
        )

    async def propose(self, channels: Mapping[SiteId, Channel], proposals: Sequence[Proposal]) -> list[Outcome]:
        """Try to make each proposal the next value of its register (see ``Proposer.propose``)."""
        return await self._proposer.propose(channels, proposals)

    async def read(
        self, channels: Mapping[SiteId, Channel], register_id: ObjectId, vouched: VersionId | None = None
    ) -> Reading:
        """Read one register."""
        known: dict[ObjectId, str | None] = {register_id: vouched} if vouched is not None else {}
        return (await self.read_many(channels, [register_id], known))[0]

    async def read_many(
        self,
        channels: Mapping[SiteId, Channel],
        register_ids: Sequence[ObjectId],
        vouched: Mapping[ObjectId, str | None] | None = None,
    ) -> list[Reading]:
        """Read registers with one exchange per site.

        ``vouched`` are versions known to have been acknowledged, or digests of whole values that were; ``None`` where
        there was none when it was last read.

        Raises:
            TooFewSites: fewer than k sites gave a sound answer.
        """
        readings: list[Reading] = []
        together = self._together()
        for at in range(0, len(register_ids), together):
            readings += await self._read_batch(channels, register_ids[at : at + together], vouched or {})
        return readings

    def _together(self) -> int:
        """Return how many registers are read at once: each may need signatures of its own from all members."""
        each_bytes = _VALUE_BYTES + len(self._members) * _SIGNED_BYTES
        return min(_READ_TOGETHER, _ANSWER_BYTES // each_bytes)

    async def _read_batch(
        self,
        channels: Mapping[SiteId, Channel],
        register_ids: Sequence[ObjectId],
        vouched: Mapping[ObjectId, str | None],
    ) -> list[Reading]:
        operations = [{"op": "register", "register": register_id} for register_id in register_ids]
        enough = max(self._scheme.read_quorum, self._scheme.k)
        first = enough if all(one in vouched for one in register_ids) else max(enough, self._scheme.write_quorum)
        asked = await self._ask_some(channels, operations, first)
        found = self._answers.held(register_ids, asked)
        rest = [site for site in self._members if site not in asked.answers and site not in asked.errors]
        if rest and not all(map(self._is_settled, found, [vouched.get(one) for one in register_ids])):
            more = await ask(
                self._runtime,
                channels,
                dict.fromkeys(rest, operations),
                enough=enough - len(asked.answers),
                grace_s=_READ_GRACE_S,
            )
            asked = asked | more
            found = self._answers.held(register_ids, asked)
        if any(stored.may_hide(self._scheme.register_liars) for stored in found):
            raise SignersTooFew("fewer sites than may lie now decided, when there were fewer, about what sites hold")
        sound = min(len(stored.held) for stored in found)
        if sound < self._scheme.k:
            if strangers := sorted(self._answers.strangers):
                raise SignersUnknown(
                    f"{', '.join(strangers)} signed what other sites hold, and no key to check that is configured"
                )
            raise asked.too_few(
                f"{sound} of {self._scheme.n} sites give a sound answer, at least {self._scheme.k} are needed",
                self._scheme,
            )
        await self._report_forgetful(channels, register_ids, found)
        await self._settle(channels, register_ids, found, vouched)
        return [
            self._reading(stored, vouched.get(register_id))
            for register_id, stored in zip(register_ids, found, strict=True)
        ]

    async def _ask_some(self, channels: Mapping[SiteId, Channel], operations: list[_Operations], count: int) -> Asked:
        """Ask ``count`` sites; all others too when one of them fails or is slow."""
        asked, others = self._members[:count], self._members[count:]
        running = [self._runtime.start(channels[site].exchange(operations)) for site in asked]
        try:
            await self._runtime.wait(running, timeout_s=_READ_GRACE_S, first=False)
            more = () if all(map(succeeded, running)) else others
            tasks = await collect(
                self._runtime,
                (channels[site].exchange(operations) for site in more),
                enough=count,
                grace_s=_READ_GRACE_S,
                running=running,
            )
        finally:
            for task in running:
                task.cancel()
        return asked_of(dict.fromkeys((*asked, *more), operations), tasks)

    def _is_settled(self, found: SiteAnswers, vouched: str | None) -> bool:
        """Whether no acknowledged change can be missing, and no later reader can miss what was found."""
        best = found.best
        if best is None:
            return self._electorate.can_read(found.held) and self._electorate.rules_out(self._members, found.held)
        if not best.value.electorate.can_read(found.held):
            return False
        if vouched in {best.value.version, best.value.digest} or best.value.digest in self._memory.settled:
            return True
        return decided_by(best.value.electorates, found.holders())

    def _reading(self, found: SiteAnswers, vouched: str | None) -> Reading:
        freshness = PROVEN if self._is_settled(found, vouched) else UNPROVEN
        best = found.best
        if best is None:
            return Reading(None, freshness, newest=freshness == PROVEN)
        self._memory.seen(best.value.register_id, best.ballot)
        return Reading(best.value, freshness, best.signers, newest=best.value.electorate.can_read(found.held))

    async def _report_forgetful(
        self, channels: Mapping[SiteId, Channel], register_ids: Sequence[ObjectId], found: Sequence[SiteAnswers]
    ) -> None:
        """Raise an alarm for each site that denies what it signed: it was rolled back, or it lies.

        It may have answered before it signed, and others after a writer came through; so it is asked again.
        """
        doubted: dict[SiteId, list[tuple[ObjectId, SiteAnswers]]] = {}
        for register_id, stored in zip(register_ids, found, strict=True):
            for site in stored.forgetful():
                doubted.setdefault(site, []).append((register_id, stored))
        if not doubted:
            return
        operations = {site: [{"op": "register", "register": one} for one, _ in some] for site, some in doubted.items()}
        asked = await ask(
            self._runtime,
            channels,
            operations,
            enough=len(operations),
            grace_s=0.0,
            timeout_s=_WRITE_BACK_TIMEOUT_S,
        )
        for site in asked.answers:
            told = self._answers.held([register_id for register_id, _ in doubted[site]], asked.only(site))
            if any(stored.denied_again(site, now) for (_, stored), now in zip(doubted[site], told, strict=True)):
                self._sink.emit(Event("vault.register_denied", "alarm", {"site": str(site), "kind": "register_denied"}))

    async def _settle(
        self,
        channels: Mapping[SiteId, Channel],
        register_ids: Sequence[ObjectId],
        found: Sequence[SiteAnswers],
        vouched: Mapping[ObjectId, str | None],
    ) -> None:
        """Give the newest certified values to sites without them, until a quorum holds each.

        Where a site has promised something newer meanwhile, the value is proposed again: that succeeds only if nothing
        else came in between. If something did, that is what is read.
        """
        await self._write_back(channels, register_ids, found)
        for _ in range(_READ_ATTEMPTS):
            doubtful = [
                (register_id, stored)
                for register_id, stored in zip(register_ids, found, strict=True)
                if stored.best is not None
                and not self._is_settled(stored, vouched.get(register_id))
                and decided_by(stored.best.value.electorates, stored.held)
            ]
            if not doubtful:
                return
            for (register_id, stored), outcome in zip(
                doubtful, await self._propose_again(channels, doubtful), strict=True
            ):
                if outcome is not None:
                    stored.best = outcome.certified
                    stored.held |= dict.fromkeys(outcome.outcome.held_by, outcome.certified)
                else:
                    await self._read_anew(channels, register_id, stored)

    async def tell_all(self, channels: Mapping[SiteId, Channel], register_ids: Sequence[ObjectId]) -> set[SiteId]:
        """Give the newest certified values to every site that answers without them, members or not.

        Returns the sites that do not hold one of them even then, or did not answer.
        """
        operations = [{"op": "register", "register": register_id} for register_id in register_ids]
        asked = await ask(
            self._runtime,
            channels,
            dict.fromkeys(self._members, operations),
            enough=len(self._members),
            grace_s=_READ_GRACE_S,
            timeout_s=_WRITE_BACK_TIMEOUT_S,
        )
        found = self._answers.held(register_ids, asked)
        await self._write_back(channels, register_ids, found)
        known = [set(stored.holders()) for stored in found if stored.best is not None]
        return {site for site in self._members if any(site not in holders for holders in known)}

    async def _write_back(
        self, channels: Mapping[SiteId, Channel], register_ids: Sequence[ObjectId], found: Sequence[SiteAnswers]
    ) -> None:
        operations: dict[SiteId, list[tuple[SiteAnswers, _Operations]]] = {}
        sets: dict[str, SignatureSet] = {}
        for register_id, stored in zip(register_ids, found, strict=True):
            for site in stored.behind():
                if stored.best is not None:
                    sets[stored.best.signatures.name] = stored.best.signatures
                    operations.setdefault(site, []).append((stored, commit_operation(register_id, stored.best)))
        if not operations:
            return
        asked = await ask(
            self._runtime,
            channels,
            {site: with_sets([op for _, op in told], sets) for site, told in operations.items()},
            enough=len(operations),
            grace_s=0.0,
            timeout_s=_WRITE_BACK_TIMEOUT_S,
        )
        for site, results in asked.answers.items():
            for (stored, _), result in zip(operations[site], results, strict=True):
                if result.get("granted") is True:
                    stored.held[site] = stored.best

    async def _propose_again(
        self, channels: Mapping[SiteId, Channel], doubtful: Sequence[tuple[ObjectId, SiteAnswers]]
    ) -> list[Attempt | None]:
        """Carry values that few sites know to their end; ``None`` where something else came in between."""
        proposals = [
            Proposal(register_id, stored.best.value, fresh=False)
            for register_id, stored in doubtful
            if stored.best is not None
        ]
        attempts = [await self._last_attempts(channels, [proposal]) for proposal in proposals]
        return [attempt for found in attempts for attempt in found]

    async def _last_attempts(
        self, channels: Mapping[SiteId, Channel], proposals: Sequence[Proposal]
    ) -> list[Attempt | None]:
        last: dict[ObjectId, Attempt] = {}
        outcomes = await self._proposer.propose_batch(channels, proposals, last)
        return [
            last.get(outcome.proposal.register_id) if outcome.done and outcome.error is None else None
            for outcome in outcomes
        ]

    async def _read_anew(self, channels: Mapping[SiteId, Channel], register_id: ObjectId, stored: SiteAnswers) -> None:
        """Ask all sites again what they hold."""
        operations = [{"op": "register", "register": register_id}]
        asked = await ask(
            self._runtime,
            channels,
            dict.fromkeys(self._members, operations),
            enough=self._scheme.write_quorum,
            grace_s=_READ_GRACE_S,
        )
        (found,) = self._answers.held([register_id], asked)
        if found.best is not None and (stored.best is None or found.best.ballot >= stored.best.ballot):
            stored.held, stored.best, stored.accepted = found.held, found.best, found.accepted
            await self._write_back(channels, [register_id], [stored])
