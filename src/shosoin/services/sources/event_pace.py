"""When the next session of an event-level link may begin.

A session costs authentication key before it brings any. Whoever can end connections, a peer or somebody in between,
could use that up: so after a session that ended before a block was finished the next one waits, longer each time, until
a block is finished. A session that lasted longer than the longest pause neither counts nor makes good.

Each direction has authentication key of its own, which only its own blocks refill. So a block of one excuses the other
a few times only: else somebody could end every session just before that one's first block. And blocks without a key
cost authentication key as well, and whoever is on the line can make them so: after a few in a row each further one ends
its session, however long that lasted.
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
"""At four sessions an hour the stock that a block leaves (16 KiB of each stream) lasts for days if they are ended at
their beginning (64 bytes), and for a day if just before a block is finished (192 bytes)."""
_VOIDS_MAX = 8
"""Blocks of one direction in a row; they take a tenth of that stock at most."""
_EXCUSED_MAX = 16
"""Sessions in a row to which only the other direction brought a block."""
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
        self._brought: set[bool] = set()
        """Directions that brought a block in this session; True is the one that this end transmits."""
        self._voids, self._empty = dict.fromkeys((True, False), 0), dict.fromkeys((True, False), 0)
        """Of each direction since its last block with a key: blocks without, and sessions that ended meanwhile."""
        self.next_session = ""
        """Time of day at which the last pause ends."""

    def _draw(self) -> float:
        return int.from_bytes(self._entropy.random_bytes(4), "big") / 2**32

    @property
    def breaks(self) -> int:
        """Sessions in a row that ended before they brought the blocks they should have."""
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
        self._began_s = self._clock.now_s()
        self._brought.clear()

    def brought_block(self, *, transmitted: bool) -> None:
        """Say that a block of one direction was finished."""
        self._brought.add(transmitted)
        self._voids[transmitted] = self._empty[transmitted] = 0
        if not self._is_drained:
            self._forget_breaks()

    def block_void(self, *, transmitted: bool) -> bool:
        """Say that a block has no key; return whether so many had none that the session must end."""
        self._voids[transmitted] += 1
        return self._voids[transmitted] >= _VOIDS_MAX

    def reset(self) -> None:
        """Forget what went wrong before."""
        for counts in (self._voids, self._empty):
            counts.update(dict.fromkeys(counts, 0))
        self._forget_breaks()

    def _forget_breaks(self) -> None:
        self._pauses.reset()
        self._not_before_s = 0.0

    @property
    def _is_drained(self) -> bool:
        """Whether a direction uses up authentication key and brings none, whatever the other one does."""
        return max(self._voids.values()) >= _VOIDS_MAX or max(self._empty.values()) >= _EXCUSED_MAX

    def _is_break(self, began_s: float, now_s: float) -> bool:
        """Count a session that ended; return whether a pause follows."""
        if now_s - began_s >= _PAUSE_S_MAX:
            return max(self._voids.values()) >= _VOIDS_MAX
        for way in self._empty.keys() - self._brought:
            self._empty[way] += 1
        return not self._brought or self._is_drained

    def end(self, *, differs: bool) -> None:
        """Say that a session ended, or none came about.

        Args:
            differs: whether because the two ends are set differently.
        """
        began_s, self._began_s = self._began_s, None
        now_s = self._clock.now_s()
        if began_s is not None and self._is_break(began_s, now_s):
            pause_s = self._pauses.next_s(_DIFFERENT_S if differs else 0.0)
        elif differs:
            pause_s = _DIFFERENT_S  # it cost nothing
        else:
            return
        self._not_before_s = now_s + pause_s
        next_s = self._clock.wall_s() + pause_s
        self.next_session = datetime.fromtimestamp(next_s, UTC).isoformat(timespec="seconds")
        log("link.pausing", peer=self._peer, sessions=self.breaks, pause_s=round(pause_s, 3))
