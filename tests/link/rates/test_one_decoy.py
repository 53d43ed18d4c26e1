"""Rusca 2018 and Wiesemann 2024: the authors' program, printed claims, and a bound that is one."""

import numpy as np
import pytest

from shosoin.link.counts import DecoyCounts
from shosoin.link.information import binary_entropy
from shosoin.link.rates import decoy_published as published
from shosoin.link.rates import one_decoy
from shosoin.link.rates.one_decoy import OneDecoyProof
from shosoin.link.rates.sampling import Sampling
from tests.link.rates.simulated_blocks import (
    draw,
    lossy,
    photon_number_splitting,
    worst_for_phase_errors,
    worst_for_single_photons,
)

MU, P = np.array([0.5, 0.15]), np.array([0.5, 0.5])
PARTS = {OneDecoyProof.RUSCA2018: 19, OneDecoyProof.WIESEMANN2024: 15}
PULSES = {"key_pulses": 10**7, "test_pulses": 4 * 10**5, "blocks": 1000}


@pytest.mark.parametrize(
    ("kilometres", "pulses", "secret_bits"),
    [
        (100, 1e10, 2786507.928698373),
        (50, 1e12, 9542789131.866941),
        (150, 1e12, 74222393.32077047),
        (20, 1e9, 31605729.86881706),
    ],
)
def test_the_corrected_proof_gives_what_its_authors_program_gives(kilometres, pulses, secret_bits):
    # github.com/jankhg/Quantum-key-distribution-secure-key-rate-simulation-1-decoy-BB84 at f9d89e8 (18 March 2026), its
    # parameters as shipped but for length and pulses: 625 MHz, 200 dark counts a second in all, 2 % misalignment,
    # 0.2 dB/km, key basis 0.9, intensities 0.5 and 0.15 with 0.9 and 0.1, f = 1.16, both epsilons 1e-12.
    mu, p, dark = np.array([0.5, 0.15]), np.array([0.9, 0.1]), 200 / 625e6
    light = mu * 10 ** (-0.02 * kilometres)
    detection, error = 1 - np.exp(-light) * (1 - dark), (1 - np.exp(-light)) * 0.02 + dark / 2
    key, test = 0.9**2 * pulses * p, 0.1**2 * pulses * p
    counts = DecoyCounts(key * detection, key * error, test * detection, test * error)
    n = counts.key_detections.sum()
    leak = n * 1.16 * binary_entropy(counts.key_errors.sum() / n)
    cost = one_decoy.fixed_cost_bits(OneDecoyProof.WIESEMANN2024, epsilon_secrecy=1e-12, epsilon_correctness=1e-12)
    bounds = one_decoy.bounds(counts, mu, p, epsilon_secrecy=1e-12)
    found = bounds.secret_bits(leak_ec_bits=leak, fixed_cost_bits=cost)
    assert float(found) == pytest.approx(secret_bits, rel=1e-9)


@pytest.mark.parametrize("key_detections", [1e5, 1e8])
def test_one_decoy_beats_two_for_blocks_of_up_to_a_hundred_million(key_detections):
    assert published.one_decoy_advantage(key_detections) > 1.0


def test_the_fixed_costs_are_those_printed():
    found = {
        proof: float(one_decoy.fixed_cost_bits(proof, epsilon_secrecy=1e-9, epsilon_correctness=1e-15))
        for proof in OneDecoyProof
    }
    assert found[OneDecoyProof.RUSCA2018] == pytest.approx(6 * np.log2(19e9) + np.log2(2e15), rel=1e-12)
    corrected = 4 * np.log2(15e9 / 2**0.25) + np.log2(2e15)
    assert found[OneDecoyProof.WIESEMANN2024] == pytest.approx(corrected, rel=1e-12)


@pytest.mark.parametrize("proof", list(OneDecoyProof))
def test_epsilon_is_nineteen_or_fifteen_parts_and_the_correctness(proof):
    found = one_decoy.epsilons(proof, epsilon_secrecy=1e-9, epsilon_correctness=1e-15)
    assert found.parts["secrecy: privacy amplification"] == pytest.approx(1e-9 / PARTS[proof])
    assert sum(value for name, value in found.parts.items() if name.startswith("secrecy")) == pytest.approx(1e-9)
    assert found.total == pytest.approx(1e-9 + 1e-15, rel=1e-12)


