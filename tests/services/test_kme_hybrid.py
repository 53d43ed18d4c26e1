"""KMEs whose TLS is hybrid post-quantum: who gets in, who does not, and what operators see of it."""

import asyncio
import json
import ssl
import sys
from contextlib import suppress

import aiohttp
import pytest

from shosoin.adapters import openssl_binding
from shosoin.adapters.key_exchange import KeyExchange
from shosoin.adapters.pq_tls import HYBRID_GROUP, hybrid_client_context
from shosoin.adapters.tls import client_context
from shosoin.base import Denied, PeerFault, Rejected, SaeId, Unavailable
from shosoin.services.kme import KmeProcess
from shosoin.services.kme_config import load_kme_config
from tests.support.client004 import Client004
from tests.support.kme import KmePair, ServerProcess, until, until_stock
from tests.support.operations import Scraper, with_operations
from tests.support.programs import program

A1, B1 = SaeId("sae-a1"), SaeId("sae-b1")
REQUIRED = {"sae_api": "require-hybrid", "peer_api": "require-hybrid"}
REFUSED = (Denied, PeerFault, Unavailable)


async def keys_cross(pair):
    """Draw keys at one KME, fetch them at the other; return what each client saw of its connection."""
    async with pair.client("sae-a1") as near, pair.client("sae-b1") as far:
        await until_stock(near, "sae-b1", 4)
        drawn = await near.enc_keys(B1, number=3, size_bits=256)
        fetched = await far.dec_keys(A1, [key.key_id for key in drawn])
        assert [key.material for key in drawn] == [key.material for key in fetched]
        return near.tls["group"], far.tls["group"]


