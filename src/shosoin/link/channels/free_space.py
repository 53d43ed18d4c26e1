"""Light through air and space: how much of a Gaussian beam a telescope catches, and how pointing and air take from it.

A beam leaves with a waist and spreads; the receiver cuts a disc out of it. Jitter of the pointing moves the disc off
the beam's axis, which makes a fade with a power-law distribution. Air absorbs and scatters along its slant path.
All functions are vectorised; elevations below the horizon let nothing through.

Sources: A. E. Siegman, Lasers (1986), chapter 17, for the beam; A. A. Farid, S. Hranilovic, J. Lightwave Technol. 25,
1702 (2007), equations (8)-(11), for the fade; F. Kasten, A. T. Young, Appl. Opt. 28, 4735 (1989), for the air mass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from shosoin.link.information import Array

__all__ = [
    "PointingFade",
    "air_mass",
    "air_transmittance",
    "aperture_transmittance",
    "beam_radius_m",
    "diffraction_half_angle_rad",
    "lognormal_level",
]


def diffraction_half_angle_rad(*, waist_radius_m: float, wavelength_nm: float) -> float:
    """Return the far-field half angle (to 1/e^2 in intensity) of a Gaussian beam: ``lambda / (pi w0)``."""
    return wavelength_nm * 1e-9 / (np.pi * waist_radius_m)


def beam_radius_m(range_m: npt.ArrayLike, *, waist_radius_m: float, half_angle_rad: float) -> Array:
    """Return the 1/e^2 radius of a beam so far away; any half angle not below the diffraction limit."""
    return np.asarray(np.hypot(waist_radius_m, half_angle_rad * np.asarray(range_m, dtype=np.float64)))


def aperture_transmittance(
    beam_radius_m: npt.ArrayLike, *, aperture_radius_m: float, obscuration_radius_m: float = 0.0
) -> Array:
    """Return the share of a centred Gaussian beam that a disc, or a ring around a secondary mirror, takes."""
    w = np.asarray(beam_radius_m, dtype=np.float64)
    inside = np.exp(-2.0 * (obscuration_radius_m / w) ** 2)
    return np.asarray(inside * -np.expm1(-2.0 * (aperture_radius_m**2 - obscuration_radius_m**2) / w**2))


@dataclass(frozen=True, slots=True)
class PointingFade:
    """Distribution of the share of light that a jittering beam puts into an aperture: ``h <= A0``, power law below.

    The jitter is Gaussian and alike in both axes. The law is an approximation that is within 1.3 % (normalised mean
    square error, as the authors print) for beams wider than twice the aperture's radius, and better for wider ones.
    """

    exponent: Array
    """gamma^2, the squared ratio of equivalent beam radius to twice the jitter; infinite without jitter."""
    centred: Array
    """A0, the share when the pointing is perfect."""

    @classmethod
    def of(cls, beam_radius_m: npt.ArrayLike, *, aperture_radius_m: float, jitter_m: npt.ArrayLike) -> PointingFade:
        """Return the fade for a beam radius and a jitter (standard deviation per axis) in the receiver's plane."""
        w, jitter = np.asarray(beam_radius_m, dtype=np.float64), np.asarray(jitter_m, dtype=np.float64)
        v = np.sqrt(np.pi / 2.0) * aperture_radius_m / w
        centred = special.erf(v) ** 2
        equivalent_squared = w**2 * np.sqrt(np.pi) * special.erf(v) / (2.0 * v * np.exp(-(v**2)))
        with np.errstate(divide="ignore"):
            exponent = equivalent_squared / (4.0 * jitter**2)
        return cls(exponent=np.asarray(exponent), centred=np.asarray(centred))

    @property
    def relative_mean(self) -> Array:
        """Mean share over the share when centred."""
        return np.asarray(1.0 / (1.0 + 1.0 / self.exponent))

    def relative_quantile(self, probability: npt.ArrayLike) -> Array:
        """Return the share, over the centred one, that is not reached with that probability."""
        return np.asarray(np.asarray(probability, dtype=np.float64) ** (1.0 / self.exponent))


def air_mass(elevation_deg: npt.ArrayLike) -> Array:
    """Return the length of the path through air over that at zenith; infinite below the horizon.

    Kasten and Young's fit: 1 at zenith, 38 at the horizon.
    """
    elevation = np.asarray(elevation_deg, dtype=np.float64)
    above = np.maximum(elevation, 0.0)
    fit = 1.0 / (np.sin(np.radians(above)) + 0.50572 * (above + 6.07995) ** -1.6364)
    return np.asarray(np.where(elevation >= 0.0, np.maximum(fit, 1.0), np.inf))


def air_transmittance(elevation_deg: npt.ArrayLike, *, zenith_transmittance: float) -> Array:
    """Return the share of light that passes clear air (Beer and Lambert); 0 below the horizon.

    Raises:
        ValueError: the transmittance at zenith is not within (0, 1].
    """
    if not 0.0 < zenith_transmittance <= 1.0:
        raise ValueError(f"zenith_transmittance must be within (0, 1], got {zenith_transmittance}")
    elevation = np.asarray(elevation_deg, dtype=np.float64)
    path = np.where(elevation >= 0.0, air_mass(np.maximum(elevation, 0.0)), 0.0)
    return np.asarray(np.where(elevation >= 0.0, zenith_transmittance**path, 0.0))


def lognormal_level(log_variance: npt.ArrayLike, probability: npt.ArrayLike) -> Array:
    """Return the irradiance over its mean that scintillation undercuts with that probability.

    Weak fluctuations: the logarithm is Gaussian with ``log_variance`` (in nepers squared), the mean stays 1.
    """
    variance = np.asarray(log_variance, dtype=np.float64)
    return np.asarray(np.exp(np.sqrt(variance) * special.ndtri(probability) - variance / 2.0))
