"""Continuous-variable QKD with Gaussian-modulated coherent states (GG02): asymptotic secret key rate.

Alice displaces coherent states by Gaussian amplitudes of variance V_A, Bob measures one quadrature (homodyne) or both
(heterodyne), the key follows Bob's values (reverse reconciliation): K = beta I_AB - chi_BE. Gaussian attacks are the
best collective ones, so chi_BE follows from two numbers, transmittance and excess noise. Shot-noise units: vacuum has
variance 1; excess noise is referred to the channel's input. A trusted detector's loss and electronic noise are Bob's
own and out of Eve's reach; an untrusted one's are given to her.

Sources: Lodewyck et al., Phys. Rev. A 76, 042305 (2007), equations (19) to (24), homodyne; Fossier, Diamanti,
Debuisschert, Tualle-Brouri, Grangier, J. Phys. B 42, 114014 (2009), heterodyne. A test derives the same quantity from
Eve's own covariance matrix. What Eve knows is a small difference of entropies, so it is rounded up by what
floating point may hide of it: rates below about 1e-12 bit per symbol are lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from shosoin.link.information import Array
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.search import best_settings
from shosoin.link.rates.shaped import attenuations, shaped_rate

__all__ = [
    "HAJOMER_2024",
    "LODEWYCK_2007",
    "TYPICAL_CV",
    "GaussianParameters",
    "holevo_information",
    "mutual_information",
    "rate",
]

_VARIANCE = (0.02, 200.0)
_ROUNDING_BITS = 1e-12
"""Of entropies, at little modulation; it grows with the variance."""


@dataclass(frozen=True, slots=True)
class GaussianParameters:
    """A GG02 system; variances in shot-noise units.

    Raises:
        ValueError: a share out of range or a negative variance.
    """

    excess_noise: float
    """xi: noise of the channel at its input, beyond the vacuum's."""
    efficiency: float
    """eta: of Bob's detection, optics included."""
    electronic_noise: float
    """v_el: variance of each detector's electronics."""
    reconciliation_efficiency: float
    """beta: share of the mutual information that reconciliation keeps, at most 1."""
    detection: Literal["homodyne", "heterodyne"] = "homodyne"
    trusted_detector: bool = True
    modulation_variance: float | None = None
    """V_A; None takes the best at each attenuation."""
    symbol_rate_hz: float = 1e8

    def __post_init__(self) -> None:
        if not 0.0 < self.efficiency <= 1.0 or not 0.0 <= self.reconciliation_efficiency <= 1.0:
            raise ValueError("efficiency must be within (0, 1] and reconciliation efficiency within [0, 1]")
        if self.excess_noise < 0.0 or self.electronic_noise < 0.0 or self.detection not in ("homodyne", "heterodyne"):
            raise ValueError("noise must not be negative, and detection is homodyne or heterodyne")
        if self.modulation_variance is not None and self.modulation_variance <= 0.0:
            raise ValueError("modulation variance must be above 0")


TYPICAL_CV = GaussianParameters(
    excess_noise=0.01, efficiency=0.6, electronic_noise=0.015, reconciliation_efficiency=0.95, symbol_rate_hz=1e6
)
"""Round figures of our own choosing, of the order of the 80 km homodyne experiment of Jouguet et al., Nature Photonics
7, 378 (2013)."""

LODEWYCK_2007 = GaussianParameters(
    excess_noise=0.005,
    efficiency=0.606,
    electronic_noise=0.041,
    reconciliation_efficiency=0.898,
    modulation_variance=18.5,
    symbol_rate_hz=350e3,
)
"""25 km with trusted homodyne, transmittance 0.302; Lodewyck et al., Phys. Rev. A 76, 042305 (2007)."""

HAJOMER_2024 = GaussianParameters(
    excess_noise=2.12e-4 / 10.0**-1.54,
    efficiency=0.68,
    electronic_noise=0.06272,
    reconciliation_efficiency=0.925,
    detection="heterodyne",
    modulation_variance=8.41,
)
"""100 km with a local oscillator of Bob's own, 15.4 dB; Hajomer et al., Science Advances 10, eadi9474 (2024), arXiv
2305.08156. The paper gives the excess noise behind the channel, 2.12e-4; the symbol rate here is not theirs."""


def quadratures(parameters: GaussianParameters) -> int:
    """Return how many quadratures a symbol is measured in."""
    return 2 if parameters.detection == "heterodyne" else 1


def detector_noise(parameters: GaussianParameters) -> float:
    """Return the noise at Bob's output beyond the loss-free vacuum unit: v_el, or 1 + 2 v_el when light is split."""
    split = quadratures(parameters)
    return split - 1.0 + split * parameters.electronic_noise


