"""The monitor: honest links pass, tails are exact, a suspended link stays so."""

import json
from dataclasses import replace
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.base import Alarm, Rejected
from shosoin.link.counts import DecoyCounts
from shosoin.link.events.calibrating import calibration_of
from shosoin.link.events.calibration_files import CalibrationFile, decode_calibration, encode_calibration
from shosoin.link.events.devices import ReceiverReadings, TransmitterReadings
from shosoin.link.events.monitoring import Calibration, Decision, Kind, LinkMonitor, Observation, Policy
from shosoin.link.events.study import SimulatedStudy
from shosoin.link.events.tails import at_least, at_most, confidence_interval
from shosoin.link.events.tally import BlockTally
from tests.link.events.support import LINE, SETTINGS

CALIBRATION = Calibration((0.5, 0.1), (0.005, 0.001), (0.02, 0.004), background_max=1e-5)


def counts_of(key_errors=2000, detections=(100_000, 20_000)):
    """An unremarkable block of 10^7 and 10^7 pulses, but for what is changed."""
    key = np.array(detections) * 8 // 10
    test = np.array(detections) // 100
    counts = DecoyCounts(key, np.array([key_errors, 400]), test, test // 50)
    return BlockTally(np.array([10_000_000, 10_000_000]), np.array(detections), counts)


@given(
    st.integers(1, 40), st.integers(0, 40), st.fractions(Fraction(1, 1000), Fraction(999, 1000), max_denominator=1000)
)
def test_tails_are_the_sums_of_the_binomial(trials, successes, probability):
    successes = min(successes, trials)
    chance = [comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(trials + 1)]
    above, below = float(sum(chance[successes:])), float(sum(chance[: successes + 1]))
    assert at_least(successes, trials, float(probability)) == pytest.approx(max(above, 1e-200), rel=1e-9)
    assert at_most(successes, trials, float(probability)) == pytest.approx(max(below, 1e-200), rel=1e-9)


@given(st.integers(1, 5000), st.floats(0, 1), st.sampled_from([0.1, 1e-3, 1e-9, 1e-30]))
@settings(deadline=None)
def test_a_confidence_interval_ends_where_the_tails_are_as_small_as_asked(trials, share, miss):
    successes = round(share * trials)
    low, high = confidence_interval(successes, trials, miss)
    assert 0.0 <= low <= successes / trials <= high <= 1.0
    if successes:
        assert at_least(successes, trials, low) == pytest.approx(miss, rel=1e-6)
    if successes < trials and high < 0.999999:
        assert at_most(successes, trials, high) == pytest.approx(miss, rel=1e-5)


@pytest.mark.any_kernels
def test_an_honest_link_raises_no_alarm_in_hundreds_of_blocks():
    monitor = LinkMonitor(calibration_of(SETTINGS, LINE))
    study = SimulatedStudy(SETTINGS, LINE, 2026)
    for batch in study.batches(300 << 16, batch_pulses=1 << 16):
        verdict = monitor.inspect(Observation(batch.tally, batch.receiver, batch.transmitter))
        assert verdict.decision is Decision.CONTINUE, verdict.findings
        verdict.require_release()


def test_at_the_edge_of_what_is_allowed_false_alarms_are_as_rare_as_stated():
    """Blocks with exactly the largest error rate allowed, at a false-alarm probability that blocks can show."""
    policy = Policy(false_alarm_probability=0.2)
    rng, noisy, blocks = np.random.default_rng(8), 0, 400
    for errors in rng.binomial(80_000, CALIBRATION.qber_max, blocks):
        noisy += bool(LinkMonitor(CALIBRATION, policy).inspect(Observation(counts_of(int(errors)))).findings)
    # Five checks share the probability; of these only one is at its edge.
    assert 0 < noisy < 400 * 0.2 / 5 * 2.2


def test_more_errors_than_allowed_suspend_the_link_until_somebody_resumes_it():
    monitor = LinkMonitor(CALIBRATION)
    assert monitor.inspect(Observation(counts_of())).decision is Decision.CONTINUE
    verdict = monitor.inspect(Observation(counts_of(5000)))
    assert (verdict.decision, [finding.kind for finding in verdict.findings]) == (Decision.SUSPEND, [Kind.QBER])
    later = monitor.inspect(Observation(counts_of()))
    assert later.decision is Decision.SUSPEND
    assert not later.findings
    with pytest.raises(Alarm, match="earlier block"):
        later.require_release()
    monitor.resume()
    monitor.inspect(Observation(counts_of())).require_release()


def test_what_may_be_a_fault_costs_the_block_and_in_the_end_the_link():
    monitor = LinkMonitor(CALIBRATION, Policy(discards_before_suspension=3))
    dim = Observation(counts_of(1000, detections=(40_000, 8_000)))
    decisions = [monitor.inspect(each).decision for each in (dim, dim, Observation(counts_of()), dim, dim, dim)]
    assert decisions == [
        Decision.DISCARD, Decision.DISCARD, Decision.CONTINUE, Decision.DISCARD, Decision.DISCARD, Decision.SUSPEND,
    ]  # fmt: skip
    with pytest.raises(Alarm) as raised:
        LinkMonitor(CALIBRATION).inspect(dim).require_release()
    assert raised.value.code == "link.block_discarded"


def test_a_kind_that_a_policy_forgets_suspends():
    assert (
        LinkMonitor(CALIBRATION, Policy(decisions={})).inspect(Observation(counts_of(5000))).decision
        is Decision.SUSPEND
    )


@pytest.mark.parametrize(
    ("detections", "found"), [((100_000, 20_000), False), ((100_000, 26_000), True), ((100_000, 15_000), True)]
)
def test_gains_that_no_one_channel_explains_are_found(detections, found):
    wide = replace(CALIBRATION, gains_min=(0.0, 0.0), gains_max=(1.0, 1.0))
    kinds = {
        finding.kind for finding in LinkMonitor(wide).inspect(Observation(counts_of(detections=detections))).findings
    }
    assert kinds == ({Kind.YIELDS} if found else set())


@given(st.floats(0.0, 25.0), st.floats(0.0, 1e-5), st.floats(0.98, 1.02))
@settings(max_examples=40, deadline=None)
def test_gains_that_some_channel_explains_are_never_found(attenuation_db, background, error):
    """Rounded means instead of random counts: whatever the loss, background and error of an intensity within limits."""
    means = np.array([0.5 * error, 0.1 / error])
    eta = 10 ** (-attenuation_db / 10)
    detections = np.rint(10_000_000 * (1 - (1 - background) * np.exp(-eta * means))).astype(np.int64)
    wide = replace(CALIBRATION, gains_min=(0.0, 0.0), gains_max=(1.0, 1.0))
    tally = counts_of()
    tally = BlockTally(tally.pulses, np.maximum(detections, 1), tally.counts)
    assert not LinkMonitor(wide).inspect(Observation(tally)).findings


RECEIVER = ReceiverReadings((50_000, 50_000), 100, 1000, 100_000, 5_000, 500)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"clicks": (40_000, 60_000)}, Kind.BALANCE),
        ({"clicks": (60_000, 40_000)}, Kind.BALANCE),
        ({"double_clicks": 10_000}, Kind.DOUBLE_CLICKS),
        ({"current_na": 112_000}, Kind.PHOTOCURRENT),
        ({"current_na": 100_000_000}, Kind.PHOTOCURRENT),
        ({"outer": 3_000}, Kind.GATE_TIMES),
    ],
)
def test_each_reading_of_the_receiver_has_its_check(changes, kind):
    quiet = LinkMonitor(CALIBRATION).inspect(Observation(counts_of(), RECEIVER))
    assert quiet.decision is Decision.CONTINUE
    loud = LinkMonitor(CALIBRATION).inspect(Observation(counts_of(), replace(RECEIVER, **changes)))
    assert {finding.kind for finding in loud.findings} == {kind}


