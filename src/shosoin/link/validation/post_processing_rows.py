"""Rows for what happens to bits after their detection: hashing them equals what another program makes of them.

Published speeds are not here: a speed is a machine's, and ``bench/link.py`` measures ours beside those of others.
"""

from __future__ import annotations

import numpy as np

from shosoin.link.amplification import amplify
from shosoin.link.validation.peers import HASHING_PEER, hashed_bits
from shosoin.link.validation.row import Row, Within, Witness

__all__ = ["ROWS"]


def _differing_bits(key_bits: int, output_bits: int) -> float:
    """Return how many bits of a hash of drawn bits differ from those of the other program."""
    rng = np.random.default_rng(key_bits)
    key = rng.integers(0, 2, key_bits, dtype=np.uint8)
    seed = rng.integers(0, 2, key_bits + output_bits - 1, dtype=np.uint8)
    theirs = hashed_bits(key, seed, output_bits)
    packed = [np.packbits(bits, bitorder="little").tobytes() for bits in (key, seed)]
    ours = amplify(bytearray(packed[0]), key_bits, packed[1], output_bits).take()
    return float(
        np.count_nonzero(np.unpackbits(np.frombuffer(ours, np.uint8), bitorder="little")[:output_bits] != theirs)
    )


def _hashing(key_bits: int, output_bits: int) -> Row:
    return Row(
        id=f"amplification.randextract-{key_bits}",
        claim=f"a Toeplitz hash of {key_bits} bits to {output_bits}: bits that differ",
        source=f"{HASHING_PEER}, ToeplitzHashing",
        witness=Witness.PROGRAM,
        unit="bit",
        published=0.0,
        criterion=Within(),
        compute=lambda: _differing_bits(key_bits, output_bits),
    )


ROWS = (_hashing(1001, 1001), _hashing(20000, 7000), _hashing(250_000, 90_001))
