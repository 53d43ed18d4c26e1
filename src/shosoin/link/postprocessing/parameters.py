"""What both ends must have in common before a bit is used; the first message of each says it, byte for byte."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shosoin.link.counts import DecoyCounts
from shosoin.link.events.records import Settings
from shosoin.link.postprocessing.errors import RecordRejected
from shosoin.link.postprocessing.verification import HASH_BITS_MAX, collision_probability, excess_bits, hash_bits
from shosoin.link.rates import one_decoy, two_decoys
from shosoin.link.rates.decoy_bounds import EPSILON_MIN
from shosoin.link.rates.result import SecretLength

__all__ = ["CODES", "PROOFS", "SessionParameters", "secret_length", "verification_bits"]

PROOFS = ("wiesemann2024", "rusca2018", "lim2014")
CODES = ("ldpc", "cascade")
BLOCK_BITS_MAX = 1 << 27
BLOCK_DETECTIONS_MAX = 1 << 30
"""The receiver holds the detections of three blocks, ten octets each, before it says anything about the last."""
RECORD_NAME_MAX = 1024
CASCADE_BLOCK_BITS_MAX = 1 << 21
"""An end of Cascade holds 14 orders of a block, 224 octets for each bit."""
_DEVIATIONS = 8.0
"""A block is longer than expected by that many standard deviations with a probability below 1e-15."""


@dataclass(frozen=True, slots=True)
class SessionParameters:
    """Settings of the link, the bound and the codes.

    Raises:
        RecordRejected: one of them is out of range.
    """

    settings: Settings
    """Of the devices: intensities and their probabilities, as the bound takes them."""
    proof: str = "wiesemann2024"
    """One of ``PROOFS``: the first two for two intensities, the last for three."""
    epsilon_secrecy: float = 1e-9
    epsilon_correctness: float = 1e-15
    block_bits: int = 10_000_000
    """Key bits of a block as expected, a multiple of 8; a block is ``block_detections`` detections, kept or not."""
    fixed_secret_bits: int = 0
    """If not 0: a block yields this many bits or none, as the proofs have it that fix the length before the run."""
    codes: str = "ldpc"
    qber_max: float = 0.06
    """Above it, in either basis, a block is void and an alarm is raised."""
    authentication_stock_bytes: int = 8192
    """How much key each direction's stream is filled up to with every block."""
    record: str = ""
    """Names the run of the devices, so that the two ends do not process records of different runs."""

    def __post_init__(self) -> None:
        count = len(self.settings.intensities)
        whole = (self.block_bits, self.fixed_secret_bits, self.authentication_stock_bytes)
        checks = {
            "sizes must be whole numbers": all(type(size) is int for size in whole),
            f"the record's name must be text of up to {RECORD_NAME_MAX} characters": (
                type(self.record) is str and len(self.record) <= RECORD_NAME_MAX
            ),
            "the proof must be known and made for the number of intensities": (
                self.proof in PROOFS and count == (3 if self.proof == "lim2014" else 2)
            ),
            f"epsilons must be from {EPSILON_MIN:g} up to below 1": (
                EPSILON_MIN <= self.epsilon_secrecy < 1 and EPSILON_MIN <= self.epsilon_correctness < 1
            ),
            "the block must be a multiple of 8 bits": self.block_bits > 0 and self.block_bits % 8 == 0,
            "the codes must be known": self.codes in CODES,
            "a block, with 8 standard deviations, must be within what codes take: 2^27 bits, 2^21 for cascade": (
                0 < self.block_bits <= BLOCK_BITS_MAX and self._longest_bits() <= self.block_bits_max
            ),
            "a block must be of up to 2^30 detections": (
                not 0 < self.block_bits <= BLOCK_BITS_MAX
                or self.block_bits <= BLOCK_DETECTIONS_MAX * self._key_probability
            ),
            "the epsilon of correctness must be within reach of a hash of 128 bits": (
                not EPSILON_MIN <= self.epsilon_correctness < 1
                or collision_probability(BLOCK_BITS_MAX, HASH_BITS_MAX) <= self.epsilon_correctness
            ),
            "the largest error rate must be within (0, 0.5)": 0 < self.qber_max < 0.5,
            "a fixed length must not be negative": self.fixed_secret_bits >= 0,
            "the stock of authentication key must be up to 2^20 bytes": 0 < self.authentication_stock_bytes <= 1 << 20,
        }
        for wanted, holds in checks.items():
            if not holds:
                raise RecordRejected(f"parameters of the link: {wanted}", code="link.bad_parameters")

    @property
    def block_detections(self) -> int:
        """How many detections make a block: with so many, ``block_bits`` are expected in the key basis.

        Both ends compute it from the same numbers in the same way, so that it is the same.
        """
        return math.ceil(self.block_bits / self._key_probability)

    @property
    def block_bits_max(self) -> int:
        """How many key bits the codes take in a block; a block with more has no key."""
        return CASCADE_BLOCK_BITS_MAX if self.codes == "cascade" else BLOCK_BITS_MAX

    @property
    def _key_probability(self) -> float:
        """That a detection is kept in the key basis, whatever else happens to it."""
        settings = self.settings
        return settings.transmitter_key_basis_probability * settings.receiver_key_basis_probability

    def _longest_bits(self) -> float:
        return self.block_bits + _DEVIATIONS * math.sqrt(self.block_bits * (1 - self._key_probability))

    def encode(self) -> bytes:
        """Return the one spelling that both ends compare."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON knows them."""
        told: dict[str, Any] = json.loads(self.encode())
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> SessionParameters:
        """Return what ``to_json`` told.

        Raises:
            RecordRejected: fields are missing, unknown or out of range.
        """
        try:
            settings: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in told["settings"].items()
            }
            return cls(**{**told, "settings": Settings(**settings)})
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as err:
            raise RecordRejected("parameters of the link: not as expected", code="link.bad_parameters") from err

    def differences(self, other: bytes) -> list[str]:
        """Return the names of what a peer has otherwise; ``["format"]`` if that cannot be told."""
        mine: dict[str, Any] = json.loads(self.encode())
        try:
            theirs = json.loads(other)
        except (ValueError, RecursionError):
            return ["format"]
        if not isinstance(theirs, dict):
            return ["format"]
        return sorted(name for name in mine if mine[name] != theirs.get(name)) or ["format"]


