"""Orbits, platforms and the sun against rotated vectors, triangles and almanac values."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.link.channels.haps import Platform
from shosoin.link.channels.optical_link import OpticalLink, Way
from shosoin.link.channels.orbit import (
    EARTH_RADIUS_M,
    CircularOrbit,
    GroundStation,
    is_in_shadow,
    look,
    overpass,
    slant_range_m,
    sun_direction,
    sun_elevation_deg,
)
from shosoin.link.channels.turbulence import HufnagelValley


def rotated(vector, axis, angle):
    """Rotate by Rodrigues' formula, which shares nothing with the module."""
    axis = axis / np.linalg.norm(axis)
    return (
        vector * np.cos(angle) + np.cross(axis, vector) * np.sin(angle) + axis * (axis @ vector) * (1 - np.cos(angle))
    )


@pytest.mark.parametrize("earth_rotates", [True, False])
@given(
    st.floats(2e5, 2e6),
    st.floats(0, 180),
    st.floats(0, 360),
    st.floats(0, 360),
    st.floats(-90, 90),
    st.floats(-180, 180),
    st.floats(0, 2e4),
)
def test_elevation_and_range_are_those_of_rotated_vectors(
    earth_rotates, altitude_m, inclination, node, phase, latitude, longitude, time_s
):
    x, y, z = np.eye(3)
    seen = look(
        CircularOrbit(altitude_m, inclination, node, phase),
        GroundStation(latitude, longitude, height_m=100.0),
        np.array([time_s]),
        epoch_days=9000.25,
        earth_rotates=earth_rotates,
    )
    # Satellite: start on x, go along the equator, tilt about x, turn to the node.
    radius = EARTH_RADIUS_M + altitude_m
    motion = np.sqrt(3.986004418e14 / radius**3) * time_s
    satellite = rotated(radius * x, z, np.radians(phase) + motion)
    satellite = rotated(rotated(satellite, x, np.radians(inclination)), z, np.radians(node))
    # Station: tilt from x towards the pole, then turn with the Earth, 360.98564736629 degrees a day.
    here = rotated((EARTH_RADIUS_M + 100.0) * x, y, -np.radians(latitude))
    turned = 280.46061837 + 360.98564736629 * 9000.25 + longitude
    here = rotated(here, z, np.radians(turned % 360 + 360.98564736629 * (time_s / 86400) * earth_rotates))
    away = satellite - here
    assert seen.range_m[0] == pytest.approx(np.linalg.norm(away), rel=1e-6)
    zenith_angle = np.arctan2(np.linalg.norm(np.cross(here, away)), here @ away)
    assert seen.elevation_deg[0] == pytest.approx(90 - np.degrees(zenith_angle), abs=1e-3)


def test_a_pass_is_symmetric_highest_in_the_middle_and_never_below_the_horizon():
    for maximum in (90.0, 60.0, 25.0):
        seen = overpass(altitude_m=5e5, maximum_elevation_deg=maximum)
        np.testing.assert_allclose(seen.elevation_deg, seen.elevation_deg[::-1], atol=1e-6)
        np.testing.assert_allclose(seen.range_m, seen.range_m[::-1])
        assert seen.elevation_deg.max() == pytest.approx(maximum, abs=1e-4)
        assert seen.time_s[np.argmax(seen.elevation_deg)] == 0.0
        assert np.all(seen.elevation_deg >= 0)
        assert seen.elevation_deg[0] < 0.1


def test_an_overpass_is_an_orbit_over_a_station_of_an_earth_that_stands_still():
    # A polar orbit over the meridian of the station, and one turned away by the triangle's angle.
    station = GroundStation(0.0, 0.0)
    altitude_m, maximum = 5e5, 40.0
    times = overpass(altitude_m=altitude_m, maximum_elevation_deg=maximum).time_s
    beta = np.arccos(EARTH_RADIUS_M / (EARTH_RADIUS_M + altitude_m) * np.cos(np.radians(maximum)))
    node = 280.46061837 + np.degrees(beta) - maximum
    seen = look(CircularOrbit(altitude_m, 90.0, node), station, times, earth_rotates=False)
    expected = overpass(altitude_m=altitude_m, maximum_elevation_deg=maximum)
    np.testing.assert_allclose(seen.elevation_deg, expected.elevation_deg, atol=1e-6)
    np.testing.assert_allclose(seen.range_m, expected.range_m, rtol=1e-9)


