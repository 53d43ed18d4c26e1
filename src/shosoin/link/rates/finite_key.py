"""Finite-key rate of decoy-state BB84: what a proof gives for the counts that a link is expected to make.

Expected counts, not observed ones: real blocks fluctuate, and what a block really yields its own counts decide
(``secret_length`` of the proof). Everything broadcasts over distances and over candidate settings.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.counts import DecoyCounts
from shosoin.link.epsilons import Epsilons
from shosoin.link.information import Array, binary_entropy
from shosoin.link.rates import one_decoy, two_decoys
from shosoin.link.rates.decoy_bounds import DecoyBounds
from shosoin.link.rates.expected_counts import DecoyLink, expected_counts, pulses_for_block
from shosoin.link.rates.one_decoy import OneDecoyProof
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.sampling import Sampling

__all__ = ["Block", "FiniteProof", "Security", "Settings", "expected_secret_bits", "finite_key_rate"]

_FIXED_POINT_STEPS = 20


class FiniteProof(enum.Enum):
    """Whose proof: two decoys (Lim 2014) or one (Rusca 2018, Wiesemann 2024)."""

    LIM2014 = "lim2014"
    RUSCA2018 = "rusca2018"
    WIESEMANN2024 = "wiesemann2024"

    @property
    def intensities(self) -> int:
        """How many intensities the protocol sends."""
        return 3 if self is FiniteProof.LIM2014 else 2


@dataclass(frozen=True, slots=True)
class Settings:
    """What the sender and the receiver choose; leading axes broadcast."""

    intensities: Array
    """Bright to dim; shape (..., intensities)."""
    probabilities: Array
    """Of each intensity; shape (..., intensities)."""
    key_basis_probability: Array
    """Chance with which either side chooses the key basis; shape (...)."""


@dataclass(frozen=True, slots=True)
class Block:
    """When a block ends: after so many detections in the key basis, or after so many pulses.

    Raises:
        ValueError: not exactly one of the two is given, or it is not positive.
    """

    key_detections: float | None = None
    pulses: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.key_detections, self.pulses) if value is not None]
        if len(given) != 1 or not given[0] > 0.0:
            raise ValueError("a block is so many detections in the key basis, or so many pulses; one of them, positive")


@dataclass(frozen=True, slots=True)
class Security:
    """Failure probabilities of a block, and how sampling is bounded.

    With ``epsilon_secrecy_per_bit`` the secrecy epsilon is that times the length of the key (Lim 2014 takes 1e-15),
    and ``epsilon_secrecy`` is not used.
    """

    epsilon_secrecy: float = 1e-9
    epsilon_correctness: float = 1e-15
    epsilon_secrecy_per_bit: float | None = None
    sampling: Sampling | None = None
    """None is what the proof's ``secret_length`` takes; ``GAUSSIAN`` is what Lim 2014 and Rusca 2018 printed."""


def expected_secret_bits(
    link: DecoyLink,
    settings: Settings,
    *,
    proof: FiniteProof,
    block: Block,
    attenuation_db: npt.ArrayLike,
    security: Security = Security(),
) -> tuple[Array, Array]:
    """Return the length of the key of a block of expected counts, and the pulses it takes.

    The length is not rounded and is negative where there is no key, so that an optimiser can climb out of it.
    """
    pulses = _pulses(link, settings, block, attenuation_db)
    counts = _counts(link, settings, pulses, attenuation_db)
    leak = _leak(link, counts)
    if security.epsilon_secrecy_per_bit is None:
        return _bits(counts, settings, proof, security, leak, np.asarray(security.epsilon_secrecy)), pulses
    # From above: a longer key allows a larger epsilon allows a longer key, so the sequence falls to the fixed point.
    bits = counts.key_detections.sum(axis=-1)
    for _ in range(_FIXED_POINT_STEPS):
        epsilon = np.clip(security.epsilon_secrecy_per_bit * bits, security.epsilon_secrecy_per_bit, 0.5)
        before, bits = bits, _bits(counts, settings, proof, security, leak, np.asarray(epsilon))
        if np.allclose(before, bits, rtol=1e-7, atol=1e-3):
            break
    return bits, pulses


