"""Recordings: what was written is read back, in pieces of any size; whatever else comes is refused."""

import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shosoin.base import Rejected
from shosoin.link.events import recording
from shosoin.link.events.recording import (
    Header,
    Part,
    RecordingReader,
    RecordingRejected,
    RecordingWriter,
    decode_recording,
    encode_recording,
)
from shosoin.link.events.records import Detections, SentPulses
from shosoin.link.events.study import SimulatedStudy
from tests.link.events.support import LINE, SETTINGS

HEADER = Header(Part.BOTH, SETTINGS, True, "a test, seed 1")


def batches(*sizes, first=0):
    study = SimulatedStudy(SETTINGS, replace(LINE, attenuation_db=0.0), 1)
    study._transmitter.next_pulse = study._receiver._next = first
    made = [study.batch(size) for size in sizes]
    return [each for batch in made for each in (batch.sent, batch.detected)]


def equal(one, other):
    names = ("bits", "bases", "intensity") if isinstance(one, SentPulses) else ("bits", "bases", "pulses")
    return (
        type(one) is type(other)
        and (one.first, one.count) == (other.first, other.count)
        and all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
    )


GOOD = encode_recording(HEADER, batches(100, 33))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 300), max_size=4), st.integers(0, 2**61), st.integers(1, 200))
def test_what_was_written_is_read_back_in_pieces_of_any_size(sizes, first, piece):
    written = batches(*sizes, first=first)
    data = encode_recording(HEADER, written)
    reader, read = RecordingReader(), []
    for at in range(0, len(data), piece):
        read += reader.feed(data[at : at + piece])
    assert reader.close() == HEADER
    assert len(read) == len(written)
    assert all(equal(one, other) for one, other in zip(read, written, strict=True))
    assert decode_recording(data).header == HEADER


def test_a_batch_too_large_for_a_chunk_becomes_several(monkeypatch):
    monkeypatch.setattr(recording, "CHUNK_PULSES_MAX", 64)
    sent, detected = batches(1000)
    read = decode_recording(encode_recording(HEADER, [sent, detected]))
    assert len(read.sent) == len(read.detected) == 16
    assert np.array_equal(np.concatenate([each.pulses for each in read.detected]), detected.pulses)
    assert np.array_equal(np.concatenate([each.intensity for each in read.sent]), sent.intensity)
    numbers = np.arange(1000)
    assert np.array_equal(
        np.concatenate([each.bits_at(each.first + np.arange(each.count)) for each in read.sent]), sent.bits_at(numbers)
    )
    assert sum(each.double_clicks for each in read.detected) == detected.double_clicks


@pytest.mark.parametrize(("part", "kept"), [(Part.TRANSMITTER, 0), (Part.RECEIVER, 1)])
def test_each_end_writes_its_own_part_only(part, kept):
    both = batches(50)
    writer = RecordingWriter(replace(HEADER, part=part))
    data = writer.begin() + writer.add(both[kept]) + writer.end()
    read = decode_recording(data)
    assert (len(read.sent), len(read.detected)) == (1 - kept, kept)
    with pytest.raises(ValueError, match="other end"):
        writer.add(both[1 - kept])
    with pytest.raises(ValueError, match="comes next"):
        writer.add(both[kept])


def test_every_truncation_is_noticed():
    for size in range(len(GOOD)):
        with pytest.raises(RecordingRejected):
            decode_recording(GOOD[:size])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_every_changed_octet_is_noticed(at, change):
    damaged = bytearray(GOOD)
    damaged[at] ^= change
    with pytest.raises(RecordingRejected) as raised:
        decode_recording(bytes(damaged))
    assert raised.value.code.startswith("link.recording_")


def frame(tag, body):
    raw = struct.pack("<4sI", tag, len(body)) + body
    return raw + struct.pack("<I", zlib.crc32(raw))


def ending(chunks, pulses):
    return frame(b"ENDS", struct.pack("<QQ", chunks, pulses))


HEAD = RecordingWriter(HEADER).begin()
SENT_OK = struct.pack("<QI", 0, 5) + bytes([1, 1, 0b01010101, 1])
DETECTED_OK = struct.pack("<QIII", 0, 5, 2, 1) + struct.pack("<II", 1, 4) + bytes([3, 1])


def test_frames_made_by_hand_from_the_specification_are_read():
    read = decode_recording(HEAD + frame(b"SENT", SENT_OK) + frame(b"DETS", DETECTED_OK) + ending(2, 10))
    assert read.sent[0].intensity.tolist() == [1, 1, 1, 1, 1]
    assert read.sent[0].bits_at(np.arange(5)).tolist() == [1, 0, 0, 0, 0]
    assert read.detected[0].pulses.tolist() == [1, 4]
    assert read.detected[0].bases.tolist() == [1, 1]
    assert read.detected[0].bits.tolist() == [1, 0]


