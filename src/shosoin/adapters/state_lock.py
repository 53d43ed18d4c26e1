"""Who may touch a KME's state directory: its processes together, or one maintenance command alone.

Processes of a KME hold the lock shared for as long as they run; a command that changes state behind their back takes it
exclusively. The kernel lets go of it when a process ends, however that happens.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Self

from shosoin.base import Denied, Rejected, Unavailable

__all__ = ["StateLock"]


class StateLock:
    """The lock of a state directory, as a context manager.

    Raises (when made):
        Unavailable: a KME runs there, or a command works there.
        Denied: a command runs as another user than the KME, which could not read what it writes.
        Rejected: the directory cannot be used.
    """

    def __init__(self, directory: Path, *, exclusive: bool) -> None:
        path = directory / "state.lock"
        try:
            if exclusive and directory.stat().st_uid != os.geteuid():
                raise Denied(
                    f"{directory} belongs to another user",
                    code="store.other_user",
                    hint="run this command as the user that the KME runs as",
                )
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as err:
            raise Rejected(f"cannot use {directory}: {err.strerror}", code="store.unusable") from err
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as err:
            os.close(self._descriptor)
            raise _in_use(directory, exclusive=exclusive) from err

    def release(self) -> None:
        """Let go; again is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _in_use(directory: Path, *, exclusive: bool) -> Unavailable:
    if exclusive:
        return Unavailable(
            f"{directory} is in use by a running KME or another command",
            code="store.in_use",
            hint="stop the KME first; this command works while it stands still",
        )
    return Unavailable(f"a maintenance command works in {directory}", code="store.in_use", retry_after_s=5.0)
