"""KMEs ask each other over a real channel: answers find their question, refusals say why, nobody waits for ever."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from shosoin.adapters.tls import client_context, server_context
from shosoin.base import KmeId, Rejected, Unavailable
from shosoin.services.kme_requests import BODY_BYTES_MAX, PeerRefused, PeerRequests
from shosoin.services.peer_channel import ChannelKind, dial_forever, listen
from tests.support.kme import until
from tests.support.pki import TestAuthority

A, B = KmeId("kme-a"), KmeId("kme-b")


@asynccontextmanager
async def connected(tmp_path):
    """Two KMEs' request lines over TLS; a dials."""
    plane = TestAuthority(tmp_path / "plane", "kme plane")
    files = {name: plane.issue("kme", name) for name in (A, B)}
    at_a, at_b = PeerRequests({B}), PeerRequests({A})
    serving = server_context(files[B].certificate, files[B].key, plane.certificate)
    listener = await listen("127.0.0.1", 0, lambda: serving, at_b.handle, {A})
    dialling = client_context(files[A].certificate, files[A].key, plane.certificate)
    dialler = asyncio.create_task(
        dial_forever(B, "127.0.0.1", listener.port, lambda: dialling, ChannelKind.REQUESTS, at_a.handle)
    )
    try:
        await until(lambda: at_a.is_connected(B) and at_b.is_connected(A))
        yield at_a, at_b
    finally:
        dialler.cancel()
        listener.close()
        await asyncio.gather(dialler, return_exceptions=True)


async def reversed_(peer, body):
    return peer.encode() + body[::-1]


async def test_both_ask_over_one_connection_and_answers_overtake_each_other(tmp_path):
    async with connected(tmp_path) as (at_a, at_b):
        slow = asyncio.Event()

        async def wait(_, body):
            await slow.wait()
            return body

        at_b.serve("wait", wait)
        at_b.serve("turn", reversed_)
        at_a.serve("turn", reversed_)
        waiting = asyncio.create_task(at_a.ask(B, "wait", b"late", 30.0))
        assert await at_a.ask(B, "turn", b"abc", 30.0) == b"kme-acba"
        assert await at_b.ask(A, "turn", b"", 30.0) == b"kme-b"
        assert await at_a.ask(B, "turn", bytes(BODY_BYTES_MAX - 5), 30.0) == b"kme-a" + bytes(BODY_BYTES_MAX - 5)
        assert not waiting.done()
        slow.set()
        assert await waiting == b"late"


async def test_a_refusal_carries_code_and_message(tmp_path):
    async with connected(tmp_path) as (at_a, at_b):

        async def refuse(_, __):
            raise Rejected("no such thing", code="test.no_such_thing")

        async def break_(_, __):
            raise KeyError("secret text")

        at_b.serve("refuse", refuse)
        at_b.serve("break", break_)
        with pytest.raises(PeerRefused, match="no such thing") as refused:
            await at_a.ask(B, "refuse", b"", 30.0)
        assert refused.value.code == "peer.refused.test.no_such_thing"
        with pytest.raises(PeerRefused) as broken:
            await at_a.ask(B, "break", b"", 30.0)
        assert "secret" not in str(broken.value)
        with pytest.raises(PeerRefused, match="nothing is known"):
            await at_a.ask(B, "nothing", b"", 30.0)


async def test_no_answer_in_time_and_an_answer_after_that(tmp_path):
    async with connected(tmp_path) as (at_a, at_b):
        go = asyncio.Event()

        async def wait(_, body):
            await go.wait()
            return body

        at_b.serve("wait", wait)
        at_b.serve("turn", reversed_)
        with pytest.raises(Unavailable) as unanswered:
            await at_a.ask(B, "wait", b"", 0.05)
        assert unanswered.value.code == "peer.no_answer"
        go.set()
        assert await at_a.ask(B, "turn", b"x", 30.0) == b"kme-ax"


async def test_a_lost_connection_ends_the_waiting_and_comes_back(tmp_path):
    async with connected(tmp_path) as (at_a, at_b):
        asked = asyncio.Event()

        async def hang(_, __):
            asked.set()
            await asyncio.Event().wait()
            return b""

        at_b.serve("hang", hang)
        at_b.serve("turn", reversed_)
        waiting = asyncio.create_task(at_a.ask(B, "hang", b"", 60.0))
        await asked.wait()
        at_b._lines[A].channel.close()
        with pytest.raises(Unavailable) as lost:
            await waiting
        assert lost.value.code == "peer.not_connected"
        await until(lambda: at_a.is_connected(B) and at_b.is_connected(A))
        assert await at_a.ask(B, "turn", b"x", 30.0) == b"kme-ax"


async def test_nobody_floods_the_other(tmp_path):
    async with connected(tmp_path) as (at_a, at_b):

        async def hang(_, __):
            await asyncio.Event().wait()
            return b""

        at_b.serve("hang", hang)
        waiting = [asyncio.create_task(at_a.ask(B, "hang", b"", 60.0)) for _ in range(256)]
        await until(lambda: len(at_b._lines[A].tasks) == 256)
        with pytest.raises(Unavailable) as busy:
            await at_a.ask(B, "hang", b"", 60.0)
        assert busy.value.code == "peer.busy"
        # A peer that does not count is cut off; so are its questions.
        del at_a._lines[B].waiting[1]
        waiting.append(asyncio.create_task(at_a.ask(B, "hang", b"", 60.0)))
        for task in waiting[1:]:
            with pytest.raises(Unavailable):
                await task
        waiting[0].cancel()
        await until(lambda: not at_b._lines[A].tasks)


async def test_unknown_peers_and_peers_that_are_away_cannot_be_asked():
    lines = PeerRequests({A})
    for peer in (A, B):
        with pytest.raises(Unavailable) as away:
            await lines.ask(peer, "turn", b"", 1.0)
        assert away.value.code == "peer.not_connected"
