from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import poisson

from shosoin.link.rates import plob, twin_field
from shosoin.link.rates.twin_field import CURTY_AZUMA_LO_2019, TwinFieldParameters

LOSS = np.arange(0.0, 120.0, 1.0)


def coherent_click(bra, ket, arm, dark, cosine):
    """<bra| one given detector alone clicks |ket> for two-mode coherent states with real amplitudes.

    Silence of a detector is the normally ordered exponential of minus its photon number, so its matrix element between
    coherent states is their overlap times a number.
    """
    (a, b), (x, y) = bra, ket
    overlap = np.exp(a * x - (a * a + x * x) / 2 + b * y - (b * b + y * y) / 2)
    other = arm * (a * x + b * y - cosine * (a * y + b * x)) / 2
    both = arm * (a * x + b * y)
    return (1 - dark) * overlap * (np.exp(-other) - (1 - dark) * np.exp(-both))


@given(st.floats(1e-4, 1.0), st.floats(0.0, 0.01), st.floats(0.0, 0.6))
def test_yields_of_photon_numbers_are_those_of_light_with_random_phases(arm, dark, angle):
    yields = twin_field.photon_number_yields(
        np.asarray(arm), photons_max=16, dark=dark, polarisation_mismatch_rad=angle
    )
    assert np.all((yields >= -1e-12) & (yields <= 1.0))
    for mean_a, mean_b in ((0.3, 0.3), (0.8, 0.1), (1.0, 0.0)):
        mixed = poisson.pmf(np.arange(17), mean_a) @ yields @ poisson.pmf(np.arange(17), mean_b)
        phases = np.arange(64) * 2 * np.pi / 64
        other = arm * ((mean_a + mean_b) / 2 - np.sqrt(mean_a * mean_b) * np.cos(angle) * np.cos(phases))
        averaged = (1 - dark) * (np.exp(-other).mean() - (1 - dark) * np.exp(-arm * (mean_a + mean_b)))
        assert mixed == pytest.approx(averaged, rel=1e-9, abs=1e-14)


def test_two_photons_that_meet_bunch():
    yields = twin_field.photon_number_yields(np.asarray(1.0), photons_max=2, dark=0.0, polarisation_mismatch_rad=0.0)
    assert yields[1, 1] == pytest.approx(0.5)
    assert yields[1, 0] == pytest.approx(0.5)
    assert yields[2, 0] == pytest.approx(0.25)
    assert yields[0, 0] == 0.0


@pytest.mark.parametrize("loss", [0.0, 20.0, 60.0])
@pytest.mark.parametrize("mean", [0.01, 0.1, 0.4])
def test_key_rounds_and_their_phase_errors_follow_from_coherent_states(loss, mean):
    """Bit errors equal those of the operators; the true phase error rate, of superpositions, is below the bound."""
    parameters = replace(CURTY_AZUMA_LO_2019, efficiency=0.7, mean_photons=mean)
    result = twin_field.rate(parameters, attenuation_db=loss)
    arm, dark = 0.7 * 10 ** (-loss / 20), parameters.dark_count_probability
    cosine = np.cos(parameters.polarisation_mismatch_rad)
    signs = [(s, t) for s in (1, -1) for t in (1, -1)]
    amplitude = np.sqrt(mean)

    def element(bra, ket):
        bra, ket = tuple(amplitude * s for s in bra), tuple(amplitude * s for s in ket)
        return coherent_click(bra, ket, arm, dark, cosine)

    gain = sum(element(s, s) for s in signs) / 4
    wrong = sum(element(s, s) for s in signs if s[0] != s[1]) / 4
    assert float(result.details["gain"]) == pytest.approx(2 * gain, rel=1e-9)
    assert float(result.qber) == pytest.approx(wrong / gain, rel=1e-6)
    same_parity = 0.0
    for parity in (1, -1):
        weights = {s: (parity if s[0] < 0 else 1) * (parity if s[1] < 0 else 1) / 4 for s in signs}
        same_parity += sum(weights[s] * weights[t] * element(s, t) for s in signs for t in signs)
    true_phase_error_rate = same_parity / gain
    bound = float(result.details["phase_error_rate_max"])
    assert true_phase_error_rate <= bound
    assert bound == 0.5 or bound < 12 * true_phase_error_rate


def test_the_repeaterless_bound_is_passed_with_the_parameters_of_the_paper():
    """Curty, Azuma, Lo: with dark counts of 1e-7 and 2 % misalignment the bound is passed; so at 200 to 350 km."""
    result = twin_field.rate(CURTY_AZUMA_LO_2019, attenuation_db=LOSS)
    above = result.attenuation_db[result.secret_bits_per_pulse > plob.capacity_bits_per_mode(LOSS)]
    assert above[0] == pytest.approx(36.0, abs=2.0)
    assert above[-1] == pytest.approx(80.0, abs=2.0)
    fewer_dark = replace(CURTY_AZUMA_LO_2019, dark_count_probability=1e-10)
    long = twin_field.rate(fewer_dark, attenuation_db=np.array([60.0, 80.0, 100.0])).secret_bits_per_pulse
    assert np.all(long > plob.capacity_bits_per_mode([60.0, 80.0, 100.0]))
    # The slope: 20 dB of loss cost a factor of ten, not of a hundred.
    assert long[0] / long[1] == pytest.approx(10.0, rel=0.15)


def test_rates_fall_with_loss_and_stay_below_the_bound_with_one_repeater():
    result = twin_field.rate(CURTY_AZUMA_LO_2019, attenuation_db=LOSS)
    assert np.all(np.diff(result.secret_bits_per_pulse) <= 0)
    assert np.all(result.secret_bits_per_pulse <= plob.capacity_bits_per_mode(LOSS / 2))
    assert result.is_asymptotic
    assert {value.shape for value in result.details.values()} == {LOSS.shape}


@settings(max_examples=25)
@given(st.floats(0.05, 1.0), st.floats(0.0, 1e-4), st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_no_parameters_pass_the_bound_with_one_repeater(efficiency, dark, phase, polarisation):
    parameters = TwinFieldParameters(efficiency, dark, phase, polarisation, 1.0)
    bits = twin_field.rate(parameters, attenuation_db=LOSS[::4]).secret_bits_per_pulse
    assert np.all((bits >= 0) & (bits <= plob.capacity_bits_per_mode(LOSS[::4] / 2)))


@pytest.mark.parametrize("wrong", [{"efficiency": 1.1}, {"mean_photons": 2.0}, {"reconciliation_efficiency": 0.5}])
def test_parameters_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be|at most"):
        replace(CURTY_AZUMA_LO_2019, **wrong)
