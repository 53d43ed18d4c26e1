"""The HTTP edge of a share node: three paths, one table from error kinds to status codes, bounds on everything.

======================  =====================================  ================================
``POST /v1/exchange``   an envelope of the vault's protocol    the answer envelope
``POST /v1/session``    a session offer (JSON)                 the node's half (JSON)
``GET /v1/info``        --                                     who this node is (JSON)
======================  =====================================  ================================

Who calls is read from the client certificate and from nothing else. Errors leave as
``{"message", "code", "kind"}``; a defect of ours leaves as ``internal error`` and goes to the log without its message,
which might quote what it was working on.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from aiohttp import web

from shosoin.adapters.http_parts import PartsPayload
from shosoin.adapters.tls import Identity, peer_identity
from shosoin.base import Alarm, Denied, OwnerId, PeerFault, Rejected, ShosoinError, Unavailable
from shosoin.base.ports import Event, EventSink
from shosoin.kernels import new_buffer
from shosoin.services.http_answers import answer
from shosoin.services.memory_budget import MemoryBudget
from shosoin.services.node_config import NodeLimitSection
from shosoin.vault.envelope import MalformedEnvelope
from shosoin.vault.ports import Buffer

__all__ = ["NodeEdge", "SiteLogic"]

SESSION_BYTES_MAX = 16 << 10
_BUSY_RETRY_S = 1.0
_KINDS: tuple[tuple[type[ShosoinError], int, str], ...] = (
    (MalformedEnvelope, 400, "rejected"),  # here the caller is the peer that broke the protocol
    (Rejected, 400, "rejected"),
    (Denied, 401, "denied"),
    (Unavailable, 503, "unavailable"),
    (PeerFault, 502, "peer_fault"),
    (Alarm, 500, "alarm"),
)


class SiteLogic(Protocol):
    """What the edge serves (``shosoin.vault.site.SiteNode``)."""

    def info(self) -> dict[str, Any]:
        """Return what anyone with a certificate may know."""

    async def exchange(self, caller: OwnerId, body: Buffer) -> list[Buffer]:
        """Answer an envelope."""

    async def session(self, caller: OwnerId, body: bytes) -> bytes:
        """Answer a session offer."""


class NodeEdge:
    """Handles HTTP requests for one node."""

    def __init__(self, logic: SiteLogic, limits: NodeLimitSection, sink: EventSink) -> None:
        self._logic = logic
        self._limits = limits
        self._sink = sink
        self._running: Counter[OwnerId] = Counter()
        self._bodies = MemoryBudget(limits.bodies_bytes, code="node.busy")
        self.idle = asyncio.Event()
        """Set while no request is in progress."""
        self.idle.set()

    @property
    def running(self) -> int:
        """Requests in progress."""
        return self._running.total()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises anything but cancellation."""
        with ExitStack() as held:  # until the client has taken the answer, which is in memory, the request counts
            return await answer(request, lambda asked: self._response(asked, held))

    async def _response(self, request: web.BaseRequest, held: ExitStack) -> web.StreamResponse:
        try:
            return await self._answer(request, held)
        except ShosoinError as err:
            return _error(err)
        except (ConnectionError, asyncio.IncompleteReadError):
            return _error(Rejected("the request ended early", code="node.short_body"), close=True)
        except Exception as err:  # noqa: BLE001  # the last line of defence of this process
            self._defect(err, request.path)
            return _json(500, {"message": "internal error", "code": "node.internal", "kind": "internal"}, close=True)

    async def _answer(self, request: web.BaseRequest, held: ExitStack) -> web.StreamResponse:
        caller = _caller(request)
        match request.method, request.path:
            case "POST", "/v1/exchange":
                held.enter_context(self._slot(caller))
                async with _Body(self, caller, request, self._limits.body_bytes) as body:
                    return web.Response(body=PartsPayload(await self._logic.exchange(caller, body)))
            case "POST", "/v1/session":
                held.enter_context(self._slot(caller))
                async with _Body(self, caller, request, SESSION_BYTES_MAX) as body:
                    answer = await self._logic.session(caller, bytes(body))
                return web.Response(body=answer, content_type="application/json")
            case "GET", "/v1/info":
                return _json(200, self._logic.info())
            case _:
                return _json(404, {"message": "no such path", "code": "node.no_such_path", "kind": "rejected"})

    @contextmanager
    def _slot(self, caller: OwnerId) -> Iterator[None]:
        """Admit one more request of an owner."""
        if self.running >= self._limits.requests or self._running[caller] >= self._limits.requests_per_owner:
            raise Unavailable("too many requests at once", code="node.busy", retry_after_s=_BUSY_RETRY_S)
        self._running[caller] += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._running[caller] -= 1
            if not self._running[caller]:
                del self._running[caller]
            if not self._running:
                self.idle.set()

    @property
    def bodies(self) -> MemoryBudget:
        """Memory for request bodies."""
        return self._bodies

    @property
    def body_s(self) -> float:
        """How long a body may take."""
        return self._limits.body_s

    def _defect(self, err: Exception, path: str) -> None:
        trace = err.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "unknown"
        self._sink.emit(
            Event("node.defect", "alarm", {"path": path[:64], "exception": type(err).__name__, "where": where})
        )


