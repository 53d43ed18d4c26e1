"""A share node's HTTP edge with a made-up site behind it: who may call, what errors look like, what is bounded."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shosoin.adapters.certificates import Authority, Role, write_signing_key
from shosoin.adapters.node_link import HttpsNodeLink, NodeSession
from shosoin.adapters.tls import client_context
from shosoin.base import Alarm, Denied, OwnerId, PeerFault, Rejected, SaeId, SiteId, Unavailable
from shosoin.services.guarded_connections import GuardedConnection
from shosoin.services.node import listening, node_service
from shosoin.services.node_config import NodeConfig, NodeLimitSection, load_node_config
from shosoin.services.node_edge import NodeEdge
from shosoin.testing.memory_keys import MemoryKeyNetwork
from shosoin.vault.envelope import MalformedEnvelope
from shosoin.vault.ports import ShareState
from tests.adapters.store_support import content, key, put

CONFIG = """
[node]
id = "node-a"
site = "koganei"
directory = "state"
signing_key = "site.key"
[node.api]
host = "127.0.0.1"
port = 0
certificate = "node.crt"
key = "node.key"
client_ca = "sae-ca.crt"
[node.kme]
id = "kme-a"
url = "https://127.0.0.1:1"
server_name = "kme-a"
ca = "sae-ca.crt"
certificate = "owner.crt"
key = "owner.key"
sae_id = "node-a"
[[owner]]
id = "owner-1"
home_site = "koganei"
signing_public_key = "signing.pub"
quota_bytes = 1000000
[[site]]
name = "koganei"
signing_public_key = "site.pub"
"""


class Recorder:
    """An event sink that remembers."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def emit(self, event) -> None:
        self.events.append(event)

    def names(self) -> list[str]:
        return [event.name for event in self.events]


class MadeUpSite:
    """Answers with its caller and the body backwards, or as told."""

    def __init__(self) -> None:
        self.act: Callable[[], Awaitable[None]] | None = None

    def info(self) -> dict[str, Any]:
        return {"site": "koganei"}

    async def exchange(self, caller, body):
        if self.act is not None:
            await self.act()
        return [caller.encode(), b":", bytes(body)[::-1]]

    async def session(self, caller, body):
        return json.dumps({"caller": caller, "bytes": len(body)}).encode()


@dataclass
class Served:
    """A node edge that listens."""

    site: MadeUpSite
    sink: Recorder
    edge: NodeEdge
    port: int
    directory: Path

    def session(self, name: str = "owner") -> NodeSession:
        return NodeSession(
            self.directory / f"{name}.crt", self.directory / f"{name}.key", self.directory / "node-ca.crt"
        )

    def link(self, session: NodeSession) -> HttpsNodeLink:
        return HttpsNodeLink(session, SiteId("koganei"), SaeId("node-a"), f"https://127.0.0.1:{self.port}", "node-a")

    async def ask(self, body: bytes = b"abc", path: str = "/v1/exchange", *, name: str = "owner") -> bytes:
        async with self.session(name) as session:
            return await self.link(session).exchange(path, [body], response_bytes_max=16 << 20, timeout_s=60)

    @asynccontextmanager
    async def connected(self, name: str = "owner") -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        context = client_context(
            self.directory / f"{name}.crt", self.directory / f"{name}.key", self.directory / "node-ca.crt"
        )
        async with connection(self.port, context) as streams:
            yield streams


@asynccontextmanager
async def connection(port: int, context: ssl.SSLContext):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="node-a")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    made: Path = tmp_path_factory.mktemp("node")
    sae, node = Authority.create("sae plane"), Authority.create("node plane")
    for name, authority in (("sae-ca", sae), ("node-ca", node)):
        authority.issued.write(made / f"{name}.crt", made / f"{name}.key")
    node.issue(Role.NODE, "node-a", server=True).write(made / "node.crt", made / "node.key")
    for name, authority, role, identifier in [
        ("owner", sae, Role.SAE, "owner-1"),
        ("stranger", sae, Role.SAE, "stranger"),
        ("kme", sae, Role.KME, "owner-1"),
        ("forged", node, Role.SAE, "owner-1"),
    ]:
        authority.issue(role, identifier, client=True).write(made / f"{name}.crt", made / f"{name}.key")
    write_signing_key(made / "signing.key", made / "signing.pub")
    write_signing_key(made / "site.key", made / "site.pub")
    (made / "config.toml").write_text(CONFIG)
    return made