def finite_key_rate(
    link: DecoyLink,
    settings: Settings,
    *,
    proof: FiniteProof,
    block: Block,
    attenuation_db: npt.ArrayLike,
    security: Security = Security(),
) -> LinkRate:
    """Return the rate over attenuation, whole bits of a block over its pulses.

    Security: holds for the counts expected; source and detector assumptions are those of the proof.

    Raises:
        ValueError: settings out of range, or an epsilon per bit (a rate has one epsilon: give it).
    """
    if security.epsilon_secrecy_per_bit is not None:
        raise ValueError("a rate names one epsilon; an epsilon per bit is for expected_secret_bits")
    bits, pulses = expected_secret_bits(
        link, settings, proof=proof, block=block, attenuation_db=attenuation_db, security=security
    )
    counts = _counts(link, settings, pulses, attenuation_db)
    found = _BOUNDS[proof](counts, settings, np.asarray(security.epsilon_secrecy), security.sampling)
    per_pulse = np.maximum(np.floor(bits), 0.0) / pulses
    shape = np.broadcast_shapes(per_pulse.shape, np.shape(attenuation_db))
    detections = counts.key_detections.sum(axis=-1)
    arrays = {
        "key_rate_bps": per_pulse * link.pulse_rate_hz,
        "pulses": pulses,
        "key_detections": detections,
        "vacuum_detections_min": found.vacuum_min,
        "single_photon_detections_min": found.single_min,
        "phase_error_rate_max": found.phase_error_rate_max,
    }
    return LinkRate(
        protocol=f"decoy-bb84/{proof.value}",
        attenuation_db=np.broadcast_to(np.asarray(attenuation_db, dtype=np.float64), shape),
        secret_bits_per_pulse=np.broadcast_to(per_pulse, shape),
        qber=np.broadcast_to(_qber(counts), shape),
        epsilons=_epsilons(proof, security),
        details={name: np.broadcast_to(array, shape) for name, array in arrays.items()},
    )


def _pulses(link: DecoyLink, settings: Settings, block: Block, attenuation_db: npt.ArrayLike) -> Array:
    if block.key_detections is None:
        return np.asarray(block.pulses, dtype=np.float64)
    return pulses_for_block(
        link,
        key_detections=block.key_detections,
        attenuation_db=attenuation_db,
        intensities=settings.intensities,
        probabilities=settings.probabilities,
        key_basis_probability=settings.key_basis_probability,
    )


def _counts(link: DecoyLink, settings: Settings, pulses: Array, attenuation_db: npt.ArrayLike) -> DecoyCounts:
    return expected_counts(
        link,
        pulses=pulses,
        attenuation_db=attenuation_db,
        intensities=settings.intensities,
        probabilities=settings.probabilities,
        key_basis_probability=settings.key_basis_probability,
    )


def _qber(counts: DecoyCounts) -> Array:
    detections = counts.key_detections.sum(axis=-1)
    return np.asarray(counts.key_errors.sum(axis=-1) / np.maximum(detections, 1e-300))


def _leak(link: DecoyLink, counts: DecoyCounts) -> Array:
    """Return f h(QBER) per detection: what error correction is expected to disclose."""
    share = link.reconciliation_efficiency * binary_entropy(np.minimum(_qber(counts), 0.5))
    return np.asarray(counts.key_detections.sum(axis=-1) * share)


def _bits(
    counts: DecoyCounts, settings: Settings, proof: FiniteProof, security: Security, leak: Array, epsilon: Array
) -> Array:
    found = _BOUNDS[proof](counts, settings, epsilon, security.sampling)
    cost = _COSTS[proof](epsilon, security.epsilon_correctness)
    return found.secret_bits(leak_ec_bits=leak, fixed_cost_bits=cost)


def _lim(counts: DecoyCounts, settings: Settings, epsilon: Array, sampling: Sampling | None) -> DecoyBounds:
    return two_decoys.bounds(
        counts,
        settings.intensities,
        settings.probabilities,
        epsilon_secrecy=epsilon,
        sampling=sampling or Sampling.GUARDED,
    )


def _one(proof: OneDecoyProof) -> Callable[[DecoyCounts, Settings, Array, Sampling | None], DecoyBounds]:
    def found(counts: DecoyCounts, settings: Settings, epsilon: Array, sampling: Sampling | None) -> DecoyBounds:
        return one_decoy.bounds(
            counts,
            settings.intensities,
            settings.probabilities,
            epsilon_secrecy=epsilon,
            proof=proof,
            sampling=sampling,
        )

    return found


def _one_cost(proof: OneDecoyProof) -> Callable[[Array, float], Array]:
    def cost(epsilon: Array, correctness: float) -> Array:
        return one_decoy.fixed_cost_bits(proof, epsilon_secrecy=epsilon, epsilon_correctness=correctness)

    return cost


def _lim_cost(epsilon: Array, correctness: float) -> Array:
    return two_decoys.fixed_cost_bits(epsilon_secrecy=epsilon, epsilon_correctness=correctness)


def _epsilons(proof: FiniteProof, security: Security) -> Epsilons:
    spent = {"epsilon_secrecy": security.epsilon_secrecy, "epsilon_correctness": security.epsilon_correctness}
    if proof is FiniteProof.LIM2014:
        return two_decoys.epsilons(**spent)
    return one_decoy.epsilons(OneDecoyProof(proof.value), **spent)


_BOUNDS = {
    FiniteProof.LIM2014: _lim,
    FiniteProof.RUSCA2018: _one(OneDecoyProof.RUSCA2018),
    FiniteProof.WIESEMANN2024: _one(OneDecoyProof.WIESEMANN2024),
}
_COSTS = {
    FiniteProof.LIM2014: _lim_cost,
    FiniteProof.RUSCA2018: _one_cost(OneDecoyProof.RUSCA2018),
    FiniteProof.WIESEMANN2024: _one_cost(OneDecoyProof.WIESEMANN2024),
}
