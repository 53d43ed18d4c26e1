"""Finite-key BB84 with a signal and one decoy intensity: Rusca et al. 2018, and the proof that corrects it.

Without a vacuum intensity the detections of empty pulses are bounded from above by their errors: half of them err.
The rest is as with two decoys. Easier to build, and better than two decoys for blocks up to some 1e8 bits.

``WIESEMANN2024`` (the package's default) takes 15 parts of epsilon instead of 19, one chain rule instead of two (so
vacuum detections make no key), and Serfling's inequality instead of an approximation for the phase error. Why 15: with
two intensities a deviation of one is the opposite deviation of the other, so detections cost one event in each basis,
errors two (up and down), the coin flips of vacuum detections one; with 2(2 alpha1 + alpha2) for smoothing and one part
for privacy amplification that is 8 + 6 + 1.

Sources: D. Rusca, A. Boaron, F. Grünenfelder, A. Martin, H. Zbinden, "Finite-key analysis for the 1-decoy state QKD
protocol", Appl. Phys. Lett. 112, 171104 (2018), arXiv 1801.03443, equations (A14)-(A25), whose (A18) omits e^k/p_k and
whose (A21) keeps the 21 of the two-decoy proof where its own 19 is meant. J. Wiesemann, J. Krause, D. Tupkary,
N. Lütkenhaus, D. Rusca, N. Walenta, "A consolidated and accessible security proof for finite-size decoy-state quantum
key distribution", arXiv 2405.16578v3 (2026), with the authors' program of March 2026 for every term. Both proofs fix
the length before the run; ``docs/concepts/link-bounds.md`` says what that means for a length computed from counts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.counts import DecoyCounts
from shosoin.link.epsilons import Epsilons
from shosoin.link.information import Array
from shosoin.link.rates.decoy_bounds import (
    DecoyBounds,
    DecoySettings,
    between,
    correctness_cost_bits,
    finished,
    hoeffding,
    observed,
    sum_max,
    sum_min,
    within,
)
from shosoin.link.rates.result import SecretLength
from shosoin.link.rates.sampling import Sampling, phase_error_rate_max

__all__ = ["OneDecoyProof", "bounds", "epsilons", "fixed_cost_bits", "secret_length"]


class OneDecoyProof(enum.Enum):
    """Whose proof turns the counts into a length."""

    RUSCA2018 = "rusca2018"
    WIESEMANN2024 = "wiesemann2024"


@dataclass(frozen=True, slots=True)
class _Terms:
    """Where the proofs differ."""

    shares: dict[str, int]
    """Parts of the secrecy epsilon by where they are spent."""
    logarithms: float
    """How often log2(parts / epsilon) is subtracted."""
    offset_bits: float
    """What is added to that."""
    counts_vacuum: bool
    """Whether vacuum detections make key."""
    cuts_deviations: bool
    """Whether n-_k and n+_k are cut off at none and all."""
    sampling: Sampling

    @property
    def parts(self) -> int:
        return sum(self.shares.values())


_TERMS = {
    OneDecoyProof.RUSCA2018: _Terms(
        shares={
            "secrecy: phase error sampling": 4,
            "secrecy: chain rules": 4,
            "secrecy: privacy amplification": 1,
            "secrecy: detections per intensity": 6,
            "secrecy: errors per intensity": 4,
        },
        logarithms=6.0,
        offset_bits=0.0,
        counts_vacuum=True,
        cuts_deviations=False,
        sampling=Sampling.GUARDED,
    ),
    OneDecoyProof.WIESEMANN2024: _Terms(
        shares={
            "secrecy: phase error sampling": 4,
            "secrecy: chain rule": 2,
            "secrecy: privacy amplification": 1,
            "secrecy: detections per intensity": 2,
            "secrecy: errors per intensity": 4,
            "secrecy: errors of vacuum detections": 2,
        },
        logarithms=4.0,
        offset_bits=-1.0,
        counts_vacuum=False,
        cuts_deviations=True,
        sampling=Sampling.SERFLING,
    ),
}


def epsilons(proof: OneDecoyProof, *, epsilon_secrecy: float, epsilon_correctness: float) -> Epsilons:
    """Return the parts of the secrecy epsilon, all equal (19 or 15 of them), and the correctness."""
    terms = _TERMS[proof]
    each = epsilon_secrecy / terms.parts
    return Epsilons(
        {**{name: share * each for name, share in terms.shares.items()}, "correctness": epsilon_correctness}
    )


def fixed_cost_bits(proof: OneDecoyProof, *, epsilon_secrecy: npt.ArrayLike, epsilon_correctness: float) -> Array:
    """Return 6 log2(19/eps_sec) or 4 log2(15/(2^(1/4) eps_sec)), with log2(2/eps_cor)."""
    terms = _TERMS[proof]
    secrecy = terms.logarithms * (np.log2(terms.parts) - np.log2(np.asarray(epsilon_secrecy, dtype=np.float64)))
    return np.asarray(secrecy + terms.offset_bits + correctness_cost_bits(epsilon_correctness))


def bounds(
    counts: DecoyCounts,
    intensities: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    epsilon_secrecy: npt.ArrayLike,
    proof: OneDecoyProof = OneDecoyProof.WIESEMANN2024,
    sampling: Sampling | None = None,
) -> DecoyBounds:
    """Return the bounds on the key basis; leading axes of all arguments broadcast.

    Args:
        counts: arrays of shape (..., 2), observed or expected. Errors in the key basis are known once error
            correction has been verified.
        intensities: mu1 > mu2 > 0; shape (..., 2).
        probabilities: of each intensity; shape (..., 2).
        epsilon_secrecy: within (0, 1); shape (...).
        proof: ``vacuum_min`` is 0 with ``WIESEMANN2024``, which makes no key of vacuum detections.
        sampling: None is the proof's own, guarded where that is an approximation.

    Raises:
        ValueError: intensities or probabilities out of range.
    """
    settings, terms = _two(intensities, probabilities), _TERMS[proof]
    each = np.asarray(epsilon_secrecy, dtype=np.float64) / terms.parts
    key, key_errors = (np.asarray(a, dtype=np.float64) for a in (counts.key_detections, counts.key_errors))
    test, test_errors = (np.asarray(a, dtype=np.float64) for a in (counts.test_detections, counts.test_errors))
    vacuum = (
        _vacuum_min(key, settings, each, possible=terms.cuts_deviations)
        if terms.counts_vacuum
        else np.zeros(key.shape[:-1])
    )
    single = _single_min(key, key_errors, settings, each, possible=terms.cuts_deviations)
    phase = phase_error_rate_max(
        _single_errors_max(test_errors, settings, each, possible=terms.cuts_deviations),
        _single_min(test, test_errors, settings, each, possible=terms.cuts_deviations),
        single,
        failure_probability=each**2,
        method=sampling or terms.sampling,
    )
    return DecoyBounds(
        vacuum_min=vacuum,
        single_min=np.minimum(single, key.sum(axis=-1) - vacuum),
        phase_error_rate_max=phase,
    )


def secret_length(
    counts: DecoyCounts,
    intensities: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    leak_ec_bits: int,
    epsilon_secrecy: float = 1e-9,
    epsilon_correctness: float = 1e-15,
    proof: OneDecoyProof = OneDecoyProof.WIESEMANN2024,
    sampling: Sampling | None = None,
) -> SecretLength:
    """Return how long a key the observed counts of one block allow; 0 where they allow none.

    Args:
        counts: integers of shape (2,), bright to dim.
        leak_ec_bits: what error correction disclosed, without the verification hash (that is in the fixed cost).

    Raises:
        ValueError: intensities, probabilities, epsilons or the form of the counts are wrong; never because counts are
            few or bad.
    """
    settings = _two(intensities, probabilities)
    observed(
        counts,
        settings,
        leak_ec_bits=leak_ec_bits,
        epsilon_secrecy=epsilon_secrecy,
        epsilon_correctness=epsilon_correctness,
    )
    found = bounds(counts, intensities, probabilities, epsilon_secrecy=epsilon_secrecy, proof=proof, sampling=sampling)
    cost = fixed_cost_bits(proof, epsilon_secrecy=epsilon_secrecy, epsilon_correctness=epsilon_correctness)
    return finished(
        proof.value,
        counts,
        found,
        leak_ec_bits=leak_ec_bits,
        fixed_cost_bits=float(cost),
        epsilons=epsilons(proof, epsilon_secrecy=epsilon_secrecy, epsilon_correctness=epsilon_correctness),
    )


def _two(intensities: npt.ArrayLike, probabilities: npt.ArrayLike) -> DecoySettings:
    settings = DecoySettings(np.asarray(intensities), np.asarray(probabilities))
    if settings.intensities.shape[-1] != 2 or not np.all(settings.intensities > 0.0):
        raise ValueError(f"two intensities mu1 > mu2 > 0 are needed, got {settings.intensities}")
    return settings


def _vacuum_min(detections: Array, settings: DecoySettings, epsilon: Array, *, possible: bool) -> Array:
    """Return a lower bound on detections without a photon (A19)."""
    mu1, mu2 = np.moveaxis(settings.intensities, -1, 0)
    less, more = within(detections, settings, epsilon, possible=possible)
    vacuum = settings.photon_number_probability(0) * sum_min(mu1 * less[1], -mu2 * more[0]) / (mu1 - mu2)
    return between(vacuum, detections.sum(axis=-1))


def _vacuum_max(detections: Array, errors: Array, settings: DecoySettings, epsilon: Array, *, possible: bool) -> Array:
    """Return an upper bound on detections without a photon: at most twice their errors and a deviation (A16)."""
    total = detections.sum(axis=-1)
    _, more = within(errors, settings, epsilon, possible=possible)
    erring = settings.photon_number_probability(0) * more.min(axis=0)
    return between(2.0 * (erring + hoeffding(total, epsilon)), total)


def _single_min(detections: Array, errors: Array, settings: DecoySettings, epsilon: Array, *, possible: bool) -> Array:
    """Return a lower bound on detections of one photon in one basis (A17)."""
    mu1, mu2 = np.moveaxis(settings.intensities, -1, 0)
    tau0, tau1 = settings.photon_number_probability(0), settings.photon_number_probability(1)
    less, more = within(detections, settings, epsilon, possible=possible)
    empty = _vacuum_max(detections, errors, settings, epsilon, possible=possible) / tau0
    ratio = (mu2 / mu1) ** 2
    known = sum_min(less[1], -ratio * more[0], -empty, ratio * empty)
    return between(mu1 * tau1 / (mu2 * (mu1 - mu2)) * known, detections.sum(axis=-1))


def _single_errors_max(errors: Array, settings: DecoySettings, epsilon: Array, *, possible: bool) -> Array:
    """Return an upper bound on the errors of single photons in one basis (A22)."""
    mu1, mu2 = np.moveaxis(settings.intensities, -1, 0)
    less, more = within(errors, settings, epsilon, possible=possible)
    erring = settings.photon_number_probability(1) * sum_max(more[0], -less[1]) / (mu1 - mu2)
    return np.asarray(np.maximum(erring, 0.0))
