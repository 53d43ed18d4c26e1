"""What moving air does to a beam: scintillation, loss of coherence, spread and wander.

Everything is a moment of the refractive-index structure C_n^2 over height. Down, the air is at the end of the path:
the beam arrives intact and twinkles, and a telescope averages over its speckles. Up, the air is at the start, so that
small deflections become metres in orbit: the beam spreads and wanders, and no averaging helps.

Weak fluctuations only: above a log-variance of about 1 (low elevations) real scintillation saturates and the values
here are too large.

Sources: Recommendation ITU-R P.1621-2 (2015), clause 5.1, for the Hufnagel-Valley profile, coherence length and
isoplanatic angle; ITU-R P.1622 (2003), equations (4)-(8), for scintillation and averaging; R. L. Fante, Proc. IEEE 63,
1669 (1975), for the spread; L. C. Andrews, R. L. Phillips, Laser Beam Propagation through Random Media, 2nd ed. (2005),
chapter 12, for the wander.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.information import Array

__all__ = ["HufnagelValley", "rms_wind_m_s"]

_TOP_M = 20_000.0
"""Above it the profile has no turbulence worth counting (P.1621)."""
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(96)


@dataclass(frozen=True, slots=True)
class HufnagelValley:
    """Turbulence over height above a station.

    Raises:
        ValueError: a negative value, or a station above the turbulence.
    """

    wind_rms_m_s: float = 21.0
    """Wind over the upper air. With 21 m/s and the ground value here this is the model HV-5/7."""
    ground_m23: float = 1.7e-14
    """C_n^2 at the ground, in m^(-2/3)."""
    station_height_m: float = 0.0

    def __post_init__(self) -> None:
        if not min(self.wind_rms_m_s, self.ground_m23, self.station_height_m) >= 0.0:
            raise ValueError(f"turbulence has no negative values, got {self}")
        if not self.station_height_m < _TOP_M:
            raise ValueError(f"there is no turbulence above {_TOP_M} m, got {self.station_height_m} m")

    def structure_m23(self, height_m: npt.ArrayLike) -> Array:
        """Return C_n^2 over height above the ground."""
        h = np.asarray(height_m, dtype=np.float64)
        jet = 8.148e-56 * self.wind_rms_m_s**2 * h**10 * np.exp(-h / 1000.0)
        return np.asarray(jet + 2.7e-16 * np.exp(-h / 1500.0) + self.ground_m23 * np.exp(-h / 100.0))

    def moment(self, power: float) -> float:
        """Return the integral of C_n^2 times (height above the station)^power, up to 20 km."""
        # Heights as a cube: fine steps near the ground, where the profile falls within 100 m.
        x = (_NODES + 1.0) / 2.0
        span = _TOP_M - self.station_height_m
        above = span * x**3
        weights = _WEIGHTS / 2.0 * 3.0 * span * x**2
        return float((weights * self.structure_m23(above + self.station_height_m) * above**power).sum())

    def log_irradiance_variance(self, elevation_deg: npt.ArrayLike, *, wavelength_nm: float) -> Array:
        """Return the variance of the logarithm of the irradiance at a point, in nepers squared (P.1622 (4))."""
        secant = 1.0 / np.sin(np.radians(_above_horizon(elevation_deg)))
        wavenumber = 2.0 * np.pi / (wavelength_nm * 1e-9)
        return np.asarray(2.25 * wavenumber ** (7.0 / 6.0) * secant ** (11.0 / 6.0) * self.moment(5.0 / 6.0))

    def aperture_averaging(
        self, elevation_deg: npt.ArrayLike, *, wavelength_nm: float, aperture_diameter_m: float
    ) -> Array:
        """Return the factor within (0, 1] by which a telescope on the ground lowers that variance (P.1622 (6)-(7))."""
        scale_m = (self.moment(2.0) / self.moment(5.0 / 6.0)) ** (6.0 / 7.0)
        sine = np.sin(np.radians(_above_horizon(elevation_deg)))
        ratio = aperture_diameter_m**2 * sine / (scale_m * wavelength_nm * 1e-9)
        return np.asarray(1.0 / (1.0 + 1.1 * ratio ** (7.0 / 6.0)))

    def coherence_length_m(self, elevation_deg: npt.ArrayLike, *, wavelength_nm: float) -> Array:
        """Return Fried's r0 for a plane wave, in metres (P.1621 (8))."""
        secant = 1.0 / np.sin(np.radians(_above_horizon(elevation_deg)))
        wavenumber = 2.0 * np.pi / (wavelength_nm * 1e-9)
        return np.asarray((0.423 * wavenumber**2 * secant * self.moment(0.0)) ** (-3.0 / 5.0))

    def uplink_beam_radius_m(
        self,
        beam_radius_m: npt.ArrayLike,
        range_m: npt.ArrayLike,
        elevation_deg: npt.ArrayLike,
        *,
        wavelength_nm: float,
    ) -> Array:
        """Return the long-term radius of a beam sent up, its wander included.

        ``w^2 + 2 (2 R / (k rho0))^2`` with rho0 = r0 / 2.1; the air is thin against the range, so its coherence length
        is that of a plane wave.
        """
        wavenumber = 2.0 * np.pi / (wavelength_nm * 1e-9)
        rho = self.coherence_length_m(elevation_deg, wavelength_nm=wavelength_nm) / 2.1
        spread = 2.0 * np.asarray(range_m, dtype=np.float64) / (wavenumber * rho)
        return np.asarray(np.sqrt(np.asarray(beam_radius_m, dtype=np.float64) ** 2 + 2.0 * spread**2))

    def uplink_wander_m(
        self, range_m: npt.ArrayLike, elevation_deg: npt.ArrayLike, *, wavelength_nm: float, waist_radius_m: float
    ) -> Array:
        """Return the standard deviation of the centre of a beam sent up: of its distance from the axis, both axes.

        It is the slow part of the spread above; a transmitter that follows a beacon removes most of it.
        """
        wavelength_m = wavelength_nm * 1e-9
        r0 = self.coherence_length_m(elevation_deg, wavelength_nm=wavelength_nm)
        angle_squared = 0.54 * (wavelength_m / (2.0 * waist_radius_m)) ** 2 * (2.0 * waist_radius_m / r0) ** (5.0 / 3.0)
        return np.asarray(np.asarray(range_m, dtype=np.float64) * np.sqrt(angle_squared))


def rms_wind_m_s(ground_wind_m_s: npt.ArrayLike) -> Array:
    """Return the wind over the upper air (Bufton's profile, 5 to 20 km) from that at the ground (P.1621-2 (5)).

    Where the wind is unknown the recommendation takes 2.3 m/s at the ground, which gives 21 m/s.
    """
    ground = np.asarray(ground_wind_m_s, dtype=np.float64)
    return np.asarray(np.sqrt(ground**2 + 33.11 * ground + 360.31))


def _above_horizon(elevation_deg: npt.ArrayLike) -> Array:
    elevation = np.asarray(elevation_deg, dtype=np.float64)
    if not np.all((elevation > 0.0) & (elevation <= 90.0)):
        raise ValueError("turbulence on a slant path needs elevations within (0, 90] degrees")
    return elevation
