"""A block cut into frames for the codes, and put together again.

Octet j of the block goes to frame j mod F. So an error rate that drifts during the block, or differs between its
beginning and its end, is the same in every frame, and one plan serves all. The order is fixed and public: it changes
nothing about what is known of the bits. All frames have one length; where the last octets are missing, frames end with
a zero octet that both ends know, which is no key. There is no short last frame.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["cut", "frame_count", "join", "own_bits"]

Bytes = npt.NDArray[np.uint8]


def frame_count(block_bits: int, payload_bits_max: int) -> int:
    """Return into how many frames of at most so many bits a block goes."""
    octets_max = payload_bits_max // 8
    return -(-(block_bits // 8) // octets_max)


def cut(block: Bytes, count: int) -> Bytes:
    """Return the frames of a packed block, shape (count, octets)."""
    octets = -(-len(block) // count)
    padded = np.zeros(octets * count, np.uint8)
    padded[: len(block)] = block
    return np.ascontiguousarray(padded.reshape(octets, count).T)


def join(frames: Bytes, block_octets: int) -> Bytes:
    """Return the block that was cut into these frames."""
    return np.ascontiguousarray(frames.T).reshape(-1)[:block_octets]


def own_bits(frame: int, count: int, block_octets: int) -> int:
    """Return how many bits of a frame are bits of the block."""
    return 8 * len(range(frame, block_octets, count))
