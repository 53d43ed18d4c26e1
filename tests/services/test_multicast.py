"""Keys for several slaves: every one gets its copy once, and none is served on one KME's word alone."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import signal
import sqlite3
import threading
import time
import uuid
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from shosoin.adapters.clock import SystemClock
from shosoin.adapters.copy_store import CopyStore, HeldCopy
from shosoin.base import KmeId, SaeId
from shosoin.keys.copies import open_copies, pad_bytes, read_head
from shosoin.keys.errors import KeyDamaged, KeyNotFound, PairProtocolError, PeerRefused, StreamRefused
from shosoin.keys.key_id import granules_of
from shosoin.services import multicast, peer_readiness
from tests.services.test_etsi014 import NOT_FOUND, Raw
from tests.support.kme import SAES, KmePair, ServerProcess, until, until_stock

MANY = {"number": 3, "size": 256, "additional_slave_SAE_IDs": ["sae-b2", "sae-a2"]}


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 20, speedup=50.0)


@asynccontextmanager
async def everybody(pair):
    """Connections of all four SAEs."""
    async with (
        Raw(pair, "sae-a1") as a1,
        Raw(pair, "sae-a2") as a2,
        Raw(pair, "sae-b1", "kme-b") as b1,
        Raw(pair, "sae-b2", "kme-b") as b2,
    ):
        yield {"sae-a1": a1, "sae-a2": a2, "sae-b1": b1, "sae-b2": b2}


@asynccontextmanager
async def served(pair):
    async with pair.running() as processes, everybody(pair) as raws, pair.client("sae-a1") as client:
        await until_stock(client, "sae-b1", 64)
        yield processes, raws


async def drawn(raws, **members):
    status, body = await raws["sae-a1"].ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY | members)
    assert status == 200, body
    return body


async def fetched(raw, keys, master="sae-a1"):
    wanted = {"key_IDs": [{"key_ID": key["key_ID"]} for key in keys]}
    return await raw.ask("POST", f"/api/v1/keys/{master}/dec_keys", json=wanted)


async def test_every_slave_gets_the_same_keys_once(pair):
    async with served(pair) as (_, raws):
        body = await drawn(raws)
        assert len(body["keys"]) == 3
        assert all(uuid.UUID(key["key_ID"]).version == 4 for key in body["keys"])
        source = body["key_container_extension"]["shosoin_source"]
        assert (source["kind"], source["simulated"]) == ("multicast", True)
        for slave in ("sae-b1", "sae-b2", "sae-a2"):
            status, got = await fetched(raws[slave], body["keys"])
            assert (status, got["keys"]) == (200, body["keys"])
            assert (await fetched(raws[slave], body["keys"]))[1]["message"] == NOT_FOUND


async def test_a_paused_pair_takes_no_part(pair):
    async with served(pair) as (processes, raws):
        body = await drawn(raws)
        processes["kme-b"].kme.paused.add(KmeId("kme-a"))
        status, refused = await fetched(raws["sae-b1"], body["keys"])
        assert (status, refused["details"][0]["shosoin_code"]) == (503, "keys.pair_paused")
        processes["kme-b"].kme.paused.clear()
        assert (await fetched(raws["sae-b1"], body["keys"]))[1]["keys"] == body["keys"]
        processes["kme-a"].kme.paused.add(KmeId("kme-b"))
        assert (await raws["sae-a1"].ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY))[0] == 503


async def test_only_those_who_were_named_get_it(pair):
    async with served(pair) as (_, raws):
        body = await drawn(raws, additional_slave_SAE_IDs=["sae-a2"])
        assert (await fetched(raws["sae-b2"], body["keys"]))[0] == 401
        assert (await fetched(raws["sae-a1"], body["keys"]))[0] == 401
        status, error = await fetched(raws["sae-b1"], body["keys"], master="sae-a2")
        assert (status, error["message"]) == (400, NOT_FOUND)
        assert (await fetched(raws["sae-b1"], body["keys"]))[0] == 200


async def test_one_request_may_name_both_kinds_and_fails_as_a_whole(pair):
    async with served(pair) as (_, raws):
        many = (await drawn(raws, number=1))["keys"]
        _, single = await raws["sae-a1"].ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={"number": 2})
        first, second = single["keys"]
        unknown = {"key_ID": str(uuid.uuid4())}
        assert (await fetched(raws["sae-b1"], [first, *many, unknown]))[1]["message"] == NOT_FOUND
        assert (await fetched(raws["sae-b1"], [*many, first, *many]))[1]["message"] == NOT_FOUND
        status, got = await fetched(raws["sae-b1"], [first, *many, second])
        assert (status, got["keys"]) == (200, [first, *many, second])


async def test_a_slave_named_twice_counts_once(pair):
    async with served(pair) as (_, raws):
        body = await drawn(raws, additional_slave_SAE_IDs=["sae-b1", "sae-b2", "sae-b2"])
        assert (await fetched(raws["sae-b2"], body["keys"]))[0] == 200
        assert (await fetched(raws["sae-b2"], body["keys"]))[0] == 400


@pytest.mark.parametrize(
    "members",
    [
        {"additional_slave_SAE_IDs": ["nobody"]},
        {"additional_slave_SAE_IDs": ["sae b2"]},
        {"number": 128, "size": 128 << 10},
        {"number": 0},
        {"size": 12},
    ],
)
async def test_what_is_refused_uses_nothing_up(pair, members):
    async with served(pair) as (processes, raws):
        await raws["sae-a1"].ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY)
        before = processes["kme-a"].links.pairs[KmeId("kme-b")].outgoing.tally.used_granules
        status, _ = await raws["sae-a1"].ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY | members)
        assert status == 400
        assert processes["kme-a"].links.pairs[KmeId("kme-b")].outgoing.tally.used_granules == before


async def test_without_the_other_kme_there_is_no_answer_and_later_no_key(pair):
    async with served(pair) as (processes, raws):
        requests = processes["kme-b"].links.requests
        store, thread = processes["kme-b"]._multicast._copies.store, processes["kme-b"]._multicast
        serve = requests._serving.pop("multicast/copy")
        status, _ = await raws["sae-a1"].ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY)
        assert status == 503
        requests.serve("multicast/copy", serve)
        assert not store.index()
        assert not thread._held
        await drawn(raws)


@asynccontextmanager
async def beside_a_process(pair):
    """The master's KME in this process, the other one in a process of its own."""
    server = ServerProcess(pair.config("kme-b"))
    await server.start()
    try:
        async with pair.running("kme-a") as processes, Raw(pair, "sae-a1") as raw, pair.client("sae-a1") as client:
            await until_stock(client, "sae-b1", 200)
            yield processes["kme-a"], raw, server.process
    finally:
        await server.kill()


