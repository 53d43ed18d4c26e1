"""Key streams by ETSI GS QKD 004 while KMEs are killed and others draw from the same stream: no bit comes twice."""

import asyncio
import random
import signal
import uuid
from contextlib import AsyncExitStack, suppress
from dataclasses import replace

import pytest

from shosoin.base import PeerFault, Rejected, Unavailable
from shosoin.keys.stream004 import NEXT_INDEX
from shosoin.keys.wire004 import NO_STREAM, Status
from tests.support.client004 import QOS, Client004
from tests.support.kme import KmePair, ServerProcess, until, until_stock

pytestmark = pytest.mark.processes
LOST = (OSError, EOFError, TimeoutError)


class Ledger:
    """Every bit that an application was given, by side."""

    def __init__(self):
        self.granules: dict[str, dict[bytes, object]] = {"near": {}, "far": {}}
        self.chunks: dict[tuple[str, object], bytes] = {}
        self.fetched = 0

    def given(self, side, name, bits):
        """Note what came to one side under a name; what has no name yet cannot come again under another."""
        for start in range(0, len(bits), 32):
            granule = bytes(bits[start : start + 32])
            assert granule not in self.granules[side], "key bits came twice"
            self.granules[side][granule] = name
            other = self.granules["far" if side == "near" else "near"].get(granule, name)
            assert other == name, f"{name} and {other} have the same bits"
        assert (side, name) not in self.chunks, "a chunk came twice"
        self.chunks[side, name] = bytes(bits)
        other = self.chunks.get(("far" if side == "near" else "near", name))
        assert other is None or other == bytes(bits), "the ends have different bits"
        self.fetched += other is not None


async def serve_streams(pair, ledger, rng, one, other):
    """Open streams between two applications again and again, and take chunks at both ends at random."""
    while True:
        with suppress(*LOST):
            async with Client004(pair, one) as a, Client004(pair, other) as b:
                made = await a.open(other, replace(QOS, max_bps=50_000_000, timeout_ms=200))
                if made.key_stream_id is None or (await b.open(one, ksid=made.key_stream_id)).status:
                    await asyncio.sleep(0.05)
                    continue
                await take_chunks(ledger, rng, made.key_stream_id, a, b)


async def take_chunks(ledger, rng, ksid, a, b):
    ahead = {a: 0, b: 0}
    misses = 0
    while misses < 3:
        client = rng.choice((a, b))
        side = "near" if client is a else "far"
        got = await client.get(ksid, ahead[client] if rng.random() < 0.8 else NEXT_INDEX)
        if got.status == Status.SUCCESS:
            ledger.given(side, (ksid, got.index), got.key)
            ahead[client] = got.index + 1
        elif got.status == Status.NO_QKD_CONNECTION:
            return
        else:
            misses += 1
            ahead[client] += 1


async def draw_by_014(clients, ledger, master, slave):
    """Draw and fetch keys of the same stream by ETSI GS QKD 014 all the while."""
    while True:
        try:
            keys = await clients[master].enc_keys(slave, number=3, size_bits=256)
            for key in keys:
                ledger.given("near", key.key_id, key.material.take())
            for key in await clients[slave].dec_keys(master, [key.key_id for key in keys]):
                ledger.given("far", key.key_id, key.material.take())
        except (Unavailable, PeerFault, Rejected):
            await asyncio.sleep(0.02)


