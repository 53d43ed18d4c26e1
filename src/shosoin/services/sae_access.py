"""What a configuration says about the ways in for SAEs, for the process that listens itself and for its workers."""

from __future__ import annotations

from shosoin.services.kme_config import KmeConfig, LimitSection
from shosoin.services.sae_http import HttpLimits

__all__ = ["draws_ahead", "http_limits"]


def http_limits(limits: LimitSection, *, workers: int = 1) -> HttpLimits:
    """Return the bounds of one process of so many.

    Answers are not divided: the process that owns the streams counts those of all.
    """
    return HttpLimits(
        limits.max_body_bytes,
        limits.max_bodies_bytes // workers,
        limits.max_answers_bytes,
        max(2, limits.max_connections // workers),
        limits.request_timeout_s,
        limits.idle_timeout_s,
        limits.lease_timeout_s,
    )


def draws_ahead(config: KmeConfig) -> bool:
    """Return whether workers may draw keys that no SAE has asked for yet: not where each bit is somebody's share."""
    return config.limits.sae_bits_per_s == 0 and not config.policies
