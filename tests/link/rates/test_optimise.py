"""The search for the best settings: it finds known maxima, twice the same, and faster from a neighbour."""

import importlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tno.quantum.communication.qkd_key_rate.quantum import standard_detector

from shosoin.link.detector import Detector
from shosoin.link.rates.expected_counts import DecoyLink
from shosoin.link.rates.finite_key import Block, FiniteProof, Security, Settings, expected_secret_bits
from shosoin.link.rates.optimise import (
    Coordinate,
    Scale,
    coordinates_of,
    maximise,
    optimise_along,
    optimise_settings,
    settings_from,
)

# Their module names what it exports in a way that type checkers do not follow.
tno: Any = importlib.import_module("tno.quantum.communication.qkd_key_rate.quantum.bb84")

LINK = DecoyLink(Detector(efficiency=0.2, dark_count_probability=1e-6), 0.01)
BLOCK = Block(key_detections=1e7)
DEFAULT = FiniteProof.WIESEMANN2024


def two_hills(candidates):
    """Return a landscape that is flat but for a low wide hill at (1, 0.5) and a high narrow one at (100, 0.99)."""
    x, p = np.log(candidates[:, 0]), np.log(candidates[:, 1] / (1 - candidates[:, 1]))
    low = np.exp(-(x**2) / 4 - p**2 / 4)
    return low + 2.0 * np.exp(-((x - np.log(100.0)) ** 2) - (p - np.log(99.0)) ** 2)


PLACE = [Coordinate("x", 0.01, 1000.0, Scale.LOG), Coordinate("p", 0.001, 0.999, Scale.LOGIT)]


def test_the_higher_of_two_hills_is_found_and_twice_the_same():
    first, second = maximise(two_hills, PLACE), maximise(two_hills, PLACE)
    assert first == second
    assert first.values["x"] == pytest.approx(100.0, rel=1e-3)
    assert first.values["p"] == pytest.approx(0.99, rel=1e-4)
    assert first.objective == pytest.approx(2.0, rel=1e-3)


def test_a_start_is_climbed_from_and_a_start_without_value_is_not_trusted():
    near = maximise(two_hills, PLACE, start={"x": 1.5, "p": 0.4})
    assert near.values["x"] == pytest.approx(1.0, rel=1e-2)
    shifted = maximise(lambda c: two_hills(c) - 1.5, PLACE, start={"x": 1.5, "p": 0.4})
    assert shifted.values["x"] == pytest.approx(100.0, rel=1e-3)


@given(st.sampled_from(PLACE), st.floats(0, 1))
def test_a_coordinate_goes_there_and_back(coordinate, position):
    value = float(coordinate.value(position))
    assert coordinate.low <= value <= coordinate.high
    assert float(coordinate.position(value)) == pytest.approx(position, abs=1e-9)


@pytest.mark.parametrize(
    ("low", "high", "scale"), [(1, 1, Scale.LINEAR), (0, 1, Scale.LOG), (0.1, 1, Scale.LOGIT), (2, 1, Scale.LINEAR)]
)
def test_a_range_that_its_scale_does_not_have_is_refused(low, high, scale):
    with pytest.raises(ValueError, match="no range"):
        Coordinate("x", low, high, scale)


@pytest.mark.parametrize("proof", list(FiniteProof))
@given(st.data())
def test_every_candidate_is_a_setting_that_the_proof_admits(proof, data):
    coordinates = coordinates_of(proof)
    candidate = np.array([[float(c.value(data.draw(st.floats(0, 1)))) for c in coordinates]])
    bits, pulses = expected_secret_bits(
        LINK, settings_from(proof, candidate), proof=proof, block=BLOCK, attenuation_db=10.0
    )
    assert np.isfinite(bits[0] / pulses[0])


