"""What must not harm a KME that serves ETSI GS QKD 004: bytes that are no frames, strangers, greed, slowness."""

import asyncio
import logging
import random
import struct
import uuid
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from shosoin.base import KmeId, PeerFault, SaeId
from shosoin.keys.stream004 import CallRefused
from shosoin.keys.wire004 import CloseRequest, GetKeyRequest, OpenConnectRequest, Service, Status, encode_frame
from shosoin.services.etsi004_messages import AskChunk, AskState, Join, Leave, Void, pack, qos_list
from tests.support.client004 import QOS, Client004, header
from tests.support.kme import KmePair, until
from tests.support.operations import Scraper, with_operations
from tests.support.pki import TestAuthority

pytestmark = pytest.mark.processes


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 18, etsi004={"max_connections": 16, "max_streams_per_sae": 3})


async def stocked(kmes):
    await until(lambda: kmes["kme-a"].kme.status("sae-a1", "sae-b1").stored_key_count > 8)
    await until(lambda: kmes["kme-b"].kme.status("sae-b1", "sae-a1").stored_key_count > 8)


async def test_bytes_that_are_no_frames_end_the_connection(pair):
    frames = [
        header(4, 24, version=(2, 0, 0)) + bytes(24),
        header(1, 0),
        header(6, 24) + bytes(24),
        header(255, 0),
        header(Service.GET_KEY_RESPONSE, 4) + bytes(4),
        header(4, 0xFFFFFFFF),
        header(2, 1 << 20),
        header(4, 23) + bytes(23),
        header(8, 17) + bytes(17),
        header(2, 400) + b"a" * 400,
        header(2, 303) + b"\xff\0\xff\0" + bytes(299),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        random.Random(5).randbytes(4000),
    ]
    async with pair.running("kme-a") as kmes:
        tally = kmes["kme-a"].services["etsi004"].tally
        for count, raw in enumerate(frames, 1):
            async with Client004(pair, "sae-a1") as client:
                assert await client.ends_after(raw) == b""
            await until(lambda: tally.refusals["", "", "etsi004.malformed"] == count)  # noqa: B023
        # What came before the nonsense was answered.
        async with Client004(pair, "sae-a1") as client:
            raw = encode_frame(CloseRequest(uuid.uuid4())) + b"\0" * 8
            assert await client.ends_after(raw) == header(9, 4) + struct.pack(">I", 4)
        async with Client004(pair, "sae-a1") as client:
            assert (await client.open("sae-a2")).status == Status.PEER_NOT_CONNECTED


async def test_frames_cut_short(pair):
    whole = encode_frame(GetKeyRequest(uuid.uuid4(), 0, 0))
    async with pair.running("kme-a") as kmes:
        for cut in (1, 7, 8, 9, len(whole) - 1):
            async with Client004(pair, "sae-a1") as client:
                client.writer.write(whole[:cut])
                await client.writer.drain()
        await until(lambda: kmes["kme-a"].services["etsi004"].guard.open == 0)
        async with Client004(pair, "sae-a1") as client:
            assert (await client.close(uuid.uuid4())).status == Status.NO_QKD_CONNECTION


async def test_a_connection_that_says_nothing_or_takes_nothing_ends(tmp_path):
    section = {"idle_timeout_s": 3.0, "max_chunk_bytes": 1 << 20, "max_stream_reserved_bytes": 1 << 23}
    pair = KmePair(tmp_path, stock_bits=1 << 12, etsi004=section)
    async with pair.running("kme-a") as kmes:
        guard = kmes["kme-a"].services["etsi004"].guard
        async with Client004(pair, "sae-a1") as silent, Client004(pair, "sae-a1") as slow:
            slow.writer.write(encode_frame(CloseRequest(uuid.uuid4()))[:-1])
            assert await silent.ends_after(b"") == b""
            assert await slow.ends_after(b"") == b""
        async with Client004(pair, "sae-a1") as a, Client004(pair, "sae-a2") as b:
            qos = replace(QOS, key_chunk_size_bytes=1 << 20, max_bps=100_000_000)
            ksid = (await a.open("sae-a2", qos)).key_stream_id
            assert (await b.open("sae-a1", ksid=ksid)).status == Status.SUCCESS
            a.writer.transport.pause_reading()
            for index in range(8):
                a.writer.write(encode_frame(GetKeyRequest(ksid, index, 0)))
            await until(lambda: guard.open <= 1)


