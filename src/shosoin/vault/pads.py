"""Drawing one-time bytes from a KME through ETSI GS QKD 014, whatever its limits are.

A pad is the concatenation of freshly drawn keys; the other side fetches the same keys by their IDs. A KME of another
vendor may hand out 32 bytes at most per key: then a pad is many keys. The limits come from ``status``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from shosoin.base import PeerFault, SaeId, Unavailable
from shosoin.base.ports import DeliveredKey, KeySource, KeySourceFacts, KeyStatus

__all__ = ["OpenLinks", "Pad", "PadSource", "fetch_pad"]

_KEYS_PER_PAD_MAX = 1 << 17


@dataclass(slots=True)
class Pad:
    """One-time bytes and how the other side finds them. ``content`` is used once and then dropped."""

    key_ids: list[str]
    content: bytes

    def __repr__(self) -> str:
        return f"Pad({len(self.content)} bytes, redacted)"


class OpenLinks:
    """A key source that draws no key for links that are closed."""

    def __init__(self, keys: KeySource, closed: Collection[SaeId]) -> None:
        self._keys = keys
        self._closed = closed

    async def status(self, slave: SaeId) -> KeyStatus:
        """Ask the KME."""
        return await self._keys.status(slave)

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        """Draw keys, unless the link is closed."""
        if slave in self._closed:
            raise Unavailable(
                f"the home KME does not say who sees the keys shared with {slave}", code="vault.relays_unknown"
            )
        return await self._keys.enc_keys(slave, number=number, size_bits=size_bits)

    async def dec_keys(self, master: SaeId, key_ids: Sequence[str]) -> list[DeliveredKey]:
        """Fetch keys by their IDs."""
        return await self._keys.dec_keys(master, key_ids)


class PadSource:
    """Draws pads shared with one slave SAE and counts the bits."""

    def __init__(self, keys: KeySource, slave: SaeId) -> None:
        self._keys = keys
        self._slave = slave
        self._status: KeyStatus | None = None
        self.bits_used = 0
        self.facts: Counter[KeySourceFacts] = Counter()
        """Origins of the keys drawn, with how many keys of each."""

    async def status(self) -> KeyStatus:
        """Return the KME's status, freshly asked."""
        self._status = await self._keys.status(self._slave)
        return self._status

    async def draw(self, size_bytes: int) -> Pad:
        """Return ``size_bytes`` of fresh key.

        Raises:
            Unavailable: the KME has too little; keys already drawn for this pad are lost (at most one request's worth
                is ever in doubt, because callers plan against ``status`` first).
        """
        status = self._status or await self.status()
        pieces: list[DeliveredKey] = []
        for number, size_bits in _requests(size_bytes, status):
            drawn = await self._keys.enc_keys(self._slave, number=number, size_bits=size_bits)
            if len(drawn) != number or any(len(key.material) * 8 != size_bits for key in drawn):
                raise PeerFault(f"the KME did not deliver {number} keys of {size_bits} bits", code="vault.short_pad")
            pieces += drawn
        content = b"".join(piece.material.take() for piece in pieces)
        self.bits_used += 8 * len(content)
        self.facts.update(piece.facts for piece in pieces)
        return Pad([piece.key_id for piece in pieces], content[:size_bytes])


def _requests(size_bytes: int, status: KeyStatus) -> list[tuple[int, int]]:
    """Split a size into (number, size in bits) requests within a KME's limits."""
    largest = max(status.max_key_size_bits // 8, 1)
    smallest = -(-max(status.min_key_size_bits, 8) // 8)
    per_request = max(status.max_key_per_request, 1)
    whole, rest = divmod(size_bytes, largest)
    if whole > _KEYS_PER_PAD_MAX:
        raise PeerFault(f"a pad of {size_bytes} bytes would take {whole} keys of this KME")
    requests = []
    while whole:
        number = min(whole, per_request)
        requests.append((number, largest * 8))
        whole -= number
    if rest:
        requests.append((1, max(rest, smallest) * 8))
    return requests


async def fetch_pad(keys: KeySource, master: SaeId, key_ids: Sequence[str], size_bytes: int) -> bytes:
    """Fetch the pad that ``master`` drew.

    Raises:
        PeerFault: the keys are shorter than the header claims.
    """
    pieces = await keys.dec_keys(master, key_ids)
    content = b"".join(piece.material.take() for piece in pieces)
    if len(content) < size_bytes:
        raise PeerFault(f"the keys named hold {len(content)} bytes, expected {size_bytes}", code="vault.short_pad")
    return content[:size_bytes]
