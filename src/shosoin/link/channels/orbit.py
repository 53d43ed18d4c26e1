"""Where a satellite on a circular orbit stands in the sky of a station, and whether either sees the sun.

The Earth is a sphere of 6371 km that turns (or not, on request: many papers let it stand still). The orbit is a circle
in a plane that keeps its direction. That is good for the shape of a pass, to about a per cent in range; it is no
ephemeris: the oblate Earth turns orbits by degrees a day, and air drags on them.

Frames: ECI has z along the Earth's axis and x towards the vernal equinox. Times are seconds after an epoch, which is
given in days after J2000 (2000-01-01 12:00 UT).

Sources: D. A. Vallado, Fundamentals of Astrodynamics and Applications, 4th ed. (2013), chapters 2 and 3; low-precision
sun (0.01 degrees) and sidereal time: Astronomical Almanac, section C.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.information import Array

__all__ = [
    "EARTH_RADIUS_M",
    "CircularOrbit",
    "GroundStation",
    "Look",
    "is_in_shadow",
    "look",
    "overpass",
    "slant_range_m",
    "sun_direction",
    "sun_elevation_deg",
]

EARTH_RADIUS_M = 6_371_000.0
_GRAVITY_M3_S2 = 3.986004418e14
_ROTATION_RAD_S = 7.2921158553e-5
"""Against the moving equinox, as sidereal time counts."""
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Look:
    """Direction of a satellite from a station over time; arrays of one shape."""

    time_s: Array
    elevation_deg: Array
    range_m: Array


@dataclass(frozen=True, slots=True)
class GroundStation:
    """A place on the Earth.

    Raises:
        ValueError: a latitude outside [-90, 90] or a height below -500 m.
    """

    latitude_deg: float
    longitude_deg: float
    """East is positive."""
    height_m: float = 0.0

    def __post_init__(self) -> None:
        if not abs(self.latitude_deg) <= 90.0 or not self.height_m > -500.0:
            raise ValueError(f"no place on Earth: {self}")

    def position_m(
        self, time_s: npt.ArrayLike, *, epoch_days: float = 0.0, rotation_rad_s: float = _ROTATION_RAD_S
    ) -> Array:
        """Return ECI coordinates, shape (..., 3)."""
        sidereal = np.radians(280.46061837 + 360.98564736629 * epoch_days)
        angle = sidereal + np.radians(self.longitude_deg) + rotation_rad_s * np.asarray(time_s, dtype=np.float64)
        latitude = np.radians(self.latitude_deg)
        unit = np.stack(
            [np.cos(latitude) * np.cos(angle), np.cos(latitude) * np.sin(angle), np.full_like(angle, np.sin(latitude))],
            axis=-1,
        )
        return np.asarray((EARTH_RADIUS_M + self.height_m) * unit)


@dataclass(frozen=True, slots=True)
class CircularOrbit:
    """A circle about the Earth.

    Raises:
        ValueError: an altitude that is not positive, or an inclination outside [0, 180].
    """

    altitude_m: float
    inclination_deg: float = 90.0
    node_deg: float = 0.0
    """Right ascension of the ascending node."""
    phase_deg: float = 0.0
    """Angle from the node at the epoch."""

    def __post_init__(self) -> None:
        if not self.altitude_m > 0.0 or not 0.0 <= self.inclination_deg <= 180.0:
            raise ValueError(f"an orbit has a positive altitude and an inclination within [0, 180], got {self}")

    @property
    def radius_m(self) -> float:
        """Distance from the centre of the Earth."""
        return EARTH_RADIUS_M + self.altitude_m

    @property
    def angular_speed_rad_s(self) -> float:
        """Kepler's third law."""
        return float(np.sqrt(_GRAVITY_M3_S2 / self.radius_m**3))

    @property
    def period_s(self) -> float:
        """Time of one revolution."""
        return 2.0 * np.pi / self.angular_speed_rad_s

    def position_m(self, time_s: npt.ArrayLike) -> Array:
        """Return ECI coordinates, shape (..., 3)."""
        u = np.radians(self.phase_deg) + self.angular_speed_rad_s * np.asarray(time_s, dtype=np.float64)
        node, inclination = np.radians(self.node_deg), np.radians(self.inclination_deg)
        to_node = np.array([np.cos(node), np.sin(node), 0.0])
        ahead = np.array([-np.sin(node) * np.cos(inclination), np.cos(node) * np.cos(inclination), np.sin(inclination)])
        return np.asarray(self.radius_m * (np.cos(u)[..., None] * to_node + np.sin(u)[..., None] * ahead))


