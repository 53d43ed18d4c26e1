"""ETSI GS QKD 004 over real mutual TLS, between two real KMEs: both orders of opening, every status."""

import asyncio
import json
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from shosoin.keys.stream004 import NEXT_INDEX
from shosoin.keys.wire004 import Status
from tests.support.client004 import QOS, Client004
from tests.support.kme import KmePair, until

pytestmark = pytest.mark.processes


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 18, etsi004={})


@asynccontextmanager
async def running(pair, *saes):
    """Run both KMEs and connect some SAEs."""
    async with pair.running() as kmes:
        await until(
            lambda: all(kme.links.states()[peer]["open"] for kme in kmes.values() for peer in kme.links.states())
        )
        clients = [await Client004(pair, sae).__aenter__() for sae in saes]
        kme_a, kme_b = kmes["kme-a"].kme, kmes["kme-b"].kme
        await until(lambda: kme_a.status("sae-a1", "sae-b1").stored_key_count > 8)
        await until(lambda: kme_b.status("sae-b1", "sae-a1").stored_key_count > 8)
        try:
            yield [kmes, *clients]
        finally:
            for client in clients:
                await client.__aexit__()


async def joined(a, b, qos=QOS):
    """Make a stream at ``a`` and join it at ``b``."""
    made = await a.open(b.sae, qos)
    assert made.status == Status.PEER_NOT_CONNECTED
    taken = await b.open(a.sae, ksid=made.key_stream_id)
    assert taken.status == Status.SUCCESS
    assert taken.qos == made.qos
    return made.key_stream_id


def home(kmes, ksid):
    """The home of a stream, at whichever KME it is; nothing before somebody opened it."""
    found = (kme.services["etsi004"].streams.homes.get(ksid) for kme in kmes.values())
    return next((one for one in found if one is not None), None)


async def chunk(client, ksid, index, **options):
    got = await client.get(ksid, index, **options)
    assert got.status == Status.SUCCESS, Status(got.status)
    return got.key


@pytest.mark.parametrize(("one", "other"), [("sae-a1", "sae-b1"), ("sae-b1", "sae-a1"), ("sae-a1", "sae-a2")])
async def test_both_ends_get_the_same_chunks_once(pair, one, other):
    async with running(pair, one, other) as (_, a, b):
        ksid = await joined(a, b)
        assert ksid.version == 4
        chunks = [await chunk(a, ksid, index) for index in range(6)]
        assert [await chunk(b, ksid, index) for index in (5, 0, 1, 2, 3, 4)] == [chunks[5], *chunks[:5]]
        assert len(set(chunks)) == 6
        later = await chunk(b, ksid, 6)
        assert await chunk(a, ksid, 6) == later
        for client in (a, b):
            assert (await client.get(ksid, 3)).status == Status.INSUFFICIENT_KEY
            assert (await client.close(ksid)).status == Status.SUCCESS
            assert (await client.get(ksid, 7)).status == Status.NO_QKD_CONNECTION
            assert (await client.close(ksid)).status == Status.NO_QKD_CONNECTION


@pytest.mark.parametrize(("one", "other"), [("sae-a1", "sae-b1"), ("sae-b1", "sae-a1"), ("sae-a2", "sae-a1")])
async def test_a_predefined_ksid_in_whatever_order(pair, one, other):
    async with running(pair, one, other) as (kmes, a, b):
        for first, second in ((a, b), (b, a)):
            ksid = uuid.uuid4()
            waiting = asyncio.create_task(first.open(second.sae, replace(QOS, timeout_ms=20_000), ksid))
            await until(lambda: home(kmes, ksid) is not None)  # noqa: B023
            assert not waiting.done()
            assert (await second.open(first.sae, QOS, ksid)).status == Status.SUCCESS
            opened = await waiting
            assert (opened.status, opened.key_stream_id) == (Status.SUCCESS, ksid)
            assert await chunk(first, ksid, 0) == await chunk(second, ksid, 0)
        ksid = uuid.uuid4()
        both = await asyncio.gather(a.open(b.sae, QOS, ksid), b.open(a.sae, QOS, ksid))
        assert [answer.status for answer in both] == [Status.SUCCESS, Status.SUCCESS]
        assert await chunk(b, ksid, 0) == await chunk(a, ksid, 0)


