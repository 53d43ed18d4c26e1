"""Spontaneous Raman scattering: light of a strong channel that comes back at any other wavelength.

A photon of the strong channel gives energy to a vibration of the glass (Stokes, longer wavelength) or takes it from
one (anti-Stokes, shorter). How often is a shape of the glass times the number of quanta in the vibration, n + 1 or n,
times the fourth power of the scattered frequency. Shorter wavelengths see less noise because hot vibrations are rare.

The shape is the sum of thirteen vibrational modes of Hollenbeck and Cantrell, in closed form by the Faddeeva function.
The size is anchored to one measured coefficient; the default is what is published for a pump at 1550 nm and a quantum
channel at 1531 nm. What it does not do: polarisation, and the change of shape with the dopants of a fibre.

Sources: D. Hollenbeck, C. D. Cantrell, "Multiple-vibrational-mode model for fiber-optic Raman gain spectrum and
response function", J. Opt. Soc. Am. B 19, 2886 (2002), equation (9) and table 1. P. Eraerds, N. Walenta, M. Legré,
N. Gisin, H. Zbinden, New J. Phys. 12, 063027 (2010), equations (2)-(3), for propagation; R. Kumar, H. Qin, R. Alléaume,
New J. Phys. 17, 043027 (2015), for the size of the coefficient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from shosoin.link.channels.units import BOLTZMANN_J_PER_K, LIGHT_M_PER_S, PLANCK_J_S, frequency_hz, photon_energy_j
from shosoin.link.information import Array

__all__ = [
    "RamanScattering",
    "backward_length_km",
    "forward_length_km",
    "gain_shape",
    "vibration_quanta",
]

_MODES = np.array(
    [  # position in 1/cm, amplitude, full width of the Gauss and of the Lorentz curve in 1/cm: table 1
        (56.25, 1.00, 52.10, 17.37),
        (100.00, 11.40, 110.42, 38.81),
        (231.25, 36.67, 175.00, 58.33),
        (362.50, 67.67, 162.50, 54.17),
        (463.00, 74.00, 135.33, 45.11),
        (497.00, 4.50, 24.50, 8.17),
        (611.50, 6.80, 41.50, 13.83),
        (691.67, 4.60, 155.00, 51.67),
        (793.67, 4.20, 59.50, 19.83),
        (835.50, 4.50, 64.30, 21.43),
        (930.00, 2.70, 150.00, 50.00),
        (1080.00, 3.10, 91.00, 30.33),
        (1215.00, 3.00, 160.00, 53.33),
    ]
)
_PER_CM_TO_RAD_PER_S = 2.0 * np.pi * LIGHT_M_PER_S * 100.0
_PEAK_SHIFT_HZ = 13.2e12
_SHIFT_MIN_HZ = 1e9
"""Below this the light is Rayleigh and Brillouin, not Raman; the product of shape and quanta has its limit there."""


def _response(shift_hz: npt.ArrayLike) -> Array:
    """Return the imaginary part of the transformed response, not normalised.

    Each mode is ``A exp(-gamma t - Gamma^2 t^2 / 4) sin(omega t)``; its sine transform is a difference of two Voigt
    profiles, and a Voigt profile is the real part of the Faddeeva function.
    """
    position, amplitude, gauss, lorentz = _MODES.T
    omega, width, damping = (
        position * _PER_CM_TO_RAD_PER_S,
        gauss * _PER_CM_TO_RAD_PER_S / 2.0,
        lorentz * _PER_CM_TO_RAD_PER_S / 2.0,
    )
    shift = 2.0 * np.pi * np.asarray(shift_hz, dtype=np.float64)[..., None]
    near = special.wofz((omega - shift + 1j * damping) / width).real
    far = special.wofz((omega + shift + 1j * damping) / width).real
    return np.asarray((amplitude * np.sqrt(np.pi) / (2.0 * width) * (near - far)).sum(axis=-1))


def gain_shape(shift_hz: npt.ArrayLike) -> Array:
    """Return the Raman gain of silica over the frequency shift, 1 at 13.2 THz; the same for both signs of the shift.

    Valid to some 42 THz: beyond, the real glass has nothing and the model a small tail.
    """
    return np.asarray(_response(np.abs(np.asarray(shift_hz, dtype=np.float64))) / _response(_PEAK_SHIFT_HZ))


def vibration_quanta(shift_hz: npt.ArrayLike, *, temperature_k: float) -> Array:
    """Return the mean number of quanta in a vibration of that frequency (Bose and Einstein)."""
    energy = PLANCK_J_S * np.abs(np.asarray(shift_hz, dtype=np.float64))
    return np.asarray(1.0 / np.expm1(energy / (BOLTZMANN_J_PER_K * temperature_k)))


def forward_length_km(
    length_km: npt.ArrayLike, pump_nepers_per_km: float, signal_nepers_per_km: npt.ArrayLike
) -> Array:
    """Return what pump power times coefficient is multiplied by for noise that leaves with the pump's light.

    ``(exp(-ac L) - exp(-aq L)) / (aq - ac)``, or ``L exp(-a L)`` for equal losses, which is its limit.
    """
    length, signal = np.asarray(length_km, dtype=np.float64), np.asarray(signal_nepers_per_km, dtype=np.float64)
    # Symmetric in the two losses; this way round nothing overflows.
    slower = np.exp(-np.minimum(signal, pump_nepers_per_km) * length)
    return np.asarray(length * slower * special.exprel(-np.abs(signal - pump_nepers_per_km) * length))


def backward_length_km(
    length_km: npt.ArrayLike, pump_nepers_per_km: float, signal_nepers_per_km: npt.ArrayLike
) -> Array:
    """Return the same for noise that comes back to where the pump entered: ``(1 - exp(-(ac+aq) L)) / (ac+aq)``."""
    length, signal = np.asarray(length_km, dtype=np.float64), np.asarray(signal_nepers_per_km, dtype=np.float64)
    return np.asarray(length * special.exprel(-(signal + pump_nepers_per_km) * length))


@dataclass(frozen=True, slots=True)
class RamanScattering:
    """How strongly a fibre scatters from one wavelength into another.

    Raises:
        ValueError: the anchor or the temperature is not positive, or both wavelengths of the anchor are the same.
    """

    anchor_per_km_nm: float = 3.2e-9
    """Measured: power scattered into one direction, per pump power, kilometre and nanometre. Published values for the
    default wavelengths are 3.0e-9 to 3.4e-9, which is 0.5 dB."""
    anchor_pump_nm: float = 1550.0
    anchor_signal_nm: float = 1531.0
    temperature_k: float = 293.15

    def __post_init__(self) -> None:
        if not min(self.anchor_per_km_nm, self.anchor_pump_nm, self.anchor_signal_nm, self.temperature_k) > 0.0:
            raise ValueError(f"anchor and temperature must be positive, got {self}")
        if self.anchor_pump_nm == self.anchor_signal_nm:
            raise ValueError("an anchor needs two different wavelengths")

    def _relative(self, pump_nm: npt.ArrayLike, signal_nm: npt.ArrayLike) -> Array:
        shift = frequency_hz(pump_nm) - frequency_hz(signal_nm)
        size = np.maximum(np.abs(shift), _SHIFT_MIN_HZ)
        quanta = vibration_quanta(size, temperature_k=self.temperature_k) + (shift > 0.0)
        return np.asarray(gain_shape(size) * quanta * frequency_hz(signal_nm) ** 4)

    def per_km_nm(self, pump_nm: npt.ArrayLike, signal_nm: npt.ArrayLike) -> Array:
        """Return the coefficient beta in 1/(km nm): both polarisations, one direction."""
        scale = self.anchor_per_km_nm / self._relative(self.anchor_pump_nm, self.anchor_signal_nm)
        return np.asarray(scale * self._relative(pump_nm, signal_nm))

    def peak_gain_per_w_km(self, pump_nm: float) -> float:
        """Return the Raman gain of unpolarised light that the anchor implies, at its peak.

        A check on the anchor by other physics: spontaneous light is the gain times one photon (times n + 1) in each of
        two polarisations, ``beta = 2 h nu B C (n + 1)`` with B the width of a nanometre.
        """
        signal_hz = float(frequency_hz(pump_nm)) - _PEAK_SHIFT_HZ
        signal_nm = LIGHT_M_PER_S / signal_hz * 1e9
        quanta = float(vibration_quanta(_PEAK_SHIFT_HZ, temperature_k=self.temperature_k)) + 1.0
        nanometre_hz = signal_hz / signal_nm
        one_photon_w = 2.0 * float(photon_energy_j(signal_nm)) * nanometre_hz * quanta
        return float(self.per_km_nm(pump_nm, signal_nm)) / one_photon_w
