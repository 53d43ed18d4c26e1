"""Whether a directory can be written to right now, found out by writing to it.

Permissions and free space tell less: a disk may be full, read-only or gone while the process still runs. One thread
tries, never two at once and not more often than an interval, so that nobody who asks often wears the disk out, and a
disk that does not answer holds up nobody for longer than a moment.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from pathlib import Path

from shosoin.base.ports import Clock

__all__ = ["StorageProbe"]

_PATIENCE_S = 5.0
_NAME = "health.probe"
_CONTENT = bytes(4096)


class StorageProbe:
    """Tries one directory."""

    def __init__(self, directory: Path, clock: Clock, *, interval_s: float) -> None:
        self._path = directory / _NAME
        self._clock, self._interval_s = clock, interval_s
        self._trial: asyncio.Future[str] | None = None
        self._begun_s = 0.0

    async def fault(self) -> str:
        """Return why the directory cannot be written to, empty if it can."""
        trial = self._trial
        if trial is None or (trial.done() and self._clock.now_s() - self._begun_s >= self._interval_s):
            self._begun_s = self._clock.now_s()
            trial = self._trial = self._begun()
        await asyncio.wait({trial}, timeout=_PATIENCE_S)
        return trial.result() if trial.done() else f"no answer within {_PATIENCE_S:g} s"

    def _begun(self) -> asyncio.Future[str]:
        """Start a trial in a thread that the end of the process does not wait for, as it would for an executor's."""
        loop = asyncio.get_running_loop()
        trial: asyncio.Future[str] = loop.create_future()

        def work() -> None:
            outcome = _try(self._path)
            with suppress(RuntimeError):  # the loop is closed: nobody asks any more
                loop.call_soon_threadsafe(_tell, trial, outcome)

        threading.Thread(target=work, name="storage-probe", daemon=True).start()
        return trial


def _tell(trial: asyncio.Future[str], outcome: str) -> None:
    if not trial.done():
        trial.set_result(outcome)


def _try(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(descriptor, _CONTENT)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        path.unlink()
    except OSError as err:
        return err.strerror or type(err).__name__
    return ""
