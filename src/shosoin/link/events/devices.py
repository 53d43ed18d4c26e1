"""What devices that watch for an eavesdropper read, and those devices simulated.

Readings add up over batches. The receiver knows clicks of each detector, the current its detectors draw, and where in
the gate a sample of the clicks fell; the transmitter knows how often its monitor diode counted. All of a reading is
drawn from a seed and the numbers of pulses, like the clicks: batches of any size give the same sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.base import SimulationRng
from shosoin.kernels import pulses
from shosoin.kernels.reference_pulses import philox
from shosoin.link.detector import Detector
from shosoin.link.events.optics import Effects

__all__ = [
    "IDLE_CURRENT_NA",
    "NOISE_BITS",
    "SAMPLED_EVERY",
    "WINDOW_PULSES",
    "ReceiverReadings",
    "SimulatedAmmeter",
    "SimulatedGateTimer",
    "SimulatedMonitorDiode",
    "TransmitterReadings",
    "click_current_na",
    "outer_share",
]

WINDOW_PULSES = 4096
"""The current is read once in so many pulses."""
IDLE_CURRENT_NA = 100
"""Leakage current of the simulated detectors."""
NOISE_BITS = 128
"""The noise of one reading in nA is the number of ones among so many fair bits, less half of them."""
CHARGE_PER_CLICK_C = 1e-12
SAMPLED_EVERY = 16
"""Clicks at every so-manieth pulse are timed within the gate."""
_NOISE, _TIMES, _DIODE = 16, 17, 1
"""Streams of random numbers beside those of the kernels, and the domain of the diode."""


@dataclass(frozen=True, slots=True)
class ReceiverReadings:
    """What a receiver reads of its devices over some pulses."""

    clicks: tuple[int, int] = (0, 0)
    """Of detector 0 and 1, double clicks in both."""
    double_clicks: int = 0
    windows: int = 0
    """How often the current was read."""
    current_na: int = 0
    """Sum of these readings."""
    timed: int = 0
    """Clicks that were timed."""
    outer: int = 0
    """Those of them in the first or last third of the gate."""

    def __add__(self, other: ReceiverReadings) -> ReceiverReadings:
        return ReceiverReadings(
            (self.clicks[0] + other.clicks[0], self.clicks[1] + other.clicks[1]),
            self.double_clicks + other.double_clicks,
            self.windows + other.windows,
            self.current_na + other.current_na,
            self.timed + other.timed,
            self.outer + other.outer,
        )


@dataclass(frozen=True, slots=True)
class TransmitterReadings:
    """What a transmitter reads of its monitor diode over some pulses."""

    pulses: int = 0
    diode_counts: int = 0

    def __add__(self, other: TransmitterReadings) -> TransmitterReadings:
        return TransmitterReadings(self.pulses + other.pulses, self.diode_counts + other.diode_counts)


def click_current_na(pulse_rate_hz: float) -> int:
    """Return what one click adds to a reading of the simulated current."""
    return round(CHARGE_PER_CLICK_C * pulse_rate_hz / WINDOW_PULSES * 1e9)


def outer_share(detector: Detector, shift_gates: float = 0.0) -> float:
    """Return the share of clicks by light, shifted so far, in the outer thirds of the gate."""
    if detector.jitter_s == 0.0:
        return float(1 / 6 < abs(shift_gates) <= 0.5)
    scale = detector.gate_s / (math.sqrt(2) * detector.jitter_s)

    def within(half_width: float) -> float:
        return 0.5 * (math.erf((half_width - shift_gates) * scale) + math.erf((half_width + shift_gates) * scale))

    return 1.0 - within(1 / 6) / within(0.5)


class SimulatedAmmeter:
    """Reads the current of both detectors together."""

    def __init__(self, rng: SimulationRng, pulse_rate_hz: float, effects: Effects, fraction: float) -> None:
        self._seed = rng.integer(0, 2**64 - 1)
        self._per_click_na = click_current_na(pulse_rate_hz)
        self._idle_na = IDLE_CURRENT_NA + round(effects.photocurrent_na * fraction)

    def read(self, first: int, count: int, clicks: int) -> tuple[int, int]:
        """Return number and sum of the readings that fall on pulses ``first`` to ``first + count - 1``."""
        windows = np.arange(-(-first // WINDOW_PULSES), -(-(first + count) // WINDOW_PULSES), dtype=np.uint64)
        words = philox(self._seed, _NOISE, 0, windows).astype("<u4")
        ones = int(np.bitwise_count(words).sum())
        noise = ones - windows.size * NOISE_BITS // 2
        return windows.size, windows.size * self._idle_na + clicks * self._per_click_na + noise


class SimulatedGateTimer:
    """Tells of a sample of clicks whether they fell into the outer thirds of the gate.

    Clicks without light are spread evenly; light is spread by the jitter of detector 0, which stands for both.
    """

    def __init__(self, rng: SimulationRng, detector: Detector, effects: Effects) -> None:
        self._seed = rng.integer(0, 2**64 - 1)
        shares = (outer_share(detector), outer_share(detector, effects.shift_gates), 2 / 3)
        self._limits = np.array([round(share * 2**32) for share in shares], np.uint64)

    def read(
        self, numbers: npt.NDArray[np.int64], dark: npt.NDArray[np.bool_], shifted: npt.NDArray[np.bool_]
    ) -> tuple[int, int]:
        """Return how many clicks were timed, and how many of these were in the outer thirds."""
        sampled = numbers % SAMPLED_EVERY == 0
        kind = np.where(dark[sampled], 2, shifted[sampled].astype(np.int64))
        words = philox(self._seed, _TIMES, 0, numbers[sampled].astype(np.uint64))[:, 0]
        return int(sampled.sum()), int((words < self._limits[kind]).sum())


class SimulatedMonitorDiode:
    """Counts light that enters the transmitter from outside."""

    def __init__(self, rng: SimulationRng, *, dark_probability: float, effects: Effects, fraction: float) -> None:
        self._seed = rng.integer(0, 2**64 - 1)
        chance = 1.0 - (1.0 - dark_probability) * (1.0 - fraction * effects.diode_probability)
        threshold = min((1 << 64) - 1, int(chance * 2.0**64))
        self._table = pulses.ArrivalTable(
            np.full((pulses.ROWS, 1), threshold, np.uint64), np.ones((pulses.ROWS, 1), np.uint32)
        )
        self._state = pulses.new_state()
        self._next = 0

    def read(self, count: int) -> TransmitterReadings:
        """Return what it counted over the next ``count`` pulses."""
        found = pulses.detect(
            np.zeros(count, np.uint8),
            self._table,
            pulses.DetectorDynamics(),
            self._state,
            seed=self._seed,
            first=self._next,
            basis_threshold=0,
            domain=_DIODE,
        )
        self._next += count
        return TransmitterReadings(count, found.pulses.size)
