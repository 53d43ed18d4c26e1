"""What every finite-key bound of the package keeps to, whatever is counted."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.link.counts import DecoyCounts
from shosoin.link.detector import Detector
from shosoin.link.rates import one_decoy, two_decoys
from shosoin.link.rates.acceptance import AcceptanceLimits, fixed_length
from shosoin.link.rates.decoy import DecoyParameters, secret_key_rate_per_pulse
from shosoin.link.rates.expected_counts import DecoyLink, expected_counts, pulses_for_block
from shosoin.link.rates.finite_key import (
    Block,
    FiniteProof,
    Security,
    Settings,
    expected_secret_bits,
    finite_key_rate,
)

SETTINGS = {
    FiniteProof.LIM2014: (np.array([0.5, 0.15, 2e-4]), np.array([0.6, 0.25, 0.15])),
    FiniteProof.RUSCA2018: (np.array([0.5, 0.15]), np.array([0.6, 0.4])),
    FiniteProof.WIESEMANN2024: (np.array([0.5, 0.15]), np.array([0.6, 0.4])),
}
LINK = DecoyLink(Detector(efficiency=0.2, dark_count_probability=1e-6, afterpulse_probability=0.01), 0.01)
proofs = pytest.mark.parametrize("proof", list(FiniteProof))


def length(proof, counts, *, leak_ec_bits=0, **epsilons):
    mu, p = SETTINGS[proof]
    if proof is FiniteProof.LIM2014:
        return two_decoys.secret_length(counts, mu, p, leak_ec_bits=leak_ec_bits, **epsilons)
    return one_decoy.secret_length(
        counts, mu, p, leak_ec_bits=leak_ec_bits, proof=one_decoy.OneDecoyProof(proof.value), **epsilons
    )


def typical(proof, *, pulses=1e9, link=LINK, attenuation_db=8.0, basis=0.8):
    mu, p = SETTINGS[proof]
    counts = expected_counts(
        link,
        pulses=pulses,
        attenuation_db=attenuation_db,
        intensities=mu,
        probabilities=p,
        key_basis_probability=basis,
    )
    return DecoyCounts(*(np.floor(getattr(counts, f.name)).astype(np.int64) for f in dataclasses.fields(counts)))


@st.composite
def any_counts(draw, intensities):
    detections = st.lists(st.integers(0, 10 ** draw(st.integers(0, 9))), min_size=intensities, max_size=intensities)
    arrays = []
    for _ in range(2):
        seen = draw(detections)
        arrays += [np.array(seen, dtype=np.int64), np.array([draw(st.integers(0, n)) for n in seen], dtype=np.int64)]
    return DecoyCounts(*arrays)


@proofs
@given(data=st.data())
def test_whatever_is_counted_a_length_is_between_none_and_the_detections_less_the_leak(proof, data):
    counts = data.draw(any_counts(proof.intensities))
    leak = data.draw(st.integers(0, 10**6))
    found = length(proof, counts, leak_ec_bits=leak)
    detections = int(counts.key_detections.sum())
    assert 0 <= found.secret_bits <= max(0, detections - leak)
    assert 0.0 <= found.vacuum_detections_min + found.single_photon_detections_min <= detections * (1 + 1e-12)
    assert 0.0 <= found.phase_error_rate_max <= 0.5
    assert length(proof, counts, leak_ec_bits=leak + 1000).secret_bits <= found.secret_bits


@proofs
def test_nothing_detected_nothing_secret(proof):
    none = np.zeros(proof.intensities, dtype=np.int64)
    assert length(proof, DecoyCounts(none, none, none, none)).secret_bits == 0


@proofs
def test_one_basis_alone_gives_no_key(proof):
    good = typical(proof)
    none = np.zeros_like(good.key_detections)
    assert length(proof, good).secret_bits > 0
    no_test = length(proof, DecoyCounts(good.key_detections, good.key_errors, none, none))
    assert no_test.phase_error_rate_max == 0.5
    # Two of the proofs count detections of empty pulses as secret; nothing else may be left.
    assert no_test.secret_bits <= no_test.vacuum_detections_min
    assert length(proof, DecoyCounts(none, none, good.test_detections, good.test_errors)).secret_bits == 0


@proofs
def test_small_honest_blocks_give_no_key_and_no_error(proof):
    for pulses in (1e2, 1e3, 1e4, 1e5):
        assert length(proof, typical(proof, pulses=pulses)).secret_bits == 0


@proofs
def test_a_sample_without_errors_is_no_proof_that_there_are_none(proof):
    counts = typical(proof, pulses=1e8)
    clean = DecoyCounts(counts.key_detections, counts.key_errors, counts.test_detections, 0 * counts.test_errors)
    assert length(proof, clean).phase_error_rate_max > 1e-4


@proofs
def test_errors_of_one_half_give_no_key(proof):
    counts = typical(proof)
    half = DecoyCounts(
        counts.key_detections, counts.key_detections // 2, counts.test_detections, counts.test_detections // 2
    )
    found = length(proof, half)
    assert found.phase_error_rate_max == 0.5
    assert found.secret_bits <= found.vacuum_detections_min


@proofs
def test_more_errors_never_make_a_longer_key(proof):
    bits = [
        length(proof, typical(proof, link=dataclasses.replace(LINK, misalignment_error=error))).secret_bits
        for error in (0.0, 0.005, 0.01, 0.02, 0.04, 0.08)
    ]
    assert bits[0] > bits[2] > bits[4]
    assert bits == sorted(bits, reverse=True)


@proofs
def test_a_larger_epsilon_never_makes_a_shorter_key(proof):
    counts = typical(proof)
    bits = [length(proof, counts, epsilon_secrecy=e).secret_bits for e in (1e-20, 1e-15, 1e-10, 1e-6, 1e-3)]
    assert bits == sorted(bits)
    assert bits[0] < bits[-1]
    assert (
        length(proof, counts, epsilon_correctness=1e-15).secret_bits
        == length(proof, counts, epsilon_correctness=1e-12).secret_bits - 10
    )


@proofs
def test_only_integers_of_one_block_are_observed(proof):
    counts = typical(proof)
    real = DecoyCounts(*(getattr(counts, f.name).astype(float) for f in dataclasses.fields(counts)))
    with pytest.raises(ValueError, match="integers"):
        length(proof, real)
    stacked = DecoyCounts(*(np.stack([getattr(counts, f.name)] * 2) for f in dataclasses.fields(counts)))
    with pytest.raises(ValueError, match="one block"):
        length(proof, stacked)
    with pytest.raises(ValueError, match="leak_ec_bits"):
        length(proof, counts, leak_ec_bits=-1)
    for bad in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="epsilon_secrecy"):
            length(proof, counts, epsilon_secrecy=bad)


def settings_of(proof, basis=0.9):
    mu, p = SETTINGS[proof]
    return Settings(mu, p, np.array(basis))


@proofs
def test_many_distances_at_once_give_what_each_gives_alone(proof):
    losses = np.linspace(0.0, 45.0, 16)
    block = Block(key_detections=1e7)
    together = finite_key_rate(LINK, settings_of(proof), proof=proof, block=block, attenuation_db=losses)
    each = [
        finite_key_rate(LINK, settings_of(proof), proof=proof, block=block, attenuation_db=float(loss))
        for loss in losses
    ]
    np.testing.assert_allclose(together.secret_bits_per_pulse, [one.secret_bits_per_pulse for one in each], rtol=1e-12)
    np.testing.assert_allclose(together.qber, [one.qber for one in each], rtol=1e-12)
    assert np.all(np.diff(together.secret_bits_per_pulse) <= 0.0)
    assert together.protocol == f"decoy-bb84/{proof.value}"
    assert not together.is_asymptotic


@proofs
def test_the_model_and_the_observed_block_agree(proof):
    counts = typical(proof, pulses=1e10)
    bits, _ = expected_secret_bits(
        LINK, settings_of(proof, 0.8), proof=proof, block=Block(pulses=1e10), attenuation_db=8.0
    )
    leak = int(np.ceil(counts.key_detections.sum() * 1.16 * _h(counts.key_errors.sum() / counts.key_detections.sum())))
    assert length(proof, counts, leak_ec_bits=leak).secret_bits == pytest.approx(float(bits), rel=1e-5)


def _h(p):
    return -p * np.log2(p) - (1 - p) * np.log2(1 - p)


@proofs
def test_growing_blocks_approach_a_limit_from_below_that_infinitely_many_decoys_exceed(proof):
    plain = dataclasses.replace(LINK, detector=dataclasses.replace(LINK.detector, afterpulse_probability=0.0))
    rates = []
    for pulses in (1e9, 1e11, 1e13, 1e15, 1e18, 1e20):
        bits, _ = expected_secret_bits(
            plain, settings_of(proof), proof=proof, block=Block(pulses=pulses), attenuation_db=10.0
        )
        rates.append(float(bits) / pulses)
    assert np.all(np.diff(rates) > 0.0)
    assert rates[-1] == pytest.approx(rates[-2], rel=1e-3)
    mu, p = SETTINGS[proof]
    limit = sum(
        share
        * float(
            secret_key_rate_per_pulse(
                DecoyParameters(
                    mean_photon_number=float(k),
                    receiver_efficiency=0.2,
                    background_yield=1 - (1 - 1e-6) ** 2,
                    misalignment_error=0.01,
                    reconciliation_efficiency=1.16,
                    sifting_factor=0.81,
                    pulse_rate_hz=1e9,
                    attenuation_db_per_km=0.2,
                ),
                attenuation_db=10.0,
            )
        )
        for k, share in zip(mu, p, strict=True)
    )
    assert 0.6 * limit < rates[-1] < limit


@proofs
def test_a_block_by_detections_takes_the_pulses_that_give_them(proof):
    mu, p = SETTINGS[proof]
    where: dict[str, Any] = {
        "attenuation_db": 12.0,
        "intensities": mu,
        "probabilities": p,
        "key_basis_probability": 0.7,
    }
    pulses = pulses_for_block(LINK, key_detections=1e6, **where)
    assert expected_counts(LINK, pulses=pulses, **where).key_detections.sum() == pytest.approx(1e6)


def test_dead_time_saturates_the_count_rate():
    slow = dataclasses.replace(LINK, detector=dataclasses.replace(LINK.detector, dead_time_s=1e-6))
    mu, p = SETTINGS[FiniteProof.RUSCA2018]
    at: dict[str, Any] = {"attenuation_db": 0.0, "intensities": mu, "probabilities": p, "key_basis_probability": 1.0}
    per_second = expected_counts(slow, pulses=slow.pulse_rate_hz, **at).key_detections.sum()
    free = expected_counts(LINK, pulses=LINK.pulse_rate_hz, **at).key_detections.sum()
    assert per_second == pytest.approx(free / (1 + free * 1e-6), rel=1e-9)
    assert per_second < 1e6


@given(st.floats(0, 60), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_daylight_and_noise_leave_probabilities_probabilities(loss, dark, background, afterpulse, error):
    link = DecoyLink(Detector(0.9, dark, afterpulse), error, background_probability=background)
    mu, p = SETTINGS[FiniteProof.RUSCA2018]
    counts = expected_counts(
        link, pulses=1.0, attenuation_db=loss, intensities=mu, probabilities=p, key_basis_probability=0.5
    )
    assert np.all(counts.key_detections <= 0.25 * p * (1 + 1e-12))


def test_stray_light_costs_key_and_enough_of_it_all_key():
    # A satellite pass with SatQuMA's extraneous counts (5e-7 a gate) at its zenith loss of 27 dB, and brighter skies.
    rates = []
    for background in (0.0, 5e-7, 5e-6, 5e-5, 1e-3):
        link = DecoyLink(Detector(1.0, 0.0), 5e-3, background_probability=background, pulse_rate_hz=1e8)
        found = finite_key_rate(
            link,
            settings_of(FiniteProof.LIM2014),
            proof=FiniteProof.LIM2014,
            block=Block(pulses=1e11),
            attenuation_db=27.0,
        )
        rates.append(float(found.secret_bits_per_pulse))
    assert rates == sorted(rates, reverse=True)
    assert rates[1] > 0.0
    assert rates[-1] == 0.0


def test_a_rate_names_one_epsilon():
    with pytest.raises(ValueError, match="one epsilon"):
        finite_key_rate(
            LINK,
            settings_of(FiniteProof.LIM2014),
            proof=FiniteProof.LIM2014,
            block=Block(pulses=1e9),
            attenuation_db=1.0,
            security=Security(epsilon_secrecy_per_bit=1e-15),
        )


@pytest.mark.parametrize("sizes", [{}, {"key_detections": 1e6, "pulses": 1e9}, {"pulses": 0.0}])
def test_a_block_has_one_size(sizes):
    with pytest.raises(ValueError, match="a block is"):
        Block(**sizes)


@proofs
def test_a_fixed_length_is_that_of_the_limits_or_none(proof):
    block = length(proof, typical(proof), leak_ec_bits=1000)
    limits = AcceptanceLimits(
        single_photon_detections_min=0.9 * block.single_photon_detections_min,
        phase_error_rate_max=1.1 * block.phase_error_rate_max,
        leak_ec_bits_max=1100,
    )
    accepted = fixed_length(block, limits)
    assert 0 < accepted.secret_bits == limits.secret_bits(block.fixed_cost_bits) < block.secret_bits
    for change in (
        {"single_photon_detections_min": 1.01 * block.single_photon_detections_min},
        {"phase_error_rate_max": 0.99 * block.phase_error_rate_max},
        {"leak_ec_bits_max": 999},
    ):
        assert fixed_length(block, dataclasses.replace(limits, **change)).secret_bits == 0


@pytest.mark.parametrize("change", [{"phase_error_rate_max": 0.5}, {"single_photon_detections_min": -1.0}])
def test_limits_out_of_range_are_refused(change):
    good = {"single_photon_detections_min": 1e6, "phase_error_rate_max": 0.03, "leak_ec_bits_max": 10}
    with pytest.raises(ValueError, match=next(iter(change))):
        AcceptanceLimits(**(good | change))
