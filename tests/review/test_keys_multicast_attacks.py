"""Multicast against hostile clients and lying peers: whole or not at all, within the terms, and bounded."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import uuid

import pytest

from shosoin.adapters.copy_store import CopyStore, HeldCopy
from shosoin.base import KmeId, SaeId, Unavailable
from shosoin.keys.demands import NO_DEMANDS
from shosoin.keys.errors import KeyNotFound, StreamRefused
from shosoin.services import kme_requests
from shosoin.services.kme_requests import PeerRequests
from shosoin.services.peer_channel import Channel, ChannelKind
from tests.services.test_etsi014 import NOT_FOUND
from tests.services.test_kme_requests import connected
from tests.services.test_multicast import drawn, fetched, pair, served  # noqa: F401  # pair is a fixture
from tests.support.kme import until

A, B = KmeId("kme-a"), KmeId("kme-b")
PATH = "/api/v1/keys/sae-b1/enc_keys"


def configured(pair, *lines):  # noqa: F811
    """Append tables to both KMEs' configurations."""
    for kme in (A, B):
        pair.config(kme).write_text(pair._toml(kme) + "\n".join(lines))


def keys_used(process):
    return process.links.pairs[B].outgoing.tally.used_granules


# Whole or not at all


async def test_a_request_for_both_kinds_that_cannot_be_claimed_now_burns_nothing(pair):  # noqa: F811
    async with served(pair) as (processes, raws):
        many = (await drawn(raws, number=1))["keys"]
        _, single = await raws["sae-a1"].ask("POST", PATH, json={"number": 2})
        serve = processes[A].links.requests._serving.pop("multicast/claim")
        assert (await fetched(raws["sae-b1"], [*single["keys"], *many]))[0] == 503
        processes[A].links.requests.serve("multicast/claim", serve)
        status, got = await fetched(raws["sae-b1"], [*single["keys"], *many])
        assert (status, got["keys"]) == (200, [*single["keys"], *many])
        assert (await fetched(raws["sae-b1"], single["keys"]))[0] == 400
        assert (await fetched(raws["sae-b1"], many))[0] == 400


async def test_a_copy_claimed_before_does_not_burn_the_other_keys_of_the_request(pair):  # noqa: F811
    async with served(pair) as (processes, raws):
        many = (await drawn(raws, number=1))["keys"]
        _, single = await raws["sae-a1"].ask("POST", PATH, json={"number": 2})
        assert processes[A]._multicast._copies.store.claim(B, SaeId("sae-b1"), [many[0]["key_ID"]])
        assert (await fetched(raws["sae-b1"], [*single["keys"], *many]))[1]["message"] == NOT_FOUND
        status, got = await fetched(raws["sae-b1"], single["keys"])
        assert (status, got["keys"]) == (200, single["keys"])


async def test_two_requests_at_once_get_each_key_once(pair):  # noqa: F811
    async with served(pair) as (_, raws):
        many = (await drawn(raws, number=3))["keys"]
        _, single = await raws["sae-a1"].ask("POST", PATH, json={"number": 2})
        wanted = [[*single["keys"], *many], [*many], [*many[:1], *single["keys"]], [many[2]], single["keys"]]
        upper = [{"key_ID": key["key_ID"].upper()} for key in many]
        answers = await asyncio.gather(*(fetched(raws["sae-b1"], keys) for keys in [*wanted, upper] * 3))
        served_ids = [key["key_ID"].lower() for status, body in answers if status == 200 for key in body["keys"]]
        assert served_ids
        assert len(served_ids) == len(set(served_ids))


# Terms


async def test_the_quota_of_a_pair_counts_for_additional_slaves(pair):  # noqa: F811
    configured(pair, '[[policy]]\nmaster="sae-a1"\nslave="sae-b2"\nbits_per_s=1.0\nburst_bits=1024.0')
    async with served(pair) as (_, raws):
        statuses = [
            (await raws["sae-a1"].ask("POST", PATH, json={"additional_slave_SAE_IDs": ["sae-b2"]}))[0] for _ in range(6)
        ]
        assert 200 in statuses
        assert statuses[-1] == 503


