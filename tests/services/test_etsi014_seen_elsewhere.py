"""Failures that other KMEs showed, tried on ours; docs/specs/etsi-014.md lists all, with the test of each."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from contextlib import AsyncExitStack
from typing import Any

import pytest

from shosoin.adapters.tls import client_context
from shosoin.base import Unavailable
from shosoin.keys.key_id import KeyAddress, KeyIdCodec
from tests.services.test_etsi014 import Raw, one_byte_from, served, stored
from tests.support.kme import KmePair, ServerProcess, until, until_stock

pytestmark = pytest.mark.processes

LEASE_KEYS = 20
HEADERS = (
    "ssl-client-cert",
    "x-ssl-client-cert",
    "x-client-dn",
    "x-forwarded-client-cert",
    "x-sae-id",
    "x-remote-user",
)


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 18, attenuation_db=90.0)


def test_a_key_id_is_made_without_the_key():
    """Its tag and mask are keyed by secrets of the pair, and all that goes in is where the key lies and for whom."""
    address = KeyAddress(7, 32)
    one, other = KeyIdCodec(bytes(64)), KeyIdCodec(bytes(range(64)))
    assert one.encode(address, "a", "b") == KeyIdCodec(bytes(64)).encode(address, "a", "b")
    ids = {codec.encode(KeyAddress(offset, 32), "a", "b") for codec in (one, other) for offset in range(1000)}
    assert len(ids) == 2000


async def test_the_same_bits_at_both_ends_and_never_the_same_twice(pair):
    """Base64 is canonical: no bits hide in its padding."""
    async with served(pair) as (a, b):
        seen: set[bytes] = set()
        for size in (8, 16, 24, 264, 520):
            _, drawn = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={"number": 5, "size": size})
            ids = {"key_IDs": [{"key_ID": key["key_ID"]} for key in drawn["keys"]]}
            _, fetched = await b.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=ids)
            assert fetched["keys"] == drawn["keys"]
            for key in drawn["keys"]:
                bits = base64.b64decode(key["key"], validate=True)
                assert (len(bits) * 8, base64.b64encode(bits).decode()) == (size, key["key"])
                assert size < 128 or bits not in seen
                seen.add(bits)


async def test_no_header_says_who_asks(pair):
    """A reverse proxy's headers, were they believed, would make anybody everybody."""
    async with served(pair) as (a, b), Raw(pair, "sae-b2", "kme-b") as other:
        _, drawn = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={})
        (key,) = drawn["keys"]
        subject = pair.saes["sae-b1"].certificate.read_text().replace("\n", "%0A")
        for value in ("sae-b1", "CN=sae-b1", "URI=urn:shosoin:sae:sae-b1", subject):
            claims = dict.fromkeys(HEADERS, value)
            status, _ = await other.ask("GET", f"/api/v1/keys/sae-a1/dec_keys?key_ID={key['key_ID']}", headers=claims)
            assert status == 401
            _, told = await other.ask("GET", "/api/v1/keys/sae-a1/status", headers=claims)
            assert told["master_SAE_ID"] == "sae-b2"
        assert (await b.ask("GET", f"/api/v1/keys/sae-a1/dec_keys?key_ID={key['key_ID']}"))[0] == 200


async def test_a_kme_of_the_network_that_is_no_peer_gets_no_channel(pair):
    """Trust in an authority is not yet a link: whose stream it is says the certificate alone."""
    async with pair.running("kme-a"):
        for role, name in (("kme", "kme-c"), ("kme", "kme-a"), ("sae", "kme-b"), ("node", "kme-b")):
            files = pair.kme_plane.issue(role, name)
            context = client_context(files.certificate, files.key, pair.kme_plane.certificate)
            with pytest.raises((OSError, ssl.SSLError, asyncio.IncompleteReadError)):
                await one_byte_from(context, pair.peer_port["kme-a"])


