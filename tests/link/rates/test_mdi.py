from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.link.rates import mdi, mdi_finite, plob
from shosoin.link.rates.mdi import LO_CURTY_QI_2012, RelayParameters
from shosoin.link.rates.mdi_finite import RelayBlock, RelaySettings

LOSS = np.arange(0.0, 60.0, 1.0)
SNSPD = RelayParameters(0.4, 1e-7, 0.01, 1.16)

# Detectors cH, cV, dH, dV; announced are pairs of one H and one V.
SAME_SIDE, OPPOSITE = ((0, 1), (2, 3)), ((0, 3), (1, 2))
POLARISATION = {("Z", 0): (1, 0), ("Z", 1): (0, 1), ("X", 0): (1, 1), ("X", 1): (1, -1)}


def detector_amplitudes(basis, bit, from_b):
    """Amplitudes of one photon on cH, cV, dH, dV after the beam splitter."""
    h, v = np.array(POLARISATION[basis, bit]) / np.linalg.norm(POLARISATION[basis, bit])
    sign = -1 if from_b else 1
    return np.array([h, v, sign * h, sign * v]) / np.sqrt(2)


def two_photon_patterns(a, b):
    """Probability of each set of detectors lit by one photon from each side: bosons, so amplitudes are symmetrised."""
    patterns = {}
    for i, j in product(range(4), repeat=2):
        if i < j:
            patterns[frozenset((i, j))] = (a[i] * b[j] + a[j] * b[i]) ** 2
        elif i == j:
            patterns[frozenset((i,))] = 2 * (a[i] * b[i]) ** 2
    return patterns


def announced(lit, dark):
    """Probability that exactly the two detectors of an announcement click, given those that light hits."""
    result = {}
    for pair in SAME_SIDE + OPPOSITE:
        if lit <= set(pair):
            result[pair] = dark ** (2 - len(lit)) * (1 - dark) ** 2
    return result


def enumerated(basis, eta_a, eta_b, dark):
    """Y11 and e11 Y11 without misalignment, by every bit, loss, output and dark count."""
    success = wrong = 0.0
    for bit_a, bit_b in product((0, 1), repeat=2):
        a, b = detector_amplitudes(basis, bit_a, False), detector_amplitudes(basis, bit_b, True)
        states = [(eta_a * eta_b, two_photon_patterns(a, b))]
        states.append((eta_a * (1 - eta_b), {frozenset((i,)): a[i] ** 2 for i in range(4)}))
        states.append((eta_b * (1 - eta_a), {frozenset((i,)): b[i] ** 2 for i in range(4)}))
        states.append(((1 - eta_a) * (1 - eta_b), {frozenset(): 1.0}))
        for weight, patterns in states:
            for lit, chance in patterns.items():
                for pair, clicks in announced(lit, dark).items():
                    value = weight * chance * clicks / 4
                    success += value
                    # Same side means psi plus: bits differ in Z and agree in X; opposite means psi minus.
                    agree = basis == "X" and pair in SAME_SIDE
                    wrong += value if (bit_a == bit_b) != agree else 0.0
    return success, wrong


def averaged(basis, arrive_a, arrive_b, dark):
    """Gain and error gain of weak pulses without misalignment: four detectors, averaged over the relative phase."""
    phases = np.arange(64) * 2 * np.pi / 64
    success = wrong = 0.0
    for bit_a, bit_b in product((0, 1), repeat=2):
        a = np.sqrt(arrive_a) * detector_amplitudes(basis, bit_a, False)
        b = np.sqrt(arrive_b) * detector_amplitudes(basis, bit_b, True)
        light = np.abs(a[:, None] + b[:, None] * np.exp(1j * phases)) ** 2
        silent = (1 - dark) * np.exp(-light)
        for pair in SAME_SIDE + OPPOSITE:
            factors = [1 - silent[i] if i in pair else silent[i] for i in range(4)]
            value = np.prod(factors, axis=0).mean() / 4
            success += value
            agree = basis == "X" and pair in SAME_SIDE
            wrong += value if (bit_a == bit_b) != agree else 0.0
    return success, wrong


share = st.floats(1e-3, 1.0)


