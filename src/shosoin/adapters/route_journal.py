"""The owner's journal of who saw the keys of reads: one file an object, one line a new route, synced before use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from shosoin.base import Unavailable

__all__ = ["FileRouteJournal"]


class FileRouteJournal:
    """``RouteJournal`` in a directory that only the owner reads.

    Lines are appended in one write each, so that two commands at once lose none of them. A line that a crash tore stays
    alone on its line, and readers take it for a route that nobody knows.

    Raises (both methods): ``Unavailable`` when the disk does not give or take a line. A read whose route cannot be
    written down must not happen.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def lines(self, object_id: str) -> Sequence[bytes]:
        """Return the lines of an object."""
        try:
            return [line for line in (self._directory / object_id).read_bytes().split(b"\n") if line]
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._failed("read", error) from None

    def append(self, object_id: str, line: bytes) -> None:
        """Add a line; it is on the disk on return."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self._directory / object_id
            is_new = not path.exists()
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.write(b"\n" + line + b"\n")
                os.fsync(file.fileno())
            if is_new:
                self._sync_directory()
        except OSError as error:
            raise self._failed("write", error) from None

    def _sync_directory(self) -> None:
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _failed(self, what: str, error: OSError) -> Unavailable:
        return Unavailable(
            f"cannot {what} the journal of key routes in {self._directory}: {error.strerror}",
            code="adapters.route_journal",
            hint="make the owner's state directory readable and writable, and room on its disk",
        )