async def test_the_reserved_share_is_not_for_slaves_without_priority(pair):  # noqa: F811
    for kme in (A, B):
        text = pair._toml(kme) + "reserved_share = 0.99\n"
        pair.config(kme).write_text(text + '[[policy]]\nmaster="sae-a1"\nslave="sae-b1"\npriority=1\n')
    async with pair.running() as processes, pair.client("sae-a1") as client:
        multicast = processes[A]._multicast
        async with asyncio.timeout(30.0):
            while (await client.status("sae-b1")).stored_key_count < 64:
                await asyncio.sleep(0.02)
        names = [SaeId("sae-b1"), SaeId("sae-b2")]
        before = keys_used(processes[A])
        with pytest.raises(Unavailable):
            await multicast.draw(SaeId("sae-a1"), names, 1, 256, lambda *_: None, NO_DEMANDS)
        assert keys_used(processes[A]) == before


async def test_copies_that_are_older_than_a_policy_allows_are_not_served(pair):  # noqa: F811
    pair.link_lines = "max_age_s = 86400"
    configured(pair, '[[policy]]\nmaster="sae-a1"\nslave="*"\nmax_age_s=3600.0')
    async with served(pair) as (processes, raws):
        keys = (await drawn(raws, number=1))["keys"]
        for process in processes.values():
            clock = process._clock
            process._multicast._clock = Later(clock, 3700.0)
        assert (await fetched(raws["sae-b1"], keys))[1]["message"] == NOT_FOUND


class Later:
    """A clock that is ahead."""

    def __init__(self, clock, by_s):
        self._clock, self._by_s = clock, by_s

    def now_s(self):
        return self._clock.now_s() + self._by_s

    def wall_s(self):
        return self._clock.wall_s() + self._by_s


async def test_every_slave_is_told_that_copies_travelled_over_a_simulated_link(pair):  # noqa: F811
    async with served(pair) as (_, raws):
        keys = (await drawn(raws, number=1))["keys"]
        for slave in ("sae-b1", "sae-a2"):
            _, got = await fetched(raws[slave], keys)
            source = got["key_container_extension"]["shosoin_source"]
            assert (source["kind"], source["simulated"]) == ("multicast", True), slave


async def test_one_master_s_unfetched_copies_keep_no_other_master_out(pair, monkeypatch):  # noqa: F811
    monkeypatch.setattr("shosoin.keys.multicast._HELD_MAX", 12)
    async with served(pair) as (_, raws):
        statuses = []
        for _ in range(8):
            body = {"number": 1, "additional_slave_SAE_IDs": ["sae-b2"]}
            statuses.append((await raws["sae-a1"].ask("POST", PATH, json=body))[0])
        assert statuses[0] == 200
        assert statuses[-1] == 503
        assert (await raws["sae-a2"].ask("POST", PATH, json=body))[0] == 200


# Lying peers


async def test_a_peer_s_copies_do_not_stand_before_keys_of_others(pair):  # noqa: F811
    async with served(pair) as (processes, raws):
        _, local = await raws["sae-b2"].ask("POST", PATH, json={"number": 1})
        key_id = local["keys"][0]["key_ID"]
        copy = HeldCopy(key_id, SaeId("sae-b2"), SaeId("sae-a1"), A, 1.0, 32, frozenset({SaeId("sae-b2")}), bytes(32))
        held = processes[B]._multicast
        held._copies.store.add_held([copy])
        held._remember([copy])
        status, got = await fetched(raws["sae-b1"], local["keys"], master="sae-b2")
        assert (status, got["keys"]) == (200, local["keys"])


async def test_a_claim_of_very_many_keys_is_refused_unread(pair):  # noqa: F811
    async with served(pair) as (processes, _):
        ids = [str(uuid.UUID(int=number)) for number in range(100_000)]
        body = json.dumps({"slave": "sae-b1", "key_ids": ids}).encode()
        with pytest.raises(kme_requests.PeerRefused, match="not a claim"):
            await processes[B].links.requests.ask(A, "multicast/claim", body, 60.0)