def test_double_clicks_that_vanish_are_noticed_where_some_are_due():
    strict = replace(CALIBRATION, double_clicks_min=0.0005)
    seen = Observation(counts_of(), replace(RECEIVER, double_clicks=0))
    assert {finding.kind for finding in LinkMonitor(strict).inspect(seen).findings} == {Kind.DOUBLE_CLICKS}


def test_the_diode_is_watched_where_there_is_one_and_named_where_there_is_none():
    monitor = LinkMonitor(CALIBRATION)
    probed = monitor.inspect(Observation(counts_of(), RECEIVER, TransmitterReadings(20_000_000, 200)))
    assert {finding.kind for finding in probed.findings} == {Kind.DIODE}
    assert probed.unwatched == ()
    bare = LinkMonitor(CALIBRATION).inspect(Observation(counts_of()))
    assert set(bare.unwatched) == {Kind.DIODE, Kind.PHOTOCURRENT, Kind.BALANCE, Kind.DOUBLE_CLICKS, Kind.GATE_TIMES}


def test_an_empty_block_has_nothing_to_check_and_a_finding_can_be_logged():
    nothing = np.zeros(2, np.int64)
    empty = BlockTally(nothing, nothing, DecoyCounts(nothing, nothing, nothing, nothing))
    verdict = LinkMonitor(CALIBRATION).inspect(Observation(empty, ReceiverReadings(), TransmitterReadings()))
    assert verdict.unwatched == tuple(Kind)
    finding = LinkMonitor(CALIBRATION).inspect(Observation(counts_of(5000))).findings[0]
    told = json.loads(json.dumps(finding.to_json()))
    assert told["kind"] == "qber-high"
    assert told["evidence"]["errors"] == 5000
    assert told["p_value"] < 1e-9


@pytest.mark.parametrize(
    "changes",
    [
        {"gains_min": (0.1,)},
        {"gains_min": (0.03, 0.001)},
        {"balance_min": 0.6},
        {"double_clicks_max": -1.0},
        {"live_min": 0.0},
        {"intensity_tolerance": 1.0},
    ],
)
def test_calibrations_that_cannot_be_are_refused(changes):
    with pytest.raises(ValueError, match=r"want|must"):
        replace(CALIBRATION, **changes)


LIMITS = Calibration((0.4, 0.1), (0.1, 0.01), (0.2, 0.05))


def test_a_calibration_reads_as_it_was_written():
    file = CalibrationFile(LIMITS, True, "a model")
    assert decode_calibration(encode_calibration(file)) == file


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version": 1', b'"version": 2'),
        (b'"qber_max": 0.05', b'"qber_max": 1.05'),
        (b'"qber_max": 0.05', b'"qber_max": NaN'),
        (b'"qber_max": 0.05', b'"qber_max": "0.05"'),
        (b'"qber_max": 0.05', b'"qber_most": 0.05'),
        (b'"current_tolerance_na": 5', b'"current_tolerance_na": 5.5'),
        (b'"simulated": true', b'"simulated": 1'),
        (b"{", b"["),
        (b"a model", b"\xff"),
        (b"a model", b"a\\nmodel"),
    ],
)
def test_a_calibration_that_is_none_is_refused(old, new):
    text = encode_calibration(CalibrationFile(LIMITS, True, "a model"))
    assert old in text
    with pytest.raises(Rejected):
        decode_calibration(text.replace(old, new, 1))
