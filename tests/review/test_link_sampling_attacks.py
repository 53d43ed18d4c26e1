"""Whoever hears what the ends announce: no basis, bit or intensity of a block while a pulse of it is still to come.

And nobody chooses where a block ends: it ends with a number of detections, whatever their bases, bits and intensities.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.base import Alarm, PeerFault, Rejected
from shosoin.link.events.records import Detections, Settings
from shosoin.link.postprocessing import Receiver, Transmitter, VoidReason, parameters
from shosoin.link.postprocessing.authentication import HEADER_BYTES, parse_header
from shosoin.link.postprocessing.errors import JournalRefused, PeerBrokeProtocol
from shosoin.link.postprocessing.messages import Detected, End, Message, Sifted, decode_message
from tests.link.postprocessing.world import SETTINGS, SMALL, Records, World, made_records, with_codes

TINY = replace(SMALL, block_bits=64)
GROUP = 256
RECORDS = made_records(20_000)
CLICKS = RECORDS.detected


def in_parts(records: Records, cuts: list[int]) -> Records:
    """Return the same record, fed in other parts."""
    pulses, bases, bits = (
        np.concatenate([getattr(part, name) for part in records.detections]) for name in ("pulses", "bases", "bits")
    )
    edges = sorted({0, *(min(cut, len(pulses)) for cut in cuts), len(pulses)})
    firsts = [0, *(int(pulses[edge]) for edge in edges[1:-1]), records.sent.count]
    parts = [
        Detections(first, end - first, pulses[low:high], bases[low:high], bits[low:high])
        for (first, end), (low, high) in zip(pairwise(firsts), pairwise(edges), strict=True)
    ]
    return replace(records, detections=parts)


class Listener:
    """Runs both ends, hears everything, and notes how much was received before each announcement."""

    def __init__(self, records: Records, *, is_over: bool = True) -> None:
        world = World(TINY, records)
        transmitter, receiver = world.ends()
        receiver.start()
        self.heard: list[tuple[int, bool, Detected]] = []
        self.held_most = fed = 0

        def pass_on(ended: bool) -> None:
            known = 0
            while world._pass_on(receiver, transmitter) + world._pass_on(transmitter, receiver):
                announced = [passed.message for passed in world.wire if isinstance(passed.message, Detected)]
                self.heard += [(fed, ended, message) for message in announced[len(self.heard) :]]
                known += 1

        pass_on(False)
        transmitter.feed(records.sent)
        for part in records.detections:
            assert receiver.wants_detections
            receiver.feed(part)
            fed += len(part.pulses)
            self.held_most = max(self.held_most, receiver._recorded_count)
            pass_on(False)
        if is_over:
            receiver.feed_end()
            pass_on(True)
            assert transmitter.is_finished
            assert receiver.is_finished
        for number, end in enumerate((transmitter, receiver)):
            world._take(number, end)
        self.world = world


@given(st.lists(st.integers(1, CLICKS - 1), max_size=40), st.booleans())
@settings(max_examples=25, deadline=None)
def test_nothing_about_a_group_leaves_the_receiver_before_its_last_detection_is_recorded(cuts, is_over):
    listener = Listener(in_parts(RECORDS, cuts), is_over=is_over)
    told = 0
    for fed, ended, message in listener.heard:
        group = told // GROUP
        told += len(message.pulses)
        assert (told - 1) // GROUP == group  # a batch lies within one group
        assert ended or fed >= (group + 1) * GROUP
    assert told == (CLICKS if is_over else CLICKS // GROUP * GROUP)
    assert listener.world.voids[0] == listener.world.voids[1]


def test_a_receiver_holds_no_more_than_a_group_beyond_what_it_announces():
    listener = Listener(in_parts(RECORDS, [*range(0, CLICKS, 10)]))
    assert listener.held_most <= GROUP + 10
    world = World(TINY, in_parts(RECORDS, [*range(0, CLICKS, 10)]))
    transmitter, receiver = world.ends()
    receiver.start()
    world._pass_on(receiver, transmitter)
    world._pass_on(transmitter, receiver)
    todo = list(world.records.detections)
    while receiver.wants_detections:
        receiver.feed(todo.pop(0))
    assert receiver._recorded_count < 2 * GROUP + 10  # four batches are announced and nobody answers
    assert len(receiver._recorded) <= 3  # in few parts, however it came


def with_other_choices(records: Records, seed: int) -> Records:
    """Return records of the same clicks with other bases, bits and intensities at both ends."""
    rng = np.random.default_rng(seed)
    sent = replace(
        records.sent,
        bits=rng.integers(0, 256, records.sent.bits.size, dtype=np.uint8),
        bases=rng.integers(0, 256, records.sent.bases.size, dtype=np.uint8),
        intensity=rng.integers(0, 2, records.sent.count, dtype=np.uint8),
    )
    share = rng.random()
    parts = [
        replace(
            part,
            bases=(rng.random(len(part.bases)) < share).astype(np.uint8),
            bits=rng.integers(0, 2, len(part.bits), dtype=np.uint8),
        )
        for part in records.detections
    ]
    return Records(sent, parts)


@pytest.mark.parametrize("seed", range(4))
def test_where_a_block_ends_depends_on_no_basis_bit_or_intensity(seed):
    borders = [
        [(int(message.pulses[0]), int(message.pulses[-1])) for _, _, message in Listener(records).heard]
        for records in (RECORDS, with_other_choices(RECORDS, seed))
    ]
    assert borders[0] == borders[1]


WHOLE = SMALL.block_detections


@pytest.mark.parametrize("size", [WHOLE, WHOLE - 1, WHOLE + 1, WHOLE // 2, 2 * WHOLE, 1, 1 << 20])
def test_a_receiver_with_groups_of_its_own_gets_no_key_and_never_another_one(size):
    world = World(SMALL, made_records(400_000))
    begun = world.ends

    def ends():
        transmitter, receiver = begun()
        receiver._block_detections = size
        return transmitter, receiver

    world.ends = ends  # type: ignore[method-assign]
    with contextlib.suppress(PeerFault, Alarm):
        world.session()
    assert world.keys[0] == world.keys[1]
    assert bool(world.keys[0]) == (size == WHOLE)


@pytest.mark.parametrize("size", [GROUP - 1, GROUP + 1, GROUP + 100])
def test_a_batch_that_spans_two_groups_is_refused_before_anything_is_said_about_it(size):
    world = World(TINY, RECORDS)
    transmitter, receiver = world.ends()
    receiver._block_detections = size
    receiver.start()
    transmitter.feed(RECORDS.sent)
    with pytest.raises(PeerBrokeProtocol, match="the block lacks"):
        talk(world, transmitter, receiver)
    answered = [*world.messages(Sifted), *map(decoded, transmitter.outgoing())]
    assert sum(len(message.pulses) for message in world.messages(Detected)) > GROUP
    assert sum(len(message.is_kept) for message in answered if isinstance(message, Sifted)) <= GROUP


@pytest.mark.parametrize("pulses", [(5, 9), (3, 5), (4, 9), (0, 9)])
@pytest.mark.parametrize("anew", [False, True], ids=["in one session", "in the next"])
def test_a_pulse_that_was_passed_is_never_taken_again(pulses, anew):
    world = World(TINY, RECORDS)
    for batch, told in enumerate(((3, 5), pulses)):
        if not batch or anew:
            transmitter, receiver = world.ends()
            receiver._next_pulse = 6 * batch
            receiver.start()
            assert world._pass_on(receiver, transmitter) + world._pass_on(transmitter, receiver)
            transmitter.feed(RECORDS.sent)
        number = 0 if anew else batch
        receiver._send(batch_of(*told), number)
        if not batch:
            world._pass_on(receiver, transmitter)
    with pytest.raises(PeerBrokeProtocol, match="announced before"):
        world._pass_on(receiver, transmitter)


def batch_of(*pulses: int) -> Detected:
    return Detected(np.array(pulses, np.int64), np.zeros(len(pulses), np.bool_), np.zeros(0, np.uint8))


@pytest.mark.parametrize("is_recorded", [True, False], ids=["pulses recorded", "pulses awaited"])
@pytest.mark.parametrize("further", [batch_of(9), End()], ids=["detections", "another end"])
def test_nothing_comes_after_the_end_of_a_record(is_recorded, further):
    world = World(TINY, RECORDS)
    transmitter, receiver = world.ends()
    receiver.start()
    assert world._pass_on(receiver, transmitter) + world._pass_on(transmitter, receiver)
    if is_recorded:
        transmitter.feed(RECORDS.sent)
    for number, message in enumerate((batch_of(3, 5), End(), further)):
        receiver._send(message, number)
    with pytest.raises(PeerBrokeProtocol, match="does not fit"):
        world._pass_on(receiver, transmitter)


def test_a_transmitter_holds_no_more_batches_than_a_receiver_may_announce():
    world = World(TINY, RECORDS)
    transmitter, receiver = world.ends()
    receiver.start()
    assert world._pass_on(receiver, transmitter) + world._pass_on(transmitter, receiver)
    for number in range(5):
        receiver._send(batch_of(number), number)
    with pytest.raises(PeerBrokeProtocol, match="about 4 does not fit"):
        world._pass_on(receiver, transmitter)


def test_either_end_refuses_a_session_that_would_begin_at_a_pulse_that_was_passed():
    world = World(TINY, RECORDS)
    transmitter, receiver = world.ends()
    transmitter._next_pulse = 6
    receiver.start()
    with pytest.raises(JournalRefused):
        world._pass_on(receiver, transmitter)
    with pytest.raises(JournalRefused):
        world._pass_on(transmitter, receiver)


def talk(world: World, transmitter: Transmitter, receiver: Receiver) -> None:
    for part in RECORDS.detections:
        while world._pass_on(receiver, transmitter) + world._pass_on(transmitter, receiver):
            pass
        receiver.feed(part)


def decoded(raw: bytes) -> Message:
    header = parse_header(raw)
    return decode_message(header.kind, raw[HEADER_BYTES:-16])


@given(st.integers(1, 10**7), st.floats(0.3, 0.95), st.floats(0.3, 0.95))
@settings(max_examples=100, deadline=None)
def test_a_group_is_the_least_in_which_the_wanted_bits_are_expected(octets, there, back):
    chosen = replace(SMALL, block_bits=8 * octets, settings=Settings((0.4, 0.1), (0.4, 0.6), there, back, 1e9))
    count, share = chosen.block_detections, there * back
    assert count * share >= chosen.block_bits * (1 - 1e-12)
    assert (count - 1) * share < chosen.block_bits * (1 + 1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"codes": "cascade", "block_bits": 1 << 21},
        {"codes": "cascade", "block_bits": (1 << 21) - 9_000},
        {"block_bits": 1 << 27},
        {"block_bits": 1 << 26, "settings": replace(SETTINGS, receiver_key_basis_probability=0.1)},
    ],
)
def test_parameters_whose_blocks_may_come_out_larger_than_the_codes_take_are_rejected(changes):
    with pytest.raises(Rejected):
        replace(SMALL, **changes)


def test_parameters_just_below_these_limits_are_taken():
    assert replace(SMALL, codes="cascade", block_bits=(1 << 21) - 10_400).block_detections > 1 << 22


def test_a_block_that_comes_out_larger_than_the_codes_take_is_void_at_both_ends(monkeypatch):
    monkeypatch.setattr(parameters, "CASCADE_BLOCK_BITS_MAX", 13_500)
    records = made_records(800_000)
    parts = []
    for part in records.detections:
        stays = (part.bases == 0) | (np.arange(len(part.bases)) % 8 == 0)
        parts.append(
            Detections(part.first, part.count, part.pulses[stays], part.bases[stays], part.bits[stays])
        )  # fmt: skip
    world = World(with_codes("cascade"), replace(records, detections=parts)).run().check()
    assert VoidReason.TOO_LONG in world.voids[0].values()
    assert world.voids[0] == world.voids[1]
    assert not VoidReason.TOO_LONG.is_alarm
