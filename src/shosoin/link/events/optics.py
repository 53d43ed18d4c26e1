"""From physics to probabilities: which detectors want to click when a pulse of so many photons arrives.

Each photon survives the line, takes the detector of its bit (the other one with the misalignment error; either one if
the bases differ), and is detected with that detector's efficiency, independently of the others; a dark count makes
either click without light. Phases are random, so a pulse of mean photon number mu is a Poisson mixture of photon
numbers. Every probability of "no click" is then a product, and nothing is approximated: averaged over the photon
number the gain is the exact union ``1 - (1 - Y0) exp(-eta mu)`` of Ma et al. 2005 (quant-ph/0503005).

Jitter costs what falls outside of the gate; that a late photon may click in the next gate is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from shosoin.kernels.pulses import ROWS, ArrivalTable, DetectorDynamics
from shosoin.link.detector import Detector
from shosoin.link.events.records import NOT_DRAWN, UNKNOWN, Settings
from shosoin.link.information import Array

__all__ = [
    "Arriving",
    "Eavesdropper",
    "Effects",
    "Expected",
    "Line",
    "Outcome",
    "arrival_table",
    "click_probabilities",
    "dynamics_of",
    "expected",
    "poisson",
]

PHOTONS_SHOWN_MAX = 15
_PHOTONS_MAX = 48
"""More than this many photons are less likely than 2^-64 even at a mean of 4."""


@dataclass(frozen=True, slots=True)
class Line:
    """The channel and the receiver behind it.

    Raises:
        ValueError: a value out of range.
    """

    attenuation_db: float
    detectors: tuple[Detector, Detector]
    """The detectors of bit 0 and of bit 1; their efficiency includes the optics of the receiver."""
    misalignment_error: float = 0.0
    """Probability that a detected photon takes the wrong detector."""
    blinds_both: bool = False
    """Whether electronics ignore both detectors during the dead time of either."""
    after_pulse_decay_s: float = 1e-7
    """Mean delay of an after-pulse beyond the dead time."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.attenuation_db <= 200.0:
            raise ValueError(f"attenuation_db must be within [0, 200], got {self.attenuation_db}")
        if not 0.0 <= self.misalignment_error <= 0.5:
            raise ValueError(f"misalignment_error must be within [0, 0.5], got {self.misalignment_error}")
        if not 0.0 <= self.after_pulse_decay_s < 1.0:
            raise ValueError(f"after_pulse_decay_s must be within [0, 1), got {self.after_pulse_decay_s}")

    @property
    def transmittance(self) -> float:
        """Probability that a photon passes the channel."""
        return float(10.0 ** (-self.attenuation_db / 10.0))


@dataclass(frozen=True, slots=True)
class Arriving:
    """What reaches the receiver of one pulse."""

    photons: int
    basis: int
    bit: int
    transmittance: float
    """Of the channel that these photons still have to pass."""
    efficiency_factors: tuple[float, float] = (1.0, 1.0)
    """What is left of the efficiency of each detector at the time at which they arrive."""
    blinded: bool = False
    """Detectors are blind: one clicks exactly if there is light (``photons`` above 0) and the basis is this one."""


@dataclass(frozen=True, slots=True)
class Effects:
    """What Eve leaves on devices that watch for her, beside the clicks themselves."""

    photocurrent_na: int = 0
    """Additional mean photocurrent of the detectors."""
    shift_gates: float = 0.0
    """How far clicks move from the middle of the gate, in widths of it."""
    diode_probability: float = 0.0
    """Probability a pulse that the transmitter's monitor diode counts."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that Eve may do to a pulse: how likely, what arrives, what she then knows."""

    probability: float
    arriving: Arriving
    action: int = 0
    basis: int = UNKNOWN
    bit: int = UNKNOWN


class Eavesdropper(Protocol):
    """What somebody between the two does to a pulse, as probabilities; see ``shosoin.link.events.attacks``."""

    @property
    def name(self) -> str:
        """Name of the attack, as ``shosoin link simulate --attack`` takes it."""
        ...

    @property
    def effects(self) -> Effects:
        """What she leaves on devices."""
        ...

    def outcomes(self, photons: int, basis: int, bit: int, line: Line) -> Iterable[Outcome]:
        """Return what she does to a pulse of this state; probabilities sum to 1.

        She may depend on no more than quantum mechanics tells her: the photon number, and what she measures.
        """
        ...


def click_probabilities(line: Line, arriving: Arriving, receiver_basis: int) -> tuple[float, float, float]:
    """Return the probabilities that only detector 0, only detector 1, or both want to click."""
    matched = receiver_basis == arriving.basis
    if arriving.blinded:
        clicks = matched and arriving.photons > 0
        return (float(clicks and arriving.bit == 0), float(clicks and arriving.bit == 1), 0.0)
    right = 1.0 - line.misalignment_error
    to_zero = (right if arriving.bit == 0 else 1.0 - right) if matched else 0.5
    shares = (to_zero, 1.0 - to_zero)
    caught = [
        arriving.transmittance * share * detector.gated_efficiency * factor
        for share, detector, factor in zip(shares, line.detectors, arriving.efficiency_factors, strict=True)
    ]
    quiet = [1.0 - detector.dark_count_probability for detector in line.detectors]
    silent = [dark * (1.0 - share) ** arriving.photons for dark, share in zip(quiet, caught, strict=True)]
    none = quiet[0] * quiet[1] * (1.0 - caught[0] - caught[1]) ** arriving.photons
    return (
        max(0.0, silent[1] - none),
        max(0.0, silent[0] - none),
        max(0.0, 1.0 - silent[0] - silent[1] + none),
    )


