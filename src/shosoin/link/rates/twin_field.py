"""Twin-field QKD in the form of Curty, Azuma and Lo: asymptotic secret key rate.

Alice and Bob send weak pulses to a relay that announces which of two detectors clicked; a single photon from either
interferes with the other's vacuum, so the key falls with the square root of the transmittance and passes the
repeaterless bound. Key rounds use two coherent states of opposite phase. Their superpositions are of even or odd photon
number, so the phase error rate is bounded by how often photon numbers of equal parity are announced, which decoys with
random phases measure (here: infinitely many intensities). The relay needs no trust; trusted are both transmitters, and
the lasers' phases must stay locked during a key round. The bound of the paper holds against collective and, by the
usual symmetry arguments, general attacks, in the limit of many rounds: there is no block size here.

Source: Curty, Azuma, Lo, "Simple security proof of twin-field type quantum key distribution protocol", npj Quantum
Information 5, 64 (2019), arXiv 1807.07667: coefficients (12), (13), rate (17) to (19), phase errors (20) to (22),
channel (27) to (35).
The yields (34), (35) are written here as the one sum that is left when only the angle between the two polarisations
counts; photon numbers beyond the truncation are taken as always announced, as in (22).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import comb, gammaln

from shosoin.link.information import Array, binary_entropy, union
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.search import best_settings
from shosoin.link.rates.shaped import attenuations, shaped_rate

__all__ = ["CURTY_AZUMA_LO_2019", "TwinFieldParameters", "photon_number_yields", "rate"]

_MEAN_PHOTONS = (1e-5, 0.5)
_PHOTONS_MAX = 12


@dataclass(frozen=True, slots=True)
class TwinFieldParameters:
    """Two like transmitters and a relay halfway between them with two like detectors.

    Raises:
        ValueError: a probability out of range or a mean not above 0.
    """

    efficiency: float
    """Probability that a photon entering the relay clicks, optics included."""
    dark_count_probability: float
    """Clicks per gate without light of one detector."""
    phase_mismatch_rad: float = 0.0
    """Residual phase between the two users' fields at the relay."""
    polarisation_mismatch_rad: float = 0.0
    """Angle between the two users' polarisations at the relay."""
    reconciliation_efficiency: float = 1.16
    sifting_factor: float = 1.0
    """Share of rounds in which both users made key; 1 in the limit."""
    mean_photons: float | None = None
    """Mean photon number of a key pulse; None takes the best at each attenuation."""
    pulse_rate_hz: float = 1e9

    def __post_init__(self) -> None:
        probabilities = (self.efficiency, self.dark_count_probability, self.sifting_factor)
        if not all(0.0 <= value <= 1.0 for value in probabilities) or self.reconciliation_efficiency < 1.0:
            raise ValueError("probabilities must be within [0, 1] and the reconciliation efficiency at least 1")
        if self.mean_photons is not None and not 0.0 < self.mean_photons <= 1.0:
            raise ValueError("mean photon number must be above 0 and at most 1")


CURTY_AZUMA_LO_2019 = TwinFieldParameters(
    efficiency=1.0,
    dark_count_probability=1e-7,
    polarisation_mismatch_rad=2.0 * float(np.arcsin(np.sqrt(0.02))),
)
"""As the paper simulates: dark counts 1e-7, 2 % polarisation misalignment in each arm, detectors within the loss."""


def photon_number_yields(arm: Array, *, photons_max: int, dark: float, polarisation_mismatch_rad: float) -> Array:
    """Return the probability that one given detector alone clicks, for n and m photons sent.

    Args:
        arm: transmittance from one user to a click, of shape (...).

    Returns:
        Shape (..., photons_max + 1, photons_max + 1).
    """
    numbers = np.arange(photons_max + 1)
    through = np.minimum(np.asarray(arm, dtype=np.float64), 1.0 - 1e-12)[..., None, None]
    total = numbers[:, None] + numbers[None, :]
    # Silence of the other detector: every photon lost or gone to the right side, and pairs that bunch.
    bunched = np.zeros(np.broadcast_shapes(through.shape, total.shape))
    for pairs in range(1, photons_max + 1):
        ways = comb(numbers[:, None], pairs) * comb(numbers[None, :], pairs)
        alone = np.maximum(total - 2 * pairs, 0)
        bunched += (
            ways * (through * np.cos(polarisation_mismatch_rad) / 2.0) ** (2 * pairs) * (1 - through / 2) ** alone
        )
    other_silent = np.expm1(total * np.log1p(-through / 2.0)) + bunched
    all_silent = np.expm1(total * np.log1p(-through))
    # (1 - dark) [ P(other silent) - (1 - dark) P(both silent) ], with the ones taken out.
    return np.asarray((1.0 - dark) * (other_silent - (1.0 - dark) * all_silent + dark), dtype=np.float64)


