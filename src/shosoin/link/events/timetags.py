"""Lists of time tags, as counters of single photons write them, made into ``Detections``.

A line is a time in picoseconds and the number of a channel, between them a comma, semicolon or white space; ``#``
begins a comment. A channel stands for a basis and a bit. The number of a pulse is the nearest multiple of the pulse
period after an offset; what falls outside of the gate is dropped and counted. Where both detectors of a basis click
within a gate the bit is random; where detectors of both bases do (passive choice of the basis), the basis is.

The clocks of the two ends differ in rate and in origin. ``recover_clock`` finds rate and phase from the tags alone,
since pulses are periodic; ``find_pulse_offset`` finds which pulse is which from a sample of bits that both ends
disclose and then discard.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from shosoin.base import Entropy, Rejected, SimulationRng
from shosoin.link.events.records import PULSES_MAX, Detections, Int64s, SentPulses, Uint8s

__all__ = ["Clock", "Converted", "TimeTags", "convert", "find_pulse_offset", "parse_time_tags", "recover_clock"]

TAGS_MAX = 1 << 26
TIME_PS_MAX = 1 << 60
RATE_HZ_MAX = 1e12
CHANNELS_MAX = 256
_PERIODS_MIN = 1000
_TAGS_SOUGHT = 5000
"""So many tags are enough to tell one rate from another."""
_RATES_MAX = 20_000
_TEXT = bytes.maketrans(b",;\t\r", b"    ")
_ALLOWED = b"0123456789 \n"
_PIECE_BYTES = 1 << 20
_NO_TAGS = (np.empty(0, np.int64), np.empty(0, np.uint8))


@dataclass(frozen=True, slots=True)
class TimeTags:
    """Times in ps, in order, and the channel of each. Channels become key: they stay out of repr and logs."""

    times_ps: Int64s = field(repr=False)
    channels: Uint8s = field(repr=False)


@dataclass(frozen=True, slots=True)
class Clock:
    """When pulses arrive on the receiver's clock: pulse n at ``origin_ps + offset_ps + n * period_ps``.

    Raises:
        ValueError: a value is no number, or no pulse follows another.
    """

    offset_ps: float
    period_ps: float
    origin_ps: int = 0
    """A tag near the pulses, so that what is counted from it keeps its picoseconds: floats of a counter that has run
    for days do not."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.offset_ps) or not 0.0 < self.period_ps < math.inf:
            raise ValueError(f"want a finite offset and a period above 0, got {self.offset_ps} and {self.period_ps}")
        if not -TIME_PS_MAX <= self.origin_ps <= TIME_PS_MAX:
            raise ValueError(f"an origin lies within {TIME_PS_MAX} ps of 0, got {self.origin_ps}")


@dataclass(frozen=True, slots=True)
class Converted:
    """Detections, and what became of the other tags."""

    detections: Detections
    outside_gate: int
    outside_range: int
    """Tags before the first pulse asked for, or after the last."""
    unmapped: int
    """Tags of channels that stand for nothing."""
    both_bases: int
    """Pulses with clicks in both bases."""