async def test_nobody_comes(pair):
    async with running(pair, "sae-a1", "sae-b1") as (kmes, a, b):
        for client, other in ((a, "sae-b1"), (b, "sae-a1"), (a, "sae-a2")):
            ksid = uuid.uuid4()
            answer = await client.open(other, replace(QOS, timeout_ms=150), ksid)
            assert answer.status == Status.TIMEOUT
            assert (await client.get(ksid, 0)).status == Status.NO_QKD_CONNECTION
        streams = [kme.services["etsi004"].streams for kme in kmes.values()]
        assert all(count == 0 for one in streams for count in one.ends.values())
        made = await a.open("sae-b1")
        assert (await a.get(made.key_stream_id, 0)).status == Status.PEER_NOT_CONNECTED_GET_KEY


async def test_the_next_chunk_without_counting(pair):
    async with running(pair, "sae-a1", "sae-b1") as (_, a, b):
        ksid = await joined(a, b)
        first = await a.get(ksid, NEXT_INDEX)
        second = await a.get(ksid, NEXT_INDEX)
        assert (first.index, second.index) == (0, 1)
        assert (await chunk(b, ksid, 1), (await b.get(ksid, NEXT_INDEX)).index) == (second.key, 2)
        assert await chunk(b, ksid, 0) == first.key


async def test_qos_is_negotiated(pair):
    async with running(pair, "sae-a1", "sae-b1") as (kmes, a, b):
        rate_bps = kmes["kme-a"].kme.partners("sae-a1")["sae-b1"].secret_key_rate_bps
        free = await a.open("sae-b1", replace(QOS, key_chunk_size_bytes=0, max_bps=0, timeout_ms=0, ttl_s=0))
        assert free.status == Status.PEER_NOT_CONNECTED
        assert (free.qos.key_chunk_size_bytes, free.qos.timeout_ms, free.qos.ttl_s) == (32, 5000, 3600)
        asked: list[tuple[str, Any, Any]] = [
            ("key_chunk_size_bytes", 1 << 20, 65536),
            ("max_bps", 4_000_000_000, 100_000_000),
            ("min_bps", 900_000_000, int(rate_bps)),
            ("jitter_bps", 7, 100_000_000),
            ("priority", 7, 0),
            ("timeout_ms", 3_600_000, 60_000),
            ("ttl_s", 864_000, 86_400),
            ("metadata_mimetype", "application/xml", "application/json"),
        ]
        for name, wanted, had in asked:
            answer = await a.open("sae-b1", replace(replace(QOS, max_bps=100_000_000), **{name: wanted}))
            assert answer.status == Status.QOS_NOT_MET, name
            assert getattr(answer.qos, name) == had, name
        # A proposal can be taken up as it is, or better be asked for anew, or closed.
        assert (await b.open("sae-a1", ksid=answer.key_stream_id)).qos == answer.qos
        assert await chunk(a, answer.key_stream_id, 0) == await chunk(b, answer.key_stream_id, 0)
        proposed = await a.open("sae-b1", replace(QOS, ttl_s=864_000))
        again = await a.open("sae-b1", proposed.qos, proposed.key_stream_id)
        assert again == replace(proposed, status=Status.PEER_NOT_CONNECTED)
        assert (await a.close(proposed.key_stream_id)).status == Status.SUCCESS


RULES = """
[[policy]]
master = "sae-a1"
slave = "sae-b1"
priority = 2
"""


