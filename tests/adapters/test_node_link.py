"""The way to a share node, against a real TLS server that misbehaves in every way we could think of."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from shosoin.adapters import node_link
from shosoin.adapters.certificates import Authority, Role
from shosoin.adapters.http_parts import gathered
from shosoin.adapters.node_link import HttpsNodeLink, NodeSession
from shosoin.adapters.tls import server_context
from shosoin.base import Alarm, Denied, PeerFault, Rejected, SaeId, SiteId, Unavailable
from shosoin.vault.ports import Buffer

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
NODE = SaeId("node-a")


@dataclass(frozen=True)
class Planes:
    """Certificates of both planes, as files."""

    directory: Path
    sae: Authority
    node: Authority

    def issue(self, authority: Authority, role: Role, name: str, file: str, **usage: bool) -> tuple[Path, Path]:
        paths = self.directory / f"{file}.crt", self.directory / f"{file}.key"
        authority.issue(role, name, **usage).write(*paths)
        return paths

    def server(self, certificate: tuple[Path, Path]) -> ssl.SSLContext:
        return server_context(*certificate, self.directory / "sae-ca.crt")


@pytest.fixture(scope="module")
def planes(tmp_path_factory) -> Planes:
    made = Planes(tmp_path_factory.mktemp("tls"), Authority.create("sae plane"), Authority.create("node plane"))
    for name, authority in (("sae", made.sae), ("node", made.node)):
        authority.issued.write(made.directory / f"{name}-ca.crt", made.directory / f"{name}-ca.key")
    made.issue(made.sae, Role.SAE, "owner-1", "owner", client=True)
    made.issue(made.node, Role.NODE, NODE, "node", server=True)
    return made


@asynccontextmanager
async def serving(planes: Planes, behave: Behaviour, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve a behaviour; ``context`` ``None`` means plain TCP."""
    writers: list[asyncio.StreamWriter] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            await behave(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context, limit=64 << 20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


@asynccontextmanager
async def linked(
    planes: Planes, behave: Behaviour, *, node: SaeId = NODE, server_name: str = NODE, file: str = "node"
) -> AsyncIterator[HttpsNodeLink]:
    certificate = planes.directory / f"{file}.crt", planes.directory / f"{file}.key"
    async with serving(planes, behave, planes.server(certificate)) as port, session(planes) as opened:
        yield HttpsNodeLink(opened, SiteId("koganei"), node, f"https://127.0.0.1:{port}", server_name)


def session(planes: Planes, file: str = "owner") -> NodeSession:
    directory = planes.directory
    return NodeSession(directory / f"{file}.crt", directory / f"{file}.key", directory / "node-ca.crt")


async def request_of(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    return head, await reader.readexactly(length)


def raw(answer: bytes) -> Behaviour:
    """Read the request, send these bytes, stay silent."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(answer)
        await writer.drain()
        await reader.read()

    return behave


def http(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def ask(link: HttpsNodeLink, *parts: bytes, most: int = 1000, timeout_s: float = 20.0) -> Awaitable[bytes]:
    return link.exchange("/v1/exchange", parts or [b"hello"], response_bytes_max=most, timeout_s=timeout_s)


# ------------------------------------------------------------------------------------------------ the good case


async def test_parts_arrive_in_order_and_the_answer_comes_back(planes):
    seen: list[tuple[bytes, bytes]] = []

    async def echo(reader, writer):
        while True:
            seen.append(await request_of(reader))
            writer.write(http(200, seen[-1][1][::-1]))
            await writer.drain()

    parts: list[Buffer] = [b"abc", bytearray(b"d" * 300_000), memoryview(b"ef"), b"", b"g" * 20_000]
    whole = b"".join(parts)
    async with linked(planes, echo) as link:
        for _ in range(3):
            answer = await link.exchange("/v1/exchange", parts, response_bytes_max=len(whole), timeout_s=20)
            assert answer == whole[::-1]
        assert link.site == "koganei"
    assert [body for _, body in seen] == [whole] * 3
    head = seen[0][0].decode().lower()
    assert head.startswith("post /v1/exchange http/1.1")
    assert "transfer-encoding" not in head


async def test_connections_are_kept_and_shared_up_to_a_limit(planes):
    connections, together, most = 0, 0, 0

    async def count(reader, writer):
        nonlocal connections, together, most
        connections += 1
        while True:
            await request_of(reader)
            together += 1
            most = max(most, together)
            await asyncio.sleep(0)
            together -= 1
            writer.write(http(200, b"ok"))
            await writer.drain()

    async with linked(planes, count) as link:
        assert await asyncio.gather(*(ask(link) for _ in range(100))) == [b"ok"] * 100
    assert connections <= node_link.CONNECTIONS_PER_NODE
    assert most <= node_link.CONNECTIONS_PER_NODE


def test_small_parts_are_joined_and_large_ones_are_not_copied():
    large = bytes(600_000)
    pieces = list(gathered([b"a", b"b", large, b"c"]))
    assert bytes(pieces[0]) == b"ab"
    assert bytes(pieces[-1]) == b"c"
    assert all(isinstance(piece, memoryview) and piece.obj is large for piece in pieces[1:-1])
    assert b"".join(pieces) == b"ab" + large + b"c"
    assert list(gathered([])) == []


# ------------------------------------------------------------------------------------------------ answers that say no


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [
        (400, "rejected", Rejected),
        (401, "denied", Denied),
        (503, "unavailable", Unavailable),
        (500, "alarm", Alarm),
        (500, "internal", PeerFault),
        (502, "peer_fault", PeerFault),
        (404, "rejected", PeerFault),
        (302, "rejected", PeerFault),
        (418, "alarm", PeerFault),
        (204, "rejected", PeerFault),
    ],
)
async def test_the_status_decides_the_kind(planes, status, kind, error):
    body = b"" if status == 204 else json.dumps({"message": "no", "code": "vault.some_code", "kind": kind}).encode()
    async with linked(planes, raw(http(status, body, "Location: https://127.0.0.1:1/"))) as link:
        with pytest.raises(error) as told:
            await ask(link)
    assert type(told.value) is error or error is PeerFault
    if error is not PeerFault:
        assert told.value.code == "vault.some_code"
        assert told.value.message == "koganei: no"


@pytest.mark.parametrize(
    ("value", "header", "expected"),
    [
        ({"retry_after_s": 2.5}, "X: y", 2.5),
        ({}, "Retry-After: 7", 7.0),
        ({"retry_after_s": "soon"}, "Retry-After: Wed, 21 Oct 2026", None),
        ({"retry_after_s": -1}, "X: y", None),
        ({"retry_after_s": 1e300}, "X: y", 300.0),
    ],
)
async def test_when_to_come_back_is_read_and_bounded(planes, value, header, expected):
    async with linked(planes, raw(http(503, json.dumps(value).encode(), header))) as link:
        with pytest.raises(Unavailable) as told:
            await ask(link)
    assert told.value.retry_after_s == expected


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"message": "evil\x1b[31m\r\nforged: line\u202e" + "x" * 5000, "code": "no code!\n"}).encode(),
        b"\xff\xfe",
        b"[1, 2]",
        b"[" * 16_000,
        b'{"message": {"a": 1}, "code": 5, "retry_after_s": []}',
        b"",
    ],
)
async def test_a_nodes_text_is_cleaned_before_it_gets_into_a_message(planes, body):
    async with linked(planes, raw(http(400, body))) as link:
        with pytest.raises(Rejected) as told:
            await ask(link)
    assert told.value.message.isprintable()
    assert told.value.message.isascii()
    assert len(told.value.message) < 400
    assert told.value.code == "base.rejected"


# ------------------------------------------------------------------------------------------------ answers that harm


@pytest.mark.parametrize(
    "answer",
    [
        b"220 smtp.example.org ESMTP\r\n\r\n",
        b"\x00\xff" * 500,
        b"HTTP/1.1 999999 X\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_a_fault_of_the_peer(planes, answer):
    async with linked(planes, raw(answer)) as link:
        with pytest.raises(PeerFault) as told:
            await ask(link)
    assert told.value.message.isprintable()


async def test_an_answer_announced_too_long_is_not_read(planes):
    async with linked(planes, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")) as link:
        with pytest.raises(PeerFault, match="more than 1000 bytes"):
            await ask(link)


@pytest.mark.parametrize("status", [200, 400, 500])
async def test_an_endless_answer_is_cut(planes, status):
    sent = 0

    async def flood(reader, writer):
        nonlocal sent
        await request_of(reader)
        writer.write(f"HTTP/1.1 {status} OK\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while True:
            writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
            sent += 0x10000
            await writer.drain()

    async with linked(planes, flood) as link:
        with pytest.raises(PeerFault, match="more than"):
            await ask(link, most=200_000)
    assert sent < 64 << 20


async def test_a_compressed_answer_is_not_blown_up(planes):
    import gzip

    bomb = gzip.compress(bytes(10_000_000))
    async with linked(planes, raw(http(200, bomb, "Content-Encoding: gzip"))) as link:
        assert await ask(link, most=20_000) == bomb


async def test_silence_in_an_answer_is_cut_before_the_whole_time_is_over(planes, monkeypatch):
    monkeypatch.setattr(node_link, "STALL_TIMEOUT_S", 0.05)
    async with linked(planes, raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc")) as link:
        with pytest.raises(Unavailable):
            await ask(link, timeout_s=3600)


async def test_no_answer_at_all_ends_with_the_callers_time(planes):
    async with linked(planes, raw(b"")) as link:
        with pytest.raises(Unavailable) as told:
            await ask(link, timeout_s=0.2)
    assert told.value.code == "vault.node_slow"


async def test_a_node_that_does_not_read_ends_with_the_callers_time(planes):
    async def deaf(reader, writer):
        writer.transport.pause_reading()
        await asyncio.Event().wait()

    async with linked(planes, deaf) as link:
        with pytest.raises(Unavailable):
            await ask(link, bytes(32 << 20), timeout_s=0.5)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nabc"])
async def test_a_connection_that_breaks_is_unavailable(planes, answer):
    async def half(reader, writer):
        await request_of(reader)
        writer.write(answer)
        await writer.drain()

    async with linked(planes, half) as link:
        with pytest.raises(Unavailable):
            await ask(link)


def test_a_request_that_is_cancelled_midway_leaves_no_open_connection(planes):
    """The peer takes the head of the request and then reads no more; it lives in a thread, for the loop must end."""
    reading, over = threading.Event(), threading.Event()
    context = planes.server((planes.directory / "node.crt", planes.directory / "node.key"))

    def serve(listening: socket.socket) -> None:
        raw_connection, _ = listening.accept()
        with context.wrap_socket(raw_connection, server_side=True) as connection:
            connection.recv(1)
            reading.set()
            over.wait(60)

    async def cancelled(port: int) -> None:
        async with session(planes) as opened:
            link = HttpsNodeLink(opened, SiteId("koganei"), NODE, f"https://127.0.0.1:{port}", NODE)
            asking = asyncio.ensure_future(ask(link, bytes(32 << 20)))
            assert await asyncio.to_thread(reading.wait, 60)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

    with socket.create_server(("127.0.0.1", 0)) as listening, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        server = threading.Thread(target=serve, args=(listening,))
        server.start()
        try:
            asyncio.run(cancelled(listening.getsockname()[1]))
            gc.collect()
        finally:
            over.set()
            server.join()
    assert [str(warning.message) for warning in told if "unclosed" in str(warning.message)] == []


async def test_nobody_listening_is_unavailable(planes):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with session(planes) as opened:
        link = HttpsNodeLink(opened, SiteId("koganei"), NODE, f"https://127.0.0.1:{port}", NODE)
        with pytest.raises(Unavailable) as told:
            await ask(link)
    assert told.value.code == "vault.node_unreachable"


# ------------------------------------------------------------------------------------------------ who it is


async def test_no_byte_of_a_request_reaches_another_node_of_the_same_authority(planes):
    """Same authority, same DNS name and address, but the URI says another role or name."""
    planes.issue(planes.node, Role.KME, NODE, "kme-of-that-name", server=True)
    seen = []

    async def spy(reader, writer):
        seen.append(await reader.read(1))

    async with linked(planes, spy, file="kme-of-that-name") as link:
        with pytest.raises(PeerFault) as told:
            await ask(link)
    assert told.value.code == "vault.wrong_peer"
    async with linked(planes, spy, node=SaeId("node-b")) as link:
        with pytest.raises(PeerFault) as told:
            await ask(link)
    assert told.value.code == "vault.wrong_peer"
    assert set(seen) <= {b""}


async def test_another_host_name_is_refused(planes):
    async with linked(planes, raw(http(200, b"ok")), server_name="node-b") as link:
        with pytest.raises(PeerFault) as told:
            await ask(link)
    assert told.value.code == "vault.wrong_peer"


async def test_a_server_of_the_other_plane_is_refused(planes):
    planes.issue(planes.sae, Role.NODE, NODE, "node-of-sae-plane", server=True)
    async with linked(planes, raw(http(200, b"ok")), file="node-of-sae-plane") as link:
        with pytest.raises(PeerFault) as told:
            await ask(link)
    assert told.value.code == "vault.wrong_peer"


async def test_a_server_that_refuses_our_certificate_is_a_denial(planes):
    planes.issue(planes.node, Role.SAE, "owner-1", "owner-of-node-plane", client=True)
    certificate = planes.directory / "node.crt", planes.directory / "node.key"
    async with (
        serving(planes, raw(http(200, b"ok")), planes.server(certificate)) as port,
        session(planes, "owner-of-node-plane") as opened,
    ):
        link = HttpsNodeLink(opened, SiteId("koganei"), NODE, f"https://127.0.0.1:{port}", NODE)
        with pytest.raises((Denied, Unavailable)):
            await ask(link)


async def test_tls_1_2_is_refused(planes):
    seen = []

    async def spy(reader, writer):
        seen.append(await reader.read(1))

    certificate = planes.directory / "node.crt", planes.directory / "node.key"
    context = planes.server(certificate)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(planes, spy, context) as port, session(planes) as opened:
        link = HttpsNodeLink(opened, SiteId("koganei"), NODE, f"https://127.0.0.1:{port}", NODE)
        with pytest.raises((PeerFault, Unavailable)):
            await ask(link)
    assert set(seen) <= {b""}


async def test_a_server_without_tls_is_refused(planes):
    async with serving(planes, raw(http(200, b"ok"))) as port, session(planes) as opened:
        link = HttpsNodeLink(opened, SiteId("koganei"), NODE, f"https://127.0.0.1:{port}", NODE)
        with pytest.raises((PeerFault, Unavailable)):
            await ask(link, timeout_s=1.0)


async def test_missing_files_are_rejected(planes):
    opened = NodeSession(Path("no.crt"), Path("no.key"), planes.directory / "node-ca.crt")
    with pytest.raises(Rejected):
        HttpsNodeLink(opened, SiteId("koganei"), NODE, "https://127.0.0.1:1", NODE)
