"""KMEs under simulated time: slow, sometimes away, sometimes dry."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shosoin.base import SaeId, Unavailable
from shosoin.base.ports import DeliveredKey, KeySource, KeyStatus
from shosoin.testing.simulation.kernel import Process

__all__ = ["SimulatedKme"]

_LATENCY_S = 0.0005


class SimulatedKme:
    """``KeySource`` of one process."""

    def __init__(self, inner: KeySource, process: Process, away: Callable[[], bool]) -> None:
        self._inner = inner
        self._process = process
        self._away = away

    async def _reach(self) -> None:
        await self._process.runtime.sleep(_LATENCY_S)
        if self._away():
            raise Unavailable("the KME does not answer", code="keys.kme_unreachable", retry_after_s=1.0)

    async def status(self, slave: SaeId) -> KeyStatus:
        """Return the stock for a pair."""
        await self._reach()
        return await self._inner.status(slave)

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        """Draw fresh keys."""
        await self._reach()
        return await self._inner.enc_keys(slave, number=number, size_bits=size_bits)

    async def dec_keys(self, master: SaeId, key_ids: Sequence[str]) -> list[DeliveredKey]:
        """Fetch keys drawn by ``master``."""
        await self._reach()
        return await self._inner.dec_keys(master, key_ids)