async def test_a_kme_that_hangs_costs_few_bits_however_often_it_is_asked(pair, monkeypatch):
    monkeypatch.setattr(multicast, "_ASK_S", 0.3)
    async with beside_a_process(pair) as (kme, raw, process):

        async def ask():
            return (await raw.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY))[0]

        async def works():
            async with asyncio.timeout(30):
                while await ask() != 200:
                    await asyncio.sleep(0.05)

        await works()
        tally = kme.links.pairs[KmeId("kme-b")].outgoing.tally
        process.send_signal(signal.SIGSTOP)
        before = tally.used_granules
        for _ in range(3):
            assert set(await asyncio.gather(*(ask() for _ in range(20)))) == {503}
        pads = (tally.used_granules - before) / granules_of(pad_bytes(3, 32))
        assert pads <= peer_readiness.OPEN_MAX
        process.send_signal(signal.SIGCONT)
        await works()


async def test_a_kme_whose_store_hangs_costs_few_bits_too(pair, monkeypatch):
    """It answers on the channel, and stores no copy."""
    monkeypatch.setattr(multicast, "_ASK_S", 0.3)
    async with served(pair) as (processes, raws):
        go = threading.Event()
        processes["kme-b"]._multicast._copies.thread.submit(go.wait)
        tally = processes["kme-a"].links.pairs[KmeId("kme-b")].outgoing.tally
        before = tally.used_granules
        try:
            for _ in range(3):
                asked = (raws["sae-a1"].ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY) for _ in range(10))
                assert {status for status, _ in await asyncio.gather(*asked)} == {503}
        finally:
            go.set()
        assert tally.used_granules == before
        await drawn(raws)


async def test_a_master_that_died_before_it_answered_leaves_nothing_to_fetch(pair, monkeypatch):
    async with served(pair) as (processes, raws):

        def fail(self, rows, born_s):
            raise OSError("the power is gone")

        monkeypatch.setattr(CopyStore, "add_sent", fail)
        status, _ = await raws["sae-a1"].ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY)
        assert status == 503
        held = processes["kme-b"]._multicast
        ((_, key_id),) = list(held._held)[:1]
        status, error = await fetched(raws["sae-b1"], [{"key_ID": key_id}])
        assert (status, error["message"]) == (400, NOT_FOUND)
        assert SaeId("sae-b1") not in held._held.get((KmeId("kme-a"), key_id), {})