@pytest.mark.parametrize("proof", [FiniteProof.LIM2014, DEFAULT])
def test_no_neighbour_of_an_optimum_is_better(proof):
    best = optimise_settings(LINK, proof=proof, block=BLOCK, attenuation_db=12.0)
    coordinates = coordinates_of(proof)
    at = np.array([float(c.position(best.values[c.name])) for c in coordinates])
    steps = np.concatenate([at + 0.01 * np.eye(len(at)), at - 0.01 * np.eye(len(at))])
    near = np.stack([c.value(steps[:, i]) for i, c in enumerate(coordinates)], axis=-1)
    bits, pulses = expected_secret_bits(LINK, settings_from(proof, near), proof=proof, block=BLOCK, attenuation_db=12.0)
    assert np.all(bits / pulses <= best.secret_bits_per_pulse * (1 + 1e-9))


def test_along_a_fibre_each_optimum_is_as_good_as_one_sought_from_nothing_and_ends_with_the_key():
    losses = [10.0, 20.0, 30.0, 60.0, 61.0]
    along = optimise_along(LINK, proof=DEFAULT, block=BLOCK, attenuation_db=losses)
    rates = [one.secret_bits_per_pulse for one in along]
    alone = optimise_settings(LINK, proof=DEFAULT, block=BLOCK, attenuation_db=20.0, seed=5)
    assert rates[1] == pytest.approx(alone.secret_bits_per_pulse, rel=1e-5)
    assert rates[0] > rates[1] > rates[2] > 0.0
    assert rates[3:] == [0.0, 0.0]


def test_a_block_by_pulses_is_optimised_as_well_and_a_longer_one_is_worth_more_a_pulse():
    short, long = (
        optimise_settings(LINK, proof=DEFAULT, block=Block(pulses=pulses), attenuation_db=15.0).secret_bits_per_pulse
        for pulses in (1e9, 1e11)
    )
    assert 0.0 < short < long


def test_optimised_settings_are_better_than_those_of_habit():
    habit = Settings(np.array([0.5, 0.15]), np.array([0.9, 0.1]), np.array(0.9))
    bits, pulses = expected_secret_bits(LINK, habit, proof=DEFAULT, block=BLOCK, attenuation_db=20.0)
    best = optimise_settings(LINK, proof=DEFAULT, block=BLOCK, attenuation_db=20.0)
    assert best.secret_bits_per_pulse > 1.05 * float(bits / pulses)


@pytest.mark.parametrize("proof", list(FiniteProof))
@pytest.mark.parametrize("attenuation_db", [5.0, 20.0])
def test_our_finite_key_rate_is_below_that_of_tno(proof, attenuation_db):
    # Theirs solves for yields (at least as tight as closed forms), but takes the least single-photon errors that fit
    # where a proof takes the most, and a sampling epsilon of 1e-7: an estimate that a proven rate has to stay below.
    detector = standard_detector.customise(
        dark_count_rate=1e-6, polarization_drift=float(np.arcsin(0.1)), efficiency_party=0.2
    )
    basis, pulses = 0.8, 1e12
    sifted = basis**2 + (1 - basis) ** 2
    mu, p = np.array([0.5, 0.1, 2e-4]), np.array([0.7, 0.2, 0.1])
    theirs = tno.BB84FiniteKeyRateEstimate(detector, number_of_pulses=int(pulses * sifted)).compute_rate(
        mu, attenuation_db, basis**2 * p / sifted, (1 - basis) ** 2 * p / sifted
    )
    link = DecoyLink(Detector(0.2, 1e-6), 0.01, reconciliation_efficiency=1.0)
    ours = Settings(mu[: proof.intensities], p if proof.intensities == 3 else np.array([0.7, 0.3]), np.array(basis))
    bits, _ = expected_secret_bits(
        link,
        ours,
        proof=proof,
        block=Block(pulses=pulses),
        attenuation_db=attenuation_db,
        security=Security(epsilon_secrecy=1e-7),
    )
    assert 0.5 < float(bits) / pulses / float(np.squeeze(theirs) * sifted) < 1.0
