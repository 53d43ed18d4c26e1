"""A listening port whose TLS handshakes are bounded, and whose certificates can be exchanged while it listens.

``loop.create_server`` accepts whatever comes and lets each handshake take its time, so that whoever just connects and
says nothing costs a socket, a timer and a TLS state for ten seconds; and it keeps the TLS context it was started with.
Here connections are accepted one by one, the context is asked for anew for each, and handshakes in progress have a
fixed number of places. When all are taken, the oldest handshake of the address that has the most is given up, but none
before it had a fair time: a client that really speaks TLS needs milliseconds.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from shosoin.services.json_log import described, log

__all__ = ["HANDSHAKES_MAX", "TlsListener", "listen_tls", "listening_sockets"]

HANDSHAKES_MAX = 256
_HANDSHAKE_S = 10.0
_FAIR_S = 0.5
"""What every handshake gets, however many wait."""
_FAILED_KEPT = 256
"""asyncio leaves a failed handshake in a cycle with its transport, a buffer of 256 KiB in it, and our programs seldom
look for cycles: without this, whoever only connects and leaves would take memory by the gigabyte."""
_BACKLOG = 512
_PAUSE_S = 0.1
_NO_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(eq=False, slots=True)
class _Handshake:
    address: str
    began_s: float
    connection: socket.socket | None
    """Until a transport owns it."""
    task: asyncio.Task[None] | None = None
    is_done: bool = False


class TlsListener:
    """Accepts TLS connections until it is closed.

    Args:
        factory: makes the protocol of a connection whose handshake is done.
        context: returns the context for the next connection; must not fail.
    """

    def __init__(
        self,
        factory: Callable[[], asyncio.BaseProtocol],
        context: Callable[[], ssl.SSLContext],
        *,
        handshakes_max: int = HANDSHAKES_MAX,
    ) -> None:
        self._factory, self._context = factory, context
        self._handshakes_max = handshakes_max
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._handshakes: dict[_Handshake, None] = {}  # in order of arrival
        self._ended = asyncio.Event()
        self._failed = 0
        self.given_up = 0
        """Handshakes that had to make room for others."""

    async def start(
        self, host: str, port: int, *, reuse_port: bool = False, sockets: Sequence[socket.socket] = ()
    ) -> None:
        """Listen on every address of ``host``, or on ``sockets`` that listen already.

        Raises:
            OSError: an address cannot be used.
        """
        loop = asyncio.get_running_loop()
        self._sockets = list(sockets) or await listening_sockets(host, port, reuse_port=reuse_port)
        self._tasks = [loop.create_task(self._accept_from(one)) for one in self._sockets]

    @property
    def port(self) -> int:
        """The port it listens on, 0 when it does not."""
        return int(self._sockets[0].getsockname()[1]) if self._sockets else 0

    @property
    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return bool(self._tasks) and not any(task.done() for task in self._tasks)

    @property
    def handshakes(self) -> int:
        """Handshakes in progress."""
        return len(self._handshakes)

    def close(self) -> None:
        """Accept no more and give up handshakes in progress; connections that are open stay."""
        for task in self._tasks:
            task.cancel()
        for handshake in list(self._handshakes):
            if handshake.task is not None:
                handshake.task.cancel()
        for one in self._sockets:
            asyncio.get_running_loop().remove_reader(one)
            one.close()
        self._tasks, self._sockets = [], []

    async def _accept_from(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._make_room()
            await _readable(listening)
            try:
                # Not sock_accept: a connection that it returns to a task just cancelled would be lost.
                connection, address = listening.accept()
            except BlockingIOError:
                continue
            except OSError as err:
                # Without resources the next try would fail as well; anything else is that one client's failure.
                if err.errno in _NO_RESOURCES:
                    log("listener.no_resources", reason=err.strerror)
                    await asyncio.sleep(_PAUSE_S)
                continue
            connection.setblocking(False)
            handshake = _Handshake(str(address[0]), loop.time(), connection)
            self._handshakes[handshake] = None
            handshake.task = loop.create_task(self._shake_hands(handshake, connection))
            handshake.task.add_done_callback(partial(self._over, handshake))

    async def _shake_hands(self, handshake: _Handshake, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()

        def made() -> asyncio.BaseProtocol:
            # A transport follows at once. What it owns it closes itself, in its time: the loop knows it by its number,
            # which the next connection may get.
            protocol = self._factory()
            handshake.connection = None
            return protocol

        try:
            await loop.connect_accepted_socket(
                made, connection, ssl=self._context(), ssl_handshake_timeout=_HANDSHAKE_S
            )
            handshake.is_done = True
        except OSError:  # ssl.SSLError and TimeoutError are OSErrors
            pass
        except Exception as err:  # noqa: BLE001  # whatever one client provokes must not end the listener
            log("listener.defect", address=handshake.address, **described(err))

    def _over(self, handshake: _Handshake, _: asyncio.Task[None]) -> None:
        """Free the place; whether the task failed, was cancelled, or never began, its connection is closed."""
        if handshake.connection is not None:
            handshake.connection.close()
        if not handshake.is_done:
            self._failed += 1
            if self._failed % _FAILED_KEPT == 0:
                gc.collect()
        self._handshakes.pop(handshake, None)
        self._ended.set()

    async def _make_room(self) -> None:
        """Wait until there is a place for one more handshake; give one up if that takes long."""
        loop = asyncio.get_running_loop()
        while len(self._handshakes) >= self._handshakes_max:
            victim = self._oldest_of_the_greediest()
            left_s = victim.began_s + _FAIR_S - loop.time()
            if left_s <= 0 and victim.task is not None:
                self.given_up += 1
                victim.task.cancel()
                left_s = _FAIR_S
            self._ended.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._ended.wait()

    def _oldest_of_the_greediest(self) -> _Handshake:
        counts = Counter(handshake.address for handshake in self._handshakes)
        greediest = max(counts.values())
        return next(one for one in self._handshakes if counts[one.address] == greediest)


async def listen_tls(
    factory: Callable[[], asyncio.BaseProtocol],
    context: Callable[[], ssl.SSLContext],
    host: str,
    port: int,
    *,
    sockets: Sequence[socket.socket] = (),
) -> TlsListener:
    """Return a listener that listens: on every address of ``host``, or on ``sockets`` that do already.

    Raises:
        OSError: an address cannot be used.
    """
    listener = TlsListener(factory, context)
    await listener.start(host, port, sockets=sockets)
    return listener


async def listening_sockets(host: str, port: int, *, reuse_port: bool = False) -> list[socket.socket]:
    """Return sockets that listen on every address of ``host``.

    Raises:
        OSError: an address cannot be used.
    """
    loop = asyncio.get_running_loop()
    places = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    if port == 0:
        places = places[:1]  # or each address would get a port of its own
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(places):
            sockets.append(_listening(family, address, reuse_port=reuse_port))  # closed if one fails
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets


async def _readable(listening: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(listening, tell)
    try:
        await ready
    finally:
        if listening.fileno() >= 0:
            loop.remove_reader(listening)


def _listening(family: int, address: tuple[object, ...], *, reuse_port: bool) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setblocking(False)
        listening.bind(address)
        listening.listen(_BACKLOG)
    except OSError:
        listening.close()
        raise
    return listening