def secret_length(
    parameters: SessionParameters, counts: DecoyCounts, *, leak_bits: int, block_bits: int
) -> tuple[SecretLength, int]:
    """Return what the bound says of a block, and how many bits of key it yields: whole bytes, never above the bound.

    Args:
        leak_bits: what reconciliation disclosed, both ways.
        block_bits: length of the block, which the verification hash depends on.
    """
    excess = excess_bits(block_bits, parameters.epsilon_correctness)
    if parameters.proof == "lim2014":
        bound = two_decoys.secret_length(
            counts,
            parameters.settings.intensities,
            parameters.settings.probabilities,
            leak_ec_bits=leak_bits + excess,
            epsilon_secrecy=parameters.epsilon_secrecy,
            epsilon_correctness=parameters.epsilon_correctness,
        )
    else:
        bound = one_decoy.secret_length(
            counts,
            parameters.settings.intensities,
            parameters.settings.probabilities,
            leak_ec_bits=leak_bits + excess,
            epsilon_secrecy=parameters.epsilon_secrecy,
            epsilon_correctness=parameters.epsilon_correctness,
            proof=one_decoy.OneDecoyProof(parameters.proof),
        )
    bits = bound.secret_bits // 8 * 8
    if parameters.fixed_secret_bits:
        bits = parameters.fixed_secret_bits // 8 * 8 if bits >= parameters.fixed_secret_bits else 0
    return bound, bits


def verification_bits(parameters: SessionParameters, block_bits: int) -> int:
    """Return the length of the verification hash of a block."""
    return hash_bits(block_bits, parameters.epsilon_correctness)