def arrival_table(
    settings: Settings, line: Line, eavesdropper: Eavesdropper | None = None, *, fraction: float = 1.0
) -> ArrivalTable:
    """Return the table that the kernels draw from.

    Args:
        settings: whose intensities are sent.
        line: the channel and the receiver.
        eavesdropper: what is done to a share ``fraction`` of the pulses; the others pass as they are.
        fraction: within [0, 1].

    Raises:
        ValueError: ``fraction`` is out of range, or the eavesdropper's probabilities do not sum to 1.
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"fraction must be within [0, 1], got {fraction}")
    rows: list[Mapping[int, float]] = [{} for _ in range(ROWS)]
    for level, mean in enumerate(settings.intensities):
        for basis, bit, receiver_basis in np.ndindex(2, 2, 2):
            row = ((level << 2 | basis << 1 | bit) << 1) | receiver_basis
            rows[row] = _row(mean, (basis, bit), receiver_basis, line, eavesdropper, fraction)
    return _encode(rows)


@dataclass(frozen=True, slots=True)
class Expected:
    """Probabilities per pulse of each intensity, without dead time and after-pulses; shape (intensities,)."""

    gain: Array
    """Of a click, bases as they are drawn."""
    matched_gain: Array
    """Of a click if bases are equal."""
    matched_error: Array
    """Of a wrong bit if bases are equal; a double click is wrong half of the time."""


def expected(settings: Settings, table: ArrivalTable) -> Expected:
    """Return what a table says on average, both bits being equally likely."""
    single = np.diff(table.thresholds.astype(np.float64), axis=1, prepend=0.0) / 2.0**64
    clicks = [(single * ((table.codes & 3) == pattern)).sum(axis=1) for pattern in (1, 2, 3)]
    # Axes: intensity, basis, bit, receiver's basis.
    any_click = np.asarray(sum(clicks)).reshape(4, 2, 2, 2).mean(axis=2)
    wrong = np.stack((clicks[1] + clicks[2] / 2, clicks[0] + clicks[2] / 2)).reshape(2, 4, 2, 2, 2)
    wrong_bit = (wrong[0, :, :, 0] + wrong[1, :, :, 1]) / 2
    sent, received = (
        np.array([share, 1.0 - share])
        for share in (settings.transmitter_key_basis_probability, settings.receiver_key_basis_probability)
    )
    equal = sent * received / (sent * received).sum()
    levels = slice(len(settings.intensities))
    return Expected(
        np.einsum("lab,a,b->l", any_click, sent, received)[levels],
        np.einsum("laa,a->l", any_click, equal)[levels],
        np.einsum("laa,a->l", wrong_bit, equal)[levels],
    )


def dynamics_of(line: Line, pulse_rate_hz: float) -> DetectorDynamics:
    """Return dead times and after-pulses in gates. The delay of an after-pulse is exponential, in 256 equal parts."""
    dead = [max(1, math.ceil(detector.dead_time_s * pulse_rate_hz - 1e-9)) for detector in line.detectors]
    decay = line.after_pulse_decay_s * pulse_rate_hz
    start = max(dead)
    delays = tuple(start + int(-decay * math.log1p(-(index + 0.5) / 256)) for index in range(256))
    chances = [min((1 << 32) - 1, round(detector.afterpulse_probability * (1 << 32))) for detector in line.detectors]
    return DetectorDynamics((dead[0], dead[1]), line.blinds_both, (chances[0], chances[1]), _OF_AFTER_PULSE, delays)


def outcome_code(photons: int, outcome: Outcome) -> int:
    """Return the code of an outcome without the detectors: what ``Truth`` is read from."""
    return min(photons, PHOTONS_SHOWN_MAX) << 2 | outcome.action << 7 | outcome.basis << 10 | outcome.bit << 12


_OF_AFTER_PULSE = NOT_DRAWN << 2 | UNKNOWN << 10 | UNKNOWN << 12


def poisson(mean: float) -> Iterator[tuple[int, float]]:
    """Yield photon numbers and their probabilities in a pulse of this mean."""
    share = math.exp(-mean)
    for photons in range(_PHOTONS_MAX):
        yield photons, share
        share *= mean / (photons + 1)


def _row(
    mean: float, sent: tuple[int, int], receiver_basis: int, line: Line, eve: Eavesdropper | None, fraction: float
) -> dict[int, float]:
    row: dict[int, float] = {}
    for photons, share in poisson(mean):
        untouched = Outcome(1.0, Arriving(photons, *sent, line.transmittance))
        parts = [(untouched, 1.0 - fraction if eve else 1.0)]
        if eve:
            done = tuple(eve.outcomes(photons, *sent, line))
            if abs(math.fsum(each.probability for each in done) - 1.0) > 1e-9:
                raise ValueError(f"probabilities of what is done to {photons} photons must sum to 1")
            parts += [(each, fraction * each.probability) for each in done]
        for outcome, weight in parts:
            code = outcome_code(photons, outcome)
            for pattern, chance in enumerate(click_probabilities(line, outcome.arriving, receiver_basis), start=1):
                row[code | pattern] = row.get(code | pattern, 0.0) + share * weight * chance
    return row


def _encode(rows: list[Mapping[int, float]]) -> ArrivalTable:
    width = max(1, *(len(row) for row in rows))
    thresholds = np.zeros((ROWS, width), np.uint64)
    codes = np.ones((ROWS, width), np.uint32)
    for index, row in enumerate(rows):
        total = 0
        for column, code in enumerate(sorted(row)):
            # 2^64 times a double is a whole number of its last place: the product is exact.
            total = min((1 << 64) - 1, total + int(row[code] * 2.0**64))
            thresholds[index, column], codes[index, column] = total, code
        thresholds[index, len(row) :] = total
    return ArrivalTable(thresholds, codes)
