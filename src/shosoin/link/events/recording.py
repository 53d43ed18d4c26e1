"""Recorded pulses and detections as bytes: what each end writes of its side, read back chunk by chunk.

A recording is a header, chunks in the order of pulses, and an end that tells how many there were; each has a length
and a CRC-32, and nothing of it is trusted. Writers and readers take and give bytes: files are the caller's.
The format is specified in ``docs/specs/detections.md``.

Security: a recording of one end is as secret as the key that would come of it. The CRC finds accidents, not forgers.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from shosoin.base import Rejected
from shosoin.link.events.records import PULSES_MAX, Detections, SentPulses, Settings, Uint8s

__all__ = [
    "CHUNK_PULSES_MAX",
    "Header",
    "Part",
    "Recording",
    "RecordingReader",
    "RecordingRejected",
    "RecordingWriter",
    "decode_recording",
    "encode_recording",
]

MAGIC = b"\x89SQR\r\n\x1a\n"
VERSION = 1
HEADER_BYTES_MAX = 8192
CHUNK_PULSES_MAX = 1 << 22
PAYLOAD_BYTES_MAX = 18 << 20
ORIGIN_CHARACTERS_MAX = 200

_PREFIX = struct.Struct("<8sHBBI")
_CHUNK = struct.Struct("<4sI")
_CRC = struct.Struct("<I")
_SENT, _DETECTED, _END = b"SENT", b"DETS", b"ENDS"
_SENT_HEAD = struct.Struct("<QI")
_DETECTED_HEAD = struct.Struct("<QIII")
_END_BODY = struct.Struct("<QQ")
_FIELDS = {
    "intensities",
    "origin",
    "probabilities",
    "pulse_rate_hz",
    "receiver_key_basis_probability",
    "transmitter_key_basis_probability",
}


class RecordingRejected(Rejected):
    """These bytes are no recording that this version reads."""

    code = "link.recording_rejected"
    hint = "docs/specs/detections.md tells the format"


class Part(IntEnum):
    """Whose records a recording holds."""

    TRANSMITTER = 1
    RECEIVER = 2
    BOTH = 3
    """For studies only: whoever holds both parts knows the key."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a recording says of itself.

    Raises:
        ValueError: the origin is too long or has control characters.
    """

    part: Part
    settings: Settings
    simulated: bool
    origin: str
    """Which devices, or which simulation and seed, in one line."""

    def __post_init__(self) -> None:
        if len(self.origin) > ORIGIN_CHARACTERS_MAX or not self.origin.isprintable():
            raise ValueError(f"an origin is one line of at most {ORIGIN_CHARACTERS_MAX} printable characters")


@dataclass(frozen=True, slots=True)
class Recording:
    """A whole recording in memory."""

    header: Header
    sent: tuple[SentPulses, ...]
    detected: tuple[Detections, ...]


Batch = SentPulses | Detections


class RecordingWriter:
    """Makes the bytes of one recording, piece by piece.

    Raises:
        ValueError: a batch does not belong in this part, or does not follow the one before.
    """

    def __init__(self, header: Header) -> None:
        self._header = header
        self._next: dict[bytes, int] = {}
        self._chunks = self._pulses = 0

    def begin(self) -> bytes:
        """Return what a recording begins with."""
        settings = self._header.settings
        told = {
            "intensities": settings.intensities,
            "origin": self._header.origin,
            "probabilities": settings.probabilities,
            "pulse_rate_hz": settings.pulse_rate_hz,
            "receiver_key_basis_probability": settings.receiver_key_basis_probability,
            "transmitter_key_basis_probability": settings.transmitter_key_basis_probability,
        }
        body = json.dumps(told, sort_keys=True, separators=(",", ":")).encode()
        prefix = _PREFIX.pack(MAGIC, VERSION, self._header.part, int(self._header.simulated), len(body))
        return prefix + body + _CRC.pack(zlib.crc32(prefix + body))

    def add(self, batch: Batch) -> bytes:
        """Return the chunks of one batch."""
        tag = _tag_of(batch)
        if not _belongs(tag, self._header.part):
            raise ValueError("a batch of the other end does not belong in this recording")
        if isinstance(batch, SentPulses) and np.any(batch.intensity >= len(self._header.settings.intensities)):
            raise ValueError("a pulse has an intensity that the settings do not name")
        if self._next.setdefault(tag, batch.first) != batch.first:
            raise ValueError(f"pulse {self._next[tag]} comes next, got {batch.first}")
        self._next[tag] = batch.first + batch.count
        self._pulses += batch.count
        bodies = list(_sent_bodies(batch) if isinstance(batch, SentPulses) else _detected_bodies(batch))
        self._chunks += len(bodies)
        return b"".join(_framed(tag, body) for body in bodies)

    def end(self) -> bytes:
        """Return what a recording ends with."""
        return _framed(_END, _END_BODY.pack(self._chunks, self._pulses))


class RecordingReader:
    """Reads one recording from bytes as they come; nobody needs to hold all of it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._next: dict[bytes, int] = {}
        self._chunks = self._pulses = 0
        self._ended = False
        self.header: Header | None = None
        """Known once enough bytes came."""

    def feed(self, data: bytes | memoryview) -> list[Batch]:
        """Take more bytes and return the batches that are complete.

        Raises:
            RecordingRejected: they are not what a writer makes.
        """
        self._buffer += data
        if self.header is None:
            self._begin()
        batches: list[Batch] = []
        if self.header is not None:
            at = 0
            while (framed := self._frame(at)) is not None:
                tag, body, at = framed
                batches += self._chunk(self.header, tag, body)
            del self._buffer[:at]
        return batches

    def close(self) -> Header:
        """Return the header once everything was read.

        Raises:
            RecordingRejected: bytes are missing at the end.
        """
        if self.header is None or not self._ended:
            raise RecordingRejected("the recording ends too early", code="link.recording_truncated")
        return self.header

    def _begin(self) -> None:
        if not MAGIC.startswith(bytes(self._buffer[:8])):
            raise RecordingRejected("this is no recording of pulses", code="link.recording_magic")
        if len(self._buffer) < _PREFIX.size:
            return
        _, version, part, flags, size = _PREFIX.unpack_from(self._buffer)
        if version != VERSION:
            raise RecordingRejected(f"version {version} of recordings is unknown", code="link.recording_version")
        if part not in iter(Part) or flags > 1 or size > HEADER_BYTES_MAX:
            raise RecordingRejected("the header of the recording is out of range", code="link.recording_header")
        end = _PREFIX.size + size
        if len(self._buffer) < end + _CRC.size:
            return
        if zlib.crc32(self._buffer[:end]) != _CRC.unpack_from(self._buffer, end)[0]:
            raise RecordingRejected("the header of the recording is damaged", code="link.recording_damaged")
        self.header = _header(Part(part), bool(flags), bytes(self._buffer[_PREFIX.size : end]))
        del self._buffer[: end + _CRC.size]

    def _frame(self, at: int) -> tuple[bytes, bytes, int] | None:
        view = self._buffer
        if self._ended and at < len(view):
            raise RecordingRejected("bytes follow the end of the recording", code="link.recording_chunk")
        if len(view) - at < _CHUNK.size:
            return None
        tag, size = _CHUNK.unpack_from(view, at)
        if tag not in {_SENT, _DETECTED, _END} or size > PAYLOAD_BYTES_MAX:
            raise RecordingRejected("a chunk of unknown kind, or too large", code="link.recording_chunk")
        end = at + _CHUNK.size + size
        if len(view) < end + _CRC.size:
            return None
        if zlib.crc32(memoryview(view)[at:end]) != _CRC.unpack_from(view, end)[0]:
            raise RecordingRejected("a chunk of the recording is damaged", code="link.recording_damaged")
        return tag, bytes(view[at + _CHUNK.size : end]), end + _CRC.size

    def _chunk(self, header: Header, tag: bytes, body: bytes) -> Iterator[Batch]:
        if tag == _END:
            if len(body) != _END_BODY.size or _END_BODY.unpack(body) != (self._chunks, self._pulses):
                raise RecordingRejected("the recording lacks chunks", code="link.recording_truncated")
            self._ended = True
            return
        if not _belongs(tag, header.part):
            raise RecordingRejected("a chunk of the other end", code="link.recording_chunk")
        batch = _sent(body, len(header.settings.intensities)) if tag == _SENT else _detected(body)
        if self._next.setdefault(tag, batch.first) != batch.first:
            raise RecordingRejected("chunks do not follow one another", code="link.recording_order")
        self._next[tag] = batch.first + batch.count
        self._chunks += 1
        self._pulses += batch.count
        yield batch


