"""Raman scattering: its shape against numbers of others, its propagation against the differential equations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad, solve_ivp

from shosoin.link.channels import raman
from shosoin.link.channels.raman import RamanScattering, backward_length_km, forward_length_km, gain_shape
from shosoin.link.channels.units import BOLTZMANN_J_PER_K, PLANCK_J_S

SCATTERING = RamanScattering()


@pytest.mark.parametrize("shift_thz", [0.5, 5.0, 13.2, 17.0, 25.0, 35.0])
def test_the_closed_form_is_the_sine_transform_of_the_response(shift_thz):
    position, amplitude, gauss, lorentz = raman._MODES.T
    to_thz = 2 * np.pi * 299792458.0 * 1e2 * 1e-12  # 1/cm in rad/ps

    def response(t):
        damped = np.exp(-lorentz / 2 * to_thz * t - (gauss / 2 * to_thz * t) ** 2 / 4)
        return float((amplitude * damped * np.sin(position * to_thz * t)).sum())

    expected, _ = quad(lambda t: response(t) * np.sin(2 * np.pi * shift_thz * t), 0, 4, limit=1000)
    assert raman._response(shift_thz * 1e12) * 1e12 == pytest.approx(expected, rel=1e-6)


def test_the_shape_is_that_of_measured_fibre():
    # Gain of standard fibre over its peak, from the Raman table of GNPy 3 (BSD; oopt-gnpy, gnpy/core/parameters.py).
    # The fibre is doped and has two polarisations mixed; the model is of glass. Where they differ most is between the
    # peaks at 13 and 18 THz and in the tail.
    shifts = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 13.0, 14.0, 20.0, 22.0, 24.0, 32.0])
    measured = np.array([0.083, 0.192, 0.263, 0.297, 0.336, 0.374, 0.534, 0.798, 0.980, 0.994, 0.915])
    measured = np.concatenate([measured, [0.080, 0.067, 0.156, 0.051]])
    np.testing.assert_allclose(gain_shape(shifts * 1e12), measured, rtol=0.18)
    fine = np.linspace(1e12, 20e12, 2000)
    assert fine[np.argmax(gain_shape(fine))] == pytest.approx(13.2e12, abs=0.3e12)


def test_the_coefficient_over_the_c_band_is_what_is_published():
    # Effective Raman cross-section of a 1550 nm pump in 1/(km nm), as tabulated in public simulation code (ml-qkd,
    # raman.py, a curve like figure 2 of Eraerds et al. 2010). The default anchor, 3.2e-9 at 1531 nm, is below that
    # table by half a decibel; the shape agrees to another half.
    wavelengths = np.array([1510.0, 1520.0, 1530.0, 1540.0, 1560.0, 1570.0, 1580.0, 1590.0])
    table = np.array([2.2e-9, 2.6e-9, 3.3e-9, 3.8e-9, 4.9e-9, 4.8e-9, 4.1e-9, 3.7e-9])
    decibels = 10 * np.log10(SCATTERING.per_km_nm(1550.0, wavelengths) / table)
    assert np.all(np.abs(decibels) < 1.0)
    assert np.ptp(decibels) < 0.7


def test_the_anchor_implies_a_raman_gain_like_that_of_standard_fibre():
    # 0.42 per W and km (GNPy's table at 1454 nm): by other physics, the same within 2.5 dB; measured spontaneous
    # coefficients are lower than the gain says, because losses of filters are in them.
    assert abs(10 * np.log10(SCATTERING.peak_gain_per_w_km(1454.0) / 0.42)) < 2.5


@given(st.floats(1300, 1600), st.floats(0.5, 25.0), st.floats(200, 400))
def test_anti_stokes_light_is_weaker_by_the_boltzmann_factor_and_the_fourth_power(pump_nm, shift_thz, temperature_k):
    scattering = RamanScattering(temperature_k=temperature_k)
    pump_hz = 299792458.0 / (pump_nm * 1e-9)
    stokes_nm, anti_nm = (299792458.0 / (pump_hz + sign * shift_thz * 1e12) * 1e9 for sign in (-1, 1))
    ratio = scattering.per_km_nm(pump_nm, anti_nm) / scattering.per_km_nm(pump_nm, stokes_nm)
    boltzmann = np.exp(-PLANCK_J_S * shift_thz * 1e12 / (BOLTZMANN_J_PER_K * temperature_k))
    assert ratio == pytest.approx(boltzmann * (stokes_nm / anti_nm) ** 4, rel=1e-6)


def test_colder_fibre_scatters_less_and_a_vanishing_shift_has_a_limit():
    cold, warm = (RamanScattering(temperature_k=t)._relative(1550.0, 1531.0) for t in (77.0, 293.0))
    assert cold < 0.3 * warm
    near = SCATTERING.per_km_nm(1550.0, np.array([1550.0, 1550.0 + 1e-9, 1550.0 - 1e-9, 1549.9]))
    assert np.all(np.isfinite(near))
    assert np.all(near > 0)


def test_the_o_band_is_three_decades_quieter_than_the_c_band_under_traffic_in_the_c_band():
    assert SCATTERING.per_km_nm(1550.0, 1310.0) < 2e-3 * SCATTERING.per_km_nm(1550.0, 1531.0)
    # Not so the other way round: a pump in the O band makes Stokes light at 1550 nm.
    assert SCATTERING.per_km_nm(1310.0, 1550.0) > 50 * SCATTERING.per_km_nm(1550.0, 1310.0)


@pytest.mark.parametrize(("pump", "signal"), [(0.046, 0.046), (0.046, 0.073), (0.08, 0.05)])
@pytest.mark.parametrize("length_km", [1.0, 50.0, 120.0])
def test_closed_forms_solve_the_differential_equation(length_km, pump, signal):
    # Forward: dN/dz = -aq N + P(z), N(0) = 0. Backward: -dN/dz = -aq N + P(z), N(L) = 0, wanted at z = 0.
    forward = solve_ivp(lambda z, n: -signal * n + np.exp(-pump * z), (0, length_km), [0.0], rtol=1e-10, atol=1e-13)
    backward = solve_ivp(lambda z, n: signal * n - np.exp(-pump * z), (length_km, 0), [0.0], rtol=1e-10, atol=1e-13)
    assert forward_length_km(length_km, pump, signal) == pytest.approx(forward.y[0, -1], rel=1e-6)
    assert backward_length_km(length_km, pump, signal) == pytest.approx(backward.y[0, -1], rel=1e-6)


@given(st.floats(0, 1000), st.floats(0.01, 1), st.floats(0.01, 1))
def test_scattered_light_needs_a_fibre_and_never_exceeds_what_was_launched(length_km, pump, signal):
    forward, backward = forward_length_km(length_km, pump, signal), backward_length_km(length_km, pump, signal)
    # Both together are at most the integral of the pump's power along the fibre.
    assert 0 <= forward <= -np.expm1(-pump * length_km) / pump + 1e-12
    assert 0 <= backward <= -np.expm1(-pump * length_km) / pump + 1e-12
    assert forward <= backward + 1e-12


def test_forward_light_dies_out_and_backward_light_saturates():
    assert forward_length_km(0.0, 0.05, 0.05) == backward_length_km(0.0, 0.05, 0.05) == 0.0
    assert forward_length_km(5000.0, 0.05, 0.05) < 1e-90
    assert backward_length_km(5000.0, 0.05, 0.06) == pytest.approx(1 / 0.11)
    # Equal losses are the limit of unequal ones.
    assert forward_length_km(50.0, 0.05, 0.05) == pytest.approx(float(forward_length_km(50.0, 0.05, 0.05 + 1e-9)))


@pytest.mark.parametrize(
    "wrong",
    [{"anchor_per_km_nm": 0.0}, {"temperature_k": -1.0}, {"anchor_pump_nm": 1531.0, "anchor_signal_nm": 1531.0}],
)
def test_an_impossible_anchor_is_refused(wrong):
    with pytest.raises(ValueError, match="anchor"):
        RamanScattering(**wrong)
