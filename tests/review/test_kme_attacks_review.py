"""REVIEW: attacks on the key manager that were tried; each must stay without effect."""

import asyncio
import contextlib
import dataclasses
import json
import socket
import sqlite3
from functools import partial

import pytest

from shosoin.adapters.stream_store import FileStreamStore
from shosoin.adapters.tls import client_context
from shosoin.base import KmeId, SaeId
from shosoin.keys.errors import KeyStreamDry, PairProtocolError
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.kme import Kme
from shosoin.keys.local import LocalKeys
from shosoin.keys.messages import (
    MESSAGE_BYTES_MAX,
    Announce,
    BlockState,
    BlockView,
    Hello,
    ReceiverView,
    SenderView,
    Stored,
    decode_message,
    encode_message,
)
from shosoin.keys.policy import KmeLimits, PolicyBook
from shosoin.keys.quota import Quota
from shosoin.keys.receiver import ReceivingEnd
from shosoin.keys.store import Batch, WipeRange
from shosoin.services.json_log import described, log
from shosoin.services.link_driver import LinkDriver, _Item
from tests.keys.world import CountedEntropy, World
from tests.support.kme import KmePair, until, until_stock

ALICE, ADA = SaeId("alice"), SaeId("ada")


class Hands:
    """A clock that stands still."""

    def now_s(self):
        return 0.0

    def wall_s(self):
        return 0.0


@pytest.fixture
def world():
    world = World()
    world.heal()
    return world


def produce(world, granules=12, name="a"):
    world.produce(name, granules, arrives=True)
    world.settle()


def drawn(world, number=1):
    for _ in range(4):
        key_ids = world.draw(world.ends["a"].pair, number, GRANULE_BYTES)
        world.settle()
        if key_ids:
            return key_ids
    raise AssertionError("nothing drawn")


# 1. A directory copied file by file while the KME stops: records of different moments stand side by side.


@pytest.mark.parametrize("torn", ["lost", "older"])
def test_k01_a_farewell_vouches_only_for_the_fetched_set_that_was_written_with_it(world, torn):
    produce(world)
    b = world.ends["b"]
    key_ids = drawn(world)
    older = None
    if torn == "older":
        b.later(lambda pair: pair.close())
        world.settle()
        older = b.disk.records["fetched/in"]
        b.crash()
        world.heal()
    assert world.fetch(b.pair, key_ids)
    b.later(lambda pair: pair.close())
    world.settle()
    b.crash()
    if older is None:
        del b.disk.records["fetched/in"]
    else:
        b.disk.records["fetched/in"] = older
    world.heal()
    assert not world.fetch(b.pair, key_ids)  # World.fetch asserts that no key is fetched twice


def test_k02_a_copy_of_a_running_receiver_is_named_and_both_ends_burn(world):
    """It starts one generation above the copy, as an honest restart does; its records give it away."""
    produce(world)
    world.snapshot("b")
    produce(world)
    key_ids = drawn(world)
    world.restore("b", 0, zombie=False)
    world.heal()
    restored = {event.fields["restored"] for event in world.events if event.name == "keys.restored_copy"}
    assert restored == {"b"}
    assert world.ends["a"].pair.outgoing.stock_granules() == 0
    assert not world.fetch(world.ends["b"].pair, key_ids)
    produce(world)
    assert world.fetch(world.ends["b"].pair, drawn(world))


@pytest.mark.parametrize("progress", ["block", "lease"])
def test_k02b_a_copy_of_a_running_sender_is_named_and_both_ends_burn(world, progress):
    produce(world)
    world.snapshot("a")
    if progress == "block":
        produce(world)
    else:
        drawn(world)
    world.restore("a", 0, zombie=True)
    world.heal()
    restored = {event.fields["restored"] for event in world.events if event.name == "keys.restored_copy"}
    assert restored == {"a"}
    assert world.ends["a"].pair.outgoing.stock_granules() == 0
    produce(world)
    assert world.fetch(world.ends["b"].pair, drawn(world))


