"""The pair protocol step by step: what is refused, what is burned, what survives."""

import dataclasses

import pytest

from shosoin.base.ports import Event
from shosoin.keys import reconcile
from shosoin.keys.blocks import Block
from shosoin.keys.errors import KeyDamaged, KeyNotFound, KeyStreamDry, LeaseNeeded, StreamNotReady, StreamRefused
from shosoin.keys.key_id import GRANULE_BYTES, KeyAddress
from shosoin.keys.messages import BlockState, Compare, Confirmed, Ready, Stored, Welcome, decode_message
from shosoin.keys.pair import PairEnd
from shosoin.keys.pool import VerificationPool
from tests.keys.world import LIMITS, MemoryStore, World


@pytest.fixture
def world():
    world = World()
    world.heal()
    return world


def ends(world):
    return world.ends["a"], world.ends["b"]


def stock(world, granules=8):
    world.produce("a", granules, arrives=True)
    world.settle()


def drawn(world, number=1, length=32):
    a, _ = ends(world)
    for _ in range(3):
        key_ids = world.draw(a.pair, number, length)
        world.settle()
        if key_ids:
            return key_ids
    raise AssertionError("nothing drawn")


def names(world):
    return [event.name for event in world.events if isinstance(event, Event)]


def test_keys_are_equal_at_both_ends_and_come_once(world):
    stock(world)
    key_ids = drawn(world, 3, 40)
    assert world.fetch(world.ends["b"].pair, key_ids)
    assert not world.fetch(world.ends["b"].pair, key_ids[:1])


def test_a_block_counts_as_stock_at_every_step_until_it_is_drawn(world):
    """Whoever asks how much room is left may ask while a block is on its way to the disk."""
    world.produce("a", 8, arrives=True)
    a, b = ends(world)
    seen = []
    while any([a.advance(), b.advance()]):
        seen.append(a.pair.outgoing.left_granules())
    assert seen[-1] == 8
    assert set(seen[seen.index(8) :]) == {8}


def test_a_request_is_served_whole_or_not_at_all(world):
    stock(world, 4)
    a, _ = ends(world)
    with pytest.raises(KeyStreamDry):
        a.pair.outgoing.allocate(5, 32)
    with pytest.raises(LeaseNeeded):
        a.pair.outgoing.allocate(4, 32)
    assert a.pair.outgoing.stock_granules() == 4


def test_a_key_may_span_blocks(world):
    stock(world, 3)
    stock(world, 3)
    (key_id,) = drawn(world, 1, 5 * GRANULE_BYTES)
    assert world.fetch(world.ends["b"].pair, [key_id])


def test_nothing_is_served_before_the_handshake_of_this_run(world):
    a, _ = ends(world)
    a.crash()
    a.start()
    world.settle()
    with pytest.raises(StreamNotReady):
        a.pair.require_open()


@pytest.mark.parametrize("kind", [Stored, Ready, Confirmed])
def test_a_forged_tag_burns_the_block_at_both_ends_and_raises_an_alarm(world, kind):
    a, b = ends(world)
    honest = world.send

    def tampering(sender, raw):
        from shosoin.keys.messages import encode_message

        message = decode_message(raw)
        if isinstance(message, kind):
            message = dataclasses.replace(message, tag="00" * 16)
        honest(sender, encode_message(message))

    world.send = tampering
    stock(world)
    world.send = honest
    assert a.pair.outgoing.stock_granules() == 0
    assert not a.disk.blocks
    assert not b.disk.blocks
    assert any(event.severity == "alarm" for event in world.events)
    stock(world)
    assert a.pair.outgoing.stock_granules() == 8


def test_differing_bits_are_found_and_cost_one_entry(world):
    a, b = ends(world)
    before = len(a.pair.outgoing._pool)
    bits = bytearray(world.entropy.random_bytes(128 + 64))
    sent = bytes(bits)
    a.later(lambda pair: pair.begin_block(99, sent))
    bits[150] ^= 1
    b.later(lambda pair: pair.bits_arrived(99, bits))
    world.settle()
    assert "keys.block_mismatch" in names(world)
    assert len(a.pair.outgoing._pool) == before - 1
    assert set(a.pair.outgoing._pool) == set(b.pair.incoming._pool)


