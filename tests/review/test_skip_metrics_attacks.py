"""What a hostile SAE, a client that leaves, a dead disk and a mistyped configuration do to SKIP, metrics and health."""

import asyncio
import json
import os
import resource
import signal
import socket
import ssl
import uuid
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from shosoin.adapters.tls import client_context
from shosoin.base import Rejected, SaeId, Unavailable
from shosoin.keys.quota import Quota
from shosoin.services import kme as kme_service
from shosoin.services import link_driver
from shosoin.services.kme_config import load_kme_config
from shosoin.services.kme_links import KmeLinks
from tests.review.test_kme_attacks_review import ODD
from tests.services.test_skip import Encryptor
from tests.support.kme import KmePair, ServerProcess, until, until_stock
from tests.support.operations import Scraper, with_operations

pytestmark = pytest.mark.processes


class Silent:
    """TLS by hand over a plain connection: it ends nothing, and answers no `close_notify`."""

    def __init__(self, pair, files, port):
        context = client_context(files.certificate, files.key, pair.sae_plane.certificate)
        self.inward, self.outward = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.inward, self.outward, server_hostname="kme-a")
        self.port = port

    async def connect(self):
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        while True:
            try:
                self.tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.writer.write(self.outward.read())
                self.inward.write(await self.reader.read(1 << 16))
        self.writer.write(self.outward.read())
        return self

    async def __aenter__(self):
        return await self.connect()

    async def __aexit__(self, *_):
        self.writer.transport.abort()


async def crowd(stack, pair, files, number):
    """Open that many connections that say nothing."""
    for _ in range(number):
        with suppress(ConnectionError, ssl.SSLError):
            await stack.enter_async_context(Silent(pair, files, pair.skip_port["kme-a"]))


@asynccontextmanager
async def small_kme(tmp_path, **limits):
    pair = KmePair(tmp_path, stock_bits=1 << 18, skip_systems={}, limits=limits)
    async with pair.running("kme-a") as processes:
        yield pair, processes["kme-a"]


# 1. Connections.


async def test_refused_connections_of_one_sae_leave_the_others_their_half(tmp_path):
    async with small_kme(tmp_path, max_connections=8) as (pair, process), AsyncExitStack() as stack:
        await crowd(stack, pair, pair.saes["sae-a1"], 12)
        service = process.services["skip"]
        await until(lambda: service.tally.connections_refused + service.guard.refused == 8)
        assert service.guard.open <= 4
        async with Encryptor(pair, "sae-a2") as other:
            assert (await other.ask("/capabilities"))[0] == 200


async def test_a_certificate_that_names_no_sae_does_not_get_all_connections(tmp_path):
    async with small_kme(tmp_path, max_connections=8) as (pair, process), AsyncExitStack() as stack:
        await crowd(stack, pair, pair.sae_plane.issue("kme", "kme-b"), 12)
        service = process.services["skip"]
        await until(lambda: service.tally.connections_refused + service.guard.refused + service.guard.open == 12)
        async with Encryptor(pair, "sae-a2") as other:
            assert (await other.ask("/capabilities"))[0] == 200


async def test_connections_of_saes_end_with_the_kme(tmp_path):
    async with AsyncExitStack() as stack:
        pair = KmePair(tmp_path, skip_systems={})
        async with pair.running("kme-a") as processes:
            process = processes["kme-a"]
            router = await stack.enter_async_context(Encryptor(pair))
            assert (await router.ask("/capabilities"))[0] == 200
            silent = await stack.enter_async_context(Silent(pair, pair.saes["sae-a1"], pair.sae_port["kme-a"]))
            await until(lambda: process.services["etsi014"].guard.open == 1)
        assert {name: service.guard.open for name, service in process.services.items()} == {"etsi014": 0, "skip": 0}
        assert await silent.reader.read() is not None  # the end, not for ever


