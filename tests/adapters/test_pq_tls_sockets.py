"""Hybrid TLS over real sockets: asyncio, aiohttp, a foreign client, and peers that do not behave."""

import asyncio
import contextlib
import random
import socket
import ssl
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from shosoin.adapters import pq_tls_object
from shosoin.adapters.key_exchange import KeyExchange
from shosoin.adapters.pq_tls import HYBRID_GROUP, hybrid_client_context, hybrid_server_context
from shosoin.adapters.tls import Identity, negotiated_group, peer_identity
from tests.support.pki import TestAuthority
from tests.support.programs import program

REQUIRE, PREFER = KeyExchange.REQUIRE_HYBRID, KeyExchange.PREFER_HYBRID
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return TestAuthority(tmp_path_factory.mktemp("plane"), "plane")


@pytest.fixture(scope="module")
def files(authority):
    return {"server": authority.issue("kme", "kme-a"), "client": authority.issue("sae", "sae-a")}


def server_context(authority, files, mode=REQUIRE):
    return hybrid_server_context(files["server"].certificate, files["server"].key, authority.certificate, mode=mode)


def client_context(authority, files, mode=REQUIRE):
    return hybrid_client_context(files["client"].certificate, files["client"].key, authority.certificate, mode=mode)


class Echo:
    """Gives back what it gets; remembers with whom, and how each connection ended."""

    def __init__(self):
        self.groups, self.callers, self.ended = [], [], []

    async def __call__(self, reader, writer):
        tls = writer.get_extra_info("ssl_object")
        self.groups.append(negotiated_group(tls))
        self.callers.append(peer_identity(tls))
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
            self.ended.append("goodbye")
        except (OSError, ssl.SSLError) as err:
            self.ended.append(type(err).__name__)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def serving(context, handle=None, **options):
    echo = handle or Echo()
    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context, **options)
    try:
        yield echo, server.sockets[0].getsockname()[1]
    finally:
        await ended(server)


async def ended(server):
    """Close a server and wait until its connections are gone, or their sockets would complain in a later test."""
    server.close()
    await until(lambda: not getattr(server, "_active_count", 0))


@asynccontextmanager
async def connected(port, context, name="kme-a", **options):
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name, **options)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def echoes(port, context, data=b"hello"):
    async with connected(port, context) as (reader, writer):
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        return negotiated_group(writer.get_extra_info("ssl_object"))


async def until(condition):
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_asyncio_serves_and_calls_and_both_report_the_group(authority, files):
    async with serving(server_context(authority, files)) as (echo, port):
        assert await echoes(port, client_context(authority, files)) == HYBRID_GROUP
        await until(lambda: echo.ended)
    assert echo.groups == [HYBRID_GROUP]
    assert echo.callers == [Identity("sae", "sae-a")]
    assert echo.ended == ["goodbye"]


async def test_sixteen_mebibytes_pass_in_both_directions_at_once(authority, files):
    sent = random.Random(1).randbytes(16 << 20)
    context = client_context(authority, files)

    async def send(writer):
        for at in range(0, len(sent), 3_000_001):
            writer.write(sent[at : at + 3_000_001])
            await writer.drain()

    async with (
        serving(server_context(authority, files)) as (_, port),
        connected(port, context, limit=1 << 20) as (reader, writer),
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(send(writer))
        got = await reader.readexactly(len(sent))
    assert got == sent


async def test_a_peer_that_does_not_read_stops_the_one_that_writes(authority, files):
    """Nobody's memory grows: beyond the sockets' buffers and some hundred KiB the writer waits."""
    go, got = asyncio.Event(), []

    async def handle(reader, writer):
        await go.wait()
        got.append(len(await reader.read()))
        writer.close()

    async with serving(server_context(authority, files), handle) as (_, port):
        async with connected(port, client_context(authority, files)) as (_, writer):
            written = 0
            with contextlib.suppress(TimeoutError):
                while written < 256 << 20:
                    writer.write(bytes(1 << 20))
                    written += 1 << 20
                    async with asyncio.timeout(0.5):
                        await writer.drain()
            assert written < 64 << 20
            go.set()
            await writer.drain()
        await until(lambda: got)
    assert got == [written]


async def test_accepted_sockets_can_be_handed_over(authority, files):
    """As an accept loop of one's own does, so that contexts can change while it runs."""
    loop, done = asyncio.get_running_loop(), loop_future()

    class Hello(asyncio.Protocol):
        def connection_made(self, transport):
            transport.write(str(negotiated_group(transport.get_extra_info("ssl_object"))).encode())
            transport.close()
            done.set_result(None)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)

        async def accept():
            connection, _ = await loop.sock_accept(listener)
            await loop.connect_accepted_socket(Hello, connection, ssl=server_context(authority, files))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(accept())
            async with connected(listener.getsockname()[1], client_context(authority, files)) as (reader, _):
                assert (await reader.read()).decode() == HYBRID_GROUP
    await done


