"""Liveness and readiness of real KMEs: each reason not to be ready, and that it passes."""

import asyncio
import os
from contextlib import AsyncExitStack
from typing import Any

import pytest

from shosoin.adapters.clock import SystemClock
from shosoin.services import storage_probe
from shosoin.services.kme import KmeProcess
from shosoin.services.kme_config import load_kme_config
from shosoin.services.link_driver import LinkDriver
from shosoin.services.storage_probe import StorageProbe
from tests.support.kme import KmePair, ServerProcess, until, until_stock
from tests.support.operations import Scraper, with_operations

pytestmark = pytest.mark.processes
READY: tuple[Any, ...] = (200, True, [], {"kme-b": "up"})


@pytest.fixture
def pair(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 18)
    with_operations(pair)
    return pair


async def until_ready(scraper):
    async with asyncio.timeout(30):
        while await scraper.health("ready") != READY:
            await asyncio.sleep(0.02)


async def test_a_kme_is_ready_while_a_link_works(pair):
    async with pair.running("kme-a") as alone, Scraper(alone["kme-a"]) as scraper:
        assert await scraper.health("ready") == (503, False, ["kme.no_link"], {"kme-b": "down"})
        peer = ServerProcess(pair.config("kme-b"))
        await peer.start()
        try:
            await until_ready(scraper)
        finally:
            await peer.stop()
        await until(lambda: not alone["kme-a"].drivers["kme-b"].pair.is_connected)
        assert await scraper.health("ready") == (503, False, ["kme.no_link"], {"kme-b": "down"})
        assert await scraper.health("live") == (200, True, [], None)


async def test_a_link_that_is_down_does_not_make_a_kme_unready_when_another_works(pair):
    text = pair.config("kme-a").read_text()
    start = text.index("[[link]]")
    link = text[start : text.index("[operations]")].replace('peer = "kme-b"', 'peer = "kme-c"')
    pair.config("kme-a").write_text(f"{text}\n{link}")
    async with pair.running() as processes, Scraper(processes["kme-a"]) as scraper:
        driver = processes["kme-a"].drivers["kme-b"]
        await until(lambda: driver.pair.is_connected)
        async with asyncio.timeout(30):
            while await scraper.health("ready") != (200, True, [], {"kme-b": "up", "kme-c": "down"}):
                await asyncio.sleep(0.02)  # the link has to yield its first block


async def test_a_link_whose_stored_state_is_refused_is_told(pair):
    async with pair.running(), pair.client("sae-a1") as client:
        await until_stock(client, "sae-b1", 1)
    for journal in pair.directory("kme-a").glob("links/*/journal.sqlite*"):
        journal.unlink()
    async with pair.running() as processes, Scraper(processes["kme-a"]) as scraper:
        assert await scraper.health("ready") == (503, False, ["kme.no_link"], {"kme-b": "refused"})
        samples = await scraper.samples()
    assert samples.value("link_refused", peer="kme-b") == 1
    assert samples.value("link_connected", peer="kme-b") == 0


async def test_a_kme_is_not_ready_before_it_listens_nor_while_it_stops(pair, monkeypatch):
    listens, stops = asyncio.Event(), asyncio.Event()
    listen, stop = KmeProcess._listen, LinkDriver.stop

    async def later(self, storage_key):
        await listens.wait()
        await listen(self, storage_key)

    async def slowly(self, timeout_s):
        await stops.wait()
        await stop(self, timeout_s)

    monkeypatch.setattr(KmeProcess, "_listen", later)
    process: Any = KmeProcess(load_kme_config(pair.config("kme-a")))
    starting = asyncio.create_task(process.__aenter__())
    await until(lambda: process.operations.port)
    async with Scraper(process) as scraper:
        starts = (503, False, ["kme.not_listening", "kme.no_link"], {"kme-b": "starting"})
        assert await scraper.health("ready") == starts
        assert await scraper.health("live") == (200, True, [], None)
        assert (await scraper.samples()).value("link_refused") is None
        listens.set()
        await starting
        async with pair.running("kme-b"):
            await until_ready(scraper)
            monkeypatch.setattr(LinkDriver, "stop", slowly)
            stopping = asyncio.create_task(process.__aexit__(None, None, None))
            await until(lambda: not process.is_listening)
            assert await scraper.health("ready") == (503, False, ["kme.not_listening"], {"kme-b": "up"})
            monkeypatch.setattr(LinkDriver, "stop", stop)
            stops.set()
            await stopping
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", int(scraper.base.rpartition(":")[2]))


async def test_a_kme_whose_storage_takes_nothing_is_not_ready(pair):
    async with pair.running() as processes, Scraper(processes["kme-a"]) as scraper:
        await until_ready(scraper)
        obstacle = pair.directory("kme-a") / "health.probe"
        obstacle.mkdir()
        _, _, text = await scraper.ask("/health/ready")
        assert "cannot be written to: Is a directory" in text
        assert (await scraper.health("ready"))[:3] == (503, False, ["kme.storage"])
        obstacle.rmdir()
        await until_ready(scraper)
        assert not obstacle.exists()


async def test_a_kme_with_a_failed_part_is_neither_live_nor_ready(pair):
    async with pair.running() as processes, Scraper(processes["kme-a"]) as scraper:
        await until_ready(scraper)
        processes["kme-a"].defect = RuntimeError("0123456789abcdef")
        assert (await scraper.health("live"))[:3] == (503, False, ["kme.defect"])
        status, _, text = await scraper.ask("/health/ready")
        assert (status, "0123456789abcdef" in text) == (503, False)


async def test_whoever_asks_too_often_gets_the_last_readiness_again(tmp_path):
    pair = KmePair(tmp_path)
    with_operations(pair, min_scrape_interval_s=3600)
    async with pair.running() as processes, Scraper(processes["kme-a"]) as scraper:
        await until(processes["kme-a"].drivers["kme-b"].pair.outgoing.stock_granules)
        assert await scraper.health("ready") == READY
        processes["kme-a"].defect = RuntimeError()
        assert await scraper.health("ready") == READY
        assert (await scraper.health("live"))[1] is False


async def test_a_disk_that_does_not_answer_holds_up_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(storage_probe, "_PATIENCE_S", 0.05)
    pipe = tmp_path / "health.probe"
    os.mkfifo(pipe)  # opening it to write waits for a reader
    probe = StorageProbe(tmp_path, SystemClock(), interval_s=0.0)
    async with AsyncExitStack() as stack:
        assert await probe.fault() == await probe.fault() == "no answer within 0.05 s"
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        stack.callback(os.close, reader)
        assert probe._trial is not None
        assert await probe._trial  # a pipe cannot be synced
        pipe.unlink()
        assert await probe.fault() == ""


async def test_the_storage_is_not_tried_more_often_than_allowed(tmp_path):
    probe = StorageProbe(tmp_path, SystemClock(), interval_s=3600.0)
    assert await probe.fault() == ""
    (tmp_path / "health.probe").mkdir()
    assert await probe.fault() == ""


async def test_links_without_a_key_are_dry_and_the_kme_is_not_ready(tmp_path):
    pair = KmePair(tmp_path, attenuation_db=90.0, stock_bits=0)  # a link so long that nothing comes through
    with_operations(pair, "kme-a")
    async with pair.running() as processes, Scraper(processes["kme-a"]) as scraper:
        await until(lambda: processes["kme-a"].drivers["kme-b"].is_answered)
        assert await scraper.health("ready") == (503, False, ["kme.no_stock"], {"kme-b": "dry"})
