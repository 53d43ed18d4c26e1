"""REVIEW: each test states a promise of the stores, services and adapters that does not hold yet."""

import asyncio
import contextlib
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from shosoin.adapters.kme_client import _error, _facts
from shosoin.adapters.stream_store import FileStreamStore
from shosoin.adapters.tls import client_context, server_context
from shosoin.base import PeerFault
from shosoin.base.ports import Event
from shosoin.services.json_log import LoggedEvents
from shosoin.services.kme import KmeProcess
from shosoin.services.kme_config import load_kme_config
from shosoin.services.link_driver import LinkDriver
from shosoin.services.sources.simulated import SimulatedDevices
from tests.services.test_node import directory, edge_of, head
from tests.support.kme import KmePair
from tests.support.pki import TestAuthority

__all__ = ["directory"]  # the fixture


# 1. One caller takes what all share.


@pytest.mark.parametrize("who", ["owner", "stranger"])
async def test_e01_one_caller_cannot_take_all_memory_for_request_bodies(directory, who):
    """Announced and not sent: the budget of all callers is gone for ``body_s``, also to a stranger who owns nothing."""
    async with edge_of(directory, body_bytes=1000, bodies_bytes=4000, body_s=20.0) as served:
        context = client_context(directory / f"{who}.crt", directory / f"{who}.key", directory / "node-ca.crt")
        async with contextlib.AsyncExitStack() as stack:
            held = []
            for _ in range(4):
                _, writer = await asyncio.open_connection(
                    "127.0.0.1", served.port, ssl=context, server_hostname="node-a"
                )
                held.append(writer)  # a writer that nothing refers to ends its connection
                stack.callback(writer.transport.abort)
                writer.write(head("/v1/exchange", 1000))
            async with asyncio.timeout(10):
                while served.edge.bodies.held_bytes < 1000:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.2)
            other = "stranger" if who == "owner" else "owner"
            assert await served.ask(b"abc", name=other)


async def test_e02_one_sae_cannot_take_all_connections_of_a_kme(tmp_path):
    pair = KmePair(tmp_path, limits={"max_connections": 4})
    files = pair.saes["sae-a1"]
    context = client_context(files.certificate, files.key, pair.sae_plane.certificate)
    async with pair.running("kme-a"), contextlib.AsyncExitStack() as stack:
        held = []
        for _ in range(4):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", pair.sae_port["kme-a"], ssl=context, server_hostname="kme-a"
            )
            held.append(writer)
            stack.callback(writer.transport.abort)
        await asyncio.sleep(0.1)
        async with pair.client("sae-a2", timeout_s=5.0) as other:
            assert (await other.status("sae-b1")).source_kme_id == "kme-a"


# 2. One peer KME reaches beyond its own pair.


def test_e03_one_peers_alarms_do_not_hide_another_pairs_alarm(caplog):
    events = LoggedEvents()
    for _ in range(60):
        events.emit(Event("keys.restored_copy", "alarm", {"peer": "evil"}))
    events.emit(Event("keys.restored_copy", "alarm", {"peer": "victim"}))
    assert any(getattr(record, "fields", {}).get("peer") == "victim" for record in caplog.records)


class FakeChannel:
    """A channel whose other end reads nothing and says nothing."""

    peer = "kme-b"
    kind = "fake"

    def __init__(self):
        self.closed = asyncio.Event()

    async def receive(self):
        await self.closed.wait()
        raise PeerFault("closed")

    async def send(self, *parts):
        await self.closed.wait()

    def close(self):
        self.closed.set()


async def test_e04_a_new_quantum_channel_ends_the_old_one():
    """Else a peer opens as many as it likes, and ``transmit`` waits on a dead one beside a live one."""
    pair = SimpleNamespace(incoming=SimpleNamespace(forget_bits=lambda: None))
    devices = SimulatedDevices(SimpleNamespace(pair=pair), None, None, None, max_stock_bits=0)
    old, new = FakeChannel(), FakeChannel()
    tasks = [asyncio.create_task(devices.handle(old))]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(devices.handle(new)))
    await asyncio.sleep(0)
    closed = old.closed.is_set()
    old.close()
    new.close()
    await asyncio.gather(*tasks)
    assert closed


