"""How long a call of ETSI GS QKD 004 waits: at most its stream's Timeout, and not for an application that has left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shosoin.base import Unavailable
from shosoin.base.ports import Clock
from shosoin.keys.errors import LeaseNeeded, StreamNotReady
from shosoin.keys.qos004 import Pace
from shosoin.keys.stream004 import CallRefused
from shosoin.keys.wire004 import Qos, Status

__all__ = ["Gone", "Patience"]

_PAUSE_S_MIN, _PAUSE_S_MAX = 0.02, 0.25

T = TypeVar("T")
Gone = Callable[[], bool]
"""Whether the application has left, so that nothing need be done for it any more."""


class Patience:
    """The time that one call has left."""

    def __init__(self, clock: Clock, qos: Qos, gone: Gone) -> None:
        self._clock, self._gone = clock, gone
        self._deadline_s = clock.now_s() + qos.timeout_ms / 1000

    @property
    def left_s(self) -> float:
        """Seconds that are left, never quite none: what can be had at once is had with a Timeout of any length."""
        return max(_PAUSE_S_MIN, self._deadline_s - self._clock.now_s())

    async def until(self, condition: Callable[[], bool], missing: str) -> None:
        """Wait until a condition holds.

        Raises:
            CallRefused: it did not in time.
        """
        pause_s = _PAUSE_S_MIN
        while not condition():
            pause_s = await self._pause(pause_s, missing)

    async def paced(self, pace: Pace) -> None:
        """Wait until the stream's Max_bps allows one more chunk.

        Raises:
            CallRefused: it did not in time.
        """
        while (wait_s := pace.wait_s()) > 0:
            await self._pause(wait_s, "the stream's Max_bps is used up")

    async def had(self, attempt: Callable[[], Awaitable[T]], missing: str) -> T:
        """Try again until an attempt succeeds, while what it lacks may come soon.

        Raises:
            CallRefused: it did not in time, or lacks what will not come soon.
        """
        pause_s = _PAUSE_S_MIN
        while True:
            try:
                async with asyncio.timeout(self.left_s):
                    return await attempt()
            except CallRefused:
                raise
            except (StreamNotReady, LeaseNeeded, TimeoutError):
                pass
            except Unavailable as err:
                if not err.code.startswith("peer."):  # the other KME may answer soon; a dry stream stays dry for long
                    raise CallRefused(Status.INSUFFICIENT_KEY, err.message) from err
            pause_s = await self._pause(pause_s, missing)

    async def _pause(self, wanted_s: float, missing: str) -> float:
        left_s = self._deadline_s - self._clock.now_s()
        if left_s <= 0 or self._gone():
            raise CallRefused(Status.TIMEOUT, missing)
        await asyncio.sleep(min(wanted_s, left_s, _PAUSE_S_MAX))
        return min(2 * wanted_s, _PAUSE_S_MAX)
