"""What every HTTP interface of a KME for SAEs does alike: it knows the caller, it is bounded, it waits for a lease.

The caller is who its certificate says; no header names anybody. The certificate is read once for each connection, since
TLS 1.3 cannot change it later. What a request may ask and how an answer is spelled is each interface's own.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from shosoin.adapters.tls import negotiated_group, peer_identity
from shosoin.base import Denied, SaeId
from shosoin.base.ports import Clock
from shosoin.keys.demands import NO_DEMANDS, Demands
from shosoin.keys.errors import LeaseNeeded, StreamNotReady
from shosoin.keys.kme import Admit, Delivery, Kme
from shosoin.services.guarded_connections import ConnectionGuard
from shosoin.services.http_answers import answer
from shosoin.services.json_log import log
from shosoin.services.memory_budget import Claim, MemoryBudget
from shosoin.services.request_tally import RequestTally
from shosoin.services.tls_listener import TlsListener, listen_tls

__all__ = ["Allowed", "Drawing", "HttpLimits", "LeaseSource", "SaeHttp", "caller_of"]


Allowed = Callable[[asyncio.Transport], bool]


T = TypeVar("T")


class LeaseSource(Protocol):
    """Whoever can extend the lease of the stream to a peer."""

    def refresh_lease(self, peer: str) -> None:
        """Extend the lease ahead of demand if it runs low."""
        ...

    async def wait_lease(self, peer: str, granules: int) -> None:
        """Wait for a higher lease."""
        ...


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on what a client may send and how long it may take."""

    body_bytes: int = 64 << 10
    bodies_bytes: int = 16 << 20
    """Bodies of all requests at once; of one SAE at most half of that."""
    answers_bytes: int = 256 << 20
    """Answers that are being made or sent, likewise."""
    connections: int = 1024
    request_timeout_s: float = 10.0
    idle_timeout_s: float = 75.0
    lease_timeout_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Drawing:
    """Draws keys, with some patience where the peer has not yet leased the bits."""

    kme: Kme
    leases: LeaseSource
    clock: Clock
    patience_s: float

    async def draw(
        self,
        caller: SaeId,
        slave: SaeId,
        number: int,
        size_bits: int,
        admit: Admit,
        demands: Demands = NO_DEMANDS,
    ) -> Delivery:
        """Draw keys that ``slave`` can fetch from its own KME; see ``Kme.enc_keys``."""
        try:  # nearly always there is a lease
            delivery = self.kme.enc_keys(caller, slave, number, size_bits, admit, demands)
        except LeaseNeeded:
            delivery = await self.patiently(lambda: self.kme.enc_keys(caller, slave, number, size_bits, admit, demands))
        self.leases.refresh_lease(self.kme.kme_of(slave))
        return delivery

    async def patiently(self, draw: Callable[[], T]) -> T:
        """Draw, and again after every lease that was missing."""
        deadline_s = self.clock.now_s() + self.patience_s
        while True:
            try:
                return draw()
            except LeaseNeeded as need:
                left_s = deadline_s - self.clock.now_s()
                if left_s <= 0:
                    raise
                try:
                    async with asyncio.timeout(left_s):
                        await self.leases.wait_lease(need.peer, need.granules)
                except TimeoutError as err:
                    raise StreamNotReady(f"{need.peer} does not answer", retry_after_s=1.0) from err


@dataclass(slots=True)
class SaeHttp:
    """One listening interface."""

    respond: Callable[[web.BaseRequest, Claim], Awaitable[web.Response]]
    """Answers a request; the claim is for the memory of the answer."""
    malformed: Callable[[int], web.Response]
    """Answers what the HTTP parser refuses; told the status that the parser would give."""
    answers: MemoryBudget
    limits: HttpLimits
    tally: RequestTally
    guard: ConnectionGuard | None = field(default=None, init=False)
    """Knows the connections, once it listens."""

    async def listen(
        self,
        host: str,
        port: int,
        context: Callable[[], ssl.SSLContext],
        allowed: Allowed | None = None,
        *,
        sockets: Sequence[socket.socket] = (),
    ) -> TlsListener:
        """Start serving; ``context`` and whether a connection is ``allowed`` are asked for each anew.

        ``sockets`` may listen already.
        """
        limits = self.limits
        manager = web.Server(self._handle, handler_cancellation=True)  # who has left is drawn nothing for
        counts: Counter[str] = Counter()
        loop = asyncio.get_running_loop()

        def connect() -> RequestHandler:
            return _Connection(
                manager,
                loop=loop,
                connections_max=max(1, limits.connections // 2),
                counts=counts,
                malformed=self.malformed,
                tally=self.tally,
                keepalive_timeout=limits.idle_timeout_s,
                access_log=None,
                auto_decompress=False,
            )

        self.guard = ConnectionGuard(connect, limits.connections, limits.idle_timeout_s, allowed=allowed)
        return await listen_tls(self.guard, context, host, port, sockets=sockets)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        with self.answers.claim() as room:  # until the client has taken the answer, its memory counts
            return await answer(request, lambda asked: self.respond(asked, room))


class _Connection(RequestHandler):
    """One client connection: knows its SAE, and answers HTTP errors as its interface wants."""

    __slots__ = ("_connections_max", "_counts", "_malformed", "_place", "_tally", "sae")

    def __init__(
        self,
        manager: web.Server,
        *,
        connections_max: int,
        counts: Counter[str],
        malformed: Callable[[int], web.Response],
        tally: RequestTally,
        **options: object,
    ) -> None:
        super().__init__(manager, **options)  # type: ignore[arg-type]  # passed through
        self._connections_max = connections_max
        self._counts = counts
        self._malformed = malformed
        self._tally = tally
        self._place: str | None = None
        """Under whom it is counted: all whose certificates name no SAE are one, for what they can ask is nothing."""
        self.sae: SaeId | Denied = Denied("no certificate")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read the client's certificate."""
        super().connection_made(transport)
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # what create_server makes
        self.sae = _holder(transport)
        self._place = self.sae if isinstance(self.sae, SaeId) else ""
        self._counts[self._place] += 1
        if self._counts[self._place] > self._connections_max:
            self._tally.connection_refused()
            transport.abort()  # to close it would be to wait for the client's goodbye, and hold the place till then
            return
        group = negotiated_group(transport.get_extra_info("ssl_object"))
        if self._tally.connected(group or "", self._place):
            log("sae.connected", caller=self._place, group=group)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the SAE's place back."""
        super().connection_lost(exc)
        if self._place is not None:
            self._counts[self._place] -= 1
            self._place = None
        self.sae = Denied("the connection is gone")

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the HTTP parser refuses."""
        response = self._malformed(status)
        response.force_close()
        return response


def _holder(transport: asyncio.BaseTransport) -> SaeId | Denied:
    try:
        identity = peer_identity(transport.get_extra_info("ssl_object"))
    except Denied as err:
        return err
    if identity.role != "sae":
        return Denied(f"a {identity.role} is no SAE", code="tls.not_an_sae")
    return SaeId(identity.id)


def caller_of(request: web.BaseRequest) -> SaeId:
    """Return the SAE whose certificate the connection has.

    Raises:
        Denied: the certificate names no SAE.
    """
    connection = request.protocol
    if not isinstance(connection, _Connection):
        raise Denied("no certificate")
    if isinstance(connection.sae, Denied):
        raise Denied(connection.sae.message, code=connection.sae.code)
    return connection.sae
