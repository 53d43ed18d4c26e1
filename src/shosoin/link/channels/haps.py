"""A platform in the stratosphere, some 20 km up: an aircraft or airship that circles over one place.

It is above nearly all air and turbulence, and so near that telescopes of decimetres suffice. It does not stand still:
it circles, and winds push it, so a station sees it between two elevations. Both ways are links of ``OpticalLink``:
down is easy, up sends through the turbulence first, though 20 km leave the beam little room to wander.

Source: geometry only. For platforms and their station keeping: ITU-R F.1500 (2000), which allows a sphere of 500 m.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.channels.optical_link import LossBudget, OpticalLink
from shosoin.link.channels.orbit import EARTH_RADIUS_M, slant_range_m
from shosoin.link.information import Array

__all__ = ["Platform", "ServiceBudget"]


@dataclass(frozen=True, slots=True)
class ServiceBudget:
    """Losses between a platform and a station where it should be, and at the worst point of where it may be."""

    nominal: LossBudget
    worst: LossBudget
    elevation_min_deg: Array
    elevation_max_deg: Array


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform over a point on the ground.

    Raises:
        ValueError: an altitude outside the stratosphere (10 to 50 km), or a negative radius.
    """

    altitude_m: float = 20_000.0
    keeping_radius_m: float = 500.0
    """How far from its nominal place it may be, in any direction, height included."""

    def __post_init__(self) -> None:
        if not 10_000.0 <= self.altitude_m <= 50_000.0:
            raise ValueError(f"a platform flies at 10 to 50 km, got {self.altitude_m} m")
        if not 0.0 <= self.keeping_radius_m < self.altitude_m:
            raise ValueError(f"keeping_radius_m must not be negative or reach the ground, got {self.keeping_radius_m}")

    @property
    def horizon_m(self) -> float:
        """Distance over ground at which it stands on the horizon."""
        return float(EARTH_RADIUS_M * np.arccos(EARTH_RADIUS_M / (EARTH_RADIUS_M + self.altitude_m)))

    def elevation_deg(self, ground_distance_m: npt.ArrayLike) -> Array:
        """Return how high it stands for a station so far from the point below it; negative beyond the horizon."""
        return _elevation_deg(ground_distance_m, self.altitude_m)

    def slant_range_m(self, elevation_deg: npt.ArrayLike) -> Array:
        """Return the distance to it at an elevation."""
        return slant_range_m(elevation_deg, altitude_m=self.altitude_m)

    def budget(self, link: OpticalLink, ground_distance_m: npt.ArrayLike) -> ServiceBudget:
        """Return the losses of a link with a station, for distances over ground.

        The worst point is the farthest and lowest that keeping allows: the corner of a cylinder about its sphere, which
        errs to the safe side.
        """
        distance = np.asarray(ground_distance_m, dtype=np.float64)
        off = self.keeping_radius_m
        lowest = _elevation_deg(distance + off, self.altitude_m - off)
        highest = np.where(distance > off, _elevation_deg(np.maximum(distance - off, 0.0), self.altitude_m + off), 90.0)
        elevation = self.elevation_deg(distance)
        far_m = _distance_m(distance + off, self.altitude_m + off)
        return ServiceBudget(
            nominal=link.budget(_distance_m(distance, self.altitude_m), elevation),
            worst=link.budget(far_m, lowest),
            elevation_min_deg=lowest,
            elevation_max_deg=np.asarray(highest),
        )


def _distance_m(ground_distance_m: npt.ArrayLike, altitude_m: float) -> Array:
    angle = np.asarray(ground_distance_m, dtype=np.float64) / EARTH_RADIUS_M
    there = EARTH_RADIUS_M + altitude_m
    # Of the cosine theorem, without the cancellation of two squares of the Earth's radius.
    chord_squared = 4.0 * EARTH_RADIUS_M * there * np.sin(angle / 2.0) ** 2
    return np.asarray(np.sqrt(altitude_m**2 + chord_squared))


def _elevation_deg(ground_distance_m: npt.ArrayLike, altitude_m: float) -> Array:
    angle = np.asarray(ground_distance_m, dtype=np.float64) / EARTH_RADIUS_M
    there = EARTH_RADIUS_M + altitude_m
    up = altitude_m - 2.0 * there * np.sin(angle / 2.0) ** 2
    return np.asarray(np.degrees(np.arctan2(up, there * np.sin(angle))))
