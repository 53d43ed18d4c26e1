"""When the next session of an event-level link may begin.

A session costs authentication key before it brings any. Whoever can end connections, a peer or somebody in between,
could use that up: so after a session that ended before a block was finished the next one waits, longer each time, until
a block is finished. A session that lasted longer than the longest pause neither counts nor makes good.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from shosoin.base import Entropy
from shosoin.base.ports import Clock
from shosoin.services.json_log import log
from shosoin.services.sources.pauses import Pauses

__all__ = ["SessionPace"]

_PAUSE_S_MIN, _PAUSE_S_MAX = 0.5, 1800.0
"""At four sessions an hour the stock that a block leaves (16 KiB of each stream, 64 bytes a session) lasts for days."""
_DIFFERENT_S = 30.0
"""Where the ends are set differently: somebody has to change a file."""
_LOOK_S = 0.25
"""How often a pausing end looks whether its channel is still there."""


class SessionPace:
    """The pauses of one link at one end; kept in memory only."""

    def __init__(self, clock: Clock, entropy: Entropy, peer: str) -> None:
        self._clock, self._entropy, self._peer = clock, entropy, peer
        self._pauses = Pauses(_PAUSE_S_MIN, _PAUSE_S_MAX, self._draw)
        self._not_before_s = 0.0
        self._began_s: float | None = None
        self._has_brought_block = False
        self.next_session = ""
        """Time of day at which the last pause ends."""

    def _draw(self) -> float:
        return int.from_bytes(self._entropy.random_bytes(4), "big") / 2**32

    @property
    def breaks(self) -> int:
        """Sessions in a row that ended before they brought a block."""
        return self._pauses.failures

    @property
    def is_pausing(self) -> bool:
        """Whether no session may begin now."""
        return self._clock.now_s() < self._not_before_s

    async def wait(self, is_void: Callable[[], bool]) -> bool:
        """Wait until a session may begin; return whether it still can, or is void before."""
        while not is_void():
            left_s = self._not_before_s - self._clock.now_s()
            if left_s <= 0:
                return True
            await asyncio.sleep(min(left_s, _LOOK_S))
        return False

    def begin(self) -> None:
        """Say that a session begins to cost authentication key."""
        self._began_s, self._has_brought_block = self._clock.now_s(), False

    def brought_block(self) -> None:
        """Say that a block was finished."""
        self._has_brought_block = True
        self.reset()

    def reset(self) -> None:
        """Forget what went wrong before."""
        self._pauses.reset()
        self._not_before_s = 0.0

    def end(self, *, differs: bool) -> None:
        """Say that a session ended, or none came about.

        Args:
            differs: whether because the two ends are set differently.
        """
        began_s, self._began_s = self._began_s, None
        now_s = self._clock.now_s()
        is_break = began_s is not None and not self._has_brought_block and now_s - began_s < _PAUSE_S_MAX
        if is_break:
            pause_s = self._pauses.next_s(_DIFFERENT_S if differs else 0.0)
        elif differs:
            pause_s = _DIFFERENT_S  # it cost nothing
        else:
            return
        self._not_before_s = now_s + pause_s
        next_s = self._clock.wall_s() + pause_s
        self.next_session = datetime.fromtimestamp(next_s, UTC).isoformat(timespec="seconds")
        log("link.pausing", peer=self._peer, sessions=self.breaks, pause_s=round(pause_s, 3))
