"""The port through which secret bits of a QKD link enter a KME.

A pair of QKD devices hands the same blocks of bits to the two ends, each end seeing only its own device. A block is
named by its number on the link; what the key layer does with it (storing, comparing by one-time MAC, addressing) is
not the device's business. ``SimulatedLink`` drives the simulated twin of such a pair; real devices implement
``QuantumLink`` and need nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from shosoin.base import KeyMaterial

__all__ = ["LinkBlock", "LinkFacts", "QuantumLink"]


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """What is known of the origin of a link's bits; every status and key container repeats it."""

    kind: str
    """``simulated-qkd``, ``qkd``, ``local-generator``."""
    simulated: bool
    epsilon: float | None
    """Failure probability of the security proof per block; ``None`` means asymptotic or undeclared."""
    secret_key_rate_bps: float
    """Expected rate of one direction in bit/s."""
    attenuation_db: float | None = None
    length_km: float | None = None
    speedup: float = 1.0
    """How many times faster than the physical model a simulated link runs."""

    def to_json(self) -> dict[str, Any]:
        """Return what an ETSI GS QKD 014 client may read about the link."""
        return {
            "secret_key_rate_bps": round(self.secret_key_rate_bps, 3),
            "attenuation_db": self.attenuation_db,
            "length_km": self.length_km,
            "speedup": self.speedup,
        }


@dataclass(frozen=True, slots=True)
class LinkBlock:
    """Secret bits as one end of the link delivered them."""

    number: int
    """Number of the block on this link since the devices started; equal at both ends."""
    bits: KeyMaterial


class QuantumLink(Protocol):
    """One end of one direction of a QKD link."""

    @property
    def facts(self) -> LinkFacts:
        """Origin and expected rate of the bits."""
        ...

    async def next_block(self) -> LinkBlock:
        """Wait for the next block that this end's device delivers."""
        ...
