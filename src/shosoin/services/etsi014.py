"""ETSI GS QKD 014 over HTTPS with mutual TLS.

Every path, method and malformed request is answered with 400, 401 or 503 and an Error body, as the standard has no
other codes. The caller is who its certificate says; no header names anybody. The certificate is read once for each
connection, since TLS 1.3 cannot change it later.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol
from urllib.parse import unquote

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from shosoin.adapters.http_parts import PartsPayload
from shosoin.adapters.tls import peer_identity
from shosoin.base import Denied, Rejected, SaeId, ShosoinError
from shosoin.base.ports import Clock
from shosoin.keys.errors import LeaseNeeded, StreamNotReady
from shosoin.keys.kme import Admit, Delivery, Kme
from shosoin.services.guarded_connections import ConnectionGuard, GuardedConnection
from shosoin.services.json_log import described, log
from shosoin.services.memory_budget import Claim, MemoryBudget
from shosoin.services.request_tally import RequestTally
from shosoin.services.wire014 import (
    KeyRequest,
    container_bytes,
    container_json,
    error_json,
    error_of,
    parse_key_ids,
    parse_key_request,
    status_code,
    status_json,
)

__all__ = ["Etsi014Service", "HttpLimits", "LeaseSource"]

_PREFIX = "/api/v1/keys/"
_DIRECTIONS = {"status": "outgoing", "enc_keys": "outgoing", "dec_keys": "incoming"}
"""The calls, and which of the two streams with a KME each is about."""
_LONG_ANSWER_BYTES = 256 << 10
_HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-store"}


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


class Etsi014Service:
    """The HTTP side of a KME."""

    def __init__(self, kme: Kme, leases: LeaseSource, limits: HttpLimits, clock: Clock) -> None:
        self._kme = kme
        self.tally = RequestTally()
        self.guard: ConnectionGuard | None = None
        """Knows the connections, once the service listens."""
        self._leases = leases
        self._limits = limits
        self._clock = clock
        self._bodies = MemoryBudget(limits.bodies_bytes, code="etsi014.busy")
        self._answers = MemoryBudget(limits.answers_bytes, code="etsi014.busy")

    async def listen(self, host: str, port: int, context: ssl.SSLContext) -> asyncio.Server:
        """Start serving; returns the listening server."""
        limits = self._limits
        manager = web.Server(self._handle)
        counts: Counter[SaeId] = Counter()
        loop = asyncio.get_running_loop()

        def connect() -> RequestHandler:
            return _Connection(
                manager,
                loop=loop,
                connections_max=max(1, limits.connections // 2),
                counts=counts,
                tally=self.tally,
                keepalive_timeout=limits.idle_timeout_s,
                access_log=None,
                auto_decompress=False,
            )

        self.guard = ConnectionGuard(connect, limits.connections, limits.idle_timeout_s)
        return await loop.create_server(self.guard, host, port, ssl=context, ssl_handshake_timeout=10.0, backlog=512)

    @property
    def memory(self) -> dict[str, MemoryBudget]:
        """What requests may hold at once, by name."""
        return {"bodies": self._bodies, "answers": self._answers}

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = GuardedConnection.of(request.transport)
        if connection is not None:
            connection.pause_begins()
        with self._answers.claim() as room:
            try:
                response = await self._response(request, room)
            finally:
                if connection is not None:
                    connection.pause_ends()
            # Here and not in the server: until the client has taken the answer, its memory counts.
            with suppress(ConnectionError):  # a client that has left is nobody's failure
                await response.prepare(request)
                await response.write_eof()
        return response

    async def _response(self, request: web.BaseRequest, room: Claim) -> web.Response:
        began_s = self._clock.now_s()
        call, peer = self._subject(request)
        body, status, code = await self._outcome(request, room)
        if code:
            self.tally.refused(code, peer, _DIRECTIONS.get(call, ""))
        self.tally.answered(call, status, self._clock.now_s() - began_s)
        return _reply(status, body)

    def _subject(self, request: web.BaseRequest) -> tuple[str, str]:
        """Return, for the counters, what a request asks and about which KME: names of ours, or none."""
        try:
            sae, call = _route(request.rel_url.raw_path)
        except ShosoinError:
            return "other", ""
        return (call if call in _DIRECTIONS else "other"), self._kme.home_of(sae) or ""

    async def _outcome(self, request: web.BaseRequest, room: Claim) -> tuple[bytes, int, str]:
        """Return a body, its status, and the error code if it is one."""
        try:
            with self._bodies.claim() as body_room:
                body = await self._answer(request, body_room, room)
        except ShosoinError as err:
            return error_of(err), status_code(err), err.code
        except TimeoutError:
            return error_json("the request took too long"), 400, "etsi014.slow_request"
        except Exception as err:  # noqa: BLE001  # the last line of defence of this process
            log("etsi014.defect", **described(err))
            return error_json("the KME failed to handle the request"), 503, "etsi014.defect"
        return body, 200, ""

    async def _answer(self, request: web.BaseRequest, body_room: Claim, room: Claim) -> bytes:
        caller = _caller(request)
        sae, call = _route(request.rel_url.raw_path)
        if call not in _DIRECTIONS:
            raise _bad("unknown path: expected /api/v1/keys/{SAE_ID}/status, enc_keys or dec_keys")
        if request.method not in ({"GET"} if call == "status" else {"GET", "POST"}):
            raise _bad(f"method {request.method[:16]} is not defined for {call}")
        body = await self._body(request, caller, body_room)
        if call == "status":
            return status_json(self._kme.status(caller, sae))
        query = _query(request)

        def admit(number: int, total_bytes: int) -> None:
            room.take(caller, container_bytes(number, total_bytes))

        if call == "enc_keys":
            return container_json(await self._enc_keys(caller, sae, parse_key_request(body, query), admit))
        return container_json(self._kme.dec_keys(caller, sae, parse_key_ids(body, query), admit))

    async def _enc_keys(self, caller: SaeId, slave: SaeId, wanted: KeyRequest, admit: Admit) -> Delivery:
        size_bits = self._kme.limits.key_size_bits if wanted.size_bits is None else wanted.size_bits
        deadline_s = self._clock.now_s() + self._limits.lease_timeout_s
        while True:
            try:
                delivery = self._kme.enc_keys(caller, slave, wanted.number, size_bits, admit)
            except LeaseNeeded as need:
                left_s = deadline_s - self._clock.now_s()
                if left_s <= 0:
                    raise
                try:
                    async with asyncio.timeout(left_s):
                        await self._leases.wait_lease(need.peer, need.granules)
                except TimeoutError as err:
                    raise StreamNotReady(f"{need.peer} does not answer", retry_after_s=1.0) from err
            else:
                self._leases.refresh_lease(self._kme.kme_of(slave))
                return delivery

    async def _body(self, request: web.BaseRequest, caller: SaeId, room: Claim) -> bytes:
        if not request.body_exists:
            return b""
        if request.content.is_eof() and request.content.total_bytes <= self._limits.body_bytes:
            room.take(caller, request.content.total_bytes)
            return request.content.read_nowait()  # it came with the headers, as nearly all do
        if (request.content_length or 0) > self._limits.body_bytes:
            raise _bad(f"body is longer than {self._limits.body_bytes} bytes")
        length = request.content_length
        room.take(caller, self._limits.body_bytes if length is None else length)
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = bytearray()
        async with asyncio.timeout(self._limits.request_timeout_s):
            try:
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > self._limits.body_bytes:
                        raise _bad(f"body is longer than {self._limits.body_bytes} bytes")
            except (web.RequestPayloadError, ConnectionError) as err:
                raise _bad("body cannot be read") from err
        return bytes(body)


class _Connection(RequestHandler):
    """One client connection: knows its SAE, and answers HTTP errors as the standard wants."""

    __slots__ = ("_connections_max", "_counts", "_tally", "sae")

    def __init__(
        self,
        manager: web.Server,
        *,
        connections_max: int,
        counts: Counter[SaeId],
        tally: RequestTally,
        **options: object,
    ) -> None:
        super().__init__(manager, **options)  # type: ignore[arg-type]  # passed through
        self._connections_max = connections_max
        self._counts = counts
        self._tally = tally
        self.sae: SaeId | Denied = Denied("no certificate")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read the client's certificate."""
        super().connection_made(transport)
        try:
            identity = peer_identity(transport.get_extra_info("ssl_object"))
            if identity.role != "sae":
                raise Denied(f"a {identity.role} is no SAE", code="etsi014.not_an_sae")
            self.sae = SaeId(identity.id)
        except Denied as err:
            self.sae = err
            return
        self._counts[self.sae] += 1
        if self._counts[self.sae] > self._connections_max:
            self._tally.connection_refused()
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the SAE's place back."""
        super().connection_lost(exc)
        if isinstance(self.sae, SaeId):
            self._counts[self.sae] -= 1
            self.sae = Denied("the connection is gone")

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the HTTP parser refuses."""
        self._tally.refused("etsi014.malformed")
        response = _reply(503 if status >= 500 else 400, error_json("not a well-formed HTTP request"))
        response.force_close()
        return response


def _caller(request: web.BaseRequest) -> SaeId:
    connection = request.protocol
    if not isinstance(connection, _Connection):
        raise Denied("no certificate")
    if isinstance(connection.sae, Denied):
        raise Denied(connection.sae.message, code=connection.sae.code)
    return connection.sae


@lru_cache(maxsize=1024)
def _route(raw_path: str) -> tuple[SaeId, str]:
    parts = raw_path[len(_PREFIX) :].split("/") if raw_path.startswith(_PREFIX) else []
    if len(parts) != 2:
        raise _bad("unknown path: expected /api/v1/keys/{SAE_ID}/status, enc_keys or dec_keys")
    try:
        return SaeId(unquote(parts[0], errors="strict")), parts[1]
    except UnicodeDecodeError as err:
        raise _bad("SAE_ID is not UTF-8") from err


def _query(request: web.BaseRequest) -> Mapping[str, str]:
    if not request.rel_url.raw_query_string:
        return {}
    query = request.rel_url.query
    if len(set(query)) < len(query):
        raise _bad("a query parameter is given twice")
    return query


def _reply(status: int, body: bytes) -> web.Response:
    # In one piece a long answer would go to the transport's buffer whole, and nothing would wait for a slow client.
    content = body if len(body) < _LONG_ANSWER_BYTES else PartsPayload((body,))
    return web.Response(status=status, body=content, headers=_HEADERS)


def _bad(message: str) -> Rejected:
    return Rejected(message, code="etsi014.bad_request")
