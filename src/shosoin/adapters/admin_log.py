"""The record of what administrators did: lines in files, each bound to the one before it by a hash.

A line is a JSON object with a number, the hash of the line before (``previous``) and its own ``hash`` over both, so a
line that is changed, moved, added or taken out of the middle shows. The record is bounded: when a file is full the next
one begins, and the oldest are removed once the new one says which is the oldest that is left. So files that are missing
without that word show as well.

What no chain shows by itself is a record cut short at its end, or written anew as a whole by somebody who may write
there: the *head*, the hash of the last line, has to be kept elsewhere for that. Every line is an event of the program's
log, too, with its hash.

A line is on the disk when ``append`` returns. What a crash leaves of one without an end is cut off, and a line says so.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shosoin.base import Alarm, Unavailable
from shosoin.base.ports import Clock

__all__ = ["AdminLog", "AdminLogTampered", "AdminLogUnwritable", "ChainReport", "read_entries", "verify_log"]

_DOMAIN = b"shosoin admin log 1\n"
_NOTHING = "0" * 64
_NAME = re.compile(r"[0-9]{16}\.jsonl")
_LINE_BYTES_MAX = 1 << 16


class AdminLogTampered(Alarm):
    """The record is not what was written."""

    code = "admin.log_tampered"
    hint = "keep the files as they are, and compare them with the hashes in the KME's own log"


class AdminLogUnwritable(Unavailable):
    """What cannot be recorded is not done."""

    code = "admin.log_unwritable"
    hint = "make room in the KME's directory"


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What a record that is whole consists of."""

    first: int
    """Number of the oldest line; those before were removed when files were full."""
    last: int
    head: str
    """Hash of the last line."""


class AdminLog:
    """Writes the record; one process at a time.

    Args:
        folder: where the files are.
        file_bytes: a file is at most about so long.
        files: how many there are at most.

    Raises (when made):
        AdminLogUnwritable: the folder cannot be used, or another process writes there.
        AdminLogTampered: the end of the record is not of this form.
    """

    def __init__(self, folder: Path, clock: Clock, *, file_bytes: int, files: int) -> None:
        self._folder, self._clock = folder, clock
        self._file_bytes, self._files = file_bytes, files
        self._turn = threading.Lock()
        self._number, self._head = 0, _NOTHING
        self._path, self._size = folder / _name(1), 0
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            cut_bytes = self._find_end()
        except OSError as err:
            raise AdminLogUnwritable(f"cannot use {folder.name}: {err.strerror}") from err
        if cut_bytes:
            self.append({"call": "log.cut", "bytes": cut_bytes})

    @property
    def head(self) -> str:
        """Hash of the last line."""
        return self._head

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._lock)

    def append(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Write a line and return it with its number, time and hash.

        Raises:
            AdminLogUnwritable: it is not written.
        """
        try:
            with self._turn:
                if self._size >= self._file_bytes:
                    self._begin_file()
                return self._write(entry)
        except OSError as err:
            raise AdminLogUnwritable(f"cannot record the call: {err.strerror}") from err

    def _write(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        now = datetime.fromtimestamp(self._clock.wall_s(), UTC)
        line = {"number": self._number + 1, "time": now.isoformat(timespec="milliseconds"), **entry}
        line = {**line, "previous": self._head}
        line["hash"] = digest = _hash(line)
        raw = json.dumps(line).encode() + b"\n"
        path = self._path
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _write_whole(descriptor, raw, self._size)
        finally:
            os.close(descriptor)
        if not self._size:
            try:
                _sync(self._folder)
            except OSError:
                path.unlink()  # else the line would be in the record, and its number used again
                raise
        self._number, self._head, self._size = self._number + 1, digest, self._size + len(raw)
        return line

    def _begin_file(self) -> None:
        """Go on in a new file, and remove the oldest once it says so."""
        before = self._path, self._size
        kept = [*_log_files(self._folder), self._folder / _name(self._number + 1)][-self._files :]
        self._path, self._size = kept[-1], 0
        try:
            self._write({"call": "log.rotate", "oldest": int(kept[0].stem)})
        except OSError:
            self._path, self._size = before
            raise
        for path in _log_files(self._folder):
            if path < kept[0]:
                path.unlink()

    def _find_end(self) -> int:
        """Find out where to go on; return how many bytes of a torn line were cut off."""
        cut_bytes = 0
        for path in reversed(_log_files(self._folder)):
            raw = path.read_bytes()
            end = raw.rfind(b"\n") + 1
            if end < len(raw):
                cut_bytes += len(raw) - end
                os.truncate(path, end)
            self._path, self._size = path, end
            if end:
                last = _parsed(raw[raw.rfind(b"\n", 0, end - 1) + 1 : end])
                self._number, self._head = last["number"], last["hash"]
                break
            if path.stem != f"{1:016}":
                path.unlink()  # a crash right after it was made; its name will be used again
        return cut_bytes


def read_entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield every line, the oldest first, each checked for itself.

    Raises:
        AdminLogTampered: a line is not what was written.
    """
    files = _log_files(folder)
    for path in files:
        with path.open("rb") as stream:
            for raw in stream:
                if raw.endswith(b"\n"):
                    yield _parsed(raw)
                elif path != files[-1]:
                    raise AdminLogTampered(f"{path.name} ends in the middle of a line")
                # else a crash: it was never acted on


def verify_log(folder: Path, *, head: str = "") -> ChainReport:
    """Check the whole record.

    Args:
        head: hash of a line that was kept elsewhere and must be there; none if empty.

    Raises:
        AdminLogTampered: a line was changed, moved, added or taken out, a file is gone, or ``head`` is.
    """
    first = last = oldest = 0
    kept, head, found = head.strip().lower(), _NOTHING, False
    for entry in read_entries(folder):
        if not last:
            first = entry["number"]
            head = entry["previous"]
        elif entry["number"] != last + 1:
            raise AdminLogTampered(f"entry {entry['number']} follows entry {last}")
        if entry["previous"] != head or (entry["number"] == 1 and head != _NOTHING):
            raise AdminLogTampered(f"entry {entry['number']} does not continue the chain")
        last, head = entry["number"], entry["hash"]
        found = found or head == kept
        if entry["call"] == "log.rotate":
            oldest = entry["oldest"]
    if first > max(1, oldest):
        raise AdminLogTampered(f"the record begins with entry {first}, and entry {max(1, oldest)} should be there")
    if kept and not found:
        raise AdminLogTampered("no entry has that hash: the record was cut short, or is another one")
    return ChainReport(first, last, head)


def _hash(line: Mapping[str, Any]) -> str:
    content = {name: value for name, value in line.items() if name != "hash"}
    return hashlib.sha256(_DOMAIN + json.dumps(content, sort_keys=True).encode()).hexdigest()


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        line = dict(json.loads(raw)) if len(raw) <= _LINE_BYTES_MAX else {}
        numbers = [line["number"], line["oldest"]] if line["call"] == "log.rotate" else [line["number"]]
        if not all(type(each) is int for each in numbers) or not isinstance(line["previous"], str):
            raise TypeError("a member has another type")
        if line["hash"] != _hash(line):
            raise AdminLogTampered(f"entry {line['number']} does not fit its hash")
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise AdminLogTampered("a line is not of our making") from err
    return line


def _log_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def _name(number: int) -> str:
    return f"{number:016}.jsonl"


def _write_whole(descriptor: int, raw: bytes, before: int) -> None:
    """Write and flush, or leave the file as it was."""
    try:
        view = memoryview(raw)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, before)
        raise


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
