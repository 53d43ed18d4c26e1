"""The quality of service of an ETSI GS QKD 004 stream: what is asked, what can be had, and the proposal in between.

Whatever an application leaves zero the key manager chooses (clause 6.1, the note on a QoS that is NULL); whatever it
asks beyond what can be had comes back as the nearest that can, and then the answer is status 7.

>>> offer = Offer(1, 4096, max_bps=10_000, spare_bps=2_000)
>>> negotiate(Qos(key_chunk_size_bytes=0, max_bps=5_000), offer)[0].key_chunk_size_bytes
32
>>> proposal, met = negotiate(Qos(64, max_bps=5_000, min_bps=3_000), offer)
>>> proposal.min_bps, met
(2000, False)
"""

from __future__ import annotations

from dataclasses import dataclass

from shosoin.base.ports import Clock
from shosoin.keys.wire004 import JSON_MIMETYPE, Qos

__all__ = ["Offer", "Pace", "negotiate"]


@dataclass(frozen=True, slots=True)
class Offer:
    """What a stream between two SAEs can have at this moment."""

    chunk_bytes_min: int
    chunk_bytes_max: int
    chunk_bytes: int = 32
    max_bps: int = 100_000_000
    spare_bps: int = 0
    """What the link yields and no other stream was promised."""
    plain_bps: int | None = None
    """How much of that is for streams without a priority; ``None`` for all."""
    priority_max: int = 0
    """Of the terms for the two SAEs (``shosoin.keys.policy``)."""
    timeout_ms: int = 5_000
    timeout_ms_max: int = 60_000
    ttl_s: int = 3_600
    ttl_s_max: int = 86_400


def negotiate(wanted: Qos, offer: Offer) -> tuple[Qos, bool]:
    """Return the QoS nearest to what is wanted, and whether it is all that is wanted.

    Priority is at most what the terms for the two SAEs say, and exactly that if it is left to us. Jitter, the greatest
    deviation of the rate, is what lies between Max_bps, which is enforced, and Min_bps, which is promised: less cannot
    be had, more is no harder; zero stays zero and promises nothing.
    """
    priority = min(wanted.priority or offer.priority_max, offer.priority_max)
    spare = offer.spare_bps if priority or offer.plain_bps is None else min(offer.spare_bps, offer.plain_bps)
    chunk = _within(wanted.key_chunk_size_bytes or offer.chunk_bytes, offer.chunk_bytes_min, offer.chunk_bytes_max)
    most = min(wanted.max_bps or offer.max_bps, offer.max_bps)
    least = min(wanted.min_bps, spare, most)
    is_json = wanted.metadata_mimetype.partition(";")[0].strip().lower() == JSON_MIMETYPE
    granted = Qos(
        key_chunk_size_bytes=chunk,
        max_bps=most,
        min_bps=least,
        jitter_bps=max(wanted.jitter_bps, most - least) if wanted.jitter_bps else 0,
        priority=priority,
        timeout_ms=min(wanted.timeout_ms or offer.timeout_ms, offer.timeout_ms_max),
        ttl_s=min(wanted.ttl_s or offer.ttl_s, offer.ttl_s_max),
        metadata_mimetype=wanted.metadata_mimetype if is_json or not wanted.metadata_mimetype else JSON_MIMETYPE,
    )
    asked = (
        (wanted.key_chunk_size_bytes, granted.key_chunk_size_bytes),
        (wanted.max_bps, granted.max_bps),
        (wanted.min_bps, granted.min_bps),
        (wanted.jitter_bps, granted.jitter_bps),
        (wanted.priority, granted.priority),
        (wanted.timeout_ms, granted.timeout_ms),
        (wanted.ttl_s, granted.ttl_s),
    )
    met = all(number in {0, given} for number, given in asked)
    return granted, met and wanted.metadata_mimetype == granted.metadata_mimetype


def _within(number: int, low: int, high: int) -> int:
    return max(low, min(number, high))


class Pace:
    """Max_bps as a token bucket for one end of a stream: a second's worth at once, or one chunk if that is more."""

    def __init__(self, clock: Clock, qos: Qos) -> None:
        self._clock = clock
        self._rate_bps = max(1, qos.max_bps)
        self._chunk_bits = qos.key_chunk_size_bytes * 8
        self._burst_bits = float(max(self._rate_bps, self._chunk_bits))
        self._level_bits, self._since_s = self._burst_bits, clock.now_s()

    def wait_s(self) -> float:
        """Return how long until the next chunk may be given; zero if it may be now."""
        return max(0.0, (self._chunk_bits - self._level()) / self._rate_bps)

    def spend(self) -> None:
        """Count a chunk as given."""
        self._level_bits, self._since_s = self._level() - self._chunk_bits, self._clock.now_s()

    def _level(self) -> float:
        earned = (self._clock.now_s() - self._since_s) * self._rate_bps
        return min(self._burst_bits, self._level_bits + earned)
