"""REVIEW: attacks on the share store and the key manager that were tried; each must stay without effect."""

import asyncio
import contextlib
import dataclasses
import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from shosoin.adapters.share_store_errors import DiskFull, RecordsLost, StorageFailed
from shosoin.adapters.share_store_writer import GroupWriter
from shosoin.base import Unavailable
from shosoin.keys.messages import Announce, Hello, Lease, decode_message, encode_message
from tests.adapters.store_support import content, key, open_store, put, row, stage
from tests.adapters.test_share_store_restored import BIG, WatchedDisk, drained, failing, share_files
from tests.keys.world import World
from tests.review.test_kme_attacks_review import asked, drawn, opened, produce, request
from tests.services.test_node import directory, edge_of, head, pause_reading
from tests.services.test_node_seals import SEAL, site_in
from tests.support.kme import KmePair, until_stock

__all__ = ["directory"]  # the fixture

FAR = 1 << 62


async def with_older_records(root: Path, store, old: bytes):
    """Stop a store and start it with older records; return what it says."""
    await store.close()
    for path in root.glob("records.sqlite*"):
        path.unlink()
    (root / "records.sqlite").write_bytes(old)
    try:
        again = open_store(root)
    except RecordsLost as err:
        return err
    await drained(again)
    await again.close()
    return None


# Where a file lies is evidence only if everything that was acknowledged lies under shares.


async def test_h01_a_share_that_could_not_be_filed_is_filed_before_anybody_counts_on_it(tmp_path):
    """Filing fails once for want of space; the owner repeats the seal, is told that it is there, and commits."""
    root, disk = tmp_path / "store", WatchedDisk()
    store = open_store(root, disk=disk)
    await store.compact_log()
    old = (root / "records.sqlite").read_bytes()
    disk.before = failing("rename", "/shares/", errno.ENOSPC)
    with pytest.raises(DiskFull):
        await put(store, key(), content(BIG))
    recorded = await store.transact(lambda tx: tx.share(key()))
    with pytest.raises(DiskFull):  # still no room: nobody may count on it
        await store.transact(lambda tx: tx.put_share(recorded))
    disk.before = lambda _, __: None
    await store.transact(lambda tx: tx.put_share(recorded))  # pinned, then committed: acknowledged
    before = share_files(root)
    assert isinstance(await with_older_records(root, store, old), RecordsLost)
    assert share_files(root) == before


async def test_h02_a_share_is_filed_even_if_its_staging_area_is_given_up_during_the_commit(tmp_path):
    root = tmp_path / "store"
    store = open_store(root)
    await store.compact_log()
    old = (root / "records.sqlite").read_bytes()
    made = row(key(), BIG, await stage(store, key(), content(BIG)))
    claimed, go_on = threading.Event(), threading.Event()

    def slowly(tx):
        tx.put_share(made)
        claimed.set()
        assert go_on.wait(30)

    putting = asyncio.create_task(store.transact(slowly))
    assert await asyncio.to_thread(claimed.wait, 30)
    await store.discard(key())
    go_on.set()
    await putting
    assert await store.read(made, 0, BIG) == content(BIG)
    before = share_files(root)
    assert isinstance(await with_older_records(root, store, old), RecordsLost)
    assert share_files(root) == before


async def test_h02b_a_start_without_room_to_file_is_told_to_whoever_counts_on_the_share(tmp_path):
    root, disk = tmp_path / "store", WatchedDisk()
    disk.before = failing("rename", "/shares/", errno.ENOSPC)
    store = open_store(root, disk=disk)
    with pytest.raises(DiskFull):
        await put(store, key(), content(BIG))
    await store.close()
    store = open_store(root, disk=disk)
    recorded = await store.transact(lambda tx: tx.share(key()))
    with pytest.raises(DiskFull):
        await store.transact(lambda tx: tx.put_share(recorded))
    disk.before = lambda _, __: None
    await store.transact(lambda tx: tx.put_share(recorded))
    assert list((root / "staging").iterdir()) == []
    await store.close()


async def test_h03_upkeep_files_what_could_not_be_filed(tmp_path):
    root, disk = tmp_path / "store", WatchedDisk()
    store = open_store(root, disk=disk)
    disk.before = failing("rename", "/shares/", errno.ENOSPC)
    with pytest.raises(DiskFull):
        await put(store, key(), content(BIG))
    await store.collect_orphans()  # no room yet
    while store._uploads._filing:
        await asyncio.sleep(0.01)
    disk.before = lambda _, __: None
    await store.collect_orphans()
    async with asyncio.timeout(30):
        while list((root / "staging").iterdir()):
            await asyncio.sleep(0.01)
    assert len(list(root.glob("shares/*/*"))) == 1
    await store.close()


# Names that are none of ours.


