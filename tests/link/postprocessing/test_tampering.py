"""Whatever somebody does on the wire, there is an alarm or an error of a kind, and never a key of one end alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shosoin.base import Alarm, PeerFault, ShosoinError
from shosoin.link.postprocessing.authentication import DEFERRED
from shosoin.link.postprocessing.errors import MessageForged
from shosoin.link.postprocessing.messages import Parities
from tests.link.postprocessing.world import SMALL, World, made_records, with_codes

RECORDS = made_records(340_000)
ONE_BLOCK = replace(SMALL, block_bits=12_288)


@pytest.fixture(scope="module")
def honest() -> World:
    world = World(ONE_BLOCK, RECORDS).run().check()
    assert len(world.keys[0]) == 1
    return world


def tampered(number: int, change) -> tuple[World, ShosoinError | None]:
    """Run with one message changed; return what came of it: no error where both ends wait for ever for what is lost."""
    world = World(ONE_BLOCK, RECORDS, tamper=lambda at, raw: change(raw) if at == number else raw)
    try:
        assert not world.session()
    except ShosoinError as error:
        return world, error
    return world, None


def check_nothing_came_of_it(honest: World, number: int, world: World) -> None:
    """A key that one end has already before the change is the honest one; a changed message never makes one."""
    assert all(honest.keys[0][block] == key for keys in world.keys for block, key in keys.items())
    if not any(type(passed.message).__name__ == "Done" for passed in honest.wire[:number]):
        assert not world.keys[0]


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_anywhere_in_any_message_is_found_out(honest, data):
    number = data.draw(st.integers(0, len(honest.wire) - 1))
    raw = honest.wire[number].raw
    at = data.draw(st.integers(0, 8 * len(raw) - 1))

    def flip(message: bytes) -> bytes:
        changed = bytearray(message)
        changed[at // 8] ^= 1 << at % 8
        return bytes(changed)

    world, error = tampered(number, flip)
    assert isinstance(error, Alarm | PeerFault)
    check_nothing_came_of_it(honest, number, world)


def test_a_changed_parity_is_found_out_before_there_is_a_key():
    parameters = with_codes("cascade")
    honest = World(parameters, RECORDS).run()
    numbers = [number for number, passed in enumerate(honest.wire) if isinstance(passed.message, Parities)]
    for number in (numbers[0], numbers[1], numbers[len(numbers) // 2], numbers[-2], numbers[-1]):

        def flip(at: int, raw: bytes, number: int = number) -> bytes:
            return raw[:-1] + bytes([raw[-1] ^ 1]) if at == number else raw

        flipped = World(parameters, RECORDS, tamper=flip)
        with pytest.raises((Alarm, PeerFault)):
            flipped.session()
        assert flipped.keys == ({}, {})


@pytest.mark.parametrize("way", ["dropped", "doubled", "cut", "longer"])
def test_a_message_that_is_lost_repeated_cut_or_longer_is_found_out(honest, way):
    change = {
        "dropped": lambda raw: [],
        "doubled": lambda raw: [raw, raw],
        "cut": lambda raw: raw[:-1],
        "longer": lambda raw: raw + b"\0",
    }[way]
    tagged = [number for number, passed in enumerate(honest.wire) if passed.header.pad_position != DEFERRED]
    for number in tagged[:-3]:
        world, error = tampered(number, change)
        assert isinstance(error, Alarm | PeerFault) or (way == "dropped" and error is None)
        check_nothing_came_of_it(honest, number, world)


def test_two_messages_in_the_other_order_are_found_out(honest):
    held: list[bytes] = []
    numbers = [number for number, passed in enumerate(honest.wire) if type(passed.message).__name__ == "Detected"]

    def swap(at: int, raw: bytes) -> bytes | list[bytes]:
        if at == numbers[0]:
            held.append(raw)
            return []
        return [raw, *held] if at == numbers[1] else raw

    world = World(ONE_BLOCK, RECORDS, tamper=swap)
    with pytest.raises(MessageForged):
        world.session()
    assert world.keys == ({}, {})


def test_a_message_of_an_earlier_session_is_found_out(honest):
    recorded = next(passed.raw for passed in honest.wire if passed.header.direction == 1)
    world = World(ONE_BLOCK, RECORDS, journals=honest.journals, tamper=lambda at, raw: recorded if at == 0 else raw)
    with pytest.raises(MessageForged) as told:
        world.session()
    assert told.value.code == "link.authentication_reused"
