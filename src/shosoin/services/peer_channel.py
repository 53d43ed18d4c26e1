"""Connections between KMEs: mutual TLS 1.3, length-prefixed frames, three kinds of channel for each link.

The *classical channel* carries the messages of ``shosoin.keys.messages``. The *simulated quantum channel* stands for
the pair of QKD devices and carries raw blocks (``shosoin.services.sources.simulated``). Of the two KMEs of a
link the one with the lower id dials all; who is at the other end is read from the certificate. The *requests* channel
carries questions and answers beside the streams (``shosoin.services.kme_requests``).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from shosoin.adapters.tls import Identity, negotiated_group, peer_identity, require_peer
from shosoin.base import Denied, PeerFault, ShosoinError
from shosoin.services.json_log import log
from shosoin.services.tls_listener import TlsListener, listen_tls

__all__ = ["FRAME_BYTES_MAX", "Channel", "ChannelKind", "Handler", "dial_forever", "listen"]

FRAME_BYTES_MAX = 16 << 20
_LENGTH = struct.Struct(">I")
_GREETING_S = 10.0
_SEND_S = 30.0
_CHANNELS_MAX = 12
"""Of one peer: three, and some that are not known to be dead yet."""
_BACKOFF_S_MIN, _BACKOFF_S_MAX = 0.05, 2.0


class ChannelKind(StrEnum):
    """What a connection is for."""

    CLASSICAL = "classical"
    SIMULATED_QUANTUM = "simulated quantum"
    REQUESTS = "requests"


@dataclass(slots=True, eq=False)
class Channel:
    """A connection to a peer KME whose identity has been checked."""

    peer: str
    kind: ChannelKind
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def __post_init__(self) -> None:
        """Notice a peer that vanished without closing: the kernel asks after it."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)

    @property
    def group(self) -> str | None:
        """The TLS key-exchange group, where the TLS library can tell."""
        return negotiated_group(self.writer.get_extra_info("ssl_object"))

    @property
    def unsent_bytes(self) -> int:
        """What was sent and waits in this process until the peer reads on."""
        return self.writer.transport.get_write_buffer_size()

    async def receive(self) -> bytes:
        """Return the next frame.

        Raises:
            PeerFault: if the connection ends or the frame is too long.
        """
        try:
            (size,) = _LENGTH.unpack(await self.reader.readexactly(_LENGTH.size))
            if size > FRAME_BYTES_MAX:
                raise PeerFault(f"frame of {size} bytes, expected at most {FRAME_BYTES_MAX}")
            return await self.reader.readexactly(size)
        except (OSError, EOFError, ssl.SSLError) as err:
            raise PeerFault(f"the {self.kind} channel to {self.peer} ended") from err

    async def send(self, *parts: bytes) -> None:
        """Send one frame; a broken connection shows at the receiving side."""
        self.writer.write(_LENGTH.pack(sum(map(len, parts))) + b"".join(parts))
        try:
            async with asyncio.timeout(_SEND_S):
                await self.writer.drain()
        except (OSError, ssl.SSLError):
            self.close()  # TimeoutError is an OSError: a peer that does not read is as good as gone

    @property
    def is_closed(self) -> bool:
        """Whether the connection is gone, as far as is known."""
        return self.writer.transport.is_closing()

    def close(self) -> None:
        """Drop the connection."""
        self.writer.transport.abort()


Handler = Callable[[Channel], Awaitable[None]]


async def listen(
    host: str, port: int, context: Callable[[], ssl.SSLContext], handle: Handler, peers: set[str]
) -> TlsListener:
    """Accept channels from the KMEs in ``peers`` and hand each to ``handle`` until it returns."""
    open_channels: Counter[str] = Counter()
    loop = asyncio.get_running_loop()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = _peer_of(writer, peers)
            if open_channels[peer] >= _CHANNELS_MAX:
                raise Denied(f"{peer} has {_CHANNELS_MAX} channels open")
            open_channels[peer] += 1
            try:
                async with asyncio.timeout(_GREETING_S):  # wait_for may swallow a cancellation on Python 3.11
                    channel = await _greeted(peer, reader, writer)
                await handle(channel)
            finally:
                open_channels[peer] -= 1
        except (ShosoinError, OSError) as err:  # TimeoutError is one
            log("peer.refused", reason=str(err))
        finally:
            writer.transport.abort()

    def connect() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(loop=loop), accept, loop=loop)

    return await listen_tls(connect, context, host, port)


async def dial_forever(
    peer: str, host: str, port: int, context: Callable[[], ssl.SSLContext], kind: ChannelKind, handle: Handler
) -> None:
    """Keep one channel to ``peer`` open, again and again; growing pauses in between."""
    pause, loop = _BACKOFF_S_MIN, asyncio.get_running_loop()
    while True:
        try:
            async with asyncio.timeout(_GREETING_S):
                channel = await _dialled(peer, host, port, context(), kind)
        except (OSError, ssl.SSLError, TimeoutError, ShosoinError) as err:
            if pause >= _BACKOFF_S_MAX:
                log("peer.unreachable", peer=peer, kind=kind, reason=str(err))
        else:
            began_s = loop.time()
            try:
                await handle(channel)
            finally:
                channel.close()
            if loop.time() - began_s > _BACKOFF_S_MAX:
                pause = _BACKOFF_S_MIN
        await asyncio.sleep(pause)
        pause = min(_BACKOFF_S_MAX, pause * 2)


async def _dialled(peer: str, host: str, port: int, context: ssl.SSLContext, kind: ChannelKind) -> Channel:
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=peer)
    channel = Channel(peer, kind, reader, writer)
    try:
        require_peer(writer.get_extra_info("ssl_object"), Identity("kme", peer))
        await channel.send(kind.encode())
    except BaseException:
        channel.close()
        raise
    return channel


def _peer_of(writer: asyncio.StreamWriter, peers: set[str]) -> str:
    identity = peer_identity(writer.get_extra_info("ssl_object"))
    if identity.role != "kme" or identity.id not in peers:
        raise Denied(f"{identity.role} {identity.id} is no peer of this KME")
    return identity.id


async def _greeted(peer: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Channel:
    channel = Channel(peer, ChannelKind.CLASSICAL, reader, writer)
    try:
        channel.kind = ChannelKind((await channel.receive()).decode())
    except ValueError as err:
        raise PeerFault("unknown kind of channel") from err
    return channel
