from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tno.quantum.communication.qkd_key_rate.quantum import standard_detector
from tno.quantum.communication.qkd_key_rate.quantum.bbm92 import (
    BBM92AsymptoticKeyRateEstimate,
    BBM92FiniteKeyRateEstimate,
    compute_gain_and_error_rate,
)

from shosoin.link.information import binary_entropy
from shosoin.link.rates import bbm92, bbm92_continuous, bbm92_finite, plob
from shosoin.link.rates.bbm92 import MA_FUNG_LO_2007, PairParameters
from shosoin.link.rates.bbm92_finite import PairBlock

LOSS = np.arange(0.0, 75.0, 1.0)


def enumerated(parameters, loss_db, mean_pairs, pairs_max=80):
    """Sum over photon numbers: two independent two-mode squeezed vacua, four detectors, a coin for double clicks."""
    eta_a, eta_b = (float(x) for x in bbm92.arm_transmittances(parameters, loss_db))
    lam = mean_pairs / 2
    n = np.arange(pairs_max)
    thermal = lam**n / (1 + lam) ** (n + 1)
    weight = thermal[:, None] * thermal[None, :]

    def silent(eta, background):
        one = np.sqrt(1 - background) * (1 - eta) ** n  # one detector, n photons
        return one[:, None], one[None, :]

    def bit(eta, background):
        """Probability of any click, and of bit 0 less bit 1, for (i, j) photons on the two detectors."""
        first, second = silent(eta, background)
        return 1 - first * second, second - first

    any_a, lean_a = bit(eta_a, parameters.background_a)
    any_b, lean_b = bit(eta_b, parameters.background_b)
    gain = (weight * any_a * any_b).sum()
    agreement = (1 - 2 * parameters.misalignment_error) * (weight * lean_a * lean_b).sum()
    return gain, (1 - agreement / gain) / 2


systems = st.builds(
    PairParameters,
    efficiency_a=st.floats(0.02, 1.0),
    efficiency_b=st.floats(0.02, 1.0),
    background_a=st.floats(1e-9, 0.5),
    background_b=st.floats(1e-9, 0.5),
    misalignment_error=st.floats(0.0, 0.1),
    reconciliation_efficiency=st.floats(1.0, 1.5),
    source_position=st.floats(0.0, 1.0),
)


@given(systems, st.floats(0.0, 40.0), st.floats(1e-3, 1.0))
def test_gain_and_error_rate_are_the_sum_over_photon_numbers(parameters, loss, mean):
    gain, error = bbm92.gain_and_error_rate(parameters, attenuation_db=loss, mean_pairs=mean)
    explicit_gain, explicit_error = enumerated(parameters, loss, mean)
    assert gain == pytest.approx(explicit_gain, rel=1e-9)
    assert error == pytest.approx(explicit_error, abs=1e-9)


@pytest.mark.parametrize("loss", [0.0, 20.0, 60.0, 120.0])
@pytest.mark.parametrize("mean", [1e-4, 0.1, 1.0])
def test_gain_and_error_rate_agree_with_the_tno_package(loss, mean):
    detector = standard_detector.customise(
        dark_count_rate=6.02e-6, polarization_drift=0, error_detector=0.015, efficiency_party=0.145
    )
    theirs = compute_gain_and_error_rate(detector, detector, loss / 2, loss / 2, mean / 2)
    ours = bbm92.gain_and_error_rate(MA_FUNG_LO_2007, attenuation_db=loss, mean_pairs=mean)
    assert float(ours[0]) == pytest.approx(theirs[0], rel=1e-6)
    assert float(ours[1]) == pytest.approx(theirs[1], abs=1e-5)


def test_the_best_rate_agrees_with_the_tno_package():
    detector = standard_detector.customise(
        dark_count_rate=6.02e-6, polarization_drift=0, error_detector=0.015, efficiency_party=0.145
    )
    ours = replace(MA_FUNG_LO_2007, sifting_factor=1.0, reconciliation_efficiency=1.0)
    found, theirs = BBM92AsymptoticKeyRateEstimate(detector=detector).optimize_rate(attenuation=20.0)
    at_theirs = replace(ours, mean_pairs=float(found["mu"][0]))
    assert float(bbm92.rate(at_theirs, attenuation_db=20.0).secret_bits_per_pulse) == pytest.approx(theirs, rel=1e-4)
    # Its optimiser stops early; ours is never worse.
    assert float(bbm92.rate(ours, attenuation_db=20.0).secret_bits_per_pulse) >= theirs * (1 - 1e-6)


def test_a_long_run_approaches_the_tno_package_and_stays_below_it():
    """Its finite formula has no cost for privacy amplification and a milder deviation: a bound from above."""
    detector = standard_detector.customise(
        dark_count_rate=6.02e-6, polarization_drift=0, error_detector=0.015, efficiency_party=0.145
    )
    parameters = replace(MA_FUNG_LO_2007, reconciliation_efficiency=1.0, mean_pairs=0.2)
    for pulses, close in ((1e13, 0.03), (1e16, 0.001)):
        theirs = BBM92FiniteKeyRateEstimate(detector=detector, number_of_pulses=int(pulses)).compute_rate(
            0.2, 10.0, np.array([0.9]), np.array([0.1])
        )
        block = PairBlock(pulses, test_basis_probability=0.1)
        ours = float(bbm92_finite.rate(parameters, attenuation_db=10.0, block=block).secret_bits_per_pulse) / 0.9
        assert theirs * (1 - close) < ours < theirs


