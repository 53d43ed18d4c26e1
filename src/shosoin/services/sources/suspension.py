"""A link that an alarm has suspended stays so over restarts: a small file beside the journals of its source says it.

``<state>/sources/<peer>/suspended.json`` holds code and time of the alarm. It belongs to the link, not to its journals:
a new start key lifts nothing. Whatever cannot be read there counts as a suspension, because nobody knows better.

Security: whoever can write in the KME's directory can remove the file, as it could replace the program.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

from shosoin.adapters.certificates import make_private_directory, write_private
from shosoin.adapters.private_files import sync_directory
from shosoin.base import Unavailable
from shosoin.base.ports import Clock, Event, EventSink
from shosoin.services.json_log import log
from shosoin.services.sources.pauses import Pauses

__all__ = ["SUSPENSION_FILE", "Suspension", "lift_suspension", "read_suspension"]

SUSPENSION_FILE = "suspended.json"
_UNREADABLE = "link.suspension_unreadable"
_BYTES_MAX = 4096
_CODE = re.compile(r"[a-z0-9_.]{1,80}")


_AGAIN_S_MIN, _AGAIN_S_MAX = 1.0, 60.0
"""Between attempts to write."""


def read_suspension(directory: Path) -> str:
    """Return the code of the alarm that has suspended a link, empty if none has.

    Args:
        directory: of the link's source; need not exist.
    """
    try:
        # Neither a link to nowhere nor a pipe is what an alarm wrote, and neither means that there was none.
        descriptor = os.open(directory / SUSPENSION_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            reason = json.loads(file.read(_BYTES_MAX) or b"")["reason"]
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return _UNREADABLE
    return reason if isinstance(reason, str) and _CODE.fullmatch(reason) else _UNREADABLE


def lift_suspension(directory: Path) -> str:
    """Remove what says that a link is suspended, durably; return what it said.

    Raises:
        Unavailable: that could not be done.
    """
    reason = read_suspension(directory)
    try:
        (directory / SUSPENSION_FILE).unlink(missing_ok=True)
        if directory.exists():
            sync_directory(directory)
    except OSError as err:
        message = f"cannot remove {directory / SUSPENSION_FILE}: {err.strerror}"
        raise Unavailable(message, code="link.suspension_not_lifted") from err
    return reason


def _keep(directory: Path, reason: str, wall_s: float) -> None:
    told = json.dumps({"reason": reason, "wall_s": round(wall_s, 3)})
    try:
        write_private(make_private_directory(directory) / SUSPENSION_FILE, told.encode())
        for parent in list(directory.parents)[:2]:  # those that the directory may be the first in
            sync_directory(parent)
    except OSError as err:
        raise Unavailable(
            f"cannot write {directory / SUSPENSION_FILE}: {err.strerror}",
            code="link.suspension_not_kept",
            hint="the link is suspended, and a restart would forget it; writing is tried again",
        ) from err


class Suspension:
    """Why a link makes no keys, at one end of a running KME.

    Args:
        directory: of the link's source; need not exist before the first suspension.
        simulated: whether its devices are; events say so.
    """

    def __init__(self, directory: Path, peer: str, clock: Clock, events: EventSink, *, simulated: bool) -> None:
        self._directory, self._peer, self._clock, self._events = directory, peer, clock, events
        self._simulated = simulated
        self._turn = asyncio.Lock()
        self._pauses, self._again_s = Pauses(_AGAIN_S_MIN, _AGAIN_S_MAX), 0.0
        self._is_kept = True
        self.reason = read_suspension(directory)
        """Code of the alarm; empty while the link may make keys."""
        if self.reason:
            log("link.suspended_still", peer=peer, reason=self.reason)

    async def begin(self, reason: str) -> None:
        """Suspend: in memory at once, then durably, then for all to hear. The first reason stays."""
        if self.reason:
            async with self._turn:  # of whoever makes that durable
                return
        self.reason, self._is_kept = reason, False
        await self._keep()
        log("link.suspended", peer=self._peer, reason=reason)
        self._emit("link.suspended", "alarm", reason=reason)

    async def settle(self) -> None:
        """Make durable what could not be written before; call now and then."""
        if not self._is_kept and self._clock.now_s() >= self._again_s:
            await self._keep()

    async def lift(self) -> str:
        """End the suspension, durably; return what the reason was.

        Raises:
            Unavailable: that could not be written; the link stays suspended.
        """
        async with self._turn:
            reason = self.reason
            await asyncio.to_thread(lift_suspension, self._directory)
            if self.reason == reason:  # else an alarm came meanwhile, and waits for its turn to be written
                self.reason, self._is_kept = "", True
        if reason:
            log("link.suspension_lifted", peer=self._peer, reason=reason)
            self._emit("link.suspension_lifted", "warning", reason=reason)
        return reason

    async def _keep(self) -> None:
        async with self._turn:
            if self._is_kept:
                return
            try:
                await asyncio.to_thread(_keep, self._directory, self.reason, self._clock.wall_s())
                self._is_kept = True
            except Unavailable as err:
                self._again_s = self._clock.now_s() + self._pauses.next_s()
                self._emit(err.code, "alarm", reason=err.message, hint=err.hint)

    def _emit(self, name: str, severity: str, **fields: object) -> None:
        self._events.emit(Event(name, severity, {"peer": self._peer, "simulated": self._simulated, **fields}))
