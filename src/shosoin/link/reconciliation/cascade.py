"""Cascade: correct errors by comparing parities, more of them where they differ.

Both ends hold a block and go through passes. In each pass the bits, in an order of their own, are cut into sets of one
size, and the ends tell each other the parity of every set. A set whose parities differ holds an odd number of errors:
halving it, parity by parity, finds one, which the receiver flips. Every earlier set that holds this bit now differs,
and is halved in turn. All differing sets of a pass are halved at once, so that a round of messages serves them all.

Here *both* ends send their parity of every set: which sets come next then follows from what was said, at both ends
alike, and the messages hold nothing but parities. Every bit of them, either way, is leak, so that f is twice the figure
that is usually given for Cascade: counting only the transmitter's parities is sound only if the adversary is given the
pattern of errors as well (arXiv 2307.00576), which proofs that rest on the entropic uncertainty relation do not do.

Sizes: first 2^ceil(log2(1/Q)), then four times that, then halves of the block; 14 passes. They are of the kind that
Martinez-Mateo et al., arXiv 1407.3257, compare. Parities of parts of sets are not kept for later passes.

Source: Brassard and Salvail, EUROCRYPT '93; Tupkary and Lütkenhaus, arXiv 2307.00576, for the accounting.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["CascadeEnd"]

Bits = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
_Rounds = Generator[Bits, Bits, None]

PASSES = 14


class CascadeEnd:
    """One end of a run over one block.

    >>> import numpy as np
    >>> sent = np.arange(4096, dtype=np.uint8) // 3 % 2
    >>> seen = sent.copy()
    >>> seen[[5, 6, 900, 4000]] ^= 1
    >>> ends = CascadeEnd(sent, 0.01, seed=7, corrects=False), CascadeEnd(seen, 0.01, seed=7, corrects=True)
    >>> while not ends[0].is_over:
    ...     there, back = ends[0].parities, ends[1].parities
    ...     _ = ends[0].take(back), ends[1].take(there)
    >>> bool(np.array_equal(ends[1].bits, sent))
    True

    Args:
        bits: one value (0 or 1) each; copied.
        qber: expected share of errors, within (0, 0.5).
        seed: public, the same at both ends; it orders the bits.
        corrects: whether this is the end whose bits are flipped.

    Security: ``parities`` depend on the bits: each of them, sent by either end, is a bit of leak. Who takes part may
    not choose the order after having seen anything of the other's bits.
    """

    def __init__(self, bits: Bits, qber: float, *, seed: int, corrects: bool) -> None:
        self.bits = bits.copy()
        self._corrects = corrects
        self._orders = [np.arange(len(bits), dtype=np.int64)]
        self._sizes = _set_sizes(len(bits), qber)
        self._seed = seed
        self._odd: list[npt.NDArray[np.bool_]] = []
        self._places: list[Indices] = [self._orders[0]]
        self._run = self._passes()
        self.flipped = 0
        self.parities: Bits = np.empty(0, np.uint8)
        """What this end has to send now, one value each."""
        self.is_over = False
        self._advance(None)

    def take(self, peer: Bits) -> None:
        """Take the other end's parities of the same sets.

        Raises:
            ValueError: they are not as many.
        """
        if self.is_over or len(peer) != len(self.parities):
            raise ValueError(f"got {len(peer)} parities, expected {len(self.parities)}")
        self._advance(peer)

    def _advance(self, peer: Bits | None) -> None:
        try:
            self.parities = next(self._run) if peer is None else self._run.send(peer)
        except StopIteration:
            self.parities = np.empty(0, np.uint8)
            self.is_over = True

    def _passes(self) -> _Rounds:
        count = len(self.bits)
        for number, size in enumerate(self._sizes):
            if number:
                order = _order(count, self._seed + number)
                place = np.empty(count, np.int64)
                place[order] = np.arange(count)
                self._orders.append(order)
                self._places.append(place)
            starts = np.arange(0, count, size)
            own = self._parities_of(number, starts, np.minimum(starts + size, count))
            peer = yield own
            self._odd.append((own ^ peer).view(np.bool_))
            while (differing := next((q for q, odd in enumerate(self._odd) if odd.any()), None)) is not None:
                yield from self._halve(differing)

    def _halve(self, number: int) -> _Rounds:
        """Find one error in each differing set of a pass, and flip it."""
        size, count = self._sizes[number], len(self.bits)
        starts = np.flatnonzero(self._odd[number]) * size
        ends = np.minimum(starts + size, count)
        while (longer := np.flatnonzero(ends - starts > 1)).size:
            middles = (starts[longer] + ends[longer]) // 2
            own = self._parities_of(number, starts[longer], middles)
            peer = yield own
            is_left = (own ^ peer).view(np.bool_)
            ends[longer] = np.where(is_left, middles, ends[longer])
            starts[longer] = np.where(is_left, starts[longer], middles)
        self._flip(self._orders[number][starts])

    def _flip(self, positions: Indices) -> None:
        self.flipped += len(positions)
        if self._corrects:
            self.bits[positions] ^= 1
        for number, odd in enumerate(self._odd):
            touched = self._places[number][positions] // self._sizes[number]
            np.logical_xor(odd, np.bincount(touched, minlength=len(odd)) & 1, out=odd)

    def _parities_of(self, number: int, starts: Indices, ends: Indices) -> Bits:
        """Return the parity of each range of a pass; no range is empty."""
        lengths = ends - starts
        offsets = np.cumsum(lengths) - lengths
        members = np.arange(int(lengths.sum())) + np.repeat(starts - offsets, lengths)
        taken = self.bits[members] if number == 0 else self.bits[self._orders[number][members]]
        return np.bitwise_xor.reduceat(taken, offsets) if len(offsets) else np.empty(0, np.uint8)

    def __repr__(self) -> str:
        return f"CascadeEnd({len(self.bits)} bits, redacted)"


def _set_sizes(count: int, qber: float) -> list[int]:
    if not 0 < qber < 0.5:
        raise ValueError(f"the expected error rate must be within (0, 0.5), got {qber}")
    half = max(1, -(-count // 2))
    first = min(1 << math.ceil(math.log2(1 / qber)), half)
    return [first, min(4 * first, half), *[half] * (PASSES - 2)]


@lru_cache(maxsize=2 * PASSES)
def _order(count: int, seed: int) -> Indices:
    """Return a permutation made from a public seed: indices by their SplitMix64 values (Steele, Lea, Flood, 2014)."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(seed * 0xBF58476D1CE4E5B9 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ state >> np.uint64(shift)) * np.uint64(factor)
    return np.argsort(state ^ state >> np.uint64(31), kind="stable")