@pytest.mark.parametrize("victims", ["a", "b", "ab"])
def test_k02c_an_honest_crash_is_not_taken_for_a_copy(world, victims):
    for steps in range(30):
        for victim in victims:
            world.ends[victim].disk.crash_after = steps % 6
        produce(world, 2)
        world.draw(world.ends["a"].pair, 1, GRANULE_BYTES) if world.ends["a"].pair is not None else None
        world.settle()
        for victim in victims:
            world.ends[victim].crash()
        world.heal()
    assert not [event for event in world.events if event.name == "keys.restored_copy"]


# 2. A block that a record names and the disk lacks (a copy made file by file): one stream refused for ever.


@pytest.mark.parametrize("damage", ["missing", "short", "empty", "long"])
def test_k03_a_block_file_beyond_use_does_not_stop_the_store(tmp_path, damage):
    store = FileStreamStore(tmp_path / "pair", bytes(32))
    name, other = "in-000000000001", "in-000000000002"
    content = bytes(range(128)) * 4
    store.commit(Batch(records={f"block/{name}": b"{}"}, blocks={name: content, other: content}))
    path = tmp_path / "pair" / "blocks" / name
    raw = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "short":
            path.write_bytes(raw[:100])
        case "empty":
            path.write_bytes(b"")
        case "long":
            path.write_bytes(raw + bytes(40))
    store.commit(Batch(wipes=[WipeRange(name, 1, 2), WipeRange(other, 0, 1)]))
    store.commit(Batch(records={"pair": b"still writable"}))
    assert store.read_block(name)[1]
    assert store.read_block(other)[1] == [0]
    if path.exists():
        assert raw[32:64] not in path.read_bytes()
    store.close()


# 3. What callers and peers can pile up.


def test_k04_tiny_local_keys_do_not_pile_up_without_bound():
    """A key of one byte costs some hundred bytes of memory; a bound on key bytes alone allows millions of them."""
    keys = LocalKeys(CountedEntropy(), Hands(), capacity_bytes=32 << 20, expiry_s=86400.0)
    for _ in range(512):
        keys.draw(ALICE, ADA, 128, 1)
    with pytest.raises(KeyStreamDry):
        keys.draw(ALICE, ADA, 1, 1)
    assert keys.draw(ADA, ALICE, 1, 32)


def test_k04b_status_tells_how_many_local_keys_can_be_drawn():
    local = LocalKeys(CountedEntropy(), Hands(), capacity_bytes=1 << 30, expiry_s=86400.0)
    kme = Kme(
        KmeId("a"),
        directory={ALICE: KmeId("a"), ADA: KmeId("a")},
        pairs={},
        facts={},
        max_stock_bits={},
        local=local,
        quota=Quota(Hands(), rate_bps=0.0, burst_bits=0.0),
        guesses=Quota(Hands(), rate_bps=0.0, burst_bits=0.0),
        policies=PolicyBook(KmeLimits(max_key_per_request=1 << 20), (), Hands()),
        events=None,
    )
    kme.enc_keys(ALICE, ADA, kme.status(ALICE, ADA).stored_key_count, 256)
    assert kme.status(ALICE, ADA).stored_key_count == 0


def test_k05_keys_that_nobody_fetches_do_not_stop_a_stream_of_small_blocks(world, monkeypatch):
    """A receiver may hold so many blocks; masters that draw and slaves that never fetch must not use that up."""
    monkeypatch.setattr("shosoin.keys.receiver._BLOCKS_MAX", 8)
    a, b = world.ends["a"], world.ends["b"]
    for _ in range(20):
        produce(world, 1)
        assert a.pair.outgoing.stock_granules() == 1, f"{len(b.pair.incoming._blocks)} blocks, all handed out"
        drawn(world)
        for end in (a, b):
            end.later(lambda pair: pair.tick(world.now_s))
            world.settle()


def test_k05b_bits_that_nobody_announces_do_not_pile_up(world):
    """A lying peer sends frames of 16 MiB on the quantum channel."""
    receiver = world.ends["b"].pair.incoming
    for number in range(20):
        for _ in receiver.on_bits(number, bytearray(16 << 20)):
            pass
    assert sum(map(len, receiver._bits.values())) <= 32 << 20