async def test_priority_takes_the_terms_and_counts_where_the_stock_is_short(tmp_path):
    """Two streams of one SAE with a priority, one of another without: who may have the last of the stock."""
    pair = KmePair(
        tmp_path,
        stock_bits=1 << 18,
        attenuation_db=90.0,  # nothing is added
        etsi004={},
        link_lines="reserved_share = 0.01",  # of 4 Mib: 41,943 bits
        extra={"end": RULES},
    )
    async with running(pair, "sae-a1", "sae-a2", "sae-b1") as (kmes, a1, a2, b1):
        asked = await a1.open("sae-b1", replace(QOS, priority=9))
        assert (asked.status, asked.qos.priority) == (Status.QOS_NOT_MET, 2)
        plain = await a2.open("sae-b1", replace(QOS, priority=1))
        assert (plain.status, plain.qos.priority) == (Status.QOS_NOT_MET, 0)
        low = await joined(a1, b1, replace(QOS, key_chunk_size_bytes=1024, priority=1))
        high = await a1.open("sae-b1", replace(QOS, key_chunk_size_bytes=1024))
        assert (high.status, high.qos.priority) == (Status.PEER_NOT_CONNECTED, 2), "left to us it is that of the terms"
        assert (await b1.open("sae-a1", ksid=high.key_stream_id)).status == Status.SUCCESS
        none = await joined(a2, b1, replace(QOS, key_chunk_size_bytes=1024))
        homes = kmes["kme-a"].services["etsi004"].streams.homes
        homes.get(high.key_stream_id).stream.qos = replace(high.qos, min_bps=20_000)  # as a faster link would promise
        stock = kmes["kme-a"].drivers["kme-b"].pair.outgoing.stock_granules
        left = {}
        for name, client, ksid in (("none", a2, none), ("low", a1, low), ("high", a1, high.key_stream_id)):
            for index in range(1000):
                if (await client.get(ksid, index)).status != Status.SUCCESS:
                    break
            left[name] = stock() * 256
        reserved, promised, chunk_bits = 41_943, 20_000, 8192
        assert reserved + promised - 256 < left["none"] < reserved + promised + chunk_bits
        assert promised - 256 < left["low"] < promised + chunk_bits
        assert left["high"] < chunk_bits


async def test_a_proposal_to_the_far_end(pair):
    async with running(pair, "sae-a1", "sae-b1") as (kmes, a, b):
        ksid = uuid.uuid4()
        proposed = await b.open("sae-a1", replace(QOS, ttl_s=864_000), ksid)
        assert (proposed.status, proposed.qos.ttl_s) == (Status.QOS_NOT_MET, 86_400)
        waiting = asyncio.create_task(b.open("sae-a1", proposed.qos, ksid))
        await until(lambda: not home(kmes, ksid).proposed)
        assert not waiting.done()
        assert (await a.open("sae-b1", QOS, ksid)).qos == proposed.qos
        assert (await waiting).status == Status.SUCCESS
        assert await chunk(a, ksid, 0) == await chunk(b, ksid, 0)


async def test_min_bps_is_promised_once(pair):
    async with running(pair, "sae-a1", "sae-a2") as (kmes, a, a2):
        rate_bps = int(kmes["kme-a"].kme.partners("sae-a1")["sae-b1"].secret_key_rate_bps)
        wanted = replace(QOS, max_bps=100_000_000, min_bps=rate_bps - 1000)
        first = await a.open("sae-b1", wanted)
        assert first.status == Status.PEER_NOT_CONNECTED
        second = await a2.open("sae-b2", wanted)
        assert (second.status, second.qos.min_bps) == (Status.QOS_NOT_MET, 1000)
        await a.close(first.key_stream_id)
        assert (await a2.open("sae-b2", wanted)).status == Status.PEER_NOT_CONNECTED


async def test_metadata(pair):
    async with running(pair, "sae-a1", "sae-b1") as (_, a, b):
        ksid = await joined(a, b)
        for client in (a, b):
            short = await client.get(ksid, 0, room=4)
            assert short.status == Status.METADATA_SIZE_INSUFFICIENT
            got = await client.get(ksid, 0, room=short.metadata_size_needed)  # without loss of key
            told = json.loads(got.metadata)
            assert got.status == Status.SUCCESS
            assert set(told) == {"age", "hops", "shosoin_kind", "shosoin_simulated"}
            assert (told["hops"], told["shosoin_kind"], told["shosoin_simulated"]) == (0, "simulated-qkd", True)
            assert (await client.get(ksid, 1, room=0)).metadata == b""
        silent = await joined(a, b, replace(QOS, metadata_mimetype=""))
        assert (await a.get(silent, 0)).metadata == b""


