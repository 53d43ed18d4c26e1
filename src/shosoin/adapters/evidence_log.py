"""The owner's evidence in a file that only grows (``vault.evidence`` says what its lines are).

What is appended together is written with one call and flushed before ``append`` returns. Processes of one owner take
turns by a lock on the file. A crash can leave a line without an end, which was never evidence: it is cut off, and an
entry says so. Lines that are whole but not signed yet stay, and the next signature covers them.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shosoin.base import Unavailable
from shosoin.base.ports import Clock
from shosoin.vault.evidence import EvidenceHead, begin_entry, chained, read_line
from shosoin.vault.signing import OwnerSigner

__all__ = ["EvidenceUnwritable", "FileEvidence"]

_BLOCK_BYTES = 1 << 16


class EvidenceUnwritable(Unavailable):
    """Evidence cannot be kept, so what it would prove is not done."""

    code = "adapters.evidence_unwritable"
    hint = "make room where the owner's state is kept, or move the log away and keep it"


class FileEvidence:
    """``EvidenceSink`` in one file."""

    def __init__(self, path: Path, owner: str, signer: OwnerSigner, clock: Clock) -> None:
        self._path = path
        self._owner = owner
        self._signer = signer
        self._clock = clock
        self._turn = threading.Lock()
        self._known: tuple[int, int, EvidenceHead] | None = None
        """Inode and size of the file behind our last append, and the head there."""

    def append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Keep entries, signed together.

        Raises:
            EvidenceUnwritable: they are not kept.
            EvidenceTampered: the end of the log is no evidence of ours.
        """
        if not entries:
            return
        with self._turn:
            try:
                self._append(entries)
            except OSError as error:
                raise EvidenceUnwritable(f"{self._path.name}: {error.strerror}") from error

    def _append(self, entries: Sequence[Mapping[str, Any]]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            first, head, end = self._tail(descriptor)
            lines, head = chained([*first, *entries], head, self._clock.wall_s(), self._signer)
            self._write(descriptor, lines, end)
            if end == 0:
                self._flush_directory()
            self._known = os.fstat(descriptor).st_ino, end + len(lines), head
        finally:
            os.close(descriptor)

    @staticmethod
    def _write(descriptor: int, lines: bytes, end: int) -> None:
        """Write and flush, or leave the file as it was."""
        try:
            view, at = memoryview(lines), end
            while view:
                written = os.pwrite(descriptor, view, at)
                view, at = view[written:], at + written
            os.ftruncate(descriptor, at)  # what a crash had left behind ``end`` may reach further than this
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, end)
            raise

    def _tail(self, descriptor: int) -> tuple[list[dict[str, Any]], EvidenceHead, int]:
        """Return entries that have to come first, the head, and where to write."""
        found = os.fstat(descriptor)
        if self._known is not None and self._known[:2] == (found.st_ino, found.st_size):
            return [], self._known[2], found.st_size
        line, end = _last_line(descriptor, found.st_size)
        if line is None:
            return [begin_entry(self._owner, self._signer.public_key)], EvidenceHead(), 0
        _, head = read_line(line)
        cut_bytes = found.st_size - end
        return [{"kind": "cut", "bytes": cut_bytes}] if cut_bytes else [], head, end

    def _flush_directory(self) -> None:
        descriptor = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _last_line(descriptor: int, size: int) -> tuple[bytes | None, int]:
    """Return the last line that ends, and the place behind it; ``None`` if there is none."""
    tail, start = b"", size
    while start > 0:
        start = max(0, start - _BLOCK_BYTES)
        tail = os.pread(descriptor, min(_BLOCK_BYTES, size - start - len(tail)), start) + tail
        stop = tail.rfind(b"\n")
        before = tail.rfind(b"\n", 0, stop) if stop >= 0 else -1
        if stop >= 0 and (before >= 0 or start == 0):
            return tail[before + 1 : stop], start + stop + 1
    return None, 0
