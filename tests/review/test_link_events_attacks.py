"""Hostile peers, files, counters and eavesdroppers against frames of reconciliation and pulse-level records."""

import json
import stat
import struct
import tracemalloc
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import typer
from scipy import stats
from typer.testing import CliRunner

from shosoin.base import Rejected, SimulationRng
from shosoin.base.messages import set_language
from shosoin.cli.link_simulate import simulate
from shosoin.kernels import pulses
from shosoin.kernels.ldpc import ldpc_kernels
from shosoin.kernels.paths import family
from shosoin.kernels.reference_pulses import ReferencePulses
from shosoin.link.detector import Detector
from shosoin.link.events import timetags
from shosoin.link.events.attacks import InterceptResend
from shosoin.link.events.calibrating import calibration_of
from shosoin.link.events.devices import ReceiverReadings
from shosoin.link.events.monitoring import Decision, LinkMonitor, Observation, Policy
from shosoin.link.events.optics import Arriving, Effects, Line, Outcome, arrival_table, expected
from shosoin.link.events.receiver import SimulatedReceiver
from shosoin.link.events.recording import Header, Part, RecordingReader, RecordingRejected, RecordingWriter
from shosoin.link.events.records import SentPulses, Truth
from shosoin.link.events.study import SimulatedStudy
from shosoin.link.events.tails import at_least, at_most, confidence_interval
from shosoin.link.events.tally import tally
from shosoin.link.events.timetags import Clock, TimeTags, convert, parse_time_tags, recover_clock
from shosoin.link.events.transmitter import SimulatedTransmitter
from shosoin.link.reconciliation import Correction, FramePlan, correct, disclose, plan_block, plan_frame
from tests.kernels.support import NATIVE_PATHS
from tests.link.events.support import LINE, SETTINGS, observe
from tests.link.reconciliation.test_frames import CountedEntropy

# ------------------------------------------------------------------------------------------------- reconciliation


def syndrome_of(plan: FramePlan, bits: np.ndarray) -> bytes:
    """The syndrome of any bits of a whole frame: what a peer can send who ignores the plan."""
    unshortened = FramePlan(plan.code, plan.matrix().bits, 0, 0, plan.qber)
    whole = np.zeros(plan.matrix().bits, np.uint8)
    whole[: bits.size] = bits
    return disclose(unshortened, np.packbits(whole, bitorder="little").tobytes(), CountedEntropy()).message


@pytest.mark.parametrize("payload_bits", [30_001, 30_208 + 8, 30_720 - 1])
def test_a_syndrome_with_errors_beyond_the_payload_is_no_success(payload_bits):
    plan = plan_frame(0.02, payload_bits=payload_bits)
    bits = np.random.default_rng(1).integers(0, 2, payload_bits, np.uint8)
    payload = np.packbits(bits, bitorder="little").tobytes()
    honest = disclose(plan, payload, CountedEntropy()).message
    assert syndrome_of(plan, bits) == honest
    assert correct(plan, payload, honest).converged
    forged = syndrome_of(plan, np.append(bits, np.uint8(1)))
    correction = correct(plan, payload, forged)
    assert not correction.converged
    assert disclose(plan, correction.bits, CountedEntropy()).message != forged