def test_a_zenith_pass_at_500_km_is_that_of_satquma():
    # Time in s and elevation in rad, lines of FS_loss_XI0.csv of SatQuMA 2.0.0 (MIT), 500 km over the zenith.
    printed = {346: 3.16e-4, 345: 1.43e-3, 308: 4.49e-2, 268: 9.86e-2, 228: 1.63e-1, 188: 2.42e-1, 148: 3.49e-1}
    printed |= {108: 5.02e-1, 68: 7.48e-1, 28: 1.17, 3: 1.53, 0: 1.57}
    seen = overpass(altitude_m=5e5)
    assert seen.time_s.max() == 346
    for time_s, elevation in printed.items():
        ours = np.radians(seen.elevation_deg[seen.time_s == -time_s][0])
        assert ours == pytest.approx(elevation, rel=5e-3, abs=2e-5)


@given(st.floats(0, 90), st.floats(1e4, 2e6))
def test_slant_range_is_the_third_side_of_the_triangle(elevation_deg, altitude_m):
    distance = slant_range_m(elevation_deg, altitude_m=altitude_m)
    there = EARTH_RADIUS_M + altitude_m
    cosine = np.cos(np.radians(90 + elevation_deg))
    assert EARTH_RADIUS_M**2 + distance**2 - 2 * EARTH_RADIUS_M * distance * cosine == pytest.approx(there**2, rel=1e-9)
    assert altitude_m * (1 - 1e-6) <= distance


def test_orbits_turn_as_kepler_says_and_the_earth_turns_once_a_sidereal_day():
    assert CircularOrbit(500e3).period_s == pytest.approx(94.5 * 60, rel=2e-3)
    station = GroundStation(35.0, 139.0)
    np.testing.assert_allclose(station.position_m(86164.0905), station.position_m(0.0), atol=1.0)
    # One day later the sidereal time of the epoch says the same as the turning.
    np.testing.assert_allclose(
        station.position_m(0.0, epoch_days=1.0), station.position_m(86400.0, epoch_days=0.0), atol=1.0
    )


# Days after J2000 of 2026: March equinox 20 March 14:46 UT, June solstice 21 June 08:24 UT (almanac).
EQUINOX, SOLSTICE = 9575.0 + 2.77 / 24, 9667.85


def test_the_sun_stands_over_the_equator_at_the_equinox_and_over_the_tropic_at_the_solstice():
    assert np.degrees(np.arcsin(sun_direction(EQUINOX)[2])) == pytest.approx(0.0, abs=0.02)
    assert np.degrees(np.arcsin(sun_direction(SOLSTICE)[2])) == pytest.approx(23.44, abs=0.01)
    assert np.linalg.norm(sun_direction(np.array([0.0, 1e4])), axis=-1) == pytest.approx(np.ones(2))


def test_noon_at_nara_is_high_and_midnight_low():
    nara = GroundStation(34.69, 135.83)
    times = np.arange(0, 86400, 60.0)
    heights = sun_elevation_deg(nara, times, epoch_days=SOLSTICE)
    assert heights.max() == pytest.approx(90 - 34.69 + 23.44, abs=0.1)
    assert heights.min() == pytest.approx(-90 + 34.69 + 23.44, abs=0.1)
    # 135.83 E is 9.055 hours ahead of Greenwich, and the sun 1.8 minutes late on that day.
    noon_ut = (SOLSTICE + 0.5 + times[np.argmax(heights)] / 86400) % 1 * 24
    assert noon_ut == pytest.approx(12 - 9.055 + 0.03, abs=0.05)


