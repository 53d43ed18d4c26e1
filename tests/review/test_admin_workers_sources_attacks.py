"""Attacks on burning through the admin interface, on what workers report, and on the places and planes of sources."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import threading
from contextlib import suppress
from typing import Any

import aiohttp
import psutil
import pytest

from shosoin.adapters.stream_store import FileStreamStore
from shosoin.adapters.tls import Identity
from shosoin.base import KmeId, ShosoinError
from shosoin.keys.tally import StreamTally
from shosoin.keys.worker_grants import _Grant
from shosoin.services import kme_links
from shosoin.services.link_driver import LinkDriver
from shosoin.services.worker_counts import WorkerCounts
from shosoin.services.worker_line import FrameKind, WorkerLine
from tests.services.test_etsi004 import chunk, joined, running
from tests.services.test_etsi014 import Raw
from tests.support.admin import Administration
from tests.support.key_sources import PushRig
from tests.support.kme import KmePair, until, until_stock
from tests.support.postgres import running_postgres

pytestmark = pytest.mark.processes
BURN_AT_B = "/v1/pairs/kme-a/burn"


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 17, speedup=20.0)


def wanted(*more):
    return {"number": 1, "size": 256, "additional_slave_SAE_IDs": list(more)}


async def multicast(raw, slave, *more):
    status, body = await raw.ask("POST", f"/api/v1/keys/{slave}/enc_keys", json=wanted(*more))
    return status, body


def named(body):
    return {"key_IDs": [{"key_ID": key["key_ID"]} for key in body["keys"]]}


async def test_copies_of_a_burned_pair_are_gone_before_the_pair_is_open_anew(pair, monkeypatch):
    """A store that opens slowly must not leave the copies of the burned pair to be fetched meanwhile."""
    admin = Administration(pair, "kme-b")
    async with pair.running() as kmes, pair.client("sae-a1") as a:
        await until_stock(a, "sae-b1", 64)
        async with Raw(pair, "sae-a1") as a1, Raw(pair, "sae-b2", "kme-b") as b2:
            status, body = await multicast(a1, "sae-b1", "sae-b2")
            assert status == 200, body
            links, goes_on = kmes["kme-b"].links, asyncio.Event()
            opened = links._open_link

            async def slowly(link):
                await goes_on.wait()
                await opened(link)

            monkeypatch.setattr(links, "_open_link", slowly)
            burning = asyncio.create_task(admin.ask("sec", "POST", BURN_AT_B, {}))
            await until(lambda: not links.drivers)
            status, _ = await b2.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=named(body))
            goes_on.set()
            assert (await burning)[0] == 200
            assert status == 503, "a copy came out after its pair was burned"
            assert (await b2.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=named(body)))[0] != 200


async def test_what_was_being_sent_to_several_slaves_is_burned_as_well(pair):
    """The pad of such a copy is of the burned stream: an answer that comes after the burn must not make it count."""
    admin = Administration(pair, "kme-b")
    async with pair.running() as kmes, pair.client("sae-b1") as b:
        await until_stock(b, "sae-a1", 64)
        serving, stored, goes_on = kmes["kme-a"].links.requests._serving, asyncio.Event(), asyncio.Event()
        serve = serving["multicast/copy"]

        async def slowly(peer, body):
            answer = await serve(peer, body)
            stored.set()
            await goes_on.wait()
            return answer

        serving["multicast/copy"] = slowly
        async with Raw(pair, "sae-b1", "kme-b") as b1, Raw(pair, "sae-a2") as a2:
            drawing = asyncio.create_task(multicast(b1, "sae-a1", "sae-a2"))
            await stored.wait()
            held = list(kmes["kme-a"]._multicast._held)
            assert (await admin.ask("sec", "POST", BURN_AT_B, {}))[0] == 200
            goes_on.set()
            status, _ = await drawing
            assert status == 503
            ids = {"key_IDs": [{"key_ID": key_id} for _, key_id in held]}
            assert (await a2.ask("POST", "/api/v1/keys/sae-b1/dec_keys", json=ids))[0] == 400


async def test_copies_go_although_the_burn_of_the_pair_itself_cannot_be_written(pair, monkeypatch):
    admin = Administration(pair, "kme-b")
    async with pair.running() as kmes, pair.client("sae-a1") as a:
        await until_stock(a, "sae-b1", 64)
        async with Raw(pair, "sae-a1") as a1, Raw(pair, "sae-b2", "kme-b") as b2:
            status, body = await multicast(a1, "sae-b1", "sae-b2")
            assert status == 200, body
            work = LinkDriver.on_store

            async def failing(self, work_on, *, and_open_anew):
                def broken(store):
                    store._failed = True
                    return work_on(store)

                return await work(self, broken, and_open_anew=and_open_anew)

            monkeypatch.setattr(LinkDriver, "on_store", failing)
            assert (await admin.ask("sec", "POST", BURN_AT_B, {}))[0] == 503
            assert not kmes["kme-b"]._multicast._held
            assert (await b2.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=named(body)))[0] == 503


async def test_a_pause_does_not_wait_for_a_burn_that_hangs(pair, monkeypatch):
    """Who stops keys in haste must not wait for another administrator's disk."""
    admin, hangs, goes_on = Administration(pair), threading.Event(), threading.Event()
    commit = FileStreamStore.commit

    def slowly(self, batch):
        hangs.set()
        goes_on.wait(20)
        return commit(self, batch)

    async with pair.running("kme-a") as kmes:
        monkeypatch.setattr(FileStreamStore, "commit", slowly)
        burning = asyncio.create_task(admin.ask("sec", "POST", "/v1/pairs/kme-b/burn", {}))
        try:
            await asyncio.to_thread(hangs.wait, 20)
            async with asyncio.timeout(10):
                assert (await admin.ask("olga", "POST", "/v1/pairs/kme-b/pause", {}))[0] == 200
            assert kmes["kme-a"].kme.paused == {"kme-b"}
            assert not burning.done()
        finally:
            goes_on.set()
        assert (await burning)[0] == 200