async def test_kill_9_of_either_kme_gives_no_bit_twice(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 23, speedup=20.0, limits={"lease_bytes": 8192}, etsi004={})
    rng = random.Random(4)
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        for server in servers.values():
            stack.push_async_callback(server.kill)
            await server.start()
        saes = ("sae-a1", "sae-b1")
        clients = {sae: await stack.enter_async_context(pair.client(sae, timeout_s=10)) for sae in saes}
        load = [
            asyncio.create_task(serve_streams(pair, ledger, rng, "sae-a1", "sae-b1")),
            asyncio.create_task(serve_streams(pair, ledger, rng, "sae-b1", "sae-a1")),
            asyncio.create_task(draw_by_014(clients, ledger, "sae-a1", "sae-b1")),
        ]
        for victims in (["kme-a"], ["kme-b"], ["kme-a", "kme-b"]):
            both = ledger.fetched + 60
            await until(lambda: any(task.done() for task in load) or ledger.fetched >= both, timeout_s=60)  # noqa: B023
            for victim in victims:
                await servers[victim].kill()
            for victim in victims:
                await servers[victim].start()
        both = ledger.fetched + 60
        await until(lambda: any(task.done() for task in load) or ledger.fetched >= both, timeout_s=60)
        for task in load:
            task.cancel()
        for result in await asyncio.gather(*load, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result


@pytest.mark.parametrize(("victim", "ksid"), [("kme-a", uuid.UUID(int=7)), ("kme-b", NO_STREAM)])
async def test_a_restart_ends_the_streams(tmp_path, victim, ksid):
    pair = KmePair(tmp_path, stock_bits=1 << 20, limits={"lease_bytes": 4096}, etsi004={})
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    async with AsyncExitStack() as stack:
        for server in servers.values():
            stack.push_async_callback(server.kill)
            await server.start()
        await both_ready(pair, stack)
        a, b = await connected(pair, stack)
        joining = asyncio.create_task(a.open("sae-b1", ksid=ksid))
        if ksid == NO_STREAM:
            ksid = (await joining).key_stream_id
        assert (await b.open("sae-a1", ksid=ksid)).status == Status.SUCCESS
        await joining
        key = (await a.get(ksid, 0)).key
        await servers[victim].kill()
        await servers[victim].start()
        await both_ready(pair, stack)
        a, b = await connected(pair, stack)
        assert (await b.get(ksid, 1)).status == Status.NO_QKD_CONNECTION
        joining = asyncio.create_task(b.open("sae-a1", ksid=ksid))
        if victim == "kme-a":  # the home: the stream is gone at both ends
            assert (await a.get(ksid, 1)).status == Status.NO_QKD_CONNECTION
            assert (await a.open("sae-b1", ksid=ksid)).status == Status.SUCCESS
        assert (await joining).status == Status.SUCCESS  # the other one: its application goes on
        fresh = await a.get(ksid, 1)
        assert fresh.status == Status.SUCCESS
        assert fresh.key != key
        assert (await b.get(ksid, 1)).key == fresh.key


async def test_a_frozen_home_costs_few_questions(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 20, limits={"lease_bytes": 4096}, etsi004={})
    home = ServerProcess(pair.config("kme-a"))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(home.kill)
        await home.start()
        kmes = await stack.enter_async_context(pair.running("kme-b"))
        await both_ready(pair, stack)
        a, b = await connected(pair, stack)
        ksid = (await a.open("sae-b1", replace(QOS, timeout_ms=1))).key_stream_id
        assert (await b.open("sae-a1", ksid=ksid)).status == Status.SUCCESS
        process = home.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        waiting = kmes["kme-b"].links.requests._lines["kme-a"].waiting
        for index in range(100):
            assert (await b.get(ksid, index)).status == Status.TIMEOUT
            assert len(waiting) <= 64
        process.send_signal(signal.SIGCONT)
        await until(lambda: not waiting)
        async with asyncio.timeout(30):
            while (got := await b.get(ksid, 7)).status == Status.TIMEOUT:
                await asyncio.sleep(0.05)
        assert (await a.get(ksid, 7)).key == got.key


async def connected(pair, stack):
    return [await stack.enter_async_context(Client004(pair, sae)) for sae in ("sae-a1", "sae-b1")]


async def both_ready(pair, stack):
    """Wait until each KME has keys to draw and has heard of the other."""
    for sae, other in (("sae-a1", "sae-b1"), ("sae-b1", "sae-a1")):
        client = await stack.enter_async_context(pair.client(sae, timeout_s=10))
        await until_stock(client, other, 8)
    async with asyncio.timeout(30):
        while True:
            with suppress(*LOST):
                async with Client004(pair, "sae-b1") as client:
                    answer = await client.open("sae-a1", replace(QOS, timeout_ms=1), uuid.uuid4())
                    if answer.status == Status.TIMEOUT:
                        return
            await asyncio.sleep(0.05)
