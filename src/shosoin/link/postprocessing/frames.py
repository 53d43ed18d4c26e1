"""A block in the order in which it is cut into frames.

Words of 8 octets change places: word i of that order is word ``i * step mod n`` of the block, the step near n / golden
ratio and prime to n, so that any run of it is spread evenly over the whole block. An error rate that drifts during the
block, or differs between its beginning and its end, is then the same in every frame, and one plan serves all. Octets
that fill no word stay at the end. The order is fixed and public: it changes nothing about what is known of the bits.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["in_block_order", "in_frame_order"]

Bytes = npt.NDArray[np.uint8]

_WORD = 8
_INVERSE_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def in_frame_order(block: Bytes) -> Bytes:
    """Return the octets of a block in the order of its frames."""
    words, rest = _words(block)
    return np.concatenate([words.take(_order(len(words))).view(np.uint8), rest])


def in_block_order(frames: Bytes) -> Bytes:
    """Return the block whose octets these are in the order of its frames."""
    words, rest = _words(frames)
    block = np.empty_like(words)
    block[_order(len(words))] = words
    return np.concatenate([block.view(np.uint8), rest])


def _words(octets: Bytes) -> tuple[npt.NDArray[np.uint64], Bytes]:
    whole = len(octets) // _WORD * _WORD
    return np.ascontiguousarray(octets[:whole]).view(np.uint64), octets[whole:]


@lru_cache(maxsize=4)
def _order(words: int) -> npt.NDArray[np.int64]:
    step = max(1, round(words * _INVERSE_GOLDEN_RATIO))
    while math.gcd(step, words) > 1:
        step += 1
    return np.arange(words, dtype=np.int64) * step % max(words, 1)