def test_a_restored_sender_hands_no_entry_back_that_it_may_have_spent(world):
    a, b = ends(world)
    sent, honest = [], world.send

    def listening(sender, raw):
        sent.append(decode_message(raw))
        honest(sender, raw)

    world.send = listening
    world.produce("a", 4, arrives=True)
    while not b.disk.blocks:
        a.advance()
        b.advance()
    world.snapshot("a")  # pending here, stored there
    while not any(isinstance(message, Ready) for message in sent):
        a.advance()
        if not sent or not isinstance(sent[-1], Ready):
            b.advance()
    world.disconnect()
    world.restore("a", 0, zombie=False)
    a.disk.wiped[a.stored_name("out", 0)].add(1)
    world.heal()
    stock(world)  # what each key authenticates is checked as it is sent
    assert "keys.block_mismatch" in names(world)
    assert a.pair.outgoing.stock_granules() == 8


@pytest.mark.parametrize("recognized", [True, False])
def test_a_restored_receiver_brings_no_spent_entry_back(world, recognized, monkeypatch):
    if not recognized:
        monkeypatch.setattr(reconcile, "_receiver_forgot", lambda own, other: False)
    a, b = ends(world)
    sent, honest = [], world.send

    def listening(sender, raw):
        sent.append(decode_message(raw))
        honest(sender, raw)

    world.snapshot("b")
    world.send = listening
    world.produce("a", 3, arrives=True)
    while not any(isinstance(message, Stored) for message in sent):
        a.advance()
        b.advance()
    world.disconnect()
    world.restore("b", 0, zombie=False)
    world.heal()
    stock(world, 3)  # what each key authenticates is checked as it is sent
    assert a.pair.outgoing.stock_granules() == 3


def test_a_block_that_keys_passed_over_is_not_kept_by_the_receiver(world):
    a, b = ends(world)
    honest = world.send

    def losing(sender, raw):
        if not isinstance(decode_message(raw), Stored):
            honest(sender, raw)

    for _ in range(6):  # until the pool allows several blocks under way
        stock(world, 1)
    world.send = losing
    stock(world, 2)
    world.send = honest
    stock(world, 4)
    drawn(world, 7)
    assert b.pair.incoming._blocks.get(6) is not None
    world.disconnect()
    world.heal()
    world.settle()
    assert a.pair.outgoing._blocks.get(6) is b.pair.incoming._blocks.get(6) is None
    assert b.stored_name("in", 6) not in b.disk.blocks


def test_bits_that_never_arrive_cost_no_entry(world):
    a, b = ends(world)
    before = len(a.pair.outgoing._pool)
    world.produce("a", 4, arrives=False)
    world.settle()
    world.now_s += 60
    b.later(lambda pair: pair.tick(world.now_s))
    world.settle()
    assert len(a.pair.outgoing._pool) == before
    assert not a.disk.blocks
    stock(world)
    assert a.pair.outgoing.stock_granules() == 8


def test_a_number_that_the_link_uses_again_leaves_no_block_waiting(world):
    a, b = ends(world)
    for pool in (a.pair.outgoing._pool, b.pair.incoming._pool):  # so that several blocks may be under way
        pool.put({number: bytes([number]) * 32 for number in range(100, 120)})
    lost, seen = (world.entropy.random_bytes(128 + 4 * GRANULE_BYTES) for _ in range(2))
    for bits in (lost, seen):
        a.later(lambda pair, bits=bits: pair.begin_block(7, bits))
        world.settle()
    b.later(lambda pair: pair.bits_arrived(7, bytearray(seen)))
    world.settle()
    assert [block.index for block in a.pair.outgoing._blocks] == [1]
    assert a.pair.outgoing.stock_granules() == 4


def test_a_welcome_that_comes_twice_ends_the_channel_and_nothing_else(world):
    a, b = ends(world)
    welcomes, honest = [], world.send

    def listening(sender, raw):
        if sender is b and isinstance(decode_message(raw), Welcome):
            welcomes.append(decode_message(raw))
        honest(sender, raw)

    world.send = listening
    world.disconnect()
    world.heal()
    stock(world)
    a.later(lambda pair: pair.receive(welcomes[0], world.now_s))
    world.settle()
    assert not a.pair.is_connected
    world.heal()
    assert a.pair.outgoing.stock_granules() == 8


def test_an_attacker_who_spoils_every_block_stops_the_stream_but_not_silently(world):
    a, b = ends(world)
    for number in range(40):
        bits = world.entropy.random_bytes(128 + 64)
        a.later(lambda pair, n=number, raw=bits: pair.begin_block(1000 + n, raw))
        b.later(lambda pair, n=number, raw=bits: pair.bits_arrived(1000 + n, bytearray(len(raw))))
        world.settle()
    assert a.pair.outgoing.pool_exhausted
    assert names(world).count("keys.block_mismatch") > 10


