"""Eavesdroppers, as what they do to one pulse and what they leave on monitors.

Each is a small strategy: for a pulse of so many photons in such a state it lists what Eve may do, with probabilities,
and what she then knows; the simulation draws from the list and keeps her knowledge in ``Truth``. She is given what
physics allows and better equipment than anybody has: lossless detectors, photon counting without disturbance, a
quantum memory, channels without loss. ``effects`` says what devices would show that watch for her.

Sources. Intercept-resend: Bennett, Brassard 1984. Photon-number splitting: Luetkenhaus, Phys. Rev. A 61, 052304 (2000).
Blinding and faked states: Makarov, New J. Phys. 11, 065003 (2009); Lydersen et al., Nature Photonics 4, 686 (2010).
Time-shift: Qi, Fung, Lo, Ma, Quantum Inf. Comput. 7, 73 (2007). Trojan horse: Gisin et al., Phys. Rev. A 73, 022320
(2006).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from shosoin.link.events.optics import Arriving, Effects, Line, Outcome, click_probabilities, poisson
from shosoin.link.events.records import UNKNOWN

__all__ = [
    "Action",
    "DetectorBlinding",
    "InterceptResend",
    "PhotonNumberSplitting",
    "TimeShift",
    "TrojanHorse",
    "transparent_splitting",
]


class Action(IntEnum):
    """What Eve did to a pulse, as ``Truth.eve_action`` has it."""

    NONE = 0
    RESENT = 1
    """She measured it and sent another in the state that she found."""
    KEPT = 2
    """She kept one of its photons and will measure it when she hears the basis."""
    FAKED = 3
    """She measured it and made a blinded detector click."""
    SHIFTED = 4
    """She moved it in time, to where one detector is more efficient than the other."""
    PROBED = 5
    """She read basis and bit from her own light, reflected inside of the transmitter."""


def _measured(basis: int, bit: int) -> Iterator[tuple[float, int, int]]:
    """Yield probability, basis and result of Eve's measurement in a random basis."""
    yield 0.5, basis, bit
    yield 0.25, 1 - basis, 0
    yield 0.25, 1 - basis, 1


