"""Harnesses of a KME's open edges as a whole: HTTP for SAEs, and questions of the KME at the other end of a link.

Behind them stands a real KME process (its link's other end is away); only the sockets are missing.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import re
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.kme import KmePair

from fuzz.harness import Finding, Harness
from shosoin.base import KmeId, PeerFault
from shosoin.services.guarded_connections import ConnectionGuard
from shosoin.services.kme import KmeProcess
from shosoin.services.kme_config import load_kme_config
from shosoin.services.kme_requests import PeerRequests, _frame
from shosoin.services.peer_channel import Channel, ChannelKind

__all__ = ["HARNESSES"]

_STATUS = re.compile(rb"HTTP/\d\.\d (\d{3}) ")  # of a request of version 0.9, too
_KEY_ID = "01234567-89ab-8def-8123-456789abcdef"


@dataclass
class _Edge:
    """A running KME, and the certificate of one of its SAEs."""

    process: KmeProcess
    certificate: bytes
    loop: asyncio.AbstractEventLoop
    errors: list[dict[str, Any]] = field(default_factory=list)


class _Certificate:
    """What stands for the TLS state of a connection: whose certificate was shown."""

    def __init__(self, der: bytes) -> None:
        self._der = der

    def getpeercert(self, binary_form: bool = False) -> bytes:  # as in ssl.SSLObject
        return self._der


class _Wire(asyncio.Transport):
    """A connection without a socket: keeps what is written."""

    def __init__(self, certificate: bytes) -> None:
        super().__init__({"ssl_object": _Certificate(certificate), "peername": ("127.0.0.1", 1)})
        self.written = bytearray()
        self.protocol: asyncio.BaseProtocol | None = None
        self._closing = False

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert self.protocol is not None
        return self.protocol

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._closing:
            self.written += data

    def close(self) -> None:
        self._closing = True

    abort = close

    def pause_reading(self) -> None:
        """Nothing comes but what is fed."""

    def resume_reading(self) -> None:
        """Likewise."""


@lru_cache(maxsize=1)
def _edge() -> _Edge:
    home = tempfile.TemporaryDirectory(prefix="fuzz-kme-")
    pair = KmePair(Path(home.name))
    loop = asyncio.new_event_loop()
    process = KmeProcess(load_kme_config(pair.config("kme-a")))
    loop.run_until_complete(process.__aenter__())
    der = x509.load_pem_x509_certificate(pair.saes["sae-a1"].certificate.read_bytes()).public_bytes(Encoding.DER)
    edge = _Edge(process, der, loop)
    loop.set_exception_handler(lambda _, told: edge.errors.append(told))

    def end() -> None:
        loop.run_until_complete(process.__aexit__(None, None, None))
        loop.close()
        home.cleanup()

    atexit.register(end)
    return edge


def sae_http(raw: bytes) -> None:
    """Any bytes on an SAE's connection: answers of the standard alone, each error with its body, and no defect."""
    edge = _edge()
    written = edge.loop.run_until_complete(_spoken(edge, raw))
    service = edge.process.services["etsi014"]
    if edge.errors:
        raise Finding(f"the loop was told {edge.errors.pop().get('message')!r}")
    if any(code == "etsi014.defect" for _, _, code in service.tally.refusals):
        service.tally.refusals.clear()
        raise Finding("a defect of the service")
    if any(budget.held_bytes for budget in service.memory.values()):
        raise Finding("memory is held for a connection that has ended")
    statuses = {int(status) for status in _STATUS.findall(written)}
    if not statuses <= {100, 200, 400, 401, 503}:
        raise Finding(f"answered {statuses}")
    if len(_STATUS.findall(written)) == 1 and written.endswith(b"}"):
        told = json.loads(written.partition(b"\r\n\r\n")[2])
        if 200 not in statuses and set(told) != {"message", "details"}:
            raise Finding("an error without its body")


async def _spoken(edge: _Edge, raw: bytes) -> bytes:
    guard = edge.process.services["etsi014"].guard
    assert isinstance(guard, ConnectionGuard)
    wire, protocol = _Wire(edge.certificate), guard()
    wire.protocol = protocol
    protocol.connection_made(wire)
    for piece in (raw[: len(raw) // 2], raw[len(raw) // 2 :]):
        if piece and not wire.is_closing():
            protocol.data_received(piece)
        for _ in range(3):
            await asyncio.sleep(0)
    for _ in range(20):
        await asyncio.sleep(0)
    if not wire.is_closing():
        protocol.eof_received()
    protocol.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    return bytes(wire.written)


def peer_questions(raw: bytes) -> None:
    """A frame on the channel for questions: taken or refused, and what it makes of our own question can be told."""
    asyncio.run(_questions(raw))


async def _questions(raw: bytes) -> None:
    requests, channel = PeerRequests({KmeId("kme-b")}), _FakeChannel.__new__(_FakeChannel)
    channel.peer, channel.kind = "kme-b", ChannelKind.REQUESTS
    channel.frames, channel.over, channel.sent = [raw], asyncio.Event(), []

    async def echo(_: KmeId, body: bytes) -> bytes:
        return body

    requests.serve("echo", echo)
    work = asyncio.create_task(requests.handle(channel))
    await asyncio.sleep(0)
    asking = asyncio.create_task(requests.ask(KmeId("kme-b"), "echo", b"x", timeout_s=0.01))
    await asyncio.sleep(0)
    channel.over.set()
    try:
        await asking
    finally:
        await work
        if len(channel.sent) > 2:
            raise Finding("more answers than questions")


class _FakeChannel(Channel):
    """A channel whose other end says what it was given, once we have asked."""

    frames: list[bytes]
    over: asyncio.Event
    sent: list[bytes]

    async def receive(self) -> bytes:
        await self.over.wait()
        if self.frames:
            return self.frames.pop()
        await asyncio.sleep(0)
        raise PeerFault("the other end has left")

    @property
    def unsent_bytes(self) -> int:
        return 0

    async def send(self, *parts: bytes) -> None:
        self.sent.append(b"".join(parts))

    def close(self) -> None:
        """Nothing is open."""


def _http_seeds() -> list[bytes]:
    def post(path: str, body: bytes, *headers: str) -> bytes:
        lines = [f"POST /api/v1/keys/{path} HTTP/1.1", "Host: x", *headers, "", ""]
        return "\r\n".join(lines).encode() + body

    wanted = json.dumps({"key_IDs": [{"key_ID": _KEY_ID}]}).encode()
    return [
        b"GET /api/v1/keys/sae-b1/status HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/keys/sae-a1/enc_keys?number=2&size=128 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /api/v1/keys/sae%2Da2/dec_keys?key_ID=" + _KEY_ID.encode() + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        post("sae-a2/enc_keys", b'{"number": 1, "size": 256}', "Content-Length: 26"),
        post("sae-a2/dec_keys", wanted, f"Content-Length: {len(wanted)}"),
        post("sae-b1/enc_keys", b"2\r\n{}\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
        post("sae-a1/enc_keys", b"{}", "Expect: 100-continue", "Content-Length: 2"),
        b"GET /api/v1/keys/sae-a1/status HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
    ]


def _questions_seeds() -> list[bytes]:
    return [
        _frame(0, 7, "echo", b"body"),
        _frame(0, 8, "nothing", b""),
        _frame(1, 1, "", b"x"),
        _frame(2, 1, "", b"a.b\0no"),
    ]


HARNESSES = (
    Harness("sae_http", sae_http, _http_seeds, size_max=4096),
    Harness("peer_questions", peer_questions, _questions_seeds, size_max=512),
)