@settings(max_examples=30)
@given(share, share, st.floats(1e-9, 0.3))
def test_single_photons_are_announced_as_every_outcome_enumerated_says(eta_a, eta_b, dark):
    success, wrong = mdi.single_photon_yield_and_errors(np.asarray(eta_a), np.asarray(eta_b), dark=dark, misaligned=0.0)
    in_z, in_x = enumerated("Z", eta_a, eta_b, dark), enumerated("X", eta_a, eta_b, dark)
    assert float(success) == pytest.approx(in_z[0], rel=1e-9)
    assert float(success) == pytest.approx(in_x[0], rel=1e-9)
    assert float(wrong) == pytest.approx(in_x[1], rel=1e-9, abs=1e-15)
    # Basis Z errs more: two photons on one detector and a dark count always mean equal bits.
    assert in_z[1] >= in_x[1] * (1 - 1e-9)


@given(share, share, st.floats(1e-9, 0.3))
def test_weak_pulses_are_announced_as_four_detectors_averaged_over_phase_say(arrive_a, arrive_b, dark):
    for basis, formula in (("Z", mdi.gain_and_errors_z), ("X", mdi.gain_and_errors_x)):
        ours = formula(np.asarray(arrive_a), np.asarray(arrive_b), dark=dark, misaligned=0.0)
        explicit = averaged(basis, arrive_a, arrive_b, dark)
        assert float(ours[0]) == pytest.approx(explicit[0], rel=1e-8)
        assert float(ours[1]) == pytest.approx(explicit[1], rel=1e-8, abs=1e-15)


def test_weak_light_keeps_its_digits_and_errs_a_quarter_of_the_time_in_the_test_basis():
    arrive = np.asarray([1e-3, 1e-6, 1e-9])
    gain, wrong = mdi.gain_and_errors_x(arrive, arrive, dark=0.0, misaligned=0.015)
    gain_z, wrong_z = mdi.gain_and_errors_z(arrive, arrive, dark=0.0, misaligned=0.015)
    assert wrong / gain == pytest.approx(0.25 + 0.015 / 2, rel=1e-3)
    assert gain / gain_z == pytest.approx(2.0, rel=1e-3)
    assert wrong_z / gain_z == pytest.approx(0.015, rel=1e-12)


def test_the_reach_of_lo_curty_qi():
    """Published: more than 40 dB, about 200 km of 0.2 dB/km, for their 14.5 % detectors."""
    result = mdi.rate(LO_CURTY_QI_2012, attenuation_db=np.arange(0.0, 70.0, 0.1))
    limit = result.attenuation_db[result.secret_bits_per_pulse > 0][-1]
    assert limit == pytest.approx(46.3, abs=0.15)
    # An infinite number of decoys reaches no less than three: 46.1 dB by an independent program.
    assert 46.1 <= limit < 50.0


# Rubenok et al., Phys. Rev. Lett. 111, 130501 (2013): loss in dB from Alice and from Bob, mean photons, then gain in Z,
# gain in X and error rate in X of signals, and the two gains of decoys of 0.05 photons.
RUBENOK_2013 = [
    (4.6, 4.5, 0.396, 1.028e-4, 1.95e-4, 0.270, 1.89e-6, 3.40e-6),
    (6.8, 6.9, 0.279, 1.67e-5, 3.57e-5, 0.274, 6.0e-7, 1.192e-6),
    (9.1, 9.1, 0.251, 5.57e-6, 9.87e-6, 0.270, 2.66e-7, 4.49e-7),
    (4.5, 4.5, 0.402, 1.042e-4, 2.020e-4, 0.265, 1.82e-6, 3.35e-6),
]


@pytest.mark.parametrize("row", RUBENOK_2013)
def test_the_measured_gains_of_rubenok_2013(row):
    """Detectors of 14.5 %; dark counts from the gain of two vacua, 7.1e-10; misalignment from one measured error rate.

    They counted projections onto one of two Bell states, so half of what the relay of the model announces.
    """
    loss_a, loss_b, mean, gain_z, gain_x, errors_x, decoy_z, decoy_x = row
    dark = float(np.sqrt(7.1e-10 / 2))
    for photons, z, x, near in ((mean, gain_z, gain_x, 0.08), (0.05, decoy_z, decoy_x, 0.13)):
        a, b = (np.asarray(0.145 * 10 ** (-loss / 10) * photons) for loss in (loss_a, loss_b))
        ours_z, _ = mdi.gain_and_errors_z(a, b, dark=dark, misaligned=0.0289)
        ours_x, wrong_x = mdi.gain_and_errors_x(a, b, dark=dark, misaligned=0.0289)
        assert float(ours_z) / 2 == pytest.approx(z, rel=near)
        assert float(ours_x) / 2 == pytest.approx(x, rel=near)
        if photons == mean:
            assert float(wrong_x / ours_x) == pytest.approx(errors_x, abs=0.01)


