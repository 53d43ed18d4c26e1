"""What the transmitter keeps of pulses when it is told which of them were detected."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.link.events.calibrating import calibration_of
from shosoin.link.events.devices import ReceiverReadings, TransmitterReadings
from shosoin.link.events.monitoring import LinkMonitor
from shosoin.link.events.records import Detections, SentPulses
from shosoin.link.postprocessing import Receiver
from shosoin.link.postprocessing.errors import PeerBrokeProtocol
from shosoin.link.postprocessing.sent_record import levels_before, look_up, thinned
from shosoin.link.postprocessing.watching import ReadingsQueue, SentTally
from tests.link.postprocessing.test_monitoring import LINE, SETTINGS
from tests.link.postprocessing.world import SMALL, MemoryJournal, SeededEntropy

FIRST = 1000


def sent_pulses(rng: np.random.Generator, count: int, first: int = FIRST) -> SentPulses:
    packed = [np.packbits(rng.integers(0, 2, count, dtype=np.uint8), bitorder="little") for _ in range(2)]
    return SentPulses(first, count, packed[0], packed[1], rng.integers(0, 3, count, dtype=np.uint8))


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_of_detected_pulses_everything_is_known_and_of_the_others_how_many_there_were(seed, count, share):
    rng = np.random.default_rng(seed)
    sent = sent_pulses(rng, count)
    pulses = FIRST + np.flatnonzero(rng.random(count) < share)
    kept = thinned(sent, pulses, 3)
    for end in (0, FIRST, *(pulses + 1).tolist(), FIRST + count, FIRST + count + 9):
        assert levels_before(kept, end, 3).tolist() == levels_before(sent, end, 3).tolist()
    cut = count // 2 // 8 * 8
    halves = [
        SentPulses(FIRST + low, high - low, sent.bits[low // 8 : -(-high // 8)], sent.bases[low // 8 : -(-high // 8)],
                   sent.intensity[low:high])
        for low, high in ((0, cut), (cut, count))
    ]  # fmt: skip
    parts = [
        thinned(half, pulses[(half.first <= pulses) & (pulses < half.first + half.count)], 3) for half in halves
    ]  # fmt: skip
    both = parts[0].joined(parts[1])
    assert both is not None
    for name in ("first", "count", "offsets", "codes", "levels"):
        assert np.array_equal(getattr(both, name), getattr(kept, name))
    assert kept.joined(kept) is None
    asked = pulses[rng.random(len(pulses)) < 0.5]
    if len(asked):
        one, other = look_up(sent, asked), look_up(kept, asked)
        for name in ("bits", "is_test", "intensities"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()
    others = np.setdiff1d(np.arange(FIRST, FIRST + count), pulses)
    if len(others):
        with pytest.raises(PeerBrokeProtocol):
            look_up(kept, others[-1:])
    assert "codes" not in repr(kept)


@pytest.mark.parametrize("pulses", [[FIRST - 1], [FIRST + 8], [FIRST + 3, FIRST + 3], [FIRST + 4, FIRST + 2]])
def test_pulses_that_are_not_of_the_part_are_refused(pulses):
    with pytest.raises(PeerBrokeProtocol):
        thinned(sent_pulses(np.random.default_rng(1), 8), np.array(pulses), 3)


def test_readings_of_the_diode_count_for_every_block_that_has_one_of_their_pulses():
    tally = SentTally(3)
    parts = [sent_pulses(np.random.default_rng(part), 100, 100 * part) for part in range(4)]
    for part, counts in zip(parts, (1, 10, 100, 1000), strict=True):
        tally.read(part.first, part.first + part.count, TransmitterReadings(part.count, counts))
    found = []
    for end in (150, 200, 399):
        tally.count_pulses(parts, end)
        taken = tally.take()
        assert taken.readings is not None
        found.append((int(taken.pulses.sum()), taken.readings.diode_counts))
    assert found == [(150, 11), (50, 10), (199, 1100)]


def test_readings_of_a_line_that_brings_no_block_for_days_take_bounded_memory_and_none_is_lost():
    queue = ReadingsQueue[TransmitterReadings]()
    for place in range(20_000):
        queue.add(place, place, TransmitterReadings(1, 1))
        assert len(queue._waiting) <= 4096
    first, rest = queue.take(9_999), queue.take(20_000)
    assert first is not None
    assert rest is not None
    assert 20_000 <= first.pulses + rest.pulses < 20_100
    assert queue.take(30_000) is None


def test_readings_of_the_detectors_count_for_every_block_that_they_may_belong_to_and_for_no_earlier_one():
    monitor = LinkMonitor(calibration_of(SETTINGS, LINE))
    receiver = Receiver(SMALL, MemoryJournal(), SeededEntropy(1), monitor=monitor)
    size = SMALL.block_detections
    for part, windows in enumerate((1, 10, 100, 1000)):  # each 3/4 of a block
        first, count = part * size * 3 // 4, size * 3 // 4
        nothing = np.zeros(count, np.uint8)
        detections = Detections(first, count, np.arange(first, first + count), nothing, nothing)
        receiver.feed(detections, ReceiverReadings(windows=windows))
    found = [receiver._readings_until(block) for block in (0, 2, 3, 4)]  # nobody judged block 1
    assert [readings.windows if readings else 0 for readings in found] == [11, 1110, 1000, 0]


def test_readings_of_a_block_that_is_judged_late_count_for_no_later_one():
    monitor = LinkMonitor(calibration_of(SETTINGS, LINE))
    receiver = Receiver(SMALL, MemoryJournal(), SeededEntropy(1), monitor=monitor)
    size = SMALL.block_detections
    for block, windows in enumerate((1, 10, 100, 1000)):
        receiver._readings.add(block * size, (block + 1) * size - 1, ReceiverReadings(windows=windows))
    receiver._in_flight = dict.fromkeys(range(4), cast(Any, SimpleNamespace(stage=None)))
    found = []
    for block in (1, 2, 0, 3):
        found.append(receiver._readings_until(block))
        del receiver._in_flight[block]
    assert [readings.windows if readings else 0 for readings in found] == [10, 100, 1, 1000]
    assert receiver._judged == {2, 3}
