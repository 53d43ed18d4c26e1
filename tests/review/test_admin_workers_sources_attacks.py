"""Attacks on burning through the admin interface, on what workers report, and on the places and planes of sources."""

from __future__ import annotations

import asyncio
import threading

import pytest

from shosoin.adapters.stream_store import FileStreamStore
from shosoin.services.link_driver import LinkDriver
from tests.services.test_etsi014 import Raw
from tests.support.admin import Administration
from tests.support.kme import KmePair, until, until_stock

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
