"""Constants of nature and the conversions that every channel needs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shosoin.link.information import Array

__all__ = [
    "BOLTZMANN_J_PER_K",
    "LIGHT_M_PER_S",
    "PLANCK_J_S",
    "attenuation_db",
    "frequency_hz",
    "photon_energy_j",
    "transmittance",
    "watts",
]

LIGHT_M_PER_S = 299792458.0
PLANCK_J_S = 6.62607015e-34
BOLTZMANN_J_PER_K = 1.380649e-23


def frequency_hz(wavelength_nm: npt.ArrayLike) -> Array:
    """Return the frequency of light of a vacuum wavelength."""
    return np.asarray(LIGHT_M_PER_S / (np.asarray(wavelength_nm, dtype=np.float64) * 1e-9))


def photon_energy_j(wavelength_nm: npt.ArrayLike) -> Array:
    """Return the energy of one photon."""
    return np.asarray(PLANCK_J_S * frequency_hz(wavelength_nm))


def transmittance(attenuation_db: npt.ArrayLike) -> Array:
    """Return the share of light that passes an attenuation in dB."""
    return np.asarray(10.0 ** (-np.asarray(attenuation_db, dtype=np.float64) / 10.0))


def attenuation_db(transmittance: npt.ArrayLike) -> Array:
    """Return the attenuation of a transmittance; infinite where nothing passes."""
    with np.errstate(divide="ignore"):
        return np.asarray(-10.0 * np.log10(np.asarray(transmittance, dtype=np.float64)))


def watts(power_dbm: npt.ArrayLike) -> Array:
    """Return a power given in decibels over a milliwatt."""
    return np.asarray(1e-3 * 10.0 ** (np.asarray(power_dbm, dtype=np.float64) / 10.0))
