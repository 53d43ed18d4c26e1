"""Bounds on how fast one SAE may draw keys or try key_IDs, so that none drains or probes what others share."""

from __future__ import annotations

from shosoin.base.ports import Clock
from shosoin.keys.errors import QuotaExceeded

__all__ = ["Quota"]


class Quota:
    """A token bucket for each SAE or pair of SAEs, counted in key bits or in tries; a rate of 0 means no bound."""

    def __init__(self, clock: Clock, *, rate_bps: float, burst_bits: float) -> None:
        self._clock = clock
        self._rate_bps, self._burst_bits = rate_bps, burst_bits
        self._buckets: dict[str, tuple[float, float]] = {}

    def check(self, sae: str, bits: int) -> None:
        """Check that ``sae`` may take ``bits`` (or tries) now.

        Raises:
            QuotaExceeded: with the time until it may.
        """
        if self._rate_bps <= 0:
            return
        missing = bits - self._level(sae)
        if missing > 0:
            raise QuotaExceeded(
                f"{sae} is {missing:.0f} above its quota",
                retry_after_s=missing / self._rate_bps,
            )

    def spend(self, sae: str, bits: int) -> None:
        """Record that ``sae`` took ``bits`` (or tries)."""
        if self._rate_bps > 0:
            self._buckets[sae] = (self._level(sae) - bits, self._clock.now_s())

    def _level(self, sae: str) -> float:
        bucket = self._buckets.get(sae)
        if bucket is None:
            return self._burst_bits
        level, since = bucket
        return min(self._burst_bits, level + (self._clock.now_s() - since) * self._rate_bps)
