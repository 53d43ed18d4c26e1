"""What a run of a link's post-processing leaves in its directory, so that it can go on after whatever ended it.

* ``lock`` is held by every process of the run: no second run begins before the last process of the first is gone;
* ``run/run.json`` says what the run is about, as digests, and holds the storage keys of the journals;
* ``run/transmitter`` and ``run/receiver`` are the journals of the ends; the start key is in them and nowhere else;
* ``run/result.json`` is there once everything is finished. Both carry a digest of what they say.

A run is made beside its place and moved there whole: what is interrupted before never used a bit and is thrown away.

Security: whoever reads the directory reads authentication key that was not used yet, and keys that were not written out
yet. A copy of it MUST NOT be used: both ends would go back together, notice nothing, and use key twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.link_journal import FileLinkJournal
from shosoin.adapters.private_files import (
    create_private,
    make_directory,
    read_private,
    replace_private,
    sync_directory,
)
from shosoin.base import Alarm, Rejected, Unavailable
from shosoin.link.postprocessing import install_start_key
from shosoin.services.link_records import opened

__all__ = ["BEGIN_ANEW", "ROLES", "RunState", "digest_of", "held", "is_begun", "open_run"]

ROLES = ("transmitter", "receiver")
START_KEY_BYTES = 1 << 15
_STORAGE_KEY_BYTES = 32
_VERSION = 2
_FILE_BYTES_MAX = 1 << 26
_NAMES = {"lock", "new", "parts", "run"}
BEGIN_ANEW = "take a new recording and a new directory: a recording that was begun must not become key once more"
"""What to do where the state of a run is lost."""
_WAIT_S = 5.0
"""How long the last processes of a run that was killed may take to go."""


@dataclass(frozen=True, slots=True)
class RunState:
    """A run that was begun."""

    directory: Path
    storage_keys: tuple[str, str] = field(repr=False)
    """Of the transmitter's and the receiver's journal, in hexadecimal."""
    is_resumed: bool
    result: Mapping[str, Any] | None
    """What came of it, if it is finished."""

    def state_of(self, role: str) -> Path:
        """Return the directory of a journal."""
        return self.directory / role

    def finish(self, result: Mapping[str, Any]) -> None:
        """Keep what came of the run, durably.

        Raises:
            Unavailable: the directory cannot be written.
        """
        try:
            replace_private(self.directory / "result.json", _spelled(result))
        except OSError as err:
            raise _out_of_reach(self.directory, err) from err


@contextlib.contextmanager
def held(directory: Path, *, wait_s: float = _WAIT_S) -> Iterator[int]:
    """Hold the directory of a run, made if absent; yield the lock, which its processes inherit.

    Raises:
        Rejected: something else lies in the directory.
        Unavailable: another run holds it, or it is out of reach.
    """
    try:
        make_directory(directory)
        strange = sorted({path.name for path in directory.iterdir()} - _NAMES)
        if strange:
            raise Rejected(
                f"{directory} is no state of a run: it holds {strange[0]!r}",
                code="link.state_rejected",
                hint="name a directory that is new, or that of a run that was begun",
            )
        directory.chmod(0o700)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as err:
        raise _out_of_reach(directory, err) from err
    try:
        _lock(descriptor, directory, wait_s)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(descriptor: int, directory: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"another run holds {directory}",
                    code="link.state_held",
                    hint="wait until it has ended",
                ) from err
            time.sleep(0.05)
        except OSError as err:  # a file system without locks
            raise _out_of_reach(directory, err) from err
        else:
            return


def _out_of_reach(directory: Path, err: OSError) -> Unavailable:
    return Unavailable(f"{directory} cannot be used: {err.strerror or err}", code="link.state_out_of_reach")


def is_begun(directory: Path) -> bool:
    """Return whether a run was begun in a directory."""
    return (directory / "run").exists()


def open_run(directory: Path, subject: Mapping[str, Any]) -> RunState:
    """Return the run of a directory that is held; begin one if there is none.

    Args:
        subject: what the run is about, as JSON knows it; a run that was begun goes on with the same alone.

    Raises:
        Rejected: the run was begun with something else.
        Alarm: what is there is damaged.
        Denied: somebody else may read or change it.
        Unavailable: the directory cannot be written.
    """
    run, new = directory / "run", directory / "new"
    is_resumed = is_begun(directory)
    try:
        if not is_resumed:
            _begin(new, json.loads(json.dumps(subject)))
            new.rename(run)
            sync_directory(directory)
            sync_directory(directory.parent)
    except OSError as err:
        raise _out_of_reach(directory, err) from err
    told = _read(run / "run.json", BEGIN_ANEW)
    _require_same(directory, told["subject"], json.loads(json.dumps(subject)))
    finished = run / "result.json"
    result = _read(finished, f"remove {finished}: the ends tell it again") if finished.exists() else None
    return RunState(run, tuple(told["storage_keys"]), is_resumed, result)


def _begin(new: Path, subject: Mapping[str, Any]) -> None:
    """Make a run: the start key goes into both journals before anybody can use it from either."""
    if new.exists():
        shutil.rmtree(new)
    new.mkdir(mode=0o700)
    entropy = SystemEntropy()
    start_key = entropy.random_bytes(START_KEY_BYTES)
    storage_keys = [entropy.random_bytes(_STORAGE_KEY_BYTES) for _ in ROLES]
    for role, storage_key in zip(ROLES, storage_keys, strict=True):
        with contextlib.closing(FileLinkJournal(new / role, storage_key)) as journal:
            install_start_key(journal, start_key)
    told = {"subject": subject, "storage_keys": [key.hex() for key in storage_keys]}
    create_private(new / "run.json", _spelled(told))


def _spelled(told: Mapping[str, Any]) -> bytes:
    """Return a file that says when a bit of it is no longer what was written; it does not find forgers."""
    as_read = json.loads(json.dumps(told))  # names are text then, and sorted as such
    return json.dumps({"version": _VERSION, "digest": _digest_of_told(as_read), "told": as_read}).encode()


def _digest_of_told(told: Any) -> str:
    return blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=32, person=b"link run").hexdigest()


def _read(path: Path, hint: str) -> dict[str, Any]:
    """Return what ``_spelled`` was given.

    Raises:
        Rejected: it is of another version, or gone.
        Alarm: it is damaged.
    """
    content = read_private(path, "state of a run", bytes_max=_FILE_BYTES_MAX)
    try:
        file = json.loads(content)
        is_ours = file["version"] == _VERSION
        told: dict[str, Any] = file["told"] if is_ours else {}
        is_whole = not is_ours or file["digest"] == _digest_of_told(told)
    except (ValueError, TypeError, KeyError, RecursionError):
        is_ours = is_whole = False
    if not is_whole:
        raise Alarm(f"{path} is damaged", code="link.state_damaged", hint=hint)
    if not is_ours:
        raise Rejected(f"the state in {path} is of another version", code="link.state_rejected")
    return told


def _require_same(directory: Path, begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    names = _differences(begun, wanted)
    if names:
        raise Rejected(
            f"the run in {directory} was begun with other {', '.join(names)}",
            code="link.state_differs",
            hint="name another directory"
            if "recordings" in names
            else "go on with what it was begun with: a recording must not become key once more",
        )


def _differences(one: Any, other: Any, name: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        parts = sorted(one.keys() | other.keys())
        return [
            found for part in parts for found in _differences(one.get(part), other.get(part), f"{name} {part}".strip())
        ]
    return [] if one == other else [name]


def digest_of(paths: Sequence[Path]) -> list[str]:
    """Return digests of files, in order.

    Raises:
        Rejected: one of them cannot be read.
    """
    return [_digest(path) for path in paths]


def _digest(path: Path) -> str:
    hashed = blake2b(digest_size=32, person=b"link recording")
    try:
        with opened(path) as file:
            while piece := file.read(1 << 20):
                hashed.update(piece)
    except OSError as err:
        raise Rejected(f"cannot read the recording {path}: {err.strerror}", code="link.recording_rejected") from err
    return hashed.hexdigest()