def loop_future():
    return asyncio.get_running_loop().create_future()


async def test_aiohttp_serves_and_calls(authority, files):
    seen = []

    async def handle(request):
        seen.append(peer_identity(request.transport.get_extra_info("ssl_object")))
        return web.Response(body=await request.read())

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_context(authority, files))
    await site.start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}/"
    body = random.Random(2).randbytes(900_000)
    connector = aiohttp.TCPConnector(ssl=client_context(authority, files))
    try:
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(3):
                async with session.post(url, data=body, server_hostname="kme-a") as response:
                    assert await response.read() == body
            with pytest.raises(aiohttp.ClientConnectorCertificateError):
                await session.get(url, server_hostname="kme-b", headers={"Connection": "close"})
    finally:
        await runner.cleanup()
    assert seen == [Identity("sae", "sae-a")] * 3


@pytest.mark.parametrize("wrong", ["name", "authority"])
async def test_a_wrong_server_learns_nothing_and_sends_nothing(authority, files, tmp_path, wrong):
    """Not even who called: the client ends the handshake before it shows its certificate."""
    stranger = TestAuthority(tmp_path, "plane")
    ca = stranger.certificate if wrong == "authority" else authority.certificate
    name = "kme-b" if wrong == "name" else "kme-a"
    context = hybrid_client_context(files["client"].certificate, files["client"].key, ca)
    async with serving(server_context(authority, files)) as (echo, port):
        with pytest.raises(ssl.SSLCertVerificationError):
            async with connected(port, context, name):
                pass
        assert await echoes(port, client_context(authority, files)) == HYBRID_GROUP
    assert len(echo.callers) == 1


async def test_a_client_of_another_authority_is_never_handed_to_the_server(authority, files, tmp_path):
    stranger = TestAuthority(tmp_path, "plane").issue("sae", "sae-a")
    context = hybrid_client_context(stranger.certificate, stranger.key, authority.certificate)
    async with serving(server_context(authority, files)) as (echo, port):
        with pytest.raises((OSError, ssl.SSLError, asyncio.IncompleteReadError)):
            await echoes(port, context)
        assert await echoes(port, client_context(authority, files)) == HYBRID_GROUP
    assert echo.callers == [Identity("sae", "sae-a")]


# A client that we did not write


async def s_client(port, authority, files, *options, say=b"hello\n"):
    """Say something with ``openssl s_client``; returns what it printed until the server or the handshake ended it."""
    arguments = ["-connect", f"127.0.0.1:{port}", "-CAfile", str(authority.certificate), "-verify_return_error"]
    if files is not None:
        arguments += ["-cert", str(files.certificate), "-key", str(files.key)]
    process = await asyncio.create_subprocess_exec(
        program("openssl"), "s_client", *arguments, *options,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE_S):
            printed, _ = await process.communicate(say)
    except BaseException:
        process.kill()
        await process.wait()
        raise
    return printed.decode(errors="replace")


async def once(reader, writer):
    """Answer one line and say goodbye."""
    line = await reader.readline()
    writer.write(b"you said " + line)
    writer.close()


async def test_a_client_that_offers_only_x25519_is_refused_or_served_as_the_mode_says(authority, files):
    only = ("-groups", "X25519", "-ign_eof")
    async with serving(server_context(authority, files, REQUIRE), once) as (_, port):
        printed = await s_client(port, authority, files["client"], *only)
        assert "you said" not in printed
        assert "Cipher is (NONE)" in printed
    async with serving(server_context(authority, files, PREFER), once) as (_, port):
        printed = await s_client(port, authority, files["client"], *only)
        assert "you said hello" in printed
        assert "X25519" in printed


