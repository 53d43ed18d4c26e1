"""The loss budget of one free-space link: two telescopes, a range, an elevation and the air between.

The parts are computed apart, so that a budget can be printed and compared line by line, and add up in decibels.
What is given is the mean loss; fades around it have their own distributions (``PointingFade``, ``lognormal_level``).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.channels import units
from shosoin.link.channels.free_space import (
    PointingFade,
    air_transmittance,
    aperture_transmittance,
    beam_radius_m,
    diffraction_half_angle_rad,
)
from shosoin.link.channels.turbulence import HufnagelValley
from shosoin.link.information import Array

__all__ = ["LossBudget", "OpticalLink", "Way"]


class Way(enum.Enum):
    """Which end of the link the air is at."""

    DOWN = "down"
    UP = "up"


@dataclass(frozen=True, slots=True)
class LossBudget:
    """Mean losses in dB, arrays of one shape; infinite below the horizon."""

    transmitter_db: Array
    """Cut off by the transmitting telescope."""
    geometric_db: Array
    """Beam wider than the receiving telescope."""
    pointing_db: Array
    air_db: Array
    fixed_db: Array
    """Optics and whatever else does not change over a pass."""

    @property
    def total_db(self) -> Array:
        """All of them."""
        return np.asarray(self.transmitter_db + self.geometric_db + self.pointing_db + self.air_db + self.fixed_db)


@dataclass(frozen=True, slots=True)
class OpticalLink:
    """Two telescopes and what is between them.

    Raises:
        ValueError: a radius or the wavelength is not positive, a loss or jitter is negative, the beam is narrower than
            diffraction allows, or a link up has no turbulence.
    """

    wavelength_nm: float
    waist_radius_m: float
    """1/e^2 radius of the beam where it leaves."""
    receiver_radius_m: float
    zenith_transmittance: float
    """Of the whole air above the station on the ground, by absorption and scattering."""
    transmitter_radius_m: float = np.inf
    """Radius of the telescope that sends; infinite if nothing is cut off."""
    half_angle_rad: float | None = None
    """Real divergence of the beam, 1/e^2 half angle; None for the diffraction limit."""
    receiver_obscuration_m: float = 0.0
    pointing_jitter_rad: float = 0.0
    """Standard deviation per axis."""
    fixed_db: float = 0.0
    way: Way = Way.DOWN
    turbulence: HufnagelValley | None = None
    """Needed for a link up, whose beam it widens; a link down loses nothing to it on average."""

    def __post_init__(self) -> None:
        if not min(self.wavelength_nm, self.waist_radius_m, self.receiver_radius_m, self.transmitter_radius_m) > 0.0:
            raise ValueError(f"wavelength and radii must be positive, got {self}")
        if not min(self.pointing_jitter_rad, self.fixed_db, self.receiver_obscuration_m) >= 0.0:
            raise ValueError("jitter, fixed losses and obscuration must not be negative")
        if self.half_angle_rad is not None and not self.half_angle_rad >= self.diffraction_limit_rad * (1.0 - 1e-9):
            raise ValueError(f"no beam is narrower than {self.diffraction_limit_rad} rad, got {self.half_angle_rad}")
        if self.way is Way.UP and self.turbulence is None:
            raise ValueError("a link up is governed by turbulence at its start; give one")

    @property
    def diffraction_limit_rad(self) -> float:
        """Half angle that a beam of this waist has at least."""
        return diffraction_half_angle_rad(waist_radius_m=self.waist_radius_m, wavelength_nm=self.wavelength_nm)

    def beam_radius_m(self, range_m: npt.ArrayLike, elevation_deg: npt.ArrayLike) -> Array:
        """Return the 1/e^2 radius at the receiver, averaged over turbulence."""
        angle = self.diffraction_limit_rad if self.half_angle_rad is None else self.half_angle_rad
        radius = beam_radius_m(range_m, waist_radius_m=self.waist_radius_m, half_angle_rad=angle)
        if self.way is Way.DOWN or self.turbulence is None:
            return radius
        # Below the horizon nothing arrives anyhow, through the loss in air.
        above = np.maximum(np.asarray(elevation_deg, dtype=np.float64), 1e-3)
        return self.turbulence.uplink_beam_radius_m(radius, range_m, above, wavelength_nm=self.wavelength_nm)

    def budget(self, range_m: npt.ArrayLike, elevation_deg: npt.ArrayLike) -> LossBudget:
        """Return the losses over ranges in metres and elevations in degrees, which broadcast."""
        distance, elevation = np.broadcast_arrays(
            np.asarray(range_m, dtype=np.float64), np.asarray(elevation_deg, dtype=np.float64)
        )
        radius = self.beam_radius_m(distance, elevation)
        caught = aperture_transmittance(
            radius, aperture_radius_m=self.receiver_radius_m, obscuration_radius_m=self.receiver_obscuration_m
        )
        fade = PointingFade.of(
            radius, aperture_radius_m=self.receiver_radius_m, jitter_m=self.pointing_jitter_rad * distance
        )
        air = air_transmittance(elevation, zenith_transmittance=self.zenith_transmittance)
        left = -np.expm1(-2.0 * (self.transmitter_radius_m / self.waist_radius_m) ** 2)
        return LossBudget(
            transmitter_db=np.full_like(distance, float(units.attenuation_db(left))),
            geometric_db=units.attenuation_db(caught),
            pointing_db=units.attenuation_db(fade.relative_mean),
            air_db=units.attenuation_db(air),
            fixed_db=np.full_like(distance, self.fixed_db),
        )

    def attenuation_db(self, range_m: npt.ArrayLike, elevation_deg: npt.ArrayLike) -> Array:
        """Return the mean loss; infinite below the horizon."""
        return self.budget(range_m, elevation_deg).total_db