def config_in(directory: Path, state: Path, **limits: float) -> NodeConfig:
    loaded = load_node_config(directory / "config.toml")
    values: Any = {"stop_s": 5.0, **limits}
    return replace(loaded, node=replace(loaded.node, directory=state), limits=NodeLimitSection(**values))


@asynccontextmanager
async def edge_of(directory: Path, **limits: float) -> AsyncIterator[Served]:
    config = config_in(directory, directory / "unused", **limits)
    site, sink = MadeUpSite(), Recorder()
    edge = NodeEdge(site, config.limits, sink)
    async with listening(config, edge) as port:
        yield Served(site, sink, edge, port, directory)


def pause_reading(writer: asyncio.StreamWriter) -> None:
    """Take nothing more from the socket."""
    transport: Any = writer.transport
    transport.pause_reading()


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something is so."""
    for _ in range(1_000_000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to that")


def head(path: str, length: int | None, method: str = "POST") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: node-a"] + (
        [f"Content-Length: {length}"] if length is not None else []
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def answer_of(reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
    raw = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(raw.split("content-length: ")[1].split("\r\n")[0])
    return int(raw.split()[1]), json.loads(await reader.readexactly(length))


# ------------------------------------------------------------------------------------------------ who may call


async def test_the_caller_is_read_from_the_certificate(directory):
    async with edge_of(directory) as served:
        assert await served.ask(b"abc") == b"owner-1:cba"
        assert await served.ask(b"abc", name="stranger") == b"stranger:cba"  # whether it owns anything, the site knows
        assert json.loads(await served.ask(b"{}", "/v1/session")) == {"caller": "owner-1", "bytes": 2}


async def test_a_certificate_of_another_role_is_denied(directory):
    async with edge_of(directory) as served:
        with pytest.raises(Denied) as told:
            await served.ask(name="kme")
        assert told.value.code == "node.wrong_role"


async def test_a_certificate_of_the_other_plane_gets_no_answer(directory):
    async with edge_of(directory) as served:
        with pytest.raises((Denied, Unavailable)):
            await served.ask(name="forged")


async def test_no_certificate_gets_no_answer(directory):
    async def call(port: int) -> None:
        context = ssl.create_default_context(cafile=str(directory / "node-ca.crt"))
        async with connection(port, context) as (reader, writer):
            writer.write(head("/v1/info", None, "GET"))
            await reader.readuntil(b"\r\n\r\n")

    async with edge_of(directory) as served:
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await call(served.port)


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Rejected("bad", code="vault.bad_operation"), Rejected),
        (Denied("no", code="vault.session_unknown"), Denied),
        (Unavailable("full", code="vault.disk_full", retry_after_s=12.0), Unavailable),
        (PeerFault("the KME", code="kme_client.bad"), PeerFault),
        (Alarm("seal", code="vault.seal_broken"), Alarm),
        (MalformedEnvelope("not an envelope"), Rejected),
    ],
)
async def test_an_error_travels_as_its_kind(directory, error, expected):
    async with edge_of(directory) as served:

        async def fail() -> None:
            raise error

        served.site.act = fail
        with pytest.raises(expected) as told:
            await served.ask()
        assert type(told.value) is expected or expected is PeerFault
        assert error.message in told.value.message
        if expected is not PeerFault:
            assert told.value.code == error.code
        if isinstance(error, Unavailable):
            assert told.value.retry_after_s == 12.0


async def test_a_defect_tells_nothing_outside_and_its_place_inside(directory):
    async with edge_of(directory) as served:

        async def fail() -> None:
            raise LookupError("secret 0123456789abcdef")

        served.site.act = fail
        async with served.connected() as (reader, writer):
            writer.write(head("/v1/exchange", 3) + b"abc")
            status, value = await answer_of(reader)
    assert (status, value) == (500, {"message": "internal error", "code": "node.internal", "kind": "internal"})
    [event] = served.sink.events
    assert event.name == "node.defect"
    assert event.fields["exception"] == "LookupError"
    assert "test_node.py" in event.fields["where"]
    assert "secret" not in repr(event)


@pytest.mark.parametrize(
    ("method", "path", "length", "status", "code"),
    [
        ("GET", "/v1/exchange", None, 404, "node.no_such_path"),
        ("POST", "/v1/../etc/passwd", 3, 404, "node.no_such_path"),
        ("POST", "/v1/exchange", None, 400, "node.no_length"),
        ("POST", "/v1/exchange", 2001, 400, "node.body_too_long"),
        ("POST", "/v1/session", 16385, 400, "node.body_too_long"),
        ("GET", "/v1/info", None, 200, None),
    ],
)
async def test_odd_requests_get_their_answer(directory, method, path, length, status, code):
    async with edge_of(directory, body_bytes=2000) as served, served.connected() as (reader, writer):
        writer.write(head(path, length, method) + (b"abc" if length == 3 else b""))
        found, value = await answer_of(reader)
    assert (found, value.get("code")) == (status, code)


JUNK = [
    b"\x16\x03\x01\x00\x00" * 10,
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/exchange HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/exchange HTTP/1.1\r\nX: " + b"y" * 100_000,
    head("/v1/exchange", 3)[:-2] + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("junk", JUNK)
async def test_junk_ends_the_connection_and_not_the_node(directory, junk):
    async with edge_of(directory) as served:
        async with served.connected() as (reader, writer):
            writer.write(junk)
            await asyncio.wait_for(reader.read(), 30)
        assert await served.ask(b"abc") == b"owner-1:cba"


# ------------------------------------------------------------------------------------------------ bodies


@pytest.mark.parametrize("size", [0, 1, 65_536, 5_000_000])
async def test_bodies_of_all_sizes_go_both_ways(directory, size):
    data = content(size)
    async with edge_of(directory) as served:
        assert await served.ask(data) == b"owner-1:" + data[::-1]


async def test_many_requests_on_kept_connections(directory):
    async with edge_of(directory) as served, served.session() as session:
        link = served.link(session)
        bodies = [content(20_000, seed) for seed in range(100)]
        answers = await asyncio.gather(
            *(link.exchange("/v1/exchange", [body], response_bytes_max=30_000, timeout_s=60) for body in bodies)
        )
        assert answers == [b"owner-1:" + body[::-1] for body in bodies]


async def test_more_than_the_allowed_requests_at_once_are_told_to_come_back(directory):
    async with edge_of(directory, requests=3, requests_per_owner=2) as served:
        gate, entered = asyncio.Event(), asyncio.Semaphore(0)

        async def wait() -> None:
            entered.release()
            await gate.wait()

        served.site.act = wait
        running = [asyncio.create_task(served.ask()) for _ in range(2)]
        for _ in running:
            await entered.acquire()
        with pytest.raises(Unavailable) as told:
            await served.ask()
        assert (told.value.code, told.value.retry_after_s) == ("node.busy", 1.0)
        running.append(asyncio.create_task(served.ask(name="stranger")))
        await entered.acquire()
        with pytest.raises(Unavailable):
            await served.ask(name="stranger")
        gate.set()
        assert await asyncio.gather(*running) == [b"owner-1:cba", b"owner-1:cba", b"stranger:cba"]
        assert await served.ask() == b"owner-1:cba"


async def test_request_bytes_in_memory_are_bounded(directory):
    async with edge_of(directory, bodies_bytes=2000) as served:  # one caller gets half
        async with served.connected() as (reader, writer):
            writer.write(head("/v1/exchange", 900) + b"x")
            await until(lambda: served.edge.bodies.held_bytes)
            with pytest.raises(Unavailable) as told:
                await served.ask(b"y" * 200)
            assert told.value.code == "node.busy"
            writer.write(b"x" * 899)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert len(await served.ask(b"y" * 200)) == 208


# ------------------------------------------------------------------------------------------------ slow clients


async def test_a_body_that_trickles_is_cut_and_gives_its_memory_back(directory):
    async with edge_of(directory, body_s=0.05) as served:
        async with served.connected() as (reader, writer):
            writer.write(head("/v1/exchange", 900) + b"x")
            assert (await answer_of(reader))[1]["code"] == "node.slow_body"
        await served.edge.idle.wait()
        assert served.edge.bodies.held_bytes == 0


@pytest.mark.parametrize("sent", [b"", b"POST /v1/exchange HTTP/1.1\r\nX: "])
async def test_a_connection_that_never_completes_a_head_is_ended(directory, sent):
    async with edge_of(directory, idle_s=0.05) as served, served.connected() as (reader, writer):
        writer.write(sent)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), 30)


async def test_a_client_that_does_not_read_its_answer_is_ended(directory):
    async def feed(writer: asyncio.StreamWriter) -> None:
        body = bytes(4_000_000)
        while True:
            writer.write(head("/v1/exchange", len(body)) + body)
            await asyncio.wait_for(writer.drain(), 30)

    async with edge_of(directory, idle_s=0.2) as served, served.connected() as (_, writer):
        pause_reading(writer)
        with pytest.raises(ConnectionError):
            await feed(writer)
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_the_clock_of_a_connection_stands_still_while_a_request_is_handled(directory):
    seen: list[list[object]] = []
    guarded: list[GuardedConnection] = []

    async def look() -> None:
        seen.append([made._ends_s for made in guarded])

    async with edge_of(directory) as served:
        served.site.act = look
        async with served.connected() as (reader, writer):
            writer.write(head("/v1/exchange", 3) + b"abc")
            await reader.readuntil(b"\r\n\r\n")
            guarded += [made for made in gc.get_objects() if isinstance(made, GuardedConnection) and made._counted]
            assert [made._ends_s is not None for made in guarded] == [True]
            writer.write(head("/v1/exchange", 3) + b"abc")
            await reader.readuntil(b"\r\n\r\n")
            assert [made._ends_s is not None for made in guarded] == [True]
    assert seen == [[], [None]]


async def test_connections_are_bounded(directory):
    async with edge_of(directory, connections=2) as served:
        async with served.connected() as first, served.connected("stranger") as second:
            for reader, writer in (first, second):
                writer.write(head("/v1/info", None, "GET"))
                await reader.readuntil(b"\r\n\r\n")
            with pytest.raises(Unavailable):
                await served.ask()
        for _ in range(1000):
            try:
                assert await served.ask() == b"owner-1:cba"
                break
            except Unavailable:
                continue
        else:
            pytest.fail("the places were never free again")


async def test_one_caller_has_at_most_half_of_the_connections(directory):
    async with edge_of(directory, connections=4) as served, AsyncExitStack() as held:
        for _ in range(2):
            reader, writer = await held.enter_async_context(served.connected())
            writer.write(head("/v1/info", None, "GET"))
            await reader.readuntil(b"\r\n\r\n")
        with pytest.raises(Unavailable):
            await served.ask()
        assert await served.ask(name="stranger") == b"stranger:cba"


async def test_stopping_lets_a_running_request_end(directory, monkeypatch):
    gate, entered = asyncio.Event(), asyncio.Event()
    running_at_shutdown, shut_down = [], web.Server.shutdown

    async def watch(server: web.Server, timeout_s: float) -> None:
        running_at_shutdown.append(served.edge.running)
        await shut_down(server, timeout_s)

    monkeypatch.setattr(web.Server, "shutdown", watch)

    async def wait() -> None:
        entered.set()
        await gate.wait()

    serving = edge_of(directory)
    served = await serving.__aenter__()
    served.site.act = wait
    running = asyncio.create_task(served.ask())
    await entered.wait()
    stopping = asyncio.create_task(serving.__aexit__(None, None, None))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await served.ask()
    assert not stopping.done()
    gate.set()
    assert await running == b"owner-1:cba"
    await stopping
    assert running_at_shutdown == [0]


# ------------------------------------------------------------------------------------------------ the whole node


@asynccontextmanager
async def whole_node(directory: Path, state: Path, **limits: float) -> AsyncIterator[tuple[Any, Recorder]]:
    sink = Recorder()
    keys = MemoryKeyNetwork().kme(SaeId("node-a"))
    async with node_service(config_in(directory, state, **limits), keys, sink) as node:
        yield node, sink


async def test_a_node_says_when_it_serves_and_when_it_does_not(directory, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    (state / "ready").write_text("stale")
    async with whole_node(directory, state) as (node, sink):
        ready = json.loads((state / "ready").read_text())
        assert ready == {
            "pid": os.getpid(),
            "node": "node-a",
            "site": "koganei",
            "host": "127.0.0.1",
            "port": node.port,
        }
        assert stat.S_IMODE((state / "ready").stat().st_mode) == 0o600
        assert sink.names() == ["vault.store_opened"]
    assert not (state / "ready").exists()


async def test_an_owner_talks_to_a_whole_node_and_a_stranger_does_not(directory, tmp_path):
    from shosoin.vault.envelope import canonical_json, cut, join, parse_json

    def envelope(sender: str) -> bytes:
        ops = [{"op": "inventory", "limit": 10}]
        header = {"v": 1, "class": "local", "from": sender, "to": "node-a", "ops": ops, "auth": {"answer": 0}}
        return b"".join(join(canonical_json(header), [], b""))

    async with whole_node(directory, tmp_path / "state") as (node, _):
        served = Served(MadeUpSite(), Recorder(), node.edge, node.port, directory)
        answer = parse_json(cut(await served.ask(envelope("owner-1"))).header)
        assert answer == {"results": [{"shares": []}]}
        with pytest.raises(Denied) as told:
            await served.ask(envelope("stranger"), name="stranger")
        assert told.value.code == "vault.unknown_owner"
        with pytest.raises(Denied):
            await served.ask(envelope("owner-1"), name="stranger")
        with pytest.raises(Rejected):
            await served.ask(b"not an envelope")


async def test_upkeep_tells_of_rot_and_of_orphans(directory, tmp_path):
    async with whole_node(directory, tmp_path / "state", orphan_age_s=0.0) as (node, sink):
        made = await put(node.store, key(1), content(5 << 20))
        await put(node.store, key(2), content(100), ShareState.STAGED)
        path = node.store._directory.share_path(int(made.locator[1:], 16))
        os.truncate(path, 100)
        await node.upkeep.round()
        await node.upkeep.round()
    assert sink.names() == [
        "vault.store_opened",
        "vault.orphans_collected",
        "vault.share_damaged",
        "vault.scrub_complete",
        "vault.share_damaged",
        "vault.scrub_complete",
    ]
    damage = sink.events[2]
    assert damage.severity == "warning"
    assert damage.fields["object"] == made.key.object_id
    assert damage.fields["owner"] == OwnerId("owner-1")


async def test_damage_found_at_the_start_is_told(directory, tmp_path):
    async with whole_node(directory, tmp_path / "state") as (node, _):
        made = await put(node.store, key(1), content(1 << 20))
        path = node.store._directory.share_path(int(made.locator[1:], 16))
    path.unlink()
    async with whole_node(directory, tmp_path / "state") as (_, sink):
        assert sink.names() == ["vault.store_opened", "vault.share_damaged"]
        assert sink.events[0].fields["damaged"] == 1


async def test_a_taken_port_is_told(directory, tmp_path):
    async with whole_node(directory, tmp_path / "one") as (node, _):
        config = config_in(directory, tmp_path / "two")
        taken = replace(config, api=replace(config.api, port=node.port))
        with pytest.raises(Unavailable, match="cannot listen"):
            async with node_service(taken, MemoryKeyNetwork().kme(SaeId("node-a")), Recorder()):
                pytest.fail("it listens where somebody else does")
    assert not (tmp_path / "two" / "ready").exists()


async def test_an_unusable_signing_key_is_told(directory, tmp_path):
    config = config_in(directory, tmp_path / "state")
    for name, words in (("missing.pub", "cannot read"), ("node.crt", "expected 1952")):
        owner = replace(config.owners[0], signing_public_key=directory / name)
        with pytest.raises(Rejected, match=words):
            async with node_service(
                replace(config, owners=(owner,)), MemoryKeyNetwork().kme(SaeId("node-a")), Recorder()
            ):
                pytest.fail("it serves without the key")