async def test_questions_to_a_peer_that_reads_nothing_take_bounded_memory():
    taken = []

    async def never_reads(reader, writer):
        taken.append(writer)
        writer.transport.pause_reading()
        await asyncio.Event().wait()

    server = await asyncio.start_server(never_reads, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    lines = PeerRequests({B})
    channel = Channel(B, ChannelKind.REQUESTS, reader, writer)
    task = asyncio.create_task(lines.handle(channel))
    try:
        await until(lambda: lines.is_connected(B) and taken)
        for _ in range(40):
            with pytest.raises(Unavailable):
                await lines.ask(B, "multicast/copy", bytes(1 << 20), 0.01)
        assert writer.transport.get_write_buffer_size() < 24 << 20
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for one in (writer, *taken):
            one.transport.abort()
        server.close()


async def test_questions_of_a_peer_take_bounded_memory(monkeypatch):
    """Bodies that wait for their answer are not read without end."""
    got, go = [], asyncio.Event()

    async def slow(_, body):
        got.append(len(body))
        await go.wait()
        return b""

    ends = []
    both = asyncio.Event()

    async def accept(reader, writer):
        ends.append((reader, writer))
        both.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await both.wait()
    lines = PeerRequests({B})
    lines.serve("slow", slow)
    task = asyncio.create_task(lines.handle(Channel(B, ChannelKind.REQUESTS, *ends[0])))
    try:
        frame = kme_requests._frame(kme_requests._QUESTION, 1, "slow", bytes(8 << 20))
        for _ in range(24):
            writer.write(len(frame).to_bytes(4) + frame)
        await until(lambda: len(got) >= 4)
        await asyncio.sleep(1.0)
        assert sum(got) <= 64 << 20
        go.set()
        await until(lambda: len(got) == 24)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for one in (writer, ends[0][1]):
            one.transport.abort()
        server.close()


# The store


def test_a_claim_that_fails_leaves_the_store_usable(tmp_path):
    store = CopyStore(tmp_path / "copies.sqlite", bytes(32))
    store.add_sent([("k", SaeId("s"), B)], 1.0)
    with sqlite3.connect(tmp_path / "copies.sqlite") as other:
        other.execute("CREATE TRIGGER broken BEFORE DELETE ON sent BEGIN SELECT RAISE(FAIL, 'disk'); END")
    with pytest.raises(StreamRefused):
        store.claim(B, SaeId("s"), ["k"])
    store._database.execute("DROP TRIGGER broken")
    assert store.claim(B, SaeId("s"), ["k"])
    assert not store.claim(B, SaeId("s"), ["k"])
    store.close()


def test_a_copy_that_expired_while_it_was_taken_is_not_found_rather_than_damaged(tmp_path):
    store = CopyStore(tmp_path / "copies.sqlite", bytes(32))
    copy = HeldCopy("k", SaeId("s"), SaeId("m"), A, 1.0, 8, frozenset({SaeId("s")}), bytes(8))
    store.add_held([copy])
    store.expire(2.0, 3.0)
    with pytest.raises(KeyNotFound):
        store.take_held([copy])
    store.close()


async def test_two_kmes_that_ask_each_other_very_much_at_once_never_wait_for_one_another(tmp_path, monkeypatch):
    monkeypatch.setattr(kme_requests, "_OPEN_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(kme_requests, "_UNSENT_BYTES_MAX", 1 << 30)

    async def swap(_, body):
        return body

    async with connected(tmp_path) as (at_a, at_b):
        for end in (at_a, at_b):
            end.serve("swap", swap)
        body = bytes(1 << 20)
        asked = [end.ask(peer, "swap", body, 20.0) for end, peer in ((at_a, B), (at_b, A)) for _ in range(24)]
        assert [len(answer) for answer in await asyncio.gather(*asked)] == [len(body)] * 48


async def test_what_cannot_be_sent_now_costs_neither_bits_nor_quota(pair):  # noqa: F811
    configured(pair, '[[policy]]\nmaster="sae-a1"\nslave="sae-b1"\nbits_per_s=0.001\nburst_bits=1024.0')
    async with served(pair) as (processes, raws):
        body = {"additional_slave_SAE_IDs": ["sae-b2"]}
        line = processes[A].links.requests._lines[B]
        channel, line.channel = line.channel, None
        before = keys_used(processes[A])
        for _ in range(6):
            assert (await raws["sae-a1"].ask("POST", PATH, json=body))[0] == 503
        line.channel = channel
        assert (await raws["sae-a1"].ask("POST", PATH, json=body))[0] == 200
        assert keys_used(processes[A]) <= before + 2


async def test_a_master_whose_own_kme_has_no_room_loses_no_stock(pair):  # noqa: F811
    async with served(pair) as (processes, raws):
        local = processes[A]._multicast._kme._local
        local._capacity_bytes = 16
        before = keys_used(processes[A])
        assert (await raws["sae-a1"].ask("POST", PATH, json={"additional_slave_SAE_IDs": ["sae-a2"]}))[0] == 503
        assert keys_used(processes[A]) == before