@pytest.mark.parametrize("value", [-1, -3])
def test_k06_negative_counts_do_not_parse(value):
    for name in ("index", "start", "granules", "number"):
        raw = json.loads(encode_message(Announce("s", 1, 2, 3, 4, (-5, 6, 7))))
        assert decode_message(json.dumps(raw).encode())
        with pytest.raises(PairProtocolError):
            decode_message(json.dumps({**raw, name: value}).encode())


def test_k07_a_forged_hello_does_not_move_the_stream_out_of_reach(world):
    """The plan is durable before the proof of WELCOME is checked: an index of 19 digits would stay for ever."""
    a, b = world.ends["a"], world.ends["b"]
    honest = world.send

    def tampering(sender, raw):
        message = decode_message(raw)
        if isinstance(message, Hello) and sender is b:
            far = dataclasses.replace(message.incoming, next_index=1 << 62, next_start=1 << 62)
            message = dataclasses.replace(message, incoming=far)
        honest(sender, encode_message(message))

    world.disconnect()
    world.send = tampering
    for _ in range(3):
        world.connect()
        world.settle()
    world.send = honest
    world.heal()
    assert a.pair.outgoing._next_index < 1 << 32
    produce(world)
    assert world.fetch(b.pair, drawn(world))


class Wedged:
    """A pair whose peer takes nothing: the first step never ends."""

    peer = "kme-b"
    is_connected = False

    def connected(self):
        yield from ()

    def disconnected(self):
        pass

    def tick(self, now_s):
        yield from ()

    def receive(self, message, now_s):
        yield from ()


class Talkative:
    """A channel whose other end says the same for ever and reads nothing."""

    peer = "kme-b"
    kind = "fake"

    def __init__(self, raw):
        self.raw = raw
        self.received = 0
        self.closed = False

    async def receive(self):
        await asyncio.sleep(0)
        self.received += 1
        return self.raw

    async def send(self, *parts):
        await asyncio.Event().wait()

    def close(self):
        self.closed = True


async def test_k08_a_full_queue_does_not_keep_the_kme_from_stopping():
    driver = LinkDriver(Wedged(), None, Hands(), None)
    wedge = asyncio.Event()

    async def wedged(_):
        await wedge.wait()

    driver._carry_out = wedged
    work = asyncio.create_task(driver.run())
    channel = Talkative(encode_message(Stored("s", 1, "00")))
    handle = asyncio.create_task(driver.handle_classical(channel))
    await until(driver._queue.full)
    work.cancel()
    handle.cancel()
    done, _ = await asyncio.wait([work, handle], timeout=5)
    assert done == {work, handle}


async def test_k09_long_messages_do_not_pile_up_in_the_queue():
    """A hello may have 8 MiB and takes ten times that in memory."""
    driver = LinkDriver(Wedged(), None, Hands(), None)
    blocks = tuple(BlockView(number, number, 1, BlockState.READY) for number in range(10_000))
    view = SenderView(0, 0, 0, blocks, ())
    hello = Hello("kme-b", 1, "", True, "", "", 0, "", "", view, ReceiverView(0, 0, 0, (), ()))
    channel = Talkative(encode_message(hello))
    handle = asyncio.create_task(driver.handle_classical(channel))
    await until(lambda: driver._queue.qsize() == 2)  # that there is a channel, and one hello
    for _ in range(1000):
        await asyncio.sleep(0)
    assert channel.received <= 2
    assert driver._queue.qsize() == 2
    handle.cancel()
    await asyncio.wait([handle], timeout=0.1)


async def test_k09b_only_the_first_message_of_a_channel_may_be_long():
    """Messages of a session that is over are parsed too: what they cost is bounded before."""
    driver = LinkDriver(Wedged(), None, Hands(), None)
    hello = Hello("kme-b", 1, "", True, "", "", 0, "", "", SenderView(0, 0, 0, (), ()), ReceiverView(0, 0, 0, (), ()))
    raw = encode_message(hello)
    channel = Talkative(raw + b" " * MESSAGE_BYTES_MAX)
    work = asyncio.create_task(driver.run())
    async with asyncio.timeout(10):
        await driver.handle_classical(channel)  # ends by itself
    assert channel.received == 2
    work.cancel()
    await asyncio.wait([work], timeout=5)


