"""Asymptotic secret key rate of decoy-state BB84 over a lossy channel.

With infinitely many decoy intensities Alice and Bob know the yield and the error rate of single-photon pulses exactly;
only those carry secrecy. The rate per pulse is ``q * (-Q_mu f h(E_mu) + Q_1 (1 - h(e_1)))``.
With a vacuum and one weak decoy intensity they know bounds on both that come close.
It is asymptotic: no finite-key correction, so it comes without an epsilon, and outputs that use it say so.

Source: Ma, Qi, Zhao, Lo, "Practical decoy state for quantum key distribution", Phys. Rev. A 72, 012326 (2005),
arXiv quant-ph/0503005; parameters GYS: Gobby, Yuan, Shields (2004) as used there. The paper adds dark counts and
photon detections as if both were small; here the exact union of the two events is taken, which stays within [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.information import Array, binary_entropy

__all__ = [
    "GYS",
    "METRO",
    "DecoyParameters",
    "best_mean_photon_number",
    "cutoff_km",
    "secret_key_rate_bps",
    "secret_key_rate_per_pulse",
    "single_photon_bounds",
]


@dataclass(frozen=True, slots=True)
class DecoyParameters:
    """A decoy-state BB84 system.

    Raises:
        ValueError: a value out of its range.
    """

    mean_photon_number: float
    """Mean photon number mu of a signal pulse."""
    receiver_efficiency: float
    """Probability that a photon entering the receiver clicks."""
    background_yield: float
    """Y0: probability of a click per gate without any photon."""
    misalignment_error: float
    """e_d: probability that a detected photon takes the wrong detector."""
    reconciliation_efficiency: float
    """f: disclosed bits over the Shannon limit, at least 1."""
    sifting_factor: float
    """q: share of pulses with matching bases; 1/2 for unbiased choice, near 1 for biased choice."""
    pulse_rate_hz: float
    attenuation_db_per_km: float

    def __post_init__(self) -> None:
        for name in ("receiver_efficiency", "background_yield", "misalignment_error", "sifting_factor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be within [0, 1], got {getattr(self, name)}")
        for name in ("mean_photon_number", "pulse_rate_hz", "attenuation_db_per_km"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a number not below 0, got {getattr(self, name)}")
        if not 1.0 <= self.reconciliation_efficiency < math.inf:
            raise ValueError(f"reconciliation_efficiency must be at least 1, got {self.reconciliation_efficiency}")


GYS = DecoyParameters(
    mean_photon_number=0.48,
    receiver_efficiency=0.045,
    background_yield=1.7e-6,
    misalignment_error=0.033,
    reconciliation_efficiency=1.22,
    sifting_factor=0.5,
    pulse_rate_hz=2e6,
    attenuation_db_per_km=0.21,
)
"""The system of Gobby, Yuan and Shields; published cut-off with infinite decoys: 142 km."""

METRO = DecoyParameters(
    mean_photon_number=0.48,
    receiver_efficiency=0.14,
    background_yield=2e-7,
    misalignment_error=0.02,
    reconciliation_efficiency=1.16,
    sifting_factor=0.9,
    pulse_rate_hz=1e9,
    attenuation_db_per_km=0.2,
)
"""A 1 GHz system of our own choosing: about 6 Mb/s at 6 dB (12 km in a city), 1 Mb/s at 13.5 dB, kb/s at 40 dB."""


def secret_key_rate_per_pulse(
    parameters: DecoyParameters, *, attenuation_db: npt.ArrayLike, weak_decoy: float | None = None
) -> Array:
    """Return secret bits per pulse (never negative) for channel attenuations in dB.

    Args:
        weak_decoy: mean photon number of the weak decoy beside a vacuum; None for infinitely many decoys.

    Raises:
        ValueError: the weak decoy is not within (0, mu).

    Source: Ma et al. 2005, equation (1) with (10), (17), or (42); union of probabilities instead of their sum.
    """
    mu = parameters.mean_photon_number
    gain, error = _gain_and_error(parameters, mu, attenuation_db)
    yield_one, error_one = single_photon_bounds(parameters, attenuation_db=attenuation_db, weak_decoy=weak_decoy)
    gain_one = yield_one * mu * np.exp(-mu)
    disclosed = gain * parameters.reconciliation_efficiency * binary_entropy(np.minimum(error, 0.5))
    secret = gain_one * (1.0 - binary_entropy(np.minimum(error_one, 0.5)))
    return np.asarray(np.maximum(parameters.sifting_factor * (secret - disclosed), 0.0), dtype=np.float64)


def single_photon_bounds(
    parameters: DecoyParameters, *, attenuation_db: npt.ArrayLike, weak_decoy: float | None = None
) -> tuple[Array, Array]:
    """Return a lower bound on the yield of single-photon pulses and an upper bound, at most 0.5, on their error rate.

    They are exact with infinitely many decoys, when ``weak_decoy`` is None; else they follow from the gains and errors
    of signal, weak decoy and vacuum.

    Source: Ma et al. 2005, equations (7), (9); (34), (37).
    """
    if weak_decoy is None:
        return _single_photons(parameters, attenuation_db)
    mu, nu, y0 = parameters.mean_photon_number, weak_decoy, parameters.background_yield
    if not 0.0 < nu < mu:
        raise ValueError(f"the weak decoy must be within (0, {mu}), got {nu}")
    bright, _ = _gain_and_error(parameters, mu, attenuation_db)
    dim, error = _gain_and_error(parameters, nu, attenuation_db)
    multiphoton = nu**2 / mu**2 * bright * np.exp(mu) + (mu**2 - nu**2) / mu**2 * y0
    yield_one = np.maximum(mu / (mu * nu - nu**2) * (dim * np.exp(nu) - multiphoton), 0.0)
    erring = error * dim * np.exp(nu) - y0 / 2
    return np.asarray(yield_one), np.asarray(np.minimum(erring / np.maximum(yield_one * nu, 5e-324), 0.5))


def best_mean_photon_number(parameters: DecoyParameters) -> float:
    """Return the signal intensity that is best far from both ends of the range, where dark counts do not matter.

    Source: Ma et al. 2005, equation (12): (1 - mu) exp(-mu) = f h(e_d) / (1 - h(e_d)).
    """
    entropy = float(binary_entropy(parameters.misalignment_error))
    wanted = parameters.reconciliation_efficiency * entropy / (1.0 - entropy)
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if (1.0 - middle) * math.exp(-middle) > wanted else (low, middle)
    return (low + high) / 2


def secret_key_rate_bps(
    parameters: DecoyParameters, *, attenuation_db: float, weak_decoy: float | None = None
) -> float:
    """Return the asymptotic secret key rate of a link in bit/s."""
    per_pulse = secret_key_rate_per_pulse(parameters, attenuation_db=attenuation_db, weak_decoy=weak_decoy)
    return float(per_pulse) * parameters.pulse_rate_hz


def cutoff_km(parameters: DecoyParameters, *, precision_km: float = 0.01, weak_decoy: float | None = None) -> float:
    """Return the fibre length in km beyond which the rate is zero."""
    low, high = 0.0, 1000.0
    while high - low > precision_km:
        middle = (low + high) / 2
        loss = middle * parameters.attenuation_db_per_km
        alive = secret_key_rate_bps(parameters, attenuation_db=loss, weak_decoy=weak_decoy) > 0
        low, high = (middle, high) if alive else (low, middle)
    return (low + high) / 2


def _transmittance(parameters: DecoyParameters, attenuation_db: npt.ArrayLike) -> Array:
    loss = np.asarray(attenuation_db, dtype=np.float64)
    return np.asarray(10.0 ** (-loss / 10.0) * parameters.receiver_efficiency)


def _gain_and_error(
    parameters: DecoyParameters, intensity: float, attenuation_db: npt.ArrayLike
) -> tuple[Array, Array]:
    """Return the probability of a click per pulse of an intensity, and the share of clicks in error."""
    eta, y0, e_d = (
        _transmittance(parameters, attenuation_db),
        parameters.background_yield,
        parameters.misalignment_error,
    )
    photon_click = -np.expm1(-eta * intensity)
    gain = photon_click + y0 * (1.0 - photon_click)  # the union, without cancellation
    error = (y0 / 2 * (1.0 - photon_click) + e_d * photon_click) / gain
    return np.asarray(gain), np.asarray(error)


def _single_photons(parameters: DecoyParameters, attenuation_db: npt.ArrayLike) -> tuple[Array, Array]:
    """Return what is true of single-photon pulses: the probability of a click, and the share of clicks in error."""
    eta, y0, e_d = (
        _transmittance(parameters, attenuation_db),
        parameters.background_yield,
        parameters.misalignment_error,
    )
    yield_one = eta + y0 * (1.0 - eta)
    error_one = (y0 / 2 * (1.0 - eta) + e_d * eta) / yield_one
    return np.asarray(yield_one), np.asarray(error_one)
