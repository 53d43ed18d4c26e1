"""The letter of the finite-key proofs: a key whose length was fixed before the run, accepted or not.

Lim 2014, Rusca 2018 and Wiesemann 2024 prove the security of a protocol that decides on limits first. If a block's
bounds are within them, its key has the length that the *limits* allow, though the block might allow more; if not, there
is no key. A length taken from the block's own bounds instead is the variable-length protocol: the same bounds, and an
argument beyond those papers (``docs/concepts/link-bounds.md``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from shosoin.link.information import binary_entropy
from shosoin.link.rates.result import SecretLength

__all__ = ["AcceptanceLimits", "fixed_length"]


@dataclass(frozen=True, slots=True)
class AcceptanceLimits:
    """What a block must show for its key to be kept.

    Raises:
        ValueError: a limit is negative or not a number, or the phase error rate is not below one half.
    """

    single_photon_detections_min: float
    phase_error_rate_max: float
    leak_ec_bits_max: int
    vacuum_detections_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.phase_error_rate_max < 0.5:
            raise ValueError(f"phase_error_rate_max must be within [0, 0.5), got {self.phase_error_rate_max}")
        for name in ("single_photon_detections_min", "leak_ec_bits_max", "vacuum_detections_min"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {getattr(self, name)}")

    def accept(self, block: SecretLength) -> bool:
        """Return whether a block's bounds are within the limits."""
        return (
            block.single_photon_detections_min >= self.single_photon_detections_min
            and block.vacuum_detections_min >= self.vacuum_detections_min
            and block.phase_error_rate_max <= self.phase_error_rate_max
            and block.leak_ec_bits <= self.leak_ec_bits_max
        )

    def secret_bits(self, fixed_cost_bits: float) -> int:
        """Return the length that the limits allow, whatever block is accepted."""
        single = self.single_photon_detections_min * (1.0 - float(binary_entropy(self.phase_error_rate_max)))
        exact = self.vacuum_detections_min + single - self.leak_ec_bits_max - fixed_cost_bits
        slack = 2.0**-44 * (self.vacuum_detections_min + self.single_photon_detections_min)
        return max(0, math.floor(exact - slack))


def fixed_length(block: SecretLength, limits: AcceptanceLimits) -> SecretLength:
    """Return the block with the length fixed by the limits, or with none if it is not accepted.

    The length is never above what the block's own bounds allow.
    """
    accepted = limits.secret_bits(block.fixed_cost_bits) if limits.accept(block) else 0
    return replace(block, secret_bits=min(accepted, block.secret_bits))
