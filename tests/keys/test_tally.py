"""What is counted of key bits: every way to lose them has its name, and what is left adds up."""

import pytest

from shosoin.keys.errors import KeyDamaged
from shosoin.keys.messages import Stored
from shosoin.keys.tally import Burned, KeyCount
from tests.keys.world import LIMITS, World


@pytest.fixture
def world():
    world = World()
    world.heal()
    return world


def stock(world, granules):
    world.produce("a", granules, arrives=True)
    world.settle()


def draw(world, number, length):
    for _ in range(3):
        key_ids = world.draw(world.ends["a"].pair, number, length)
        world.settle()
        if key_ids:
            return key_ids
    raise AssertionError("nothing drawn")


def tallies(world):
    return world.ends["a"].pair.outgoing.tally, world.ends["b"].pair.incoming.tally


def test_a_key_takes_whole_granules_and_counts_the_bits_it_has(world):
    stock(world, 8)
    key_ids = draw(world, 3, 40)
    out, inc = tallies(world)
    assert (out.taken_granules, out.used_granules, out.delivered) == (8, 6, KeyCount(3, 960))
    assert (inc.taken_granules, inc.used_granules, inc.delivered) == (8, 0, KeyCount())
    world.fetch(world.ends["b"].pair, key_ids[:2])
    assert (inc.used_granules, inc.delivered) == (4, KeyCount(2, 640))
    assert not out.burned_granules
    assert not inc.burned_granules


def test_what_is_passed_over_is_a_gap(world):
    stock(world, 2)
    end = world.ends["a"]
    number, bits = 99, world.entropy.random_bytes(128 + 32)
    end.later(lambda pair: pair.begin_block(number, bits))  # its bits never arrive: a hole in the stream
    world.settle()
    world.now_s += 11
    end.later(lambda pair: pair.tick(world.now_s))
    world.ends["b"].later(lambda pair: pair.tick(world.now_s))
    world.settle()
    stock(world, 4)
    draw(world, 1, 96)
    out, _ = tallies(world)
    assert out.burned_granules == {Burned.REFUSED: 1, Burned.GAP: 2}
    assert out.used_granules == 3


def test_a_spoiled_block_counts_at_both_ends(world):
    a, b = world.ends["a"], world.ends["b"]
    world.produce("a", 4, arrives=True)
    message = None
    genuine = a.receive

    def spoil(pair, received):
        nonlocal message
        if isinstance(received, Stored):
            message = received
            received = Stored(received.session, received.index, bytes(16).hex())
        yield from genuine(pair, received)

    a.receive = spoil
    world.settle()
    assert message is not None
    assert tallies(world)[0].burned_granules == {Burned.REFUSED: 4}
    assert b.pair.incoming.tally.burned_granules == {Burned.REFUSED: 4}


def test_rotten_keys_count_as_damaged(world):
    stock(world, 4)
    key_ids = draw(world, 2, 32)
    b = world.ends["b"]
    b.disk.wiped[b.stored_name("in", 0)].add(1)
    addresses = [b.pair.incoming_ids.decode(key_id, "m", "s", near=0) for key_id in key_ids]
    with pytest.raises(KeyDamaged):
        b.pair.incoming.fetch(addresses)
    assert tallies(world)[1].burned_granules == {Burned.DAMAGED: 2}
    assert tallies(world)[1].delivered == KeyCount()


def test_what_nobody_fetched_counts_as_expired_and_its_age_is_known(world):
    stock(world, 4)
    key_ids = draw(world, 4, 32)
    b = world.ends["b"]
    world.fetch(b.pair, key_ids[:1])
    for end in world.ends.values():
        end.later(lambda pair: pair.tick(world.now_s))
        world.settle()
    b.later(lambda pair: pair.tick(world.now_s))
    world.settle()
    assert b.pair.incoming.waiting_since_s() == 0.0
    world.now_s += LIMITS.expiry_s + 1
    b.later(lambda pair: pair.tick(world.now_s))
    world.settle()
    assert tallies(world)[1].burned_granules == {Burned.EXPIRED: 3}
    assert b.pair.incoming.waiting_since_s() is None


def test_a_kill_burns_what_was_leased_and_a_clean_stop_says_what_was_restored(world):
    stock(world, 8)
    draw(world, 1, 32)
    world.ends["b"].crash()
    world.heal()
    out, inc = tallies(world)
    assert out.burned_granules[Burned.HANDSHAKE] == 3  # a lease of four, one of them handed out
    assert (inc.restored_granules, inc.burned_granules) == (8, {Burned.HANDSHAKE: 4})