def _bounded(name: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be within [0, 1], got {value}")


@dataclass(frozen=True, slots=True)
class InterceptResend:
    """Measure in a random basis, send as many photons in the state found: half of her results are right for certain.

    She adds errors to a quarter of the sifted bits she touches. Gains do not change, because she keeps the number of
    photons and lets them pass the same channel: only the error rate shows her.
    """

    name: ClassVar[str] = "intercept-resend"
    effects: ClassVar[Effects] = Effects()

    def outcomes(self, photons: int, basis: int, bit: int, line: Line) -> Iterator[Outcome]:
        """Return what she may find and send."""
        if photons == 0:
            yield Outcome(1.0, Arriving(0, basis, bit, line.transmittance))
            return
        for chance, her_basis, her_bit in _measured(basis, bit):
            sent = Arriving(photons, her_basis, her_bit, line.transmittance)
            yield Outcome(chance, sent, Action.RESENT, her_basis, her_bit)


@dataclass(frozen=True, slots=True)
class PhotonNumberSplitting:
    """Count photons, block some of the single ones, keep one of several and pass the rest through a better channel.

    No error arises, and what she keeps she knows for certain once bases are announced. Without decoys the loss that she
    hides behind makes this invisible; with decoys the gains of the intensities no longer fit one channel.

    Raises:
        ValueError: a value out of range.
    """

    name: ClassVar[str] = "photon-number-splitting"
    effects: ClassVar[Effects] = Effects()
    blocked: float = 1.0
    """Probability that a single photon is blocked."""
    transmittance: float = 1.0
    """Of her channel for what she lets pass."""

    def __post_init__(self) -> None:
        _bounded("blocked", self.blocked)
        _bounded("transmittance", self.transmittance)

    def outcomes(self, photons: int, basis: int, bit: int, line: Line) -> Iterator[Outcome]:
        """Return what she may do with that many photons."""
        if photons >= 2:
            yield Outcome(1.0, Arriving(photons - 1, basis, bit, self.transmittance), Action.KEPT, UNKNOWN, bit)
            return
        stopped = self.blocked if photons == 1 else 0.0
        yield Outcome(1.0 - stopped, Arriving(photons, basis, bit, self.transmittance))
        yield Outcome(stopped, Arriving(0, basis, bit, self.transmittance))


@dataclass(frozen=True, slots=True)
class DetectorBlinding:
    """Blind the detectors with bright light and make one click only where the receiver's basis is hers.

    Clicks follow her results exactly: she knows every bit, adds no error beyond none at all, and dark counts and double
    clicks vanish. The light makes a photocurrent.

    Raises:
        ValueError: a value out of range.
    """

    name: ClassVar[str] = "detector-blinding"
    resent: float = 1.0
    """Share of her results that she passes on: the click rate that she wants to show, over what she could."""
    photocurrent_na: int = 50_000
    """Additional mean photocurrent of a detector kept blind, in nA: continuous milliwatts make far more than the noise
    of an ammeter."""

    def __post_init__(self) -> None:
        _bounded("resent", self.resent)

    @property
    def effects(self) -> Effects:
        """The light that keeps detectors blind draws a current."""
        return Effects(photocurrent_na=self.photocurrent_na)

    def outcomes(self, photons: int, basis: int, bit: int, line: Line) -> Iterator[Outcome]:
        """Return what she may find and fake."""
        silence = Arriving(0, basis, bit, 0.0, blinded=True)
        if photons == 0:
            yield Outcome(1.0, silence, Action.FAKED)
            return
        yield Outcome(1.0 - self.resent, silence, Action.FAKED)
        for chance, her_basis, her_bit in _measured(basis, bit):
            faked = Arriving(1, her_basis, her_bit, 1.0, blinded=True)
            yield Outcome(chance * self.resent, faked, Action.FAKED, her_basis, her_bit)


@dataclass(frozen=True, slots=True)
class TimeShift:
    """Shift each pulse early or late, where one detector is less efficient, and guess the bit of the other.

    She measures nothing and adds no error. With equal mismatch on both sides and as many early as late the detectors
    stay balanced; the loss she can make up for by a better channel. What remains are times within the gate.

    Raises:
        ValueError: a value out of range.
    """

    name: ClassVar[str] = "time-shift"
    remaining: tuple[float, float] = (0.3, 0.3)
    """What is left of the efficiency of detector 1 early and of detector 0 late."""
    early: float = 0.5
    """Share of pulses shifted early."""
    transmittance: float | None = None
    """Of her channel; by default that of the line."""
    shift_gates: float = 0.35
    """How far she shifts, in widths of the gate."""

    def __post_init__(self) -> None:
        for name, value in (("remaining", self.remaining[0]), ("remaining", self.remaining[1]), ("early", self.early)):
            _bounded(name, value)

    @property
    def effects(self) -> Effects:
        """Clicks move away from the middle of the gate."""
        return Effects(shift_gates=self.shift_gates)

    def outcomes(self, photons: int, basis: int, bit: int, line: Line) -> Iterator[Outcome]:
        """Return the two shifts."""
        passed = line.transmittance if self.transmittance is None else self.transmittance
        early = Arriving(photons, basis, bit, passed, (1.0, self.remaining[0]))
        late = Arriving(photons, basis, bit, passed, (self.remaining[1], 1.0))
        yield Outcome(self.early, early, Action.SHIFTED, UNKNOWN, 0)
        yield Outcome(1.0 - self.early, late, Action.SHIFTED, UNKNOWN, 1)


@dataclass(frozen=True, slots=True)
class TrojanHorse:
    """Shine light into the transmitter and read basis and bit from what comes back.

    Nothing that the receiver or the statistics of the link can show: only a diode at the transmitter that watches for
    incoming light, or an isolator strong enough, stops her.

    Raises:
        ValueError: a value out of range.
    """

    name: ClassVar[str] = "trojan-horse"
    read: float = 0.5
    """Probability that her reflected light tells basis and bit of a pulse."""
    diode_probability: float = 0.01
    """Probability that the monitor diode notices her light of one pulse."""

    def __post_init__(self) -> None:
        _bounded("read", self.read)
        _bounded("diode_probability", self.diode_probability)

    @property
    def effects(self) -> Effects:
        """The monitor diode counts."""
        return Effects(diode_probability=self.diode_probability)

    def outcomes(self, photons: int, basis: int, bit: int, line: Line) -> Iterator[Outcome]:
        """Return the pulse as it was, read or not."""
        untouched = Arriving(photons, basis, bit, line.transmittance)
        yield Outcome(self.read, untouched, Action.PROBED, basis, bit)
        yield Outcome(1.0 - self.read, untouched)


def transparent_splitting(mean_photon_number: float, line: Line) -> PhotonNumberSplitting:
    """Return photon-number splitting that leaves the gain of one intensity as it was: invisible without decoys.

    She blocks as many single photons as the multi-photon pulses allow; where those alone would be too bright, she dims
    her channel.
    """

    def gain(eve: PhotonNumberSplitting | None) -> float:
        total = 0.0
        for photons, share in poisson(mean_photon_number):
            untouched = (Outcome(1.0, Arriving(photons, 0, 0, line.transmittance)),)
            for outcome in eve.outcomes(photons, 0, 0, line) if eve else untouched:
                total += share * outcome.probability * sum(click_probabilities(line, outcome.arriving, 0))
        return total

    wanted = gain(None)
    dims = gain(PhotonNumberSplitting(1.0, 1.0)) > wanted
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        eve = PhotonNumberSplitting(1.0, middle) if dims else PhotonNumberSplitting(1.0 - middle, 1.0)
        low, high = (low, middle) if gain(eve) > wanted else (middle, high)
    return PhotonNumberSplitting(1.0, low) if dims else PhotonNumberSplitting(1.0 - low, 1.0)