@pytest.mark.parametrize(("qber", "payload_bits"), [(0.05, 12_000), (0.1, 12_000), (0.1, 16_000), (0.02, 24_000)])
@pytest.mark.any_kernels
def test_a_short_rest_is_corrected_with_three_deviations_more_errors_than_planned(qber, payload_bits):
    plan = plan_frame(qber, payload_bits=payload_bits)
    most = round(payload_bits * qber + 3 * (payload_bits * qber * (1 - qber)) ** 0.5)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        errors = np.zeros(payload_bits, np.uint8)
        errors[rng.choice(payload_bits, most, replace=False)] = 1
        zeros = bytes(-(-payload_bits // 8))
        message = disclose(plan, zeros, CountedEntropy()).message
        correction = correct(plan, np.packbits(errors, bitorder="little").tobytes(), message)
        assert (correction.converged, correction.bits) == (True, zeros)


def test_a_corrected_payload_is_not_printed():
    assert "secret" not in repr(Correction(b"secret", True, 1))


@pytest.mark.parametrize(
    "change",
    [
        {"payload_bits": 737_280.0},
        {"payload_bits": "737280"},
        {"shortened_bits": None},
        {"punctured_bits": float("nan")},
        {"code": ["long-104"]},
        {"qber": "much"},
        {"qber": float("nan")},
        {"qber": 10**400},
    ],
)
def test_a_plan_that_a_peer_makes_of_anything_is_refused(change):
    sound: dict[str, Any] = plan_frame(0.045).to_json()
    given = {name: sound[name] for name in ("code", "payload_bits", "shortened_bits", "punctured_bits", "qber")}
    with pytest.raises(Rejected) as refused:
        FramePlan(**{**given, **change})
    assert refused.value.code == "link.bad_plan"


def test_numbers_of_numpy_make_a_plan_that_can_be_compared():
    plan = plan_frame(np.float64(0.03), payload_bits=int(np.int64(40_000)))
    same = FramePlan(plan.code, *(np.int64(n) for n in (40_000, plan.shortened_bits, 0)), np.float64(0.03))  # type: ignore[arg-type]
    assert json.dumps(same.to_json()) == json.dumps(plan.to_json())


def test_a_block_of_less_than_nothing_has_no_frames():
    with pytest.raises(ValueError, match="block"):
        plan_block(0.03, -5)


# ------------------------------------------------------------------------------------------------------- the monitor


def readings_and_counts(total, attacked_quarter, seed):
    """A block of which a quarter is intercepted whole, in one stretch (or evenly, for None)."""
    rng = SimulationRng(seed)
    transmitter = SimulatedTransmitter(SETTINGS, rng)
    counts, readings, first = None, ReceiverReadings(), 0
    for quarter in range(4):
        share = 0.25 if attacked_quarter is None else float(quarter == attacked_quarter)
        receiver = SimulatedReceiver(
            SETTINGS, LINE, rng, eavesdropper=InterceptResend(), fraction=share, first_pulse=first
        )
        sent, light = transmitter.send(total // 4)
        here = tally(sent, receiver.receive(light)[0], 3)
        counts = here if counts is None else counts + here
        readings += receiver.take_readings()
        first += total // 4
    assert counts is not None
    return counts, readings


@pytest.mark.parametrize("stretch", [None, 0, 3])
@pytest.mark.any_kernels
def test_a_quarter_intercepted_in_any_stretch_alarms_in_blocks_smaller_than_any_that_gives_key(stretch):
    """At this error rate no key comes of fewer than 20,000 sifted bits, attacked or not; these are half of that."""
    calibration = calibration_of(SETTINGS, LINE)
    for seed in range(6):
        counts, readings = readings_and_counts(1 << 21, stretch, seed)
        assert counts.counts.key_detections.sum() < 20_000
        assert LinkMonitor(calibration).inspect(Observation(counts, readings)).decision is Decision.SUSPEND


@dataclass(frozen=True)
class KeyBasisOnly:
    """Measure in the key basis alone: she learns every bit of the key, and only the test basis shows an error."""

    name: ClassVar[str] = "key-basis-only"
    effects: ClassVar[Effects] = Effects()

    def outcomes(self, photons: int, basis: int, bit: int, line: Line) -> Iterator[Outcome]:
        for result in (bit,) if basis == 0 else (0, 1):
            sent = Arriving(photons, 0, result, line.transmittance)
            yield Outcome(1.0 if basis == 0 else 0.5, sent, 1, 0, result)


@pytest.mark.any_kernels
def test_who_measures_in_the_key_basis_alone_shows_in_the_test_basis():
    seen, known = observe(1 << 24, attack=KeyBasisOnly(), fraction=0.25, seed=9)
    verdict = LinkMonitor(calibration_of(SETTINGS, LINE)).inspect(seen)
    assert [finding.evidence["basis"] for finding in verdict.findings] == [1]
    assert verdict.decision is Decision.SUSPEND
    assert 0.2 < known.guessed / known.sifted < 0.3


def test_an_attacked_share_adds_its_share_of_errors_and_no_clicks():
    honest, attacked = (
        expected(SETTINGS, arrival_table(SETTINGS, LINE, InterceptResend(), fraction=share)) for share in (0.0, 0.25)
    )
    assert attacked.gain == pytest.approx(honest.gain, rel=1e-9)
    added = attacked.matched_error / attacked.matched_gain - honest.matched_error / honest.matched_gain
    assert added[0] == pytest.approx(0.25 * (0.25 - 0.5 * 0.02), rel=0.01)


@pytest.mark.parametrize("attenuation_db", [0.0, 20.0])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.any_kernels
def test_honest_detectors_unlike_each_other_raise_no_alarm(both, attenuation_db):
    fast, slow = Detector(0.2, 1e-6, 0.0, 2e-8, 1e-10), Detector(0.5, 4e-4, 0.1, 1e-5)
    line = Line(attenuation_db, (slow, fast), 0.01, blinds_both=both)
    monitor = LinkMonitor(calibration_of(SETTINGS, line))
    for seed in range(2):
        batch = SimulatedStudy(SETTINGS, line, seed).batch(1 << 21)
        assert not monitor.inspect(Observation(batch.tally, batch.receiver, batch.transmitter)).findings


@pytest.mark.parametrize("change", [{"false_alarm_probability": p} for p in (0.0, 1e-250, float("nan"), 1.0, -1.0)])
def test_a_policy_under_which_nothing_ever_alarms_is_refused(change):
    with pytest.raises(ValueError, match="false-alarm"):
        Policy(**change)


@pytest.mark.parametrize("name", ["qber_max", "background_max", "afterpulse_max", "outer_share_max"])
def test_a_calibration_without_a_limit_is_refused(name):
    with pytest.raises(ValueError, match=name):
        replace(calibration_of(SETTINGS, LINE), **{name: float("nan")})


def test_a_monitor_judges_only_the_intensities_that_it_was_calibrated_for():
    batch = SimulatedStudy(SETTINGS, LINE, 1).batch(1 << 12)
    bright = replace(
        calibration_of(SETTINGS, LINE), intensities=(0.5,), gains_min=(0.0,), gains_max=(1.0,), background_max=0.0
    )
    with pytest.raises(ValueError, match="intensities"):
        LinkMonitor(bright).inspect(Observation(batch.tally))


@pytest.mark.parametrize(("successes", "trials"), [(999, 953_773_686_148), (12, 10**12), (10**6, 10**12), (0, 10**13)])
@pytest.mark.parametrize("miss", [6e-6, 1e-12, 1e-60])
def test_intervals_of_long_blocks_of_rare_clicks_end_where_a_poisson_tail_ends(successes, trials, miss):
    low, high = confidence_interval(successes, trials, miss)
    assert stats.poisson.cdf(successes, trials * high) == pytest.approx(miss, rel=1e-3)
    if successes:
        assert stats.poisson.sf(successes - 1, trials * low) == pytest.approx(miss, rel=1e-3)


def test_tails_are_those_of_scipy_over_twelve_decades():
    rng = np.random.default_rng(0)
    for _ in range(300):
        trials, chance = int(10 ** rng.uniform(0, 12)), 10 ** rng.uniform(-9, -0.001)
        spread = (trials * chance * (1 - chance)) ** 0.5
        found = int(np.clip(round(trials * chance + rng.uniform(-10, 10) * spread), 0, trials))
        assert at_least(found, trials, chance) == pytest.approx(
            max(1e-200, stats.binom.sf(found - 1, trials, chance)), rel=1e-4
        )
        assert at_most(found, trials, chance) == pytest.approx(
            max(1e-200, stats.binom.cdf(found, trials, chance)), rel=1e-4
        )


# --------------------------------------------------------------------------------------------- records and time tags


def test_neither_channels_of_tags_nor_what_eve_knows_are_printed():
    tags = TimeTags(np.array([5], np.int64), np.array([77], np.uint8))
    assert "77" not in repr(tags)
    one = np.array([1], np.uint8)
    truth = Truth(np.array([5], np.int64), one, one.astype(np.bool_), one, one, np.array([99], np.uint8))
    assert "99" not in repr(truth)


@pytest.mark.parametrize("start", [0, (1 << 59) + 12_345])
def test_a_counter_that_has_run_for_days_loses_no_click(start):
    rng = np.random.default_rng(0)
    numbers = np.sort(rng.choice(10**7, 20_000, replace=False)).astype(np.int64)
    times = start + numbers * 1000 + rng.normal(0, 40, numbers.size).round().astype(np.int64)
    tags = TimeTags(np.sort(times), np.zeros(numbers.size, np.uint8))

    def converted(clock):
        return convert(
            tags, clock, {0: (0, 0)}, gate_ps=300, first=0, count=10**7, random=SimulationRng(1)
        )  # 3.75 standard deviations: 4 of 20,000 outside on average

    known = converted(Clock(0.0, 1000.0, start))
    assert known.outside_gate < 20
    assert np.mean(np.isin(known.detections.pulses, numbers)) == 1.0
    recovered = converted(recover_clock(tags, 1e9))
    assert recovered.outside_gate < 20
    assert recovered.detections.pulses.size > 19_900


@pytest.mark.parametrize(
    ("rate", "error"), [(0.0, 1e-5), (float("nan"), 1e-5), (float("inf"), 1e-5), (1e9, 0.0), (1e9, float("nan"))]
)
def test_a_clock_that_cannot_be_is_refused(rate, error):
    tags = TimeTags(np.arange(1000, dtype=np.int64) * 10_000, np.zeros(1000, np.uint8))
    with pytest.raises(ValueError, match="rate"):
        recover_clock(tags, rate, rate_error_max=error)
    for offset, period in ((float("nan"), 1000.0), (0.0, float("inf")), (0.0, 0.0)):
        with pytest.raises(ValueError, match="offset"):
            Clock(offset, period)


def test_a_list_of_tags_is_read_in_pieces_and_refused_before_it_fills_memory(monkeypatch):
    text = b"".join(b"%d,%d\n" % (1_000_000 + i, i % 4) for i in range(50_000))
    whole = parse_time_tags(text)
    monkeypatch.setattr(timetags, "_PIECE_BYTES", 1000)
    tracemalloc.start()
    pieces = parse_time_tags(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * len(text)
    assert np.array_equal(pieces.times_ps, whole.times_ps)
    assert np.array_equal(pieces.channels, whole.channels)
    for piece in (8, 16, 1 << 20):
        monkeypatch.setattr(timetags, "_PIECE_BYTES", piece)
        assert parse_time_tags(b"\n\n5 1\n#\n7 2").times_ps.tolist() == [5, 7]
    monkeypatch.setattr(timetags, "TAGS_MAX", 40_000)
    with pytest.raises(Rejected, match="more than"):
        parse_time_tags(text)


HEADER = Header(Part.BOTH, SETTINGS, True, "simulated by a test")


def test_a_pulse_of_an_intensity_without_a_name_is_not_written():
    sent = SentPulses(0, 4, np.zeros(1, np.uint8), np.zeros(1, np.uint8), np.array([0, 1, 2, 3], np.uint8))
    with pytest.raises(ValueError, match="intensity"):
        RecordingWriter(HEADER).add(sent)


def test_a_recording_whose_end_was_refused_is_not_whole():
    body = struct.pack("<4sI", b"ENDS", 16) + struct.pack("<QQ", 7, 7)
    reader = RecordingReader()
    reader.feed(RecordingWriter(HEADER).begin())
    with pytest.raises(RecordingRejected):
        reader.feed(body + struct.pack("<I", zlib.crc32(body)))
    with pytest.raises(RecordingRejected):
        reader.close()


def test_a_description_in_another_encoding_is_refused():
    begun = RecordingWriter(HEADER).begin()
    body = begun[16:-4].decode().encode("utf-16")
    prefix = begun[:12] + struct.pack("<I", len(body))
    with pytest.raises(RecordingRejected) as refused:
        RecordingReader().feed(prefix + body + struct.pack("<I", zlib.crc32(prefix + body)))
    assert refused.value.code == "link.recording_header"


# ----------------------------------------------------------------------------------------------------------- kernels


@pytest.mark.parametrize("path", NATIVE_PATHS)
@pytest.mark.parametrize(
    ("word", "value"), [(0, -1), (0, 1 << 63), (1, (1 << 63) - 1), (2, 17), (2, -1), (5, (1 << 63) - 1), (6, 2)]
)
def test_a_state_of_detectors_that_would_overflow_is_refused(path, word, value):
    state = pulses.new_state()
    state[2] = 1
    state[word] = np.uint64(value % (1 << 64)).astype(np.int64)
    table = np.full((pulses.ROWS, 1), 1 << 63, np.uint64)
    arguments: dict[str, Any] = {
        "seed": 1, "domain": 0, "first": 0, "states": bytes(64), "basis_threshold": 0, "thresholds": table,
        "codes": np.ones((pulses.ROWS, 1), np.uint32), "dynamics": pulses.DetectorDynamics().words(), "state": state,
        "pulses": np.empty(64, np.int64), "found": np.empty(64, np.uint32),
    }  # fmt: skip
    with pytest.raises(ValueError, match="damaged"):
        family("Pulses", ReferencePulses, path).detect(**arguments)
    with pytest.raises(ValueError, match="numbered"):
        family("Pulses", ReferencePulses, path).detect(
            **{**arguments, "state": pulses.new_state(), "first": (1 << 62) - 63}
        )


@pytest.mark.parametrize("path", NATIVE_PATHS)
def test_a_code_of_any_size_is_refused_before_memory_is_taken(path):
    kernels = ldpc_kernels(path)
    with pytest.raises(ValueError, match="8192 columns"):
        kernels.syndrome(1, 1, b"", bytes(100_000))
    edges = np.array([(row, column, 0) for row in range(64) for column in range(1000)], "<u2").tobytes()
    with pytest.raises(MemoryError):
        kernels.decode(64, 1 << 15, edges, np.ones(8192, "<i2").tobytes(), bytes(64 << 12), 1)


# ------------------------------------------------------------------------------------------------------ command line

APP = typer.Typer()
APP.command()(simulate)


def run(*arguments):
    set_language("en")
    return CliRunner().invoke(APP, ["--pulses", "1e4", "--attenuation-db", "3", *map(str, arguments)])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--efficiency", "0", "--dark-counts", "0"),
        ("--efficiency", "1", "--dark-counts", "1"),
        ("--dark-counts", "0", "--attenuation-db", "200"),
        ("--seed", "9" * 400),
        ("--transmitter-file", "same", "--receiver-file", "same"),
    ],
)
def test_links_that_nobody_can_watch_and_files_for_two_are_refused(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = run(*arguments)
    assert isinstance(answer.exception, Rejected)
    assert not list(tmp_path.iterdir())


def test_a_recording_over_an_open_file_is_private(tmp_path):
    path = tmp_path / "old"
    path.touch(0o644)
    path.chmod(0o644)
    assert run("--receiver-file", path).exit_code == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_small_attacked_share_is_not_told_as_none():
    assert "on 0.4% of the pulses" in run("--attack", "time-shift", "--fraction", "0.004").output
