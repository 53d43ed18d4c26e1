"""What each end of a decoy BB84 link records of a batch of pulses, and what only a simulation can know.

Transmitter and receiver share no object: ``SentPulses`` never leaves the transmitter, ``Detections`` never the
receiver, and the light between them is a ``QuantumSignal``, which exists in a simulation only. ``Truth`` says what no
device can know (photon numbers, what Eve did); only tests and reports read it, no protocol takes it.
Recordings of real devices fit the first two types as well.

A *basis* is 0 (key basis) or 1 (test basis). An *intensity* is an index into ``Settings.intensities``, bright to dim.
Pulses are numbered from the start of the link.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

__all__ = [
    "INTENSITIES_MAX",
    "KEY_BASIS",
    "NOT_DRAWN",
    "PULSES_MAX",
    "TEST_BASIS",
    "UNKNOWN",
    "Detections",
    "Int64s",
    "QuantumSignal",
    "SentPulses",
    "Settings",
    "Truth",
    "Uint8s",
]

Uint8s = npt.NDArray[np.uint8]
Int64s = npt.NDArray[np.int64]

KEY_BASIS = 0
TEST_BASIS = 1
INTENSITIES_MAX = 4
PULSES_MAX = 1 << 62
"""Pulse numbers stay below this: 146 years at 1 GHz."""

UNKNOWN = 2
"""In ``Truth``: Eve has no bit, or her knowledge holds in either basis."""
NOT_DRAWN = 31
"""In ``Truth``: the photon number of a pulse whose click no light of its own caused."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What both ends agreed on before the first pulse; public.

    Raises:
        ValueError: intensities do not fall, probabilities do not sum to 1, or a value is out of range.
    """

    intensities: tuple[float, ...]
    """Mean photon numbers, bright to dim; one to four."""
    probabilities: tuple[float, ...]
    """Probability of each; they sum to 1 within rounding (1e-14), since the bounds believe them to the last digit."""
    transmitter_key_basis_probability: float
    receiver_key_basis_probability: float
    pulse_rate_hz: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "intensities", tuple(float(value) for value in self.intensities))
        object.__setattr__(self, "probabilities", tuple(float(value) for value in self.probabilities))
        levels, shares = self.intensities, self.probabilities
        if not 1 <= len(levels) <= INTENSITIES_MAX or len(levels) != len(shares):
            raise ValueError(
                f"want 1 to {INTENSITIES_MAX} intensities and as many probabilities, got {levels}, {shares}"
            )
        if not all(0.0 <= level <= 4.0 for level in levels) or any(a <= b for a, b in itertools.pairwise(levels)):
            raise ValueError(f"intensities must fall from bright to dim and lie within [0, 4], got {levels}")
        if not all(0.0 < share <= 1.0 for share in shares) or abs(math.fsum(shares) - 1.0) > 1e-14:
            raise ValueError(f"probabilities of intensities must be positive and sum to 1, got {shares}")
        for name in ("transmitter_key_basis_probability", "receiver_key_basis_probability"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name} must lie within (0, 1), got {getattr(self, name)}")
        if not 0.0 < self.pulse_rate_hz <= 1e12:
            raise ValueError(f"pulse_rate_hz must lie within (0, 1e12], got {self.pulse_rate_hz}")

    def quantised(self) -> Settings:
        """Return these settings as a simulated transmitter draws them.

        A choice compares 16 random bits (15 for a basis) with thresholds, so its probabilities are multiples of
        2^-16 (2^-15). The bounds must take the probabilities that were drawn, hence this method; none becomes 0 or 1.
        """
        steps = [max(1, round(share * 65536)) for share in self.probabilities]
        steps[steps.index(max(steps))] += 65536 - sum(steps)
        basis = min(32767, max(1, round(self.transmitter_key_basis_probability * 32768)))
        return replace(
            self,
            probabilities=tuple(step / 65536 for step in steps),
            transmitter_key_basis_probability=basis / 32768,
        )


@dataclass(frozen=True, slots=True)
class SentPulses:
    """What the transmitter alone knows of consecutive pulses. ``bits`` become key: they stay out of repr and logs.

    Raises:
        ValueError: arrays do not fit ``count``.
    """

    first: int
    """Number of the first pulse."""
    count: int
    bits: Uint8s = field(repr=False)
    """Packed, little-endian: pulse ``first + i`` has bit ``i % 8`` of byte ``i // 8``; unused bits are 0."""
    bases: Uint8s = field(repr=False)
    """Packed likewise: 0 key basis, 1 test basis."""
    intensity: Uint8s = field(repr=False)
    """Index of the intensity of each pulse, shape (count,)."""

    def __post_init__(self) -> None:
        if self.first < 0 or self.count < 0 or self.first + self.count > PULSES_MAX:
            raise ValueError(f"pulses must be numbered from 0 to {PULSES_MAX}, got {self.count} from {self.first}")
        packed = (self.count + 7) // 8
        for name, size in (("bits", packed), ("bases", packed), ("intensity", self.count)):
            array = getattr(self, name)
            if array.dtype != np.uint8 or array.shape != (size,):
                raise ValueError(f"{name} must be {size} octets, got {array.dtype} of shape {array.shape}")

    def bits_at(self, pulses: Int64s) -> Uint8s:
        """Return the bits of the pulses with these numbers, one octet each.

        Raises:
            ValueError: a pulse is not of this batch.
        """
        return self._packed_at(self.bits, pulses)

    def bases_at(self, pulses: Int64s) -> Uint8s:
        """Return the bases of the pulses with these numbers."""
        return self._packed_at(self.bases, pulses)

    def intensity_at(self, pulses: Int64s) -> Uint8s:
        """Return the intensity indices of the pulses with these numbers."""
        return self.intensity[self._offsets(pulses)]

    def _packed_at(self, packed: Uint8s, pulses: Int64s) -> Uint8s:
        offset = self._offsets(pulses)
        bits: Uint8s = packed[offset >> 3] >> (offset & 7).astype(np.uint8) & np.uint8(1)
        return bits

    def _offsets(self, pulses: Int64s) -> Int64s:
        offset = np.asarray(pulses, dtype=np.int64) - self.first
        if offset.size and not (offset.min() >= 0 and offset.max() < self.count):
            raise ValueError(f"pulses {self.first} to {self.first + self.count - 1} are here, others were asked for")
        return offset


