"""Messages said before are said again, and a peer that lies drives numbers up: what must hold all the same."""

from __future__ import annotations

from typing import Any

import pytest

from shosoin.keys.errors import PairProtocolError
from shosoin.keys.messages import Announce, Have, Hello, decode_message
from tests.keys.world import World


@pytest.fixture
def world():
    world = World()
    world.heal()
    return world


def heard_by(world, sender) -> list[Any]:
    """Record what an end says from now on."""
    said: list[Any] = []
    send = world.send

    def heard(end, raw):
        if end.name == sender:
            said.append(decode_message(raw))
        send(end, raw)

    world.send = heard
    return said


def say_again(world, end, message):
    """Let somebody who broke TLS say again what was said before, in the same session."""
    world.ends[end].later(lambda pair: pair.receive(message, world.now_s))
    world.settle()


def drawn_and_dropped(world, number=4):
    """Draw a whole block at A, so that A forgets it while B's slaves have fetched nothing."""
    a = world.ends["a"]
    world.produce("a", number, arrives=True)
    world.settle()
    world.draw(a.pair, number, 32)
    world.settle()
    key_ids = world.draw(a.pair, number, 32)
    assert len(key_ids) == number
    a.later(lambda pair: pair.tick(world.now_s))
    world.settle()
    assert not len(a.pair.outgoing._blocks)
    return key_ids


def test_a_have_said_again_burns_no_key_that_was_handed_out(world):
    said = heard_by(world, "b")
    key_ids = drawn_and_dropped(world)
    (have,) = (message for message in said if isinstance(message, Have))
    say_again(world, "a", have)
    assert world.fetch(world.ends["b"].pair, key_ids)


def test_an_announcement_said_again_spends_no_verification_entry(world):
    """Its block was given up because the bits came too late; the sender has the entries back and uses them again."""
    a, b = (world.ends[name] for name in "ab")
    said = heard_by(world, "a")
    number = world.link_number
    world.produce("a", 4, arrives=False)
    world.settle()
    world.now_s += 20.0
    b.later(lambda pair: pair.tick(world.now_s))
    world.settle()
    (announce,) = (message for message in said if isinstance(message, Announce))
    before = len(a.pair.outgoing._pool)
    b.later(lambda pair: pair.bits_arrived(number, bytearray(world.entropy.random_bytes(128 + 4 * 32))))
    say_again(world, "b", announce)
    world.heal()
    assert len(a.pair.outgoing._pool) == len(b.pair.incoming._pool) == before
    world.produce("a", 4, arrives=True)
    world.settle()
    assert a.pair.outgoing.stock_granules() == 4


@pytest.mark.parametrize("sender", ["a", "b"])
def test_whatever_was_said_counts_once(world, sender):
    """Each message of a day's work, said again, changes nothing on disk and ends the connection."""
    said = heard_by(world, sender)
    for name in ("a", "b"):
        drawn_from(world, name)
    proven = [message for message in said if getattr(message, "proof", "") and not isinstance(message, Hello)]
    assert {message.type for message in proven} >= {"announce", "have", "compare", "lease", "leased", "passed"}
    other = world.ends["b" if sender == "a" else "a"]
    for message in proven:
        with pytest.raises(PairProtocolError):
            list(other.pair.receive(message, world.now_s))


def drawn_from(world, name):
    end = world.ends[name]
    world.produce(name, 6, arrives=True)
    world.settle()
    for _ in range(2):
        world.draw(end.pair, 2, 32)
        world.settle()
    end.later(lambda pair: pair.tick(world.now_s))
    world.settle()


def test_a_message_that_was_held_back_is_missed(world):
    """Whoever lets a burn disappear cannot have the session go on as if nothing had been said."""
    a, b = (world.ends[name] for name in "ab")
    world.produce("a", 4, arrives=True)
    world.settle()
    send = world.send
    world.send = lambda *_: None
    a.later(lambda pair: pair.extend_lease(2))
    world.settle()
    world.send = send
    a.later(lambda pair: pair.extend_lease(4))
    world.settle()
    assert not b.pair.is_connected
    world.heal()
    world.draw(a.pair, 1, 32)
    world.settle()
    assert world.draw(a.pair, 1, 32)
