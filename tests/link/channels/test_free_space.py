"""Beams, pointing, air, turbulence and sky: limits, integrals, and printed values."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import dblquad, quad

from shosoin.link.channels.free_space import (
    PointingFade,
    air_mass,
    air_transmittance,
    aperture_transmittance,
    beam_radius_m,
    diffraction_half_angle_rad,
    lognormal_level,
)
from shosoin.link.channels.optical_link import OpticalLink, Way
from shosoin.link.channels.sky import (
    NIGHT_FULL_MOON,
    Daylight,
    SkyReceiver,
    click_probability,
)
from shosoin.link.channels.turbulence import HufnagelValley, rms_wind_m_s
from shosoin.link.channels.units import attenuation_db


@given(st.floats(0.01, 100), st.floats(0.001, 1000))
def test_an_aperture_takes_a_share_that_grows_with_it(beam_m, aperture_m):
    share = aperture_transmittance(beam_m, aperture_radius_m=aperture_m)
    assert 0 <= share <= 1
    assert aperture_transmittance(beam_m, aperture_radius_m=2 * aperture_m) >= share
    ring = aperture_transmittance(beam_m, aperture_radius_m=aperture_m, obscuration_radius_m=aperture_m / 2)
    inner = aperture_transmittance(beam_m, aperture_radius_m=aperture_m / 2)
    assert ring + inner == pytest.approx(float(share), abs=1e-12)


def test_the_share_is_the_integral_of_the_intensity():
    w, a = 1.7, 0.6
    integral, _ = quad(lambda r: 4 * r / w**2 * np.exp(-2 * r**2 / w**2), 0, a)
    assert aperture_transmittance(w, aperture_radius_m=a) == pytest.approx(integral)


def test_a_beam_spreads_as_diffraction_says():
    angle = diffraction_half_angle_rad(waist_radius_m=0.1, wavelength_nm=1000.0)
    rayleigh_m = np.pi * 0.1**2 / 1e-6
    assert beam_radius_m(rayleigh_m, waist_radius_m=0.1, half_angle_rad=angle) == pytest.approx(0.1 * np.sqrt(2))
    assert beam_radius_m(0.0, waist_radius_m=0.1, half_angle_rad=angle) == 0.1
    # Far away twice the range is four times less light.
    far = aperture_transmittance(
        beam_radius_m(np.array([1e6, 2e6]), waist_radius_m=0.1, half_angle_rad=angle), aperture_radius_m=0.1
    )
    assert far[0] / far[1] == pytest.approx(4, rel=1e-2)


@pytest.mark.parametrize("offset", [0.0, 0.5, 1.0])
def test_the_pointing_law_approximates_the_integral_over_the_disc(offset):
    # Farid and Hranilovic, equation (8), for a beam four times as wide as the aperture.
    a, w = 1.0, 4.0
    exact, _ = dblquad(
        lambda y, x: 2 / (np.pi * w**2) * np.exp(-2 * ((x - offset) ** 2 + y**2) / w**2),
        -a,
        a,
        lambda x: -np.sqrt(a**2 - x**2),
        lambda x: np.sqrt(a**2 - x**2),
        epsabs=1e-8,
    )
    fade = PointingFade.of(w, aperture_radius_m=a, jitter_m=1.0)
    equivalent_squared = fade.exponent * 4
    law = fade.centred * np.exp(-2 * offset**2 / equivalent_squared)
    assert law == pytest.approx(exact, rel=0.01)


def test_the_mean_of_a_pointing_fade_is_that_of_its_distribution():
    fade = PointingFade.of(5.0, aperture_radius_m=0.5, jitter_m=1.2)
    uniform = (np.arange(20_000) + 0.5) / 20_000
    assert np.mean(fade.relative_quantile(uniform)) == pytest.approx(float(fade.relative_mean), rel=1e-3)


def test_without_jitter_nothing_fades_and_with_much_everything():
    still = PointingFade.of(5.0, aperture_radius_m=0.5, jitter_m=0.0)
    assert still.relative_mean == still.relative_quantile(0.01) == 1.0
    assert PointingFade.of(5.0, aperture_radius_m=0.5, jitter_m=1e6).relative_mean < 1e-9


def test_farid_and_ntanos_agree_on_the_pointing_exponent_within_a_per_cent():
    # Ntanos et al. 2021 (9) prints 19.23 for 0.15 m, 0.75 m, 600 km, 0.75 urad at 1550 nm, without the finite
    # aperture that Farid and Hranilovic (11) have.
    angle = diffraction_half_angle_rad(waist_radius_m=0.075, wavelength_nm=1550.0)
    radius = beam_radius_m(6e5, waist_radius_m=0.075, half_angle_rad=angle)
    fade = PointingFade.of(radius, aperture_radius_m=0.375, jitter_m=0.45)
    assert fade.exponent == pytest.approx(19.42, abs=0.01)
    assert (angle * 6e5) ** 2 / (4 * 0.45**2) == pytest.approx(19.23, abs=0.01)
    assert 2e6 * angle == pytest.approx(13, abs=0.5)  # the divergence it prints is the full angle


def test_air_mass_is_one_overhead_and_38_at_the_horizon():
    np.testing.assert_allclose(air_mass(np.array([90.0, 30.0, 10.0, 0.0])), [1.0, 1.994, 5.6, 38.0], rtol=5e-3)
    assert np.isinf(air_mass(-0.1))


@given(st.floats(-90, 90), st.floats(0.01, 1.0))
def test_air_passes_a_share_and_nothing_from_below_the_horizon(elevation_deg, zenith):
    share = air_transmittance(elevation_deg, zenith_transmittance=zenith)
    assert 0.0 <= share <= zenith + 1e-12
    if elevation_deg < 0:
        assert share == 0.0


def test_twinkling_leaves_the_mean_alone_and_its_quantile_is_the_printed_one():
    # Ntanos et al. 2021 (18): -1.282 dB at 1 % for a log-variance of 0.015276, as a level, not as a loss.
    assert 10 * np.log10(lognormal_level(0.015276, 0.01)) == pytest.approx(-1.282, abs=1e-3)
    probabilities = (np.arange(20_000) + 0.5) / 20_000
    assert np.mean(lognormal_level(0.2, probabilities)) == pytest.approx(1.0, abs=2e-3)
    assert lognormal_level(0.0, 0.3) == 1.0


@pytest.mark.parametrize(("wind", "printed"), [(21.0, (0.23, 0.13, 0.10, 0.07)), (30.0, (0.36, 0.21, 0.16, 0.10))])
def test_scintillation_is_that_of_table_2_of_itu_r_p_1622(wind, printed):
    # 75 degrees, station 5.5 m above ground, C0 = 1.7e-14; half a unit of the last printed digit.
    air = HufnagelValley(wind_rms_m_s=wind, station_height_m=5.5)
    for wavelength_nm, variance in zip((532.0, 850.0, 1064.0, 1550.0), printed, strict=True):
        assert air.log_irradiance_variance(75.0, wavelength_nm=wavelength_nm) == pytest.approx(variance, abs=0.005)


def test_unknown_wind_at_the_ground_is_21_m_per_s_above():
    # ITU-R P.1621-2, 5.1.1, step 1.
    assert rms_wind_m_s(2.3) == pytest.approx(21.0, abs=0.5)


def test_the_profile_is_hv_5_7():
    # The model is named for r0 = 5 cm and an isoplanatic angle of 7 urad at 0.5 um, overhead, within its rounding.
    air = HufnagelValley()
    assert air.coherence_length_m(90.0, wavelength_nm=500.0) == pytest.approx(0.05, rel=0.05)
    wavenumber = 2 * np.pi / 500e-9
    isoplanatic = (2.91 * wavenumber**2 * air.moment(5 / 3)) ** (-3 / 5)
    assert isoplanatic == pytest.approx(7e-6, rel=0.05)


@pytest.mark.parametrize("power", [0.0, 5 / 6, 5 / 3, 2.0])
def test_moments_are_the_integrals_of_the_profile(power):
    air = HufnagelValley(station_height_m=5.5)
    exact, _ = quad(
        lambda h: float(air.structure_m23(h)) * 1e15 * (h - 5.5) ** power,
        5.5,
        20_000,
        limit=500,
        points=[100, 1000, 5000],
    )
    assert air.moment(power) * 1e15 == pytest.approx(exact, rel=1e-6)


def test_telescopes_average_twinkling_and_larger_ones_more():
    air = HufnagelValley()
    factors = [air.aperture_averaging(60.0, wavelength_nm=850.0, aperture_diameter_m=d) for d in (1e-6, 0.05, 0.3, 1.0)]
    assert factors[0] == pytest.approx(1.0, abs=1e-6)
    assert np.all(np.diff(factors) < 0)
    assert factors[-1] < 0.02
    # P.1622 (7) as printed, with a wavelength in micrometres and the scale height of (6).
    scale_m = (air.moment(2.0) / air.moment(5 / 6)) ** (6 / 7)
    printed = 1 / (1 + 1.1e7 * (0.3**2 * np.sin(np.radians(60.0)) / (scale_m * 0.85)) ** (7 / 6))
    assert factors[2] == pytest.approx(printed)


def test_twinkling_is_stronger_low_in_the_sky():
    variance = HufnagelValley().log_irradiance_variance(np.array([10.0, 75.0]), wavelength_nm=1550.0)
    assert variance[0] / variance[1] == pytest.approx((np.sin(np.radians(75)) / np.sin(np.radians(10))) ** (11 / 6))
    with pytest.raises(ValueError, match="elevations"):
        HufnagelValley().log_irradiance_variance(0.0, wavelength_nm=1550.0)


def test_a_beam_sent_up_spreads_to_what_its_coherence_length_allows():
    air = HufnagelValley()
    link = OpticalLink(wavelength_nm=850.0, waist_radius_m=0.15, receiver_radius_m=0.15, zenith_transmittance=0.8)
    sent_up = replace(link, way=Way.UP, turbulence=air)
    down, up = link.budget(5e5, 90.0), sent_up.budget(5e5, 90.0)
    assert up.geometric_db > down.geometric_db + 5.0
    # Much wider than diffraction: a cone of sqrt(2) * 2 * 2.1 / (k r0).
    angle = np.sqrt(2) * 2 * 2.1 / (2 * np.pi / 850e-9 * float(air.coherence_length_m(90.0, wavelength_nm=850.0)))
    radius = sent_up.beam_radius_m(5e5, 90.0)
    assert radius == pytest.approx(5e5 * angle, rel=0.05)
    # The middle of the profile stays even without wind and ground.
    calm = replace(sent_up, turbulence=HufnagelValley(0.0, 0.0)).budget(5e5, 90.0)
    assert down.geometric_db < calm.geometric_db < up.geometric_db
    wander = air.uplink_wander_m(5e5, 90.0, wavelength_nm=850.0, waist_radius_m=0.15)
    assert 0 < wander < radius


@given(st.floats(1e3, 1e7), st.floats(-90, 90))
def test_a_budget_adds_up_and_never_amplifies(range_m, elevation_deg):
    link = OpticalLink(
        wavelength_nm=850.0,
        waist_radius_m=0.1,
        receiver_radius_m=0.5,
        zenith_transmittance=0.7,
        transmitter_radius_m=0.1,
        pointing_jitter_rad=1e-6,
        fixed_db=3.0,
    )
    budget = link.budget(range_m, elevation_deg)
    parts = (budget.transmitter_db, budget.geometric_db, budget.pointing_db, budget.air_db, budget.fixed_db)
    assert min(float(part) for part in parts) >= -1e-9
    assert budget.total_db == pytest.approx(sum(float(part) for part in parts))
    assert np.isinf(budget.total_db) == (elevation_deg < 0)


def test_a_telescope_cut_at_the_waist_loses_a_seventh_and_jitter_what_its_fade_says():
    link = OpticalLink(
        wavelength_nm=850.0,
        waist_radius_m=0.1,
        receiver_radius_m=0.5,
        zenith_transmittance=1.0,
        transmitter_radius_m=0.1,
        pointing_jitter_rad=2e-6,
    )
    budget = link.budget(6e5, 90.0)
    assert budget.transmitter_db == pytest.approx(float(attenuation_db(1 - np.exp(-2))))
    fade = PointingFade.of(link.beam_radius_m(6e5, 90.0), aperture_radius_m=0.5, jitter_m=1.2)
    assert budget.pointing_db == pytest.approx(float(attenuation_db(fade.relative_mean)))
    assert budget.pointing_db > 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wavelength_nm": 0.0}, "positive"),
        ({"fixed_db": -1.0}, "negative"),
        ({"half_angle_rad": 1e-9}, "narrower"),
        ({"way": Way.UP}, "turbulence"),
    ],
)
def test_impossible_links_are_refused(changes, message):
    good = {"wavelength_nm": 850.0, "waist_radius_m": 0.1, "receiver_radius_m": 0.5, "zenith_transmittance": 0.7}
    with pytest.raises(ValueError, match=message):
        OpticalLink(**good | changes)


def test_the_radiance_is_the_printed_table_and_nothing_beyond_it():
    # ITU-R P.1621-2, table 1.
    assert Daylight.BRIGHT_SUNSHINE.radiance_w_m2_um_sr(850.0) == pytest.approx(122.3)
    np.testing.assert_allclose(Daylight.OVERCAST.radiance_w_m2_um_sr([530.0, 1500.0]), [71.75, 4.44])
    between = Daylight.NORMAL_SUNSHINE.radiance_w_m2_um_sr(785.0)
    assert 42.58 < between < 101.6
    with pytest.raises(ValueError, match="530 to 1500"):
        Daylight.OVERCAST.radiance_w_m2_um_sr(1550.0)


def test_a_mean_above_one_is_no_probability():
    # Ntanos et al. 2021 (20) calls t_gate times rate a probability; for its own 2.3 m telescope it is 3.415.
    receiver = SkyReceiver(aperture_radius_m=1.15, field_of_view_rad=1e-4, passband_nm=0.2, wavelength_nm=850.0)
    rate = receiver.photons_hz(Daylight.BRIGHT_SUNSHINE.radiance_w_m2_um_sr(850.0))
    assert rate * 1e-9 == pytest.approx(3.415, abs=1e-3)
    assert click_probability(rate, efficiency=1.0, gate_s=1e-9) == pytest.approx(0.967, abs=1e-3)


@pytest.mark.parametrize(("diameter_m", "rate_hz"), [(0.75, 8.1e3), (1.3, 24.4e3), (2.3, 76.4e3)])
def test_a_full_moon_gives_more_than_the_10_kcps_that_is_printed(diameter_m, rate_hz):
    # Ntanos et al. 2021, 4.2.2 says "10 kcps at most"; from its own parameters only its smallest telescope keeps that.
    receiver = SkyReceiver(
        aperture_radius_m=diameter_m / 2, field_of_view_rad=1e-4, passband_nm=0.2, wavelength_nm=1550.0
    )
    assert receiver.photons_hz(NIGHT_FULL_MOON) == pytest.approx(rate_hz, rel=0.01)


def test_the_whole_sky_is_four_pi():
    sphere = SkyReceiver(1.0, 2 * np.pi, 1.0, 850.0)
    assert sphere.solid_angle_sr == pytest.approx(4 * np.pi)
    narrow = SkyReceiver(1.0, 1e-4, 1.0, 850.0)
    shaded = SkyReceiver(1.0, 1e-4, 1.0, 850.0, obscuration_radius_m=0.5)
    assert shaded.photons_hz(1.0) / narrow.photons_hz(1.0) == pytest.approx(0.75)
    assert narrow.solid_angle_sr == pytest.approx(np.pi * 1e-8 / 4)
    with pytest.raises(ValueError, match="positive"):
        SkyReceiver(1.0, 7.0, 1.0, 850.0)
    with pytest.raises(ValueError, match="secondary"):
        SkyReceiver(1.0, 1e-4, 1.0, 850.0, obscuration_radius_m=1.0)


@given(st.floats(0, 1e25), st.floats(0, 1), st.floats(0, 1e-6))
def test_a_click_is_a_probability_in_any_light(photons_hz, efficiency, gate_s):
    assert 0 <= click_probability(photons_hz, efficiency=efficiency, gate_s=gate_s) <= 1


def test_decibels_and_shares_are_inverse():
    assert attenuation_db(0.0) == np.inf
    assert attenuation_db(0.5) == pytest.approx(3.0103)