async def test_e05_a_peer_that_reads_nothing_does_not_keep_the_pair_from_a_new_channel():
    """A partition leaves unread data: keepalive does not count then, and TCP gives up after a quarter of an hour."""
    attached = []

    class Pair:
        peer = "kme-b"
        is_connected = False

        def connected(self):
            attached.append(1)
            from shosoin.keys.store import Send

            yield Send(SimpleNamespace(type="hello"))

        def disconnected(self):
            pass

    import shosoin.services.link_driver as module

    encode, module.encode_message = module.encode_message, lambda _: b"x"
    driver = LinkDriver(Pair(), None, SimpleNamespace(now_s=lambda: 0.0), None)
    work = asyncio.create_task(driver._work())
    old, new = FakeChannel(), FakeChannel()
    tasks = [asyncio.create_task(driver.handle_classical(channel)) for channel in (old, new)]
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while len(attached) < 2:
                    await asyncio.sleep(0.01)
        found = len(attached)
    finally:
        old.close()
        new.close()
        await asyncio.gather(*tasks)
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        module.encode_message = encode
    assert found == 2


# 3. Stores.


def test_e06_a_block_that_did_not_fit_on_the_disk_is_not_taken_for_written(tmp_path):
    """A raw ``write`` may be short without an error, as at the edge of a full disk."""
    code = (
        "import resource, signal, sys, pathlib\n"
        "from shosoin.adapters.stream_store import FileStreamStore\n"
        "from shosoin.keys.errors import StreamRefused\n"
        "from shosoin.keys.store import Batch\n"
        "store = FileStreamStore(pathlib.Path(sys.argv[1]), bytes(32))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    store.commit(Batch(blocks={'out-000000000001': bytes(1 << 17)}))\n"
        "except StreamRefused:\n"
        "    sys.exit(0)\n"
        "sys.exit(1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "pair")], timeout=60, check=False)
    assert done.returncode == 0, "a truncated block was called durable"


def test_e07_a_new_pair_directory_is_durable_in_its_parents(tmp_path, monkeypatch):
    """Else a power failure can take the whole pair away, and it starts anew from the pair secret."""
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real(fd))[1]
    )
    store = FileStreamStore(tmp_path / "links" / "kme-b", bytes(32))
    store.close()
    assert str(tmp_path / "links") in synced


async def test_e08_one_unusable_link_directory_does_not_stop_the_whole_kme(tmp_path):
    pair = KmePair(tmp_path)
    place = pair.directory("kme-a") / "links"
    place.mkdir(parents=True)
    (place / "kme-b").write_text("not a directory")
    process = KmeProcess(load_kme_config(pair.config("kme-a")))
    async with process:
        assert process.link_states()["kme-b"]["refused"]


# 4. TLS.


def test_e09_a_certificate_is_checked_on_every_connection_also_with_tls_1_2(tmp_path):
    authority = TestAuthority(tmp_path, "plane")
    kme, sae = authority.issue("kme", "kme-a"), authority.issue("sae", "sae-a1")
    server = server_context(kme.certificate, kme.key, authority.certificate, minimum=ssl.TLSVersion.TLSv1_2)
    client = client_context(sae.certificate, sae.key, authority.certificate)
    client.maximum_version = ssl.TLSVersion.TLSv1_2

    def connect(session):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        one = client.wrap_bio(to_client, to_server, server_hostname="kme-a", session=session)
        two = server.wrap_bio(to_server, to_client, server_side=True)
        for _ in range(10):
            for end in (one, two):
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
        return one

    assert not connect(connect(None).session).session_reused


# 5. The KME client and a hostile KME.


def test_e10_a_huge_number_from_a_kme_is_a_peer_fault():
    huge = "1" + "0" * 400
    raw = f'{{"message": "later", "details": [{{"retry_after_s": {huge}}}]}}'.encode()
    assert _error(503, raw).message
    with contextlib.suppress(PeerFault):
        _facts(json.loads(f'{{"shosoin_source": {{"kind": "qkd", "simulated": false, "epsilon": {huge}}}}}'))


@pytest.mark.parametrize("epsilon", ["NaN", "-1.0", "Infinity", "2"])
def test_e11_an_epsilon_that_is_no_probability_is_not_believed(epsilon):
    """A sum of epsilons with NaN in it passes every comparison with a maximum."""
    value = json.loads(f'{{"shosoin_source": {{"kind": "qkd", "simulated": false, "epsilon": {epsilon}}}}}')
    try:
        facts = _facts(value)
    except PeerFault:
        return
    assert facts.epsilon is None or 0.0 <= facts.epsilon <= 1.0
