"""From detections to blocks: which pulses remain, where a block ends, and what is counted in it.

Both ends keep one byte for each detection that remains, in the order of the pulses: the own bit, the intensity, whether
it is of the test basis, and there the other end's bit. From the same two messages both compute the same blocks. A block
ends with the detection that brings its key bits to the block size; what is left of the batch begins the next one. So
every detection, of either basis, belongs to one block, and the counts of a block are of exactly its detections.

Security: bits of the test basis are public from here on; bits of the key basis stay in the own byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shosoin.link.counts import DecoyCounts
from shosoin.link.events.records import SentPulses
from shosoin.link.postprocessing.errors import PeerBrokeProtocol
from shosoin.link.postprocessing.messages import Detected, Sifted

__all__ = ["Accumulator", "SentAt", "SiftedBlock", "codes_of_receiver", "sent_at", "sift"]

Bytes = npt.NDArray[np.uint8]

_INTENSITY_SHIFT = 1
_TEST = 8
_PEER = 16
_CODES = 32
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
        return tuple(int(np.bitwise_count(wrong & mask).sum(dtype=np.int64)) for mask in self.intensity_masks)

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
    offsets = pulses - sent.first
    octets, shifts = offsets >> 3, (offsets & 7).astype(np.uint8)
    bits = sent.bits.take(octets) >> shifts & np.uint8(1)
    bases = sent.bases.take(octets) >> shifts & np.uint8(1)
    return SentAt(bits, bases.view(np.bool_), sent.intensity.take(offsets))


def sift(detected: Detected, sent: SentAt, intensity_count: int) -> tuple[Sifted, Bytes]:
    """Return the transmitter's answer to a batch, and its codes of the detections that remain.

    Args:
        detected: what the receiver says.
        sent: what was sent in those pulses.
        intensity_count: how many intensities there are.
    """
    # ``compress`` is several times faster than a mask as index, which shows at this rate.
    is_kept = sent.is_test == detected.is_test
    code = sent.bits | sent.intensities << _INTENSITY_SHIFT
    code |= sent.is_test.view(np.uint8) * np.uint8(_TEST)
    kept = code.compress(is_kept)
    tests = np.flatnonzero(kept >= _TEST)
    peer = detected.test_bits.compress(is_kept.compress(detected.is_test))
    own = kept[tests]
    kept[tests] = own | peer * np.uint8(_PEER)
    planes = 1 if intensity_count <= 2 else 2
    return Sifted(planes, is_kept, kept >> np.uint8(_INTENSITY_SHIFT) & np.uint8(3), own & np.uint8(1)), kept


def codes_of_receiver(detected: Detected, bits: Bytes, sifted: Sifted, intensity_count: int) -> Bytes:
    """Return the receiver's codes of the detections that remain.

    Raises:
        PeerBrokeProtocol: the answer belongs to another batch, or names an intensity that does not exist.
    """
    if len(sifted.is_kept) != len(detected.pulses):
        raise PeerBrokeProtocol(f"{len(sifted.is_kept)} detections sifted of {len(detected.pulses)}")
    if int(sifted.intensities.max(initial=0)) >= intensity_count:
        raise PeerBrokeProtocol("an intensity beyond the last")
    code = bits | detected.is_test.view(np.uint8) * np.uint8(_TEST)
    kept = code.compress(sifted.is_kept)
    kept |= sifted.intensities << _INTENSITY_SHIFT
    tests = np.flatnonzero(kept >= _TEST)
    if len(tests) != len(sifted.test_bits):
        raise PeerBrokeProtocol(f"{len(sifted.test_bits)} bits of the test basis for another number of detections")
    kept[tests] |= sifted.test_bits * np.uint8(_PEER)
    return kept


@dataclass(slots=True, repr=False)
class Accumulator:
    """Collects codes until a block is full.

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
    _parts: list[Bytes] = field(default_factory=list)
    _key_bits: int = 0
    _first_batch: int | None = None
    _last_batch: int = 0
    _end: int = 0

    def add(self, batch: int, codes: Bytes, last_pulse: int) -> list[SiftedBlock]:
        """Take the codes of a batch that ends with a pulse; return the blocks that they fill."""
        full = []
        self._end = last_pulse + 1
        keys = len(codes) - int(np.count_nonzero(codes & _TEST))
        while self._key_bits + keys >= self.block_bits:
            cut = self._cut(codes, self.block_bits - self._key_bits)
            self._take(batch, codes[:cut])
            full.append(self._close())
            codes = codes[cut:]
            keys = len(codes) - int(np.count_nonzero(codes & _TEST))
        if len(codes):
            self._take(batch, codes)
        return full

    @property
    def key_bits(self) -> int:
        """Key bits of the block that is open."""
        return self._key_bits

    def finish(self) -> SiftedBlock | None:
        """Close the open block where it is, less the last bits that fill no byte; None if it holds no byte."""
        codes = np.concatenate(self._parts) if self._parts else np.empty(0, np.uint8)
        whole = self._key_bits // 8 * 8
        if not whole:
            return None
        cut = self._cut(codes, whole)
        self._parts, self._key_bits = [codes[:cut]], whole
        return self._close()

    @staticmethod
    def _cut(codes: Bytes, wanted: int) -> int:
        """Return how many codes hold ``wanted`` key bits, of which there are enough."""
        start = 0
        while True:
            chunk = np.flatnonzero(codes[start : start + _CHUNK] & _TEST == 0)
            if len(chunk) >= wanted:
                return start + int(chunk[wanted - 1]) + 1
            wanted -= len(chunk)
            start += _CHUNK

    def _take(self, batch: int, codes: Bytes) -> None:
        self._parts.append(codes)
        self._key_bits += len(codes) - int(np.count_nonzero(codes & _TEST))
        self._first_batch = batch if self._first_batch is None else self._first_batch
        self._last_batch = batch

    def _close(self) -> SiftedBlock:
        is_test = [part >= _TEST for part in self._parts]
        key = np.concatenate([part.compress(~mask) for part, mask in zip(self._parts, is_test, strict=True)])
        tests = np.concatenate([part.compress(mask) for part, mask in zip(self._parts, is_test, strict=True)])
        table = np.bincount(tests, minlength=_CODES).reshape(2, 2, 4, 2)[:, 1, : self.intensity_count]
        masks = [
            np.packbits(key >> _INTENSITY_SHIFT == index, bitorder="little") for index in range(self.intensity_count)
        ]
        block = SiftedBlock(
            number=self.number,
            bits=np.packbits(key & 1, bitorder="little"),
            key_bits=self._key_bits,
            intensity_masks=tuple(masks),
            key_detections=np.array([np.bitwise_count(mask).sum(dtype=np.int64) for mask in masks]),
            test_detections=table.sum(axis=(0, -1)),  # of peer's bit, intensity, own bit
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
