"""From detections to blocks: which pulses remain, and what is counted in a block.

Both ends keep one octet for each detection that remains: the own bit and the intensity, and in the test basis the other
end's bit. From the same two messages both compute the same blocks. A block is a number of detections that is known
before the first of them, whatever their bases: where it ends depends on nothing that anybody chooses or hears. Each
detection, kept or not, belongs to one block, a batch lies within one, and the counts of a block are of exactly its
detections. How many bits of the key basis that gives differs from block to block; all of them are in the block.

Security: bits of the test basis are public from here on; bits of the key basis stay in the own octets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shosoin.kernels import sifting as kernels
from shosoin.link.counts import DecoyCounts
from shosoin.link.events.records import SentPulses
from shosoin.link.postprocessing.errors import PeerBrokeProtocol
from shosoin.link.postprocessing.messages import Detected, Sifted

__all__ = [
    "Accumulator",
    "Announced",
    "Kept",
    "SentAt",
    "SiftedBlock",
    "announcement",
    "kept_of_receiver",
    "sent_at",
    "sift",
]

Bytes = npt.NDArray[np.uint8]

_INTENSITY_SHIFT = np.uint8(1)
_PEER_SHIFT = np.uint8(3)
_ONE = np.uint8(1)
_TEST_CODES = 16


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SiftedBlock:
    """One block as one end sees it before reconciliation.

    Security: ``bits`` are secret; the representation shows sizes only.
    """

    number: int
    bits: Bytes
    """Own bits of the key basis, packed, ``key_bits`` of them."""
    key_bits: int
    """As many as were detected in the key basis; the unused bits of the last octet are zero at both ends."""
    detections: int
    """Of the block, kept or not."""
    intensity_masks: tuple[Bytes, ...]
    """For each intensity which key bits came from it, packed."""
    key_detections: npt.NDArray[np.int64]
    test_detections: npt.NDArray[np.int64]
    test_errors: npt.NDArray[np.int64]
    first_batch: int
    last_batch: int
    """Or the number of the message that says that there are no more."""
    pulses: int
    """Pulses from the end of the block before to the last detection of this one."""

    def counts(self, key_errors: npt.ArrayLike | None = None) -> DecoyCounts:
        """Return the counts for the bound, without errors in the key basis as long as they are not known."""
        errors = np.zeros_like(self.key_detections) if key_errors is None else np.asarray(key_errors, np.int64)
        return DecoyCounts(self.key_detections, errors, self.test_detections, self.test_errors)

    @property
    def test_qber(self) -> float:
        """Error rate in the test basis; a half when nothing was detected there."""
        detected = int(self.test_detections.sum())
        return int(self.test_errors.sum()) / detected if detected else 0.5

    def errors_by_intensity(self, corrected: Bytes) -> tuple[int, ...]:
        """Return in how many key bits of each intensity the own bits differ from the corrected ones."""
        wrong = self.bits ^ corrected
        return tuple(_ones(wrong & mask) for mask in self.intensity_masks)

    def __repr__(self) -> str:
        return f"SiftedBlock(number={self.number}, key_bits={self.key_bits}, redacted)"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SentAt:
    """What was sent in some pulses, one value each. Security: ``bits`` are secret."""

    bits: Bytes
    is_test: npt.NDArray[np.bool_]
    intensities: Bytes

    @classmethod
    def joined(cls, parts: Sequence[SentAt]) -> SentAt:
        """Return several, one after the other."""
        columns = zip(*((part.bits, part.is_test, part.intensities) for part in parts), strict=True)
        return cls(*(np.concatenate(column) for column in columns))


def sent_at(sent: SentPulses, pulses: npt.NDArray[np.int64]) -> SentAt:
    """Return what a record has of some pulses, all of which it must cover."""
    return SentAt(*kernels.look_up(pulses, sent.first, sent.bits, sent.bases, sent.intensity))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Kept:
    """What remains of a batch. Security: ``keys`` are secret."""

    keys: Bytes
    """For each detection in the key basis: the own bit, and the intensity times two."""
    tests: Bytes
    """The same for the test basis, and the other end's bit times eight."""
    detections: int
    """Of the batch, kept or not."""


def sift(detected: Detected, sent: SentAt, intensity_count: int) -> tuple[Sifted, Kept]:
    """Return the transmitter's answer to a batch, and what remains of it.

    Args:
        detected: what the receiver says.
        sent: what was sent in those pulses.
        intensity_count: how many intensities there are.
    """
    is_kept = sent.is_test == detected.is_test
    codes = _codes(sent.bits, sent.intensities)
    tests, places = _tests_of(detected, is_kept, kernels.places_of(detected.is_test))
    _, keys = kernels.keep(is_kept, detected.is_test, codes)
    own = codes.take(places)
    planes = 1 if intensity_count <= 2 else 2
    answer = Sifted(planes, is_kept, keys >> _INTENSITY_SHIFT, own >> _INTENSITY_SHIFT, own & _ONE)
    return answer, Kept(keys, own | tests << _PEER_SHIFT, len(is_kept))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Announced:
    """What the receiver keeps of a batch that it announced. Security: ``bits`` are secret."""

    bits: Bytes
    """One value for each detection."""
    test_places: npt.NDArray[np.int64]
    """Which of them are in the test basis."""


