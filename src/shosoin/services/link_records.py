"""Recordings of a link's devices in files: read piece by piece, and taken apart where one holds both ends."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO

from shosoin.adapters.private_files import create_private
from shosoin.base import Rejected, Unavailable
from shosoin.link.events.recording import Header, Part, RecordingReader, RecordingWriter
from shosoin.link.events.records import Detections, SentPulses

__all__ = ["opened", "read_batches", "read_header", "split_recording"]

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
        with opened(path) as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
    except OSError as err:
        raise Rejected(f"cannot read the recording {path}: {err.strerror}", code="link.recording_rejected") from err


def opened(path: Path) -> IO[bytes]:
    """Open a recording, which is read more than once, and so is a file and no pipe; nothing waits for a pipe.

    Raises:
        Rejected: it is no file.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Rejected(f"the recording {path} is not a file", code="link.recording_rejected")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def split_recording(path: Path, directory: Path) -> tuple[Path, Path]:
    """Write the two parts of a recording of both ends to files of their own, readable for their owner only.

    Raises:
        Rejected: it cannot be read.
        Unavailable: the parts cannot be written.
    """
    try:
        return _split(path, directory)
    except OSError as err:
        raise Unavailable(f"{directory} cannot be written: {err.strerror}", code="link.state_out_of_reach") from err


def _split(path: Path, directory: Path) -> tuple[Path, Path]:
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