def encode_recording(header: Header, batches: Iterable[Batch]) -> bytes:
    """Return a whole recording."""
    writer = RecordingWriter(header)
    return b"".join((writer.begin(), *(writer.add(batch) for batch in batches), writer.end()))


def decode_recording(data: bytes) -> Recording:
    """Return what a whole recording holds.

    Raises:
        RecordingRejected: it is none.
    """
    reader = RecordingReader()
    batches = reader.feed(data)
    header = reader.close()
    sent = tuple(batch for batch in batches if isinstance(batch, SentPulses))
    return Recording(header, sent, tuple(batch for batch in batches if isinstance(batch, Detections)))


def _tag_of(batch: Batch) -> bytes:
    return _SENT if isinstance(batch, SentPulses) else _DETECTED


def _belongs(tag: bytes, part: Part) -> bool:
    return part is Part.BOTH or (tag == _SENT) == (part is Part.TRANSMITTER)


def _framed(tag: bytes, body: bytes) -> bytes:
    frame = _CHUNK.pack(tag, len(body)) + body
    return frame + _CRC.pack(zlib.crc32(frame))


def _pack(values: Uint8s) -> bytes:
    return np.packbits(values, bitorder="little").tobytes()


def _sent_bodies(batch: SentPulses) -> Iterator[bytes]:
    for start in range(0, batch.count, CHUNK_PULSES_MAX):
        count = min(CHUNK_PULSES_MAX, batch.count - start)
        packed = slice(start // 8, (start + count + 7) // 8)
        level = np.zeros((count + 3) // 4 * 4, np.uint8)
        level[:count] = batch.intensity[start : start + count]
        quarters = level.reshape(-1, 4)
        levels = quarters[:, 0] | quarters[:, 1] << 2 | quarters[:, 2] << 4 | quarters[:, 3] << 6
        head = _SENT_HEAD.pack(batch.first + start, count)
        yield b"".join((head, batch.bits[packed].tobytes(), batch.bases[packed].tobytes(), levels.tobytes()))


def _detected_bodies(batch: Detections) -> Iterator[bytes]:
    left = batch.double_clicks
    for start in range(0, batch.count, CHUNK_PULSES_MAX):
        count = min(CHUNK_PULSES_MAX, batch.count - start)
        first = batch.first + start
        begin, end = (int(each) for each in np.searchsorted(batch.pulses, [first, first + count]))
        doubles = min(left, end - begin)  # a batch says how many there were, not where
        left -= doubles
        head = _DETECTED_HEAD.pack(first, count, end - begin, doubles)
        offsets = (batch.pulses[begin:end] - first).astype("<u4").tobytes()
        yield b"".join((head, offsets, _pack(batch.bases[begin:end]), _pack(batch.bits[begin:end])))


def _header(part: Part, simulated: bool, body: bytes) -> Header:
    try:
        told: Any = json.loads(body.decode())  # UTF-8 and nothing else that JSON may come in
        if not isinstance(told, dict) or set(told) != _FIELDS or not isinstance(told["origin"], str):
            raise ValueError("fields")
        for name in ("intensities", "probabilities"):
            if not isinstance(told[name], list):
                raise TypeError(name)
        numbers = [
            *told["intensities"],
            *told["probabilities"],
            *(told[name] for name in sorted(_FIELDS - _NOT_SCALAR)),
        ]
        if not all(type(number) in {int, float} for number in numbers):
            raise TypeError("numbers")
        origin = told.pop("origin")
        settings = {name: tuple(value) if isinstance(value, list) else float(value) for name, value in told.items()}
        return Header(part, Settings(**settings), simulated, origin)  # type: ignore[arg-type]  # checked above
    except (ValueError, TypeError, RecursionError, OverflowError) as err:
        raise RecordingRejected(
            "the header of the recording is not as specified", code="link.recording_header"
        ) from err


_NOT_SCALAR = {"intensities", "origin", "probabilities"}


def _sent(body: bytes, intensities: int) -> SentPulses:
    _require(len(body) >= _SENT_HEAD.size)
    first, count = _SENT_HEAD.unpack_from(body)
    packed = (count + 7) // 8
    _require(1 <= count <= CHUNK_PULSES_MAX and first + count <= PULSES_MAX)
    _require(len(body) == _SENT_HEAD.size + 2 * packed + (count + 3) // 4)
    data = np.frombuffer(body, np.uint8, offset=_SENT_HEAD.size)
    bits, bases, levels = data[:packed], data[packed : 2 * packed], data[2 * packed :]
    intensity = np.stack([levels >> shift & np.uint8(3) for shift in (0, 2, 4, 6)], axis=1).ravel()
    _require(int(intensity.max()) < intensities and not intensity[count:].any())
    _require(_unused_are_zero(bits, count) and _unused_are_zero(bases, count))
    return SentPulses(first, count, bits.copy(), bases.copy(), intensity[:count].copy())


def _detected(body: bytes) -> Detections:
    _require(len(body) >= _DETECTED_HEAD.size)
    first, count, found, doubles = _DETECTED_HEAD.unpack_from(body)
    packed = (found + 7) // 8
    _require(1 <= count <= CHUNK_PULSES_MAX and first + count <= PULSES_MAX and doubles <= found <= count)
    _require(len(body) == _DETECTED_HEAD.size + 4 * found + 2 * packed)
    offsets = np.frombuffer(body, "<u4", count=found, offset=_DETECTED_HEAD.size).astype(np.int64)
    data = np.frombuffer(body, np.uint8, offset=_DETECTED_HEAD.size + 4 * found)
    _require(not found or (int(offsets[-1]) < count and bool(np.all(offsets[1:] > offsets[:-1]))))
    _require(_unused_are_zero(data[:packed], found) and _unused_are_zero(data[packed:], found))
    bases, bits = (np.unpackbits(part, count=found, bitorder="little") for part in (data[:packed], data[packed:]))
    return Detections(first, count, first + offsets, bases, bits, doubles)


def _unused_are_zero(packed: Uint8s, count: int) -> bool:
    return count % 8 == 0 or not int(packed[-1]) >> (count % 8)


def _require(fits: bool) -> None:
    if not fits:
        raise RecordingRejected("a chunk is not as specified", code="link.recording_chunk")
