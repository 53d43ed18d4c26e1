"""Recordings of a QKD run: the secret bits of one end in a file, to be replayed into a link.

::

    "SHOSREC1" | length of the header (4 bytes, big-endian) | header (JSON) | bits

The header names the run (32 hexadecimal digits, random, the same in the files of both ends), and says what is known of
it: ``origin``, ``epsilon``, ``secret_key_rate_bps``, ``chunk_bytes`` and the number of ``chunks``. There is no
checksum of the bits: it would be a test for guesses. Bits that were recorded lay in files, so keys made of them are
always called simulated, whatever made them once.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import BinaryIO

from shosoin.adapters.certificates import write_private
from shosoin.base import Rejected

__all__ = ["Recording", "RecordingHeader", "write_recording"]

_MAGIC = b"SHOSREC1"
_LENGTH = struct.Struct(">I")
_HEADER_BYTES_MAX = 4096
_CHUNK_BYTES_MIN, _CHUNK_BYTES_MAX = 32, 1 << 20


@dataclass(frozen=True, slots=True)
class RecordingHeader:
    """What is known of a run."""

    run: str
    origin: str
    chunks: int
    chunk_bytes: int = 4096
    epsilon: float | None = None
    secret_key_rate_bps: float = 0.0

    def check(self) -> None:
        """Raise ``ValueError`` if something is out of range."""
        if len(self.run) != 32 or not set(self.run) <= set("0123456789abcdef"):
            raise ValueError("run must be 32 hexadecimal digits")
        if not 0 < len(self.origin) <= 40 or not all(letter.isalnum() or letter == "-" for letter in self.origin):
            raise ValueError("origin must be letters, digits and hyphens")
        if not self.origin.isascii() or type(self.chunks) is not int or type(self.chunk_bytes) is not int:
            raise ValueError("wrong type")
        if not 0 <= self.chunks < 1 << 40 or not _CHUNK_BYTES_MIN <= self.chunk_bytes <= _CHUNK_BYTES_MAX:
            raise ValueError(f"chunks of {_CHUNK_BYTES_MIN} to {_CHUNK_BYTES_MAX} bytes")
        if self.epsilon is not None and not 0 < self.epsilon <= 1:
            raise ValueError("epsilon is a probability")
        if not math.isfinite(self.secret_key_rate_bps) or self.secret_key_rate_bps < 0:
            raise ValueError("secret_key_rate_bps must be 0 or more")


def write_recording(path: Path, header: RecordingHeader, bits: bytes) -> None:
    """Write the file of one end.

    Raises:
        ValueError: the header is out of range, or the bits are not as many as it says.
    """
    header.check()
    if len(bits) != header.chunks * header.chunk_bytes:
        raise ValueError(f"{len(bits)} bytes, expected {header.chunks} chunks of {header.chunk_bytes}")
    encoded = json.dumps(asdict(header)).encode()
    write_private(path, _MAGIC + _LENGTH.pack(len(encoded)) + encoded + bits)


class Recording:
    """An open recording.

    Raises:
        Rejected: the file cannot be read, or is no recording or a shortened one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as stream:
                self.header, self._start = _read_header(stream)
                size = os.fstat(stream.fileno()).st_size
            if size < self._start + self.header.chunks * self.header.chunk_bytes:
                raise ValueError("it is shorter than its header says")
        except OSError as err:
            raise Rejected(f"cannot read recording {path}: {err.strerror}", code="recording.unreadable") from err
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as err:
            raise Rejected(f"{path} is no recording: {err}", code="recording.unreadable") from err

    def read(self, index: int) -> bytearray:
        """Return a chunk.

        Raises:
            Rejected: it cannot be read, or the file has changed.
        """
        size = self.header.chunk_bytes
        try:
            with self._path.open("rb") as stream:
                if _read_header(stream) != (self.header, self._start):
                    raise ValueError("another recording")
                stream.seek(self._start + index * size)
                chunk = bytearray(stream.read(size))
        except OSError as err:
            raise Rejected(f"cannot read recording {self._path}: {err.strerror}", code="recording.unreadable") from err
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as err:
            message = f"recording {self._path} is another one than at the start"
            raise Rejected(message, code="recording.changed", hint="restart the KME") from err
        if index >= self.header.chunks or len(chunk) < size:
            raise Rejected(f"recording {self._path} has no chunk {index}", code="recording.unreadable")
        return chunk


def _read_header(stream: BinaryIO) -> tuple[RecordingHeader, int]:
    start = stream.read(len(_MAGIC) + _LENGTH.size)
    if not start.startswith(_MAGIC) or len(start) < len(_MAGIC) + _LENGTH.size:
        raise ValueError("it does not begin like one")
    (length,) = _LENGTH.unpack_from(start, len(_MAGIC))
    if length > _HEADER_BYTES_MAX:
        raise ValueError("its header is too long")
    loaded = json.loads(stream.read(length).decode())
    if not isinstance(loaded, dict) or not loaded.keys() <= {item.name for item in fields(RecordingHeader)}:
        raise ValueError("its header has unknown members")
    header = RecordingHeader(**loaded)
    header.check()
    return header, len(start) + length
