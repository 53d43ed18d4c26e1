"""Loss of standard single-mode fibre over the telecom bands, and of a cable made of it.

Four terms add up: Rayleigh scattering falls with the fourth power of the wavelength, the infrared edge of silica grows
exponentially, water (OH) has an overtone at 1383 nm, and imperfections cost the same at every wavelength. The first
two make the valley at 1550 nm; the third separates the O band from the C band in old fibre.

Sources: S. S. Walker, "Rapid modeling and estimation of total spectral loss in optical fibers", J. Lightwave Technol.
4, 1125 (1986), for the form; infrared edge 7.81e11 exp(-48.48 um / wavelength) dB/km of germania-doped silica as given
there. Rayleigh, imperfection and OH heights are chosen for typical cabled fibre and stay below the limits of ITU-T
G.652 (2016), tables 2 and 4. Bending, and the cut-off of the single mode below some 1260 nm, are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shosoin.link.channels import units
from shosoin.link.information import Array

__all__ = ["G652B", "G652D", "Fibre", "FlatLoss", "LossModel", "SilicaLoss"]

_NEPERS_PER_DB = np.log(10.0) / 10.0


class LossModel(Protocol):
    """Loss per length over wavelength."""

    def db_per_km(self, wavelength_nm: npt.ArrayLike) -> Array:
        """Return the loss at vacuum wavelengths."""


@dataclass(frozen=True, slots=True)
class FlatLoss:
    """The same loss at every wavelength: what most papers assume.

    Raises:
        ValueError: a negative loss.
    """

    value_db_per_km: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.value_db_per_km < np.inf:
            raise ValueError(f"value_db_per_km must not be negative, got {self.value_db_per_km}")

    def db_per_km(self, wavelength_nm: npt.ArrayLike) -> Array:
        """Return the loss at vacuum wavelengths."""
        return np.full_like(np.asarray(wavelength_nm, dtype=np.float64), self.value_db_per_km)


@dataclass(frozen=True, slots=True)
class SilicaLoss:
    """Sum of Rayleigh, infrared, OH and imperfection loss; valid from 1260 to 1675 nm.

    Raises:
        ValueError: a negative term.
    """

    rayleigh_db_um4_per_km: float = 0.85
    """Rayleigh scattering at 1 um; falls with the fourth power."""
    imperfection_db_per_km: float = 0.03
    oh_peak_db_per_km: float = 0.04
    """Height of the OH overtone at 1383 nm above the other terms."""
    oh_half_width_nm: float = 12.0
    """Half width at half maximum of that peak, taken as a Lorentz curve."""

    def __post_init__(self) -> None:
        terms = (self.rayleigh_db_um4_per_km, self.imperfection_db_per_km, self.oh_peak_db_per_km)
        if not min(terms) >= 0.0 or not self.oh_half_width_nm > 0.0:
            raise ValueError(f"no term of the loss is negative, got {self}")

    def db_per_km(self, wavelength_nm: npt.ArrayLike) -> Array:
        """Return the loss at vacuum wavelengths.

        Raises:
            ValueError: a wavelength outside 1260 to 1675 nm (bands O to U), where the terms were not fitted.
        """
        wavelength_um = np.asarray(wavelength_nm, dtype=np.float64) * 1e-3
        if not np.all((wavelength_um >= 1.26) & (wavelength_um <= 1.675)):
            raise ValueError(f"the loss of silica fibre is modelled from 1260 to 1675 nm, got {wavelength_nm!r} nm")
        infrared = 7.81e11 * np.exp(-48.48 / wavelength_um)
        detuning = (wavelength_um - 1.383) * 1e3 / self.oh_half_width_nm
        oh = self.oh_peak_db_per_km / (1.0 + detuning**2)
        return np.asarray(self.rayleigh_db_um4_per_km / wavelength_um**4 + infrared + oh + self.imperfection_db_per_km)


G652D = SilicaLoss()
"""Fibre of today, without a water peak: 0.32 dB/km at 1310 nm, 0.20 at 1550 nm."""
G652B = SilicaLoss(oh_peak_db_per_km=1.0)
"""Fibre laid before about 2000: as above with a water peak that closes the E band."""


@dataclass(frozen=True, slots=True)
class Fibre:
    """A cable: so much fibre, and splices and connectors at its ends or in between.

    Raises:
        ValueError: a negative length, number or loss.
    """

    length_km: float
    loss: LossModel = G652D
    splices: int = 0
    splice_loss_db: float = 0.05
    connector_loss_db: float = 0.0
    """All connectors and patch panels together."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.length_km < np.inf or self.splices < 0:
            raise ValueError(f"length and splices must not be negative, got {self.length_km} km and {self.splices}")
        if not min(self.splice_loss_db, self.connector_loss_db) >= 0.0:
            raise ValueError("splices and connectors cannot amplify")

    @property
    def fixed_loss_db(self) -> float:
        """Loss of splices and connectors."""
        return self.splices * self.splice_loss_db + self.connector_loss_db

    def attenuation_db(self, wavelength_nm: npt.ArrayLike) -> Array:
        """Return the loss from end to end at vacuum wavelengths."""
        return np.asarray(self.loss.db_per_km(wavelength_nm) * self.length_km + self.fixed_loss_db)

    def transmittance(self, wavelength_nm: npt.ArrayLike) -> Array:
        """Return the share of light that arrives."""
        return units.transmittance(self.attenuation_db(wavelength_nm))

    def nepers_per_km(self, wavelength_nm: npt.ArrayLike) -> Array:
        """Return the exponential decay of power along the fibre itself."""
        return np.asarray(self.loss.db_per_km(wavelength_nm) * _NEPERS_PER_DB)
