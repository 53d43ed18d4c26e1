"""The age of bits against clocks and crashes: whoever was given a key gets it, and both ends agree on what is left."""

from __future__ import annotations

import pytest

from shosoin.keys.errors import KeyNotFound, KeyStreamDry
from shosoin.keys.policy import PolicyRule
from tests.keys.test_policy import ALICE, ANNE, BOB, Both


def test_a_key_handed_out_just_before_its_block_expires_can_still_be_fetched():
    both = Both(max_age_s=1000)
    both.make(4)
    both.pass_(985.0)
    delivery = both.draw(2)
    both.pass_(5.5)  # the sender burns the rest ten seconds early, so that nobody is given what expires on him
    assert both.stock() == 0
    assert len(both.fetch(delivery).keys) == 2
    both.pass_(15.0)
    assert not both.world.ends["b"].disk.blocks


def test_what_the_receiver_burned_because_its_clock_ran_ahead_is_not_handed_out_any_more():
    both = Both(max_age_s=1000)
    both.make(4)
    wall_s = both.world.wall_s
    receiver = both.world.ends["b"].pair
    receiver.incoming._wall_s = lambda: wall_s + 5000.0
    both.pass_(1.0)
    with pytest.raises(KeyStreamDry):
        both.draw(1)


def test_a_place_burned_for_its_age_is_never_handed_out_again_over_crashes():
    both = Both(max_age_s=1000)
    both.make(4)
    handed_out = both.draw(1)
    both.pass_(995.0)
    for name in ("a", "b"):
        both.world.ends[name].crash()
        both.world.heal()
    for end in both.world.ends.values():
        assert not [event for event in both.world.events if event.name == "keys.restored_copy"], end.name
    out, inc = both.world.ends["a"].pair.outgoing, both.world.ends["b"].pair.incoming
    assert out.view().next_start == inc.view().next_start >= 4
    assert out.view().unused_entries == inc.view().unused_entries
    assert len(handed_out.keys) == 1


@pytest.mark.parametrize("crash_after", range(4))
@pytest.mark.parametrize("victim", ["a", "b"])
def test_a_crash_while_old_blocks_are_burned_leaves_two_ends_that_agree(victim, crash_after):
    both = Both(max_age_s=1000)
    both.make(3)
    both.make(3)
    both.world.ends[victim].disk.crash_after = crash_after
    both.pass_(995.0)
    both.pass_(10.0)
    both.world.heal()
    world = both.world
    assert not [event for event in world.events if event.severity == "alarm"]
    pair_a, pair_b = world.ends["a"].pair, world.ends["b"].pair
    assert pair_a.outgoing.view().unused_entries == pair_b.incoming.view().unused_entries
    both.make(4)
    key_ids = world.draw(pair_a, 2, 32) or (world.settle() or world.draw(pair_a, 2, 32))
    assert world.fetch(pair_b, key_ids)


def test_keys_of_the_kme_s_own_generator_grow_too_old_as_well():
    both = Both(PolicyRule(ALICE, ANNE, max_age_s=10.0))
    delivery = both.draw(1, slave=ANNE)
    both.pass_(11.0)
    with pytest.raises(KeyNotFound):
        both.kmes["a"].dec_keys(ANNE, ALICE, [delivery.keys[0].key_id])
    assert BOB
