"""Attacks on what was made shorter or stricter: lines of workers, keys read in one piece, what a put may say."""

from __future__ import annotations

import asyncio
import datetime
import importlib
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.adapters.revocation_lists import RevocationList
from shosoin.keys.blocks import Block, BlockState
from shosoin.keys.cache import BlockCache
from shosoin.keys.errors import KeyDamaged
from shosoin.keys.intervals import joined
from shosoin.keys.key_id import GRANULE_BYTES, LENGTH_BYTES_MAX, KeyAddress, spans_of
from shosoin.keys.reading import BlockTable, read_keys
from shosoin.services.worker_line import FrameKind
from tests.keys.world import MemoryStore
from tests.review.test_worker_lies_attacks import FAR, draw, frame
from tests.support.kme import KmePair, until, until_stock

SMALL = {"max_request_bytes": 1 << 20, "max_answers_bytes": 4 << 20}
VPN_KEYS = Path(__file__).parents[2] / "examples/vpn_keys"
DAY = datetime.timedelta(days=1)


def long_lists() -> dict[bytes, RevocationList]:
    """Lists of two authorities, each of some 20 MB in a file, where 32 are allowed."""
    now, rng = datetime.datetime.now(datetime.UTC), random.Random(1)
    serials = [frozenset(rng.getrandbits(159) for _ in range(500_000)) for _ in range(2)]
    names = dict(zip((b"one", b"other"), serials, strict=True))
    return {name: RevocationList("an authority", now - DAY, now + DAY, each) for name, each in names.items()}


@pytest.mark.processes
async def test_long_revocation_lists_reach_workers_of_a_kme_with_small_answers(tmp_path):
    """What workers are told is as long as the operator's files, whatever answers may take."""
    pair = KmePair(tmp_path, stock_bits=1 << 12, workers=2, limits=SMALL)
    async with pair.running("kme-a") as kmes:
        pool = kmes["kme-a"].workers
        approved = replace(pool._approved(), lists=long_lists())
        pool._approved = lambda: approved
        for worker in pool._workers.values():
            worker.shows = ""
        pool.reload()
        await until(lambda: all(worker.shows for worker in pool._workers.values()) or pool.restarts)
        assert pool.restarts == 0
        next(iter(pool._workers.values())).process.kill()  # who follows is told at the start
        await until(lambda: pool.restarts)
        await until(lambda: len(pool.pids) == 2)
        assert pool.restarts == 1


@pytest.mark.processes
async def test_a_draw_under_the_number_of_keys_that_are_held_is_refused(tmp_path):
    """The keys of the first would be neither delivered nor burned, for ever."""
    pair = KmePair(tmp_path, stock_bits=1 << 18, speedup=20.0, workers=2)
    async with pair.running() as kmes, pair.client("sae-a1") as a:
        await until_stock(a, "sae-b1", 512)
        pool = kmes["kme-a"].workers
        worker = next(iter(pool._workers.values()))
        worker.grants.granting.share = 1
        worker.line.data_received(frame(FrameKind.DRAW, draw(number=100), FAR + 1))  # extends the lease
        await until(lambda: worker.rooms and not worker.tasks)
        worker.line.data_received(frame(FrameKind.DRAW, draw(ahead=8)))
        await until(lambda: worker.grants._held and not worker.tasks)
        worker.line.data_received(frame(FrameKind.RELEASE))
        worker.line.data_received(frame(FrameKind.DRAW, draw(ahead=8)))
        await until(lambda: pool.restarts == 1)
        assert not worker.grants._held


ADDRESSES = st.builds(
    KeyAddress,
    st.one_of(st.integers(0, 40), st.integers(2**62, 2**62 + 40)),
    st.one_of(st.integers(1, 8 * GRANULE_BYTES), st.just(LENGTH_BYTES_MAX)),
)


@given(st.lists(ADDRESSES, min_size=1, max_size=8))
def test_sizes_tell_an_overlap_as_neighbours_in_order_do(addresses):
    spans = spans_of(addresses)
    overlap = any(end > start for (_, end), (start, _) in pairwise(sorted(spans)))
    assert (joined(spans).size() < sum(end - start for start, end in spans)) == overlap


class Watched(BlockCache):
    """Remembers what it handed out."""

    def __init__(self, store):
        super().__init__(store)
        self.taken = []

    def take(self, name, first, count):
        content = super().take(name, first, count)
        self.taken.append(content)
        return content


def test_sound_bits_of_a_request_that_is_damaged_do_not_stay_in_memory():
    store, blocks = MemoryStore(), BlockTable()
    for index in range(2):
        block = Block("in", index, 2 * index, 2, BlockState.READY)
        blocks.add(block)
        store.blocks[block.name], store.wiped[block.name] = b"s" * 2 * GRANULE_BYTES, {0} if index else set()
    cache, addresses = Watched(store), [KeyAddress(0, 32), KeyAddress(2, 32)]
    with pytest.raises(KeyDamaged):
        read_keys(cache, blocks, addresses, joined(spans_of(addresses)))
    assert cache.taken
    assert not any(any(content) for content in cache.taken)


async def test_a_key_whose_time_is_up_is_given_up_once_the_daemon_answers_again(monkeypatch, capsys):
    """A call that failed, which one that hangs does by now, must not end the watch over what served too long."""
    monkeypatch.syspath_prepend(VPN_KEYS)
    handover: Any = importlib.import_module("handover")
    applied: list[str] = []

    async def apply(key_id, key):
        applied.append(key_id)
        if len(applied) < 3:
            raise OSError("swanctl --load-all: the daemon does not answer")

    service = handover.Service(apply, handover.Terms(1.0, 0.05, 0), "follow")
    watch = asyncio.create_task(service.watch())
    try:
        await until(lambda: len(applied) >= 3 or watch.done())
        assert not watch.done()
        await until(lambda: '"gave_up"' in capsys.readouterr().out)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


async def test_a_key_that_comes_while_an_old_one_is_given_up_is_the_one_in_service(monkeypatch):
    """Two calls at once write the same files: what is put out of service last must not be the new key."""
    monkeypatch.syspath_prepend(VPN_KEYS)
    handover: Any = importlib.import_module("handover")
    begun, going_on, in_service = asyncio.Event(), asyncio.Event(), []

    async def apply(key_id, key):
        if key_id != "new":
            begun.set()
            await going_on.wait()
        in_service.append(key_id)

    service = handover.Service(apply, handover.Terms(1.0, 0.05, 0), "follow")
    watch = asyncio.create_task(service.watch())
    try:
        await begun.wait()
        put = asyncio.create_task(service.put("new", bytes(32)))
        await asyncio.sleep(0)
        going_on.set()
        await put
        assert in_service[-1] == "new"
        assert len(in_service) == 2
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
