"""Tell a KME that runs on this machine to look at its certificates now, and hear what it made of them.

Its process number is in ``ready`` and in ``identity.json``, beside a mark that tells it from a later process with the
same number: SIGHUP would end whoever does not expect it.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from shosoin.adapters.process_mark import is_running
from shosoin.base import Rejected, Unavailable
from shosoin.services.kme_config import load_kme_config
from shosoin.services.kme_identity import IDENTITY_FILE

__all__ = ["reload_kme", "running_kme"]

_LOOK_S = 0.05


def running_kme(directory: Path) -> dict[str, Any] | None:
    """Return what the KME that runs in a directory wrote down of its certificates, ``None`` if none runs."""
    found = _state(directory)
    if found is None or found["pid"] != _ready_pid(directory) or not is_running(found["pid"], found["mark"]):
        return None
    return found


def reload_kme(config: Path, timeout_s: float) -> dict[str, Any]:
    """Send SIGHUP and return what the KME says that it uses.

    Raises:
        Rejected: the configuration is wrong.
        Unavailable: no KME runs there, or it does not answer in time.
    """
    directory = load_kme_config(config).kme.directory
    before = running_kme(directory)
    if before is None:
        raise Unavailable(
            f"no KME runs in {directory}", code="kme.not_running", hint="start it: it reads all files then"
        )
    asked_s = time.monotonic()
    try:
        os.kill(before["pid"], signal.SIGHUP)
    except PermissionError as err:
        raise Rejected("the KME runs as another user", code="kme.not_ours", hint="become that user") from err
    except ProcessLookupError as err:
        raise Unavailable(f"the KME in {directory} has just ended", code="kme.not_running") from err
    return _told(directory, before, asked_s, asked_s + timeout_s)


def _told(directory: Path, before: dict[str, Any], asked_s: float, deadline_s: float) -> dict[str, Any]:
    while time.monotonic() < deadline_s:
        after = _state(directory)
        # A look that somebody else had asked for began before ours was wanted: it may have missed what is new.
        if after is not None and after["pid"] == before["pid"] and after["looked_s"] >= asked_s:
            return after
        if not is_running(before["pid"], before["mark"]):
            raise Unavailable(f"the KME in {directory} ended meanwhile", code="kme.not_running", hint="see its log")
        time.sleep(_LOOK_S)
    raise Unavailable("the KME did not say in time what it loaded", code="kme.no_answer", hint="see its log")


def _ready_pid(directory: Path) -> int | None:
    return _member(directory / "ready", "pid")


def _state(directory: Path) -> dict[str, Any] | None:
    """Return what a KME wrote down of its certificates, ``None`` if there is nothing of that form."""
    try:
        found = json.loads((directory / IDENTITY_FILE).read_bytes())
        if type(found["pid"]) is int and type(found["looked_s"]) is float and isinstance(found["mark"], str):
            return dict(found) if found["pid"] > 1 else None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _member(path: Path, name: str) -> int | None:
    try:
        value = json.loads(path.read_bytes())[name]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return value if type(value) is int else None
