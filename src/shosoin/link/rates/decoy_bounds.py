"""What the finite-key proofs with decoy states share: settings, deviations, and how a length follows from bounds.

Given the photon number of a pulse, its intensity was drawn independently of everything the channel did. So the counts
per intensity are sums of independent choices over the (unknown) counts per photon number, and Hoeffding's inequality
bounds how far they stray from ``n*_k = sum_n p(k|n) s_n``. From those linear relations each proof solves for what it
needs. A number of detections that comes out below none or above all is cut off there: the true one lies in between.

Those relations are differences of large numbers, the larger the closer the intensities, and floating point rounds them.
So deviations are widened and sums moved to the safe side by more than rounding can be: no key is longer for it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.counts import DecoyCounts
from shosoin.link.epsilons import Epsilons
from shosoin.link.information import Array, binary_entropy
from shosoin.link.rates.result import SecretLength

__all__ = [
    "EPSILON_MIN",
    "DecoyBounds",
    "DecoySettings",
    "between",
    "correctness_cost_bits",
    "finished",
    "hoeffding",
    "observed",
    "sum_max",
    "sum_min",
    "within",
]

_ROUNDING = 2.0**-46
"""More, relative to the largest number in it, than the floating point of one relation can be off."""
EPSILON_MIN = 1e-100
"""Below it the square of an epsilon leaves floating point."""


@dataclass(frozen=True, slots=True)
class DecoySettings:
    """Mean photon numbers from bright to dim and how often each is sent; arrays of shape (..., intensities).

    Raises:
        ValueError: intensities do not decrease, are negative (only the dimmest may be zero) or not finite;
            probabilities are not positive, or do not sum to 1 within rounding (1e-14): a sum that is off by 1e-9 gives
            bits that nobody proved in a block of 10^12 pulses.
    """

    intensities: Array
    probabilities: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "intensities", np.asarray(self.intensities, dtype=np.float64))
        object.__setattr__(self, "probabilities", np.asarray(self.probabilities, dtype=np.float64))
        mu, p = self.intensities, self.probabilities
        if not (mu.ndim and p.ndim and mu.shape[-1] == p.shape[-1]):
            raise ValueError(f"as many intensities as probabilities are needed, got shapes {mu.shape} and {p.shape}")
        if not (np.all(np.isfinite(mu)) and np.all(mu[..., 1:] < mu[..., :-1]) and np.all(mu[..., -1] >= 0.0)):
            raise ValueError(f"intensities must decrease and not be negative, got {mu}")
        if not (np.all(p > 0.0) and np.all(np.abs(p.sum(axis=-1) - 1.0) < 1e-14)):
            raise ValueError(f"probabilities must be positive and sum to 1, got {p}")

    @property
    def scale(self) -> Array:
        """Return e^mu / p of each intensity: what turns its share of the counts into a polynomial in mu."""
        return np.asarray(np.exp(self.intensities) / self.probabilities)

    def photon_number_probability(self, photons: int) -> Array:
        """Return tau_n: the probability that a pulse carries that many photons; shape (...)."""
        weights = self.probabilities * np.exp(-self.intensities) * self.intensities**photons
        return np.asarray(weights.sum(axis=-1) / math.factorial(photons))


@dataclass(frozen=True, slots=True)
class DecoyBounds:
    """What a proof concludes about the key basis; arrays of one shape."""

    vacuum_min: Array
    """Detections from pulses without a photon, at least."""
    single_min: Array
    """Detections from pulses of one photon, at least."""
    phase_error_rate_max: Array
    """Phase error rate of the latter, at most; 0.5 when nothing is known."""

    def secret_bits(self, *, leak_ec_bits: npt.ArrayLike, fixed_cost_bits: npt.ArrayLike) -> Array:
        """Return the length before rounding; negative where there is no key."""
        secret = self.vacuum_min + self.single_min * (1.0 - binary_entropy(self.phase_error_rate_max))
        return np.asarray(secret - np.asarray(leak_ec_bits) - np.asarray(fixed_cost_bits), dtype=np.float64)


def hoeffding(total: npt.ArrayLike, epsilon: npt.ArrayLike) -> Array:
    """Return how far a sum of ``total`` independent choices strays to one side, except with probability epsilon."""
    return np.asarray(np.sqrt(np.asarray(total, dtype=np.float64) / 2.0 * np.log(1.0 / np.asarray(epsilon))))


def between(value: npt.ArrayLike, most: npt.ArrayLike) -> Array:
    """Return the value, cut off at none and at all of them."""
    return np.asarray(np.clip(value, 0.0, most), dtype=np.float64)


def within(counts: Array, settings: DecoySettings, epsilon: Array, *, possible: bool) -> tuple[Array, Array]:
    """Return lower and upper bounds on e^mu/p times n*_k, intensities first; each fails with probability epsilon.

    With ``possible`` they are cut off at none and at all, where every n*_k is; without, they are as older proofs print
    them, which makes their keys shorter.
    """
    total = counts.sum(axis=-1)
    exact = hoeffding(total, epsilon)
    deviation = (exact + _ROUNDING * (exact + total))[..., None]
    less, more = counts - deviation, counts + deviation
    if possible:
        less, more = between(less, total[..., None]), between(more, total[..., None])
    return np.moveaxis(less * settings.scale, -1, 0), np.moveaxis(more * settings.scale, -1, 0)


def sum_min(*terms: Array) -> Array:
    """Return the sum of terms, or rather less than rounding may have made of it."""
    return np.asarray(sum(terms) - _ROUNDING * sum(np.abs(term) for term in terms), dtype=np.float64)


def sum_max(*terms: Array) -> Array:
    """Return the sum of terms, or rather more than rounding may have made of it."""
    return -sum_min(*(-term for term in terms))


def correctness_cost_bits(epsilon_correctness: float) -> float:
    """Return log2(2 / epsilon): what the verification hash discloses, rounding of its length included."""
    return 1.0 - math.log2(epsilon_correctness)


def observed(counts: DecoyCounts, settings: DecoySettings, *, leak_ec_bits: int, **epsilons: float) -> None:
    """Check the arguments of a ``secret_length``.

    Raises:
        ValueError: counts are not integers of one block with one entry per intensity, the leak is no integer or
            negative, or an epsilon is not within [1e-100, 1).
    """
    expected = settings.intensities.shape
    arrays = (counts.key_detections, counts.key_errors, counts.test_detections, counts.test_errors)
    if len(expected) != 1 or any(array.shape != expected for array in arrays):
        raise ValueError(f"one block of counts for {expected} intensities is needed, got shape {arrays[0].shape}")
    if not all(np.issubdtype(array.dtype, np.integer) for array in arrays):
        raise ValueError("observed counts are integers; expected ones go through the rate model")
    if leak_ec_bits % 1 or not leak_ec_bits >= 0:
        raise ValueError(f"leak_ec_bits must be an integer and not negative, got {leak_ec_bits}")
    for name, value in epsilons.items():
        if not EPSILON_MIN <= value < 1.0:
            raise ValueError(f"{name} must be within [{EPSILON_MIN}, 1), got {value}")


def finished(
    proof: str,
    counts: DecoyCounts,
    bounds: DecoyBounds,
    *,
    leak_ec_bits: int,
    fixed_cost_bits: float,
    epsilons: Epsilons,
) -> SecretLength:
    """Round down to the key of a block, never longer than its detections in the key basis minus the leak."""
    detections = int(counts.key_detections.sum())
    exact = float(bounds.secret_bits(leak_ec_bits=leak_ec_bits, fixed_cost_bits=fixed_cost_bits))
    # Bounds are rounded to the safe side; 2^-44 of the block is more than the steps from them to here can have added.
    bits = min(math.floor(exact - detections * 2.0**-44), detections - int(leak_ec_bits))
    return SecretLength(
        proof=proof,
        secret_bits=max(0, bits),
        vacuum_detections_min=float(bounds.vacuum_min),
        single_photon_detections_min=float(bounds.single_min),
        phase_error_rate_max=float(bounds.phase_error_rate_max),
        leak_ec_bits=leak_ec_bits,
        fixed_cost_bits=fixed_cost_bits,
        epsilons=epsilons,
    )
