"""Both ends' records of one block side by side: what their announcements would add up to.

A protocol never does this: there, the receiver announces pulses and bases, the transmitter answers with bases and
intensities, and errors come from comparing test bits and from error correction. Studies take the short way.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shosoin.link.counts import DecoyCounts
from shosoin.link.events.records import KEY_BASIS, TEST_BASIS, Detections, Int64s, SentPulses

__all__ = ["BlockTally", "tally"]


@dataclass(frozen=True, slots=True)
class BlockTally:
    """What both ends know of a block after sifting and error correction; arrays have shape (intensities,)."""

    pulses: Int64s
    """Pulses sent, in any basis."""
    detections: Int64s
    """Of these detected, in any pair of bases."""
    counts: DecoyCounts
    """Of these the ones with equal bases."""

    def __add__(self, other: BlockTally) -> BlockTally:
        mine, its = self.counts, other.counts
        return BlockTally(
            self.pulses + other.pulses,
            self.detections + other.detections,
            DecoyCounts(
                mine.key_detections + its.key_detections,
                mine.key_errors + its.key_errors,
                mine.test_detections + its.test_detections,
                mine.test_errors + its.test_errors,
            ),
        )


def tally(sent: SentPulses, detected: Detections, intensities: int) -> BlockTally:
    """Return the counts of one batch.

    Raises:
        ValueError: the records are of different pulses.
    """
    if (sent.first, sent.count) != (detected.first, detected.count):
        raise ValueError("the records must be of the same pulses")

    def per_level(levels: np.ndarray) -> Int64s:
        return np.bincount(levels, minlength=intensities).astype(np.int64)

    level = sent.intensity_at(detected.pulses)
    bases = sent.bases_at(detected.pulses)
    wrong = sent.bits_at(detected.pulses) != detected.bits
    equal = bases == detected.bases
    key, test = equal & (bases == KEY_BASIS), equal & (bases == TEST_BASIS)
    counts = DecoyCounts(
        per_level(level[key]), per_level(level[key & wrong]), per_level(level[test]), per_level(level[test & wrong])
    )
    pulses = np.array([np.count_nonzero(sent.intensity == index) for index in range(intensities)], np.int64)
    return BlockTally(pulses, per_level(level), counts)