def test_k10_what_waits_in_a_queue_does_not_show_key_bits():
    assert "top-secret" not in repr(_Item(partial(ReceivingEnd.on_bits, 1, bytearray(b"top-secret"))))


async def test_k16_one_peer_cannot_hold_any_number_of_connections(tmp_path):
    """Each costs a descriptor, and a process that has none left serves no SAE."""
    pair = KmePair(tmp_path)
    files = pair.kme_plane.issue("kme", "kme-b")
    context = client_context(files.certificate, files.key, pair.kme_plane.certificate)
    channels = []

    def ended():
        return sum(reader.at_eof() or reader.exception() is not None for reader, _ in channels)

    async with pair.running("kme-a"), contextlib.AsyncExitStack() as stack:
        for _ in range(18):
            channels.append(
                await asyncio.open_connection(
                    "127.0.0.1", pair.peer_port["kme-a"], ssl=context, server_hostname="kme-a"
                )
            )
            stack.callback(channels[-1][1].transport.abort)
        await until(lambda: ended() == 6, timeout_s=5.0)  # less than a greeting may take


def test_k17_log_lines_of_one_kind_do_not_flood(caplog):
    caplog.set_level("INFO")
    for _ in range(500):
        log("test.flood", peer="evil")
    log("test.flood", peer="other")
    lines = [record for record in caplog.records if record.getMessage() == "test.flood"]
    assert len(lines) == 51


def test_k17b_a_defect_is_logged_without_its_message():
    with pytest.raises(UnicodeDecodeError) as defect:
        b"\xfftop-secret".decode()
    told = described(defect.value)
    assert "secret" not in str(told)
    assert told["exception"] == "UnicodeDecodeError"


# 4. The edge towards SAEs.


@contextlib.asynccontextmanager
async def opened(pair, sae, kme="kme-a"):
    files = pair.saes[sae]
    context = client_context(files.certificate, files.key, pair.sae_plane.certificate)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)  # else the kernel takes in too much
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", pair.sae_port[kme]))
    reader, writer = await asyncio.open_connection(sock=raw, ssl=context, server_hostname=kme)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def request(path, body=b"", length=None, method="POST"):
    length = len(body) if length is None else length
    return f"{method} /api/v1/keys/{path} HTTP/1.1\r\nHost: kme-a\r\nContent-Length: {length}\r\n\r\n".encode() + body


async def answer_of(reader):
    async with asyncio.timeout(20):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        return int(head.split()[1]), json.loads(await reader.readexactly(length))


async def asked(pair, sae, path, body):
    async with opened(pair, sae) as (reader, writer):
        writer.write(request(path, body))
        return await answer_of(reader)


async def test_k11_one_sae_cannot_take_all_memory_for_request_bodies_of_a_kme(tmp_path):
    pair = KmePair(tmp_path, limits={"max_bodies_bytes": 4000, "max_body_bytes": 1000})
    async with pair.running("kme-a"), contextlib.AsyncExitStack() as stack:
        for number in range(4):
            reader, writer = await stack.enter_async_context(opened(pair, "sae-a1"))
            writer.write(request("sae-a1/enc_keys", b"{", 1000))  # announced, and never finished
            if number >= 2:
                status, body = await answer_of(reader)
                assert (status, set(body)) == (503, {"message", "details"})
                assert any("retry_after_s" in item for item in body["details"])
        status, _ = await asked(pair, "sae-a2", "sae-a2/enc_keys", b'{"number": 1}' + b" " * 900)
        assert status == 200


async def test_k11b_room_for_bodies_comes_back_when_a_client_leaves(tmp_path):
    pair = KmePair(tmp_path, limits={"max_bodies_bytes": 2000, "max_body_bytes": 1000})
    async with pair.running("kme-a"):
        for _ in range(5):
            async with opened(pair, "sae-a1") as (_, writer):
                writer.write(request("sae-a1/enc_keys", b"{", 1000))
                await writer.drain()
        async with asyncio.timeout(20):
            while (await asked(pair, "sae-a1", "sae-a1/enc_keys", b"{}" + b" " * 990))[0] != 200:
                await asyncio.sleep(0.01)


