"""A listener gives every handshake a fair time and none a place for ever; its context can change while it listens."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from shosoin.adapters.tls import client_context, server_context
from shosoin.services import tls_listener
from shosoin.services.tls_listener import TlsListener
from tests.support.kme import until
from tests.support.pki import TestAuthority


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Plane:
    """An authority, and contexts for both ends."""

    def __init__(self, place, name):
        self.authority = TestAuthority(place / name, f"{name} plane")
        self.server = self.authority.issue("kme", "kme-a")
        self.client = self.authority.issue("sae", "sae-1")

    def server_context(self):
        return server_context(self.server.certificate, self.server.key, self.authority.certificate)

    def client_context(self):
        return client_context(self.client.certificate, self.client.key, self.authority.certificate)


@asynccontextmanager
async def listening(context, **options):
    listener = TlsListener(Echo, context, **options)
    await listener.start("127.0.0.1", 0)
    try:
        yield listener
    finally:
        listener.close()


async def echoes(listener, plane):
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", listener.port, ssl=plane.client_context(), server_hostname="kme-a"
    )
    writer.write(b"hello")
    answer = await reader.readexactly(5)
    writer.close()
    return answer == b"hello"


@asynccontextmanager
async def silent_connections(port, number):
    """Connect, and say nothing."""
    async with AsyncExitStack() as stack:
        for _ in range(number):
            silent = stack.enter_context(socket.socket())
            silent.setblocking(False)
            await asyncio.get_running_loop().sock_connect(silent, ("127.0.0.1", port))
        yield


async def test_whoever_says_nothing_keeps_nobody_out(tmp_path):
    plane = Plane(tmp_path, "one")
    async with listening(plane.server_context, handshakes_max=4) as listener, silent_connections(listener.port, 40):
        assert await echoes(listener, plane)
        assert listener.handshakes <= 4
        assert listener.given_up > 0


async def test_places_are_given_back(tmp_path):
    plane = Plane(tmp_path, "one")
    async with listening(plane.server_context, handshakes_max=2) as listener:
        for _ in range(6):
            assert await echoes(listener, plane)
        async with silent_connections(listener.port, 2):
            await until(lambda: listener.handshakes == 2)
        await until(lambda: listener.handshakes == 0)
        assert listener.given_up == 0


async def test_a_handshake_in_its_fair_time_is_not_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(tls_listener, "_FAIR_S", 3600.0)
    plane = Plane(tmp_path, "one")
    async with listening(plane.server_context, handshakes_max=2) as listener:
        async with silent_connections(listener.port, 5):
            await until(lambda: listener.handshakes == 2)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(echoes(listener, plane), 0.3)
            assert listener.given_up == 0
        assert await echoes(listener, plane)


async def test_the_context_is_asked_for_each_connection(tmp_path):
    old, new = Plane(tmp_path, "old"), Plane(tmp_path, "new")
    current = [old.server_context()]
    async with listening(lambda: current[0]) as listener:
        assert await echoes(listener, old)
        current[0] = new.server_context()
        assert await echoes(listener, new)
        with pytest.raises((ssl.SSLError, OSError)):
            await echoes(listener, old)


async def test_plain_text_ends_that_connection_alone(tmp_path):
    plane = Plane(tmp_path, "one")
    async with listening(plane.server_context) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.read()
        writer.close()
        assert await echoes(listener, plane)


async def test_closing_ends_handshakes_and_frees_the_port(tmp_path):
    plane = Plane(tmp_path, "one")
    async with listening(plane.server_context) as listener:
        port = listener.port
        async with silent_connections(port, 3):
            await until(lambda: listener.handshakes == 3)
            listener.close()
            await until(lambda: listener.handshakes == 0)
        assert not listener.is_serving
        again = TlsListener(Echo, plane.server_context)
        await again.start("127.0.0.1", port)
        again.close()


async def test_an_address_of_somebody_else_is_an_error(tmp_path):
    plane = Plane(tmp_path, "one")
    async with listening(plane.server_context) as listener:
        with pytest.raises(OSError, match="in use"):
            await TlsListener(Echo, plane.server_context).start("127.0.0.1", listener.port)


async def test_a_listener_that_closes_leaves_no_socket_of_a_handshake_that_had_not_begun(tmp_path):
    plane = Plane(tmp_path, "one")
    async with listening(plane.server_context) as listener, asyncio.timeout(10):
        with socket.create_connection(("127.0.0.1", listener.port)) as client:
            while not listener.handshakes:
                await asyncio.sleep(0)
            listener.close()
            client.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
        while listener.handshakes:
            await asyncio.sleep(0)
    gc.collect()  # a socket that nobody closed would complain now, and fail the test


async def test_failed_handshakes_leave_no_more_than_some_memory(tmp_path, monkeypatch):
    """Each leaves a cycle with a quarter of a mebibyte in it, and our programs seldom look for cycles."""
    monkeypatch.setattr(tls_listener, "_FAILED_KEPT", 8)

    def left():
        return sum(isinstance(each, SSLProtocol) for each in gc.get_objects())

    async with listening(Plane(tmp_path, "one").server_context) as listener:
        gc.collect()
        before = left()
        gc.disable()
        try:
            for _ in range(40):
                _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                writer.transport.abort()
            await until(lambda: listener._failed == 40)
            assert left() - before <= 8
        finally:
            gc.enable()
