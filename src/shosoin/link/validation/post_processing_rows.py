"""Rows for what happens to bits after their detection: hashing them equals what another program makes of them.

Published speeds are not here: a speed is a machine's, and ``bench/link.py`` measures ours beside those of others.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shosoin.link.amplification import amplify
from shosoin.link.rates.decoy import METRO, secret_key_rate_per_pulse
from shosoin.link.reconciliation import plan_frame
from shosoin.link.validation.peers import HASHING_PEER, hashed_bits
from shosoin.link.validation.row import AtLeast, Row, Within, Witness

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


def _share_of_the_ideal() -> float:
    """Return the least share of the rate without waste that our codes leave to the METRO system over 0 to 80 km."""
    lengths = np.arange(0.0, 81.0, 10.0)
    losses = lengths * METRO.attenuation_db_per_km
    real = replace(METRO, reconciliation_efficiency=plan_frame(METRO.misalignment_error).efficiency)
    ideal = replace(METRO, reconciliation_efficiency=1.0)
    rates = [secret_key_rate_per_pulse(system, attenuation_db=losses) for system in (real, ideal)]
    return float((rates[0] / rates[1]).min())


ROWS = (
    _hashing(1001, 1001),
    _hashing(20000, 7000),
    _hashing(250_000, 90_001),
    Row(
        id="reconciliation.dixon-sato",
        claim="LDPC codes decoded from both ends left 90 to 94 % of the ideal key rate over 0 to 80 km; ours leave",
        source="Dixon, Sato 2014 (Sci. Rep. 4 7275), abstract; the system is ours, METRO",
        witness=Witness.EXPERIMENT,
        unit="",
        published=0.9,
        criterion=AtLeast(),
        compute=_share_of_the_ideal,
    ),
    Row(
        id="reconciliation.shannon",
        claim="no code discloses less than the entropy of the errors: least f over QBERs of 1 to 9 %",
        source="Slepian, Wolf 1973 (IEEE Trans. Inf. Theory 19 471)",
        witness=Witness.THEORY,
        unit="",
        published=1.0,
        criterion=AtLeast(),
        compute=lambda: min(plan_frame(qber / 100.0).efficiency for qber in range(1, 10)),
    ),
)