@pytest.mark.parametrize("options", [("-tls1_2",), ("-no_tls1_3",)])
async def test_nothing_before_tls_1_3_is_served(authority, files, options):
    async with serving(server_context(authority, files, PREFER), once) as (_, port):
        printed = await s_client(port, authority, files["client"], *options, "-ign_eof")
    assert "you said" not in printed


async def test_a_foreign_client_without_certificate_is_refused(authority, files):
    async with serving(server_context(authority, files, PREFER), once) as (_, port):
        printed = await s_client(port, authority, None, "-ign_eof")
    assert "you said" not in printed


async def test_a_peer_that_asks_for_new_keys_for_ever_is_dropped(authority, files, monkeypatch):
    """Each answer would wait in our memory while it does not read."""

    async def asked(port, times):
        process = await asyncio.create_subprocess_exec(
            program("openssl"), "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(authority.certificate),
            "-cert", str(files["client"].certificate), "-key", str(files["client"].key),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        printed = b""
        try:
            async with asyncio.timeout(PATIENCE_S):
                printed += await process.stdout.readuntil(b"Verify return code")
                for _ in range(times):
                    process.stdin.write(b"K\n")
                    await process.stdin.drain()
                    printed += await process.stdout.readuntil(b"KEYUPDATE\n")
                process.stdin.write(b"hello\n")
                await process.stdin.drain()
                printed += await process.stdout.read()
        except (asyncio.IncompleteReadError, OSError) as err:
            printed += getattr(err, "partial", b"")
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
        return printed

    async with serving(server_context(authority, files, PREFER), once) as (_, port):
        assert b"you said hello" in await asked(port, 5)
        monkeypatch.setattr(pq_tls_object, "_PROVOKED_BYTES_MAX", 60)
        assert b"you said hello" not in await asked(port, 5)


# Peers that do not behave


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x00" * 4096,
        b"\x16\x03\x01\xff\xff" + b"\x01" * 70_000,
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff" * 5000,
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x14\x03\x03\x00\x01\x01" * 1000,
        b"\x17\x03\x03\x40\x00" + bytes(16384),
    ],
)
async def test_garbage_instead_of_a_hello_ends_that_connection_only(authority, files, raw, caplog):
    async with serving(server_context(authority, files)) as (echo, port):
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(OSError):
                writer.write(raw)
                await writer.drain()
                writer.write_eof()
                await reader.read()
            writer.close()
        assert await echoes(port, client_context(authority, files)) == HYBRID_GROUP
        assert len(echo.callers) == 1
    assert not caplog.records, "asyncio calls what is not an error of ssl a defect"


async def test_whoever_opens_and_says_nothing_is_dropped(authority, files):
    async with serving(server_context(authority, files), ssl_handshake_timeout=0.2) as (echo, port):
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.suppress(OSError):
                assert await reader.read() == b""
            writer.close()
        assert echo.callers == []


async def test_a_handshake_can_be_cancelled_at_either_end(authority, files, caplog):
    """A server that never answers: the client gives up, and nothing is left of it."""

    async def silent(reader, writer):
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()

    silence = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = silence.sockets[0].getsockname()[1]
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await asyncio.open_connection(
                    "127.0.0.1", port, ssl=client_context(authority, files), server_hostname="kme-a"
                )
    await ended(silence)
    async with serving(server_context(authority, files)) as (_, port):
        for _ in range(20):
            task = asyncio.create_task(echoes(port, client_context(authority, files)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert await echoes(port, client_context(authority, files)) == HYBRID_GROUP
        # What an earlier test left to the garbage collector, like the pipe of a process, is not ours.
        assert not [record for record in caplog.records if "BrokenPipeError" not in record.getMessage()]


@pytest.mark.parametrize("how", ["reset", "half closed"])
async def test_a_connection_cut_without_goodbye_ends_at_the_other_end(authority, files, how, caplog):
    async with serving(server_context(authority, files)) as (echo, port):
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=client_context(authority, files), server_hostname="kme-a"
            )
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            if how == "reset":
                writer.transport.abort()
            else:
                writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
            await until(lambda: echo.ended)
            writer.transport.abort()
        assert await echoes(port, client_context(authority, files)) == HYBRID_GROUP
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