def test_a_low_orbit_in_the_plane_of_the_sun_is_in_shadow_for_half_the_sky_the_earth_fills():
    orbit = CircularOrbit(500e3, inclination_deg=0.0)
    times = np.linspace(0, orbit.period_s, 5000, endpoint=False)
    share = is_in_shadow(orbit, times, epoch_days=EQUINOX).mean()
    assert share == pytest.approx(np.arcsin(EARTH_RADIUS_M / orbit.radius_m) / np.pi, abs=1e-3)
    towards_sun = np.argmax(orbit.position_m(times) @ sun_direction(EQUINOX))
    assert not is_in_shadow(orbit, times[towards_sun], epoch_days=EQUINOX)
    assert is_in_shadow(orbit, times[towards_sun] + orbit.period_s / 2, epoch_days=EQUINOX)
    # An orbit that faces the sun is never in shadow, if it is high enough to look over the edge.
    facing = CircularOrbit(2000e3, inclination_deg=90.0, node_deg=90.0)
    assert not is_in_shadow(facing, times, epoch_days=EQUINOX).any()


@given(st.floats(0, 5e5), st.floats(1e4, 5e4))
def test_a_platform_is_where_the_triangle_has_it(ground_m, altitude_m):
    platform = Platform(altitude_m)
    angle = ground_m / EARTH_RADIUS_M
    there = (EARTH_RADIUS_M + altitude_m) * np.array([np.sin(angle), np.cos(angle)])
    away = there - np.array([0.0, EARTH_RADIUS_M])
    elevation = platform.elevation_deg(ground_m)
    assert elevation == pytest.approx(np.degrees(np.arctan2(away[1], away[0])), abs=1e-6)
    if elevation > 0:
        assert platform.slant_range_m(elevation) == pytest.approx(np.linalg.norm(away), rel=1e-6)
    assert (elevation >= 0) == (ground_m <= platform.horizon_m * (1 + 1e-9))


def test_a_platform_that_wanders_costs_more_than_one_that_stands_still():
    link = OpticalLink(
        wavelength_nm=1550.0,
        waist_radius_m=0.05,
        receiver_radius_m=0.1,
        zenith_transmittance=0.9,
        pointing_jitter_rad=2e-6,
    )
    distances = np.array([0.0, 10e3, 40e3, 100e3])
    wandering = Platform(keeping_radius_m=3000.0).budget(link, distances)
    still = Platform(keeping_radius_m=0.0).budget(link, distances)
    np.testing.assert_allclose(still.worst.total_db, still.nominal.total_db)
    assert np.all(wandering.worst.total_db > wandering.nominal.total_db)
    assert np.all(np.diff(wandering.nominal.total_db) > 0)
    assert np.all(wandering.elevation_min_deg <= Platform().elevation_deg(distances))
    assert np.all(Platform().elevation_deg(distances) <= wandering.elevation_max_deg)


def test_up_to_a_platform_costs_more_than_down_but_not_by_decades():
    link = OpticalLink(wavelength_nm=1550.0, waist_radius_m=0.05, receiver_radius_m=0.1, zenith_transmittance=0.9)
    down = Platform().budget(link, 20e3).nominal.total_db
    up = Platform().budget(replace(link, way=Way.UP, turbulence=HufnagelValley()), 20e3).nominal.total_db
    assert 0 < up - down < 15


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: GroundStation(91.0, 0.0),
        lambda: CircularOrbit(0.0),
        lambda: CircularOrbit(5e5, inclination_deg=181.0),
        lambda: overpass(altitude_m=5e5, maximum_elevation_deg=0.0),
        lambda: overpass(altitude_m=-1.0),
        lambda: Platform(5e3),
        lambda: Platform(keeping_radius_m=-1.0),
    ],
)
def test_impossible_places_are_refused(wrong):
    with pytest.raises(ValueError, match=r"got|needs|Earth"):
        wrong()
