"""What a rate model answers, whatever the protocol."""

from __future__ import annotations

from dataclasses import dataclass, field

from shosoin.link.epsilons import Epsilons
from shosoin.link.information import Array

__all__ = ["LinkRate", "SecretLength"]


@dataclass(frozen=True, slots=True)
class LinkRate:
    """Secret key rate over attenuation; arrays share one shape."""

    protocol: str
    """Name of the protocol and of the proof, as ``shosoin link rate --protocol`` takes it."""
    attenuation_db: Array
    """Loss of the channel between the two users, without detectors."""
    secret_bits_per_pulse: Array
    """Never negative; 0 where the bound gives no key."""
    qber: Array
    """Error rate in the key basis (CV: NaN)."""
    epsilons: Epsilons | None
    """None for an asymptotic rate, which has no failure probability because it has no block."""
    details: dict[str, Array] = field(default_factory=dict)
    """Further figures of the model by name, units in the names; of the same shape."""

    @property
    def is_asymptotic(self) -> bool:
        """Whether the rate holds for infinitely many pulses only."""
        return self.epsilons is None


@dataclass(frozen=True, slots=True)
class SecretLength:
    """How many secret bits a block of counted detections is worth."""

    proof: str
    """Whose proof: ``lim2014``, ``rusca2018``, ``wiesemann2024``."""
    secret_bits: int
    """Length of the final key, 0 when the bound gives none. A block never yields more."""
    vacuum_detections_min: float
    """Lower bound on detections in the key basis from pulses without a photon."""
    single_photon_detections_min: float
    """Lower bound on detections in the key basis from pulses of one photon."""
    phase_error_rate_max: float
    """Upper bound on the phase error rate of those; 0.5 when nothing is known."""
    leak_ec_bits: int
    """Bits disclosed by error correction, as counted (verification hash not included)."""
    fixed_cost_bits: float
    """What the proof subtracts whatever the block: the logarithms of the epsilons."""
    epsilons: Epsilons
