"""Marks of pairs whose unreadable state is being thrown away: what was begun must be finished before the pair opens.

While ``discarding/PEER.json`` lies in a KME's state directory, the store of that pair is neither what it was nor new,
and nobody opens it: a store that has lost its journal, or its newest part, would otherwise look like that of a pair
that has never started, or of an earlier day. The mark also holds all that is still known of the secrets that the pair
has used, for the journal that told of them is gone. It is durable before anything is destroyed, and goes when the new
journal, which takes over what it knows, is durable.

A mark is seen on its machine alone. So where another machine may open the pair, in a database, a record that opens
under no key stands in place of the journal until then (``DISCARDED_RECORD``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from shosoin.adapters.private_files import replace_private, settle, sync_directory
from shosoin.keys.errors import StreamRefused

__all__ = ["DISCARDED_RECORD", "DiscardMark", "marked_peers"]

DISCARDED_RECORD = "discarded"
"""Name of a record without content."""
_DIRECTORY, _SUFFIX = "discarding", ".json"
_FINGERPRINT = re.compile(r"[0-9a-f]{32}")


def marked_peers(directory: Path) -> set[str]:
    """Return the peers whose state is being thrown away."""
    return {path.stem for path in (directory / _DIRECTORY).glob(f"*{_SUFFIX}")}


class DiscardMark:
    """The mark of one pair, which may not be there."""

    def __init__(self, directory: Path, peer: str) -> None:
        self._peer = peer
        self._path = directory / _DIRECTORY / (peer + _SUFFIX)

    def require_absent(self) -> None:
        """Check that the pair's store is not half gone.

        Raises:
            StreamRefused: it may be.
        """
        if self._path.exists():
            raise StreamRefused(
                f"what is stored of the pair with {self._peer} was being thrown away and is incomplete",
                hint="finish it: shosoin kme rekey --discard-damaged",
            )

    def used(self) -> list[str]:
        """Return the fingerprints of secrets that the pair is known to have used, none if there is no sound mark."""
        try:
            found = json.loads(self._path.read_bytes())
        except (FileNotFoundError, ValueError):
            return []
        return [one for one in found if _is_fingerprint(one)] if isinstance(found, list) else []

    def write(self, used: Sequence[str]) -> None:
        """Make the mark, with what is known of used secrets, durable."""
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        sync_directory(self._path.parent.parent)
        replace_private(self._path, json.dumps(list(used)).encode())

    def remove(self) -> None:
        """Remove the mark durably."""
        settle(self._path)
        self._path.unlink()
        sync_directory(self._path.parent)


def _is_fingerprint(found: object) -> bool:
    return isinstance(found, str) and _FINGERPRINT.fullmatch(found) is not None
