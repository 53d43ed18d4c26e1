"""Burning and re-keying a pair's journal: what is gone, what stays, what is refused."""

from typing import Any

import pytest

from shosoin.keys.blocks import load_record
from shosoin.keys.burning import burn_batch, check_secret, holding_of, is_installed, rekey_batch
from shosoin.keys.errors import PairSecretRejected, StreamNotReady, StreamRefused
from shosoin.keys.store import BurnCopies
from tests.keys.world import World


@pytest.fixture
def world():
    world = World()
    world.heal()
    for name in ("a", "b"):
        world.produce(name, 5, arrives=True)
        world.settle()
    return world


def drawn(world, name="a"):
    world.draw(world.ends[name].pair, 1, 32)
    world.settle()
    (key_id,) = world.draw(world.ends[name].pair, 1, 32)
    return key_id


def rekey(world, name, secret):
    end = world.ends[name]
    end.crash()
    batch = rekey_batch(end.disk.load(), name, end.peer, secret, store=end.disk, entropy=world.entropy)
    end.disk.commit(batch)


def test_a_burn_empties_one_end_at_once_and_the_other_when_they_meet(world):
    key_id = drawn(world)
    assert holding_of(world.ends["a"].disk.records).blocks == 2
    assert world.burn("a")
    held = holding_of(world.ends["a"].disk.records)
    assert (held.blocks, held.granules, held.burns) == (0, 0, 1)
    assert world.ends["b"].disk.blocks
    world.heal()
    assert not world.ends["b"].disk.blocks
    assert not world.fetch(world.ends["b"].pair, [key_id])
    assert [event.fields["burned_here"] for event in world.events if event.name == "keys.burned"] == [True, False]
    assert not [event for event in world.events if event.name == "keys.restored_copy"]


def test_after_a_burn_the_streams_go_on_above_everything_of_before(world):
    old = world.ends["b"].pair.outgoing.produced_granules
    world.burn("a")
    world.heal()
    world.produce("b", 5, arrives=True)
    world.settle()
    assert min(world.ends["b"].pair.outgoing._available)[0] >= old
    world.draw(world.ends["b"].pair, 1, 32)
    world.settle()
    key_ids = world.draw(world.ends["b"].pair, 1, 32)
    assert world.fetch(world.ends["a"].pair, key_ids)


def test_a_burn_is_carried_out_once(world):
    world.burn("a")
    world.heal()
    world.produce("a", 5, arrives=True)
    world.settle()
    for name in ("a", "b"):
        world.ends[name].crash()
    world.heal()
    assert world.ends["a"].disk.blocks
    assert len([event for event in world.events if event.name == "keys.burned"]) == 2


def test_a_copy_from_before_a_burn_that_the_peer_knows_of_is_a_restored_copy(world):
    world.snapshot("a")
    world.burn("a")
    world.heal()
    world.restore("a", 0, zombie=False)
    world.heal()
    assert {event.fields["restored"] for event in world.events if event.name == "keys.restored_copy"} == {"a"}
    assert not world.ends["a"].disk.blocks


def test_rekeying_both_ends_leaves_nothing_of_the_old_pair(world):
    key_id, secret = drawn(world), world.entropy.random_bytes(1024)
    for name in ("a", "b"):
        rekey(world, name, secret)
        assert not world.ends[name].disk.blocks
        assert is_installed(world.ends[name].disk.records, secret)
    world.secret = secret
    world.places_drawn.clear()  # offsets begin anew: it is another pair
    world.heal()
    assert not world.fetch(world.ends["b"].pair, [key_id])
    world.produce("a", 5, arrives=True)
    world.settle()
    assert drawn(world) != key_id


def test_with_one_end_rekeyed_the_pair_refuses_and_says_why(world):
    old, secret = world.secret, world.entropy.random_bytes(1024)
    rekey(world, "a", secret)
    world.secret = secret
    world.ends["a"].start()
    world.settle()
    world.connect()
    world.settle()
    for name in ("a", "b"):
        pair = world.ends[name].pair
        assert not pair.is_open
        assert "re-keyed" in pair.refusal
        with pytest.raises(StreamNotReady, match="does not prove that it holds our pair secret"):
            pair.require_open()
    assert {event.name for event in world.events} >= {"keys.forged_handshake"}
    world.disconnect()
    world.settle()
    rekey(world, "b", secret)
    world.heal()
    assert world.ends["a"].pair.refusal == world.ends["b"].pair.refusal == ""
    assert old != secret


def test_a_secret_is_used_once_only(world):
    first, second = world.secret, world.entropy.random_bytes(1024)
    rekey(world, "a", second)
    for used in (first, second):
        with pytest.raises(PairSecretRejected, match="used this secret before"):
            rekey(world, "a", used)
    rekey(world, "a", world.entropy.random_bytes(1024))
    with pytest.raises(PairSecretRejected, match="used this secret before"):
        rekey(world, "a", first)


@pytest.mark.parametrize(
    ("secret", "message"), [(b"x" * 1024, "1 different"), (bytes(1023), "1024 bytes, got 1023"), (b"", "got 0")]
)
def test_what_is_no_pair_secret_is_rejected(world, secret, message):
    with pytest.raises(PairSecretRejected, match=message):
        check_secret(secret)
    with pytest.raises(PairSecretRejected):
        rekey(world, "a", secret)


