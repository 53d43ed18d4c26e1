"""Mixing products: which there are, and their power against the equation of the fields."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from shosoin.link.channels.four_wave_mixing import (
    G652_DISPERSION,
    Dispersion,
    Product,
    efficiency,
    mismatch_per_km,
    product_power_w,
    products,
)
from shosoin.link.channels.units import LIGHT_M_PER_S, frequency_hz


def grid_nm(*offsets, centre_thz=193.1, spacing_thz=0.1):
    return np.array([LIGHT_M_PER_S / ((centre_thz + spacing_thz * n) * 1e12) * 1e9 for n in offsets])


def test_standard_fibre_disperses_as_its_standard_says():
    # ITU-T G.652: zero between 1300 and 1324 nm, at most 0.092 ps/(nm^2 km) there, about 17 ps/(nm km) at 1550 nm.
    assert G652_DISPERSION.ps_per_nm_km(1312.0) == 0.0
    assert 16.5 < G652_DISPERSION.ps_per_nm_km(1550.0) < 18.5
    second, third = G652_DISPERSION.derivatives(1550.0)
    assert second == pytest.approx(-21.7e-24, rel=0.03)  # s^2/km; -21.7 ps^2/km is the textbook value
    step = 1e-3
    slope = (G652_DISPERSION.derivatives(1550.0 - step)[0] - G652_DISPERSION.derivatives(1550.0 + step)[0]) / (
        2 * np.pi * float(frequency_hz(1550.0 - step) - frequency_hz(1550.0 + step))
    )
    assert third == pytest.approx(slope, rel=1e-5)


def test_two_channels_mix_into_their_outer_neighbours_only():
    channels = grid_nm(1, 2)
    assert products(channels, near_nm=grid_nm(0)[0], within_hz=1e9)[0].is_degenerate
    assert len(products(channels, near_nm=grid_nm(3)[0], within_hz=1e9)) == 1
    assert products(channels, near_nm=grid_nm(4)[0], within_hz=1e9) == []


def test_every_product_of_a_grid_is_found_once():
    offsets = [-3, -2, -1, 1, 2, 4]
    found = products(grid_nm(*offsets), near_nm=grid_nm(0)[0], within_hz=1e9)
    expected = {
        (i, j, k)
        for i in range(6)
        for j in range(i, 6)
        for k in range(6)
        if k not in (i, j) and offsets[i] + offsets[j] - offsets[k] == 0
    }
    assert len(found) == len(expected) > 4
    assert {(p.i, p.j, p.k) for p in found} == expected


def test_an_uneven_grid_keeps_products_off_the_quantum_channel():
    # 0, 1, 4, 9, 11 is a Golomb ruler: no two differences are alike, so no product of four lands on the fifth.
    assert products(grid_nm(0, 1, 9, 11), near_nm=grid_nm(4)[0], within_hz=2e10) == []


@pytest.mark.parametrize("degenerate", [True, False])
@pytest.mark.parametrize("length_km", [0.5, 8.0, 40.0])
def test_the_closed_form_solves_the_equation_of_the_fields(length_km, degenerate):
    # dA/dz = i d gamma A_i A_j A_k* exp(i b z) exp(-3a/2 z) + loss; d = 1 for a degenerate product, else 2.
    channels = grid_nm(1, 2, 3)
    product = products(channels, near_nm=grid_nm(0)[0], within_hz=1e9)
    chosen = next(p for p in product if p.is_degenerate is degenerate)
    powers, loss = np.array([1e-3, 2e-3, 3e-3]), 0.046
    mismatch = mismatch_per_km(chosen, channels, G652_DISPERSION)
    drive = (1 if degenerate else 2) * G652_DISPERSION.nonlinearity_per_w_km
    amplitude = np.sqrt(powers[[chosen.i, chosen.j, chosen.k]].prod())
    steps = solve_ivp(
        lambda z, a: 1j * drive * amplitude * np.exp(1j * mismatch * z - 1.5 * loss * z) - loss / 2 * a,
        (0, length_km),
        [0j],
        rtol=1e-8,
        atol=1e-13,
        max_step=0.5,
    )
    power = product_power_w(chosen, channels, powers, length_km=length_km, nepers_per_km=loss)
    assert power == pytest.approx(abs(steps.y[0, -1]) ** 2, rel=1e-4)


def test_the_mismatch_is_the_usual_formula():
    # Shibata et al. 1987: 2 pi lambda^2 / c |f_i - f_k| |f_j - f_k| D, to first order of the slope.
    channels = grid_nm(1, 2)
    (product,) = products(channels, near_nm=grid_nm(0)[0], within_hz=1e9)
    d = float(G652_DISPERSION.ps_per_nm_km(channels[1])) * 1e-3
    usual = 2 * np.pi * (channels[1] * 1e-9) ** 2 / LIGHT_M_PER_S * 1e11**2 * d
    assert abs(mismatch_per_km(product, channels, G652_DISPERSION)) == pytest.approx(usual, rel=0.01)


@given(st.floats(-1e4, 1e4), st.floats(0, 1), st.floats(0, 300))
def test_efficiency_is_a_share(mismatch, nepers_per_km, length_km):
    assert 0 <= efficiency(mismatch, nepers_per_km=nepers_per_km, length_km=length_km) <= 1


def test_in_phase_nothing_is_lost_and_far_from_it_loss_decides():
    assert efficiency(0.0, nepers_per_km=0.046, length_km=50.0) == pytest.approx(1.0)
    attenuation, mismatch = 0.046, 100.0
    long = efficiency(mismatch, nepers_per_km=attenuation, length_km=500.0)
    assert long == pytest.approx(attenuation**2 / (attenuation**2 + mismatch**2), rel=1e-6)


def test_near_zero_dispersion_mixing_is_far_stronger():
    at_zero = Product(0, 0, 1, 2 * 228.6e12 - 228.5e12)
    zero = mismatch_per_km(at_zero, [LIGHT_M_PER_S / 228.6e3, LIGHT_M_PER_S / 228.5e3], G652_DISPERSION)
    band = grid_nm(1, 2)
    (c_band,) = products(band, near_nm=grid_nm(0)[0], within_hz=1e9)
    assert abs(zero) < 0.05 * abs(mismatch_per_km(c_band, band, G652_DISPERSION))


@pytest.mark.parametrize("centre_nm", [1312.0, 1330.0, 1550.0])
def test_the_mismatch_is_the_double_integral_of_the_dispersion(centre_nm):
    # Channels 1.0 and 1.5 THz away, near zero dispersion, where only the third order is left, and far from it.
    centre_hz = float(frequency_hz(centre_nm))
    channels = LIGHT_M_PER_S / (centre_hz + np.array([1.0e12, 1.5e12, 2.5e12])) * 1e9
    steps = np.linspace(0.0, 2.5e12, 5001)
    second = np.array([G652_DISPERSION.derivatives(LIGHT_M_PER_S / (centre_hz + f) * 1e9)[0] for f in steps])

    def phase(offset_hz):
        near = steps <= offset_hz + 1.0
        return np.trapezoid((offset_hz - steps[near]) * second[near], steps[near]) * (2 * np.pi) ** 2

    mixed = Product(0, 1, 2, centre_hz)
    exact = phase(1.0e12) + phase(1.5e12) - phase(2.5e12)
    assert mismatch_per_km(mixed, channels, G652_DISPERSION) == pytest.approx(exact, rel=0.03)


def test_dispersion_without_a_slope_is_refused():
    with pytest.raises(ValueError, match="positive"):
        Dispersion(slope_ps_per_nm2_km=0.0)
