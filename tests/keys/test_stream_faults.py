"""One-time use over crashes, lost connections, restored copies and zombies: a search for a counterexample."""

from unittest import mock

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shosoin.keys import reconcile
from tests.keys.world import World

NAMES = st.sampled_from(["a", "b"])
CUTS = st.lists(st.integers(1, 8), max_size=2)


class PairMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.world = World()
        self.world.heal()

    @rule(name=NAMES, granules=st.integers(1, 6), arrives=st.sampled_from([True, True, True, False]))
    def produce(self, name, granules, arrives):
        self.world.produce(name, granules, arrives=arrives)

    @rule(count=st.integers(1, 60), first=NAMES)
    def advance(self, count, first):
        other = "b" if first == "a" else "a"
        for _ in range(count):
            self.world.ends[first].advance()
            self.world.ends[other].advance()

    @rule(name=NAMES, count=st.integers(1, 12))
    def advance_one(self, name, count):
        for _ in range(count):
            self.world.ends[name].advance()

    @rule(names=st.lists(NAMES, min_size=1, max_size=4), number=st.integers(1, 3), fetches=st.booleans())
    def work(self, names, number, fetches):
        """A good day: blocks flow, keys are drawn and some of them fetched."""
        self.world.heal()
        for name in names:
            self._work_at(name, number, fetches=fetches)

    def _work_at(self, name, number, *, fetches):
        end, other = self.world.ends[name], self.world.ends["b" if name == "a" else "a"]
        self.world.produce(name, 5, arrives=True)
        self.world.settle()
        for _ in range(2):
            key_ids = self.world.draw(end.pair, number, 32)
            self.world.settle()
            if fetches and key_ids:
                self.world.fetch(other.pair, key_ids[:2])

    @rule(
        name=NAMES,
        before=st.lists(NAMES, max_size=2),
        between=st.lists(NAMES, min_size=1, max_size=4),
        effects=st.integers(0, 30),
        zombie=st.booleans(),
        other_dies=st.booleans(),
    )
    def restored_copy(self, name, before, between, effects, zombie, other_dies):
        """A copy of one disk is taken at any point of some work, and put back after more work."""
        self.world.heal()
        for each in before:
            self.world.produce(each, 5, arrives=True)
        for _ in range(effects):
            for end in self.world.ends.values():
                end.advance()
        self.world.snapshot(name)
        self.work(names=between, number=1, fetches=True)
        self.greedy(name=name)
        if other_dies:
            self.world.ends["b" if name == "a" else "a"].crash()
        self.world.restore(name, len(self.world.snapshots[name]) - 1, zombie=zombie)
        self.fetch_everything_again()
        self.world.heal()
        self.fetch_everything_again()

    @rule(name=NAMES)
    def greedy(self, name):
        """One end works and draws whenever it can, while the other end stands still."""
        end = self.world.ends[name]
        for _ in range(20):
            if end.pair is not None:
                self.world.draw(end.pair, 1, 32)
            end.advance()

    @rule(name=NAMES, turns=st.lists(st.integers(0, 8), max_size=7))
    def restored_while_a_block_is_under_way(self, name, turns):
        """The receiver's disk goes back to before a block that the sender still waits for."""
        self.world.heal()
        receiver = "b" if name == "a" else "a"
        self.world.snapshot(receiver)
        self.world.produce(name, 3, arrives=True)
        for turn, steps in enumerate(turns):
            for _ in range(steps):
                self.world.ends[receiver if turn % 2 else name].advance()
        self.world.restore(receiver, len(self.world.snapshots[receiver]) - 1, zombie=False)
        self.work(names=[name], number=1, fetches=True)

    @rule()
    def fetch_everything_again(self):
        for key_id, (owner, _) in list(self.world.drawn.items()):
            end = self.world.ends["b" if owner == "a" else "a"]
            for pair in (end.pair, *end.zombies):
                if pair is not None:
                    self.world.fetch(pair, [key_id])

    @rule(name=NAMES, number=st.integers(1, 3), length=st.sampled_from([1, 32, 40, 96]))
    def draw(self, name, number, length):
        pair = self.world.ends[name].pair
        if pair is not None:
            self.world.draw(pair, number, length)

    @rule(data=st.data(), again=st.booleans())
    def fetch_some(self, data, again):
        waiting = [key_id for key_id in self.world.drawn if again or key_id not in self.world.fetched]
        if not waiting:
            return
        key_ids = data.draw(st.lists(st.sampled_from(waiting), min_size=1, max_size=2))
        owner = self.world.drawn[key_ids[0]][0]
        end = self.world.ends["b" if owner == "a" else "a"]
        for pair in (end.pair, *end.zombies):
            if pair is not None:
                self.world.fetch(pair, key_ids)

    @precondition(lambda self: any(end.zombies for end in self.world.ends.values()))
    @rule(name=NAMES, length=st.sampled_from([1, 32, 64]))
    def zombie_draws(self, name, length):
        for pair in self.world.ends[name].zombies:
            self.world.draw(pair, 1, length)

    @rule(name=NAMES)
    def tick(self, name):
        self.world.ends[name].later(lambda pair: pair.tick(self.world.now_s))

    @rule(seconds=st.sampled_from([1.0, 11.0, 2000.0]))
    def pass_time(self, seconds):
        self.world.now_s += seconds

    @rule()
    def drop_connection(self):
        self.world.disconnect()

    @rule()
    def connect(self):
        self.world.connect()

    @rule(name=NAMES)
    def kill(self, name):
        self.world.ends[name].crash()

    @rule(name=NAMES, steps=st.integers(0, 5))
    def crash_inside_a_commit(self, name, steps):
        self.world.ends[name].disk.crash_after = steps

    @rule(name=NAMES)
    def start(self, name):
        self.world.ends[name].start()

    @rule(name=NAMES)
    def stop_cleanly(self, name):
        self.world.settle()
        end = self.world.ends[name]
        end.later(lambda pair: pair.close())
        self.world.settle()
        end.crash()

    @rule(name=NAMES)
    def snapshot(self, name):
        self.world.snapshot(name)

    @rule(name=NAMES, which=st.integers(0, 9), zombie=st.booleans())
    def restore(self, name, which, zombie):
        self.world.restore(name, which, zombie=zombie)

    @rule(name=NAMES, steps=st.one_of(st.none(), st.integers(0, 5)))
    def burn(self, name, steps):
        """An operator burns the pair at one end, and may be interrupted; nobody has told the other end yet."""
        self.world.burn(name, steps)

    @rule(name=NAMES, names=st.lists(NAMES, min_size=1, max_size=3), number=st.integers(1, 3), cuts=CUTS)
    def burned_at_both_ends(self, name, names, number, cuts):
        """Once both ends have met after a burn, nothing of before is anywhere, whatever was lost in between."""
        self.work(names=names, number=number, fetches=False)
        before = {end: set(self.world.ends[end].disk.blocks) for end in ("a", "b")}
        assert self.world.burn(name)
        assert not self.world.ends[name].disk.blocks
        for cut in cuts:
            self.world.ends[name].start()
            self.world.connect()
            self.advance(count=cut, first=name)
            self.world.disconnect()
        self.world.heal()
        for key_id, (owner, _) in self.world.drawn.items():
            other = self.world.ends["b" if owner == "a" else "a"]
            assert not self.world.fetch(other.pair, [key_id]), "a key of before the burn was fetched"
        for end in ("a", "b"):
            assert not before[end] & set(self.world.ends[end].disk.blocks), "a block of before the burn is there"

    @invariant()
    def pools_are_bounded(self):
        for end in self.world.ends.values():
            if end.pair is not None:
                assert len(end.pair.outgoing._pool) <= 128
                assert len(end.pair.incoming._pool) <= 128

    @invariant()
    def every_granule_is_accounted_for(self):
        for end in self.world.ends.values():
            for pair in (end.pair, *end.zombies):
                for side in (pair.outgoing, pair.incoming) if pair is not None else ():
                    tally = side.tally
                    lost = tally.used_granules + tally.burned_granules.total()
                    assert tally.restored_granules + tally.taken_granules == lost + side.left_granules()

    def teardown(self):
        world = self.world
        world.heal()
        self.fetch_everything_again()
        for name in ("a", "b"):
            self._works_again(name)

    def _works_again(self, name):
        world = self.world
        end, other = world.ends[name], world.ends["b" if name == "a" else "a"]
        for _ in range(12):
            if end.pair.outgoing.stock_granules() >= 3:
                break
            world.now_s += 2000
            for each in (end, other):
                each.later(lambda pair: pair.tick(world.now_s))
            world.settle()
            world.produce(name, 5, arrives=True)
            world.settle()
        if end.pair.outgoing.pool_exhausted:
            event("verification pool exhausted")
            return
        for _ in range(3):
            key_ids = world.draw(end.pair, 1, 32)
            world.settle()
            if key_ids:
                assert world.fetch(other.pair, key_ids), "a fresh key cannot be fetched after healing"
                assert not world.fetch(other.pair, key_ids)
                return
        raise AssertionError("no key can be drawn after healing")


PairMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50)
TestPairUnderFaults = PairMachine.TestCase


def test_one_time_use_does_not_depend_on_recognizing_copies():
    with mock.patch.object(reconcile, "was_restored", return_value=False):
        run_state_machine_as_test(PairMachine, settings=PairMachine.TestCase.settings)
