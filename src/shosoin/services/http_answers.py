"""How an HTTP request of a guarded connection is answered, by every HTTP interface that we have, and answers in JSON.

The web server of aiohttp would send what a handler returns after the handler has returned. Here the handler sends it
itself, so that whatever it holds (a place, memory) is held until the client has taken the answer.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

from shosoin.services.guarded_connections import GuardedConnection

__all__ = ["NO_STORE", "answer", "json_response", "refusal"]

NO_STORE = {"Content-Type": "application/json", "Cache-Control": "no-store"}
"""Headers of an answer that nobody keeps."""


async def answer(
    request: web.BaseRequest, respond: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Make the response, while the connection's clock stands still, and send it, while it runs."""
    connection = GuardedConnection.of(request.transport)
    if connection is not None:
        connection.pause_begins()
    try:
        response = await respond(request)
    finally:
        if connection is not None:
            connection.pause_ends()
    with suppress(ConnectionError):  # a client that has left is nobody's failure
        await response.prepare(request)
        await response.write_eof()
    return response


def json_response(status: int, value: dict[str, Any]) -> web.Response:
    """Return a response that nobody keeps."""
    return web.Response(status=status, body=json.dumps(value).encode(), headers=NO_STORE)


def refusal(status: int, value: dict[str, Any]) -> web.Response:
    """Return a response that ends the connection: a body may follow the request, which nobody is going to read."""
    response = json_response(status, value)
    response.force_close()
    return response