TIMES = [0.5, [1, *[0] * 11]]
HONEST: list[Any] = [
    [["status", 200, *TIMES]],
    [["kme-b", "outgoing", "a.b", 3]],
    {"x": 1},
    0,
    1,
    2,
    3,
    4,
    5,
    {"sae-a1": 1},
]


def report(place, value):
    return json.dumps([*HONEST[:place], value, *HONEST[place + 1 :]]).encode()


@pytest.mark.parametrize(
    "lie",
    [
        b"{}",
        b"[" * 100_000,
        report(0, [["status", 200, 0.5, [1]]]),
        report(0, [["status", 200, float("nan"), TIMES[1]]]),
        report(0, [["status", "200", *TIMES]]),
        report(0, [["status", 200, 0.5, [-1, *TIMES[1][1:]]]]),
        report(0, [["x" * 65, 200, *TIMES]]),
        report(0, [[f"m{number}", 200, *TIMES] for number in range(1 << 16)] + [["one", 200, *TIMES]]),
        report(1, [["kme-b", "outgoing", "a\nb", 3]]),
        report(1, [["kme-b", "outgoing", "a.b", -3]]),
        report(2, {"x": 1.5}),
        report(4, "many"),
        report(9, {"sae-a1": -1}),
    ],
)
def test_a_report_of_a_worker_is_what_it_should_be_or_none(lie):
    """It becomes metrics and JSON: what does not fit would fail there, for all workers, again and again."""
    assert WorkerCounts.load(json.dumps(HONEST).encode()).tally.answers == 1
    with pytest.raises(ValueError, match="not a report"):
        WorkerCounts.load(lie)


def test_no_counter_of_a_worker_goes_back():
    before = WorkerCounts.load(report(1, [["kme-b", "outgoing", "a.b", 4]]))
    with pytest.raises(ValueError, match="back"):
        WorkerCounts.load(json.dumps(HONEST).encode(), after=before)
    assert WorkerCounts.load(report(4, 0), after=before.load(json.dumps(HONEST).encode())).connections == 0


def frame(kind, payload, number=0):
    return struct.pack(">IBQ", len(payload), kind, number) + payload


LIES = (frame(FrameKind.REPORT, report(0, [["status", 200, 0.5, [1]]])), frame(FrameKind.USED, b"-1"))


@pytest.mark.parametrize("lie", [frame(99, b""), struct.pack(">IBQ", 1001, FrameKind.CALL, 1)])
async def test_a_line_ends_at_what_is_no_frame(lie):
    ours, theirs = socket.socketpair()
    taken, ended = [], asyncio.Event()
    line = WorkerLine(lambda *each: taken.append(each), ended.set, frame_bytes_max=1000)
    await asyncio.get_running_loop().create_unix_connection(lambda: line, sock=ours)
    with theirs:
        theirs.sendall(frame(FrameKind.READY, b"x" * 1000) + lie)
        async with asyncio.timeout(10):
            await ended.wait()
    assert len(taken) == 1


