"""A message whose proof is missing, another's, or that of another message changes nothing and ends the connection."""

import dataclasses
from dataclasses import replace
from typing import Any, get_args

import pytest

from shosoin.keys.errors import PairProtocolError
from shosoin.keys.messages import (
    Announce,
    Burn,
    Closed,
    Closing,
    Compare,
    Have,
    Hello,
    Lease,
    Leased,
    Message,
    Passed,
    Proven,
    Refused,
    Welcome,
    decode_message,
    statement_of,
)
from shosoin.keys.store import Commit, Send
from tests.keys.world import LIMITS, World

PROVEN: dict[type[Any], Any] = {
    Announce: lambda s: Announce(s, 9, 5, 40, 2, (-1, -2, -3)),
    Have: lambda s: Have(s, 0),
    Compare: lambda s: Compare(s, 0),
    Refused: lambda s: Refused(s, 0, ()),
    Burn: lambda s: Burn(s, 0, ()),
    Lease: lambda s: Lease(s, 5),
    Leased: lambda s: Leased(s, 0),
    Passed: lambda s: Passed(s, 4),
    Closing: lambda s: Closing(s, "00" * 16),
    Closed: lambda s: Closed(s, "00" * 16),
}


@pytest.fixture
def world():
    world = World()
    world.heal()
    for name in ("a", "b"):
        world.produce(name, 5, arrives=True)
        world.settle()
        world.draw(world.ends[name].pair, 1, 32)
        world.settle()
    return world


def test_every_message_has_a_proof_or_a_tag_under_a_one_time_key():
    assert set(PROVEN) == set(get_args(Proven))
    for kind in get_args(Message):
        members = {item.name for item in dataclasses.fields(kind)}
        assert len(members & {"proof", "tag"}) == 1, kind
        assert ("proof" in members) == (kind in {*PROVEN, Hello, Welcome})


@pytest.mark.parametrize("kind", PROVEN, ids=lambda kind: kind.type)
@pytest.mark.parametrize("whose", ["none", "own", "of another session", "of another message"])
def test_what_the_peer_did_not_say_changes_nothing(world, kind, whose):
    b = world.ends["b"].pair
    message = PROVEN[kind](b._session)
    if whose == "own":
        message = replace(message, proof=b._proof("b", statement_of(message)))
    elif whose == "of another session":
        right, b._session = b._session, "0" * 32
        message = replace(message, proof=b._proof("a", statement_of(message)))
        b._session = right
    elif whose == "of another message":
        message = replace(message, proof=b._proof("a", statement_of(message) + " 1"))
    before = dict(world.ends["b"].disk.records), world.ends["b"].disk.blocks.keys()
    effects: list[Any] = []
    with pytest.raises(PairProtocolError, match="somebody else"):
        effects += b.receive(message, 0.0)
    assert not effects
    assert (dict(world.ends["b"].disk.records), world.ends["b"].disk.blocks.keys()) == before


@pytest.mark.parametrize("kind", [Burn, Refused])
def test_stock_is_burned_at_the_peers_word_alone(world, kind):
    """The block is there after a forged message, and gone after the peer's."""
    b = world.ends["b"].pair
    side, direction = (b.incoming, "in") if kind is Burn else (b.outgoing, "out")
    name = world.ends["b"].stored_name(direction, 0)
    forged = PROVEN[kind](b._session)
    with pytest.raises(PairProtocolError):
        list(b.receive(forged, 0.0))
    assert side._blocks.get(0) is not None
    for effect in b.receive(replace(forged, proof=b._proof("a", statement_of(forged))), 0.0):
        if isinstance(effect, Commit):
            assert name in effect.batch.drops
    assert side._blocks.get(0) is None


def test_all_that_the_two_ends_say_is_proved(world):
    """Whatever an end sends in a day's work, the other end takes."""
    said: set[str] = set()
    send = world.send

    def heard(sender, raw):
        message = decode_message(raw)
        said.add(message.type)
        assert getattr(message, "proof", "-"), message.type
        send(sender, raw)

    world.send = heard
    for name in ("a", "b"):
        end = world.ends[name]
        world.produce(name, 5, arrives=True)
        world.settle()
        end.later(lambda pair: pair.extend_lease(4))
        world.settle()
        world.draw(end.pair, 2, 32)
        end.later(lambda pair: pair.tick(0.0))
        world.settle()
        world.produce(name, 5, arrives=False)
        world.settle()
        world.now_s += 20.0
        world.ends[end.peer].later(lambda pair: pair.tick(world.now_s))
        world.settle()
    world.ends["a"].later(lambda pair: pair.close())
    world.settle()
    assert said >= {kind.type for kind in PROVEN}
    assert all(end.pair.is_connected for end in world.ends.values())


def test_before_a_handshake_an_end_says_nothing_that_counts():
    """Blocks grow too old while the other end has not been met yet."""
    world = World()
    world.limits["a"] = replace(LIMITS, max_age_s=100)
    world.heal()
    world.wall_s = 1.0
    world.produce("a", 5, arrives=True)
    world.settle()
    a = world.ends["a"]
    a.crash()
    world.wall_s = 1000.0
    a.start()
    world.settle()
    effects = list(a.pair.tick(0.0))
    assert any(isinstance(effect, Commit) and effect.batch.drops for effect in effects)
    said = [effect.message for effect in effects if isinstance(effect, Send)]
    assert [message.proof for message in said if isinstance(message, Burn)] == [""]