def announcement(
    pulses: npt.NDArray[np.int64], is_test: npt.NDArray[np.bool_], bits: Bytes
) -> tuple[Detected, Announced]:
    """Return what the receiver says of detections, and what it keeps."""
    places = kernels.places_of(is_test)
    return Detected(pulses, is_test, bits.take(places)), Announced(bits, places)


def kept_of_receiver(detected: Detected, announced: Announced, sifted: Sifted, intensity_count: int) -> Kept:
    """Return what remains of a batch at the receiver.

    Raises:
        PeerBrokeProtocol: the answer belongs to another batch, or names an intensity that does not exist.
    """
    if len(sifted.is_kept) != len(detected.pulses):
        raise PeerBrokeProtocol(f"{len(sifted.is_kept)} detections sifted of {len(detected.pulses)}")
    for levels in (sifted.key_intensities, sifted.test_intensities):
        if int(levels.max(initial=0)) >= intensity_count:
            raise PeerBrokeProtocol("an intensity beyond the last")
    tests, _ = _tests_of(detected, sifted.is_kept, announced.test_places)
    _, keys = kernels.keep(sifted.is_kept, detected.is_test, announced.bits)
    if (len(keys), len(tests)) != (len(sifted.key_intensities), len(sifted.test_bits)):
        raise PeerBrokeProtocol(f"{len(sifted.test_bits)} bits of the test basis, {len(tests)} remain")
    keys = _codes(keys, sifted.key_intensities)
    tests = tests | sifted.test_intensities << _INTENSITY_SHIFT | sifted.test_bits << _PEER_SHIFT
    return Kept(keys, tests, len(sifted.is_kept))


def _codes(bits: Bytes, intensities: Bytes) -> Bytes:
    codes = intensities + intensities  # NumPy adds octets ten times as fast as it shifts them
    codes |= bits
    return codes


def _tests_of(
    detected: Detected, is_kept: npt.NDArray[np.bool_], places: npt.NDArray[np.int64]
) -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Return the receiver's bits in the test basis that remain, and their places in the batch."""
    remain = is_kept.take(places)
    found = kernels.places_of(remain)
    return detected.test_bits.take(found), places.take(found)


@dataclass(slots=True, repr=False)
class Accumulator:
    """Collects what remains of batches until a block is full.

    Args:
        block_detections: detections of a block.
        intensity_count: how many intensities there are.
        number: of the block that is open.
        first_pulse: number of the pulse at which it begins.
    """

    block_detections: int
    intensity_count: int
    number: int
    first_pulse: int
    _parts: list[Kept] = field(default_factory=list)
    _detections: int = 0
    _first_batch: int = 0
    _last_batch: int = 0
    _end: int = 0

    @property
    def missing(self) -> int:
        """Detections that the open block lacks; no batch may have more."""
        return self.block_detections - self._detections

    def add(self, batch: int, kept: Kept, last_pulse: int) -> SiftedBlock | None:
        """Take what remains of a batch that ends with a pulse; return the block if that fills it.

        Raises:
            ValueError: the batch has more detections than the block lacks.
        """
        if kept.detections > self.missing:
            raise ValueError(f"a batch of {kept.detections} detections for a block that lacks {self.missing}")
        if not self._parts:
            self._first_batch = batch
        self._parts.append(kept)
        self._detections += kept.detections
        self._last_batch = batch
        self._end = last_pulse + 1
        return None if self.missing else self._close()

    def finish(self, batch: int) -> SiftedBlock | None:
        """Close the open block where it is; None if it has no detection.

        Args:
            batch: number of the message that says so.
        """
        self._last_batch = batch
        return self._close() if self._detections else None

    def _close(self) -> SiftedBlock:
        keys = np.concatenate([part.keys for part in self._parts])
        tests = np.concatenate([part.tests for part in self._parts])
        table = np.bincount(tests, minlength=_TEST_CODES).reshape(2, 4, 2)[:, : self.intensity_count]
        bits, masks = kernels.pack(keys, self.intensity_count)
        block = SiftedBlock(
            number=self.number,
            bits=bits,
            key_bits=len(keys),
            detections=self._detections,
            intensity_masks=tuple(masks),
            key_detections=np.array([_ones(mask) for mask in masks], np.int64),
            test_detections=table.sum(axis=(0, -1)),  # of one end's bit, intensity, the other's
            test_errors=table[0, :, 1] + table[1, :, 0],
            first_batch=self._first_batch,
            last_batch=self._last_batch,
            pulses=self._end - self.first_pulse,
        )
        self.number += 1
        self.first_pulse = self._end
        self._parts, self._detections = [], 0
        return block

    def __repr__(self) -> str:
        return f"Accumulator(number={self.number}, detections={self._detections}, redacted)"


def _ones(packed: Bytes) -> int:
    """Return how many bits are set; eight octets at a time, since the sum converts every number that it adds."""
    whole = len(packed) // 8 * 8
    counts = np.bitwise_count(packed[:whole].view(np.uint64)).sum(dtype=np.int64)
    return int(counts) + int(np.bitwise_count(packed[whole:]).sum(dtype=np.int64))
