"""Failure probabilities that add up: what a security claim may cost, named by where it arises.

A finite-key proof says "except with probability epsilon" in several places; composability lets them be added. The sum
travels with the key into the assurance label of whatever is stored under it, and the parts travel along so that a
reader can see what the sum is made of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

__all__ = ["Epsilons"]


@dataclass(frozen=True, slots=True)
class Epsilons:
    """Named failure probabilities of one result.

    Raises:
        ValueError: one of them is not within [0, 1].
    """

    parts: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self.parts.items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"epsilon {name} must be a probability, got {value}")
        object.__setattr__(self, "parts", MappingProxyType(dict(self.parts)))

    @property
    def total(self) -> float:
        """The sum, at most 1: by the union bound nothing fails except with this probability."""
        return min(1.0, math.fsum(self.parts.values()))

    def __add__(self, other: Epsilons) -> Epsilons:
        """Return both together; parts of one name add up."""
        names = (*self.parts, *(name for name in other.parts if name not in self.parts))
        return Epsilons({name: min(1.0, self.parts.get(name, 0.0) + other.parts.get(name, 0.0)) for name in names})

    def to_json(self) -> dict[str, float]:
        """Return the parts and their total."""
        return {**self.parts, "total": self.total}
