"""What is proposed to a register, what came of it, and what an owner's proposers remember of earlier changes."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TypeVar

from shosoin.base import ObjectId, Rejected, ShosoinError, SiteId
from shosoin.vault.acceptor import Certified
from shosoin.vault.ballots import Ballot, ballot_after
from shosoin.vault.catalog_answers import Asked, Promised
from shosoin.vault.values import RegisterValue

__all__ = ["Attempt", "Conflict", "Done", "Memory", "Outcome", "Proposal"]

_ROUNDS_REMEMBERED = 4096
_DONE_REMEMBERED = 16
"""The indexes, and objects that are written over and over; each may take 100 kB."""
T = TypeVar("T")


class Conflict(Rejected):
    """Somebody else changed the object first."""

    code = "vault.conflict"
    hint = "the other writer's version stands, whole; look at it and put again if yours should replace it"


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
    done: bool = False

    @property
    def durable_at(self) -> list[SiteId]:
        """Sites that hold and pin the share that the value adds."""
        return self.proposal.value.durable_sites(self.accepted_by)


@dataclass(frozen=True, slots=True)
class Done:
    """A change that we brought about: whoever follows it may go on right after its ballot."""

    certified: Certified
    held_by: tuple[SiteId, ...]

    def next_ballot(self, value: RegisterValue) -> Ballot | None:
        """Return the ballot under which a value may follow without promises, ``None`` if it may not."""
        before = self.certified.value
        same = before.former is None and value.former is None
        return ballot_after(self.certified.ballot) if same and value.follows(before) else None


class Memory:
    """What an owner's proposers know of registers, as far as it helps the next of them; bounded."""

    def __init__(self) -> None:
        self.settled: set[str] = set()
        """Digests of values that handed a register over to other members, and that quorums of both hold."""
        self._rounds: OrderedDict[ObjectId, int] = OrderedDict()
        self._done: OrderedDict[ObjectId, Done] = OrderedDict()

    def round_of(self, register_id: ObjectId) -> int:
        """Return the round of a register's newest certified value, as last seen: a lower ballot would be refused."""
        return self._rounds.get(register_id, 0)

    def seen(self, register_id: ObjectId, ballot: Ballot) -> None:
        """Note the ballot of a certified value."""
        _remember(self._rounds, register_id, ballot[0], _ROUNDS_REMEMBERED)

    def brought_about(self, register_id: ObjectId, done: Done) -> None:
        """Note a change of ours that a quorum holds."""
        self.seen(register_id, done.certified.ballot)
        _remember(self._done, register_id, done, _DONE_REMEMBERED)

    def take(self, register_id: ObjectId) -> Done | None:
        """Return our last change, once: two values must not come under one ballot."""
        return self._done.pop(register_id, None)


def _remember(known: OrderedDict[ObjectId, T], register_id: ObjectId, what: T, most: int) -> None:
    known[register_id] = what
    known.move_to_end(register_id)
    if len(known) > most:
        known.popitem(last=False)


@dataclass(slots=True)
class Attempt:
    """One try to have a value certified under a ballot."""

    outcome: Outcome
    ballot: Ballot
    promised: dict[SiteId, Promised] = field(default_factory=dict)
    certified: Certified | None = None
    after: Done | None = None
    """The value under whose ballot we go on, without promises."""

    @property
    def register_id(self) -> ObjectId:
        """The register."""
        return self.outcome.proposal.register_id

    @property
    def value(self) -> RegisterValue:
        """What is wanted."""
        return self.outcome.proposal.value

    @property
    def top(self) -> Certified | None:
        """The newest certified value among the promises."""
        tops = [one.top for one in self.promised.values() if one.top is not None]
        return max(tops, key=lambda top: top.ballot, default=None)
