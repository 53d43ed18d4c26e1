"""Attacks of worker processes on the owner of the streams: a worker meets the network, and may have been taken over."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from itertools import count

import pytest

from shosoin.base import Unavailable
from shosoin.keys.multicast import COPY
from shosoin.keys.tally import StreamTally
from shosoin.keys.worker_grants import _Grant
from shosoin.services.worker_line import FrameKind, WorkerLine, pack_call
from tests.services.test_etsi014 import Raw
from tests.support.kme import KmePair, until, until_stock

pytestmark = pytest.mark.processes
FAR = 1 << 40
"""A number that no honest call has."""


def frame(kind, payload=b"", number=FAR):
    return struct.pack(">IBQ", len(payload), kind, number) + payload


def draw(**changes):
    return json.dumps(list({**HONEST, **changes}.values())).encode()


HONEST = {"master": "sae-a1", "slave": "sae-b1", "size_bits": 256, "number": 1, "ahead": 0}
STATUS = pack_call("sae-a1", "sae-b1", "status", {}, b"")
KEYS = pack_call("sae-a1", "sae-b1", "enc_keys", {}, json.dumps({"number": 100, "size": 1024}).encode())


LIES = {
    "used nan": (FrameKind.USED, b"NaN"),
    "used a part": (FrameKind.USED, b"0.5"),
    "used true": (FrameKind.USED, b"true"),
    "draw fewer than none": (FrameKind.DRAW, draw(number=-1, ahead=64)),
    "draw none": (FrameKind.DRAW, draw(number=0, ahead=64)),
    "draw parts": (FrameKind.DRAW, draw(number=1.5)),
    "draw back": (FrameKind.DRAW, draw(ahead=-1)),
    "draw nothing": (FrameKind.DRAW, draw(size_bits=0)),
    "draw for nobody": (FrameKind.DRAW, draw(master=5)),
    "draw in other words": (FrameKind.DRAW, b"[]"),
    "show a name": (FrameKind.SHOWS, b"\x1b[2Jkme-b"),
    "show no text": (FrameKind.SHOWS, b"\xff" * 64),
}


async def test_what_no_honest_worker_says_is_refused_and_counts_for_nothing(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 16, speedup=20.0, workers=2)
    async with pair.running() as kmes, pair.client("sae-a1") as a:
        await until_stock(a, "sae-b1", 128)
        pool, tally = kmes["kme-a"].workers, StreamTally()
        worker, _ = pool._workers.values()
        before = worker.shows
        worker.grants._held[FAR] = _Grant("sae-a1", "sae-b1", 256, 3, tally)
        for what, (kind, payload) in LIES.items():
            refused = False
            try:
                pool._take(worker, kind, FAR, payload)
            except (TypeError, ValueError):
                refused = True
            assert refused, what
        await asyncio.sleep(0)
        assert (worker.shows, tally.delivered.keys) == (before, 0)
        assert FAR not in worker.tasks.keys() | worker.rooms.keys()


@pytest.mark.parametrize("kind", [FrameKind.CALL, FrameKind.DRAW])
async def test_two_calls_of_one_number_are_refused(tmp_path, kind):
    """The memory of the first would be held for ever, and what was granted be counted as delivered."""
    pair = KmePair(tmp_path, stock_bits=1 << 18, speedup=20.0, workers=2)
    payload = KEYS if kind is FrameKind.CALL else draw(number=100, size_bits=1024)
    async with pair.running() as kmes, pair.client("sae-a1") as a:
        await until_stock(a, "sae-b1", 512)
        pool = kmes["kme-a"].workers
        worker, held = next(iter(pool._workers.values())), pool.memory["answers"]
        worker.line.data_received(frame(kind, payload))
        await until(lambda: held.held_bytes > 0)
        worker.line.data_received(frame(kind, payload))
        await until(lambda: pool.restarts == 1)
        assert held.held_bytes == 0


async def test_a_worker_has_no_more_calls_open_than_its_connections_can_make(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 12, workers=2, limits={"max_connections": 8})
    async with pair.running("kme-a") as kmes:
        pool = kmes["kme-a"].workers
        worker, _ = pool._workers.values()
        for number in range(FAR, FAR + 100):
            worker.line.data_received(frame(FrameKind.CALL, STATUS, number))
            await asyncio.sleep(0)
        assert len(worker.rooms) <= 16
        await until(lambda: pool.restarts == 1)


async def test_a_line_whose_other_end_does_not_read_ends_instead_of_growing():
    """A worker may say that it has sent answers on that it never read: their memory is in no budget then."""
    ours, theirs = socket.socketpair()
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    line = WorkerLine(lambda *_: None, ended.set, unsent_bytes_max=1 << 20)
    await loop.create_unix_connection(lambda: line, sock=ours)
    with theirs:
        for _ in range(32):
            line.send(FrameKind.ANSWER, 1, bytes(1 << 16))
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            await ended.wait()


@pytest.mark.parametrize("workers", [0, 2])
async def test_what_another_kme_calls_its_refusals_is_no_label_and_costs_no_worker(tmp_path, workers):
    """Counters of refusals are bounded, whatever a KME that lies makes up, and honest workers report them."""
    pair = KmePair(tmp_path, stock_bits=1 << 18, speedup=20.0, workers=workers)
    made_up = (f"{number:040}.{number:040}.{number:040}" for number in count())

    async def refuse(_, __):
        raise Unavailable("no", code=next(made_up))

    async with pair.running() as kmes, pair.client("sae-a1") as a:
        await until_stock(a, "sae-b1", 512)
        kmes["kme-b"].links.requests.serve(COPY, refuse)
        body = {"number": 1, "size": 256, "additional_slave_SAE_IDs": ["sae-b2"]}
        async with Raw(pair, "sae-a1") as raw:
            for _ in range(6):
                status, _ = await raw.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=body)
                assert status == 503
        kme = kmes["kme-a"]
        refusals = (lambda: kme.workers.tally.refusals) if workers else (lambda: kme.services["etsi014"].tally.refusals)
        await until(lambda: sum(refusals().values()) >= 6)
        assert {code for _, _, code in refusals()} == {"peer.refused"}
        if workers:
            assert kme.workers.restarts == 0