async def test_a_copy_waits_while_its_masters_kme_is_away(pair):
    async with served(pair) as (processes, raws):
        body = await drawn(raws)
        serve = processes["kme-a"].links.requests._serving.pop("multicast/claim")
        status, _ = await fetched(raws["sae-b1"], body["keys"])
        assert status == 503
        processes["kme-a"].links.requests.serve("multicast/claim", serve)
        status, got = await fetched(raws["sae-b1"], body["keys"])
        assert (status, got["keys"]) == (200, body["keys"])


async def test_old_copies_are_destroyed(pair, monkeypatch):
    monkeypatch.setattr(multicast, "_EXPIRE_EVERY_S", 0.05)
    pair.limits["key_expiry_s"] = 0.2
    for kme in ("kme-a", "kme-b"):
        pair.config(kme).write_text(pair._toml(kme))
    async with served(pair) as (processes, raws):
        body = await drawn(raws)
        await until(lambda: not processes["kme-b"]._multicast._held)
        assert (await fetched(raws["sae-b1"], body["keys"]))[0] == 400
        assert not processes["kme-b"]._multicast._copies.store.index()


async def test_copies_of_before_the_clock_was_put_back_grow_old_all_the_same(pair, monkeypatch):
    """A copy lives as long as if it had come when that was noticed, over a restart too."""
    monkeypatch.setattr(multicast, "_EXPIRE_EVERY_S", 0.05)
    with monkeypatch.context() as ahead:
        ahead.setattr(SystemClock, "wall_s", lambda self: time.time() + 3600.0)
        async with served(pair) as (_, raws):
            await drawn(raws)
    pair.limits["key_expiry_s"] = 0.5
    for kme in ("kme-a", "kme-b"):
        pair.config(kme).write_text(pair._toml(kme))
    rows = {kme: pair.directory(kme) / "copies.sqlite" for kme in ("kme-a", "kme-b")}
    assert all(count_of(path) for path in rows.values())
    async with pair.running():
        await until(lambda: not any(count_of(path) for path in rows.values()))


def count_of(path):
    with closing(sqlite3.connect(path)) as database:
        return sum(database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("copy", "sent"))


async def test_forged_and_changed_records_are_refused(pair):
    async with served(pair) as (processes, raws):
        at_a, at_b = processes["kme-a"].links.requests, processes["kme-b"]._multicast
        sent = []
        ask = at_a.ask

        async def keep(peer, subject, body, timeout_s):
            if subject != "multicast/copy":
                return await ask(peer, subject, body, timeout_s)
            sent.append(body)
            return await ask(peer, subject, body[:-20] + bytes([body[-20] ^ 1]) + body[-19:], timeout_s)

        at_a.ask = keep
        status, _ = await raws["sae-a1"].ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY)
        assert status == 503
        assert not at_b._held
        at_a.ask = ask
        # The record as it was meant: its pad is used up, so that it cannot be tried again.
        with pytest.raises(PeerRefused, match="not found"):
            await ask(KmeId("kme-b"), "multicast/copy", sent[0], 10.0)
        foreign = sent[0].replace(b'"master":"sae-a1"', b'"master":"sae-b1"')
        with pytest.raises(PeerRefused, match="no SAE of kme-a"):
            await ask(KmeId("kme-b"), "multicast/copy", foreign, 10.0)
        assert not at_b._held


def test_a_record_is_read_with_care():
    for raw in (b"", b"\0\0\0\x02{}", b"\0\0\xff\xff", b"\xff" * 40, json.dumps({}).encode(), bytes(4096)):
        with pytest.raises(PairProtocolError):
            read_head(raw)
    key_id = str(uuid.uuid4())
    head: dict[str, Any] = {"master": "m", "slaves": ["s"], "key_ids": [key_id], "length_bytes": 8, "pad_id": "p"}
    head["simulated"] = True
    wrong = [
        {"slaves": []},
        {"slaves": "s"},
        {"slaves": [1]},
        {"key_ids": []},
        {"key_ids": ["x"]},
        {"key_ids": [key_id, key_id]},
        {"length_bytes": 0},
        {"length_bytes": -8},
        {"length_bytes": 8.0},
        {"length_bytes": True},
        {"length_bytes": 1 << 40},
        {"pad_id": 1},
        {"simulated": 1},
        {"master": "a b"},
    ]

    def record(members):
        text = json.dumps(head | members).encode()
        return len(text).to_bytes(4) + text + bytes(8 + 16)

    read_head(record({}))
    for members in wrong:
        with pytest.raises(PairProtocolError):
            read_head(record(members))
    for cut in range(len(record({}))):
        with pytest.raises(PairProtocolError):
            read_head(record({})[:cut])
    with pytest.raises(PairProtocolError):
        open_copies(read_head(record({})), record({}), bytearray(range(40)))


