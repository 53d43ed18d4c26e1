"""Asymptotic decoy states: printed numbers of Ma, Qi, Zhao, Lo 2005, and TNO's program as a second opinion."""

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tno.quantum.communication.qkd_key_rate.quantum import standard_detector

from shosoin.link.detector import Detector
from shosoin.link.information import union
from shosoin.link.rates import decoy_published as published
from shosoin.link.rates.decoy import GYS, METRO, DecoyParameters, secret_key_rate_per_pulse, single_photon_bounds
from shosoin.link.rates.expected_counts import DecoyLink, clicks
from shosoin.link.rates.optimise import Coordinate, Scale, maximise

# Their modules name what they export in a way that type checkers do not follow.
tno: Any = importlib.import_module("tno.quantum.communication.qkd_key_rate.quantum.bb84")
tno_single: Any = importlib.import_module("tno.quantum.communication.qkd_key_rate.quantum.bb84_single_photon")

DARK, ERROR, EFFICIENCY = 1e-6, 0.02, 0.2
TNO_DETECTOR = standard_detector.customise(
    dark_count_rate=DARK, polarization_drift=float(np.arcsin(np.sqrt(ERROR))), efficiency_party=EFFICIENCY
)
SAME = DecoyParameters(
    mean_photon_number=0.5,
    receiver_efficiency=EFFICIENCY,
    background_yield=float(union(DARK, DARK)),
    misalignment_error=ERROR,
    reconciliation_efficiency=1.0,
    sifting_factor=1.0,
    pulse_rate_hz=1e9,
    attenuation_db_per_km=0.2,
)


def test_the_printed_reaches_of_the_gys_system_come_out():
    assert published.gys_reach_km() == pytest.approx(142.05, abs=0.2)
    assert published.gys_reach_with_vacuum_and_weak_decoy_km() == pytest.approx(140.55, abs=0.2)


def test_the_printed_best_intensities_come_out():
    assert published.gys_best_mean_photon_number(1.22) == pytest.approx(0.48, abs=0.005)
    assert published.gys_best_mean_photon_number(1.0) == pytest.approx(0.54, abs=0.005)


def test_a_search_over_intensities_finds_the_printed_optimum():
    def rate(candidates):
        return np.array(
            [
                float(secret_key_rate_per_pulse(replace(GYS, mean_photon_number=float(mu)), attenuation_db=0.21 * 60))
                for mu in candidates[:, 0]
            ]
        )

    best = maximise(rate, [Coordinate("mu", 0.05, 1.0, Scale.LOG)], generations=15)
    assert best.values["mu"] == pytest.approx(0.48, abs=0.005)


def test_the_printed_deviations_of_a_weak_decoy_come_out():
    yield_deviation, error_deviation = published.gys_weak_decoy_deviations()
    assert yield_deviation == pytest.approx(0.035, abs=0.0005)
    assert error_deviation == pytest.approx(0.168, abs=0.0005)


@given(st.floats(0, 40), st.floats(0.01, 0.4), st.sampled_from([GYS, METRO]))
def test_bounds_from_a_weak_decoy_lie_on_the_safe_side_of_the_truth(attenuation_db, weak_decoy, system):
    true_yield, true_error = single_photon_bounds(system, attenuation_db=attenuation_db)
    least, most = single_photon_bounds(system, attenuation_db=attenuation_db, weak_decoy=weak_decoy)
    assert 0.0 <= least <= true_yield * (1 + 1e-9)
    assert min(float(true_error), 0.5) * (1 - 1e-9) <= most <= 0.5
    assert secret_key_rate_per_pulse(
        system, attenuation_db=attenuation_db, weak_decoy=weak_decoy
    ) <= secret_key_rate_per_pulse(system, attenuation_db=attenuation_db) * (1 + 1e-9)


def test_a_weaker_decoy_comes_closer():
    rates = [float(secret_key_rate_per_pulse(GYS, attenuation_db=15.0, weak_decoy=nu)) for nu in (0.2, 0.1, 0.01, 1e-4)]
    assert np.all(np.diff(rates) > 0)
    assert rates[-1] == pytest.approx(float(secret_key_rate_per_pulse(GYS, attenuation_db=15.0)), rel=1e-3)


@pytest.mark.parametrize("weak_decoy", [0.0, 0.48, 1.0, float("nan")])
def test_a_weak_decoy_is_dimmer_than_the_signal(weak_decoy):
    with pytest.raises(ValueError, match="weak decoy"):
        secret_key_rate_per_pulse(GYS, attenuation_db=1.0, weak_decoy=weak_decoy)


@pytest.mark.parametrize("attenuation_db", [0.0, 5.0, 20.0, 40.0])
def test_two_detectors_click_and_err_as_often_as_in_the_program_of_tno(attenuation_db):
    # Both take two threshold detectors, Poissonian light and a random bit when both click: the same model.
    intensities = np.array([0.9, 0.5, 0.1])
    gain, error_rate = tno.compute_gain_and_error_rate(TNO_DETECTOR, intensities, attenuation_db)
    detection, error = clicks(
        DecoyLink(Detector(EFFICIENCY, DARK), ERROR), intensity=intensities, attenuation_db=attenuation_db
    )
    np.testing.assert_allclose(detection, gain, rtol=1e-9)
    np.testing.assert_allclose(error, gain * error_rate, rtol=1e-9)


@pytest.mark.parametrize("attenuation_db", [0.0, 10.0, 30.0])
def test_a_single_photon_does_as_in_the_program_of_tno(attenuation_db):
    # They let a dark count beside the photon's click make a random bit, we keep the photon's: less than a dark count.
    gain, error_rate = tno_single.compute_gain_and_error_rate(TNO_DETECTOR, attenuation_db)
    yield_one, error_one = single_photon_bounds(SAME, attenuation_db=attenuation_db)
    assert float(yield_one) == pytest.approx(float(gain), rel=1e-9)
    assert float(error_one * yield_one) == pytest.approx(float(error_rate * gain), rel=1e-4)


@pytest.mark.parametrize("attenuation_db", [0.0, 10.0, 30.0])
def test_the_rate_with_infinitely_many_decoys_is_that_of_tno_less_the_vacuum_detections(attenuation_db):
    # Theirs adds detections of empty pulses; reconciliation is at the Shannon limit in both. Where both detectors may
    # click (no loss) the error models differ by 3e-4.
    theirs = tno.BB84FullyAsymptoticKeyRateEstimate(TNO_DETECTOR).compute_rate(0.5, attenuation_db)
    vacuum = SAME.background_yield * np.exp(-0.5)
    ours = float(secret_key_rate_per_pulse(SAME, attenuation_db=attenuation_db))
    assert ours + vacuum == pytest.approx(theirs, rel=4e-4)


@pytest.mark.parametrize("attenuation_db", [5.0, 20.0, 30.0])
def test_the_rate_with_a_weak_decoy_is_below_the_best_that_a_linear_program_can_prove(attenuation_db):
    # TNO solve for the worst yields that fit the same three gains; our closed form is one feasible relaxation of that,
    # and theirs stays below what infinitely many decoys give.
    closed = float(secret_key_rate_per_pulse(SAME, attenuation_db=attenuation_db, weak_decoy=0.1))
    solved = tno.BB84AsymptoticKeyRateEstimate(TNO_DETECTOR, number_of_decoy=2).compute_rate(
        [0.5, 0.1, 0.0], attenuation_db
    )
    limit = tno.BB84FullyAsymptoticKeyRateEstimate(TNO_DETECTOR).compute_rate(0.5, attenuation_db)
    assert 0.95 * solved < closed <= solved <= limit