async def test_a_peer_that_goes_away_strands_no_key(tmp_path):
    """Without it only leased keys are given; when it is back, both ends serve all but at most the lease."""
    limits = {"lease_bytes": 32 * LEASE_KEYS, "lease_timeout_s": 0.2}
    pair = KmePair(tmp_path, stock_bits=1 << 16, attenuation_db=90.0, limits=limits)
    peer = ServerProcess(pair.config("kme-b"))
    a: Any
    b: Any
    try:
        await peer.start()
        async with pair.running("kme-a") as processes, pair.client("sae-a1") as a, pair.client("sae-b1") as b:
            await until_stock(a, "sae-b1", 256)
            await peer.stop()
            await until(lambda: not processes["kme-a"].link_states()["kme-b"]["connected"])
            given = await _drawn(a, 40)
            assert given <= LEASE_KEYS
            await peer.start()
            await until_stock(a, "sae-b1", 256 - LEASE_KEYS)
            fetched = await _drawn_and_fetched_to_the_last(a, b)
            assert 256 - LEASE_KEYS <= fetched <= 256 - given
    finally:
        await peer.kill()


async def _drawn(a, tries):
    drawn = 0
    for _ in range(tries):
        with contextlib.suppress(Unavailable):
            drawn += len(await a.enc_keys("sae-b1", number=1, size_bits=256))
    return drawn


async def _drawn_and_fetched_to_the_last(a, b):
    fetched = 0
    async with asyncio.timeout(120):
        while left := (await a.status("sae-b1")).stored_key_count:
            with contextlib.suppress(Unavailable):  # a lease that takes long on a busy machine
                keys = await a.enc_keys("sae-b1", number=min(left, 16), size_bits=256)
                fetched += len(await b.dec_keys("sae-a1", [key.key_id for key in keys]))
    return fetched


async def test_two_masters_at_once_never_draw_the_same_bits(pair):
    """Each direction has a stream of its own, so that nobody must win a race."""
    async with served(pair) as (a, b), pair.client("sae-b1") as client:
        await until_stock(client, "sae-a1", 512)
        asked = [
            one.ask("POST", f"/api/v1/keys/{slave}/enc_keys", json={"number": 16})
            for _ in range(8)
            for one, slave in ((a, "sae-b1"), (b, "sae-a1"))
        ]
        answers = await asyncio.gather(*asked)
        keys = [key["key"] for status, body in answers for key in body["keys"] if status == 200]
        assert len(keys) == 16 * 16
        assert len(set(keys)) == len(keys)
        for master, fetcher, mine in (("sae-a1", b, answers[::2]), ("sae-b1", a, answers[1::2])):
            for _, drawn in mine:
                ids = {"key_IDs": [{"key_ID": key["key_ID"]} for key in drawn["keys"]]}
                assert (await fetcher.ask("POST", f"/api/v1/keys/{master}/dec_keys", json=ids))[1]["keys"] == drawn[
                    "keys"
                ]


async def test_one_sae_cannot_drain_what_others_share(tmp_path):
    """A client that retries for ever is told to wait; its neighbour at the same KME is not."""
    limits = {"sae_bits_per_s": 1e-6, "sae_burst_bits": 64 * 256}
    pair = KmePair(tmp_path, stock_bits=1 << 18, attenuation_db=90.0, limits=limits)
    async with AsyncExitStack() as stack:
        greedy, b = await stack.enter_async_context(served(pair, keys=256))
        neighbour = await stack.enter_async_context(Raw(pair, "sae-a2"))
        before = await stored(greedy)
        got = 0
        for _ in range(40):
            status, body = await greedy.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={"number": 4})
            got += len(body.get("keys", []))
            assert status == 200 or body["details"][0]["shosoin_code"] == "keys.quota_exceeded"
        assert got == 64
        assert await stored(greedy) == before - 64
        assert (await neighbour.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={"number": 4}))[0] == 200
        assert (await b.ask("GET", "/api/v1/keys/sae-a1/status"))[0] == 200
