"""A recorded QKD run as the source of a link's bits, for reproduction and tests; its keys are always called simulated.

Each end has a file of the same run (``shosoin.services.sources.recording``). The KME with the lower id transmits the
even chunks, the other one the odd ones, each in ascending order and once: how far each direction has come is made
durable before the bits are used, so a restart goes on behind them. The receiving end refuses what lies below its own
mark, and tells the transmitting end where that is: an end that lost its record burns up to the other's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from itertools import pairwise

from shosoin.adapters.used_tickets import UsedMemory
from shosoin.base import PeerFault
from shosoin.base.ports import Clock
from shosoin.services.sources.config import ReplaySection
from shosoin.services.sources.offers import TICKETS_MAX
from shosoin.services.sources.port import Material, Supply
from shosoin.services.sources.recording import Recording

__all__ = ["Replay"]

_TICKET = re.compile(r"([0-9a-f]{32})/(0|[1-9][0-9]{0,12})")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,12}")


class Replay(Supply):
    """One end of a recorded run.

    Args:
        even: whether this end transmits the even chunks.

    Raises:
        Rejected: the file is no recording.
    """

    def __init__(self, section: ReplaySection, used: UsedMemory, clock: Clock, *, even: bool) -> None:
        super().__init__(used)
        self._recording = Recording(section.file)
        self._header = self._recording.header
        self._parity = 0 if even else 1
        self._clock = clock
        self._rate_bytes = self._header.secret_key_rate_bps * section.speedup / 8 / 2  # of one direction
        self._paid_s = clock.now_s()
        self._next = 0

    async def prepare(self) -> str:
        """Find out how far this direction has come; the note is the run."""
        self._next = max(self._next, await self._used.mark(self._stream(transmitting=True)))
        return self._header.run

    async def greet(self, note: str) -> str:
        """Check that it is the same run, and tell how far this end has come."""
        if note != self._header.run:
            raise PeerFault("the two ends replay different runs", code="source.other_run")
        return str(await self._used.mark(self._stream(transmitting=False)))

    async def greeted(self, answer: str) -> None:
        """Go on behind what the other end has used."""
        if not _NUMBER.fullmatch(answer):
            raise PeerFault("an answer without a position", code="source.bad_answer")
        self._next = max(self._next, int(answer))

    async def draw(self, least_bytes: int, most_bytes: int) -> Material | None:
        """Read the next chunks of this direction, as many as the rate of the run has made by now."""
        size = self._header.chunk_bytes
        first = self._next + (self._next - self._parity) % 2
        left = max(0, -(-(self._header.chunks - first) // 2))
        wanted = min(left, TICKETS_MAX, max(1, most_bytes // size, -(-least_bytes // size)))
        wanted = min(wanted, self._earned(most_bytes + size) // size) if self._rate_bytes else wanted
        if wanted * size < least_bytes:
            return None
        indexes = range(first, first + 2 * wanted, 2)
        self._paid_s += wanted * size / self._rate_bytes if self._rate_bytes else 0.0
        self._next = indexes[-1] + 1
        return await self._read(indexes)

    def _earned(self, most_bytes: int) -> int:
        now_s = self._clock.now_s()
        self._paid_s = max(self._paid_s, now_s - most_bytes / self._rate_bytes)  # what found no room is not made up for
        return int((now_s - self._paid_s) * self._rate_bytes)

    async def fetch(self, tickets: Sequence[str], size_bytes: int) -> Material:
        """Read the chunks that the other end read."""
        return await self._read([self._index(ticket) for ticket in tickets])

    async def claim(self, tickets: Sequence[str], *, transmitting: bool) -> None:
        """Make the position durable."""
        indexes = [self._index(ticket) for ticket in tickets]
        parity = self._parity if transmitting else 1 - self._parity
        ascending = all(low < high for low, high in pairwise(indexes))
        if not ascending or any(index % 2 != parity for index in indexes):
            raise PeerFault("chunks that the other end does not transmit", code="source.bad_offer")
        await self._used.raise_mark(self._stream(transmitting=transmitting), indexes[0], indexes[-1])

    async def _read(self, indexes: Sequence[int]) -> Material:
        material = Material()
        for index in indexes:
            chunk = await asyncio.to_thread(self._recording.read, index)
            material.add(f"{self._header.run}/{index}", chunk)
        return material

    def _stream(self, *, transmitting: bool) -> str:
        return f"{self._header.run}/{'out' if transmitting else 'in'}"

    def _index(self, ticket: str) -> int:
        found = _TICKET.fullmatch(ticket)
        if found is None or found[1] != self._header.run:
            raise PeerFault("a ticket of another run", code="source.bad_offer")
        return int(found[2])
