"""A KME that hangs must not hold up keys for others, and its open questions are counted until they end."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from shosoin.adapters.tls import client_context, server_context
from shosoin.base import KmeId, SaeId, Unavailable
from shosoin.keys.errors import StreamNotReady
from shosoin.services.kme_requests import PeerRequests
from shosoin.services.peer_channel import ChannelKind, dial_forever, listen
from shosoin.services.peer_readiness import OPEN_MAX, PeerReadiness
from tests.services.test_multicast import drawn, pair, served  # noqa: F401  # pair is a fixture
from tests.support.kme import until
from tests.support.pki import TestAuthority

A, B, C = KmeId("kme-a"), KmeId("kme-b"), KmeId("kme-c")


@asynccontextmanager
async def two_peers(tmp_path):
    """A's questions to B and C over TLS, and what each of them serves."""
    plane = TestAuthority(tmp_path / "plane", "kme plane")
    files = {name: plane.issue("kme", name) for name in (A, B, C)}
    dialling = client_context(files[A].certificate, files[A].key, plane.certificate)
    asking, serving = PeerRequests({B, C}), {peer: PeerRequests({A}) for peer in (B, C)}
    listeners, dialling_tasks = [], []
    try:
        for peer, requests in serving.items():
            context = server_context(files[peer].certificate, files[peer].key, plane.certificate)
            listener = await listen("127.0.0.1", 0, lambda context=context: context, requests.handle, {A})
            listeners.append(listener)
            dial = dial_forever(peer, "127.0.0.1", listener.port, lambda: dialling, ChannelKind.REQUESTS, asking.handle)
            dialling_tasks.append(asyncio.create_task(dial))
        await until(lambda: asking.is_connected(B) and asking.is_connected(C))
        yield asking, serving
    finally:
        for task in dialling_tasks:
            task.cancel()
        for listener in listeners:
            listener.close()
        await asyncio.gather(*dialling_tasks, return_exceptions=True)


async def answers(_, __):
    return b"ready"


async def test_requests_for_a_kme_that_hangs_leave_room_at_the_others(tmp_path):
    async with two_peers(tmp_path) as (asking, serving):
        go = asyncio.Event()

        async def hangs(_, __):
            await go.wait()
            return b"ready"

        serving[B].serve("ready", answers)
        serving[C].serve("ready", hangs)
        readiness = PeerReadiness(asking, "ready", asyncio.get_running_loop().time, 60.0)

        async def both():
            async with readiness.of([B, C]):
                pass

        hostile = [asyncio.create_task(both()) for _ in range(2 * OPEN_MAX)]
        await until(lambda: C in readiness._probing and B not in readiness._probing)
        try:
            async with asyncio.timeout(10.0), readiness.of([B]):
                assert not any(task.done() for task in hostile)
        finally:
            go.set()
            await asyncio.gather(*hostile, return_exceptions=True)


async def test_a_question_is_counted_until_it_ends_though_another_peer_refused(pair, monkeypatch):  # noqa: F811
    """Else whoever has one KME refuse drains the stream of the other that hangs, as often as it likes."""
    async with served(pair) as (processes, raws):
        await drawn(raws)
        multicast, hung = processes[A]._multicast, asyncio.Event()
        monkeypatch.setattr(multicast._peers, "_timeout_s", 1.0)
        send = multicast._send

        async def hangs(*_):
            hung.set()
            await asyncio.Event().wait()

        def refused_by_c(peer, *rest):
            if peer == C:
                yield hung.wait
                raise StreamNotReady("too many multicast keys await fetching")
            yield from send(peer, *rest)

        do = multicast._do
        monkeypatch.setattr(multicast, "_do", lambda effect, room: effect() if callable(effect) else do(effect, room))
        monkeypatch.setattr(multicast, "_send", refused_by_c)
        processes[B].links.requests.serve("multicast/copy", hangs)
        by_kme = {B: [SaeId("sae-b1")], C: [SaeId("sae-c1")]}
        keys = [("6d1a0c8e-0000-4000-8000-000000000000", bytes(32))]
        with pytest.raises(Unavailable):
            await multicast._carry_out(
                multicast._send_all(SaeId("sae-a1"), by_kme, keys, multicast._facts([SaeId("sae-b1")]))
            )
        assert not multicast._requests._lines[B].waiting