async def test_pipelined_requests_are_answered_in_turn(pair):
    async with pair.running() as kmes:
        await stocked(kmes)
        async with Client004(pair, "sae-a1") as a, Client004(pair, "sae-b1") as b:
            ksid = (await a.open("sae-b1")).key_stream_id
            await b.open("sae-a1", ksid=ksid)
            a.writer.write(b"".join(encode_frame(GetKeyRequest(ksid, index, 0)) for index in range(200)))
            answers = [await a.answer() for _ in range(200)]
            assert [answer.index for answer in answers] == list(range(200))
            assert len({answer.key for answer in answers}) == 200


async def test_many_calls_for_one_chunk_give_it_once(pair):
    async with AsyncExitStack() as stack, pair.running() as kmes:
        await stocked(kmes)
        ends = {"sae-a1": "sae-b1", "sae-b1": "sae-a1"}
        clients = {sae: [await stack.enter_async_context(Client004(pair, sae)) for _ in range(6)] for sae in ends}
        ksid = (await clients["sae-a1"][0].open("sae-b1")).key_stream_id
        await clients["sae-b1"][0].open("sae-a1", ksid=ksid)
        keys = {}
        for index in range(10):
            calls = [(sae, client.get(ksid, index)) for sae in ends for client in clients[sae]]
            answers = await asyncio.gather(*(call for _, call in calls))
            for sae in ends:
                own = [answer for (name, _), answer in zip(calls, answers, strict=True) if name == sae]
                assert sorted(answer.status for answer in own) == [0, 2, 2, 2, 2, 2]
                keys[sae, index] = next(answer.key for answer in own if answer.status == 0)
            assert keys["sae-a1", index] == keys["sae-b1", index]
        assert len(set(keys.values())) == 10


async def test_streams_and_connections_of_one_sae_are_bounded(pair):
    async with AsyncExitStack() as stack, pair.running() as kmes:
        await stocked(kmes)
        guard = kmes["kme-a"].services["etsi004"].guard
        clients = [await stack.enter_async_context(Client004(pair, "sae-a1")) for _ in range(8)]
        async with Client004(pair, "sae-a1") as one_more:
            assert await one_more.ends_after(b"") == b""
        other = await stack.enter_async_context(Client004(pair, "sae-a2"))
        made = [await clients[0].open("sae-b1") for _ in range(3)]
        assert [answer.status for answer in made] == [Status.PEER_NOT_CONNECTED] * 3
        assert (await clients[1].open("sae-b1")).status == Status.NO_QKD_CONNECTION
        assert (await other.open("sae-b1")).status == Status.PEER_NOT_CONNECTED
        assert guard.refused == 1
        assert (await clients[0].close(made[0].key_stream_id)).status == Status.SUCCESS
        assert (await clients[1].open("sae-b1")).status == Status.PEER_NOT_CONNECTED
        # Nor can one fill another's KME by joining what is not there.
        far = await stack.enter_async_context(Client004(pair, "sae-b1"))
        waiting = [await stack.enter_async_context(Client004(pair, "sae-b1")) for _ in range(3)]
        asked = [
            asyncio.create_task(client.open("sae-a1", replace(QOS, timeout_ms=30_000), uuid.uuid4()))
            for client in waiting
        ]
        await until(lambda: kmes["kme-b"].services["etsi004"].streams.ends["far"] == 3)
        assert (await far.open("sae-a1", ksid=uuid.uuid4())).status == Status.NO_QKD_CONNECTION
        for task in asked:
            task.cancel()


async def test_one_end_cannot_run_ahead(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 18, etsi004={"max_stream_reserved_bytes": 320})
    async with pair.running() as kmes:
        await stocked(kmes)
        async with Client004(pair, "sae-a1") as a, Client004(pair, "sae-b1") as b:
            ksid = (await a.open("sae-b1")).key_stream_id
            await b.open("sae-a1", ksid=ksid)
            for ahead, behind in ((a, b), (b, a)):
                index = 0 if ahead is a else 100
                if index:
                    for skipped in range(10, 101, 10):
                        await a.get(ksid, skipped)
                        await b.get(ksid, skipped)
                    index = 101
                statuses = [(await ahead.get(ksid, index + step)).status for step in range(12)]
                assert statuses == [Status.SUCCESS] * 10 + [Status.INSUFFICIENT_KEY] * 2
                assert (await behind.get(ksid, index)).status == Status.SUCCESS
                assert (await ahead.get(ksid, index + 10)).status == Status.SUCCESS
                for step in range(1, 11):
                    await behind.get(ksid, index + step)
            assert (await a.get(ksid, 1_000_000)).status == Status.INSUFFICIENT_KEY


