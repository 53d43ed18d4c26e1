"""What the transmitter can tell a monitor about a block: how many pulses of each intensity there were and clicked.

The transmitter alone knows intensities of pulses that nobody detected; those of detected pulses count in any pair of
bases. Pulses count for the block up to its last detection. Readings of devices come for many pulses at a time, and
count for every block that has one of these pulses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Generic, Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from shosoin.link.counts import DecoyCounts
from shosoin.link.events.devices import ReceiverReadings, TransmitterReadings
from shosoin.link.events.monitoring import Observation
from shosoin.link.events.records import Detections
from shosoin.link.events.tally import BlockTally
from shosoin.link.postprocessing.sent_record import SentRecord, levels_before
from shosoin.link.postprocessing.sifting import SentAt

__all__ = ["ReadingsQueue", "SentTally", "readings_of", "received_observation"]

Int64s = npt.NDArray[np.int64]
_READINGS_MAX = 4096


class _Readings(Protocol):
    def __add__(self, other: Self, /) -> Self: ...


R = TypeVar("R", bound=_Readings)


class ReadingsQueue(Generic[R]):
    """Readings of devices in order, each from one place to another; of very many, neighbours are added up."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int, R]] = deque()

    def add(self, start: int, end: int, readings: R) -> None:
        """Take readings that follow those before."""
        self._waiting.append((start, end, readings))
        if len(self._waiting) > _READINGS_MAX:
            held = list(self._waiting)
            pairs = zip(held[::2], held[1::2], strict=False)
            odd = held[len(held) // 2 * 2 :]
            self._waiting = deque([*((one[0], two[1], one[2] + two[2]) for one, two in pairs), *odd])

    def take(self, end: int, *, begin: int = 0, settled: int | None = None) -> R | None:
        """Return the sum of what begins before a place; what reaches up to it or further is told again next time.

        Args:
            begin: place before which nothing is wanted: it is another block's.
            settled: likewise what reaches up to this place or further, for whoever asks about an earlier one yet.
        """
        begun = [readings for start, last, readings in self._waiting if start < end and last >= begin]
        while self._waiting and self._waiting[0][1] < (end if settled is None else settled):
            self._waiting.popleft()
        return reduce(add, begun) if begun else None


@dataclass(slots=True)
class SentTally:
    """Pulses and detections by intensity since the last block."""

    intensity_count: int
    next_pulse: int = 0
    pulses: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    detections: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    readings: TransmitterReadings | None = None
    _waiting: ReadingsQueue[TransmitterReadings] = field(default_factory=ReadingsQueue[TransmitterReadings])
    """By number of the pulse."""

    def __post_init__(self) -> None:
        if not self.pulses.size:
            self.pulses = np.zeros(self.intensity_count, np.int64)
            self.detections = np.zeros(self.intensity_count, np.int64)

    def read(self, first: int, end: int, readings: TransmitterReadings) -> None:
        """Take readings of the diode from one pulse to before another."""
        self._waiting.add(first, end - 1, readings)

    def count_pulses(self, sent: Iterable[SentRecord], end: int) -> None:
        """Count the pulses of a record from where it was counted last, before ``end``."""
        for part in sent:
            if self.next_pulse < part.first + part.count and part.first < end:
                self.pulses += levels_before(part, end, self.intensity_count)
                self.pulses -= levels_before(part, self.next_pulse, self.intensity_count)
        self.next_pulse = max(self.next_pulse, end)

    def count_detections(self, sent: SentAt) -> None:
        """Count what was detected of a batch."""
        levels = sent.intensities
        self.detections += [int(np.count_nonzero(levels == index)) for index in range(self.intensity_count)]

    def take(self) -> SentTally:
        """Return what was counted, and begin anew."""
        taken = SentTally(
            self.intensity_count, self.next_pulse, self.pulses, self.detections, self._waiting.take(self.next_pulse)
        )
        self.pulses = np.zeros(self.intensity_count, np.int64)
        self.detections = np.zeros(self.intensity_count, np.int64)
        return taken

    def observation(self, counts: DecoyCounts) -> Observation:
        """Return what a monitor judges."""
        return Observation(BlockTally(self.pulses, self.detections, counts), transmitter=self.readings)


def received_observation(counts: DecoyCounts, readings: ReceiverReadings | None) -> Observation:
    """Return what the receiver's monitor judges: errors and devices, no gains."""
    nothing = np.zeros(counts.key_detections.shape, np.int64)
    return Observation(BlockTally(nothing, nothing, counts), receiver=readings)


def readings_of(detections: Detections) -> ReceiverReadings:
    """Return what a record of detections alone tells of the devices: clicks of each detector, and double clicks.

    A bit stands for the detector that clicked. Which detections were double clicks is not recorded and their bits are
    drawn at random: half of them are taken from either. Currents and times within the gate are not recorded.
    """
    count, doubles = detections.pulses.size, detections.double_clicks
    singles = count - doubles
    ones = min(singles, max(0, int(np.count_nonzero(detections.bits)) - doubles // 2))
    return ReceiverReadings((singles - ones + doubles, ones + doubles), doubles)
