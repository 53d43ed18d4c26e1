"""HTTP for few clients who ask for little: bounded connections, deadlines, JSON out, and no defect that gets out.

``SmallHttp.guard`` makes the protocols of connections, for whatever listens: ``TlsListener`` or the event loop itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from shosoin.services.guarded_connections import ConnectionGuard
from shosoin.services.http_answers import answer, refusal
from shosoin.services.json_log import described, log

__all__ = ["SmallHttp"]


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
        return await answer(request, self._response)

    async def _response(self, request: web.BaseRequest) -> web.Response:
        try:
            return await self._answer(request)
        except Exception as err:  # noqa: BLE001  # whatever a client sends must not end the KME
            log(f"{self._name}.defect", **described(err))
            told = {"code": f"{self._name}.defect", "message": "internal error", "hint": "see the KME's log"}
            return refusal(500, told)