def test_fetched_and_expired_keys_leave_the_disks(world):
    a, b = ends(world)
    stock(world, 4)
    fetched, _ = drawn(world, 1, 64), drawn(world, 1, 64)
    world.fetch(b.pair, fetched)
    for end in (a, b):
        end.later(lambda pair: pair.tick(world.now_s))
        world.settle()
    assert not a.disk.blocks
    assert b.disk.wiped == {b.stored_name("in", 0): {0, 1}}
    world.now_s += LIMITS.expiry_s + 1
    b.later(lambda pair: pair.tick(world.now_s))
    world.settle()
    assert not b.disk.blocks


def test_rotten_granules_are_never_served(world):
    _, b = ends(world)
    stock(world, 4)
    (good, bad) = drawn(world, 1, 32), drawn(world, 1, 32)
    b.disk.wiped[b.stored_name("in", 0)].add(1)
    assert world.fetch(b.pair, good)
    address = b.pair.incoming_ids.decode(bad[0], "m", "s", near=0)
    with pytest.raises(KeyDamaged):
        b.pair.incoming.fetch([address])
    with pytest.raises(KeyNotFound):
        b.pair.incoming.fetch([address])


def test_an_address_beyond_the_lease_is_not_served(world):
    stock(world)
    _, b = ends(world)
    with pytest.raises(KeyNotFound):
        b.pair.incoming.fetch([KeyAddress(0, 32)])


def test_a_killed_receiver_serves_nothing_that_was_leased_before(world):
    stock(world)
    key_ids = drawn(world, 4)
    _, b = ends(world)
    b.crash()
    world.heal()
    assert b.disk.blocks, "the block goes on above the lease"
    assert not any(world.fetch(b.pair, [key_id]) for key_id in key_ids)


def test_overlapping_addresses_are_not_served(world):
    stock(world)
    drawn(world, 4)
    _, b = ends(world)
    with pytest.raises(KeyNotFound):
        b.pair.incoming.fetch([KeyAddress(0, 64), KeyAddress(1, 32)])
    assert b.pair.incoming.fetch([KeyAddress(0, 64)])


def test_a_restored_copy_is_named_and_burns_both_directions(world):
    a, b = ends(world)
    a.crash()
    world.snapshot("a")
    world.heal()
    stock(world)
    world.produce("b", 4, arrives=True)
    world.settle()
    world.restore("a", 0, zombie=False)
    world.heal()
    restored = [event.fields for event in world.events if event.name == "keys.restored_copy"]
    assert {fields["restored"] for fields in restored} == {"a"}
    assert a.pair.outgoing.stock_granules() == b.pair.outgoing.stock_granules() == 0
    assert a.pair.outgoing._next_start == a.pair.outgoing._cursor >= 8
    stock(world)
    assert world.fetch(b.pair, drawn(world))


def test_the_journal_of_another_pair_is_refused():
    world = World()
    world.heal()
    for secret, peer in ((bytes(1024), "b"), (world.secret, "c")):
        pair = PairEnd("a", peer, secret, world.ends["a"].disk, world.entropy, LIMITS)
        with pytest.raises(StreamRefused):
            list(pair.start())


@pytest.mark.parametrize("name", ["pair", "stream/out", "stream/in", "pool/in", "pool/out"])
def test_an_incomplete_journal_is_refused(name):
    world = World()
    world.heal()
    disk = world.ends["a"].disk
    del disk.records[name]
    with pytest.raises(StreamRefused):
        list(PairEnd("a", "b", world.secret, disk, world.entropy, LIMITS).start())


def test_a_short_pair_secret_is_refused():
    with pytest.raises(StreamRefused):
        PairEnd("a", "b", bytes(1000), MemoryStore(), World().entropy, LIMITS)


def test_the_pool_keeps_installed_entries_and_is_bounded():
    pool = VerificationPool.from_secret(bytes(14 * 32))
    for index in range(100):
        pool.put_reserve(index, bytes(128))
    assert len(pool) == 128
    assert [number for number in pool if number < 0] == list(range(-14, 0))
    assert list(pool.take_newest()) == [397, 398, 399]


def test_an_entry_is_written_down_as_spent_before_the_tag_under_it_is_asked_for(world):
    a, _ = ends(world)
    send, states = world.send, list[BlockState]()

    def seen(sender, raw):
        if sender is a and isinstance(decode_message(raw), Compare):
            states.extend(
                Block.load(record).state for name, record in a.disk.records.items() if name.startswith("block/")
            )
        send(sender, raw)

    world.send = seen
    stock(world)
    assert states == [BlockState.OFFERED]


def test_a_sender_begins_at_the_lease_when_its_receiver_is_new(world):
    stock(world, 24)
    drawn(world)
    world.ends["b"].crash()
    world.heal()
    stock(world)
    assert world.fetch(world.ends["b"].pair, drawn(world)), "what lies below the lease counts as fetched there"