@pytest.mark.parametrize("name", ["shares/00/copy..bak", "staging/a..b", "shares/notes.txt"])
async def test_h04_a_foreign_name_stops_neither_the_start_nor_the_eraser(tmp_path, name):
    root = tmp_path / "store"
    store = open_store(root)
    await put(store, key(), content(BIG))
    await store.close()
    (root / name).write_bytes(b"left by an editor")
    store = open_store(root)
    await store.transact(lambda tx: tx.delete_share(key()))
    await drained(store)
    assert [path for path in root.glob("shares/*/*") if path.stat().st_size == BIG] == []
    assert store._eraser._thread.is_alive()
    await store.close()


# Errors of the disk at odd moments.


async def test_h05_a_small_share_whose_growth_failed_can_be_finished_and_its_memory_comes_back(tmp_path):
    disk = WatchedDisk()
    store = open_store(tmp_path / "store", disk=disk, memory_bytes_per_owner=100_000)
    await store.write(key(), 0, content(40_000))
    disk.before = failing("create", "/staging/", errno.EIO)
    with pytest.raises(StorageFailed):
        await store.write(key(), 40_000, content(60_000))
    disk.before = lambda _, __: None
    locator = await store.finish(key(), 40_000)
    made = row(key(), 40_000, locator)
    await store.transact(lambda tx: tx.put_share(made))
    assert await store.read(made, 0, 40_000) == content(40_000)
    assert store._uploads._staging._memory[key().owner] == 0
    await store.close()


async def test_h06_a_staging_area_dropped_after_the_stop_closes_no_file_twice(tmp_path):
    store = open_store(tmp_path / "store")
    await store.write(key(), 0, content(BIG))
    descriptor = store._uploads._staging.get(key()).descriptor
    await store.close()
    with (tmp_path / "other").open("wb") as other:
        os.dup2(other.fileno(), descriptor)  # somebody else's file gets the number
        await store.discard(key())
        os.close(descriptor)  # raises if it is closed already


async def test_h07_a_step_that_comes_while_the_writer_stops_is_answered(tmp_path):
    store = open_store(tmp_path / "store")
    writer: GroupWriter = store._writer
    honest = writer._queue.put

    def late(job):
        """The step has looked whether the writer is closed, and is queued after its end."""
        if job is not None:
            stopping.start()
            stopping.join(1.0)
        honest(job)

    stopping = threading.Thread(target=writer.close)
    others = {name: getattr(writer._queue, name) for name in ("get", "get_nowait", "qsize")}
    writer._queue = SimpleNamespace(put=late, **others)
    async with asyncio.timeout(10):
        with contextlib.suppress(Unavailable):
            assert await writer.run(lambda _: 7) == 7
    stopping.join(10)
    await store.close()


# What whoever breaks TLS, without the pair secret, can say: it may burn bits, but the stream must come back.


@pytest.fixture
def world():
    world = World()
    world.heal()
    return world


def tampered(world, change):
    """Deliver every message of A as ``change`` makes it, then heal."""
    honest = world.send

    def tampering(sender, raw):
        message = decode_message(raw)
        honest(sender, encode_message(change(message) if sender.name == "a" else message))

    world.send = tampering
    produce(world)
    for _ in range(3):
        world.draw(world.ends["a"].pair, 1, 32)
        world.settle()
    world.send = honest
    world.disconnect()
    world.settle()
    world.heal()


def test_h08_a_forged_lease_does_not_move_the_stream_out_of_reach(world):
    produce(world)

    def further(message):
        return dataclasses.replace(message, upto=FAR) if isinstance(message, Lease) else message

    tampered(world, further)
    assert world.ends["b"].pair.incoming._lease < 1 << 32
    assert world.ends["a"].pair.outgoing._next_start < 1 << 32
    assert not [event for event in world.events if event.name == "keys.restored_copy"]
    produce(world)
    assert world.fetch(world.ends["b"].pair, drawn(world))


@pytest.mark.parametrize("field", ["index", "start"])
def test_h09_a_forged_announcement_does_not_move_the_stream_out_of_reach(world, field):
    def further(message):
        return dataclasses.replace(message, **{field: FAR}) if isinstance(message, Announce) else message

    tampered(world, further)
    assert world.ends["a"].pair.outgoing._next_index < 1 << 32
    assert world.ends["a"].pair.outgoing._next_start < 1 << 32
    produce(world)
    assert world.fetch(world.ends["b"].pair, drawn(world))


@pytest.mark.parametrize("speaker", ["a", "b"])
def test_h14_an_old_hello_said_again_burns_bits_at_most(world, speaker):
    said = []
    honest = world.send

    def listening(sender, raw):
        if sender.name == speaker and isinstance(decode_message(raw), Hello):
            said.append(raw)
        honest(sender, raw)

    def repeating(sender, raw):
        honest(sender, said[0] if sender.name == speaker and isinstance(decode_message(raw), Hello) else raw)

    world.disconnect()
    world.settle()
    world.send = listening
    world.heal()
    produce(world)
    key_ids = drawn(world)
    for _ in range(3):
        world.disconnect()
        world.settle()
        world.send = repeating
        world.connect()
        world.settle()
        world.fetch(world.ends["b"].pair, key_ids)  # World.fetch asserts that no key is fetched twice
        world.draw(world.ends["a"].pair, 1, 32)
    world.send = honest
    world.disconnect()
    world.settle()
    world.heal()
    produce(world)
    assert world.fetch(world.ends["b"].pair, drawn(world))


