"""Attacks of another KME on ETSI GS QKD 004 streams, and of applications on each other's."""

from __future__ import annotations

import asyncio
import time

import pytest

from shosoin.base import KmeId, Unavailable
from shosoin.keys.wire004 import Status
from shosoin.services.etsi004_messages import SUBJECT, Void, pack
from tests.services.test_etsi004 import chunk, joined, running
from tests.support.client004 import Client004
from tests.support.kme import KmePair

pytestmark = pytest.mark.processes


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 18, etsi004={})


def lie(kmes, code):
    """Have KME A refuse every question about streams with a code of its choice."""

    async def refuse(_, __):
        raise Unavailable("a lie", code=code)

    kmes["kme-a"].services["etsi004"].streams._requests.serve(SUBJECT, refuse)


@pytest.mark.parametrize("name", ["success", "peer_not_connected", "qos_not_met"])
async def test_a_refusal_of_another_kme_never_becomes_a_success(pair, name):
    """An application that is told status 0 uses what comes with it as a key, be it empty."""
    async with running(pair, "sae-a1", "sae-b1") as (kmes, a, b):
        ksid = await joined(a, b)
        await chunk(b, ksid, 0)
        lie(kmes, f"etsi004.{name}")
        got = await b.get(ksid, 1)
        assert got.status == Status.NO_QKD_CONNECTION
        async with Client004(pair, "sae-b1") as late:
            assert (await late.open("sae-a1", ksid=ksid)).status == Status.NO_QKD_CONNECTION


async def test_what_a_home_voids_does_not_stop_the_clock(pair):
    kmes_keys = 4000
    async with running(pair, "sae-a1", "sae-b1") as (kmes, a, b):
        kme_a, kme_b = kmes["kme-a"].kme, kmes["kme-b"]
        await until_many(kme_a, kmes_keys)
        key_ids = []
        while len(key_ids) < kmes_keys:
            key_ids += [key.key_id for key in kme_a.enc_keys("sae-a1", "sae-b1", 100, 256).keys]
        key_ids = [key_ids[(one * 1237) % len(key_ids)] for one in range(len(key_ids))]
        before = time.perf_counter()
        void = Void("0" * 32, "", "sae-a1", "sae-b1", key_ids, over=False)
        await kme_b.services["etsi004"].streams._serve(KmeId("kme-a"), pack(void))
        print("took", time.perf_counter() - before)


async def until_many(kme, keys):
    while kme.status("sae-a1", "sae-b1").stored_key_count < keys:
        print(kme.status("sae-a1", "sae-b1").stored_key_count)
        await asyncio.sleep(0.5)
