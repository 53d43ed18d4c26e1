"""Two kinds of random numbers that must never be mixed.

``Entropy`` makes secrets; it says where its bits come from, because the assurance label repeats it.
``SimulationRng`` drives simulations from a seed; nothing it makes may protect anything.
They share no base class, so a type checker refuses one where the other is meant.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, TypeVar

__all__ = ["Entropy", "SimulationRng"]

T = TypeVar("T")


class Entropy(Protocol):
    """A source of secret random bytes."""

    @property
    def source(self) -> str:
        """Where the bits come from, in words that a label can print."""
        ...

    @property
    def physical(self) -> bool:
        """Whether every bit comes from a physical process (a quantum generator), not from a computation."""
        ...

    def random_bytes(self, size_bytes: int) -> bytes:
        """Return fresh uniform bytes."""
        ...


class SimulationRng:
    """Reproducible randomness for simulated devices, faults and schedules.

    Security: none. Two generators of one seed agree, which is the point.
    """

    __slots__ = ("_random", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._random = random.Random(seed)  # noqa: S311  # a simulation must replay from its seed

    def uniform(self, low: float, high: float) -> float:
        """Return a number between ``low`` and ``high``."""
        return self._random.uniform(low, high)

    def integer(self, low: int, high: int) -> int:
        """Return an integer between ``low`` and ``high``, both included."""
        return self._random.randint(low, high)

    def choice(self, items: Sequence[T]) -> T:
        """Return one of ``items``."""
        return self._random.choice(items)

    def pseudo_bytes(self, size_bytes: int) -> bytes:
        """Return bytes that look random and protect nothing."""
        return self._random.randbytes(size_bytes)
