"""Keys for several slaves at once (ETSI GS QKD 014 V1.1.1, clause 5.4 and annex B), of one KME.

What is decided about a copy is decided in ``shosoin.keys.multicast``; here its effects are carried out: on the store of
copies, on a thread of its own, and over the requests channel to other KMEs.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, closing
from typing import Any, TypeVar

from shosoin.adapters.copy_store import CopyStorage
from shosoin.base import Entropy, KmeId, SaeId
from shosoin.base.ports import Clock, EventSink
from shosoin.keys.copies import HeldCopy
from shosoin.keys.demands import Demands
from shosoin.keys.errors import StoreUnavailable, StreamNotReady
from shosoin.keys.kme import Admit, Delivery, Kme
from shosoin.keys.multicast import (
    CLAIM,
    COPY,
    READY,
    Ask,
    DrawPad,
    Effect,
    MulticastKeys,
    OnTable,
    Ready,
    Steps,
    Together,
)
from shosoin.services.copy_thread import CopyThread
from shosoin.services.json_log import log
from shosoin.services.kme_requests import PeerRequests
from shosoin.services.peer_readiness import PeerReadiness
from shosoin.services.sae_http import Drawing

__all__ = ["Multicast"]

T = TypeVar("T")
_ASK_S = 5.0
_EXPIRE_EVERY_S = 60.0
_REFRESH_EVERY_S = 2.0
"""How often a store elsewhere hears that its owner is there."""


class Multicast(MulticastKeys):
    """Sends and serves multicast keys of one KME.

    Args:
        expiry_s: age after which copies that nobody fetched are destroyed.
    """

    def __init__(
        self,
        kme: Kme,
        drawing: Drawing,
        requests: PeerRequests,
        copies: CopyThread,
        *,
        entropy: Entropy,
        clock: Clock,
        events: EventSink,
        expiry_s: float,
    ) -> None:
        super().__init__(
            kme,
            (),
            requests.is_connected,
            entropy=entropy,
            clock=clock,
            events=events,
            expiry_s=expiry_s,
        )
        self._drawing, self._requests, self._copies = drawing, requests, copies
        self._epoch = 0
        """Of the store when it was last asked what is in it."""
        self.is_indexed = False
        """Whether it is known what waits here."""
        requests.serve(COPY, lambda peer, body: self._carry_out(self.serving_copy(peer, body)))
        requests.serve(CLAIM, lambda peer, body: self._carry_out(self.serving_claim(peer, body)))
        requests.serve(READY, self._serve_ready)
        self._peers = PeerReadiness(requests, READY, clock.now_s, _ASK_S)

    async def run(self) -> None:
        """Destroy what is too old, and stay in touch with the store, until cancelled."""
        loop, expired_s = asyncio.get_running_loop(), -math.inf
        try:
            while True:
                await self.refresh()
                if loop.time() - expired_s >= min(_EXPIRE_EVERY_S, self._expiry_s):
                    expired_s = loop.time()
                    await self._carry_out(self.expiring())
                await asyncio.sleep(min(_REFRESH_EVERY_S, self._expiry_s))
        finally:
            self._peers.stop()

    async def refresh(self) -> None:
        """Learn what is stored, where that may have changed without this object.

        Raises:
            StreamRefused: what is stored cannot be read; if that may pass, it is only noted.
        """
        try:
            epoch, found = await self._on_thread(self._look)
        except StoreUnavailable as err:
            if self.is_indexed or not self._epoch:
                log("multicast.store_unavailable", reason=err.message)
            self._epoch, self.is_indexed = -1, False
            return
        if found is not None:
            self.learn(found)
        self._epoch, self.is_indexed = epoch, True

    def _look(self, store: CopyStorage) -> tuple[int, list[HeldCopy] | None]:
        store.tick()
        return store.epoch, None if store.epoch == self._epoch else store.index()

    def require_indexed(self) -> None:
        """Check that it is known what waits here.

        Raises:
            StreamNotReady: the store cannot be asked now.
        """
        if not self.is_indexed:
            raise StreamNotReady("which keys for several slaves wait here cannot be told now", retry_after_s=1.0)

    async def burn(self, peer: KmeId) -> None:
        """Destroy the copies that came from a KME's masters, and what its SAEs might claim here.

        Raises:
            StreamRefused: that could not be written.
        """
        self.forget_copies_of(peer)  # at once: a disk may take its time
        try:
            await self._on_thread(lambda store: store.burn(peer))
        finally:
            self.forget_copies_of(peer)  # what was being stored meanwhile

    async def draw(
        self, caller: SaeId, slaves: Sequence[SaeId], number: int, size_bits: int, admit: Admit, demands: Demands
    ) -> Delivery:
        """Make keys that every one of the slaves can fetch from its own KME; see ``MulticastKeys.drawing``."""
        return await self._carry_out(self.drawing(caller, slaves, number, size_bits, admit, demands))

    async def take(self, copies: Sequence[HeldCopy], fetch_rest: Callable[[], T]) -> tuple[list[bytearray], T]:
        """Claim and return copies that ``check`` found; see ``MulticastKeys.taking``."""
        return await self._carry_out(self.taking(copies, fetch_rest))

    async def _serve_ready(self, _: KmeId, __: bytes) -> bytes:
        """Say that copies would be stored now: behind all others, where a disk that hangs holds it up."""
        return await self._on_thread(lambda _: b"ready")

    async def _carry_out(self, steps: Steps[T]) -> T:
        async with AsyncExitStack() as room:
            with closing(steps):
                try:
                    effect = next(steps)
                    while True:
                        try:
                            answer = await self._do(effect, room)
                        except Exception as err:  # noqa: BLE001  # whoever asked for it decides what that means
                            effect = steps.throw(err)
                        else:
                            effect = steps.send(answer)
                except StopIteration as done:
                    result: T = done.value
                    return result

    async def _do(self, effect: Effect, room: AsyncExitStack) -> Any:
        match effect:
            case OnTable(work):
                return await self._on_thread(work)
            case Ready(peers):  # what it gives back, when these steps end, is room for others
                await room.enter_async_context(self._peers.of(peers))
                return None
            case DrawPad(peer, length_bytes, caller, slaves):
                return await self._drawing.patiently(lambda: self._kme.draw_pad(peer, length_bytes, caller, slaves))
            case Ask(peer, subject, body):
                if subject == CLAIM:
                    return await self._requests.ask(peer, subject, body, _ASK_S)
                answer = await self._peers.ask(peer, subject, body)
                self._drawing.leases.refresh_lease(peer)
                return answer
            case Together(several):
                # To the end of all: as long as one is open, it counts among the questions that a silent KME may leave.
                for ended in await asyncio.gather(*map(self._carry_out, several), return_exceptions=True):
                    if isinstance(ended, BaseException):
                        raise ended
                return None

    async def _on_thread(self, work: Callable[[CopyStorage], T]) -> T:
        return await self._copies.do(work)