def mutual_information(
    parameters: GaussianParameters, *, transmittance: npt.ArrayLike, variance: npt.ArrayLike, excess: npt.ArrayLike
) -> Array:
    """Return I_AB in bits per symbol."""
    through = parameters.efficiency * np.asarray(transmittance, dtype=np.float64)
    noise = 1.0 + detector_noise(parameters) + through * np.asarray(excess, dtype=np.float64)
    ratio = through * np.asarray(variance, dtype=np.float64) / noise
    return np.asarray(quadratures(parameters) / 2.0 * np.log1p(ratio) / np.log(2.0), dtype=np.float64)


def _thermal_entropy(eigenvalue: npt.ArrayLike) -> Array:
    """Return the entropy in bits of a mode of this symplectic eigenvalue (1: none)."""
    n = np.maximum((np.asarray(eigenvalue, dtype=np.float64) - 1.0) / 2.0, 0.0)
    return np.asarray(((n + 1.0) * np.log1p(n) - n * np.log(np.maximum(n, 5e-324))) / np.log(2.0), dtype=np.float64)


def _eigenvalue_entropy(trace: Array, determinant: Array) -> Array:
    """Return the entropy of two modes with l1^2 + l2^2 = trace and (l1 l2)^2 = determinant."""
    spread = np.sqrt(np.maximum(trace**2 - 4.0 * determinant, 0.0))
    large = np.sqrt((trace + spread) / 2.0)
    # The small one from the product: a difference would lose its digits.
    return _thermal_entropy(large) + _thermal_entropy(np.sqrt(determinant) / large)


def holevo_information(
    parameters: GaussianParameters, *, transmittance: npt.ArrayLike, variance: npt.ArrayLike, excess: npt.ArrayLike
) -> Array:
    """Return chi_BE in bits per symbol, what Eve may know of Bob's values; rounded up."""
    t = np.asarray(transmittance, dtype=np.float64)
    xi = np.asarray(excess, dtype=np.float64)
    if parameters.trusted_detector:
        eta, added = parameters.efficiency, (1.0 - parameters.efficiency + detector_noise(parameters))
        detector = added / eta
    else:
        # Loss and electronics are moved into the channel; what is left is an ideal detector.
        t = parameters.efficiency * t
        xi = xi + quadratures(parameters) * parameters.electronic_noise / t
        detector = quadratures(parameters) - 1.0
    v = np.asarray(variance, dtype=np.float64) + 1.0
    line = 1.0 / t - 1.0 + xi
    total = t * (v + line) + detector
    root = t * (v * line + 1.0)
    trace = v**2 * (1.0 - 2.0 * t) + 2.0 * t + (t * (v + line)) ** 2
    if quadratures(parameters) == 1:
        after_trace = (trace * detector + v * root + t * (v + line)) / total
        after_determinant = root * (v + root * detector) / total
    else:
        cross = 2.0 * detector * (v * root + t * (v + line)) + 2.0 * t * (v**2 - 1.0)
        after_trace = (trace * detector**2 + root**2 + 1.0 + cross) / total**2
        after_determinant = ((v + root * detector) / total) ** 2
    gained = _eigenvalue_entropy(trace, root**2) - _eigenvalue_entropy(after_trace, after_determinant)
    return np.asarray(np.maximum(gained, 0.0) + _ROUNDING_BITS * (1.0 + v / 200.0), dtype=np.float64)


def _informations(parameters: GaussianParameters, transmittance: Array, variance: Array) -> tuple[Array, Array]:
    excess = parameters.excess_noise
    return (
        mutual_information(parameters, transmittance=transmittance, variance=variance, excess=excess),
        holevo_information(parameters, transmittance=transmittance, variance=variance, excess=excess),
    )


def signed_rate(parameters: GaussianParameters, transmittance: Array, variance: Array) -> Array:
    """Return beta I_AB - chi_BE in bits per symbol, negative where there is no key."""
    shared, leaked = _informations(parameters, transmittance, variance)
    return np.asarray(parameters.reconciliation_efficiency * shared - leaked, dtype=np.float64)


def rate(parameters: GaussianParameters, *, attenuation_db: npt.ArrayLike) -> LinkRate:
    """Return secret bits per symbol over the attenuation of the channel in dB, detector not included.

    ``details``: ``modulation_variance`` (used), ``mutual_information_bits``, ``holevo_information_bits``.
    """
    loss = attenuations(attenuation_db)
    t = np.asarray(10.0 ** (-loss / 10.0))
    if parameters.modulation_variance is None:
        found = best_settings(lambda at: signed_rate(parameters, t, at["variance"]), {"variance": _VARIANCE})
        variance = found["variance"]
    else:
        variance = np.full(loss.shape, parameters.modulation_variance)
    shared, leaked = _informations(parameters, t, variance)
    bits = parameters.reconciliation_efficiency * shared - leaked
    details = {
        "modulation_variance": variance,
        "mutual_information_bits": shared,
        "holevo_information_bits": leaked,
    }
    return shaped_rate(f"cv-{parameters.detection}", loss, bits, np.nan, None, details)
