"""A model of the register around the real acceptor: values may follow right after a certified ballot, unpromised.

Honest sites run ``prepare``, ``accept`` and ``commit`` on stores in memory; messages are lost and come in any order.
Liars of up to f_r sites promise with any certified value there is (or none), accept everything and claim to hold
everything; one more lie is a snapshot that comes back. Proposers are worse than real ones: they go on after *any*
certified value, held by a quorum or not, several at once and again and again; they prepare the very ballots under which
others go on; they change site parts, remove objects and replace a site. What must hold: one value per ballot is
certified, of two acknowledged values one came after the other, no proven read goes back, and nothing blocks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, TypeVar, cast

import pytest

from shosoin.base import ObjectId, OwnerId, ShosoinError, SiteId, VersionId
from shosoin.testing.memory_store import MemorySiteStore
from shosoin.vault import acceptor
from shosoin.vault.acceptor import Certified, Justification
from shosoin.vault.attestations import Certificate, Promise, SignatureSet
from shosoin.vault.ballots import FIRST_ROUND, NO_BALLOT, Ballot, ballot_after
from shosoin.vault.electorate import Electorate, decided_by
from shosoin.vault.ports import SiteTransaction
from shosoin.vault.scheme import Scheme
from shosoin.vault.signing import OwnerSigner
from shosoin.vault.values import RegisterValue, ValueDraft, read_value, sign_values

Steps = Generator[None, None, None]
T = TypeVar("T")
OWNER = OwnerId("owner-1")
REGISTER = ObjectId("0" * 31 + "1")
_LAST_ATTEMPTS = 8
_NAME_MAX = 64


class _NoSigner:
    """Acceptors leave signatures to those who read requests."""

    public_key = b""

    def proofs(self, messages: Sequence[bytes], context: bytes) -> list[bytes]:
        return [b"" for _ in messages]


@lru_cache(maxsize=1)
def _nothing_signed() -> tuple[Certificate, SignatureSet]:
    return Certificate("", ()), SignatureSet("{}", "", {})


@dataclass
class Model:
    seed: int
    scheme: Scheme
    replaced: int = 0
    after: Callable[[Ballot], Ballot | None] = ballot_after
    chance: random.Random = field(init=False)
    parents: dict[str, str | None] = field(default_factory=dict)
    acknowledged: list[RegisterValue] = field(default_factory=list)
    proven: list[RegisterValue] = field(default_factory=list)
    certified: list[Certified] = field(default_factory=list)
    chained: int = 0
    versions: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        n, scheme = self.scheme.n, self.scheme
        self.everyone = [SiteId(f"s{number}") for number in range(n + self.replaced)]
        old, new = self.everyone[:n], [*self.everyone[: n - self.replaced], *self.everyone[n:]]
        self.configurations = [
            Electorate(tuple(members), scheme.write_quorum, scheme.register_liars)
            for members in ([old, new] if self.replaced else [old])
        ]
        both = self.everyone[: n - self.replaced]
        self.liars = set(self.chance.sample(both, min(scheme.register_liars, len(both))))
        self.stores = {site: MemorySiteStore() for site in self.everyone}
        self.loss = self.chance.choice([0.0, 0.1, 0.3])
        self.name_chars = self.chance.choice([16, 62])

    # --------------------------------------------------------------------------------------------------------- pieces

    def shuffled(self) -> list[SiteId]:
        return self.chance.sample(self.everyone, len(self.everyone))

    def lost(self) -> bool:
        return self.chance.random() < self.loss

    def at(self, site: SiteId, step: Callable[[SiteTransaction], T]) -> T | None:
        """Run a step of the real acceptor; ``None`` if it refuses with an error."""
        running = self.stores[site].transact(step)
        try:
            running.send(None)
        except StopIteration as done:
            return cast("T", done.value)
        except ShosoinError:
            return None
        raise AssertionError("a store in memory waits for nothing")

    def held(self, site: SiteId) -> Certified | None:
        """What a site says that it holds."""
        if site in self.liars:
            return self.chance.choice([None, *self.certified[-5:]])
        state = self.at(site, lambda tx: acceptor.read_register(tx, OWNER, REGISTER))
        assert state is not None
        return self.shown(tuple(state["committed_ballot"]), state["committed"])

    def shown(self, ballot: Ballot, text: str | None) -> Certified | None:
        if text is None:
            return None
        value = read_value(text)
        return next(one for one in self.certified if one.ballot == ballot and one.value.digest == value.digest)

    def draft(self, parent: RegisterValue | None, electorate: Electorate, *, tombstone: bool = False) -> RegisterValue:
        self.versions += 1
        draft = ValueDraft(
            kind="tombstone" if tombstone else "object",
            register_id=REGISTER,
            owner=OWNER,
            version=VersionId(f"{self.versions:032x}"),
            parent=parent,
            scheme=self.scheme,
            class_="pqc",
            placement=electorate.members,
            electorate=electorate,
            bodies=(),
            added=0,
            created_wall_s=0.0,
            facts={},
        )
        (value,) = sign_values([draft], cast("OwnerSigner", _NoSigner()))
        return self.born(value, parent)

    def born(self, value: RegisterValue, parent: RegisterValue | None) -> RegisterValue:
        self.parents[value.digest] = parent.digest if parent else None
        return value

    def next_value(self, top: RegisterValue | None, configuration: Electorate, *, chained: bool) -> RegisterValue:
        if top is None:
            return self.draft(None, configuration)
        kind = self.chance.random()
        if kind < 0.2:
            return self.born(top.with_bodies(()), top)
        if chained and kind < 0.9:
            return self.draft(top, top.electorate)
        return self.draft(top, configuration, tombstone=kind > 0.97)

    def name(self) -> str:
        return "".join(self.chance.choices("-.09AZ_az", k=self.name_chars))

    def came_after(self, value: RegisterValue, other: RegisterValue) -> bool:
        found: str | None = value.digest
        while found is not None and found != other.digest:
            found = self.parents[found]
        return found is not None

    # -------------------------------------------------------------------------------------------------------- writing

    def create(self) -> Steps:
        """Round 1 needs no promises where nothing was; a thief of the key may create, too."""
        value = self.draft(None, self.configurations[0])
        yield from self.offer((FIRST_ROUND, self.name()), value, lambda _: None)

    def go_on(self) -> Steps:
        """Propose what follows any certified value, under the ballot right after it."""
        for _ in range(self.chance.choice([1, 1, 3, 6])):
            yield
            if not self.certified:
                return
            top = self.chance.choice(self.certified[-3:])
            ballot = self.after(top.ballot)
            if ballot is None:
                continue
            value = self.next_value(top.value, self.chance.choice(self.configurations), chained=True)
            self.chained += yield from self.offer(ballot, value, partial(self.without_promises, top))

    def without_promises(self, top: Certified, held: Certified | None) -> Justification | None:
        """Show the value to sites that hold another; to those that hold it, or say so, sometimes too."""
        return None if held is not None and held.ballot == top.ballot and self.chance.random() < 0.7 else _alone(top)

    def propose(self) -> Steps:
        """Prepare and accept, as in the paper; sometimes under the very ballot that somebody goes on with."""
        configuration = self.chance.choice(self.configurations)
        for number in range(3):
            yield from self.attempt(configuration, self.ballot(2 + number))

    def ballot(self, at_least: int) -> Ballot:
        rounds = [one.ballot[0] for one in self.certified]
        if self.certified and self.chance.random() < 0.4:
            near = self.chance.choice(self.certified[-2:]).ballot
            return near[0], near[1] + self.chance.choice("--.z") if len(near[1]) < _NAME_MAX else self.name()
        return max([at_least, *rounds]) + self.chance.choice([0, 1]), self.name()

    def attempt(self, configuration: Electorate, ballot: Ballot) -> Generator[None, None, bool]:
        promises: dict[SiteId, Certified | None] = {}
        for site in self.shuffled():
            yield
            if site in self.liars:
                promises[site] = self.held(site)
            elif not self.lost():
                answer = self.at(site, lambda tx: acceptor.prepare(tx, OWNER, REGISTER, ballot)[0])
                if answer is not None and answer["granted"] and not self.lost():
                    promises[site] = self.shown(tuple(answer["committed_ballot"]), answer["committed"])
        top = max((one for one in promises.values() if one is not None), key=lambda one: one.ballot, default=None)
        value = self.chosen(configuration, promises, top)
        if value is None:
            return False
        given = [
            Promise(site, held.ballot if held else NO_BALLOT, held.value.digest if held else None, b"")
            for site, held in promises.items()
        ]
        return (yield from self.offer(ballot, value, lambda _: Justification(given, top)))

    def chosen(
        self, configuration: Electorate, promises: dict[SiteId, Certified | None], top: Certified | None
    ) -> RegisterValue | None:
        if top is None:
            enough = configuration.has_quorum(promises) and configuration.rules_out(self.everyone, promises)
            return self.draft(None, configuration) if enough else None
        known = top.value
        holders = [site for site, one in promises.items() if one is not None and one.ballot == top.ballot]
        again = known.former is not None and not decided_by(known.electorates, holders)
        if again or known.tombstone or self.chance.random() < 0.1:
            return known
        return self.next_value(known, configuration, chained=False)

    def offer(
        self, ballot: Ballot, value: RegisterValue, given: Callable[[Certified | None], Justification | None]
    ) -> Generator[None, None, bool]:
        """Have sites accept a value, and hold its certificate if there is one."""
        accepted: set[SiteId] = set()
        for site in self.shuffled():
            yield
            reached = site in self.liars or not self.lost()
            if reached and self.accepts(site, ballot, value, given(self.held(site))) and not self.lost():
                accepted.add(site)
        if not decided_by(value.electorates, accepted):
            return False
        one = Certified(ballot, value, *_nothing_signed(), tuple(accepted))
        for other in self.certified:
            assert other.ballot != ballot or other.value.text == value.text, "two values under one ballot are certified"
        self.certified.append(one)
        if self.chance.random() < 0.15 or not (yield from self.commit(one)):
            return False  # it died, or too few took it: nobody was told
        self.acknowledged.append(value)
        return True

    def accepts(self, site: SiteId, ballot: Ballot, value: RegisterValue, given: Justification | None) -> bool:
        if site in self.liars:
            return True

        def step(tx: SiteTransaction) -> dict[str, Any]:
            return acceptor.accept(tx, site, OWNER, REGISTER, ballot, value, justification=given)[0]

        answer = self.at(site, step)
        return answer is not None and answer["granted"] is True

    def commit(self, one: Certified) -> Generator[None, None, bool]:
        holding = set()
        for site in self.shuffled():
            yield
            if site in self.liars:
                holding.add(site)
            elif not self.lost():
                answer = self.at(site, lambda tx, site=site: acceptor.commit(tx, site, OWNER, REGISTER, one))
                if answer is not None and answer["granted"] is True and not self.lost():
                    holding.add(site)
        return decided_by(one.value.electorates, holding)

    # -------------------------------------------------------------------------------------------------------- reading

    def read(self) -> Steps:
        configuration = self.chance.choice(self.configurations)
        before = [*self.acknowledged, *self.proven]
        answers: dict[SiteId, Certified | None] = {}
        for site in self.shuffled():
            yield
            if not self.lost():
                answers[site] = self.held(site)
        best = max((one for one in answers.values() if one is not None), key=lambda one: one.ballot, default=None)
        if best is None:
            if configuration.can_read(answers) and configuration.rules_out(self.everyone, answers):
                assert not before, "an acknowledged value is proven missing"
            return
        if not best.value.electorate.can_read(answers):
            return
        holders = [site for site, one in answers.items() if one is not None and one.ballot == best.ballot]
        if not decided_by(best.value.electorates, holders) and not (yield from self.commit(best)):
            return
        for value in before:
            assert self.came_after(best.value, value), "a proven read went back"
        self.proven.append(best.value)

    # -------------------------------------------------------------------------------------------------------- running

    def run(self) -> None:
        works: list[Steps] = [self.create() for _ in range(self.chance.choice([0, 1, 1, 2]))]
        kinds = [self.propose, self.go_on, self.go_on, self.read]
        works += [self.chance.choice(kinds)() for _ in range(10)]
        works.reverse()
        started = [works.pop() for _ in range(self.chance.choice([1, 2, 4]))]
        while started:
            work = self.chance.choice(started)
            try:
                next(work)
            except StopIteration:
                started.remove(work)
                if works:
                    started.append(works.pop())
        self.check_history()
        self.check_nothing_is_blocked()

    def check_history(self) -> None:
        for number, one in enumerate(self.acknowledged):
            for other in self.acknowledged[number + 1 :]:
                related = self.came_after(one, other) or self.came_after(other, one)
                assert related, "two acknowledged values in two histories"

    def check_nothing_is_blocked(self) -> None:
        """With every message delivered, who prepares beyond what is promised gets a value through."""
        self.loss = 0.0
        done = len(self.acknowledged)
        for _ in range(_LAST_ATTEMPTS):
            rounds = [self.promised_round(site) for site in self.everyone]
            for _ in self.attempt(self.configurations[-1], (max(rounds) + 1, self.name())):
                pass
            if len(self.acknowledged) > done:
                self.check_history()
                return
        raise AssertionError("the register is blocked")

    def promised_round(self, site: SiteId) -> int:
        state = self.at(site, lambda tx: acceptor.read_register(tx, OWNER, REGISTER))
        assert state is not None
        return int(state["promised"][0])


def _alone(top: Certified) -> Justification:
    return Justification([], top)


SCHEMES = ["2-of-3", "2-of-4", "3-of-5", "2-of-7"]


@pytest.mark.parametrize("replaced", [0, 1])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_going_on_after_a_ballot_keeps_one_history_and_blocks_nothing(scheme: str, replaced: int) -> None:
    chained = 0
    for seed in range(250):
        model = Model(seed, Scheme.parse(scheme), replaced)
        model.run()
        chained += model.chained
    assert chained > 20


def _not_right_after(ballot: Ballot) -> Ballot | None:
    return (ballot[0], ballot[1] + "z") if len(ballot[1]) < _NAME_MAX else None


def test_the_model_finds_it_when_other_ballots_lie_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "ballot_after", _not_right_after)
    models = [Model(seed, Scheme.parse("2-of-3"), after=_not_right_after) for seed in range(1000)]
    with pytest.raises(AssertionError, match=r"two histories|went back"):
        _run_all(models)


def _run_all(models: Sequence[Model]) -> None:
    for model in models:
        model.run()