LONG = b'{"number": 8, "size": 12000000}'  # an answer of 16 MB
LONG_LIMITS = {"max_answers_bytes": 80 << 20, "max_request_bytes": 12 << 20, "local_bytes": 1 << 30}


async def unread(stack, pair, sae, path):
    """Ask for a long answer and read no more than its head."""
    reader, writer = await stack.enter_async_context(opened(pair, sae))
    writer.write(request(path, LONG))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head.splitlines()[0]


def is_busy(answer):
    status, body = answer
    assert status in {200, 503}
    return status == 503 and {"shosoin_code": "etsi014.busy"} in body["details"]


async def test_k12_answers_that_nobody_reads_do_not_pile_up(tmp_path):
    """An SAE that talks to itself draws and fetches for ever; each unread answer would stay in memory."""
    pair = KmePair(tmp_path, limits=LONG_LIMITS)
    async with pair.running("kme-a"):
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                await unread(stack, pair, "sae-a1", "sae-a1/enc_keys")
            assert is_busy(await asked(pair, "sae-a1", "sae-a1/enc_keys", LONG))
            assert not is_busy(await asked(pair, "sae-a2", "sae-a2/enc_keys", LONG))
        async with asyncio.timeout(20):
            while is_busy(await asked(pair, "sae-a1", "sae-a1/enc_keys", LONG)):
                await asyncio.sleep(0.01)


async def test_k12b_a_fetch_without_room_for_its_answer_burns_nothing(tmp_path):
    pair = KmePair(tmp_path, limits=LONG_LIMITS)
    async with pair.running("kme-a"):
        _, drawn_keys = await asked(pair, "sae-a1", "sae-a2/enc_keys", LONG)
        ids = json.dumps({"key_IDs": [{"key_ID": key["key_ID"]} for key in drawn_keys["keys"]]}).encode()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                await unread(stack, pair, "sae-a2", "sae-a2/enc_keys")
            assert is_busy(await asked(pair, "sae-a2", "sae-a1/dec_keys", ids))
        async with asyncio.timeout(20):
            while is_busy(fetched := await asked(pair, "sae-a2", "sae-a1/dec_keys", ids)):
                await asyncio.sleep(0.01)
        assert fetched == (200, {**drawn_keys})


