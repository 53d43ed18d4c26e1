"""A single-photon detector as the models and the event simulation see it."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Detector"]


@dataclass(frozen=True, slots=True)
class Detector:
    """One threshold detector, gated once a pulse.

    Raises:
        ValueError: a probability or a time out of range.
    """

    efficiency: float
    """Probability that a photon arriving in the gate clicks, optics of the receiver included."""
    dark_count_probability: float
    """Probability of a click per gate without light, in this one detector."""
    afterpulse_probability: float = 0.0
    """Probability that a click is followed by a click that no light caused."""
    dead_time_s: float = 0.0
    """Time after a click within which the detector is blind (non-paralysable: blind clicks do not prolong it)."""
    jitter_s: float = 0.0
    """Standard deviation of the time between a photon and its click."""
    gate_s: float = 1e-9
    """Width of the gate."""

    def __post_init__(self) -> None:
        for name in ("efficiency", "dark_count_probability", "afterpulse_probability"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be within [0, 1], got {value}")
        for name in ("dead_time_s", "jitter_s", "gate_s"):
            value = getattr(self, name)
            if not 0.0 <= value < 1.0:
                raise ValueError(f"{name} must be within [0, 1) seconds, got {value}")

    @property
    def gated_efficiency(self) -> float:
        """The efficiency times the share of clicks that jitter leaves within the gate.

        Jitter is Gaussian, and light arrives in the middle of the gate.
        """
        if self.jitter_s == 0.0:
            return self.efficiency
        return self.efficiency * math.erf(self.gate_s / 2 / (math.sqrt(2) * self.jitter_s))