async def test_no_connection_and_ksid_in_use(pair):
    async with running(pair, "sae-a1", "sae-b1", "sae-a2", "sae-b2", "sae-a1") as (_, a, b, a2, b2, again):
        wrong = [
            {"destination": "qkd://nobody"},
            {"destination": "qkd://sae-a1"},
            {"source": "qkd://sae-a2"},
            {"source": "client", "destination": "server"},
            {"destination": "qkd://"},
        ]
        for ends in wrong:
            assert (await a.open("sae-b1", **ends)).status == Status.NO_QKD_CONNECTION, ends
        ksid = await joined(a, b)
        key = await chunk(a, ksid, 0)
        for stranger, others in ((a2, "sae-b1"), (b2, "sae-a1")):
            for name in (ksid, uuid.uuid4()):  # whether it exists is not told
                assert (await stranger.get(name, 0)).status == Status.NO_QKD_CONNECTION
                assert (await stranger.close(name)).status == Status.NO_QKD_CONNECTION
            assert (await stranger.open(others, ksid=ksid)).status == Status.KSID_IN_USE
        assert (await again.open("sae-b1", ksid=ksid)).status == Status.KSID_IN_USE
        assert (await a.open("sae-b1", ksid=ksid)).status == Status.KSID_IN_USE
        assert (await b.open("sae-a1", ksid=ksid)).status == Status.KSID_IN_USE
        assert await chunk(b, ksid, 0) == key


async def test_uris(pair):
    forms = ["sae-b1@kme.example", "any://sae-b1:25575/x?y", "qkd://sae-b1@host", "urn:shosoin:sae:sae-b1", "sae-b1"]
    async with running(pair, "sae-a1", "sae-b1") as (_, a, b):
        for form in forms:
            made = await a.open("", destination=form)
            assert made.status == Status.PEER_NOT_CONNECTED, form
            # Who calls may stand on either side: "the source will integrate the URI of the server".
            taken = await b.open("", ksid=made.key_stream_id, source="qkd://sae-a1", destination=form)
            assert taken.status == Status.SUCCESS


async def test_the_other_side_closes_or_leaves(pair):
    async with running(pair, "sae-a1", "sae-b1") as (kmes, a, b):
        for first, second in ((a, b), (b, a)):
            ksid = await joined(a, b)
            held = await chunk(first, ksid, 0)
            await chunk(second, ksid, 1)
            assert (await first.close(ksid)).status == Status.SUCCESS
            assert await chunk(second, ksid, 0) == held  # reserved before, and held until it closes too
            assert (await second.get(ksid, 2)).status == Status.PEER_NOT_CONNECTED_GET_KEY
            assert (await first.open(second.sae, ksid=ksid)).status == Status.KSID_IN_USE
            assert (await second.close(ksid)).status == Status.SUCCESS
        ends = [count for kme in kmes.values() for count in kme.services["etsi004"].streams.ends.values()]
        assert ends == [0, 0, 0, 0]
        incoming = kmes["kme-b"].drivers["kme-a"].pair.incoming.tally.delivered
        outgoing = kmes["kme-a"].drivers["kme-b"].pair.outgoing.tally.delivered
        await until(lambda: incoming.keys == outgoing.keys)  # what nobody asked for was burned at both ends


async def test_a_peer_that_comes_and_goes_at_once_was_there(pair):
    async with running(pair, "sae-a1", "sae-b1") as (_, a, b):
        for first, second in ((b, a), (a, b)):
            ksid = uuid.uuid4()
            waiting = asyncio.create_task(first.open(second.sae, QOS, ksid))
            await asyncio.sleep(0.5)  # by now it looks rarely
            assert (await second.open(first.sae, QOS, ksid)).status == Status.SUCCESS
            held = await chunk(second, ksid, 0)
            assert (await second.close(ksid)).status == Status.SUCCESS
            assert (await waiting).status == Status.SUCCESS
            assert await chunk(first, ksid, 0) == held
            assert (await first.close(ksid)).status == Status.SUCCESS