def parse_time_tags(text: bytes) -> TimeTags:
    """Return the tags of a text, sorted by time.

    Raises:
        Rejected: a line is not a time and a channel, a number is out of range, or there are more than 2^26 tags.
    """
    parts: list[tuple[Int64s, Uint8s]] = []
    found = at = 0
    # Piece by piece: a number takes many times its digits until it is in an array.
    while at < len(text):
        end = text.find(b"\n", at + _PIECE_BYTES) + 1 or len(text)
        if end - at > 2 * _PIECE_BYTES:  # before anything makes copies of it
            raise _rejected("a line of time tags is too long")
        parts.append(_tags_of(text[at:end]))
        at, found = end, found + parts[-1][0].size
        if found > TAGS_MAX:
            raise _rejected(f"more than {TAGS_MAX} time tags")
    times, channels = (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else _NO_TAGS
    order = np.argsort(times, kind="stable")
    return TimeTags(times[order], channels[order])


def _tags_of(text: bytes) -> tuple[Int64s, Uint8s]:
    lines = [line.split(b"#", 1)[0] for line in text.split(b"\n")] if b"#" in text else [text]
    plain = b"\n".join(lines).translate(_TEXT)
    if plain.translate(None, _ALLOWED):
        raise _rejected("a time tag has characters other than digits and separators")
    rows = plain.split(b"\n")
    numbers = plain.split()
    if any(len(number) > 19 for number in numbers) or any(len(row.split()) not in {0, 2} for row in rows):
        raise _rejected("a line of time tags is not a time in ps and a channel")
    values = np.array([int(number) for number in numbers], np.uint64).reshape(-1, 2)
    if values.size and (int(values[:, 0].max()) >= TIME_PS_MAX or int(values[:, 1].max()) >= CHANNELS_MAX):
        raise _rejected(f"a time must be below {TIME_PS_MAX} ps, a channel below {CHANNELS_MAX}")
    return values[:, 0].astype(np.int64), values[:, 1].astype(np.uint8)


def convert(
    tags: TimeTags,
    clock: Clock,
    channels: Mapping[int, tuple[int, int]],
    *,
    gate_ps: float,
    first: int,
    count: int,
    random: Entropy | SimulationRng,
) -> Converted:
    """Return the detections of pulses ``first`` to ``first + count - 1``.

    Args:
        tags: what the counter wrote.
        clock: when pulses arrive.
        channels: basis and bit that each channel stands for.
        gate_ps: full width of the gate around each pulse.
        first: number of the first pulse.
        count: how many pulses.
        random: decides double clicks; ``Entropy`` where key is made of the bits.

    Raises:
        ValueError: an argument out of range.
    """
    if not 0 < gate_ps <= clock.period_ps or not 0 <= first <= first + count <= PULSES_MAX:
        raise ValueError("want a gate no wider than the period, and pulses from 0 to 2^62")
    if any(not 0 <= number < CHANNELS_MAX or not set(pair) <= {0, 1} for number, pair in channels.items()):
        raise ValueError("a channel stands for a basis and a bit, 0 or 1 each")
    detector = np.full(CHANNELS_MAX, 4, np.int64)
    for number, (basis, bit) in channels.items():
        detector[number] = basis << 1 | bit
    which = detector[tags.channels]
    # Whole picoseconds are subtracted as integers: a float of a late time is off by a hundred of them.
    whole = math.floor(min(max(clock.offset_ps, -TIME_PS_MAX), TIME_PS_MAX))
    since = (tags.times_ps - clock.origin_ps - whole).astype(np.float64) - (clock.offset_ps - whole)
    pulse = np.rint(since / clock.period_ps)
    inside = np.abs(since - pulse * clock.period_ps) <= gate_ps / 2
    here = (pulse >= first) & (pulse < first + count)
    good = (which < 4) & inside & here
    numbers, clicks = _clicks(pulse[good].astype(np.int64), which[good])
    detections, both = _squash(numbers, clicks, first, count, random)
    mapped = which < 4
    return Converted(
        detections,
        int(np.count_nonzero(mapped & here & ~inside)),
        int(np.count_nonzero(mapped & ~here)),
        int(np.count_nonzero(~mapped)),
        both,
    )


def recover_clock(tags: TimeTags, pulse_rate_hz: float, *, rate_error_max: float = 1e-5) -> Clock:
    """Return rate and phase of the pulses from when tags arrive within the period.

    The phase of the first tags is sought over all rates allowed; the span then grows fourfold, which leaves a quarter
    of the uncertainty, until all tags agree. The offset is found within a period only.

    Raises:
        Rejected: the tags show no period: too few, too noisy, or another rate.
        ValueError: a rate that is none, or an error of it outside of (0, 0.1].
    """
    if not 0.0 < pulse_rate_hz <= RATE_HZ_MAX or not 0.0 < rate_error_max <= 0.1:
        raise ValueError(f"want a rate in Hz and its relative error, got {pulse_rate_hz} and {rate_error_max}")
    if tags.times_ps.size < 100:
        raise _rejected("fewer than 100 time tags tell no clock")
    start = int(tags.times_ps[0])
    since = (tags.times_ps - start).astype(np.float64)
    nominal = pulse_rate_hz * 1e-12
    if since[-1] * nominal < _PERIODS_MIN:
        raise _rejected(f"time tags within fewer than {_PERIODS_MIN} periods tell no clock")
    error, uncertainty = 0.0, rate_error_max
    span = float(max(since[99], 0.5 / (nominal * rate_error_max), _PERIODS_MIN / nominal))
    while True:
        error, uncertainty = _sought(since[since <= span], nominal, error, uncertainty)
        if span >= since[-1]:
            break
        span *= 4
    frequency = nominal * (1.0 + error)
    # What is left of the error of the rate turns late tags against early ones.
    early = since < since[-1] / 2
    turned = float(np.angle(_phasor(since[~early], frequency) / _phasor(since[early], frequency))) / (2 * math.pi)
    frequency -= turned / float(since[~early].mean() - since[early].mean())
    phase = float(np.angle(_phasor(since, frequency))) / (2 * math.pi)
    return Clock(float(phase / frequency), float(1.0 / frequency), start)


def _sought(since: npt.NDArray[np.float64], nominal: float, error: float, uncertainty: float) -> tuple[float, float]:
    """Return the relative error of the rate at which these tags agree best, and how far it may be off."""
    some = since[:: max(1, since.size // _TAGS_SOUGHT)]
    step = 0.1 / (nominal * max(float(since[-1]), 1.0 / nominal))
    if 2 * uncertainty / step > _RATES_MAX:
        raise _rejected("time tags are too far apart for a clock so uncertain")
    tried = error + np.arange(-uncertainty, uncertainty + step, step)
    best = float(max(tried.tolist(), key=lambda each: abs(_phasor(some, nominal * (1.0 + each)))))
    if abs(_phasor(some, nominal * (1.0 + best))) < max(0.2, 5.0 / math.sqrt(some.size)):
        raise _rejected("time tags show no period at the pulse rate")
    return best, 2 * step


def find_pulse_offset(sent: SentPulses, detected: Detections, *, within: int, sample: int = 2000) -> int:
    """Return what to add to the receiver's pulse numbers to get the transmitter's.

    Security: the bits of the sample are disclosed for this and must be discarded.

    Raises:
        Rejected: no offset makes the sample agree.
    """
    numbers, bases, bits = detected.pulses[:sample], detected.bases[:sample], detected.bits[:sample]
    scores = {}
    for offset in _offsets(numbers, sent, within):
        moved = numbers + offset
        valid = (moved >= sent.first) & (moved < sent.first + sent.count)
        if np.count_nonzero(valid) < 100:
            continue
        equal = sent.bases_at(moved[valid]) == bases[valid]
        agreed = sent.bits_at(moved[valid]) == bits[valid]
        trials = int(np.count_nonzero(equal))
        if trials:
            # In units of the standard deviation of chance agreement.
            scores[offset] = (2 * int(np.count_nonzero(equal & agreed)) - trials) / math.sqrt(trials)
    best = max(scores, key=lambda offset: scores[offset], default=None)
    if best is None or scores[best] < 6.0 + math.log10(1 + 2 * within):
        raise _rejected("no offset makes the disclosed sample agree")
    return best


def _offsets(numbers: Int64s, sent: SentPulses, within: int) -> range:
    """Return the offsets allowed that move any of these pulses among those sent."""
    if not numbers.size:
        return range(0)
    low, high = sent.first - int(numbers.max()), sent.first + sent.count - 1 - int(numbers.min())
    return range(max(-within, low), min(within, high) + 1)


def _phasor(since: npt.NDArray[np.float64], frequency: float) -> complex:
    cycles = since * frequency
    return complex(np.exp(2j * np.pi * (cycles - np.floor(cycles))).mean())


def _clicks(pulses: Int64s, detectors: Int64s) -> tuple[Int64s, Int64s]:
    """Return pulse numbers in order, each once, and a mask of the detectors that clicked."""
    numbers, place = np.unique(pulses, return_inverse=True)
    mask = np.zeros(numbers.size, np.int64)
    np.bitwise_or.at(mask, place, 1 << detectors)
    return numbers, mask


def _squash(
    numbers: Int64s, clicks: Int64s, first: int, count: int, random: Entropy | SimulationRng
) -> tuple[Detections, int]:
    key, test = clicks & 3, clicks >> 2
    drawn = _octets(random, numbers.size)
    both_bases = (key > 0) & (test > 0)
    basis = np.where(both_bases, drawn & 1, test > 0).astype(np.uint8)
    own = np.where(basis == 1, test, key)
    bit = np.where(own == 3, drawn >> 1 & 1, own == 2).astype(np.uint8)
    doubles = int(np.count_nonzero((own == 3) | both_bases))
    return Detections(first, count, numbers, basis, bit, doubles), int(np.count_nonzero(both_bases))


def _octets(random: Entropy | SimulationRng, count: int) -> Uint8s:
    data = random.pseudo_bytes(count) if isinstance(random, SimulationRng) else random.random_bytes(count)
    return np.frombuffer(data, np.uint8)


def _rejected(why: str) -> Rejected:
    return Rejected(why, code="link.time_tags", hint="docs/specs/detections.md tells how a list of time tags looks")
