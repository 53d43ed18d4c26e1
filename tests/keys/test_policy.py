"""Terms for pairs of SAEs: sizes, amounts, age, the reserved share; and what a caller may demand of keys."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shosoin.base import KmeId, SaeId
from shosoin.keys.demands import Assurance, Demands, assurance_of
from shosoin.keys.errors import DemandUnmet, KeyNotFound, KeyStreamDry, KeyTooOld, QuotaExceeded, RequestInvalid
from shosoin.keys.kme import Kme
from shosoin.keys.local import LocalKeys
from shosoin.keys.policy import KmeLimits, PolicyBook, PolicyRule
from shosoin.keys.quota import Quota
from shosoin.link.port import LinkFacts
from tests.keys.test_kme import Events, Hands
from tests.keys.world import LIMITS, CountedEntropy, World

ALICE, ANNE, BOB = SaeId("alice"), SaeId("anne"), SaeId("bob")
A, B = KmeId("a"), KmeId("b")
SIMULATED = LinkFacts("simulated-qkd", True, None, 1000.0)
UNLIMITED = {"rate_bps": 0.0, "burst_bits": 0.0}


class Both:
    """Two KMEs over the streams of a simulated world."""

    def __init__(self, *rules, reserved_bits=0, facts=SIMULATED, max_age_s=0):
        self.clock = Hands()
        self.clock.now = 1_000_000.0
        ages = max_age_s if isinstance(max_age_s, dict) else {"a": max_age_s, "b": max_age_s}
        self.world = World()
        self.world.wall_s = self.clock.now
        self.world.limits = {name: replace(LIMITS, max_age_s=age) for name, age in ages.items()}
        self.world.heal()
        self.kmes = {name: self._kme(name, rules, reserved_bits, facts) for name in ("a", "b")}

    def _kme(self, name, rules, reserved_bits, facts):
        peer = KmeId("b" if name == "a" else "a")
        return Kme(
            KmeId(name),
            directory={ALICE: A, ANNE: A, BOB: B},
            pairs={peer: self.world.ends[name].pair},
            facts={peer: facts},
            max_stock_bits={peer: 1 << 20},
            reserved_bits={peer: reserved_bits},
            local=LocalKeys(CountedEntropy(), self.clock, capacity_bytes=1 << 20, expiry_s=60.0),
            quota=Quota(self.clock, **UNLIMITED),
            guesses=Quota(self.clock, **UNLIMITED),
            policies=PolicyBook(KmeLimits(), rules, self.clock),
            events=Events(),
        )

    def draw(self, number=1, size=256, master=ALICE, slave=BOB, **options):
        return self.kmes["a"].enc_keys(master, slave, number, size, **options)

    def fetch(self, delivery, master=ALICE, slave=BOB):
        return self.kmes["b"].dec_keys(slave, master, [key.key_id for key in delivery.keys])

    def stock(self):
        return self.world.ends["a"].pair.outgoing.stock_granules()

    def make(self, granules):
        self.world.produce("a", granules, arrives=True)
        self.world.settle()
        self.world.ends["a"].later(lambda pair: pair.extend_lease(granules))
        self.world.settle()

    def pass_(self, seconds):
        """Let time pass at both ends, and both do what is due."""
        self.clock.now += seconds
        self.world.wall_s = self.clock.now
        for end in self.world.ends.values():
            end.later(lambda pair: pair.tick(0.0))
        self.world.settle()


def test_the_first_rule_that_fits_counts():
    book = PolicyBook(
        KmeLimits(),
        [
            PolicyRule(ALICE, BOB, max_key_size_bits=512, key_size_bits=128, priority=2),
            PolicyRule(ALICE, None, max_key_per_request=3),
            PolicyRule(None, BOB, min_key_size_bits=64, max_age_s=5.0),
        ],
        Hands(),
    )
    exact, mine, theirs, plain = book.of(ALICE, BOB), book.of(ALICE, ANNE), book.of(ANNE, BOB), book.of(BOB, ANNE)
    assert (exact.limits.max_key_size_bits, exact.limits.key_size_bits, exact.priority) == (512, 128, 2)
    assert (mine.limits.max_key_per_request, mine.priority) == (3, 0)
    assert (theirs.limits.min_key_size_bits, theirs.max_age_s) == (64, 5.0)
    assert plain.limits == KmeLimits()


def test_sizes_and_numbers_of_a_pair_are_narrower_and_status_says_so():
    both = Both(PolicyRule(ALICE, BOB, key_size_bits=128, max_key_size_bits=512, max_key_per_request=2))
    both.make(8)
    limits = both.kmes["a"].status(ALICE, BOB).limits
    assert (limits.key_size_bits, limits.max_key_size_bits, limits.max_key_per_request) == (128, 512, 2)
    for number, size in ((3, 128), (1, 520)):
        with pytest.raises(RequestInvalid):
            both.draw(number, size)
    assert len(both.draw(2, 512).keys) == 2
    assert len(both.draw(3, 256, master=ANNE).keys) == 3


def test_a_pair_has_an_amount_of_its_own():
    both = Both(PolicyRule(ALICE, BOB, bits_per_s=256.0, burst_bits=512.0))
    both.make(16)
    both.draw(2)
    before = both.stock()
    with pytest.raises(QuotaExceeded) as refused:
        both.draw(1)
    assert refused.value.retry_after_s == pytest.approx(1.0)
    assert both.stock() == before
    both.draw(4, master=ANNE)
    both.pass_(1.0)
    both.draw(1)


def test_the_last_of_a_stock_is_for_those_with_a_priority():
    both = Both(PolicyRule(ANNE, BOB, priority=1), reserved_bits=4 * 256)
    both.make(8)
    assert both.kmes["a"].status(ALICE, BOB).stored_key_count == 4
    assert both.kmes["a"].status(ANNE, BOB).stored_key_count == 8
    both.draw(4)
    with pytest.raises(KeyStreamDry, match="reserved"):
        both.draw(1)
    assert len(both.draw(4, master=ANNE).keys) == 4


def test_a_policy_for_age_holds_at_both_ends():
    both = Both(PolicyRule(ALICE, BOB, max_age_s=100.0))
    both.make(8)
    both.pass_(99.0)
    young, late = both.draw(1), both.draw(1)
    assert len(both.fetch(young).keys) == 1
    both.pass_(2.0)
    with pytest.raises(KeyNotFound):
        both.fetch(late)
    before = both.stock()
    with pytest.raises(KeyTooOld):
        both.draw(1)
    assert both.stock() == before
    both.draw(1, master=ANNE)


def test_a_caller_may_demand_young_bits():
    both = Both()
    both.make(4)
    both.pass_(50.0)
    assert both.draw(1, demands=Demands(max_age_s=60.0)).age_s == pytest.approx(50.0)
    before = both.stock()
    with pytest.raises(DemandUnmet, match="not all extension_mandatory request options could be met"):
        both.draw(1, demands=Demands(max_age_s=40.0))
    assert both.stock() == before
    assert both.draw(1).age_s is None


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (SIMULATED, Assurance.SIMULATED),
        (LinkFacts("qkd", True, 1e-10, 1.0), Assurance.SIMULATED),
        (LinkFacts("somebody's", False, 1e-10, 1.0), Assurance.UNDECLARED),
        (LinkFacts("local-generator", False, None, 1.0), Assurance.COMPUTATIONAL),
        (LinkFacts("qkd", False, None, 1.0), Assurance.QKD),
        (LinkFacts("qkd", False, 1e-10, 1.0), Assurance.QKD_FINITE),
    ],
)
def test_assurance_is_what_the_link_declares_and_demands_are_held_to_it(facts, level):
    assert assurance_of(facts) is level
    both = Both(facts=facts)
    both.make(8)
    for wanted in Assurance:
        if wanted <= level:
            both.draw(1, demands=Demands(min_assurance=wanted))
        else:
            with pytest.raises(DemandUnmet):
                both.draw(1, demands=Demands(min_assurance=wanted))
    with pytest.raises(DemandUnmet):
        both.draw(1, demands=Demands(route_type="indirect"))
    both.draw(1, demands=Demands(route_type="direct"))


def test_demands_add_up():
    one = Demands(max_age_s=10.0, min_assurance=Assurance.QKD)
    other = Demands(max_age_s=5.0, route_type="direct", min_assurance=Assurance.UNDECLARED)
    assert one.and_also(other) == Demands(5.0, "direct", Assurance.QKD)


# Age of a pair's bits.


def test_old_bits_are_burned_at_both_ends_and_new_ones_stay():
    both = Both(max_age_s=1000)
    both.make(4)
    handed_out = both.draw(2)
    both.pass_(500.0)
    both.make(4)
    both.pass_(495.0)
    assert both.stock() == 4, "ten seconds early, so that nobody is given what expires on him"
    both.pass_(6.0)
    for end in both.world.ends.values():
        assert len(end.disk.blocks) <= 1
    with pytest.raises(KeyNotFound):
        both.fetch(handed_out)
    fresh = both.draw(4)
    assert len(both.fetch(fresh).keys) == 4


def test_the_lower_limit_counts_for_both_and_lasts_over_a_restart():
    both = Both(max_age_s={"a": 0, "b": 1000})
    both.make(4)
    both.pass_(600.0)
    both.world.ends["a"].crash()
    both.world.heal()
    assert both.world.ends["a"].pair.outgoing.max_age_s == 1000
    both.pass_(395.0)
    assert both.world.ends["a"].pair.outgoing.stock_granules() == 0


def test_a_clock_that_stepped_back_makes_nothing_immortal():
    both = Both(max_age_s=1000)
    both.make(4)
    both.pass_(-500_000.0)
    assert both.stock() == 4
    both.pass_(1001.0)
    assert both.stock() == 0
    assert not both.world.ends["b"].disk.blocks


def test_a_receiver_whose_clock_is_ahead_tells_the_sender_what_it_burned():
    both = Both(max_age_s=1000)
    both.make(4)
    both.world.ends["b"].pair.incoming._wall_s = lambda: both.clock.now + 2000.0
    both.pass_(1.0)
    assert both.stock() == 0, "what the receiver no longer has must not be handed out"
    assert not both.world.ends["a"].disk.blocks
    for end in both.world.ends.values():
        for side in (end.pair.outgoing, end.pair.incoming):
            assert side.tally.taken_granules == side.left_granules() + side.tally.burned_granules.total()
