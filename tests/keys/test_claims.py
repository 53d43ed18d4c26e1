"""A peer that holds the pair secret names numbers that leave nothing above them: nobody keeps them."""

import json
from dataclasses import replace

import pytest

from shosoin.keys.blocks import dump_record, load_record
from shosoin.keys.burning import rekey_batch
from shosoin.keys.claims import BLOCKS_LEAP, COUNTS_LEAP, GRANULES_LEAP
from shosoin.keys.errors import PairProtocolError
from shosoin.keys.messages import Announce, Hello, Lease, statement_of
from shosoin.keys.store import Commit, Emit, Send
from tests.keys.world import World

MOST = (1 << 63) - 1
COUNTS = ("generation", "seen_generation", "burns", "seen_burns")


@pytest.fixture
def world():
    world = World()
    world.heal()
    world.produce("a", 5, arrives=True)
    world.settle()
    return world


def lies(world, change):
    """Let B's hello say something else, proved as B would; return A's reaction."""
    world.disconnect()
    world.settle()
    a, b = world.ends["a"].pair, world.ends["b"].pair
    list(a.connected())
    (said,) = (effect.message for effect in b.connected() if isinstance(effect, Send))
    assert isinstance(said, Hello)
    lie = change(replace(said, proof=""))
    lie = replace(lie, proof=b._hello_proof(lie))
    effects = []
    try:
        for effect in a.receive(lie, 0.0):
            effects.append(effect)
            if isinstance(effect, Commit):
                world.ends["a"].disk.commit(effect.batch)
    except PairProtocolError as err:
        effects.append(err)
    return effects


def in_stream(which, **changes):
    return lambda hello: replace(hello, **{which: replace(getattr(hello, which), **changes)})


LIES = [
    *((name, lambda hello, name=name: replace(hello, **{name: MOST})) for name in COUNTS),
    *((name, lambda hello, name=name: replace(hello, **{name: COUNTS_LEAP + 9})) for name in COUNTS),
    *((f"{which} index", in_stream(which, next_index=BLOCKS_LEAP + 9)) for which in ("outgoing", "incoming")),
    *((f"{which} start", in_stream(which, next_start=GRANULES_LEAP + 9)) for which in ("outgoing", "incoming")),
    *((f"{which} lease", in_stream(which, lease=1 << 40)) for which in ("outgoing", "incoming")),
]


@pytest.mark.parametrize(("name", "change"), LIES, ids=[name for name, _ in LIES])
def test_a_claim_that_would_leave_nothing_above_it_changes_nothing(world, name, change):
    before = dict(world.ends["a"].disk.records)
    effects = lies(world, change)
    assert [effect.event.name for effect in effects if isinstance(effect, Emit)] == ["keys.implausible_claim"], name
    assert isinstance(effects[-1], PairProtocolError)
    assert world.ends["a"].disk.records == before
    assert not world.ends["a"].pair.is_open
    assert "shosoin kme rekey" in world.ends["a"].pair.refusal
    world.disconnect()
    world.settle()
    world.heal()  # an honest hello is believed at once
    assert world.ends["a"].pair.is_open
    assert not world.ends["a"].pair.refusal


@pytest.mark.parametrize("name", COUNTS)
def test_what_a_claim_may_move_leaves_room_for_honest_work(world, name):
    effects = lies(world, lambda hello: replace(hello, **{name: COUNTS_LEAP}))
    assert not isinstance(effects[-1], Exception)
    world.disconnect()
    world.settle()
    for end in world.ends.values():
        end.crash()
    world.heal()
    world.produce("a", 5, arrives=True)
    world.settle()
    world.draw(world.ends["a"].pair, 1, 32)
    world.settle()
    key_ids = world.draw(world.ends["a"].pair, 1, 32)
    assert world.fetch(world.ends["b"].pair, key_ids)


def test_however_often_it_lies_indexes_keep_room_for_honest_blocks(world):
    """Four thousand million blocks, here."""
    for _ in range(400):
        known = world.ends["a"].pair.incoming.view()
        effects = lies(
            world, in_stream("outgoing", next_index=known.next_index + BLOCKS_LEAP, next_start=known.next_start)
        )
        if isinstance(effects[-1], Exception):
            break
    assert isinstance(effects[-1], PairProtocolError)
    assert world.ends["a"].pair.incoming.view().next_index <= 10**12 - BLOCKS_LEAP


def test_a_journal_that_was_driven_to_the_end_of_the_numbers_is_mended_by_rekeying(world):
    for name in ("a", "b"):
        end = world.ends[name]
        end.crash()
        pair = load_record(end.disk.records["pair"])
        pair |= {"generation": MOST, "seen_generation": MOST, "burns": MOST, "seen_burns": MOST}
        end.disk.records["pair"] = dump_record(pair)
    with pytest.raises(AssertionError, match="does not open"):
        world.heal()
    secret = world.entropy.random_bytes(1024)
    for name, end in world.ends.items():
        end.crash()
        batch = rekey_batch(end.disk.load(), name, end.peer, secret, store=end.disk, entropy=world.entropy)
        end.disk.commit(batch)
        assert json.loads(end.disk.records["pair"])["generation"] == 0
    world.secret = secret
    world.places_drawn.clear()
    world.heal()


def test_a_lease_above_everything_there_is_is_not_recorded(world):
    a, b = world.ends["a"].pair, world.ends["b"].pair
    upto = b.incoming.view().next_start + 1
    lease = Lease(b._session, upto, a._proof("a", f"lease {upto}"))
    with pytest.raises(PairProtocolError, match="nothing above"):
        list(b.receive(lease, 0.0))
    assert b.incoming.view().lease < upto


@pytest.mark.parametrize("far", ["index", "start"])
def test_a_block_at_an_address_out_of_reach_is_refused(world, far):
    a, b = world.ends["a"].pair, world.ends["b"].pair
    view = b.incoming.view()
    index = view.next_index + (BLOCKS_LEAP + 1 if far == "index" else 0)
    start = view.next_start + (GRANULES_LEAP + 1 if far == "start" else 0)
    announce = Announce(b._session, 77, index, start, 2, tuple(sorted(b.incoming._pool)[:3]))
    announce = replace(announce, proof=a._proof("a", statement_of(announce)))
    list(b.bits_arrived(77, bytearray(128 + 64)))
    effects = list(b.receive(announce, 0.0))
    assert [effect.message.type for effect in effects if isinstance(effect, Send)] == ["refused"]
    assert b.incoming.view() == view
