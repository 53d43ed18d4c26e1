"""BBM92 with a pulsed pair source: asymptotic secret key rate.

A source somewhere between the users makes entangled photon pairs by parametric down-conversion; both measure in one of
two bases at random. The source is basis independent, so by Koashi and Preskill the phase error rate equals the
measured one and pairs beyond the first cost errors, not secrecy: rate = q Q (1 - f h(E) - h(E)), without decoys and
without trusting the source. Trusted: both receivers, with equally efficient detectors; a double click becomes a random
bit.

Source: Ma, Fung, Lo, "Quantum key distribution with entangled photon sources", Phys. Rev. A 76, 012307 (2007),
arXiv quant-ph/0703122, equations (9) gain, (10) errors, (11) rate. The paper's error formula counts a dark count as if
it never met a photon in the other detector; here the two detectors of a receiver are silent independently, which
multiplies the correlated part by sqrt((1 - Y0A)(1 - Y0B)), nearly 1 at night, and keeps the error rate right in
daylight. One-way post-processing only: the paper's two-way schemes (Gottesman-Lo, recurrence), which live up to 70 dB,
are not here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.information import Array, binary_entropy
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.search import best_settings
from shosoin.link.rates.shaped import attenuations, shaped_rate

__all__ = ["MA_FUNG_LO_2007", "PairParameters", "arm_transmittances", "gain_and_error_rate", "rate"]

_MEAN_PAIRS = (1e-5, 3.0)


@dataclass(frozen=True, slots=True)
class PairParameters:
    """A BBM92 system with a pulsed pump.

    Raises:
        ValueError: a probability out of [0, 1], a reconciliation efficiency below 1, or a mean not above 0.
    """

    efficiency_a: float
    """Probability that a photon entering Alice's receiver clicks, optics included."""
    efficiency_b: float
    background_a: float
    """Y0A: probability that Alice's receiver (either of its detectors) clicks in a gate without any photon."""
    background_b: float
    misalignment_error: float
    """e_d: probability that the two photons of a pair give different bits in one basis."""
    reconciliation_efficiency: float
    """f: disclosed bits over the Shannon limit, at least 1."""
    sifting_factor: float = 0.5
    """q: share of coincidences with equal bases."""
    mean_pairs: float | None = None
    """Mean number of pairs per pump pulse (2 lambda in the paper); None takes the best at each attenuation."""
    source_position: float = 0.5
    """Share of the attenuation in dB between source and Alice: 0.5 in the middle, 0 at Alice."""
    pulse_rate_hz: float = 1e9

    def __post_init__(self) -> None:
        probabilities = (self.efficiency_a, self.efficiency_b, self.background_a, self.background_b)
        shares = (self.misalignment_error, self.sifting_factor, self.source_position)
        if not all(0.0 <= value <= 1.0 for value in (*probabilities, *shares)):
            raise ValueError("probabilities and shares must be within [0, 1]")
        if self.reconciliation_efficiency < 1.0 or (self.mean_pairs is not None and self.mean_pairs <= 0.0):
            raise ValueError("reconciliation efficiency must be at least 1 and the mean number of pairs above 0")


MA_FUNG_LO_2007 = PairParameters(
    efficiency_a=0.145,
    efficiency_b=0.145,
    background_a=6.02e-6,
    background_b=6.02e-6,
    misalignment_error=0.015,
    reconciliation_efficiency=1.22,
    pulse_rate_hz=249e6,
)
"""The 144 km free-space experiment of Ursin et al. (2007) as in Table I of the paper; 710 nm."""


def arm_transmittances(parameters: PairParameters, attenuation_db: npt.ArrayLike) -> tuple[Array, Array]:
    """Return the transmittances from the source to Alice's and to Bob's clicks, detectors included."""
    loss = np.asarray(attenuation_db, dtype=np.float64)
    to_a = parameters.efficiency_a * 10.0 ** (-loss * parameters.source_position / 10.0)
    to_b = parameters.efficiency_b * 10.0 ** (-loss * (1.0 - parameters.source_position) / 10.0)
    return np.asarray(to_a, dtype=np.float64), np.asarray(to_b, dtype=np.float64)


def gain_and_error_rate(
    parameters: PairParameters, *, attenuation_db: npt.ArrayLike, mean_pairs: npt.ArrayLike
) -> tuple[Array, Array]:
    """Return the probability of a coincidence per pump pulse and its error rate; arguments broadcast.

    The gain is arranged as a sum of products of non-negative terms, so that no digits are lost at 100 dB.
    """
    to_a, to_b = arm_transmittances(parameters, attenuation_db)
    lam = np.asarray(mean_pairs, dtype=np.float64) / 2.0
    y0a, y0b = parameters.background_a, parameters.background_b
    a, b = to_a * lam, to_b * lam
    x, y = 1.0 + a, 1.0 + b
    overlap = to_a * to_b * lam * (1.0 + lam)
    none = x * y - overlap  # 1 + a + b - to_a to_b lam; its inverse square: neither side sees a photon
    both_see = a * (2.0 + a) * b * (2.0 + b) / (x * y) ** 2 + overlap * (2.0 * x * y - overlap) / (x * y * none) ** 2
    only_b = b * (1.0 - to_a) * (none + x) / (x * none) ** 2
    only_a = a * (1.0 - to_b) * (none + y) / (y * none) ** 2
    gain = both_see + y0a * only_b + y0b * only_a + y0a * y0b / none**2
    silent = np.sqrt((1.0 - y0a) * (1.0 - y0b))
    agreement = 2.0 * (1.0 - 2.0 * parameters.misalignment_error) * silent * overlap / (x * y * none)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(gain > 0.0, (1.0 - agreement / gain) / 2.0, 0.5)
    return np.asarray(gain, dtype=np.float64), np.asarray(np.clip(error, 0.0, 1.0), dtype=np.float64)


def _signed_rate(parameters: PairParameters, attenuation_db: npt.ArrayLike, mean_pairs: Array) -> Array:
    gain, error = gain_and_error_rate(parameters, attenuation_db=attenuation_db, mean_pairs=mean_pairs)
    cost = (1.0 + parameters.reconciliation_efficiency) * binary_entropy(np.minimum(error, 0.5))
    return np.asarray(parameters.sifting_factor * gain * (1.0 - cost), dtype=np.float64)


def rate(parameters: PairParameters, *, attenuation_db: npt.ArrayLike) -> LinkRate:
    """Return secret bits per pump pulse over the attenuation in dB between the two users.

    ``details``: ``mean_pairs`` (used), ``gain`` (coincidences per pulse).
    """
    loss = attenuations(attenuation_db)
    if parameters.mean_pairs is None:
        found = best_settings(lambda at: _signed_rate(parameters, loss, at["mean"]), {"mean": _MEAN_PAIRS})
        mean = found["mean"]
    else:
        mean = np.full(loss.shape, parameters.mean_pairs)
    gain, error = gain_and_error_rate(parameters, attenuation_db=loss, mean_pairs=mean)
    bits = _signed_rate(parameters, loss, mean)
    return shaped_rate("bbm92", loss, bits, error, None, {"mean_pairs": mean, "gain": gain})
