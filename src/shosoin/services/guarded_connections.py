"""Connections that cannot be held open for nothing: a deadline on everything that happens outside a request handler.

A web server limits what happens inside a handler. What a client can drag out lies outside: sending the head of a
request byte by byte, not reading the answer, or just staying. One timer per connection covers all three: it runs
whenever no handler does, and ends the connection.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from shosoin.adapters.tls import Identity, peer_identity
from shosoin.base import Denied

__all__ = ["ConnectionGuard", "GuardedConnection", "identity_of"]


@dataclass(slots=True)
class ConnectionGuard:
    """Makes guarded connections, not more than a number at once."""

    inner: Callable[[], asyncio.Protocol]
    """Makes the web server's own protocol."""
    connections_max: int
    idle_s: float
    who: Callable[[asyncio.Transport], str] | None = None
    """Says who is at the other end; nobody may have more than half of the connections."""
    allowed: Callable[[asyncio.Transport], bool] | None = None
    """Says whether a connection may be, before anything that came over it is looked at."""
    refused: int = 0
    _open: dict[asyncio.Transport, str] = field(default_factory=dict)
    _of: Counter[str] = field(default_factory=Counter)
    _none_left: asyncio.Event = field(default_factory=asyncio.Event)

    def __call__(self) -> GuardedConnection:
        """Return the protocol for a new connection."""
        return GuardedConnection(self)

    @property
    def open(self) -> int:
        """Connections at this moment."""
        return len(self._open)

    def admit(self, transport: asyncio.Transport) -> bool:
        """Count a new connection, unless it may not be or there are too many."""
        if self.allowed is not None and not self.allowed(transport):
            return False
        name = self.who(transport) if self.who is not None else ""
        greedy = self.who is not None and self._of[name] >= max(1, self.connections_max // 2)
        if greedy or len(self._open) >= self.connections_max:
            self.refused += 1
            return False
        self._open[transport] = name
        self._of[name] += 1
        self._none_left.clear()
        return True

    def leave(self, transport: asyncio.Transport) -> None:
        """Count a connection no more."""
        name = self._open.pop(transport, None)
        if name is not None:
            self._of[name] -= 1
            if not self._of[name]:
                del self._of[name]
        if not self._open:
            self._none_left.set()

    async def end_all(self) -> None:
        """End every connection that is left and wait until all are gone."""
        for transport in list(self._open):
            transport.abort()
        if self._open:
            await self._none_left.wait()


class GuardedConnection(asyncio.Protocol):
    """Hands everything on to the web server's protocol and keeps the time."""

    def __init__(self, guard: ConnectionGuard) -> None:
        self._guard = guard
        self._inner = guard.inner()
        self._timer: asyncio.TimerHandle | None = None
        self._ends_s: float | None = None
        """When the loop's clock ends the connection; None while a handler runs."""
        self._transport: asyncio.Transport | None = None
        self._counted = False

    @classmethod
    def of(cls, transport: asyncio.BaseTransport | None) -> GuardedConnection | None:
        """Return the guarded connection that a transport belongs to."""
        protocol = transport.get_protocol() if transport is not None else None
        return protocol if isinstance(protocol, cls) else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless it may not be."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # what create_server makes
        self._transport = transport
        self._counted = self._guard.admit(transport)
        if not self._counted:
            transport.abort()
            return
        self.pause_ends()
        self._inner.connection_made(transport)

    def pause_begins(self) -> None:
        """Stop the clock: a handler runs."""
        self._ends_s = None

    def pause_ends(self) -> None:
        """Start the clock: the next request's head must be complete before it runs out."""
        if self._transport is None or not self._counted:
            return
        loop = asyncio.get_running_loop()
        self._ends_s = loop.time() + self._guard.idle_s
        if self._timer is None:
            self._timer = loop.call_at(self._ends_s, self._time_is_up)

    def _time_is_up(self) -> None:
        """End the connection, unless its time began anew since the timer was set: requests only move the end."""
        self._timer = None
        if self._ends_s is None or self._transport is None:
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._ends_s:
            self._transport.abort()
        else:
            self._timer = loop.call_at(self._ends_s, self._time_is_up)

    def data_received(self, data: bytes) -> None:
        """Hand on."""
        if self._counted:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Hand on."""
        return self._inner.eof_received() if self._counted else None

    def pause_writing(self) -> None:
        """Hand on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Hand on."""
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self.pause_begins()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._counted and self._transport is not None:
            self._counted = False
            self._guard.leave(self._transport)
            self._inner.connection_lost(exc)


def identity_of(transport: asyncio.BaseTransport | None) -> Identity | None:
    """Return who is at the other end of a connection, ``None`` if its certificate names nobody."""
    if transport is None:
        return None
    try:
        return peer_identity(transport.get_extra_info("ssl_object"))
    except Denied:
        return None
