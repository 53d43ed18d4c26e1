"""Light of the sky in a telescope: radiance times area, field of view, bandwidth and gate.

The field of view is a cone of full angle theta, hence a solid angle of 2 pi (1 - cos(theta/2)). What comes in is a
mean number of photons per gate, which is no probability: in daylight it exceeds 1. A click needs at least one.

Radiance is a property of the weather; here are the values of ITU-R P.1621-2 by day, at zenith, for five wavelengths,
and between them a power law, which is interpolation and not measurement (up to 30 % off where water absorbs at
940 nm). At night two sources differ by ten; both are named. City light and the distance to the sun are left out.

Sources: Recommendation ITU-R P.1621-2 (2015), equation (1), table 1 and clause 3.1; A. Ntanos et al., Photonics 8, 544
(2021), section 4.2.2, for nights at 1550 nm.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.channels.units import photon_energy_j
from shosoin.link.information import Array

__all__ = [
    "NIGHT_FULL_MOON",
    "NIGHT_ITU",
    "NIGHT_MOONLESS",
    "Daylight",
    "SkyReceiver",
    "click_probability",
]

NIGHT_ITU = 1.5e-6
"""Night, in W/(m^2 um sr): the middle of "(1-2) 10^-6 for most frequencies of interest"."""
NIGHT_MOONLESS = 1.5e-5
"""Clear night without moon, same unit, by Ntanos et al."""
NIGHT_FULL_MOON = 1.5e-3
"""Clear night with full moon, same unit, by Ntanos et al."""

_WAVELENGTHS_NM = (530.0, 850.0, 965.0, 1060.0, 1500.0)


class Daylight(enum.Enum):
    """A column of table 1 of ITU-R P.1621-2: radiance at 530, 850, 965, 1060 and 1500 nm in W/(m^2 um sr)."""

    BRIGHT_SUNSHINE = (303.4, 122.3, 64.62, 54.45, 13.01)
    NORMAL_SUNSHINE = (101.6, 42.58, 25.12, 25.32, 6.00)
    OVERCAST = (71.75, 30.3, 18.63, 17.99, 4.44)

    def radiance_w_m2_um_sr(self, wavelength_nm: npt.ArrayLike) -> Array:
        """Return the radiance: as printed at the five wavelengths, a power law between neighbours elsewhere.

        Raises:
            ValueError: a wavelength outside 530 to 1500 nm.
        """
        wavelength = np.asarray(wavelength_nm, dtype=np.float64)
        if not np.all((wavelength >= _WAVELENGTHS_NM[0]) & (wavelength <= _WAVELENGTHS_NM[-1])):
            raise ValueError(f"the table has 530 to 1500 nm, got {wavelength_nm!r} nm")
        return np.asarray(np.exp(np.interp(np.log(wavelength), np.log(_WAVELENGTHS_NM), np.log(self.value))))


@dataclass(frozen=True, slots=True)
class SkyReceiver:
    """A telescope as the sky sees it.

    Raises:
        ValueError: a value is not positive, or the field of view is wider than the sphere.
    """

    aperture_radius_m: float
    field_of_view_rad: float
    """Full angle."""
    passband_nm: float
    wavelength_nm: float
    obscuration_radius_m: float = 0.0

    def __post_init__(self) -> None:
        positive = (self.aperture_radius_m, self.field_of_view_rad, self.passband_nm, self.wavelength_nm)
        if not min(positive) > 0.0 or not self.field_of_view_rad <= 2.0 * np.pi:
            raise ValueError(f"a receiver of sky light has positive values, got {self}")
        if not 0.0 <= self.obscuration_radius_m < self.aperture_radius_m:
            raise ValueError("the secondary mirror must be smaller than the primary")

    @property
    def solid_angle_sr(self) -> float:
        """Solid angle of the field of view."""
        return float(4.0 * np.pi * np.sin(self.field_of_view_rad / 4.0) ** 2)

    def photons_hz(self, radiance_w_m2_um_sr: npt.ArrayLike) -> Array:
        """Return photons per second that enter the telescope and its filter, before optics and detectors."""
        area_m2 = np.pi * (self.aperture_radius_m**2 - self.obscuration_radius_m**2)
        power_w = np.asarray(radiance_w_m2_um_sr, dtype=np.float64) * (
            self.solid_angle_sr * area_m2 * self.passband_nm * 1e-3
        )
        return np.asarray(power_w / photon_energy_j(self.wavelength_nm))


def click_probability(photons_hz: npt.ArrayLike, *, efficiency: float, gate_s: float) -> Array:
    """Return the probability that at least one background photon of a gate is detected: ``1 - exp(-mean)``."""
    return np.asarray(-np.expm1(-np.asarray(photons_hz, dtype=np.float64) * efficiency * gate_s))
