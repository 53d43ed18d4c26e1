"""Accounts of blocks that are groups of detections: every message counts once, whichever block is over first."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shosoin.base import Rejected
from shosoin.link.counts import DecoyCounts
from shosoin.link.events.calibrating import calibration_of
from shosoin.link.events.devices import ReceiverReadings
from shosoin.link.events.monitoring import LinkMonitor
from shosoin.link.events.records import Settings
from shosoin.link.postprocessing import Receiver, SessionParameters, Transmitter, VoidReason, receiver
from shosoin.link.postprocessing.authentication import FORGERY_EPSILON
from shosoin.link.postprocessing.errors import PeerBrokeProtocol
from shosoin.link.postprocessing.messages import Detected, End, Hello, Message, Settled, Sifted
from shosoin.link.postprocessing.parameters import secret_length
from tests.link.postprocessing.test_monitoring import LINE
from tests.link.postprocessing.test_monitoring import SETTINGS as WATCHED
from tests.link.postprocessing.world import (
    SMALL,
    MemoryJournal,
    Records,
    SeededEntropy,
    World,
    made_records,
    with_codes,
)

GROUP = SMALL.block_detections


def noisy_in(records: Records, group: int) -> Records:
    """Return the same records with many errors in the test basis of one group."""
    pulses = np.concatenate([part.pulses for part in records.detections])[group * GROUP : (group + 1) * GROUP]
    parts = [
        replace(part, bits=part.bits ^ (np.isin(part.pulses, pulses[::3]) & (part.bases == 1)))
        for part in records.detections
    ]
    return replace(records, detections=parts)


def messages_by_block(world: World) -> dict[int, int]:
    """Count what was on the wire about each block, by the groups of the detections that were announced."""
    counts: dict[int, int] = {}
    announced = {"Detected": 0, "Sifted": 0}
    for passed in world.wire:
        message, block = passed.message, passed.header.number
        if isinstance(message, Hello):
            continue
        if isinstance(message, Detected | Sifted):
            name = type(message).__name__
            block = announced[name] // GROUP
            announced[name] += len(message.pulses if isinstance(message, Detected) else message.is_kept)
        elif isinstance(message, End):
            block = (announced["Detected"] - 1) // GROUP
        counts[block] = counts.get(block, 0) + 1
    return counts


def remembered(world: World) -> list[Any]:
    """Return where the ends of the session to come will be."""
    begun, ends = world.ends, []

    def remember() -> Any:
        ends.extend(begun())
        return ends

    world.ends = remember  # type: ignore[method-assign]
    return ends


def test_a_block_that_is_over_early_takes_no_message_from_the_account_of_the_one_before(monkeypatch):
    monkeypatch.setattr(receiver, "BATCH_DETECTIONS", GROUP // 24)
    world = World(with_codes("cascade"), noisy_in(made_records(), 1))
    ends = remembered(world)
    world.run().check()
    assert world.voids[0] == world.voids[1] == {1: VoidReason.QBER_ABOVE_LIMIT}
    counted, greetings = messages_by_block(world), len(list(world.messages(Hello)))
    for report in world.reports:
        told = {block: round(one["epsilons"]["authentication"] / FORGERY_EPSILON) for block, one in report.items()}
        # The last block is shorter: END says where it ends.
        assert told == {block: greetings + counted[block] for block in (0, 2)}
    assert not any(end._leak_bits or end._message_counts or end._batch_counts for end in ends)


def test_no_account_is_kept_of_blocks_that_a_receiver_gives_up(monkeypatch):
    monkeypatch.setattr(Receiver, "_judge", lambda self, block, seen: VoidReason.DISCARDED if block < 2 else None)
    world = World(SMALL, made_records())
    ends = remembered(world)
    world.run().check()
    assert world.voids[0] == world.voids[1] == dict.fromkeys((0, 1), VoidReason.DISCARDED)
    assert list(world.keys[0]) == [2]
    assert not any(end._leak_bits or end._message_counts or end._batch_counts for end in ends)


def test_a_receiver_makes_no_more_keys_without_the_transmitters_word_than_a_greeting_can_name(monkeypatch):
    monkeypatch.setattr(receiver, "BLOCKS_MAX", 1)
    send = Transmitter._send

    def silent(self: Transmitter, message: Message, number: int = 0) -> None:
        if not isinstance(message, Settled):
            send(self, message, number)

    monkeypatch.setattr(Transmitter, "_send", silent)
    world = World(SMALL, made_records())
    with pytest.raises(PeerBrokeProtocol, match="Amplify about 1"):
        world.session()
    monkeypatch.undo()
    world.run().check()
    assert 0 in world.keys[0]


def test_readings_count_for_a_block_whose_parities_take_longer_than_those_of_the_next():
    watched = LinkMonitor(calibration_of(WATCHED, LINE))
    end = Receiver(SMALL, MemoryJournal(), SeededEntropy(1), monitor=watched)
    for part, windows in enumerate((1, 10, 100)):
        end._readings.add(part * GROUP, (part + 1) * GROUP - 1, ReceiverReadings(windows=windows))
    for block in range(3):
        end._in_flight[block] = SimpleNamespace(stage=receiver._Stage.RECONCILING)  # type: ignore[assignment]
    found = []
    for block in (1, 0, 2):
        found.append(end._readings_until(block))
        end._in_flight[block].stage = receiver._Stage.VERIFIED
    assert [readings.windows if readings else 0 for readings in found] == [10, 1, 100]  # for it alone


@pytest.mark.parametrize("share", [1e-9, 1e-160, 1e-200, 5e-324])
def test_settings_under_which_hardly_any_detection_makes_key_are_rejected_as_parameters(share):
    settings = Settings((0.4, 0.1), (0.4, 0.6), share, share, 1e9)
    with pytest.raises(Rejected):
        replace(SMALL, settings=settings)
    told = SMALL.to_json()
    told["settings"].update(transmitter_key_basis_probability=share, receiver_key_basis_probability=share)
    with pytest.raises(Rejected):
        SessionParameters.from_json(told)


@pytest.mark.parametrize("name", ["intensities", "probabilities"])
def test_settings_of_numbers_beyond_floating_point_are_rejected_as_parameters(name):
    told = SMALL.to_json()
    told["settings"][name] = [10**400, 0.1]
    with pytest.raises(Rejected):
        SessionParameters.from_json(told)


def test_a_block_of_as_many_detections_as_are_allowed_is_allowed():
    most = replace(SMALL, block_bits=1 << 18, settings=Settings((0.4, 0.1), (0.4, 0.6), 2.0**-6, 2.0**-6, 1e9))
    assert most.block_detections == 1 << 30
    with pytest.raises(Rejected):
        replace(most, block_bits=(1 << 18) + 8)


@pytest.mark.parametrize(("block_bits", "excess"), [(1 << 10, 0), (1 << 27, 1)])
def test_what_the_hash_is_longer_than_the_proof_pays_for_is_leak(block_bits, excess):
    """A long block needs a bit more where two different ones have one value at a point almost as often as they may."""
    parameters = replace(SMALL, epsilon_correctness=2.0**-100 * (1 + 1e-4))
    counts = DecoyCounts(*(np.array([count, count]) for count in (50_000, 100, 50_000, 100)))
    bound, _ = secret_length(parameters, counts, leak_bits=5, block_bits=block_bits)
    assert bound.leak_ec_bits == 5 + excess