# Seals and answers of a node.


async def test_h10_a_seal_that_begins_while_its_share_is_given_up_leaves_nothing(tmp_path):
    async with site_in(tmp_path / "store") as site:
        await site.stage()
        honest, sealing = site.store.transact_each, []

        async def overtaken(steps):
            """The seal comes after the abort has looked whether one runs, and before nothing can begin any more."""
            site.store.transact_each = honest
            outcomes = await honest(steps)
            sealing.append(asyncio.create_task(site.ask(SEAL)))
            await site.disk.is_reached()
            return outcomes

        site.store.transact_each = overtaken
        with site.disk.stuck():
            giving_up = asyncio.create_task(site.ask({**SEAL, "op": "abort"}))
            await site.disk.is_reached()
        assert await giving_up == [{}]
        await sealing[0]
        (listed,) = await site.ask({"op": "inventory", "limit": 10})
        assert listed["shares"] == []
        await site.is_empty()


async def test_h15_a_seal_of_what_is_not_staged_takes_nothing_of_the_quota(tmp_path):
    """After a restart, which drops what was staged, owners repeat their seals and then put again."""
    async with site_in(tmp_path / "store") as site:
        for number in range(3):
            (told,) = await site.ask({**SEAL, "object": f"{number:032x}", "size": 9_000_000})
            assert told["error"]["code"] == "vault.stage_incomplete"
        await site.stage()
        (sealed,) = await site.ask(SEAL)
        assert "commitment" in sealed
        assert not site.node._operations._quotas._areas
        assert not site.node._operations._quotas._staged.total()


async def test_h11_answers_of_a_node_that_nobody_reads_do_not_pile_up(directory):
    long = [bytes(64 << 20)]  # more than the kernel takes

    async def answer(caller, _):
        return long if caller == "owner-1" else [b"short"]

    async with edge_of(directory, requests=4, requests_per_owner=2) as served:
        served.site.exchange = answer
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                _, writer = await stack.enter_async_context(served.connected())
                pause_reading(writer)
                writer.write(head("/v1/exchange", 3) + b"abc")
            async with asyncio.timeout(20):
                while served.edge.running < 2 or served.edge.bodies.held_bytes:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            with pytest.raises(Unavailable):
                await served.ask(b"abc")
            assert await served.ask(b"abc", name="stranger")
        async with asyncio.timeout(20):
            while served.edge.running:
                await asyncio.sleep(0.01)
        long = [b"short"]
        assert await served.ask(b"abc") == b"short"


# What a client may send to a KME.


@pytest.mark.parametrize(
    "body",
    [
        b'{"key_IDs": [{"key_ID": "\\ud800"}]}',
        b'{"key_IDs": [{"key_ID": "\xef\xbc\x91\xef\xbc\x92345678-1234-8234-8234-123456789012"}]}',
        b'{"key_IDs": [{"key_ID": "{12345678123482348234123456789012}"}]}',
        b'{"key_IDs": [{"key_ID": ""}]}',
        b'{"key_IDs": [{"key_ID": "\\u0000"}]}',
        b'{"number": 1e400}',
        b'{"number": ' + b"9" * 5000 + b"}",
        b'{"size": -0, "number": true}',
        b"[" * 60_000,
    ],
)
@pytest.mark.parametrize("call", ["enc_keys", "dec_keys"])
async def test_h12_odd_bodies_are_400_with_an_error_body(shared_pair, body, call):
    sae = "sae-b1" if call == "enc_keys" or b"number" in body else "sae-a2"
    for peer in (sae, "sae-b1"):
        status, answer = await asked(shared_pair, "sae-a1", f"{peer}/{call}", body)
        if call == "enc_keys" and b"key_IDs" in body:
            assert status in {200, 503}  # a body of unknown members asks for one key
            continue
        assert status == 400, answer
        assert set(answer) == {"message", "details"}


@pytest.fixture
async def shared_pair(tmp_path):
    pair = KmePair(tmp_path)
    async with pair.running("kme-a", "kme-b"), pair.client("sae-a1") as client:
        await until_stock(client, "sae-b1", 1)
        yield pair


async def test_h13_room_comes_back_from_clients_that_leave_while_their_answer_is_made(tmp_path):
    """The connection is cut between the reservation and the answer, over and over."""
    limits = {"max_answers_bytes": 8 << 20, "max_request_bytes": 2 << 20, "local_bytes": 1 << 30}
    pair = KmePair(tmp_path, limits=limits)
    wanted = b'{"number": 1, "size": 16000000}'
    async with pair.running("kme-a"):
        for _ in range(20):
            async with opened(pair, "sae-a1") as (_, writer):
                writer.write(request("sae-a1/enc_keys", wanted))
                await writer.drain()
        async with asyncio.timeout(20):
            while True:
                status, _ = await asked(pair, "sae-a1", "sae-a1/enc_keys", wanted)
                if status == 200:
                    break
                await asyncio.sleep(0.01)
