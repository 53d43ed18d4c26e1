"""HTTP for few clients who ask for little: bounded connections, deadlines, JSON out, and no defect that gets out.

``SmallHttp.guard`` makes the protocols of connections, for whatever listens: ``TlsListener`` or the event loop itself.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from shosoin.services.guarded_connections import ConnectionGuard, GuardedConnection
from shosoin.services.json_log import described, log

__all__ = ["SmallHttp", "json_response", "refusal"]


class SmallHttp:
    """Answers requests of guarded connections.

    Args:
        name: of the interface, for the log.
        answer: makes the response; whatever it raises is a defect, and becomes 500.
        who, allowed: as in ``ConnectionGuard``.
    """

    def __init__(
        self,
        name: str,
        answer: Callable[[web.BaseRequest], Awaitable[web.Response]],
        *,
        connections_max: int,
        idle_s: float,
        who: Callable[[asyncio.Transport], str] | None = None,
        allowed: Callable[[asyncio.Transport], bool] | None = None,
    ) -> None:
        self._name, self._answer, self._idle_s = name, answer, idle_s
        self.guard = ConnectionGuard(self._connection, connections_max, idle_s, who, allowed)
        self._server: web.Server | None = None

    def _connection(self) -> RequestHandler:
        if self._server is None:  # not before: it wants a running event loop
            self._server = web.Server(
                self._handle, access_log=None, keepalive_timeout=self._idle_s, auto_decompress=False
            )
        return self._server()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = GuardedConnection.of(request.transport)
        if connection is not None:
            connection.pause_begins()
        try:
            response = await self._response(request)
        finally:
            if connection is not None:
                connection.pause_ends()
        with suppress(ConnectionError):  # a client that has left is nobody's failure
            await response.prepare(request)
            await response.write_eof()
        return response

    async def _response(self, request: web.BaseRequest) -> web.Response:
        try:
            return await self._answer(request)
        except Exception as err:  # noqa: BLE001  # whatever a client sends must not end the KME
            log(f"{self._name}.defect", **described(err))
            told = {"code": f"{self._name}.defect", "message": "internal error", "hint": "see the KME's log"}
            return refusal(500, told)


def json_response(status: int, value: dict[str, Any]) -> web.Response:
    """Return a response that nobody keeps."""
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    return web.Response(status=status, body=json.dumps(value).encode(), headers=headers)


def refusal(status: int, value: dict[str, Any]) -> web.Response:
    """Return a response that ends the connection: a body may follow the request, which nobody is going to read."""
    response = json_response(status, value)
    response.force_close()
    return response
