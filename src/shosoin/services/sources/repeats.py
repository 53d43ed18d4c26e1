"""Notices bits that come a second time, whatever name they come under.

A vendor's KME that was restored from a copy, or is simply wrong, may give the same key material again with a new
key_ID. Hashes of the granules that were seen are kept in memory, keyed with a secret of this process; they are written
nowhere, because a stored hash of a key is a test for guesses. So this memory ends with the process and is bounded: of
the newest ``keep`` granules nothing passes twice, of older ones and of earlier runs the used tickets tell
(``shosoin.adapters.used_tickets``).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

from shosoin.base import Alarm, Entropy

__all__ = ["BitMemory", "BitsRepeated"]

_PIECE_BYTES = 32
_SHORT_BYTES = 8
"""Shorter ends of a key are not remembered: they would come again by chance. No key is shorter."""


class BitsRepeated(Alarm):
    """A source delivered bits that it had delivered before."""

    code = "source.repeated_bits"
    hint = "the device or the vendor's KME gives the same key out twice"


class BitMemory:
    """Bits seen by one KME; 32 bytes at a time, counted from the start of each key."""

    def __init__(self, entropy: Entropy, *, keep: int = 1 << 18) -> None:
        self._key = entropy.random_bytes(32)
        self._keep = keep
        self._seen: dict[int, None] = {}  # in order of arrival

    def look_at(self, pieces: Iterable[bytes | bytearray]) -> None:
        """Remember pieces.

        Raises:
            BitsRepeated: some of them were seen before, or twice now; all are remembered nevertheless.
        """
        repeated = 0
        for piece in pieces:
            for start in range(0, len(piece), _PIECE_BYTES):
                part = piece[start : start + _PIECE_BYTES]
                if len(part) >= _SHORT_BYTES:
                    repeated += self._is_known(part)
        if repeated:
            raise BitsRepeated(f"{repeated} granules of key material came a second time")

    def _is_known(self, part: bytes | bytearray) -> bool:
        mark = int.from_bytes(blake2b(part, key=self._key, digest_size=8).digest(), "big")
        if mark in self._seen:
            return True
        self._seen[mark] = None
        if len(self._seen) > self._keep:
            del self._seen[next(iter(self._seen))]
        return False
