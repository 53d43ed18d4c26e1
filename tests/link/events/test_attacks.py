"""What each eavesdropper learns and changes, counted against the truth; what watches for her sees it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from shosoin.base import Alarm, Rejected
from shosoin.link.events.attack_names import ATTACKS
from shosoin.link.events.attacks import DetectorBlinding, InterceptResend, PhotonNumberSplitting, TimeShift, TrojanHorse
from shosoin.link.events.calibrating import calibration_of
from shosoin.link.events.catalogue import attack_named
from shosoin.link.events.monitoring import Decision, Kind, LinkMonitor, Observation
from shosoin.link.events.optics import arrival_table, expected
from shosoin.link.information import binary_entropy
from tests.link.events.support import LINE, SETTINGS, bare_line, observe

pytestmark = pytest.mark.any_kernels

BLOCK = 1 << 24
"""Pulses: 17 ms of a link at 1 GHz, about 90,000 sifted bits at 10 dB. Blocks that make key are ten times that."""


def judge(**options):
    seen, known = observe(BLOCK, **options)
    return LinkMonitor(calibration_of(SETTINGS, LINE)).inspect(seen), seen, known


def kinds(verdict):
    return {finding.kind for finding in verdict.findings}


def qber(seen):
    counts = seen.tally.counts
    return counts.key_errors[0] / counts.key_detections[0]


def near(share, expected_share, trials):
    return abs(share - expected_share) < 5 * math.sqrt(expected_share * (1 - expected_share) / trials)


@pytest.mark.parametrize("seed", range(4))
def test_a_quarter_intercepted_is_always_noticed_and_no_bit_leaves(seed):
    verdict, _, _ = judge(attack="intercept-resend", fraction=0.25, seed=seed)
    assert verdict.decision is Decision.SUSPEND
    assert kinds(verdict) == {Kind.QBER}
    with pytest.raises(Alarm, match="qber-high") as raised:
        verdict.require_release()
    assert raised.value.code == "link.suspended"


def test_intercepting_all_makes_a_quarter_of_the_bits_wrong_and_tells_half_of_them():
    seen, known = observe(BLOCK, attack=InterceptResend(), line=bare_line(misalignment=0.0))
    sifted = int(seen.tally.counts.key_detections[0])
    assert near(qber(seen), 0.25, sifted)
    assert near(known.guessed / known.sifted, 0.5, known.sifted)
    assert known.right > 0.999 * known.guessed


def test_splitting_photon_numbers_tells_every_bit_without_an_error_and_shows_in_the_gains():
    verdict, seen, known = judge(attack="photon-number-splitting")
    assert kinds(verdict) >= {Kind.YIELDS}
    assert verdict.decision is Decision.SUSPEND
    assert qber(seen) < 0.04
    assert known.right > 0.97 * known.sifted
    honest = expected(SETTINGS, arrival_table(SETTINGS, LINE)).gain
    attacked = expected(
        SETTINGS, arrival_table(SETTINGS, LINE, attack_named("photon-number-splitting", SETTINGS, LINE))
    ).gain
    assert attacked[0] == pytest.approx(honest[0], rel=1e-9)
    assert attacked[1] < 0.5 * honest[1]


def test_splitting_a_quarter_of_the_pulses_shows_as_well():
    verdict, _, _ = judge(attack="photon-number-splitting", fraction=0.25)
    assert Kind.YIELDS in kinds(verdict)


def test_without_decoys_splitting_photon_numbers_is_invisible():
    """Why there are decoys: one intensity, loss enough to hide behind, and no check fails."""
    one = replace(SETTINGS, intensities=(0.5,), probabilities=(1.0,))
    seen, known = observe(BLOCK, attack="photon-number-splitting", settings=one)
    verdict = LinkMonitor(calibration_of(one, LINE)).inspect(seen)
    assert verdict.decision is Decision.CONTINUE
    assert Kind.YIELDS in verdict.unwatched
    assert known.right > 0.95 * known.sifted


@pytest.mark.parametrize("fraction", [1.0, 0.05])
def test_blinded_detectors_draw_a_current(fraction):
    verdict, _, _ = judge(attack="detector-blinding", fraction=fraction)
    assert Kind.PHOTOCURRENT in kinds(verdict)
    assert verdict.decision is Decision.SUSPEND


def test_blinding_tells_every_bit_and_leaves_no_error_dark_count_or_double_click():
    seen, known = observe(BLOCK, attack="detector-blinding", line=bare_line())
    assert qber(seen) == 0
    assert known.right == known.guessed == known.sifted > 50_000
    assert seen.receiver.double_clicks == 0
    dark = replace(SETTINGS, intensities=(0.5, 0.1, 0.0))
    assert expected(dark, arrival_table(dark, bare_line(), DetectorBlinding())).gain[2] == 0.0


def test_shifted_pulses_leave_the_middle_of_the_gate_and_tell_what_the_mismatch_tells():
    verdict, seen, known = judge(attack="time-shift")
    assert kinds(verdict) == {Kind.GATE_TIMES}
    assert verdict.decision is Decision.SUSPEND
    share = known.right / known.guessed
    # A detector that keeps 0.3 of its efficiency: of what clicks, 1 / 1.3 is what Eve guessed, errors and noise aside.
    assert 0.72 < share < 1 / 1.3 + 0.01
    assert 1 - float(binary_entropy(share)) > 0.14
    assert abs(seen.receiver.clicks[0] / sum(seen.receiver.clicks) - 0.5) < 0.02


def test_shifting_one_way_unbalances_the_detectors():
    verdict, _, _ = judge(attack=TimeShift(early=1.0))
    assert Kind.BALANCE in kinds(verdict)


def test_a_trojan_horse_shows_on_the_monitor_diode_and_nowhere_else():
    verdict, seen, known = judge(attack="trojan-horse")
    assert kinds(verdict) == {Kind.DIODE}
    assert near(known.guessed / known.sifted, 0.5, known.sifted)
    assert known.right == known.guessed
    blind = LinkMonitor(calibration_of(SETTINGS, LINE)).inspect(Observation(seen.tally, seen.receiver))
    assert blind.decision is Decision.CONTINUE
    assert blind.unwatched == (Kind.DIODE,)


@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_keeps_the_click_rate_of_the_brightest_intensity(name):
    honest = expected(SETTINGS, arrival_table(SETTINGS, LINE)).gain
    attacked = expected(SETTINGS, arrival_table(SETTINGS, LINE, attack_named(name, SETTINGS, LINE))).gain
    assert attacked[0] == pytest.approx(honest[0], rel=0.01)


def test_an_unknown_attack_and_values_out_of_range_are_refused():
    with pytest.raises(Rejected, match="no attack"):
        attack_named("magic", SETTINGS, LINE)
    for make in (
        lambda: PhotonNumberSplitting(blocked=2.0),
        lambda: DetectorBlinding(resent=-1.0),
        lambda: TimeShift(remaining=(0.1, 1.1)),
        lambda: TrojanHorse(read=1.1),
    ):
        with pytest.raises(ValueError, match="must be within"):
            make()


def test_what_is_done_to_a_pulse_sums_to_one_for_any_photon_number():
    for name in ATTACKS:
        eve = attack_named(name, SETTINGS, LINE)
        for photons in range(6):
            for basis, bit in np.ndindex(2, 2):
                chances = [outcome.probability for outcome in eve.outcomes(photons, basis, bit, LINE)]
                assert math.fsum(chances) == pytest.approx(1.0)
                assert min(chances) >= 0.0