@pytest.mark.parametrize("damage", [b"[]", b"{}", b"?", None])
def test_an_incomplete_journal_is_refused(world, damage):
    records = {**world.ends["a"].disk.records, "pair": damage}
    if damage is None:
        del records["pair"]
    actions: list[Any] = [burn_batch, lambda found: is_installed(found, world.secret)]
    if damage != b"{}":
        actions.append(holding_of)
    for action in actions:
        with pytest.raises(StreamRefused):
            action(records)


def heal_site(world, name):
    """What ``shosoin kme heal`` does to a pair at one end."""
    end = world.ends[name]
    end.crash()
    end.disk.commit(burn_batch(end.disk.load(), until_rekeyed=True))


def meet(world):
    for name in ("a", "b"):
        world.ends[name].start()
    world.settle()
    world.connect()
    world.settle()


@pytest.mark.parametrize("peer_restarts", [False, True])
def test_a_copy_from_before_a_heal_stays_shut_under_the_old_secret(world, peer_restarts):
    world.snapshot("a")
    heal_site(world, "a")
    meet(world)
    if peer_restarts:
        world.ends["b"].crash()
    world.restore("a", 0, zombie=False)
    meet(world)
    for name in ("a", "b"):
        pair = world.ends[name].pair
        assert not pair.is_open
        assert not pair.is_connected
        assert "awaits another pair secret" in pair.refusal
    assert [event.fields["peer"] for event in world.events if event.name == "keys.rekey_needed"] == ["a", "b"]
    world.ends["a"].crash()  # and what the copy was told is durable
    assert world.ends["a"].disk.load()["pair"].count(b'"awaits_rekey":true')


def test_an_end_that_heard_of_a_heal_is_shut_before_the_handshake_is_over(world):
    heal_site(world, "a")
    send = world.send

    def dies_after_its_hello(sender, raw):
        if sender.name == "b" or b'"type":"hello"' in raw:
            send(sender, raw)

    world.send = dies_after_its_hello
    meet(world)
    assert "awaits another pair secret" in world.ends["b"].pair.refusal
    assert not world.ends["b"].pair.is_open


def test_a_pair_that_one_end_healed_opens_once_both_are_rekeyed(world):
    heal_site(world, "b")
    meet(world)
    secret = world.entropy.random_bytes(1024)
    for name in ("a", "b"):
        rekey(world, name, secret)
    world.secret = secret
    world.places_drawn.clear()
    world.heal()
    assert all(world.ends[name].pair.is_open for name in ("a", "b"))


def owes_copies(world, name):
    return load_record(world.ends[name].disk.records["pair"])["owes_copies"]


def test_the_start_after_a_burn_burns_the_copies_once_before_it_opens(world):
    end = world.ends["a"]
    world.burn("a")
    assert owes_copies(world, "a")
    end.start()
    effects = end.pair.start()
    assert next(effects) == BurnCopies()
    assert not end.pair.is_settled
    assert owes_copies(world, "a")
    world.heal()
    assert end.copies_burned == 1
    assert end.pair.is_settled
    assert not owes_copies(world, "a")
    end.crash()
    world.heal()
    assert end.copies_burned == 1


def test_a_start_that_ends_over_the_copies_of_a_burn_is_made_up_for_by_the_next(world):
    end = world.ends["a"]
    world.burn("a")
    for times in (1, 2):
        end.start()
        end.disk.crash_after = 0
        world.settle()
        assert (end.pair, end.copies_burned, owes_copies(world, "a")) == (None, times, True)
    world.heal()
    assert (end.copies_burned, owes_copies(world, "a")) == (3, False)


def test_a_pair_that_was_given_up_is_not_settled_and_a_re_keyed_one_owes_nothing(world):
    world.ends["a"].pair.abandon()
    assert not world.ends["a"].pair.is_settled
    world.burn("a")
    rekey(world, "a", world.entropy.random_bytes(1024))  # whoever re-keys burns the copies first
    assert not owes_copies(world, "a")


@pytest.mark.parametrize("dies", ["a", "b"])
def test_an_end_that_dies_in_a_burn_is_taken_for_no_old_copy(world, dies):
    for name in ("a", "b"):
        drawn(world, name)
    world.burn("a")
    for name in ("a", "b"):
        world.ends[name].start()
    world.settle()
    world.ends[dies].disk.crash_after = 0  # it hears the hello, and its plan does not become durable
    world.connect()
    world.settle()
    assert world.ends[dies].pair is None
    world.heal()
    assert not [event for event in world.events if event.name == "keys.restored_copy"]
    assert not any(pair._plan_open or pair._owes_plan for pair in (world.ends[name].pair for name in ("a", "b")))


def test_an_old_copy_is_named_though_the_other_end_was_burned_meanwhile(world):
    world.snapshot("b")
    world.produce("b", 5, arrives=True)
    world.settle()
    world.burn("a")
    world.restore("b", 0, zombie=False)
    world.heal()
    assert {event.fields["restored"] for event in world.events if event.name == "keys.restored_copy"} == {"b"}
