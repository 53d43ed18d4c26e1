"""A simulated QKD link: how many bits its devices would have delivered by now.

The model answers one question: given the time since start, which blocks are due? The rate comes from the decoy-state
model at the link's attenuation, times a declared ``speedup``; half of it serves each direction. An initial stock may
be declared, as if the devices had run before. Everything it touches is labelled simulated.
The bits are not made here: ``shosoin.services.sources.simulated`` draws them from ``Entropy`` and sends them
over what code and logs call the simulated quantum channel. ``SimulationRng`` may only jitter the timing.
"""

from __future__ import annotations

from dataclasses import dataclass

from shosoin.base import Rejected, SimulationRng
from shosoin.link.port import LinkFacts
from shosoin.link.rates.decoy import METRO, DecoyParameters, secret_key_rate_bps

__all__ = ["BlockDue", "SimulatedLink"]

_BLOCK_SECONDS = 0.5
_FULL_S = 0.25
_BLOCK_BYTES_MIN = 4096
_BLOCK_BYTES_MAX = 1 << 20
_GRANULE_BYTES = 32


@dataclass(frozen=True, slots=True)
class BlockDue:
    """A block whose time has come."""

    number: int
    size_bytes: int


class SimulatedLink:
    """The schedule of one direction of a simulated link."""

    def __init__(
        self,
        *,
        attenuation_db: float,
        length_km: float | None,
        speedup: float = 1.0,
        stock_bits_at_start: int = 0,
        parameters: DecoyParameters = METRO,
        timing: SimulationRng | None = None,
    ) -> None:
        if not 0 <= attenuation_db <= 100 or not 0 < speedup <= 1e6 or stock_bits_at_start < 0:
            raise Rejected(
                f"simulated link wants attenuation 0 to 100 dB, speedup above 0 and a stock not below 0 bits, got "
                f"{attenuation_db} dB, {speedup}, {stock_bits_at_start} bits",
                code="link.bad_parameters",
            )
        rate = secret_key_rate_bps(parameters, attenuation_db=attenuation_db) / 2 * speedup
        self.facts = LinkFacts("simulated-qkd", True, None, rate, attenuation_db, length_km, speedup)
        self._timing = timing
        self._stock_bytes = stock_bits_at_start // 8 // _GRANULE_BYTES * _GRANULE_BYTES
        self._scheduled_bytes = 0
        self._number = 0
        self._jitter = 1.0
        self._full = False
        paced = int(rate / 8 * _BLOCK_SECONDS)
        self.block_bytes = min(_BLOCK_BYTES_MAX, max(_BLOCK_BYTES_MIN, paced)) // _GRANULE_BYTES * _GRANULE_BYTES

    def due(self, elapsed_s: float, *, room_bytes: int) -> BlockDue | None:
        """Return the next block if its time has come and ``room_bytes`` of stock are free.

        Bits that find no room are lost, as they are in a real device: they do not queue up for later.
        """
        initial = self._scheduled_bytes < self._stock_bytes
        size = min(_BLOCK_BYTES_MAX, self._round_up(self._stock_bytes)) if initial else self.block_bytes
        size = min(size, room_bytes // _GRANULE_BYTES * _GRANULE_BYTES)
        earned = self._stock_bytes + self.facts.secret_key_rate_bps / 8 * elapsed_s
        self._full = size < _BLOCK_BYTES_MIN
        if self._full:
            self._scheduled_bytes = max(self._scheduled_bytes, int(earned) - self.block_bytes)
            return None
        if not initial and self._scheduled_bytes + size * self._jitter > earned:
            return None
        self._scheduled_bytes += size
        self._number += 1
        if self._timing is not None:
            self._jitter = self._timing.uniform(0.9, 1.1)
        return BlockDue(self._number - 1, size)

    def wait_s(self, elapsed_s: float) -> float:
        """Return seconds until another block may be due (at most one); a full stock is looked at now and then."""
        if self._full:
            return _FULL_S
        rate = self.facts.secret_key_rate_bps / 8
        earned = self._stock_bytes + rate * elapsed_s
        missing = self._scheduled_bytes + self.block_bytes - earned
        return 1.0 if rate <= 0 else min(1.0, max(0.005, missing / rate))

    @staticmethod
    def _round_up(size_bytes: int) -> int:
        return max(_BLOCK_BYTES_MIN, -(-size_bytes // _GRANULE_BYTES) * _GRANULE_BYTES)
