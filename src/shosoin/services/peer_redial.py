"""New channels between KMEs after a certificate changed, so that no old one stays in use for months.

Whoever dials tries first whether a connection with the new certificates comes about, by one that it says nothing on:
only if the other side keeps it are the channels dropped, and dialled again at once. So a certificate that the other
side does not take costs no key: the old channels stay, and it is said that they do. The KME that is dialled cannot try,
so it asks the other to (the question ``identity.redial``).
"""

from __future__ import annotations

import asyncio
import ssl

from shosoin.adapters.tls import Identity, require_peer
from shosoin.base import KmeId, PeerFault, ShosoinError, Unavailable
from shosoin.base.ports import Event, EventSink
from shosoin.services.kme_config import KmeConfig, LinkSection
from shosoin.services.kme_requests import PeerRequests
from shosoin.services.tls_plane import TlsPlane

__all__ = ["PeerRedial"]

_SUBJECT = "identity.redial"
_CONNECT_S = 10.0
_KEPT_S = 2.0
"""TLS 1.3 tells a client late that its certificate is refused; whoever keeps silent for so long has taken it."""
_AGAIN_S = 60.0
_BETWEEN_S = 0.2
"""Channels of a link are not all dropped at once."""


class PeerRedial:
    """Dials anew, for one KME.

    Args:
        plane: knows the connections with other KMEs and makes new ones.
    """

    def __init__(self, config: KmeConfig, requests: PeerRequests, plane: TlsPlane, events: EventSink) -> None:
        self._links = {KmeId(link.peer): link for link in config.links}
        self._own = config.kme.id
        self._requests, self._plane, self._events = requests, plane, events
        self._asked: dict[KmeId, asyncio.Task[bool]] = {}
        requests.serve(_SUBJECT, self._serve)

    async def renewed(self) -> None:
        """See to it that every link uses what we show now; goes on until all do or it is cancelled."""
        left = set(self._links)
        while left:
            for peer in sorted(left):
                if await self._renew(peer):
                    left.discard(peer)
            if left:
                await asyncio.sleep(_AGAIN_S)

    async def stop(self) -> None:
        """End what others asked for."""
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)

    async def _renew(self, peer: KmeId) -> bool:
        if not self._plane.connections(Identity("kme", peer), old=True):
            return True
        if self._dials(peer):
            return await self._dial_anew(peer, old=True)
        try:
            await self._requests.ask(peer, _SUBJECT, b"", _CONNECT_S)
        except ShosoinError as err:
            self._tell(peer, err.message)
            return not isinstance(err, Unavailable)  # a peer that knows no such question will not learn it
        return False  # it is looked at later whether that came about

    def _dials(self, peer: KmeId) -> bool:
        return self._own < peer

    async def _serve(self, peer: KmeId, _: bytes) -> bytes:
        """Answer a peer whose certificate changed."""
        if not self._dials(peer):
            raise PeerFault("the other end of the link dials", code="identity.not_the_dialler")
        before = self._asked.get(peer)
        if before is None or before.done():  # one at a time, however often it asks
            self._asked[peer] = asyncio.create_task(self._dial_anew(peer, old=False))
        return b""

    async def _dial_anew(self, peer: KmeId, *, old: bool) -> bool:
        try:
            await _try(self._links[peer], self._plane.client_context())
        except (OSError, ShosoinError) as err:
            self._tell(peer, str(err))
            return False
        for transport in self._plane.connections(Identity("kme", peer), old=old):
            transport.abort()
            await asyncio.sleep(_BETWEEN_S)
        return True

    def _tell(self, peer: KmeId, reason: str) -> None:
        self._events.emit(Event("identity.not_redialled", "warning", {"peer": peer, "reason": reason}))


async def _try(link: LinkSection, context: ssl.SSLContext) -> None:
    """Raise unless a connection comes about and the other side keeps it."""
    async with asyncio.timeout(_CONNECT_S):
        reader, writer = await asyncio.open_connection(link.host, link.port, ssl=context, server_hostname=link.peer)
    try:
        require_peer(writer.get_extra_info("ssl_object"), Identity("kme", link.peer))
        try:
            async with asyncio.timeout(_KEPT_S):
                await reader.read(1)
        except TimeoutError:
            return
        raise PeerFault(f"{link.peer} ends connections with the new certificate", code="identity.not_taken")
    finally:
        writer.transport.abort()
