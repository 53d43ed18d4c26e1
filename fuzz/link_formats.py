"""Harnesses of what a link reads: recordings of pulses, and lists of time tags."""

from __future__ import annotations

import struct
import zlib

import numpy as np

from fuzz.harness import Finding, Harness
from shosoin.base import SimulationRng
from shosoin.link.events.recording import (
    Header,
    Part,
    RecordingReader,
    RecordingWriter,
    decode_recording,
    encode_recording,
)
from shosoin.link.events.records import Detections, SentPulses, Settings
from shosoin.link.events.timetags import Clock, convert, parse_time_tags

__all__ = ["HARNESSES"]

_SETTINGS = Settings((0.5, 0.1, 0.0), (0.5, 0.25, 0.25), 0.5, 0.5, 1e9)
_CHANNELS = {1: (0, 0), 2: (0, 1), 3: (1, 0), 4: (1, 1)}


def link_recording(raw: bytes) -> None:
    """What is read is written back the same, and read in pieces it is what it is as a whole."""
    recording = decode_recording(raw)
    batches: list[SentPulses | Detections] = [*recording.sent, *recording.detected]
    again = decode_recording(encode_recording(recording.header, batches))
    if again.header != recording.header:
        raise Finding("a header does not survive a round trip")
    returned: list[SentPulses | Detections] = [*again.sent, *again.detected]
    if not all(_same(*pair) for pair in zip(batches, returned, strict=True)):
        raise Finding("a batch does not survive a round trip")
    reader = RecordingReader()
    pieces = [batch for at in range(0, len(raw), 7) for batch in reader.feed(raw[at : at + 7])]
    if reader.close() != recording.header or len(pieces) != len(batches):
        raise Finding("pieces are read as something else")


def link_recording_frames(raw: bytes) -> None:
    """Chunks behind a good header: a checksum that a fuzzer cannot guess is put right before they are read."""
    reader = RecordingReader()
    writer = RecordingWriter(Header(Part.BOTH, _SETTINGS, True, "fuzz"))
    frame = raw[:4].ljust(4) + struct.pack("<I", max(0, len(raw) - 4)) + raw[4:]
    for batch in reader.feed(writer.begin() + frame + struct.pack("<I", zlib.crc32(frame))):
        if not 0 < batch.count <= 1 << 22:
            raise Finding("a batch of no pulses, or too many")


def link_time_tags(raw: bytes) -> None:
    """Tags that are read can be converted."""
    tags = parse_time_tags(raw)
    found = convert(tags, Clock(0.0, 1000.0), _CHANNELS, gate_ps=500, first=0, count=1 << 20, random=SimulationRng(1))
    told = found.detections.pulses.size + found.outside_gate + found.outside_range + found.unmapped
    if told > tags.times_ps.size:
        raise Finding("more came out than went in")


def _same(one: SentPulses | Detections, other: SentPulses | Detections) -> bool:
    if (one.first, one.count) != (other.first, other.count) or not np.array_equal(one.bits, other.bits):
        return False
    if isinstance(one, SentPulses) and isinstance(other, SentPulses):
        return np.array_equal(one.intensity, other.intensity)
    return isinstance(one, Detections) and isinstance(other, Detections) and np.array_equal(one.pulses, other.pulses)


def _sent() -> SentPulses:
    return SentPulses(0, 9, np.array([5, 1], np.uint8), np.array([6, 0], np.uint8), np.arange(9, dtype=np.uint8) % 3)


def _detected() -> Detections:
    return Detections(0, 9, np.array([1, 7], np.int64), np.array([0, 1], np.uint8), np.array([1, 0], np.uint8), 1)


def _recordings() -> list[bytes]:
    cases: list[tuple[Part, list[SentPulses | Detections]]] = [
        (Part.BOTH, [_sent(), _detected()]),
        (Part.TRANSMITTER, [_sent()]),
        (Part.RECEIVER, [_detected()]),
    ]
    return [encode_recording(Header(part, _SETTINGS, True, "fuzz"), batches) for part, batches in cases]


def _frames() -> list[bytes]:
    writer = RecordingWriter(Header(Part.BOTH, _SETTINGS, True, "fuzz"))
    frames = (writer.add(_sent()), writer.add(_detected()), writer.end())
    return [frame[:4] + frame[8:-4] for frame in frames]


HARNESSES = (
    Harness("link_recording", link_recording, _recordings, size_max=1024),
    Harness("link_recording_frames", link_recording_frames, _frames, size_max=512),
    Harness(
        "link_time_tags",
        link_time_tags,
        lambda: [b"# ps channel\n1000,1\n2003;2\n9001\t7\n", b"5000 3\r\n5001 4\r\n"],
        size_max=256,
    ),
)