def test_rates_fall_with_loss_and_stay_below_the_repeaterless_bound():
    result = mdi.rate(LO_CURTY_QI_2012, attenuation_db=LOSS)
    assert np.all(np.diff(result.secret_bits_per_pulse) <= 0)
    assert np.all(result.secret_bits_per_pulse <= plob.capacity_bits_per_mode(LOSS))
    assert result.is_asymptotic
    assert {value.shape for value in result.details.values()} == {LOSS.shape}


@settings(max_examples=25)
@given(share, st.floats(1e-10, 1e-3), st.floats(0.0, 0.1), st.floats(0.0, 1.0))
def test_no_relay_passes_the_repeaterless_bound(efficiency, dark, misaligned, position):
    parameters = RelayParameters(efficiency, dark, misaligned, 1.0, relay_position=position)
    bits = mdi.rate(parameters, attenuation_db=LOSS).secret_bits_per_pulse
    assert np.all((bits >= 0) & (bits <= plob.capacity_bits_per_mode(LOSS)))


def test_a_finite_run_is_worth_less_than_an_endless_one_and_more_when_it_is_longer():
    loss = LOSS[::3]
    endless = mdi.rate(SNSPD, attenuation_db=loss).secret_bits_per_pulse
    runs = [mdi_finite.rate(SNSPD, attenuation_db=loss, block=RelayBlock(pairs)) for pairs in (1e10, 1e12, 1e26)]
    for short, long in pairwise(runs):
        assert np.all(short.secret_bits_per_pulse <= long.secret_bits_per_pulse)
    assert np.all(runs[-1].secret_bits_per_pulse <= endless)
    assert runs[-1].secret_bits_per_pulse[:13] == pytest.approx(endless[:13], rel=0.02)
    assert runs[0].epsilons is not None
    assert runs[0].epsilons.total == pytest.approx(1e-10 + 1e-15)
    assert np.all(np.diff(runs[1].secret_bits_per_pulse) <= 0)


def test_ten_thousand_million_pairs_reach_what_was_published_before_tighter_statistics():
    """Chau, arXiv 2003.08549: from slightly below 60 km to slightly above 130 km with his bounds at 1e10 pairs."""
    result = mdi_finite.rate(SNSPD, attenuation_db=0.2 * np.arange(40.0, 80.0, 2.5), block=RelayBlock(1e10))
    reach_km = result.attenuation_db[result.secret_bits_per_pulse > 0][-1] / 0.2
    assert 50.0 < reach_km < 60.0


def test_a_long_run_reaches_what_another_finite_analysis_published():
    """Zhou et al., Phys. Rev. A 91, 022313 (2015): 168 km of standard fibre with 1e15 signals; ours 170 to 174 km."""
    noisier = replace(LO_CURTY_QI_2012, dark_count_probability=6.02e-6)
    bits = mdi_finite.rate(noisier, attenuation_db=np.array([33.6, 36.0]), block=RelayBlock(1e15)).secret_bits_per_pulse
    assert bits[0] > 0.0
    assert bits[1] == 0.0


@settings(max_examples=20)
@given(st.floats(0.0, 20.0), st.floats(0.1, 0.8), st.floats(0.1, 0.6), st.floats(0.05, 0.9))
def test_the_bounds_on_single_photons_never_pass_their_expectation(loss, signal, bright, dim_share):
    """What the statistics claim to know at least (and at most) against the model's true single-photon numbers."""
    given_settings = RelaySettings(signal, bright, bright * dim_share, 0.4, 0.1, 0.3)
    block = RelayBlock(1e13, settings=given_settings)
    result = mdi_finite.rate(SNSPD, attenuation_db=loss, block=block)
    eta_a, eta_b = mdi.arm_transmittances(SNSPD, loss)
    success, wrong = mdi.single_photon_yield_and_errors(eta_a, eta_b, dark=1e-7, misaligned=0.01)
    in_key = 1e13 * (0.4 * signal * np.exp(-signal)) ** 2 * float(success)
    assert float(result.details["single_photon_pairs_min"]) <= in_key
    assert float(result.details["phase_error_rate_max"]) >= float(wrong / success)


@pytest.mark.parametrize("wrong", [{"efficiency": -0.1}, {"reconciliation_efficiency": 0.9}, {"mean_photons": 0.0}])
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        replace(SNSPD, **wrong)


def test_settings_that_leave_no_vacuum_are_refused():
    with pytest.raises(ValueError, match="vacuum"):
        RelaySettings(0.3, 0.3, 0.1, 0.5, 0.25, 0.25)