def look(
    orbit: CircularOrbit,
    station: GroundStation,
    time_s: npt.ArrayLike,
    *,
    epoch_days: float = 0.0,
    earth_rotates: bool = True,
) -> Look:
    """Return elevation and range over times in seconds; elevations below the horizon are negative."""
    times = np.asarray(time_s, dtype=np.float64)
    speed = _ROTATION_RAD_S if earth_rotates else 0.0
    here = station.position_m(times, epoch_days=epoch_days, rotation_rad_s=speed)
    away = orbit.position_m(times) - here
    distance = np.linalg.norm(away, axis=-1)
    sine = np.sum(away * here, axis=-1) / (distance * np.linalg.norm(here, axis=-1))
    return Look(time_s=times, elevation_deg=np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0))), range_m=distance)


def slant_range_m(elevation_deg: npt.ArrayLike, *, altitude_m: float, station_height_m: float = 0.0) -> Array:
    """Return the distance to something at an altitude seen at an elevation."""
    here, there = EARTH_RADIUS_M + station_height_m, EARTH_RADIUS_M + altitude_m
    sine = np.sin(np.radians(np.asarray(elevation_deg, dtype=np.float64)))
    return np.asarray(np.sqrt(there**2 - here**2 * (1.0 - sine**2)) - here * sine)


def overpass(
    *, altitude_m: float, maximum_elevation_deg: float = 90.0, step_s: float = 1.0, station_height_m: float = 0.0
) -> Look:
    """Return one pass from horizon to horizon over an Earth that stands still, highest at time 0, in equal steps.

    The geometry of Sidhu et al., npj Quantum Inf. 8, 18 (2022): a great circle that misses the zenith by some angle.

    Raises:
        ValueError: the maximum elevation is not within (0, 90], or altitude and step are not positive.
    """
    if not 0.0 < maximum_elevation_deg <= 90.0 or not altitude_m > station_height_m or not step_s > 0.0:
        raise ValueError("a pass needs a maximum elevation within (0, 90], a positive altitude and a positive step")
    here, orbit = EARTH_RADIUS_M + station_height_m, CircularOrbit(altitude_m)
    highest = np.radians(maximum_elevation_deg)
    # Central angle between station and the satellite's highest point, from the triangle with the Earth's centre.
    offset = np.arccos(np.clip(here / orbit.radius_m * np.cos(highest), -1.0, 1.0)) - highest
    horizon = np.arccos(min(1.0, here / (orbit.radius_m * np.cos(offset)))) / orbit.angular_speed_rad_s
    times = step_s * np.arange(-np.floor(horizon / step_s), np.floor(horizon / step_s) + 1.0)
    cosine = np.cos(offset) * np.cos(orbit.angular_speed_rad_s * times)
    distance = np.sqrt(here**2 + orbit.radius_m**2 - 2.0 * here * orbit.radius_m * cosine)
    sine = (orbit.radius_m * cosine - here) / distance
    return Look(time_s=times, elevation_deg=np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0))), range_m=distance)


def sun_direction(days_after_j2000: npt.ArrayLike) -> Array:
    """Return the unit vector to the sun in ECI, shape (..., 3), within 0.01 degrees from 1950 to 2050."""
    n = np.asarray(days_after_j2000, dtype=np.float64)
    anomaly = np.radians(357.528 + 0.9856003 * n)
    longitude = np.radians(280.460 + 0.9856474 * n + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2.0 * anomaly))
    obliquity = np.radians(23.439 - 4e-7 * n)
    return np.asarray(
        np.stack(
            [np.cos(longitude), np.cos(obliquity) * np.sin(longitude), np.sin(obliquity) * np.sin(longitude)], axis=-1
        )
    )


def sun_elevation_deg(station: GroundStation, time_s: npt.ArrayLike, *, epoch_days: float) -> Array:
    """Return how high the sun stands, without refraction; below -18 degrees it is astronomical night."""
    times = np.asarray(time_s, dtype=np.float64)
    here = station.position_m(times, epoch_days=epoch_days)
    up = here / np.linalg.norm(here, axis=-1, keepdims=True)
    sine = np.sum(up * sun_direction(epoch_days + times / _DAY_S), axis=-1)
    return np.asarray(np.degrees(np.arcsin(np.clip(sine, -1.0, 1.0))))


def is_in_shadow(orbit: CircularOrbit, time_s: npt.ArrayLike, *, epoch_days: float) -> npt.NDArray[np.bool_]:
    """Return whether the satellite is in the Earth's shadow, taken as a cylinder."""
    times = np.asarray(time_s, dtype=np.float64)
    position, sun = orbit.position_m(times), sun_direction(epoch_days + times / _DAY_S)
    along = np.sum(position * sun, axis=-1)
    off_axis = np.linalg.norm(position - along[..., None] * sun, axis=-1)
    return np.asarray((along < 0.0) & (off_axis < EARTH_RADIUS_M))
