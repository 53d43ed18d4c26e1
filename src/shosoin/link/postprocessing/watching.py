"""What the transmitter can tell a monitor about a block: how many pulses of each intensity there were and clicked.

The transmitter alone knows intensities of pulses that nobody detected; those of detected pulses count in any pair of
bases. Pulses and detections are counted in whole batches of announced detections, alike, so that their ratio is right;
the counts of the block itself are exact. Readings of devices belong to the block that is judged next.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shosoin.link.counts import DecoyCounts
from shosoin.link.events.devices import ReceiverReadings, TransmitterReadings
from shosoin.link.events.monitoring import Observation
from shosoin.link.events.records import Detections, SentPulses
from shosoin.link.events.tally import BlockTally
from shosoin.link.postprocessing.sifting import SentAt

__all__ = ["SentTally", "readings_of", "received_observation"]

Int64s = npt.NDArray[np.int64]


@dataclass(slots=True)
class SentTally:
    """Pulses and detections by intensity since the last block."""

    intensity_count: int
    next_pulse: int = 0
    pulses: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    detections: Int64s = field(default_factory=lambda: np.zeros(0, np.int64))
    readings: TransmitterReadings | None = None

    def __post_init__(self) -> None:
        if not self.pulses.size:
            self.pulses = np.zeros(self.intensity_count, np.int64)
            self.detections = np.zeros(self.intensity_count, np.int64)

    def count_pulses(self, sent: Iterable[SentPulses], end: int) -> None:
        """Count the pulses of a record from where it was counted last, before ``end``."""
        for part in sent:
            first, last = max(self.next_pulse, part.first), min(end, part.first + part.count)
            if first < last:
                levels = part.intensity[first - part.first : last - part.first]
                self.pulses += [int(np.count_nonzero(levels == index)) for index in range(self.intensity_count)]
        self.next_pulse = max(self.next_pulse, end)

    def count_detections(self, sent: SentAt) -> None:
        """Count what was detected of a batch."""
        levels = sent.intensities
        self.detections += [int(np.count_nonzero(levels == index)) for index in range(self.intensity_count)]

    def take(self) -> SentTally:
        """Return what was counted, and begin anew."""
        taken = SentTally(self.intensity_count, self.next_pulse, self.pulses, self.detections, self.readings)
        self.pulses = np.zeros(self.intensity_count, np.int64)
        self.detections = np.zeros(self.intensity_count, np.int64)
        self.readings = None
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
