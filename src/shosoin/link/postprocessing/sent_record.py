"""The transmitter's record while it waits: of every pulse, or of those alone that the receiver says it detected.

Which pulses were detected is public anyhow, and says nothing of bases, bits or intensities. A device that makes pulses
faster than it has room for their record forgets the others as soon as it is told. A receiver that names too few can
announce fewer detections; it cannot learn anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt

from shosoin.link.events.records import SentPulses
from shosoin.link.postprocessing.errors import PeerBrokeProtocol
from shosoin.link.postprocessing.sifting import SentAt, sent_at

__all__ = ["DetectedPulses", "SentRecord", "levels_before", "look_up", "thinned"]

Int64s = npt.NDArray[np.int64]

_JOINED_PULSES_MAX = (1 << 32) - 1
_JOINED_DETECTIONS = 4096


@dataclass(frozen=True, slots=True)
class DetectedPulses:
    """What the transmitter keeps of consecutive pulses of which it knows which were detected.

    Security: ``codes`` hold bits that become key.
    """

    first: int
    count: int
    """How many pulses these are, detected or not; below 2^32."""
    offsets: npt.NDArray[np.uint32] = field(repr=False)
    """Which of them were detected, counted from the first, rising."""
    codes: npt.NDArray[np.uint8] = field(repr=False)
    """Of each of those: bit, basis times two, intensity times four."""
    levels: npt.NDArray[np.uint32] = field(repr=False)
    """Pulses of each intensity up to and with each of those, and in all; shape (intensities, detected + 1)."""

    @classmethod
    def of(cls, sent: SentPulses, pulses: Int64s, intensity_count: int) -> Self:
        """Return what remains of a record when it is known which pulses were detected."""
        offsets = pulses - sent.first
        found = sent_at(sent, pulses)
        codes = found.bits | found.is_test.view(np.uint8) << np.uint8(1) | found.intensities << np.uint8(2)
        ends = np.append(offsets + 1, sent.count)
        levels = np.zeros((intensity_count, len(ends)), np.uint32)
        for index in range(intensity_count):
            levels[index] = np.append(0, np.cumsum(sent.intensity == index, dtype=np.uint32))[ends]
        return cls(sent.first, sent.count, offsets.astype(np.uint32), codes, levels)

    def joined(self, after: DetectedPulses) -> DetectedPulses | None:
        """Return this part and the next as one, so that dark links do not hold many tiny parts; None if it pays not."""
        if self.first + self.count != after.first or self.count + after.count > _JOINED_PULSES_MAX:
            return None
        if len(self.offsets) > _JOINED_DETECTIONS or len(after.offsets) > _JOINED_DETECTIONS:
            return None
        return DetectedPulses(
            self.first,
            self.count + after.count,
            np.concatenate([self.offsets, after.offsets + np.uint32(self.count)]),
            np.concatenate([self.codes, after.codes]),
            np.concatenate([self.levels[:, :-1], after.levels + self.levels[:, -1:]], axis=1),
        )

    def look_up(self, pulses: Int64s) -> SentAt:
        """Return what was sent in some of the pulses.

        Raises:
            PeerBrokeProtocol: one of them was said not to be detected.
        """
        wanted = pulses - self.first
        places = np.searchsorted(self.offsets, wanted)
        if places[-1] >= len(self.offsets) or bool(np.any(self.offsets[places] != wanted)):
            raise PeerBrokeProtocol(f"pulses from {pulses[0]} on that were said not to be detected")
        codes = self.codes.take(places)
        return SentAt(codes & np.uint8(1), (codes & np.uint8(2)).astype(np.bool_), codes >> np.uint8(2))


SentRecord = SentPulses | DetectedPulses


def thinned(sent: SentPulses, pulses: Int64s, intensity_count: int) -> DetectedPulses:
    """Return what remains of a record.

    Raises:
        PeerBrokeProtocol: the pulses do not rise, or are not of the record.
    """
    rises = bool(np.all(pulses[1:] > pulses[:-1]))
    if len(pulses) and not (rises and pulses[0] >= sent.first and pulses[-1] < sent.first + sent.count):
        raise PeerBrokeProtocol(f"pulses detected among those from {sent.first} that are not of them")
    return DetectedPulses.of(sent, pulses, intensity_count)


def look_up(sent: SentRecord, pulses: Int64s) -> SentAt:
    """Return what a record has of some pulses, rising, all of which it must cover."""
    return sent_at(sent, pulses) if isinstance(sent, SentPulses) else sent.look_up(pulses)


def levels_before(sent: SentRecord, end: int, intensity_count: int) -> Int64s:
    """Return how many pulses of each intensity a record has before a pulse.

    Where only detected pulses are known, ``end`` is taken to be just behind one of those, or behind all.
    """
    if isinstance(sent, SentPulses):
        levels = sent.intensity[: max(0, end - sent.first)]
        return np.array([np.count_nonzero(levels == index) for index in range(intensity_count)], np.int64)
    if end >= sent.first + sent.count:
        return sent.levels[:, -1].astype(np.int64)
    place = int(np.searchsorted(sent.offsets, max(0, end - sent.first)))
    return sent.levels[:, place - 1].astype(np.int64) if place else np.zeros(intensity_count, np.int64)
