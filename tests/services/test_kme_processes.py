"""Two KMEs as processes: killed at any moment, and put back to old copies of their disks."""

import asyncio
import json
import random
import shutil
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest

from shosoin.base import Denied, PeerFault, Rejected, Unavailable
from tests.support.kme import SAES, KmePair, ServerProcess, until, until_stock

pytestmark = pytest.mark.processes
DIRECTIONS = (("sae-a1", "sae-b1"), ("sae-b1", "sae-a1"), ("sae-a2", "sae-b2"))


class Ledger:
    """Everything the clients were ever given."""

    def __init__(self):
        self.drawn: dict[str, bytes] = {}
        self.fetched: dict[str, bytes] = {}
        self.granules: set[bytes] = set()
        self.open: list[tuple[str, str, str]] = []

    def draw(self, master, slave, keys):
        for key in keys:
            bits = key.material.take()
            assert key.key_id not in self.drawn, "a key_ID came twice"
            for start in range(0, len(bits), 32):
                granule = bits[start : start + 32]
                assert granule not in self.granules, "key bits came twice"
                self.granules.add(granule)
            self.drawn[key.key_id] = bits
            self.open.append((master, slave, key.key_id))

    def fetch(self, keys):
        for key in keys:
            assert key.key_id not in self.fetched, "a key was fetched twice"
            bits = key.material.take()
            # A master may have lost the answer that carried the key; if it came, both ends agree.
            assert self.drawn.get(key.key_id, bits) == bits, "the ends gave different bits for one key_ID"
            self.fetched[key.key_id] = bits


async def draw_for_ever(clients, ledger, random_number, master, slave):
    while True:
        number, size = random_number.choice([(1, 256), (3, 512), (2, 8192)])
        try:
            keys = await clients[master].enc_keys(slave, number=number, size_bits=size)
        except (Unavailable, PeerFault):
            await asyncio.sleep(0.02)
        else:
            ledger.draw(master, slave, keys)


async def fetch_for_ever(clients, ledger, random_number):
    while True:
        await asyncio.sleep(0)
        if not ledger.open:
            await asyncio.sleep(0.01)
            continue
        master, slave, key_id = ledger.open.pop(random_number.randrange(len(ledger.open)))
        try:
            ledger.fetch(await clients[slave].dec_keys(master, [key_id]))
        except (Unavailable, PeerFault):
            if random_number.random() < 0.5:
                ledger.open.append((master, slave, key_id))
            await asyncio.sleep(0.02)
        except Rejected:
            pass


async def fetch_everything_again(clients, ledger):
    """Ask once more for all that was ever fetched: each must be refused."""
    for key_id in list(ledger.fetched):
        for master, slave in DIRECTIONS:
            with pytest.raises((Rejected, Denied)):
                await patiently(lambda: clients[slave].dec_keys(master, [key_id]))  # noqa: B023  # awaited at once


async def patiently(ask, *, timeout_s=30.0):
    """Ask until the KME can tell."""
    async with asyncio.timeout(timeout_s):
        while True:
            try:
                return await ask()
            except Unavailable:
                await asyncio.sleep(0.1)


async def works(clients, ledger):
    for master, slave in DIRECTIONS:
        # Stock in both directions means that both ends have opened the pair since they started.
        await until_stock(clients[slave], master, 4)
        await until_stock(clients[master], slave, 4)
        keys = await clients[master].enc_keys(slave, number=2, size_bits=256)
        ids = [key.key_id for key in keys]
        ledger.draw(master, slave, keys)
        ledger.fetch(await clients[slave].dec_keys(master, ids))


async def open_clients(stack, pair):
    return {sae: await stack.enter_async_context(pair.client(sae, timeout_s=10)) for sae in SAES}


