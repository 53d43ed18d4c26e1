"""Attacks of another KME on ETSI GS QKD 004 streams, and of applications on each other's."""

from __future__ import annotations

import pytest

from shosoin.base import Unavailable
from shosoin.keys.wire004 import Status
from shosoin.services.etsi004_messages import SUBJECT
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
