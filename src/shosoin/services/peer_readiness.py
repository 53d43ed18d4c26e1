"""Which peers answer: bits are drawn for a question only while its peer takes questions.

A copy of a multicast key is sealed under bits of a stream, and they are spent whether or not the peer answers. A peer
whose connection stands but that answers nothing (its process is stopped, its disk hangs) would drain the stream, one
request at a time. So whoever is about to draw first makes sure of the peer: it has answered within the last second, or
it answers a question that costs nothing and is served where the copies are stored. Few questions are open per peer, so
no more than those are lost when it falls silent.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

from shosoin.base import KmeId, Unavailable
from shosoin.keys.errors import StreamNotReady
from shosoin.services.kme_requests import PeerRefused, PeerRequests

__all__ = ["OPEN_MAX", "PeerReadiness"]

OPEN_MAX = 16
"""Questions under drawn bits that one peer may leave unanswered."""
_RECENT_S = 1.0
_NEVER_S = float("-inf")


class PeerReadiness:
    """What one kind of question knows of the peers that are asked it.

    Args:
        probe: subject of a question without a body that the peer answers where it would serve the real ones.
        now_s: a clock that never goes back.
        timeout_s: after which a question counts as unanswered.
    """

    def __init__(self, requests: PeerRequests, probe: str, now_s: Callable[[], float], timeout_s: float) -> None:
        self._requests, self._probe, self._now_s, self._timeout_s = requests, probe, now_s, timeout_s
        self._answered_s: defaultdict[KmeId, float] = defaultdict(lambda: _NEVER_S)
        self._probing: dict[KmeId, asyncio.Task[None]] = {}
        self._room: defaultdict[KmeId, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(OPEN_MAX))

    @asynccontextmanager
    async def of(self, peers: Iterable[KmeId]) -> AsyncIterator[None]:
        """Wait until each of some peers has room for a question and answers; they are all asked inside.

        Raises:
            StreamNotReady: one of them does not answer.
        """
        ordered = sorted(peers)
        for peer in ordered:  # before any room is taken: who waits for a silent peer holds up nobody at the others
            await self._require_answering(peer)
        async with AsyncExitStack() as held:
            for peer in ordered:  # all requests alike, or two requests would wait for each other
                await held.enter_async_context(self._room[peer])
            for peer in ordered:  # it may have fallen silent while others were waited for
                await self._require_answering(peer)
            yield

    async def ask(self, peer: KmeId, subject: str, body: bytes) -> bytes:
        """Ask a peer and remember whether it answered; raises what ``PeerRequests.ask`` does."""
        try:
            answer = await self._requests.ask(peer, subject, body, self._timeout_s)
        except PeerRefused:
            self._answered_s[peer] = self._now_s()
            raise
        except (Unavailable, asyncio.CancelledError):  # whoever gives up has no answer either
            self._answered_s[peer] = _NEVER_S
            raise
        self._answered_s[peer] = self._now_s()
        return answer

    def stop(self) -> None:
        """Ask no peer any more whether it answers."""
        for probing in self._probing.values():
            probing.cancel()

    async def _require_answering(self, peer: KmeId) -> None:
        if self._now_s() - self._answered_s[peer] <= _RECENT_S:
            return
        if peer not in self._probing:
            self._probing[peer] = asyncio.get_running_loop().create_task(self._ask_whether_it_answers(peer))
        await asyncio.shield(self._probing[peer])
        if self._answered_s[peer] == _NEVER_S:
            raise StreamNotReady(f"{peer} does not answer", retry_after_s=1.0)

    async def _ask_whether_it_answers(self, peer: KmeId) -> None:
        try:
            await self.ask(peer, self._probe, b"")
        except (PeerRefused, Unavailable):
            pass  # noted; whoever waits looks there
        finally:
            del self._probing[peer]