@pytest.mark.slow
async def test_kill_9_at_random_moments_reuses_nothing(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 23, speedup=20.0, limits={"lease_bytes": 8192})
    random_number = random.Random(20)
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        for server in servers.values():
            stack.push_async_callback(server.kill)
            await server.start()
        clients = await open_clients(stack, pair)
        load = [
            *(asyncio.create_task(draw_for_ever(clients, ledger, random_number, *pair)) for pair in DIRECTIONS),
            *(asyncio.create_task(fetch_for_ever(clients, ledger, random_number)) for _ in range(3)),
        ]
        for _ in range(20):
            drawn = len(ledger.drawn) + random_number.randrange(60)
            await until(lambda: any(task.done() for task in load) or len(ledger.drawn) >= drawn, timeout_s=60)  # noqa: B023
            victims = random_number.choice([["kme-a"], ["kme-b"], ["kme-a", "kme-b"]])
            for victim in victims:
                await servers[victim].kill()
            for victim in victims:
                await servers[victim].start()
        for task in load:
            task.cancel()
        for result in await asyncio.gather(*load, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result
        await works(clients, ledger)
        await fetch_everything_again(clients, ledger)
        assert len(ledger.fetched) > 50


def block_names(pair, kme):
    return {path.name for path in pair.directory(kme).glob("links/*/blocks/*") if not path.name.endswith(".part")}


def restored_copies_named_by(pair, kme):
    lines = (pair.config(kme).parent / "log").read_text().splitlines()
    events = (json.loads(line) for line in lines if line.startswith("{"))
    return {event["restored"] for event in events if event["event"] == "keys.restored_copy"}


def copy_of(directory, place):
    shutil.copytree(directory, place, ignore=shutil.ignore_patterns("*.part", "links.json"))


async def under_way(clients):
    """Draw a key in each direction that nobody fetches yet."""
    return [
        (master, slave, (await clients[master].enc_keys(slave, number=1, size_bits=256))[0].key_id)
        for master, slave in DIRECTIONS
    ]


@pytest.mark.parametrize("victim", ["kme-a", "kme-b"])
@pytest.mark.parametrize("copied", ["while running", "between two runs", "before the first block"])
async def test_an_old_copy_of_the_disk_is_named_burned_at_both_ends_and_reuses_nothing(tmp_path, victim, copied):
    pair = KmePair(tmp_path, stock_bits=1 << 18, speedup=20.0, limits={"lease_bytes": 8192})
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    survivor = "kme-b" if victim == "kme-a" else "kme-a"
    directory, copy = pair.directory(victim), tmp_path / "copy"
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        for server in servers.values():
            stack.push_async_callback(server.kill)
        clients = await open_clients(stack, pair)
        await servers[victim].start()
        if copied == "before the first block":
            copy_of(directory, copy)
        await servers[survivor].start()
        await works(clients, ledger)
        if copied == "while running":
            copy_of(directory, copy)
            known = block_names(pair, survivor)  # after the copy, which takes time
            while not block_names(pair, survivor) - known:  # the copy must lack something, or it is as good as new
                with suppress(Unavailable):
                    ledger.draw(
                        "sae-a1", "sae-b1", await clients["sae-a1"].enc_keys("sae-b1", number=128, size_bits=256)
                    )
        if copied == "between two runs":
            await servers[victim].stop()
            copy_of(directory, copy)
            await servers[victim].start()
        for _ in range(3):
            await works(clients, ledger)
        lost = await under_way(clients)
        await servers[victim].kill()
        shutil.rmtree(directory)
        shutil.copytree(copy, directory)
        old = {kme: block_names(pair, kme) for kme in servers}
        await servers[victim].start()
        for _ in range(3):
            await works(clients, ledger)
        for kme in servers:
            assert restored_copies_named_by(pair, kme) == {victim}
            assert not old[kme] & block_names(pair, kme), "a block of before is still there"
        for master, slave, key_id in lost:
            with pytest.raises(Rejected, match="not found"):
                await clients[slave].dec_keys(master, [key_id])
        await fetch_everything_again(clients, ledger)


async def test_a_lost_state_directory_opens_again_from_the_pair_secret(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 17, speedup=20.0)
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        for server in servers.values():
            stack.push_async_callback(server.kill)
            await server.start()
        clients = await open_clients(stack, pair)
        await works(clients, ledger)
        await servers["kme-b"].kill()
        shutil.rmtree(pair.directory("kme-b"))
        await servers["kme-b"].start()
        await works(clients, ledger)
        await fetch_everything_again(clients, ledger)


async def test_a_clean_restart_keeps_keys_under_way_and_a_kill_burns_them(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 18)
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    async with AsyncExitStack() as stack:
        for server in servers.values():
            stack.push_async_callback(server.kill)
            await server.start()
        clients: dict[str, Any] = await open_clients(stack, pair)
        a, b = clients["sae-a1"], clients["sae-b1"]
        await until_stock(a, "sae-b1", 8)
        kept, gone = await a.enc_keys("sae-b1", number=2, size_bits=256)
        await servers["kme-b"].stop()
        await servers["kme-b"].start()
        await until_stock(b, "sae-a1", 1)
        (fetched,) = await b.dec_keys("sae-a1", [kept.key_id])
        assert fetched.material == kept.material
        await servers["kme-b"].kill()
        await servers["kme-b"].start()
        await until_stock(b, "sae-a1", 1)
        with pytest.raises(Rejected, match="not found"):
            await b.dec_keys("sae-a1", [gone.key_id])


async def test_a_missing_journal_beside_blocks_refuses_the_stream(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 17)
    a: Any
    async with pair.running(), pair.client("sae-a1") as a:
        await until_stock(a, "sae-b1", 8)
    for journal in pair.directory("kme-a").glob("links/*/journal.sqlite*"):
        journal.unlink()
    async with pair.running() as processes, pair.client("sae-a1") as a:
        assert processes["kme-a"].link_states()["kme-b"]["refused"] is True
        with pytest.raises(Unavailable):
            await a.enc_keys("sae-b1", number=1, size_bits=256)


async def test_consumed_bits_are_overwritten_on_both_disks(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 17)
    a: Any
    b: Any
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 8)
        count = (await a.status("sae-b1")).stored_key_count
        before = _block_bytes(pair)
        while count > 0:
            keys = await a.enc_keys("sae-b1", number=min(count, 128), size_bits=256)
            await b.dec_keys("sae-a1", [key.key_id for key in keys])
            count -= len(keys)
    after = _block_bytes(pair)
    drawn = {(kme, name) for kme, name in before if name.startswith("out" if kme == "kme-a" else "in")}
    assert {kme for kme, _ in drawn} == {"kme-a", "kme-b"}
    for name in drawn:
        content, left = before[name], after.get(name, b"")
        assert not any(content[i : i + 32] in left for i in range(32, len(content) - 32, 32))


def _block_bytes(pair):
    return {
        (kme, path.name): path.read_bytes()
        for kme in ("kme-a", "kme-b")
        for path in pair.directory(kme).glob("links/*/blocks/*")
    }
