"""What is known of the secret bits of a link where they enter a KME.

A pair of QKD devices hands the same blocks of bits to the two ends, each end seeing only its own device. A block is
named by its number on the link; what the key layer does with it (storing, comparing by one-time MAC, addressing) is
not the device's business. The key layer takes blocks by ``begin_block`` at the transmitting end and ``bits_arrived`` at
the receiving end of ``shosoin.keys.pair.PairEnd``. ``shosoin.services.sources`` has what calls these two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["LinkFacts"]


@dataclass(frozen=True, slots=True)
class LinkFacts:
    """What is known of the origin of a link's bits; every status and key container repeats it."""

    kind: str
    """``simulated-qkd``, ``qkd``, ``replayed-qkd``, ``undeclared``, ``local-generator``."""
    simulated: bool
    epsilon: float | None
    """Failure probability of the security proof per block; ``None`` means asymptotic or undeclared."""
    secret_key_rate_bps: float
    """Expected rate of one direction in bit/s; 0 without an attenuation means unknown."""
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