async def test_whoever_only_connects_does_not_use_up_the_files_of_a_kme(tmp_path):
    """The usual soft limit on open files is as low as the bound on connections, and a link without files is lost."""
    pair = KmePair(tmp_path, stock_bits=1 << 18, speedup=50.0, skip_systems={})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    servers = [ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
        try:
            for server in servers:
                await server.start()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        open_files = Path(f"/proc/{servers[0].process.pid}/fd")
        async with pair.client("sae-a1") as client, AsyncExitStack() as stack:
            await until_stock(client, "sae-b1", 64)
            for _ in range(300):
                stack.enter_context(socket.create_connection(("127.0.0.1", pair.skip_port["kme-a"])))
            await until(lambda: len(list(open_files.iterdir())) > 200)  # no more than 256 shake hands at once
            assert len(await client.enc_keys(SaeId("sae-b1"), number=128, size_bits=256)) == 128
            states = pair.directory("kme-a") / "links.json"
            await until(lambda: json.loads(states.read_text())["kme-b"]["connected"])
    finally:
        for server in servers:
            await server.kill()


# 2. Whose key it is.


async def test_whether_a_key_of_another_exists_is_not_told_by_lack_of_memory(tmp_path):
    """Half of what is left of 2 x 128 KiB is too little for a key of another, and enough to say that there is none."""
    limits = {"max_answers_bytes": 1 << 21, "max_request_bytes": 1 << 18, "max_key_size_bits": 1 << 20}
    async with small_kme(tmp_path, **limits) as (pair, process), AsyncExitStack() as stack:
        a1, a2 = [await stack.enter_async_context(Encryptor(pair, sae)) for sae in ("sae-a1", "sae-a2")]
        key = await a1.new("sae-a1", f"&size={1 << 20}")
        held = stack.enter_context(process.services["skip"].memory["answers"].claim())
        held.take("sae-a2", (1 << 20) - (1 << 16))
        refused = await a2.fetch(key["keyId"], "sae-a1")
        assert refused == await a2.fetch(uuid.uuid4().hex, "sae-a1")
        assert refused[0] == 400


async def test_whether_a_key_of_another_exists_is_not_told_by_the_quota_of_guesses(tmp_path, monkeypatch):
    """With one guess left, what costs a guess can be told from what costs none."""

    def guesses(clock, *, rate_bps, burst_bits):
        few = (1e-6, 1.0) if rate_bps == kme_service._GUESSES_PER_S else (rate_bps, burst_bits)
        return Quota(clock, rate_bps=few[0], burst_bits=few[1])

    monkeypatch.setattr(kme_service, "Quota", guesses)
    pair = KmePair(tmp_path, stock_bits=1 << 18, skip_systems={})

    async def second_answer(stack, key_id, sae):
        other = await stack.enter_async_context(Encryptor(pair, sae, "kme-b"))
        assert (await other.fetch(key_id))[0] == 400
        return (await other.fetch(uuid.uuid4().hex))[0]

    async with pair.running(), AsyncExitStack() as stack, pair.client("sae-a1") as client:
        await until_stock(client, "sae-b1", 8)
        a1 = await stack.enter_async_context(Encryptor(pair))
        of_b1 = await a1.new("sae-b1")
        found = await second_answer(stack, of_b1["keyId"], "sae-b2")
        assert found == await second_answer(stack, uuid.uuid4().hex, "sae-b1") == 503


# 3. A client that leaves.


async def test_nothing_is_drawn_for_a_client_that_has_left(tmp_path, monkeypatch):
    pair = KmePair(tmp_path, stock_bits=1 << 18, skip_systems={}, limits={"lease_bytes": 64, "lease_timeout_s": 60})
    waits, may = asyncio.Event(), asyncio.Event()
    wait_lease = KmeLinks.wait_lease

    async def later(self, peer, granules):
        waits.set()
        await may.wait()
        await wait_lease(self, peer, granules)

    async with pair.running() as processes, pair.client("sae-a1") as client:
        await until_stock(client, "sae-b1", 8)
        kme, service = processes["kme-a"].kme, processes["kme-a"].services["skip"]
        monkeypatch.setattr(KmeLinks, "wait_lease", later)
        async with Silent(pair, pair.saes["sae-a1"], pair.skip_port["kme-a"]) as router:
            router.tls.write(b"GET /key?remoteSystemID=sae-b1&size=65536 HTTP/1.1\r\nHost: x\r\n\r\n")
            router.writer.write(router.outward.read())
            await waits.wait()
            assert service.memory["answers"].held_bytes > 0
        await until(lambda: service.guard.open == 0)
        may.set()
        await until(lambda: service.memory["answers"].held_bytes == 0)
        assert kme.drawn["sae-a1", "sae-b1"].keys == 0


async def test_a_key_asked_for_by_both_interfaces_at_once_is_given_once(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 18, skip_systems={})

    async def by_etsi014(client, key_id):
        with suppress(Rejected):
            return [key.material.take().hex() for key in await client.dec_keys("sae-a1", [str(uuid.UUID(key_id))])]
        return []

    async def by_skip(router, key_id):
        status, body = await router.fetch(key_id)
        return [body["key"]] if status == 200 else []

    async with pair.running(), AsyncExitStack() as stack:
        client, b1 = [await stack.enter_async_context(pair.client(sae)) for sae in ("sae-a1", "sae-b1")]
        await until_stock(client, "sae-b1", 16)
        a, b = [
            await stack.enter_async_context(Encryptor(pair, *where)) for where in (("sae-a1",), ("sae-b1", "kme-b"))
        ]
        for _ in range(8):
            key = await a.new()
            asked = [ask for _ in range(4) for ask in (by_skip(b, key["keyId"]), by_etsi014(b1, key["keyId"]))]
            assert [one for given in await asyncio.gather(*asked) for one in given] == [key["key"]]


async def test_odd_requests_by_skip_are_refused_with_a_body_and_draw_nothing(tmp_path):
    async with small_kme(tmp_path) as (pair, process):
        for name, raw in ODD.items():
            odd = raw.replace(b"/api/v1/keys/sae-a1/enc_keys", b"/key?remoteSystemID=sae-a1")
            async with Silent(pair, pair.saes["sae-a1"], pair.skip_port["kme-a"]) as client:
                client.tls.write(odd)
                client.writer.write(client.outward.read())
                text = b""
                while b"\r\n\r\n" not in text or not text.endswith(b"}"):
                    async with asyncio.timeout(10):
                        more = await client.reader.read(1 << 16)
                    assert more, name
                    client.inward.write(more)
                    with suppress(ssl.SSLWantReadError):
                        text += client.tls.read(1 << 16)
            assert int(text.split()[1]) in {400, 404, 405}, name
            assert set(json.loads(text.partition(b"\r\n\r\n")[2])) == {"message", "code"}, name
        assert not process.kme.drawn


# 4. Health and its disk.


async def test_a_kme_ends_although_its_disk_does_not_answer_the_probe(tmp_path):
    pair = KmePair(tmp_path)
    with_operations(pair)
    server = ServerProcess(pair.config("kme-a"))
    await server.start()
    try:
        os.mkfifo(pair.directory("kme-a") / "health.probe")  # opening it to write waits for a reader
        port = json.loads((pair.directory("kme-a") / "ready").read_text())["operations_port"]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 503 " in await reader.readline()
        writer.close()
        async with asyncio.timeout(30):
            await server.stop()
    finally:
        await server.kill()


async def test_a_kme_whose_only_peer_has_frozen_is_not_ready(tmp_path, monkeypatch):
    """The kernel of a frozen peer keeps its connections; no key can be drawn all the same."""
    monkeypatch.setattr(link_driver, "_ANSWER_S", 0.1)
    pair = KmePair(tmp_path, stock_bits=1 << 18, limits={"lease_bytes": 64, "lease_timeout_s": 0.2})
    with_operations(pair)
    peer = ServerProcess(pair.config("kme-b"))
    await peer.start()
    try:
        async with (
            pair.running("kme-a") as processes,
            Scraper(processes["kme-a"]) as scraper,
            pair.client("sae-a1") as client,
        ):
            await until_stock(client, "sae-b1", 64)
            peer.process.send_signal(signal.SIGSTOP)
            with pytest.raises(Unavailable):
                await client.enc_keys("sae-b1", number=32, size_bits=256)
            await until(lambda: not processes["kme-a"].link_states()["kme-b"]["connected"])
            assert await scraper.health("ready") == (503, False, ["kme.no_link"], {"kme-b": "down"})
            peer.process.send_signal(signal.SIGCONT)
            await until(lambda: processes["kme-a"].link_states()["kme-b"]["connected"])
            assert await scraper.health("ready") == (200, True, [], {"kme-b": "up"})
    finally:
        peer.process.send_signal(signal.SIGCONT)
        await peer.stop()


# 5. Counters.


async def test_what_is_no_http_is_an_answer_too(tmp_path):
    pair = KmePair(tmp_path, skip_systems={})
    with_operations(pair, "kme-a")
    async with pair.running("kme-a") as processes, Scraper(processes["kme-a"]) as scraper:
        for port in (pair.skip_port["kme-a"], pair.sae_port["kme-a"]):
            async with Silent(pair, pair.saes["sae-a1"], port) as client:
                client.tls.write(b"NONSENSE\r\n\r\n")
                client.writer.write(client.outward.read())
                await client.reader.read(1)
        samples = await scraper.samples()
    for interface in ("skip", "etsi014"):
        assert samples.value("refusals_total", interface=interface) == 1
        assert samples.value("request_seconds_count", interface=interface, method="other", status="400") == 1


# 6. Configuration.


@pytest.mark.parametrize("old", ['[skip]\nhost = "127.0.0.1"\nport = ', '[kme.sae_api]\nhost = "127.0.0.1"\nport = '])
def test_a_port_that_there_is_none_of_is_refused(tmp_path, old):
    pair = KmePair(tmp_path, skip_systems={})
    path = pair.config("kme-a")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, f"{old}7"))
    number = int(path.read_text().partition(f"{old}")[2].partition("\n")[0])
    assert number > 65535
    with pytest.raises(Rejected, match="port"):
        load_kme_config(path)