async def test_k12c_keys_of_one_request_that_can_never_fit_are_400(tmp_path):
    pair = KmePair(tmp_path, limits={"max_request_bytes": 1000})
    async with pair.running("kme-a"):
        ids = []
        for _ in range(2):
            _, drawn_keys = await asked(pair, "sae-a1", "sae-a2/enc_keys", b'{"size": 8000}')
            ids += [{"key_ID": key["key_ID"]} for key in drawn_keys["keys"]]
        both, first = (json.dumps({"key_IDs": some}).encode() for some in (ids, ids[:1]))
        assert (await asked(pair, "sae-a2", "sae-a1/dec_keys", both))[0] == 400
        assert (await asked(pair, "sae-a2", "sae-a1/dec_keys", first))[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET /api/v1/keys/sae-b1/sta"])
async def test_k13_a_connection_that_asks_nothing_ends(tmp_path, sent):
    pair = KmePair(tmp_path, limits={"idle_timeout_s": 0.3})
    async with pair.running("kme-a"), opened(pair, "sae-a1") as (reader, writer):
        writer.write(sent)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                await reader.read()


async def test_k13b_a_connection_that_does_not_read_its_answer_ends(tmp_path):
    pair = KmePair(tmp_path, limits={**LONG_LIMITS, "idle_timeout_s": 0.5, "max_answers_bytes": 40 << 20})
    async with pair.running("kme-a"), contextlib.AsyncExitStack() as stack:
        await unread(stack, pair, "sae-a1", "sae-a1/enc_keys")
        async with asyncio.timeout(20):
            while is_busy(await asked(pair, "sae-a1", "sae-a1/enc_keys", LONG)):
                await asyncio.sleep(0.02)


# 5. Copies of the disk, file by file, under a running process.


async def test_k14_a_copy_made_of_files_of_different_moments_opens_or_refuses_and_reuses_nothing(tmp_path):
    """The journal first, the blocks later, without the write-ahead log: what a naive backup makes."""
    pair = KmePair(tmp_path, stock_bits=1 << 16, speedup=20.0)
    given: set[bytes] = set()

    async def draw(a, b):
        await until_stock(a, "sae-b1", 4)
        for key in await a.enc_keys("sae-b1", number=4, size_bits=256):
            (other,) = await b.dec_keys("sae-a1", [key.key_id])
            bits = key.material.take()
            assert other.material.take() == bits
            assert bits not in given
            given.add(bits)

    links = pair.directory("kme-a") / "links" / "kme-b"
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await draw(a, b)
        with contextlib.closing(sqlite3.connect(links / "journal.sqlite")) as database:
            database.execute("PRAGMA wal_checkpoint(FULL)")
        journal = (links / "journal.sqlite").read_bytes()
        for _ in range(3):
            await draw(a, b)
    for extra in links.glob("journal.sqlite-*"):
        extra.unlink()
    (links / "journal.sqlite").write_bytes(journal)
    async with pair.running() as processes, pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until(lambda: processes["kme-a"].link_states()["kme-b"]["open"])
        for _ in range(3):
            await draw(a, b)
        assert not processes["kme-a"].link_states()["kme-b"]["refused"]


# 6. Whatever is sent, the answer is one of the standard's.


def odd(line, *headers, body=b""):
    return b"\r\n".join([line + b" HTTP/1.1", b"Host: x", *headers, b"", body])


ENC, STATUS = b"POST /api/v1/keys/sae-a1/enc_keys", b"GET /api/v1/keys/nobody/status"
ODD = {
    "options": odd(b"OPTIONS *"),
    "connect": odd(b"CONNECT kme-b:443"),
    "trace": odd(b"TRACE /api/v1/keys/sae-b1/status"),
    "http/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/0.9": b"GET /\r\n\r\n",
    "no host": STATUS + b" HTTP/1.1\r\n\r\n",
    "absolute": odd(b"GET https://kme-b/api/v1/keys/nobody/status"),
    "bad escape": odd(b"GET /api/v1/keys/%zz/status"),
    "bad port": odd(b"GET http://x:999999/"),
    "nul": odd(b"GET /api/v1/keys/a\0b/status"),
    "long path": odd(b"GET /" + b"a" * 20_000),
    "long header": odd(b"GET /", b"X: " + b"a" * 20_000),
    "many headers": odd(b"GET /", *[b"X: a"] * 5_000),
    "two lengths": odd(ENC, b"Content-Length: 1", b"Content-Length: 2", body=b"{}"),
    "length and chunks": odd(ENC, b"Content-Length: 1", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
    "negative length": odd(ENC, b"Content-Length: -1"),
    "bad chunk": odd(ENC, b"Transfer-Encoding: chunked", body=b"zz\r\n{}\r\n"),
    "gzip": odd(ENC, b"Content-Encoding: gzip", b"Content-Length: 2", body=b"\x1f\x8b"),
    "expects something": odd(STATUS, b"Expect: a-miracle", b"Content-Length: 2", body=b"{}"),
    "websocket": odd(STATUS, b"Connection: Upgrade", b"Upgrade: websocket"),
    "smuggled identity": odd(STATUS, b"X-SAE-ID: sae-a2", b"ssl-client-cert: sae-a2"),
}


async def test_k15_odd_requests_are_400_with_an_error_body(tmp_path):
    pair = KmePair(tmp_path)
    async with pair.running("kme-a"):
        for name, raw in ODD.items():
            async with opened(pair, "sae-a1") as (reader, writer):
                writer.write(raw)
                try:
                    status, body = await answer_of(reader)
                except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as err:
                    raise AssertionError(f"{name}: {err!r}") from err
                assert status == 400, name
                assert set(body) == {"message", "details"}, name