def test_one_way_processing_lives_between_the_finite_and_the_two_way_limit_of_the_paper():
    """Ma, Fung, Lo 2007: 53 dB with statistical fluctuations, 70 dB with two-way communication."""
    middle = bbm92.rate(MA_FUNG_LO_2007, attenuation_db=np.arange(0.0, 75.0, 0.1))
    limit = middle.attenuation_db[middle.secret_bits_per_pulse > 0][-1]
    assert limit == pytest.approx(61.6, abs=0.1)
    at_alice = bbm92.rate(replace(MA_FUNG_LO_2007, source_position=0.0), attenuation_db=LOSS)
    assert at_alice.attenuation_db[at_alice.secret_bits_per_pulse > 0][-1] < 40.0


def test_the_248_km_link_of_neumann_2022():
    """Nature Communications 13, 6134: 9 pairs/s, 7 % QBER, 1.4 bit/s asymptotic, 403 kbit in 82 h."""
    ours = bbm92_continuous.secret_bits_per_second(9.0, 0.07, sifting_factor=0.5, reconciliation_efficiency=1.0)
    assert float(ours) == pytest.approx(1.4, rel=0.2)
    assert float(ours) * 82 * 3600 == pytest.approx(403e3, rel=0.2)


def test_rates_fall_with_loss_and_never_pass_the_repeaterless_bound():
    result = bbm92.rate(MA_FUNG_LO_2007, attenuation_db=LOSS)
    assert np.all(np.diff(result.secret_bits_per_pulse) <= 1e-15)
    assert np.all(result.secret_bits_per_pulse <= plob.capacity_bits_per_mode(LOSS))
    assert result.is_asymptotic
    assert result.protocol == "bbm92"
    assert {value.shape for value in result.details.values()} == {LOSS.shape}


@settings(max_examples=30)
@given(systems)
def test_no_system_passes_the_repeaterless_bound(parameters):
    bits = bbm92.rate(replace(parameters, sifting_factor=1.0), attenuation_db=LOSS).secret_bits_per_pulse
    assert np.all((bits >= 0) & (bits <= plob.capacity_bits_per_mode(LOSS)))
    assert np.all(np.diff(bits) <= 1e-12)


@settings(max_examples=20)
@given(st.floats(1e8, 1e16))
def test_a_finite_run_is_worth_less_than_an_endless_one_and_more_when_it_is_longer(pulses):
    endless = bbm92.rate(replace(MA_FUNG_LO_2007, sifting_factor=1.0), attenuation_db=LOSS).secret_bits_per_pulse
    short, long = (
        bbm92_finite.rate(MA_FUNG_LO_2007, attenuation_db=LOSS, block=PairBlock(n)) for n in (pulses, 10 * pulses)
    )
    assert np.all(short.secret_bits_per_pulse <= long.secret_bits_per_pulse + 1e-15)
    assert np.all(long.secret_bits_per_pulse <= endless)
    assert short.epsilons is not None
    assert short.epsilons.total == pytest.approx(1e-10 + 1e-15)


def test_an_endless_finite_run_reaches_the_asymptotic_rate():
    endless = bbm92.rate(replace(MA_FUNG_LO_2007, sifting_factor=1.0), attenuation_db=LOSS[:50])
    long = bbm92_finite.rate(MA_FUNG_LO_2007, attenuation_db=LOSS[:50], block=PairBlock(1e24))
    assert long.secret_bits_per_pulse == pytest.approx(endless.secret_bits_per_pulse, rel=2e-3)


def test_the_finite_length_is_the_printed_formula():
    """Tomamichel et al. 2012, evaluated by hand for 1e6 bits of key, 1e5 of test, 2 %."""
    n, k, eps = 1e6, 1e5, 1e-10
    mu = np.sqrt((n + k) / (n * k) * (k + 1) / k * np.log(4 / eps))
    by_hand = n * (1 - float(binary_entropy(0.02 + mu))) - 2e5 - np.log2(2 / (eps**2 * 1e-15))
    block = PairBlock(1e9)
    ours = bbm92_finite.secret_bits(n, k, test_qber=0.02, leak_ec_bits=2e5, block=block)
    assert float(ours) == pytest.approx(by_hand, rel=1e-12)


def test_a_continuous_pump_has_a_best_brightness():
    link = bbm92_continuous.ContinuousPairParameters(1e6, 0.3, 0.3, 300.0, 300.0, 2e-10, 0.8, 0.01)
    per_second = [
        float(bbm92_continuous.rate(replace(link, pairs_per_s=b), attenuation_db=20.0).details["secret_bits_per_s"])
        for b in (1e5, 1e8, 1e11)
    ]
    assert per_second[1] > 100 * per_second[0] > 0
    assert per_second[2] == 0.0


@pytest.mark.parametrize("wrong", [{"efficiency_a": 1.1}, {"reconciliation_efficiency": 0.9}, {"mean_pairs": 0.0}])
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="must be"):
        replace(MA_FUNG_LO_2007, **wrong)
