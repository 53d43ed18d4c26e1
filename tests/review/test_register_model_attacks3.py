"""A model of the register, small enough to run some hundred thousand steps: what catalog.md claims, against liars.

Sites are tables, certificates are entries of a list, messages are lost and come in any order. Liars of up to f_r sites
promise with any certified value there is (or none), accept everything, and claim to hold everything. What must hold: of
two acknowledged values one came after the other, and no proven read goes back.
"""

from __future__ import annotations

import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field

import pytest

from shosoin.base import SiteId
from shosoin.vault.electorate import Electorate, decided_by
from shosoin.vault.scheme import Scheme

Ballot = tuple[int, int]
Steps = Generator[None, None, None]


@dataclass(eq=False)
class Value:
    parent: Value | None
    electorate: Electorate
    former: Electorate | None

    @property
    def electorates(self) -> tuple[Electorate, ...]:
        return (self.electorate, self.former) if self.former else (self.electorate,)

    def came_after(self, other: Value) -> bool:
        found: Value | None = self
        while found is not None and found is not other:
            found = found.parent
        return found is other


@dataclass
class Site:
    promised: Ballot = (0, 0)
    accepted: dict[Ballot, Value] = field(default_factory=dict)
    held: tuple[Ballot, Value] | None = None


@dataclass
class Model:
    seed: int
    scheme: Scheme
    replaced: int
    """How many members the second configuration replaces."""
    strict: bool = True
    """Whether who finds no value makes sure that no former members hold one."""
    chance: random.Random = field(init=False)
    acknowledged: list[Value] = field(default_factory=list)
    proven: list[Value] = field(default_factory=list)
    certified: list[tuple[Ballot, Value]] = field(default_factory=list)
    names: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        n, scheme = self.scheme.n, self.scheme
        self.everyone = [SiteId(f"s{number}") for number in range(n + self.replaced)]
        old, new = self.everyone[:n], [*self.everyone[: n - self.replaced], *self.everyone[n:]]
        self.configurations = [
            Electorate(tuple(members), scheme.write_quorum, scheme.register_liars)
            for members in ([old] if not self.replaced else [old, new])
        ]
        both = self.everyone[: n - self.replaced]
        self.liars = set(self.chance.sample(both, min(scheme.register_liars, len(both))))
        self.sites = {site: Site() for site in self.everyone}
        self.loss = self.chance.choice([0.05, 0.2, 0.4])

    def shuffled(self) -> list[SiteId]:
        return self.chance.sample(self.everyone, len(self.everyone))

    def lost(self) -> bool:
        return self.chance.random() < self.loss

    def lie(self) -> tuple[Ballot, Value] | None:
        return self.chance.choice([None, *self.certified[-4:]])

    def knows_enough(self, configuration: Electorate, answered: Sequence[SiteId]) -> bool:
        if not self.strict:
            return True
        read_quorum = len(configuration.members) + configuration.liars + 1 - configuration.quorum
        return len(self.everyone) - len(answered) <= len(configuration.members) - read_quorum

    # ------------------------------------------------------------------------------------------------------- writing

    def propose(self, configuration: Electorate) -> Steps:  # noqa: C901  # one step of the protocol after the other
        number = 2
        for _ in range(3):
            self.names += 1
            ballot = (number, self.chance.randrange(1 << 20) * 1000 + self.names % 1000)
            promises: dict[SiteId, tuple[Ballot, Value] | None] = {}
            highest = 0
            for name in self.shuffled():
                yield
                site = self.sites[name]
                if name in self.liars:
                    promises[name] = self.lie()
                elif not self.lost():
                    if ballot > site.promised:
                        site.promised = ballot
                        if not self.lost():
                            promises[name] = site.held
                    else:
                        highest = max(highest, site.promised[0])
            number = max(number, highest) + 1
            value = self.chosen(configuration, promises)
            if value is None:
                continue
            accepted = set()
            for name in self.shuffled():
                yield
                site = self.sites[name]
                if name in self.liars:
                    accepted.add(name)
                elif not self.lost() and ballot >= site.promised and site.accepted.get(ballot, value) is value:
                    site.promised, site.accepted[ballot] = ballot, value
                    if not self.lost():
                        accepted.add(name)
            if not decided_by(value.electorates, accepted):
                continue
            self.certified.append((ballot, value))
            if (yield from self.commit(ballot, value)):
                self.acknowledged.append(value)
                return

    def chosen(self, configuration: Electorate, promises: dict[SiteId, tuple[Ballot, Value] | None]) -> Value | None:
        top = max((one for one in promises.values() if one is not None), key=lambda one: one[0], default=None)
        if top is None:
            value = Value(None, configuration, None)
            enough = decided_by([configuration], promises) and self.knows_enough(configuration, list(promises))
            return value if enough else None
        known = top[1]
        holders = [name for name, one in promises.items() if one is not None and one[0] == top[0]]
        if known.former is not None and not decided_by(known.electorates, holders):
            value = known
        else:
            former = known.electorate if known.electorate != configuration else None
            value = Value(known, configuration, former)
        return value if decided_by([*value.electorates, known.electorate], promises) else None

    def commit(self, ballot: Ballot, value: Value) -> Generator[None, None, bool]:
        holding = set()
        for name in self.shuffled():
            yield
            site = self.sites[name]
            if name in self.liars:
                holding.add(name)
            elif not self.lost():
                if ballot >= site.promised and (site.held is None or ballot > site.held[0]):
                    site.promised, site.held = ballot, (ballot, value)
                if site.held == (ballot, value) and not self.lost():
                    holding.add(name)
        return decided_by(value.electorates, holding)

    # ------------------------------------------------------------------------------------------------------- reading

    def read(self, configuration: Electorate) -> Steps:
        before = [*self.acknowledged, *self.proven]
        answers: dict[SiteId, tuple[Ballot, Value] | None] = {}
        for name in self.shuffled():
            yield
            if not self.lost():
                answers[name] = self.lie() if name in self.liars else self.sites[name].held
        best = max((one for one in answers.values() if one is not None), key=lambda one: one[0], default=None)
        if best is None:
            if configuration.can_read(answers) and self.knows_enough(configuration, list(answers)):
                assert not before, "an acknowledged value is proven missing"
            return
        if not best[1].electorate.can_read(answers):
            return
        holders = [name for name, one in answers.items() if one is not None and one[0] == best[0]]
        if not decided_by(best[1].electorates, holders) and not (yield from self.commit(*best)):
            return
        for value in before:
            assert best[1].came_after(value), "a proven read went back"
        self.proven.append(best[1])

    # -------------------------------------------------------------------------------------------------------- running

    def run(self) -> None:
        works: list[Steps] = []
        for _ in range(9):
            configuration = self.chance.choice(self.configurations)
            works.append(self.chance.choice([self.propose, self.propose, self.read])(configuration))
        started = works[: self.chance.choice([1, 2, 4])]
        left = works[len(started) :]
        while started:
            work = self.chance.choice(started)
            try:
                next(work)
            except StopIteration:
                started.remove(work)
                if left:
                    started.append(left.pop())
        for number, one in enumerate(self.acknowledged):
            for other in self.acknowledged[number + 1 :]:
                assert one.came_after(other) or other.came_after(one), "two acknowledged values in two histories"


SCHEMES = ["2-of-3", "2-of-4", "3-of-5", "2-of-5", "4-of-6", "3-of-7", "2-of-7"]


@pytest.mark.parametrize("replaced", [0, 1, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_acknowledged_values_have_one_history_and_proven_reads_never_go_back(scheme: str, replaced: int) -> None:
    for seed in range(60):
        Model(seed, Scheme.parse(scheme), replaced).run()


def test_the_model_finds_it_when_new_members_do_not_ask_for_what_the_old_ones_hold() -> None:
    found = set()
    for seed in range(4000):
        try:
            Model(seed, Scheme.parse("2-of-3"), 1, strict=False).run()
        except AssertionError as error:
            found.add(str(error).split("\n", maxsplit=1)[0])
    assert found