@pytest.mark.processes
async def test_ml_dsa_and_hybrid_groups_everywhere_between_two_real_processes(tmp_path):
    pair = KmePair(tmp_path, key_exchange=REQUIRED, ml_dsa=True)
    servers = [ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")]
    try:
        await asyncio.gather(*(server.start() for server in servers))
        assert await keys_cross(pair) == (HYBRID_GROUP, HYBRID_GROUP)
        for kme, peer in (("kme-a", "kme-b"), ("kme-b", "kme-a")):
            shown = pair.directory(kme) / "links.json"
            await until(lambda shown=shown, peer=peer: json.loads(shown.read_text())[peer]["connected"])
            assert json.loads(shown.read_text())[peer]["key_exchange_group"] == HYBRID_GROUP
    finally:
        await asyncio.gather(*(server.stop() for server in servers))
    for kme in ("kme-a", "kme-b"):
        lines = [json.loads(line) for line in (tmp_path / kme / "log").read_text().splitlines()]
        assert {line["group"] for line in lines if line["event"] == "peer.connected"} == {HYBRID_GROUP}
        callers = [line["caller"] for line in lines if line["event"] == "sae.connected"]
        assert callers == ["sae-a1" if kme == "kme-a" else "sae-b1"]


async def test_connections_are_counted_by_group(tmp_path):
    pair = KmePair(tmp_path, key_exchange={"sae_api": "prefer-hybrid", "peer_api": "require-hybrid"})
    with_operations(pair)
    async with pair.running() as kmes:
        await keys_cross(pair)
        await s_client(pair, "sae_port", pair.saes["sae-a1"], pair.sae_plane, "-groups", "X25519")
        async with Scraper(kmes["kme-a"]) as scraper:
            samples = await scraper.samples()
        assert samples.value("tls_connections_total", interface="etsi014", group=HYBRID_GROUP) == 1
        assert samples.value("tls_connections_total", interface="etsi014", group="X25519") == 1
        assert samples.value("tls_connections_total", interface="peer", group=HYBRID_GROUP) >= 2
        assert samples.value("tls_connections_total", interface="peer", group="X25519") is None


async def test_classical_is_the_default_and_counts_what_python_can_tell(tmp_path):
    pair = KmePair(tmp_path)
    with_operations(pair)
    async with pair.running() as kmes:
        await keys_cross(pair)
        async with Scraper(kmes["kme-a"]) as scraper:
            samples = await scraper.samples()
        assert samples.value("tls_connections_total", interface="etsi014") == 1
        assert samples.value("tls_connections_total", interface="peer") >= 2


async def s_client(pair, port, files, authority, *options):
    """Let ``openssl s_client`` ask for a status; returns what it printed."""
    process = await asyncio.create_subprocess_exec(
        program("openssl"), "s_client", "-connect", f"127.0.0.1:{getattr(pair, port)['kme-a']}", "-ign_eof",
        "-CAfile", str(authority.certificate), "-cert", str(files.certificate), "-key", str(files.key), *options,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    request = b"GET /api/v1/keys/sae-b1/status HTTP/1.1\r\nHost: kme-a\r\nConnection: close\r\n\r\n"
    async with asyncio.timeout(30):
        printed, _ = await process.communicate(request)
    return printed.decode(errors="replace")


@pytest.mark.parametrize("port", ["sae_port", "peer_port"])
async def test_who_offers_only_x25519_is_refused_where_hybrid_is_required(tmp_path, port):
    pair = KmePair(tmp_path, key_exchange=REQUIRED)
    files, authority = pair.saes["sae-a1"], pair.sae_plane
    if port == "peer_port":
        files, authority = pair.kme_plane.issue("kme", "kme-b"), pair.kme_plane
    async with pair.running("kme-a") as kmes:
        printed = await s_client(pair, port, files, authority, "-groups", "X25519")
        assert "Cipher is (NONE)" in printed
        assert "HTTP/1.1" not in printed
        assert not kmes["kme-a"].services["etsi014"].tally.groups
        assert not kmes["kme-a"].peer_groups


async def test_who_offers_only_x25519_is_served_where_hybrid_is_preferred(tmp_path):
    pair = KmePair(tmp_path, key_exchange={"sae_api": "prefer-hybrid"})
    async with pair.running("kme-a"):
        printed = await s_client(pair, "sae_port", pair.saes["sae-a1"], pair.sae_plane, "-groups", "X25519")
        assert "HTTP/1.1 200 OK" in printed
        assert "HTTP/1.1" not in await s_client(
            pair, "sae_port", pair.saes["sae-a1"], pair.sae_plane, "-groups", "X25519", "-tls1_2"
        )


async def test_skip_requires_what_it_was_told(tmp_path):
    pair = KmePair(tmp_path, skip_systems={}, key_exchange={"skip": "require-hybrid"})
    files = pair.saes["sae-a1"]
    context = hybrid_client_context(files.certificate, files.key, pair.sae_plane.certificate)
    url = f"https://127.0.0.1:{pair.skip_port['kme-a']}/capabilities"
    async with pair.running("kme-a") as kmes:
        printed = await s_client(pair, "skip_port", files, pair.sae_plane, "-groups", "X25519")
        assert "Cipher is (NONE)" in printed
        connector = aiohttp.TCPConnector(ssl=context)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(url, server_hostname="kme-a") as response,
        ):
            assert response.status == 200
        assert dict(kmes["kme-a"].services["skip"].tally.groups) == {HYBRID_GROUP: 1}


async def test_key_streams_require_what_they_were_told(tmp_path):
    pair = KmePair(tmp_path, etsi004={}, key_exchange={"etsi004": "require-hybrid"})
    async with pair.running("kme-a") as kmes:
        printed = await s_client(pair, "etsi004_port", pair.saes["sae-a1"], pair.sae_plane, "-groups", "X25519")
        assert "Cipher is (NONE)" in printed
        a, b = (hybrid_004(pair, sae) for sae in ("sae-a1", "sae-a2"))
        async with a, b:
            ksid = (await a.open("sae-a2")).key_stream_id
            assert (await b.open("sae-a1", ksid=ksid)).status == 0
            keys = [await client.get(ksid, 0) for client in (a, b)]
            assert len(keys[0].key) == 32
            assert keys[0].key == keys[1].key
        assert dict(kmes["kme-a"].services["etsi004"].tally.groups) == {HYBRID_GROUP: 2}


def hybrid_004(pair, sae):
    files = pair.saes[sae]
    context = hybrid_client_context(files.certificate, files.key, pair.sae_plane.certificate)
    return Client004(pair, sae, context=context)


async def test_a_certificate_of_the_other_plane_opens_neither_port(tmp_path):
    pair = KmePair(tmp_path, key_exchange=REQUIRED)
    wrong_sae = pair.kme_plane.issue("sae", "sae-a1")
    wrong_kme = pair.sae_plane.issue("kme", "kme-b")
    async with pair.running("kme-a") as kmes:
        async with pair.client("sae-a1", files=wrong_sae) as client:
            with pytest.raises(REFUSED):
                await client.status(B1)
        context = hybrid_client_context(wrong_kme.certificate, wrong_kme.key, pair.kme_plane.certificate)
        with suppress(OSError, ssl.SSLError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", pair.peer_port["kme-a"], ssl=context, server_hostname="kme-a"
            )
            assert await reader.read() == b""
            writer.close()
        assert not kmes["kme-a"].services["etsi014"].tally.groups
        assert not kmes["kme-a"].peer_groups
        async with pair.client("sae-a1") as client:
            await client.status(B1)


async def test_a_kme_of_another_name_or_authority_is_refused_by_our_client(tmp_path):
    pair = KmePair(tmp_path, key_exchange=REQUIRED)
    async with pair.running("kme-a"):
        async with pair.client("sae-a1") as client:
            client._server_name = "kme-b"
            with pytest.raises(PeerFault, match="mismatch"):
                await client.status(B1)
        mistaken = pair.sae_plane
        pair.sae_plane = pair.kme_plane
        try:
            async with pair.client("sae-a1") as client:
                with pytest.raises(PeerFault, match="certificate"):
                    await client.status(B1)
        finally:
            pair.sae_plane = mistaken


async def test_a_client_without_a_certificate_is_refused(tmp_path):
    pair = KmePair(tmp_path, key_exchange={"sae_api": "prefer-hybrid"})
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(pair.sae_plane.certificate)
    async with pair.running("kme-a") as kmes:
        with suppress(OSError, ssl.SSLError):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", pair.sae_port["kme-a"], ssl=bare, server_hostname="kme-a"
            )
            writer.write(b"GET /api/v1/keys/sae-b1/status HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await reader.read() == b""
            writer.close()
        assert not kmes["kme-a"].services["etsi014"].tally.groups


@pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO >= (3, 5), reason="this Python's own TLS can do the hybrid group")
@pytest.mark.parametrize("strict", ["kme-a", "kme-b"])
async def test_one_strict_end_of_a_link_is_enough_and_nothing_falls_back(tmp_path, strict):
    """Whether it dials (kme-a) or is dialled: the link stays down, and the strict end saw no connection."""
    pair = KmePair(tmp_path, key_exchange={f"{strict} peer_api": "require-hybrid"})
    async with pair.running() as kmes:
        listening = kmes["kme-b"]._listeners[0]
        await until(lambda: listening._failed >= 2)  # tried, and tried again
        assert [kme.link_states()[peer]["connected"] for kme, peer in links(kmes)] == [False, False]
        assert not kmes[strict].peer_groups


