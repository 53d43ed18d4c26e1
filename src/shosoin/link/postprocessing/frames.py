"""A block in the order in which it is cut into frames.

Octet i of that order is octet ``i * step mod n`` of the block, the step near n / golden ratio and prime to n: any run
of it is spread evenly over the whole block. So an error rate that drifts during the block, or differs between its
beginning and its end, is the same in every frame, and one plan serves all. The order is fixed and public: it changes
nothing about what is known of the bits. Octets stay whole, which keeps this cheap.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

__all__ = ["in_block_order", "in_frame_order"]

Bytes = npt.NDArray[np.uint8]

_INVERSE_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def in_frame_order(block: Bytes) -> Bytes:
    """Return the octets of a block in the order of its frames."""
    return block.take(_order(len(block)))


def in_block_order(frames: Bytes) -> Bytes:
    """Return the block whose octets these are in the order of its frames."""
    block = np.empty_like(frames)
    block[_order(len(frames))] = frames
    return block


@lru_cache(maxsize=4)
def _order(octets: int) -> npt.NDArray[np.int64]:
    step = max(1, round(octets * _INVERSE_GOLDEN_RATIO))
    while math.gcd(step, octets) > 1:
        step += 1
    return np.arange(octets, dtype=np.int64) * step % max(octets, 1)
