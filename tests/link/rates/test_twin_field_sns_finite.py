from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.link.rates import plob, twin_field_sns, twin_field_sns_finite
from shosoin.link.rates.twin_field_sns import SendingParameters
from shosoin.link.rates.twin_field_sns_finite import SendingBlock

LOSS = np.arange(0.0, 140.0, 10.0)
COLD = SendingParameters(0.6, 1e-10, 0.03, active_pairing=False)


def finite(windows, loss=LOSS, parameters=COLD):
    return twin_field_sns_finite.rate(parameters, attenuation_db=loss, block=SendingBlock(windows))


def test_a_finite_run_is_worth_less_than_an_endless_one_and_more_when_it_is_longer():
    endless = twin_field_sns.rate(COLD, attenuation_db=LOSS).secret_bits_per_pulse
    runs = [finite(windows).secret_bits_per_pulse for windows in (1e10, 1e12, 1e26)]
    assert np.all(runs[0] <= runs[1])
    assert np.all(runs[1] <= runs[2])
    assert np.all(runs[2] <= endless)
    assert runs[2][:11] == pytest.approx(endless[:11], rel=0.01)
    assert np.all(np.diff(runs[1]) <= 0)


def test_a_million_million_windows_pass_the_repeaterless_bound():
    result = finite(1e12)
    above = LOSS[result.secret_bits_per_pulse > plob.capacity_bits_per_mode(LOSS)]
    assert above[0] == pytest.approx(60.0, abs=1.0)
    assert above[-1] == pytest.approx(100.0, abs=1.0)
    assert np.all(result.secret_bits_per_pulse <= plob.capacity_bits_per_mode(LOSS / 2))
    assert result.epsilons is not None
    assert result.epsilons.total == pytest.approx(1e-10 + 1e-15)


@settings(max_examples=5)
@given(st.floats(0.1, 1.0), st.floats(1e-11, 1e-7), st.floats(0.0, 0.15), st.floats(9.0, 18.0))
def test_the_bounds_on_single_photons_never_pass_their_expectation(efficiency, dark, misaligned, decades):
    """What the statistics claim to know at least (and at most) against the model's true single photons."""
    loss = np.array([0.0, 30.0, 70.0])
    parameters = SendingParameters(efficiency, dark, misaligned)
    result = finite(10**decades, loss, parameters)
    d = result.details
    arm = efficiency * 10 ** (-loss / 20)
    photon = (1 - dark) * (arm + 2 * dark * (1 - arm))
    wrong = (1 - dark) * (misaligned * arm + dark * (1 - arm))
    key_share = (1 - d["bright_probability"] - d["dim_probability"] - d["vacuum_probability"]) ** 2
    send, mean = d["sending_probability"], d["mean_photons"]
    untagged = 10**decades * key_share * 2 * send * (1 - send) * mean * np.exp(-mean) * photon
    assert np.all(d["untagged_bits_min"] <= untagged)
    assert np.all(d["phase_error_rate_max"] >= np.minimum(wrong / photon, 0.5))


@pytest.mark.parametrize("slice_rad", [0.05, 0.8])
def test_wrong_clicks_of_sliced_windows_are_those_of_two_detectors(slice_rad):
    """Both sent dim light: the wrong detector alone clicks, averaged over accepted phase differences."""
    arm, dim, dark, misaligned = 0.1, 0.05, 1e-4, 0.03
    phases = np.linspace(-slice_rad / 2, slice_rad / 2, 20_001)
    light = arm * dim * np.array([1 + (1 - 2 * misaligned) * np.cos(phases), 1 - (1 - 2 * misaligned) * np.cos(phases)])
    silent = (1 - dark) * np.exp(-light)
    expected = np.mean(silent[0] * (1 - silent[1]))
    parameters = SendingParameters(1.0, dark, misaligned)
    ours = twin_field_sns_finite._wrong_clicks(parameters, np.asarray(arm), np.asarray(dim), np.asarray(slice_rad))
    assert float(ours) == pytest.approx(expected, rel=1e-4)


def test_given_settings_are_kept():
    result = finite(1e13, 40.0, replace(COLD, mean_photons=0.3, sending_probability=0.02))
    assert float(result.details["mean_photons"]) == pytest.approx(0.3)
    assert float(result.details["sending_probability"]) == pytest.approx(0.02)
    assert 0.0 < float(result.secret_bits_per_pulse) <= float(finite(1e13, 40.0).secret_bits_per_pulse) * 1.001
