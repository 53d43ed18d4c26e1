"""Lists of time tags: read, put on the clock of the transmitter, and made into the detections that they were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.base import Rejected, SimulationRng
from shosoin.link.events.records import Settings
from shosoin.link.events.study import SimulatedStudy
from shosoin.link.events.timetags import Clock, TimeTags, convert, find_pulse_offset, parse_time_tags, recover_clock
from tests.link.events.support import bare_line

CHANNELS = {1: (0, 0), 2: (0, 1), 3: (1, 0), 4: (1, 1)}
EVEN = Settings((0.5, 0.1), (0.9, 0.1), 0.5, 0.5, 1e9)


def tags_of(*pairs):
    return TimeTags(np.array([time for time, _ in pairs], np.int64), np.array([c for _, c in pairs], np.uint8))


def converted(tags, *, first=0, count=100, gate_ps=400, clock=None):
    return convert(
        tags, clock or Clock(0.0, 1000.0), CHANNELS, gate_ps=gate_ps, first=first, count=count, random=SimulationRng(1)
    )


@given(
    st.lists(st.tuples(st.integers(0, 2**59), st.integers(0, 255)), max_size=30), st.sampled_from([",", ";", " ", "\t"])
)
def test_text_is_read_whatever_separates_its_numbers(pairs, separator):
    text = "# time_ps channel\n" + "".join(f"{time}{separator}{channel}  # note\r\n" for time, channel in pairs)
    tags = parse_time_tags(text.encode())
    assert list(zip(tags.times_ps.tolist(), tags.channels.tolist(), strict=True)) == sorted(
        pairs, key=lambda pair: pair[0]
    )


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "1,2,3",
        "1,2\n3",
        "-5,1",
        "1.5,2",
        "1,256",
        f"{1 << 60},1",
        "99999999999999999999,1",
        "a,b",
        "\uff11,2",
        "1,\n2",
        "\x00",
    ],
)
def test_lines_that_are_no_time_tags_are_refused(text):
    with pytest.raises(Rejected) as raised:
        parse_time_tags(text.encode())
    assert raised.value.code == "link.time_tags"


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_any_text_is_read_or_refused(data):
    try:
        tags = parse_time_tags(data)
    except Rejected:
        return
    assert tags.times_ps.size == tags.channels.size


def test_tags_become_detections_and_the_others_are_counted():
    found = converted(
        tags_of((1000, 1), (2150, 2), (3300, 3), (5000, 9), (7001, 4), (99_800, 1), (100_000, 1)), first=1, count=99
    )
    assert found.detections.pulses.tolist() == [1, 2, 7]
    assert found.detections.bases.tolist() == [0, 0, 1]
    assert found.detections.bits.tolist() == [0, 1, 1]
    assert (found.outside_gate, found.outside_range, found.unmapped, found.both_bases) == (1, 2, 1, 0)
    assert found.detections.double_clicks == 0


def test_several_clicks_at_one_pulse_make_one_random_bit():
    pulses = 4000
    pairs = [pair for n in range(1, pulses) for pair in ((1000 * n, 1), (1000 * n + 5, 2))]
    found = converted(tags_of(*pairs), count=pulses).detections
    assert found.double_clicks == found.pulses.size == pulses - 1
    assert abs(found.bits.mean() - 0.5) < 0.05
    assert not found.bases.any()
    again = converted(tags_of((1000, 1), (1001, 1)), count=10).detections
    assert (again.pulses.tolist(), again.bits.tolist(), again.double_clicks) == ([1], [0], 0)


def test_clicks_in_both_bases_make_the_basis_random():
    pulses = 4000
    pairs = [pair for n in range(1, pulses) for pair in ((1000 * n, 1), (1000 * n + 5, 4))]
    found = converted(tags_of(*pairs), count=pulses)
    assert found.both_bases == found.detections.double_clicks == pulses - 1
    assert abs(found.detections.bases.mean() - 0.5) < 0.05
    assert np.array_equal(found.detections.bits, found.detections.bases)


def test_a_receiver_with_a_clock_of_its_own_finds_the_pulses_again():
    """Drift of 3.3 ppm, an unknown start and 40 ps of jitter; what the gate keeps is what was detected."""
    batch = SimulatedStudy(EVEN, bare_line(8.0), 7).batch(1 << 20)
    sent, detected = batch.sent, batch.detected
    period, start = 1000 * (1 + 3.3e-6), 123_456_789.25
    noise = np.random.default_rng(1).normal(0, 40, detected.pulses.size)
    times = np.rint(start + detected.pulses * period + noise).astype(np.int64)
    tags = TimeTags(times, (detected.bases * 2 + detected.bits + 1).astype(np.uint8))
    clock = recover_clock(tags, 1e9)
    assert clock.period_ps == pytest.approx(period, rel=1e-9)
    found = converted(tags, clock=clock, gate_ps=400, count=1 << 20).detections
    assert found.pulses.size > 0.999 * detected.pulses.size
    shift = find_pulse_offset(sent, found, within=300)
    assert np.isin(found.pulses + shift, detected.pulses).all()
    assert np.array_equal(
        sent.bases_at(found.pulses + shift),
        sent.bases_at(detected.pulses[np.isin(detected.pulses, found.pulses + shift)]),
    )
    with pytest.raises(Rejected, match="no offset"):
        find_pulse_offset(SimulatedStudy(EVEN, bare_line(8.0), 8).batch(1 << 20).sent, found, within=300)


def test_tags_without_a_period_tell_no_clock():
    times = np.sort(np.random.default_rng(2).integers(0, 10**9, 5000))
    with pytest.raises(Rejected, match="no period"):
        recover_clock(TimeTags(times, np.ones(5000, np.uint8)), 1e9)
    with pytest.raises(Rejected, match="fewer than 100"):
        recover_clock(TimeTags(times[:50], np.ones(50, np.uint8)), 1e9)
    with pytest.raises(Rejected, match="fewer than 1000 periods"):
        recover_clock(TimeTags(np.full(200, 7, np.int64), np.ones(200, np.uint8)), 1e9)
    far = np.arange(200, dtype=np.int64) * 10**15
    with pytest.raises(Rejected, match="too far apart"):
        recover_clock(TimeTags(far, np.ones(200, np.uint8)), 1e9)


def test_arguments_out_of_range_are_refused():
    for period, gate, channels in (
        (1000.0, 1001, CHANNELS),
        (0.0, 1, CHANNELS),
        (1000.0, 100, {256: (0, 0)}),
        (1000.0, 100, {1: (0, 2)}),
    ):
        with pytest.raises(ValueError, match=r"want|stands"):
            convert(tags_of(), Clock(0.0, period), channels, gate_ps=gate, first=0, count=1, random=SimulationRng(1))