def _key_round(p: TwinFieldParameters, arm: Array, mean: Array) -> tuple[Array, Array]:
    """Return gain and error gain of one detector alone in a key round (27) to (31)."""
    arrive, dark = arm * mean, p.dark_count_probability
    visible = np.cos(p.phase_mismatch_rad) * np.cos(p.polarisation_mismatch_rad)
    clicks = union(dark, -np.expm1(-2.0 * arrive))
    wrong = (1.0 - dark) * (np.expm1(-arrive * (1.0 + visible)) + clicks) / 2.0
    right = (1.0 - dark) * (np.expm1(-arrive * (1.0 - visible)) + clicks) / 2.0
    return right + wrong, wrong


def _phase_errors(yields: Array, mean: Array) -> Array:
    """Return the upper bound on the gain of phase errors (20) to (22)."""
    numbers = np.arange(_PHOTONS_MAX + 1)
    mean = np.asarray(mean, dtype=np.float64)[..., None]
    amplitudes = np.exp((-mean + numbers * np.log(mean) - gammaln(numbers + 1)) / 2.0)
    far = np.arange(_PHOTONS_MAX + 1, _PHOTONS_MAX + 41)
    beyond = np.exp((-mean + far * np.log(mean) - gammaln(far + 1)) / 2.0)
    total = np.zeros(np.broadcast_shapes(yields.shape[:-2], mean.shape[:-1]))
    for parity in (0, 1):
        near = np.where(numbers % 2 == parity, amplitudes, 0.0)
        known = np.einsum("...m,...mn,...n->...", near, np.sqrt(np.maximum(yields, 0.0)), near)
        inside, outside = near.sum(axis=-1), np.where(far % 2 == parity, beyond, 0.0).sum(axis=-1)
        total = total + (known + outside * (2.0 * inside + outside)) ** 2
    return np.asarray(total, dtype=np.float64)


def rate(parameters: TwinFieldParameters, *, attenuation_db: npt.ArrayLike) -> LinkRate:
    """Return secret bits per round over the attenuation in dB between the two users (half of it to the relay).

    ``details``: ``mean_photons`` (used), ``gain`` (either detector alone), ``phase_error_rate_max``.
    """
    p = parameters
    loss = attenuations(attenuation_db)
    arm = np.asarray(p.efficiency * 10.0 ** (-loss / 20.0))
    yields = photon_number_yields(
        arm,
        photons_max=_PHOTONS_MAX,
        dark=p.dark_count_probability,
        polarisation_mismatch_rad=p.polarisation_mismatch_rad,
    )

    def evaluate(mean: Array) -> tuple[Array, Array, Array, Array]:
        gain, wrong = _key_round(p, arm, mean)
        with np.errstate(divide="ignore", invalid="ignore"):
            qber = np.where(gain > 0, wrong / gain, 0.5)
            phase = np.where(gain > 0, np.minimum(_phase_errors(yields, mean) / gain, 0.5), 0.5)
        disclosed = p.reconciliation_efficiency * binary_entropy(np.minimum(qber, 0.5))
        bits = 2.0 * p.sifting_factor * gain * (1.0 - disclosed - binary_entropy(phase))
        return np.asarray(bits), qber, phase, 2.0 * gain

    if p.mean_photons is None:
        mean = best_settings(lambda at: evaluate(at["mean"])[0], {"mean": _MEAN_PHOTONS})["mean"]
    else:
        mean = np.full(loss.shape, p.mean_photons)
    bits, qber, phase, gain = evaluate(mean)
    details = {"mean_photons": mean, "gain": gain, "phase_error_rate_max": phase}
    return shaped_rate("twin-field", loss, bits, qber, None, details)
