"""Metrics of keys that go out by SKIP."""

import aiohttp
import pytest

from shosoin.adapters.tls import client_context
from tests.support.kme import KmePair, until_stock
from tests.support.operations import Scraper, with_operations

pytestmark = pytest.mark.processes


async def test_keys_by_skip_move_the_same_counters_under_their_own_interface(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 18, skip_systems={})
    with_operations(pair)
    files = pair.saes["sae-a1"]
    context = client_context(files.certificate, files.key, pair.sae_plane.certificate)
    base = f"https://127.0.0.1:{pair.skip_port['kme-a']}"
    paths = [
        "/key?remoteSystemID=sae-b1",
        "/key?remoteSystemID=evil",
        f"/key/{'0' * 32}?remoteSystemID=sae-b1",
        "/evil",
    ]
    async with (
        pair.running() as processes,
        pair.client("sae-a1") as client,
        Scraper(processes["kme-a"]) as at_a,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
    ):
        await until_stock(client, "sae-b1", 8)
        bodies = []
        for path in paths:
            async with session.get(base + path, server_hostname="kme-a") as response:
                bodies.append(await response.json())
        _, _, text = await at_a.ask("/metrics")
        samples = await at_a.samples()
    skip = {"interface": "skip"}
    assert samples.value("delivered_keys_total", peer="kme-b", direction="outgoing") == 1
    assert samples.value("sae_keys_total", master="sae-a1", slave="sae-b1", operation="drawn") == 1
    assert samples.value("request_seconds_count", method="new_key", status="200", **skip) == 1
    assert samples.value("request_seconds_count", method="new_key", status="400", **skip) == 1
    assert samples.value("request_seconds_count", method="fetch_key", status="400", **skip) == 1
    assert samples.value("request_seconds_count", method="other", **skip) == 1
    assert samples.value("refusals_total", code="keys.not_found", peer="kme-b", direction="incoming", **skip) == 1
    assert samples.value("refusals_total", **skip) == 3
    assert samples.value("connections", **skip) == 1
    assert samples.value("memory_limit_bytes", budget="answers", **skip) == 256 << 20
    assert "evil" not in text
    assert bodies[0]["key"] not in text
    assert bodies[0]["keyId"] not in text