def links(kmes):
    return (kmes["kme-a"], "kme-b"), (kmes["kme-b"], "kme-a")


@pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO >= (3, 5), reason="this Python's own TLS can do the hybrid group")
@pytest.mark.parametrize("modern", ["kme-a", "kme-b"])
async def test_a_preferring_end_talks_to_a_classical_one_and_says_so(tmp_path, modern):
    pair = KmePair(tmp_path, key_exchange={f"{modern} peer_api": "prefer-hybrid"})
    async with pair.running() as kmes:
        await until(lambda: all(kme.link_states()[peer]["connected"] for kme, peer in links(kmes)))
        other = "kme-b" if modern == "kme-a" else "kme-a"
        assert kmes[modern].link_states()[other]["key_exchange_group"] == "X25519"
        assert kmes[other].link_states()[modern]["key_exchange_group"] is None


async def test_classical_clients_of_ours_are_served_where_hybrid_is_preferred(tmp_path):
    pair = KmePair(tmp_path, key_exchange={"sae_api": "prefer-hybrid"})
    async with pair.running("kme-a"):
        async with pair.client("sae-a1", key_exchange=KeyExchange.CLASSICAL) as client:
            await client.status(B1)
        files = pair.saes["sae-a1"]
        assert client_context(files.certificate, files.key, pair.sae_plane.certificate)


async def test_the_client_refuses_a_classical_kme_when_it_requires_hybrid(tmp_path):
    pair = KmePair(tmp_path)
    async with pair.running("kme-a"):
        async with pair.client("sae-a1", key_exchange=KeyExchange.PREFER_HYBRID) as client:
            await client.status(B1)
            assert client.tls["group"] in {"X25519", HYBRID_GROUP}
        if ssl.OPENSSL_VERSION_INFO < (3, 5):
            async with pair.client("sae-a1", key_exchange=KeyExchange.REQUIRE_HYBRID) as client:
                with pytest.raises(REFUSED):
                    await client.status(B1)


@pytest.mark.parametrize(
    ("written", "message"),
    [("require-hybird", "did you mean 'require-hybrid'"), ("pq", "known are classical, prefer-hybrid, require-hybrid")],
)
def test_a_key_exchange_that_does_not_exist_names_those_that_do(tmp_path, written, message):
    pair = KmePair(tmp_path, key_exchange={"sae_api": written})
    with pytest.raises(Rejected, match=message):
        load_kme_config(pair.config("kme-a"))


async def test_a_misspelt_key_names_the_right_one(tmp_path):
    pair = KmePair(tmp_path, key_exchange=REQUIRED)
    path = pair.config("kme-a")
    path.write_text(path.read_text().replace("key_exchange", "key_exchnge", 1))
    with pytest.raises(Rejected, match="did you mean 'key_exchange'"):
        load_kme_config(path)


@pytest.mark.parametrize("section", ["sae_api", "peer_api"])
async def test_without_the_extra_a_kme_does_not_start_and_names_it(tmp_path, monkeypatch, section):
    pair = KmePair(tmp_path, key_exchange={section: "prefer-hybrid"})
    openssl_binding.binding.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "OpenSSL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "OpenSSL", None)
    try:
        with pytest.raises(Rejected) as caught:
            async with KmeProcess(load_kme_config(pair.config("kme-a"))):
                pass
        assert caught.value.code == "tls.extra_missing"
        assert "shosoin[pqtls]" in str(caught.value.hint)
    finally:
        monkeypatch.undo()
        openssl_binding.binding.cache_clear()