@pytest.mark.parametrize(
    "frames",
    [
        frame(b"SENT", SENT_OK[:-1]),
        frame(b"SENT", SENT_OK + b"\0"),
        frame(b"SENT", SENT_OK[:11]),
        frame(b"SENT", struct.pack("<QI", 0, 0)),
        frame(b"SENT", struct.pack("<QI", 1 << 62, 5) + SENT_OK[12:]),
        frame(b"SENT", struct.pack("<QI", 0, 0xFFFFFFFF) + SENT_OK[12:]),
        frame(b"SENT", SENT_OK[:12] + bytes([0xE1]) + SENT_OK[13:]),  # a bit after the last pulse
        frame(b"SENT", SENT_OK[:14] + bytes([0xFF, 1])),  # a fourth intensity where there are three
        frame(b"SENT", SENT_OK[:15] + bytes([5])),  # an intensity after the last pulse
        frame(b"DETS", struct.pack("<QIII", 0, 5, 2, 1) + struct.pack("<II", 4, 1) + bytes([3, 1])),
        frame(b"DETS", struct.pack("<QIII", 0, 5, 2, 1) + struct.pack("<II", 1, 1) + bytes([3, 1])),
        frame(b"DETS", struct.pack("<QIII", 0, 5, 2, 1) + struct.pack("<II", 1, 5) + bytes([3, 1])),
        frame(b"DETS", struct.pack("<QIII", 0, 5, 2, 3) + DETECTED_OK[20:]),
        frame(b"DETS", struct.pack("<QIII", 0, 5, 6, 0) + bytes(26)),
        frame(b"DETS", DETECTED_OK[:-1] + bytes([4])),
        frame(b"DETS", DETECTED_OK[:19]),
        frame(b"SENT", SENT_OK) * 2,  # the same pulses twice
        frame(b"NONE", b""),
        struct.pack("<4sI", b"SENT", 1 << 30),
        frame(b"SENT", SENT_OK) + ending(2, 5),
        frame(b"SENT", SENT_OK) + ending(1, 6),
        ending(0, 0) + b"\0",
        frame(b"ENDS", bytes(15)),
    ],
)
def test_chunks_that_are_not_as_specified_are_refused(frames):
    with pytest.raises(RecordingRejected):
        RecordingReader().feed(HEAD + frames)


def header_of(body, *, version=1, part=3, flags=1, size=None):
    prefix = struct.pack("<8sHBBI", recording.MAGIC, version, part, flags, len(body) if size is None else size)
    return prefix + body + struct.pack("<I", zlib.crc32(prefix + body))


BODY = HEAD[16:-4]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"PK\x03\x04 something else", "link.recording_magic"),
        (b"", "link.recording_truncated"),
        (header_of(BODY, version=2), "link.recording_version"),
        (header_of(BODY, part=4), "link.recording_header"),
        (header_of(BODY, flags=2), "link.recording_header"),
        (header_of(BODY, size=1 << 31), "link.recording_header"),
        (header_of(b"[" * 8000), "link.recording_header"),
        (header_of(b"{}"), "link.recording_header"),
        (header_of(b"\xff"), "link.recording_header"),
        (header_of(BODY.replace(b"0.5", b"NaN")), "link.recording_header"),
        (header_of(BODY.replace(b"0.5", b"1e999")), "link.recording_header"),
        (header_of(BODY.replace(b"0.5", b"9" * 5000)), "link.recording_header"),
        (header_of(BODY.replace(b"0.5", b"true")), "link.recording_header"),
        (header_of(BODY.replace(b"0.5,", b"")), "link.recording_header"),
        (header_of(BODY.replace(b"a test", b"a\\u001b[2Jtest")), "link.recording_header"),
        (header_of(BODY.replace(b"a test", b"x" * 300)), "link.recording_header"),
        (header_of(BODY.replace(b'"a test, seed 1"', b"5")), "link.recording_header"),
    ],
)
def test_headers_that_are_not_as_specified_are_refused(data, code):
    with pytest.raises(Rejected) as raised:
        decode_recording(data)
    assert raised.value.code == code


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(data):
    reader = RecordingReader()
    try:
        read = reader.feed(HEAD + data)
    except RecordingRejected:
        return
    assert all(isinstance(each, SentPulses | Detections) for each in read)