# Real processes, crashes and old copies of a disk.


async def killed_and_started(servers, name):
    await servers[name].kill()
    await servers[name].start()


@asynccontextmanager
async def processes_of(pair):
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    try:
        for server in servers.values():
            await server.start()
        async with pair.client("sae-a1") as client:
            await until_stock(client, "sae-b1", 64)
        yield servers
    finally:
        for server in servers.values():
            await server.kill()


async def answered(pair, sae, method, path, **options):
    """Ask on a new connection, again while a KME comes up."""
    kme = SAES[sae]
    answer = None

    async def ask():
        nonlocal answer
        async with Raw(pair, sae, kme) as raw:
            answer = await raw.ask(method, path, **options)
        return answer[0] != 503

    deadline = time.monotonic() + 60.0
    while not await ask() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return answer


async def test_copies_outlive_kill_9_of_both_kmes_and_are_served_once(pair):
    async with processes_of(pair) as servers:
        _, body = await answered(pair, "sae-a1", "POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY)
        keys = body["keys"]
        wanted = {"key_IDs": [{"key_ID": key["key_ID"]} for key in keys]}
        await killed_and_started(servers, "kme-b")
        await killed_and_started(servers, "kme-a")
        status, got = await answered(pair, "sae-b1", "POST", "/api/v1/keys/sae-a1/dec_keys", json=wanted)
        assert (status, got["keys"]) == (200, keys)
        await killed_and_started(servers, "kme-b")
        status, _ = await answered(pair, "sae-b1", "POST", "/api/v1/keys/sae-a1/dec_keys", json=wanted)
        assert status == 400
        status, got = await answered(pair, "sae-b2", "POST", "/api/v1/keys/sae-a1/dec_keys", json=wanted)
        assert (status, got["keys"]) == (200, keys)


@pytest.mark.parametrize("victim", ["kme-a", "kme-b"])
async def test_an_old_copy_of_one_disk_serves_nothing_twice(pair, victim, tmp_path):
    async with processes_of(pair) as servers:
        _, body = await answered(pair, "sae-a1", "POST", "/api/v1/keys/sae-b1/enc_keys", json=MANY)
        wanted = {"key_IDs": [{"key_ID": key["key_ID"]} for key in body["keys"]]}
        await servers[victim].kill()
        shutil.copytree(pair.directory(victim), tmp_path / "copy")
        await servers[victim].start()
        status, _ = await answered(pair, "sae-b1", "POST", "/api/v1/keys/sae-a1/dec_keys", json=wanted)
        assert status == 200
        await servers[victim].kill()
        shutil.rmtree(pair.directory(victim))
        shutil.copytree(tmp_path / "copy", pair.directory(victim))
        await servers[victim].start()
        status, _ = await answered(pair, "sae-b1", "POST", "/api/v1/keys/sae-a1/dec_keys", json=wanted)
        assert status == 400


def test_no_bits_lie_open_on_the_disk_and_damage_is_told(tmp_path):
    bits = b"very secret bits that nobody sees"
    copy = HeldCopy(
        str(uuid.uuid4()), SaeId("s"), SaeId("m"), KmeId("k"), 1.0, len(bits), frozenset({SaeId("s")}), bits
    )
    store = CopyStore(tmp_path / "copies.sqlite", bytes(32))
    store.add_held([copy])
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert bits not in stored
    assert base64.b64encode(bits) not in stored
    assert "secret" not in repr(copy)
    other = CopyStore(tmp_path / "copies.sqlite", bytes([1]) * 32)
    (found,) = other.index()
    with pytest.raises(KeyDamaged):
        other.take_held([found])
    with pytest.raises(KeyNotFound):
        store.take_held([found])
    for each in (store, other):
        each.close()
    (tmp_path / "copies.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StreamRefused):
        CopyStore(tmp_path / "copies.sqlite", bytes(32))
