"""From detections to blocks: which pulses remain, where a block ends, and what is counted in it.

Both ends keep one octet for each detection that remains: the own bit and the intensity, and in the test basis the other
end's bit. From the same two messages both compute the same blocks. A block ends with the detection that brings its key
bits to the block size; what is left of the batch begins the next one. So every detection, of either basis, belongs to
one block, and the counts of a block are of exactly its detections.

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
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SiftedBlock:
    """One block as one end sees it before reconciliation.

    Security: ``bits`` are secret; the representation shows sizes only.
    """

    number: int
    bits: Bytes
    """Own bits of the key basis, packed, ``key_bits`` of them."""
    key_bits: int
    intensity_masks: tuple[Bytes, ...]
    """For each intensity which key bits came from it, packed."""
    key_detections: npt.NDArray[np.int64]
    test_detections: npt.NDArray[np.int64]
    test_errors: npt.NDArray[np.int64]
    first_batch: int
    last_batch: int
    pulses: int
    """Pulses from the end of the block before to the end of this one, counted in whole batches."""

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
    is_key: npt.NDArray[np.bool_]
    """Of each detection of the batch: whether it remains, in the key basis."""
    test_places: npt.NDArray[np.int64]
    """Which detections of the batch remain in the test basis."""

    @classmethod
    def joined(cls, parts: Sequence[Kept]) -> Kept:
        """Return several batches as one."""
        starts = np.cumsum([0, *(len(part.is_key) for part in parts)])
        return cls(
            np.concatenate([part.keys for part in parts]),
            np.concatenate([part.tests for part in parts]),
            np.concatenate([part.is_key for part in parts]),
            np.concatenate([part.test_places + start for part, start in zip(parts, starts[:-1], strict=True)]),
        )

    def split(self, key_bits: int) -> tuple[Kept, Kept]:
        """Return what comes up to the detection that is the ``key_bits``-th of the key basis, and what comes after."""
        end = self._end_of(key_bits)
        tests = int(np.searchsorted(self.test_places, end))
        return (
            Kept(self.keys[:key_bits], self.tests[:tests], self.is_key[:end], self.test_places[:tests]),
            Kept(self.keys[key_bits:], self.tests[tests:], self.is_key[end:], self.test_places[tests:] - end),
        )

    def _end_of(self, key_bits: int) -> int:
        start = 0
        while True:
            places = np.flatnonzero(self.is_key[start : start + _CHUNK])
            if len(places) >= key_bits:
                return start + int(places[key_bits - 1]) + 1
            key_bits -= len(places)
            start += _CHUNK


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
    is_key, keys = kernels.keep(is_kept, detected.is_test, codes)
    own = codes.take(places)
    planes = 1 if intensity_count <= 2 else 2
    answer = Sifted(planes, is_kept, keys >> _INTENSITY_SHIFT, own >> _INTENSITY_SHIFT, own & _ONE)
    return answer, Kept(keys, own | tests << _PEER_SHIFT, is_key, places)


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
    tests, places = _tests_of(detected, sifted.is_kept, announced.test_places)
    is_key, keys = kernels.keep(sifted.is_kept, detected.is_test, announced.bits)
    if (len(keys), len(tests)) != (len(sifted.key_intensities), len(sifted.test_bits)):
        raise PeerBrokeProtocol(f"{len(sifted.test_bits)} bits of the test basis, {len(tests)} remain")
    keys = _codes(keys, sifted.key_intensities)
    tests = tests | sifted.test_intensities << _INTENSITY_SHIFT | sifted.test_bits << _PEER_SHIFT
    return Kept(keys, tests, is_key, places)


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
        block_bits: key bits of a block, a multiple of 8.
        intensity_count: how many intensities there are.
        number: of the block that is open.
        first_pulse: number of the pulse at which it begins.
    """

    block_bits: int
    intensity_count: int
    number: int
    first_pulse: int
    _parts: list[Kept] = field(default_factory=list)
    _key_bits: int = 0
    _first_batch: int | None = None
    _last_batch: int = 0
    _end: int = 0

    def add(self, batch: int, kept: Kept, last_pulse: int) -> list[SiftedBlock]:
        """Take what remains of a batch that ends with a pulse; return the blocks that it fills."""
        full = []
        self._end = last_pulse + 1
        while self._key_bits + len(kept.keys) >= self.block_bits:
            head, kept = kept.split(self.block_bits - self._key_bits)
            self._take(batch, head)
            full.append(self._close())
        if len(kept.is_key):
            self._take(batch, kept)
        return full

    @property
    def key_bits(self) -> int:
        """Key bits of the block that is open."""
        return self._key_bits

    def finish(self) -> SiftedBlock | None:
        """Close the open block where it is, less the last bits that fill no octet; None if it holds no octet."""
        whole = self._key_bits // 8 * 8
        if not whole:
            return None
        self._parts, self._key_bits = [Kept.joined(self._parts).split(whole)[0]], whole
        return self._close()

    def _take(self, batch: int, kept: Kept) -> None:
        self._parts.append(kept)
        self._key_bits += len(kept.keys)
        self._first_batch = batch if self._first_batch is None else self._first_batch
        self._last_batch = batch

    def _close(self) -> SiftedBlock:
        keys = np.concatenate([part.keys for part in self._parts])
        tests = np.concatenate([part.tests for part in self._parts])
        table = np.bincount(tests, minlength=_TEST_CODES).reshape(2, 4, 2)[:, : self.intensity_count]
        bits, masks = kernels.pack(keys, self.intensity_count)
        block = SiftedBlock(
            number=self.number,
            bits=bits,
            key_bits=self._key_bits,
            intensity_masks=tuple(masks),
            key_detections=np.array([_ones(mask) for mask in masks], np.int64),
            test_detections=table.sum(axis=(0, -1)),  # of one end's bit, intensity, the other's
            test_errors=table[0, :, 1] + table[1, :, 0],
            first_batch=self._first_batch or 0,
            last_batch=self._last_batch,
            pulses=self._end - self.first_pulse,
        )
        self.number += 1
        self.first_pulse = self._end
        self._parts, self._key_bits, self._first_batch = [], 0, None
        return block

    def __repr__(self) -> str:
        return f"Accumulator(number={self.number}, key_bits={self._key_bits}, redacted)"


def _ones(packed: Bytes) -> int:
    """Return how many bits are set; eight octets at a time, since the sum converts every number that it adds."""
    whole = len(packed) // 8 * 8
    counts = np.bitwise_count(packed[:whole].view(np.uint64)).sum(dtype=np.int64)
    return int(counts) + int(np.bitwise_count(packed[whole:]).sum(dtype=np.int64))
