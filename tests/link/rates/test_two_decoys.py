"""Lim 2014: printed numbers, and a bound that is one."""

import numpy as np
import pytest

from shosoin.link.counts import DecoyCounts
from shosoin.link.information import binary_entropy
from shosoin.link.rates import decoy_published as published
from shosoin.link.rates import two_decoys
from shosoin.link.rates.expected_counts import expected_counts
from shosoin.link.rates.sampling import Sampling
from tests.link.rates.simulated_blocks import (
    draw,
    lossy,
    photon_number_splitting,
    worst_for_phase_errors,
    worst_for_single_photons,
)

MU, P = np.array([0.5, 0.15, 2e-4]), np.array([0.4, 0.4, 0.2])
PARTS = 21
PULSES = {"key_pulses": 10**7, "test_pulses": 10**6, "blocks": 1000}


def test_the_detection_probability_at_100_km_comes_out():
    assert published.lim_detection_probability() == pytest.approx(5.010744e-4, rel=1e-6)


def test_the_fixed_cost_comes_out():
    assert published.lim_fixed_cost_bits() == pytest.approx(256.567, abs=5e-4)


def test_the_printed_gain_from_larger_blocks_comes_out():
    assert published.lim_block_size_gain() == pytest.approx(1.75, abs=0.05)


def test_ten_thousand_detections_reach_130_km_and_not_136():
    # Printed: 135 km. See lim_reach_km.
    assert published.lim_reach_km(distances_km=(100.0, 120.0, 130.0, 136.0)) == 130.0


def test_light_lost_on_the_way_makes_no_error():
    # The printed error model has the transmittance of the channel where that of the whole system is meant: then the
    # error of the signal at 100 km would be e_mis (1 - exp(-0.01 * 0.5)), ten times as much as light detected.
    counts = expected_counts(
        published.LIM_FIBRE,
        pulses=1.0,
        attenuation_db=20.0,
        intensities=[0.5, 0.1, 2e-4],
        probabilities=[0.5, 0.3, 0.2],
        key_basis_probability=0.9,
    )
    qber = counts.key_errors.sum() / counts.key_detections.sum()
    assert qber == pytest.approx(5e-3 + 0.04 / 2, rel=0.15)


def test_epsilon_is_twenty_one_parts_and_the_correctness():
    found = two_decoys.epsilons(epsilon_secrecy=1e-9, epsilon_correctness=1e-15)
    assert sum(value for name, value in found.parts.items() if name.startswith("secrecy")) == pytest.approx(1e-9)
    assert found.total == pytest.approx(1e-9 + 1e-15, rel=1e-12)
    assert min(found.parts["secrecy: privacy amplification"], 1e-9 / 21) == pytest.approx(1e-9 / 21)


def test_a_length_is_what_equation_1_says_of_its_own_bounds():
    counts = DecoyCounts(*(np.array(a) for a in _typical()))
    found = two_decoys.secret_length(counts, MU, P, leak_ec_bits=900_000)
    single = found.single_photon_detections_min * (1.0 - float(binary_entropy(found.phase_error_rate_max)))
    assert found.secret_bits == int(found.vacuum_detections_min + single - 900_000 - found.fixed_cost_bits)
    assert found.secret_bits > 0
    assert found.proof == "lim2014"


@pytest.mark.parametrize(("times", "secret_bits"), [(10, 33225871.219540387), (100, 341095790.4166827)])
def test_another_program_for_the_same_equations_gives_the_same_length(times, secret_bits):
    # github.com/KlenM/Finite-key-Decoy-state-QKD at 9a453fb (20 August 2025): DecoyStateFinite on these counts, its
    # leak added back. (At a tenth of these counts it cuts off m-_mu3 at zero, which is sound but not what is printed.)
    counts = DecoyCounts(*(times * np.array(a) for a in _typical()))
    bounds = two_decoys.bounds(counts, MU, P, epsilon_secrecy=1e-9, sampling=Sampling.GAUSSIAN)
    cost = two_decoys.fixed_cost_bits(epsilon_secrecy=1e-9, epsilon_correctness=1e-15)
    assert float(bounds.secret_bits(leak_ec_bits=0, fixed_cost_bits=cost)) == pytest.approx(secret_bits, rel=1e-12)


def _typical():
    key = [5_000_000, 1_500_000, 5_000]
    test = [600_000, 180_000, 600]
    return key, [100_000, 31_000, 1_300], test, [12_000, 3_700, 160]


@pytest.mark.parametrize(
    "channel",
    [
        lossy(1e-2, dark=2e-4, error=0.02),
        worst_for_single_photons(1e-2, dark=2e-4),
        worst_for_phase_errors(1e-2, error=0.05),
        photon_number_splitting(1e-2, dark=2e-4, error=0.02),
    ],
    ids=["lossy", "worst for single photons", "worst for phase errors", "photon number splitting"],
)
def test_bounds_hold_for_the_truth_in_all_draws_but_those_epsilon_allows(channel):
    counts, truth = draw(np.random.default_rng(2014), channel, MU, P, **PULSES)
    for each in (0.3, 1e-3):
        bounds = two_decoys.bounds(counts, MU, P, epsilon_secrecy=PARTS * each)
        assert np.mean(truth.vacuum < bounds.vacuum_min) <= each
        assert np.mean(truth.single < bounds.single_min) <= each
        assert np.mean(truth.phase_errors > bounds.phase_error_rate_max * truth.single) <= each


def test_without_deviations_the_same_bounds_fail_in_a_third_of_the_draws_or_more():
    # An epsilon of 1 each makes every deviation zero: that the test above can fail.
    rng = np.random.default_rng(2015)
    counts, truth = draw(rng, worst_for_single_photons(1e-2, dark=2e-4), MU, P, **PULSES)
    bounds = two_decoys.bounds(counts, MU, P, epsilon_secrecy=PARTS)
    assert np.mean(truth.vacuum < bounds.vacuum_min) > 0.3
    assert np.mean(truth.single < bounds.single_min) > 0.3
    counts, truth = draw(rng, worst_for_phase_errors(1e-2, error=0.05), MU, P, **PULSES)
    bounds = two_decoys.bounds(counts, MU, P, epsilon_secrecy=PARTS)
    assert np.mean(truth.phase_errors > bounds.phase_error_rate_max * truth.single) > 0.3


@pytest.mark.parametrize(
    ("mu", "p"),
    [
        ([0.5, 0.15], [0.5, 0.5]),
        ([0.3, 0.2, 0.1], [0.4, 0.3, 0.3]),
        ([0.1, 0.2, 0.0], [0.4, 0.3, 0.3]),
        ([0.5, 0.2, -0.1], [0.4, 0.3, 0.3]),
        ([0.5, float("nan"), 0.0], [0.4, 0.3, 0.3]),
        ([0.5, 0.2, 0.0], [0.4, 0.3, 0.2]),
        ([0.5, 0.2, 0.0], [1.0, 0.0, 0.0]),
    ],
)
def test_intensities_and_probabilities_out_of_range_are_refused(mu, p):
    counts = DecoyCounts(*(np.zeros(len(mu), dtype=np.int64) for _ in range(4)))
    with pytest.raises(ValueError, match=r"intensities|probabilities"):
        two_decoys.secret_length(counts, mu, p, leak_ec_bits=0)
