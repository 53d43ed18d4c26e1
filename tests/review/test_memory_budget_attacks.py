"""Whoever leaves in the middle of a request leaves nothing in the sums of memory: else all would be 503 one day."""

from __future__ import annotations

import asyncio
import random
import ssl
from contextlib import suppress

import pytest

from shosoin.adapters.tls import client_context
from tests.support.kme import KmePair, until, until_stock

pytestmark = pytest.mark.processes

WHOLE = b'{"number":128,"size":1024}'
MANY = b'{"number":1,"size":256,"additional_slave_SAE_IDs":["sae-b2"]}'


def head(call, *lines):
    return "\r\n".join([f"POST /api/v1/keys/{call} HTTP/1.1", "Host: kme-a", *lines, "", ""]).encode()


ATTACKS = {
    "a whole request": head("sae-b1/enc_keys", f"Content-Length: {len(WHOLE)}") + WHOLE,
    "for several": head("sae-b1/enc_keys", f"Content-Length: {len(MANY)}") + MANY,
    "half a body": head("sae-b1/enc_keys", "Content-Length: 60000") + b"{",
    "no body yet": head("sae-b1/enc_keys", "Content-Length: 60000", "Expect: 100-continue"),
    "chunks": head("sae-b1/enc_keys", "Transfer-Encoding: chunked") + b"1\r\n{\r\n",
    "empty chunks": head("sae-b1/enc_keys", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "two at once": 2 * (head("sae-b1/enc_keys", f"Content-Length: {len(WHOLE)}") + WHOLE),
    "nobody's keys": head("sae-b1/dec_keys", "Content-Length: 48")
    + b'{"key_IDs":[{"key_ID":"0"},{"key_ID":"1"}]}     ',
}


async def attack(pair, raw, pause_s, *, abort):
    files = pair.saes["sae-a1"]
    context = client_context(files.certificate, files.key, pair.sae_plane.certificate)
    with suppress(OSError, ssl.SSLError):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", pair.sae_port["kme-a"], ssl=context, server_hostname="kme-a"
        )
        writer.write(raw)
        await asyncio.sleep(pause_s)
        if abort:
            writer.transport.abort()
        else:
            writer.close()


@pytest.mark.parametrize("workers", [0, 2])
async def test_who_leaves_in_the_middle_leaves_nothing_in_the_sums(tmp_path, workers):
    pair = KmePair(tmp_path, stock_bits=1 << 22, speedup=50.0, workers=workers)
    randomness = random.Random(7)
    async with pair.running() as kmes, pair.client("sae-a1") as a:
        await until_stock(a, "sae-b1", 1024)
        service = kmes["kme-a"].services["etsi014"]
        for _ in range(3):
            await asyncio.gather(
                *(
                    attack(pair, raw, randomness.random() * 0.1, abort=randomness.random() < 0.7)
                    for raw in [*ATTACKS.values()] * 2
                )
            )
        await until(
            lambda: {name: budget.held_bytes for name, budget in service.memory.items()} == {"bodies": 0, "answers": 0}
        )
        if not workers:
            assert not service.memory["bodies"]._held_by
            assert not service.memory["answers"]._held_by
        assert await a.enc_keys("sae-b1", number=1, size_bits=256)