class _Body:
    """A request body of declared length, read within bounds of size and time."""

    def __init__(self, edge: NodeEdge, caller: OwnerId, request: web.BaseRequest, bytes_max: int) -> None:
        size_bytes = request.content_length
        if size_bytes is None:
            raise Rejected("a request needs a Content-Length", code="node.no_length")
        if size_bytes > bytes_max:
            raise Rejected(f"a body of {size_bytes} bytes, at most {bytes_max}", code="node.body_too_long")
        self._edge = edge
        self._caller = caller
        self._room = edge.bodies.claim()
        self._request = request
        self._size_bytes = size_bytes

    async def __aenter__(self) -> memoryview:
        self._room.take(self._caller, self._size_bytes)
        try:
            async with asyncio.timeout(self._edge.body_s):
                return await self._read()
        except TimeoutError:
            self._room.drop()
            raise Rejected(f"the body took longer than {self._edge.body_s:g} s", code="node.slow_body") from None
        except BaseException:
            self._room.drop()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._room.drop()

    async def _read(self) -> memoryview:
        """Copy the body, as it comes, to where it stays."""
        content, at = new_buffer(self._size_bytes), 0
        while part := await self._request.content.readany():
            content[at : at + len(part)] = part
            at += len(part)
        if at != self._size_bytes:
            raise Rejected(f"a body of {at} bytes, announced were {self._size_bytes}", code="node.short_body")
        return content


_identities: WeakKeyDictionary[ssl.SSLObject, Identity] = WeakKeyDictionary()
"""Who is at the other end of each connection; a certificate does not change while its connection lasts."""


def _caller(request: web.BaseRequest) -> OwnerId:
    """Return who calls.

    Raises:
        Denied: the certificate does not name an SAE.
    """
    tls = request.get_extra_info("ssl_object")
    identity = _identities.get(tls) if isinstance(tls, ssl.SSLObject) else None
    if identity is None:
        identity = peer_identity(tls if isinstance(tls, ssl.SSLObject) else None)
        _identities[tls] = identity
    if identity.role != "sae":
        raise Denied(f"a certificate of role {identity.role}, expected sae", code="node.wrong_role")
    return OwnerId(identity.id)


def _error(err: ShosoinError, *, close: bool = False) -> web.Response:
    for kind, status, name in _KINDS:
        if isinstance(err, kind):
            value: dict[str, Any] = {"message": err.message, "code": err.code, "kind": name}
            retry_after_s = getattr(err, "retry_after_s", None)
            if retry_after_s is not None:
                value["retry_after_s"] = retry_after_s
            return _json(status, value, close=close)
    return _json(500, {"message": "internal error", "code": "node.internal", "kind": "internal"}, close=True)


def _json(status: int, value: dict[str, Any], *, close: bool = False) -> web.Response:
    response = web.Response(status=status, body=json.dumps(value).encode(), content_type="application/json")
    if "retry_after_s" in value:
        response.headers["Retry-After"] = str(max(1, round(value["retry_after_s"])))
    if close:
        response.force_close()
    return response