async def test_workers_that_lie_are_replaced_and_spoil_nothing(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 16, workers=len(LIES))
    admin = Administration(pair)
    async with pair.running("kme-a") as kmes:
        pool = kmes["kme-a"].workers
        liars = dict(pool._workers)
        for liar, lie in zip(liars.values(), LIES, strict=True):
            liar.grants._held[0] = _Grant("sae-a1", "sae-b1", 256, 1, StreamTally())
            liar.line.data_received(lie)
        await until(lambda: pool.restarts == len(LIES) == len(pool.pids))
        assert not {liar.process.pid for liar in liars.values()} & set(pool.pids)
        status, told = await admin.ask("vic", "GET", "/v1/interfaces")
        assert (status, told["workers"]["restarts"]) == (200, len(LIES))


async def test_the_list_of_saes_is_counted_once_not_for_each(tmp_path, monkeypatch):
    """Thousands of SAEs and connections are usual: squared, they stop the event loop for seconds."""
    pair = KmePair(tmp_path, stock_bits=1 << 16, workers=2)
    admin, counted = Administration(pair), []
    total = WorkerCounts.total
    async with pair.running("kme-a"):
        monkeypatch.setattr(WorkerCounts, "total", lambda every: counted.append(1) or total(every))
        status, told = await admin.ask("vic", "GET", "/v1/saes")
        assert (status, len(told["saes"])) == (200, 4)
        assert len(counted) == 1


async def test_counters_go_on_over_a_burn_and_tell_of_it(pair):
    admin = Administration(pair)

    def tallies(kme):
        ends = kme.drivers["kme-b"].pair
        return [(end.tally, end.left_granules()) for end in (ends.outgoing, ends.incoming)]

    async with pair.running() as kmes, pair.client("sae-a1") as a:
        await until_stock(a, "sae-b1", 64)
        await a.enc_keys("sae-b1", number=3, size_bits=256)
        taken = [tally.taken_granules for tally, _ in tallies(kmes["kme-a"])]
        status, done = await admin.ask("sec", "POST", "/v1/pairs/kme-b/burn", {})
        assert status == 200
        _, told = await admin.ask("vic", "GET", "/v1/pairs")
        assert told["pairs"]["kme-b"]["delivered_keys"]["outgoing"] == 3
        await until(lambda: kmes["kme-a"].link_states()["kme-b"]["open"])
        assert sum(tally.burned_granules.total() for tally, _ in tallies(kmes["kme-a"])) * 256 >= done["bits"] - 3 * 256
        for (tally, left), before in zip(tallies(kmes["kme-a"]), taken, strict=True):
            assert tally.taken_granules >= before
            lost = tally.used_granules + tally.burned_granules.total()
            assert tally.restored_granules + tally.taken_granules == lost + left


async def test_a_burn_under_way_ends_when_the_kme_does(pair, monkeypatch):
    hangs, goes_on, burn_store = threading.Event(), threading.Event(), kme_links.burn_store

    def slowly(store, **options):
        hangs.set()
        goes_on.wait(20)
        return burn_store(store, **options)

    monkeypatch.setattr(kme_links, "burn_store", slowly)
    async with pair.running("kme-a") as kmes:
        burning = asyncio.create_task(kmes["kme-a"].burn(KmeId("kme-b"), dry_run=False))
        await asyncio.to_thread(hangs.wait, 20)
        threading.Timer(2.0, goes_on.set).start()
    done, _ = await asyncio.wait({burning}, timeout=10)
    assert done, "whoever burned waits for ever"
    assert burning.exception() is not None


async def test_a_worker_that_still_starts_hears_of_a_revocation_before_it_accepts_anybody(tmp_path, monkeypatch):
    pair = KmePair(tmp_path, stock_bits=1 << 16, workers=2)
    async with pair.running("kme-a") as kmes:
        pool, told = kmes["kme-a"].workers, []
        send, take = WorkerLine.send, pool._take

        def sent(line, kind, *rest, **more):
            told.append((line, kind))
            send(line, kind, *rest, **more)

        def taken(worker, kind, *rest):
            told.append((worker.line, kind))
            take(worker, kind, *rest)

        monkeypatch.setattr(WorkerLine, "send", sent)
        monkeypatch.setattr(pool, "_take", taken)
        before = pool._workers[0]
        psutil.Process(before.process.pid).kill()
        await until(lambda: any(kind is FrameKind.SETUP for _, kind in told))
        line = next(line for line, kind in told if kind is FrameKind.SETUP)
        await kmes["kme-a"].identity.revoke(Identity("sae", "sae-a1"), "lost")
        await until(lambda: (line, FrameKind.READY) in told)
        assert (line, FrameKind.RELOAD) in told[: told.index((line, FrameKind.READY))]
        for _ in range(8):
            async with pair.client("sae-a1") as client:
                with pytest.raises(ShosoinError):
                    await client.status("sae-a2")