async def test_reserved_key_in_memory_is_bounded(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 18, etsi004={"max_chunk_bytes": 1024, "max_reserved_bytes": 4096})
    async with pair.running() as kmes:
        await stocked(kmes)
        reserved = kmes["kme-a"].services["etsi004"].memory["chunks"]
        async with Client004(pair, "sae-a1") as a, Client004(pair, "sae-b1") as b:
            streams = []
            for _ in range(2):
                streams.append((await a.open("sae-b1")).key_stream_id)
                await b.open("sae-a1", ksid=streams[-1])
            statuses = [(await b.get(streams[index % 2], index // 2)).status for index in range(66)]
            assert statuses == [Status.SUCCESS] * 64 + [Status.INSUFFICIENT_KEY] * 2  # half of 4096 bytes
            assert reserved.held_bytes == 2048
            assert (await a.get(streams[1], 0)).status == Status.SUCCESS
            assert (await b.get(streams[0], 32)).status == Status.SUCCESS
            for stream in streams:
                assert (await a.close(stream)).status == Status.SUCCESS
            assert reserved.held_bytes == 0


async def test_certificates_of_others(pair):
    other_plane = TestAuthority(pair.root / "pki-other", "other-plane")
    foreign = other_plane.issue("sae", "sae-a1")
    async with pair.running("kme-a"):
        with pytest.raises((OSError, EOFError)):
            async with Client004(pair, "sae-a1", files=foreign) as client:
                await client.close(uuid.uuid4())
        kme = pair.sae_plane.issue("kme", "kme-b")
        nobody = pair.sae_plane.issue("sae", "sae-a1", uris=[])
        elsewhere = pair.saes["sae-b1"]
        for files in (kme, nobody, elsewhere):
            async with Client004(pair, "sae-a1", files=files) as client:
                assert (await client.open("sae-a2")).status == Status.NO_QKD_CONNECTION
                assert (await client.get(uuid.uuid4(), 0)).status == Status.NO_QKD_CONNECTION
                assert (await client.close(uuid.uuid4())).status == Status.NO_QKD_CONNECTION


async def test_another_kme_cannot_ask_for_what_is_not_its_own(pair):
    async with pair.running() as kmes:
        await stocked(kmes)
        serve = kmes["kme-a"].services["etsi004"].streams._serve
        async with Client004(pair, "sae-a1") as a, Client004(pair, "sae-b1") as b:
            ksid = (await a.open("sae-b1")).key_stream_id
            await b.open("sae-a1", ksid=ksid)
            key = (await a.get(ksid, 0)).key
            far = kmes["kme-b"].services["etsi004"].streams._far.get(ksid)
            name = str(ksid)
            questions = [
                AskChunk(name, "", 0),
                AskChunk(name, far.token[:-1] + "x", 0),
                AskState(str(uuid.uuid4()), far.token),
                Leave(name, "é"),
                Join(name, "sae-a2", "sae-a1", qos_list(QOS)),
                Join(name, "sae-b1", "sae-b2", qos_list(QOS)),
                Join(name, "sae-b2", "sae-a1", qos_list(QOS)),
                Join(name, "sae-b1", "sae-a1", [1, 2]),
                Void(name, far.run, "sae-a1", "sae-a2", ["x"], over=True),
            ]
            for question in questions:
                with pytest.raises((PeerFault, CallRefused)):
                    await serve(KmeId("kme-b"), pack(question))
            with pytest.raises(CallRefused):
                await serve(KmeId("kme-c"), pack(AskChunk(name, far.token, 0)))
            for caller, other in (("sae-a2", "sae-a1"), ("sae-b1", "sae-b2"), ("sae-a1", "sae-a1")):
                with pytest.raises(PeerFault):
                    await serve(KmeId("kme-b"), pack(Join(str(uuid.uuid4()), caller, other, qos_list(QOS))))
            assert kmes["kme-a"].services["etsi004"].streams.ends == {"near": 1, "far": 0}
            for raw in (b"", b"[]", b"{}", b'{"op":"chunk"}', b"[" * 100_000, b'{"op":"state","ksid":1,"token":""}'):
                with pytest.raises(PeerFault):
                    await serve(KmeId("kme-b"), raw)
            assert (await b.get(ksid, 0)).key == key


async def test_another_kme_cannot_fill_the_table(pair):
    async with pair.running() as kmes:
        await stocked(kmes)
        streams = kmes["kme-a"].services["etsi004"].streams
        made = refused = 0
        for _ in range(200):
            try:
                caller = random.choice(["sae-b1", "sae-b2"])
                await streams._serve(KmeId("kme-b"), pack(Join(str(uuid.uuid4()), caller, "sae-a1", qos_list(QOS))))
                made += 1
            except CallRefused:
                refused += 1
        assert made == streams.ends["near"] == 6  # three of each
        assert refused == 194
        async with Client004(pair, "sae-a1") as a:
            assert (await a.open("sae-a2")).status == Status.PEER_NOT_CONNECTED


async def test_a_lying_home_gets_no_bit_given_twice(pair):
    async with pair.running() as kmes:
        await stocked(kmes)
        async with Client004(pair, "sae-a1") as a, Client004(pair, "sae-b1") as b:
            ksid = (await a.open("sae-b1")).key_stream_id
            await b.open("sae-a1", ksid=ksid)
            keys = [(await a.get(ksid, index)).key for index in range(5)]
            assert (await b.get(ksid, 0)).key == keys[0]
            stream = kmes["kme-a"].services["etsi004"].streams.homes.get(ksid).stream
            for index, lie in ((1, stream.chunk(0).key_id), (2, "no key"), (3, str(uuid.uuid4()))):
                stream.chunk(index).key_id = lie
                assert (await b.get(ksid, index)).status == Status.INSUFFICIENT_KEY
            # Nor does what it makes up count as the application's guesses.
            far = kmes["kme-b"].services["etsi004"].streams
            void = Void(str(ksid), "", "sae-a1", "sae-b1", [str(uuid.uuid4()) for _ in range(4096)], over=False)
            for _ in range(6):
                await far._serve(KmeId("kme-a"), pack(void))
            kmes["kme-b"].kme._guesses.check(SaeId("sae-b1"), 19_000)
            assert (await b.get(ksid, 4)).key == keys[4]


async def test_who_leaves_while_a_call_waits_leaves_nothing_behind(pair):
    async with pair.running() as kmes:
        await stocked(kmes)
        ends = [kme.services["etsi004"].streams for kme in kmes.values()]
        patient = replace(QOS, timeout_ms=60_000, max_bps=1)
        for sae, other in (("sae-a1", "sae-b1"), ("sae-b1", "sae-a1")):
            async with Client004(pair, sae) as client:
                client.writer.write(encode_frame(OpenConnectRequest(sae, other, patient, uuid.uuid4())))
                await until(lambda: any(sum(one.ends.values()) for one in ends))
            await until(lambda: not any(sum(one.ends.values()) for one in ends))
        async with Client004(pair, "sae-b1") as b:
            async with Client004(pair, "sae-a1") as a:
                ksid = (await a.open("sae-b1", patient)).key_stream_id
                await b.open("sae-a1", ksid=ksid)
                await a.get(ksid, 0)
                a.writer.write(encode_frame(GetKeyRequest(ksid, 1, 0)))  # has to wait for its Max_bps
                await a.writer.drain()
            await until(lambda: kmes["kme-a"].services["etsi004"].guard.open == 0)
            assert (await b.get(ksid, 0)).status == Status.SUCCESS
            drawn = kmes["kme-a"].drivers["kme-b"].pair.outgoing.tally.delivered.keys
            assert drawn == 1  # nothing was drawn for who had left


async def test_metrics_and_logs_without_keys(pair, caplog):
    with_operations(pair)
    caplog.set_level(logging.INFO, "shosoin.kme")
    async with pair.running() as kmes:
        await stocked(kmes)
        async with Client004(pair, "sae-a1") as a, Client004(pair, "sae-b1") as b:
            ksid = (await a.open("sae-b1")).key_stream_id
            await b.open("sae-a1", ksid=ksid)
            key = (await a.get(ksid, 0)).key
            await a.get(ksid, 0)
            async with Scraper(kmes["kme-a"]) as scraper:
                _, _, text = await scraper.ask("/metrics")
            for line in (
                'shosoin_kme_request_seconds_count{interface="etsi004",method="get_key",status="0"} 1.0',
                'shosoin_kme_refusals_total{code="etsi004.insufficient_key",direction="",interface="etsi004",',
                'shosoin_kme_connections{interface="etsi004"} 1.0',
                'shosoin_kme_memory_held_bytes{budget="chunks",interface="etsi004"} 0.0',
                'shosoin_kme_key_streams{end="near"} 1.0',
            ):
                assert line in text
        logged = str([vars(record) for record in caplog.records])
        assert key.hex() not in text + logged
        assert repr(key)[2:-1] not in logged
        assert str(ksid) in logged
