"""What became of key bits, as plain numbers: for whoever watches a KME, never for a decision.

Numbers only: no key_ID, no key, no address. They begin at zero with each process, and they add up: what was restored
and taken in is used, burned, or still left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from shosoin.keys.key_id import KeyAddress

__all__ = ["Burned", "KeyCount", "StreamTally"]


class Burned(Enum):
    """Why bits will never be handed out."""

    HANDSHAKE = "handshake"
    """What the two ends agreed to count as used. In the first handshake of a process also what an earlier run may have
    handed out, for nobody knows that any more: an upper bound. And what an operator had burned."""
    REFUSED = "refused"
    """Blocks that one end gave up before they could be used."""
    GAP = "gap"
    """Passed over, because a key needs bits that lie side by side."""
    DAMAGED = "damaged"
    """Stored bytes that failed their check."""
    UNUSED = "unused"
    """Drawn ahead of demand, and not asked for soon enough."""
    EXPIRED = "expired"
    """Too old for the pair; or handed out at the other end and never fetched here, until too old or room ran out."""


@dataclass(slots=True)
class KeyCount:
    """Keys and their bits."""

    keys: int = 0
    bits: int = 0

    def add(self, keys: int, bits: int) -> None:
        """Count more."""
        self.keys += keys
        self.bits += bits


@dataclass(slots=True)
class StreamTally:
    """What one end of one stream took in, handed out and lost; a granule is 256 bits."""

    restored_granules: int = 0
    """Found in the journal."""
    taken_granules: int = 0
    """Came from the device, usable yet or not."""
    used_granules: int = 0
    """Handed out; a key takes whole granules."""
    delivered: KeyCount = field(default_factory=KeyCount)
    burned_granules: Counter[Burned] = field(default_factory=Counter)

    def deliver(self, addresses: Sequence[KeyAddress], granules: int) -> None:
        """Count keys that were handed out, and the granules that they lie in."""
        self.used_granules += granules
        self.delivered.add(len(addresses), 8 * sum([length for _, length in addresses]))

    def reopen(self, found_granules: int) -> None:
        """Go on after the journal was read anew within the process: what was left and is not found is burned."""
        left = self.restored_granules + self.taken_granules - self.used_granules - self.burned_granules.total()
        self.restored_granules += max(0, found_granules - left)  # used, and not yet written down so
        self.burn(Burned.HANDSHAKE, left - found_granules)

    def burn(self, why: Burned, granules: int) -> None:
        """Count bits that were lost."""
        if granules > 0:
            self.burned_granules[why] += granules