async def test_a_burn_opens_the_port_for_devices_anew_and_nothing_comes_twice(tmp_path, monkeypatch):
    (tmp_path / "rig").mkdir()
    rig, threads = PushRig(tmp_path / "rig"), []
    pair = KmePair(tmp_path, source=rig.link)
    opened = kme_links.open_used

    def open_used(*arguments):
        threads.append(threading.current_thread())
        return opened(*arguments)

    monkeypatch.setattr(kme_links, "open_used", open_used)
    keys = [(number, os.urandom(256)) for number in range(40)]
    async with pair.running() as kmes, pair.client("sae-a1") as a, aiohttp.ClientSession() as session:

        async def push(name, some):
            while True:
                try:
                    return await rig.deliver(session, name, some)
                except OSError:
                    await asyncio.sleep(0.05)

        for name in kmes:
            await push(name, keys)
        await until_stock(a, "sae-b1", 8)
        held = await kmes["kme-a"].burn(KmeId("kme-b"), dry_run=False)
        assert held.blocks > 0
        status, answer = await push("kme-a", keys)
        used = {item["index"] for item in answer["refused"] if item["reason"] == "used"}
        assert (status, used >= set(range(0, 40, 2))) == (200, True)
        more = [(number, os.urandom(256)) for number in range(40, 80)]
        for name in kmes:
            await push(name, more)
        await until_stock(a, "sae-b1", 1)
        assert threads
        assert threading.main_thread() not in threads, "a database that takes its time would hold up everybody"


async def test_chunks_in_memory_go_with_the_burn_though_the_other_end_is_away(tmp_path):
    """And nothing that opens the pair anew later may make whoever holds them believe that it was not burned."""
    pair = KmePair(tmp_path, stock_bits=1 << 18, etsi004={})
    async with running(pair, "sae-a1", "sae-b1") as (kmes, a, b):
        ksid = await joined(a, b)
        await chunk(b, ksid, 0)
        kme, links = kmes["kme-a"], kmes["kme-a"].links
        homes = kme.services["etsi004"].streams.homes
        assert len(homes) == 1
        links.admit = lambda _: False  # the other end is not met any more
        marks = [kme.kme.burn_mark(KmeId("kme-b"))]
        for _ in range(2):
            await kme.burn(KmeId("kme-b"), dry_run=False)
            marks.append(kme.kme.burn_mark(KmeId("kme-b")))
        assert len(set(marks)) == 3
        await until(lambda: not len(homes))
        links.drivers["kme-b"].lost.set()
        await until(lambda: not links.drivers)
        await until(lambda: links.drivers)
        assert kme.kme.burn_mark(KmeId("kme-b")) == marks[-1]


async def test_administrators_of_both_ends_burn_at_once_while_keys_are_drawn_and_fetched(tmp_path):
    """With workers and PostgreSQL: no key comes twice, both ends of a key agree, and the pair goes on."""
    with running_postgres(fsync=False) as server:
        store = f'kind = "postgresql"\ndsn = "{server.dsn}"'
        pair = KmePair(tmp_path, stock_bits=1 << 19, speedup=50.0, store=store, workers=2)
        admins = {kme: Administration(pair, kme) for kme in ("kme-a", "kme-b")}
        drawn, fetched, over = {}, {}, asyncio.Event()

        async def use(master, slave):
            async with pair.client(master) as mine, pair.client(slave) as theirs:
                while not over.is_set():
                    with suppress(ShosoinError):
                        for key in await mine.enc_keys(slave, number=2, size_bits=256):
                            assert key.key_id not in drawn
                            drawn[key.key_id] = bytes(key.material.take())
                            (same,) = await theirs.dec_keys(master, [key.key_id])
                            fetched[key.key_id] = bytes(same.material.take())
                    await asyncio.sleep(0)

        async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
            await until_stock(a, "sae-b1", 64)
            using = [asyncio.create_task(use(*each)) for each in (("sae-a1", "sae-b1"), ("sae-b1", "sae-a1"))]
            for _ in range(3):
                both = (("kme-a", "kme-b"), ("kme-b", "kme-a"), ("kme-a", "kme-b"))
                asked = [admins[here].ask("sec", "POST", f"/v1/pairs/{there}/burn", {}) for here, there in both]
                assert {status for status, _ in await asyncio.gather(*asked)} <= {200, 503}
                await until_stock(a, "sae-b1", 8)
                await until_stock(b, "sae-a1", 8)
                await asyncio.sleep(0.3)
            over.set()
            await asyncio.gather(*using)
        assert len(fetched) > 10
        assert all(drawn[key_id] == bits for key_id, bits in fetched.items())
        assert len(set(drawn.values())) == len(drawn)