@pytest.mark.parametrize("scale", [1, 10, 1000])
def test_the_corrected_proof_gives_less_than_the_one_it_corrects(scale):
    # It pays for a proven inequality instead of an approximation, and makes no key of vacuum detections; its fewer
    # parts of epsilon and chain rules win back less than that.
    counts = _typical(scale)
    leak = 13_000 * scale
    old, new = (
        one_decoy.secret_length(counts, MU, P, leak_ec_bits=leak, proof=proof, sampling=sampling)
        for proof, sampling in ((OneDecoyProof.RUSCA2018, Sampling.GAUSSIAN), (OneDecoyProof.WIESEMANN2024, None))
    )
    assert 0 < new.secret_bits < old.secret_bits
    assert new.vacuum_detections_min == 0.0
    assert new.fixed_cost_bits < old.fixed_cost_bits


@pytest.mark.parametrize("proof", list(OneDecoyProof))
def test_a_length_is_what_the_proof_says_of_its_own_bounds(proof):
    found = one_decoy.secret_length(_typical(100), MU, P, leak_ec_bits=1_300_000, proof=proof)
    single = found.single_photon_detections_min * (1.0 - float(binary_entropy(found.phase_error_rate_max)))
    assert found.secret_bits == int(found.vacuum_detections_min + single - 1_300_000 - found.fixed_cost_bits)
    assert found.proof == proof.value


def _typical(scale):
    arrays = ([70_000, 22_000], [1_000, 320], [20_000, 6_200], [300, 95])
    return DecoyCounts(*(scale * np.array(array) for array in arrays))


@pytest.mark.parametrize("proof", list(OneDecoyProof))
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
def test_bounds_hold_for_the_truth_in_all_draws_but_those_epsilon_allows(channel, proof):
    counts, truth = draw(np.random.default_rng(2018), channel, MU, P, **PULSES)
    for each in (0.3, 1e-3):
        bounds = one_decoy.bounds(counts, MU, P, epsilon_secrecy=PARTS[proof] * each, proof=proof)
        assert np.mean(truth.vacuum < bounds.vacuum_min) <= each
        assert np.mean(truth.single < bounds.single_min) <= each
        assert np.mean(truth.phase_errors > bounds.phase_error_rate_max * truth.single) <= each


@pytest.mark.parametrize("proof", list(OneDecoyProof))
def test_without_deviations_the_same_bounds_fail_in_a_quarter_of_the_draws_or_more(proof):
    # An epsilon of 1 each makes every deviation zero: that the test above can fail.
    rng = np.random.default_rng(2019)
    counts, truth = draw(rng, worst_for_single_photons(1e-2, dark=2e-4), MU, P, **PULSES)
    bounds = one_decoy.bounds(counts, MU, P, epsilon_secrecy=PARTS[proof], proof=proof)
    assert np.mean(truth.single < bounds.single_min) > 0.25
    counts, truth = draw(rng, worst_for_phase_errors(1e-2, error=0.05), MU, P, **PULSES)
    bounds = one_decoy.bounds(counts, MU, P, epsilon_secrecy=PARTS[proof], proof=proof)
    assert np.mean(truth.phase_errors > bounds.phase_error_rate_max * truth.single) > 0.25


@pytest.mark.parametrize("mu", [[0.5, 0.15, 0.0], [0.15, 0.5], [0.5, 0.0], [0.5, 0.5], [float("nan"), 0.1]])
def test_intensities_out_of_range_are_refused(mu):
    counts = DecoyCounts(*(np.zeros(len(mu), dtype=np.int64) for _ in range(4)))
    with pytest.raises(ValueError, match="intensities"):
        one_decoy.secret_length(counts, mu, np.full(len(mu), 1 / len(mu)), leak_ec_bits=0)