async def test_a_stream_survives_its_connections(pair):
    async with running(pair, "sae-a1", "sae-b1") as (_, a, b):
        ksid = await joined(a, b)
        keys = [await chunk(a, ksid, index) for index in range(2)]
        await chunk(b, ksid, 0)
        for sae, other in (("sae-a1", "sae-b1"), ("sae-b1", "sae-a1")):
            async with Client004(pair, sae) as client:  # beside the first connection
                await chunk(client, ksid, 5)
            await (a if sae == "sae-a1" else b).__aexit__()
            async with Client004(pair, sae) as client:
                async with asyncio.timeout(10):
                    while (await client.open(other, ksid=ksid)).status != Status.SUCCESS:
                        await asyncio.sleep(0.05)
                if sae == "sae-b1":
                    assert await chunk(client, ksid, 1) == keys[1]
                    assert (await client.get(ksid, 0)).status == Status.INSUFFICIENT_KEY


async def test_the_ttl_ends_a_stream_at_both_ends(pair):
    async with running(pair, "sae-a1", "sae-b1") as (kmes, a, b):
        ksid = await joined(a, b, replace(QOS, ttl_s=3))
        await chunk(a, ksid, 0)
        ends = [kme.services["etsi004"].streams for kme in kmes.values()]
        await until(lambda: not any(sum(one.ends.values()) for one in ends))
        for client in (a, b):
            assert (await client.get(ksid, 0)).status == Status.NO_QKD_CONNECTION
        incoming = kmes["kme-b"].drivers["kme-a"].pair.incoming.tally.delivered
        await until(lambda: incoming.keys == 1)  # burned where nobody asked for it
        assert all(kme.services["etsi004"].memory["chunks"].held_bytes == 0 for kme in kmes.values())


async def test_max_bps_is_a_token_bucket(pair):
    async with running(pair, "sae-a1", "sae-b1") as (_, a, b):
        ksid = await joined(a, b, replace(QOS, max_bps=1, timeout_ms=700))
        for client in (a, b):  # each end has its own
            statuses = [(await client.get(ksid, index)).status for index in range(3)]
            assert statuses == [Status.SUCCESS, Status.TIMEOUT, Status.TIMEOUT]  # one chunk is always there


async def test_a_dry_stream(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 14, attenuation_db=60.0, etsi004={})
    async with pair.running() as kmes:
        await until(lambda: kmes["kme-a"].kme.status("sae-a1", "sae-b1").stored_key_count > 8)
        await until(lambda: kmes["kme-b"].drivers["kme-a"].pair.is_open)
        async with Client004(pair, "sae-a1") as a, Client004(pair, "sae-b1") as b:
            ksid = await joined(a, b)
            index = 0
            while (got := await a.get(ksid, index)).status == Status.SUCCESS:
                assert await chunk(b, ksid, index) == got.key
                index += 1
            assert got.status == Status.INSUFFICIENT_KEY
            assert index > 0
            assert (await b.get(ksid, index)).status == Status.INSUFFICIENT_KEY


async def test_the_other_kme_is_away(pair):
    async with pair.running("kme-a"), Client004(pair, "sae-a1") as a:
        assert (await a.open("sae-b1")).status == Status.NO_QKD_CONNECTION
        assert (await a.open("sae-b1", ksid=uuid.uuid4())).status == Status.NO_QKD_CONNECTION
        assert (await a.open("sae-a2")).status == Status.PEER_NOT_CONNECTED


async def test_chunks_of_other_sizes(pair):
    async with running(pair, "sae-a1", "sae-b1") as (_, a, b):
        for size in (1, 33, 2000):
            ksid = await joined(a, b, replace(QOS, key_chunk_size_bytes=size, max_bps=10_000_000))
            keys = [await chunk(a, ksid, index) for index in range(2)]
            assert keys == [await chunk(b, ksid, index) for index in range(2)]
            assert {len(key) for key in keys} == {size}
