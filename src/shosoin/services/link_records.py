"""Recordings of a link's devices in files: read piece by piece, and taken apart where one holds both ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from shosoin.adapters.private_files import create_private
from shosoin.base import Rejected
from shosoin.link.events.recording import Header, Part, RecordingReader, RecordingWriter
from shosoin.link.events.records import Detections, SentPulses

__all__ = ["read_batches", "read_header", "split_recording"]

PIECE_BYTES = 1 << 20


def read_header(path: Path) -> Header:
    """Return what a recording says of itself.

    Raises:
        Rejected: there is no such file, or it is no recording.
    """
    reader = RecordingReader()
    for piece in _pieces(path):
        reader.feed(piece)
        if reader.header is not None:
            return reader.header
    return reader.close()


def read_batches(path: Path, done: Callable[[int], None] | None = None) -> Iterator[SentPulses | Detections]:
    """Yield the batches of a recording.

    Args:
        done: called with how many bytes have been read.

    Raises:
        Rejected: there is no such file, or it is no recording, or it ends early.
    """
    reader = RecordingReader()
    read_bytes = 0
    for piece in _pieces(path):
        yield from reader.feed(piece)
        read_bytes += len(piece)
        if done is not None:
            done(read_bytes)
    reader.close()


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as err:
        raise Rejected(f"cannot read the recording {path}: {err.strerror}", code="link.recording_rejected") from err


def split_recording(path: Path, directory: Path) -> tuple[Path, Path]:
    """Write the two parts of a recording of both ends to files of their own, readable for their owner only."""
    header = read_header(path)
    ends = []
    for part, name in ((Part.TRANSMITTER, "transmitter"), (Part.RECEIVER, "receiver")):
        target = directory / f"{name}.recording"
        create_private(target, b"")
        writer = RecordingWriter(replace(header, part=part))
        with target.open("wb") as file:
            file.write(writer.begin())
            for batch in read_batches(path):
                if isinstance(batch, SentPulses) == (part is Part.TRANSMITTER):
                    file.write(writer.add(batch))
            file.write(writer.end())
        ends.append(target)
    return ends[0], ends[1]