@dataclass(frozen=True, slots=True)
class Detections:
    """What the receiver alone knows of consecutive pulses. ``bits`` become key: they stay out of repr and logs.

    Raises:
        ValueError: arrays differ in length, pulse numbers do not rise or leave the batch, a basis or bit is not 0 or 1.
    """

    first: int
    """Number of the first pulse of the batch, detected or not."""
    count: int
    """How many pulses the batch covers."""
    pulses: Int64s = field(repr=False)
    """Numbers of the pulses that were detected, strictly increasing."""
    bases: Uint8s = field(repr=False)
    """Basis in which each was measured."""
    bits: Uint8s = field(repr=False)
    """Result of each; a random bit where both detectors clicked."""
    double_clicks: int = 0
    """How many of them had both detectors click."""

    def __post_init__(self) -> None:
        if self.first < 0 or self.count < 0 or self.first + self.count > PULSES_MAX:
            raise ValueError(f"pulses must be numbered from 0 to {PULSES_MAX}, got {self.count} from {self.first}")
        if self.pulses.dtype != np.int64 or self.pulses.ndim != 1 or self.pulses.size > self.count:
            raise ValueError(f"pulses must be at most {self.count} int64 numbers, got shape {self.pulses.shape}")
        for name in ("bases", "bits"):
            array = getattr(self, name)
            if array.dtype != np.uint8 or array.shape != self.pulses.shape or (array.size and array.max() > 1):
                raise ValueError(f"{name} must be {self.pulses.size} octets of value 0 or 1")
        if not 0 <= self.double_clicks <= self.pulses.size:
            raise ValueError(f"double clicks must number 0 to {self.pulses.size}, got {self.double_clicks}")
        if self.pulses.size and not (
            self.pulses[0] >= self.first
            and self.pulses[-1] < self.first + self.count
            and bool(np.all(self.pulses[1:] > self.pulses[:-1]))
        ):
            raise ValueError("pulse numbers must rise and lie within the batch")


@dataclass(frozen=True, slots=True)
class QuantumSignal:
    """Simulated light of consecutive pulses on its way to the receiver. Phases are random and unknown to everybody."""

    first: int
    states: Uint8s = field(repr=False)
    """Per pulse ``intensity << 2 | basis << 1 | bit``; how many photons that is, the channel draws."""

    @property
    def count(self) -> int:
        """How many pulses these are."""
        return int(self.states.size)


@dataclass(frozen=True, slots=True)
class Truth:
    """What really happened to the detected pulses; arrays of one length, one entry a detection. Simulation only."""

    pulses: Int64s
    photons: Uint8s
    """Photons that left the transmitter (15 stands for 15 or more), or ``NOT_DRAWN``."""
    after_pulse: npt.NDArray[np.bool_]
    """Whether an after-pulse took part in the click."""
    eve_action: Uint8s
    """0 for nothing, else the number of the action in ``shosoin.link.events.attacks.Action``."""
    eve_basis: Uint8s
    """Basis in which Eve's bit holds, or ``UNKNOWN``: she can wait for the bases to be announced."""
    eve_bit: Uint8s = field(repr=False)
    """Eve's bit or best guess of it, or ``UNKNOWN``."""
