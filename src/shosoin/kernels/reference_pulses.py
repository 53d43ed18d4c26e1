"""The specification of simulated pulses: random choices of a transmitter, and what the detectors of a receiver do.

All randomness is Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) of
a counter that names the pulse, so a result depends on the seed and the pulse's number, never on how pulses were
batched. Every decision compares a random word with an integer threshold: all paths agree bit for bit.

A block of four words has the counter ``(n mod 2^32, n >> 32, stream, domain)`` and the seed as key:

* stream 0, n = pulse // 4: word ``pulse % 4`` makes the transmitter's choice: bit 0 is the bit, bits 1-15 choose the
  basis, bits 16-31 the intensity;
* stream 1, n = pulse // 4: word ``pulse % 4`` is the upper half of the arrival number;
* stream 2, n = pulse: word 0 is its lower half, word 1 chooses the receiver's basis, bit 0 of word 2 decides a double
  click;
* stream 3, n = pulse: words 0 and 1 decide whether a click of detector 0, 1 has an after-pulse, the low bytes of words
  2 and 3 choose its delay.

*Arrival*: row ``state << 1 | receiver's basis`` of a table holds rising 64-bit thresholds and a code for each. The
first threshold above the arrival number chooses the code; if there is none, nothing arrives. Bits 0 and 1 of a code say
which detectors want to click, at least one; bits 2-27 are the caller's and come back as they are.

*Detectors*: a click blinds its detector (or both) for a number of gates; a click that light or a dark count caused may
schedule an after-pulse, at most sixteen at a time, which is no cause of another. Codes that come back have in bits 0
and 1 who clicked, in bit 28 whether an after-pulse took part, in bit 29 the measured bit, in bit 30 the basis.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from shosoin.kernels.buffers import Buffer, contents

__all__ = [
    "DYNAMICS_WORDS",
    "PENDING_MAX",
    "ROWS",
    "STATE_WORDS",
    "ReferencePulses",
    "philox",
]

Words = npt.NDArray[np.uint64]

ROWS = 32
PENDING_MAX = 16
DYNAMICS_WORDS = 6 + 256
"""Gates of dead time of detectors 0 and 1 (at least 1), whether a click blinds both, thresholds of an after-pulse of
detectors 0 and 1, the code of an after-pulse where nothing arrived, and 256 equally likely delays in gates; uint32."""
STATE_WORDS = 5 + 2 * PENDING_MAX
"""Number of the first gate at which detectors 0 and 1 see again, number of waiting after-pulses, clicks lost to dead
time, after-pulses that found no room; then pulse and detector of each waiting after-pulse, by pulse; int64."""

_CHUNK = 1 << 18
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_AFTER_PULSE = 1 << 28


def philox(seed: int, stream: int, domain: int, blocks: Words) -> Words:
    """Return the four words of each block, shape (blocks, 4), values below 2^32."""
    a, b = blocks & _LOW, blocks >> _HALF
    c, d = np.full_like(blocks, stream), np.full_like(blocks, domain)
    keys = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        left, right = _MULTIPLIERS[0] * a, _MULTIPLIERS[1] * c
        a, b = (right >> _HALF) ^ b ^ np.uint64(keys[0]), right & _LOW
        c, d = (left >> _HALF) ^ d ^ np.uint64(keys[1]), left & _LOW
        keys = [(key + step) & 0xFFFFFFFF for key, step in zip(keys, _WEYL, strict=True)]
    return np.stack((a, b, c, d), axis=1)


def _word_per_pulse(seed: int, stream: int, domain: int, first: int, count: int) -> Words:
    start = first // 4
    blocks = np.arange(start, (first + count + 3) // 4, dtype=np.uint64)
    return philox(seed, stream, domain, blocks).ravel()[first - 4 * start :][:count]


def _typed(buffer: Buffer, dtype: Any, *, writable: bool = False) -> npt.NDArray[Any]:
    return contents(buffer, writable=writable).view(dtype)


class ReferencePulses:
    """The kernels of this family in NumPy; ``shosoin.kernels.pulses`` tells the arguments."""

    name = "reference"

    def choose_from_seed(self, seed: int, first: int, thresholds: Buffer, outputs: Sequence[Buffer]) -> None:
        """Make choices; outputs are packed bits, packed bases, intensities and states."""
        arrays = [contents(each, writable=True) for each in outputs]
        count = arrays[3].size
        for start in range(0, count, _CHUNK):
            size = min(_CHUNK, count - start)
            self._encode(_word_per_pulse(seed, 0, 0, first + start, size), thresholds, arrays, start)

    def choose_from_words(self, words: Buffer, thresholds: Buffer, outputs: Sequence[Buffer]) -> None:
        """Make the choices from random words of 32 bits, little-endian, one a pulse."""
        arrays = [contents(each, writable=True) for each in outputs]
        given = contents(words).view("<u4")
        for start in range(0, given.size, _CHUNK):
            self._encode(given[start : start + _CHUNK].astype(np.uint64), thresholds, arrays, start)

    @staticmethod
    def _encode(words: Words, thresholds: Buffer, outputs: list[npt.NDArray[np.uint8]], start: int) -> None:
        limits = _typed(thresholds, np.uint32)
        bit = (words & np.uint64(1)).astype(np.uint8)
        basis = ((words >> np.uint64(1) & np.uint64(0x7FFF)) >= limits[0]).astype(np.uint8)
        level = np.zeros(words.size, np.uint8)
        for limit in limits[1:4]:
            level += (words >> np.uint64(16)) >= limit
        packed = slice(start // 8, start // 8 + (words.size + 7) // 8)
        here = slice(start, start + words.size)
        outputs[0][packed] = np.packbits(bit, bitorder="little")
        outputs[1][packed] = np.packbits(basis, bitorder="little")
        outputs[2][here] = level
        outputs[3][here] = level << 2 | basis << 1 | bit

    def detect(
        self,
        *,
        seed: int,
        domain: int,
        first: int,
        states: Buffer,
        basis_threshold: int,
        thresholds: Buffer,
        codes: Buffer,
        dynamics: Buffer,
        state: Buffer,
        pulses: Buffer,
        found: Buffer,
    ) -> tuple[int, int]:
        """Return how many pulses were done and how many detections written; it stops early where outputs are full."""
        light = contents(states)
        table = _typed(thresholds, np.uint64).reshape(ROWS, -1)
        meaning = _typed(codes, np.uint32).reshape(ROWS, -1)
        detectors = _Detectors(
            (seed, domain),
            basis_threshold,
            _typed(dynamics, np.uint32),
            _typed(state, np.int64, writable=True),
            _typed(pulses, np.int64, writable=True),
            _typed(found, np.uint32, writable=True),
        )
        for start in range(0, light.size, _CHUNK):
            part = light[start : start + _CHUNK]
            at = first + start
            offsets, codes_here, slow = _arrivals((seed, domain), at, part, basis_threshold, table, meaning)
            done = detectors.run(at, part.size, offsets, codes_here, slow)
            if done < part.size:
                return start + done, detectors.count
        return light.size, detectors.count


def _arrivals(
    generator: tuple[int, int],
    first: int,
    light: npt.NDArray[np.uint8],
    basis_threshold: int,
    table: Words,
    meaning: npt.NDArray[np.uint32],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint32], Words]:
    """Return offsets of the pulses from which something arrives, their codes, and their words of stream 2."""
    seed, domain = generator
    high = _word_per_pulse(seed, 1, domain, first, light.size)
    offsets = np.flatnonzero(high <= table[:, -1].max() >> _HALF)
    slow = philox(seed, 2, domain, np.uint64(first) + offsets.astype(np.uint64))
    number = high[offsets] << _HALF | slow[:, 0]
    rows = (light[offsets] & np.uint8(15)) << 1 | (slow[:, 1] >= basis_threshold)
    chosen = np.zeros(offsets.size, np.int64)
    for row in np.unique(rows):
        chosen[rows == row] = np.searchsorted(table[row], number[rows == row], side="right")
    arrived = chosen < table.shape[1]
    return offsets[arrived], meaning[rows[arrived], chosen[arrived]], slow[arrived]


class _Detectors:
    """Two detectors gate by gate, as far as one gate depends on earlier ones; the generator is seed and domain."""

    def __init__(
        self,
        generator: tuple[int, int],
        basis_threshold: int,
        dynamics: npt.NDArray[np.uint32],
        state: npt.NDArray[np.int64],
        pulses: npt.NDArray[np.int64],
        found: npt.NDArray[np.uint32],
    ) -> None:
        self._generator, self._basis_threshold = generator, basis_threshold
        self._state, self._pulses, self._found = state, pulses, found
        self._dead = [int(dynamics[0]), int(dynamics[1])]
        self._both = bool(dynamics[2])
        self._limits = dynamics[3:5].tolist()
        self._own_code, self._delays = int(dynamics[5]), dynamics[6:].tolist()
        self._blind = [int(state[0]), int(state[1])]
        self._waiting = [(int(state[5 + 2 * i]), int(state[6 + 2 * i])) for i in range(int(state[2]))]
        self.count = 0

    def run(
        self,
        first: int,
        count: int,
        offsets: npt.NDArray[np.int64],
        codes: npt.NDArray[np.uint32],
        slow: Words,
    ) -> int:
        """Let arrivals meet the detectors; return how many pulses were done before the outputs were full."""
        if self._memoryless(first):
            return self._run_at_once(first, count, offsets, codes, slow)
        try:
            numbers = first + offsets
            words = np.hstack((slow, philox(self._generator[0], 3, self._generator[1], numbers.astype(np.uint64))))
            for pulse, code, drawn in zip(numbers.tolist(), codes.tolist(), words.tolist(), strict=True):
                if not self._flush(pulse) or not self._gate(pulse, code & 3, code, drawn):
                    return self._stopped_at - first
            return count if self._flush(first + count) else self._stopped_at - first
        finally:
            self._save()

    def _memoryless(self, first: int) -> bool:
        return max(self._dead) <= 1 and not any(self._limits) and not self._waiting and max(self._blind) <= first

    def _run_at_once(
        self, first: int, count: int, offsets: npt.NDArray[np.int64], codes: npt.NDArray[np.uint32], slow: Words
    ) -> int:
        room = self._pulses.size - self.count
        done = count if offsets.size <= room else int(offsets[room])
        offsets, codes, slow = offsets[:room], codes[:room], slow[:room]
        here = slice(self.count, self.count + offsets.size)
        clicks = codes & 3
        bit = np.where(clicks == 3, slow[:, 2] & np.uint64(1), clicks == 2).astype(np.uint32)
        basis = (slow[:, 1] >= self._basis_threshold).astype(np.uint32)
        self._pulses[here] = first + offsets
        self._found[here] = codes & 0xFFFFFFF | bit << 29 | basis << 30
        self.count += offsets.size
        for detector in (0, 1):
            own = offsets[(clicks & (3 if self._both else 1 << detector)) > 0]
            if own.size:
                self._blind[detector] = first + int(own[-1]) + 1
        self._save()
        return done

    def _flush(self, before: int) -> bool:
        """Let after-pulses click that wait for pulses before this one; False if the outputs are full."""
        while self._waiting and self._waiting[0][0] < before:
            pulse = self._waiting[0][0]
            seed, domain = self._generator
            words = philox(seed, 2, domain, np.array([pulse], np.uint64))[0].tolist()
            if not self._gate(pulse, 0, self._own_code, words):
                return False
        return True

    def _gate(self, pulse: int, wanted: int, code: int, words: list[int]) -> bool:
        if self.count == self._pulses.size:
            self._stopped_at = pulse
            return False
        late = 0
        while self._waiting and self._waiting[0][0] == pulse:
            late |= 1 << self._waiting.pop(0)[1]
        clicks = self._seeing(pulse, wanted | late)
        if not clicks:
            return True
        if self._both:
            self._blind = [pulse + max(self._dead)] * 2
        else:
            self._blind = [pulse + self._dead[d] if clicks >> d & 1 else self._blind[d] for d in (0, 1)]
        if clicks & wanted:
            self._schedule(pulse, clicks & wanted, words[4:])
        bit = words[2] & 1 if clicks == 3 else clicks >> 1
        basis = int(words[1] >= self._basis_threshold)
        mark = _AFTER_PULSE if clicks & late else 0
        self._pulses[self.count] = pulse
        self._found[self.count] = code & 0xFFFFFFC | clicks | mark | bit << 29 | basis << 30
        self.count += 1
        return True

    def _seeing(self, pulse: int, wanted: int) -> int:
        seen = wanted & ((pulse >= self._blind[0]) | (pulse >= self._blind[1]) << 1)
        self._state[3] += (wanted ^ seen).bit_count()
        return seen

    def _schedule(self, pulse: int, clicks: int, words: list[int]) -> None:
        for detector in (0, 1):
            if clicks >> detector & 1 and words[detector] < self._limits[detector]:
                due = pulse + self._delays[words[2 + detector] & 255]
                if len(self._waiting) < PENDING_MAX:
                    insort(self._waiting, (due, detector), key=lambda entry: entry[0])
                else:
                    self._state[4] += 1

    def _save(self) -> None:
        self._state[:3] = (*self._blind, len(self._waiting))
        self._state[5:] = 0
        for index, entry in enumerate(self._waiting):
            self._state[5 + 2 * index : 7 + 2 * index] = entry
