"""Which pairs an operator has paused, kept over restarts: a pause that a crash ends would be none."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from shosoin.adapters.certificates import write_private
from shosoin.base import KmeId, Rejected, Unavailable

__all__ = ["read_paused", "write_paused"]

_NAME = "paused.json"


def read_paused(directory: Path) -> set[KmeId]:
    """Return the peers of the paused pairs.

    Raises:
        Rejected: the file is there and cannot be read, so that nobody knows.
    """
    path = directory / _NAME
    try:
        found = json.loads(path.read_bytes())
        return {KmeId(each) for each in found["paused"]}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise Rejected(f"cannot read {path}", code="kme.bad_paused", hint="remove it, then pause pairs again") from err


def write_paused(directory: Path, paused: Iterable[KmeId]) -> None:
    """Keep them, durable when this returns.

    Raises:
        Unavailable: they could not be written.
    """
    try:
        write_private(directory / _NAME, json.dumps({"paused": sorted(paused)}).encode())
    except OSError as err:
        raise Unavailable(f"cannot write {_NAME}: {err.strerror}", code="kme.unwritable") from err
