"""SKIP over real mutual TLS, between two real KMEs: an encryptor at each."""

import asyncio
import json
import re
import ssl
import uuid
from contextlib import asynccontextmanager

import aiohttp
import pytest

from shosoin.adapters.tls import client_context
from shosoin.base import SaeId
from shosoin.services import skip
from shosoin.services.skip import SkipService
from tests.support.kme import KmePair, ServerProcess, until_stock
from tests.support.pki import TestAuthority

pytestmark = pytest.mark.processes
HEX = re.compile(r"[0-9a-f]*")
NOT_FOUND = "keys.not_found"


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 18, skip_systems={})


class Encryptor:
    """Plain HTTP with an encryptor's certificate: what comes back is not touched."""

    def __init__(self, pair, sae="sae-a1", kme="kme-a", files=None, port=None):
        files = files or pair.saes[sae]
        self.context = client_context(files.certificate, files.key, pair.sae_plane.certificate)
        self.base = f"https://127.0.0.1:{port or pair.skip_port[kme]}"
        self.kme = kme

    async def __aenter__(self):
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self.context))
        return self

    async def __aexit__(self, *_):
        await self.session.close()

    async def ask(self, path, method="GET", **options):
        async with self.session.request(
            method, self.base + path, server_hostname=self.kme, allow_redirects=False, **options
        ) as response:
            assert response.headers["Content-Type"] == "application/json"
            assert response.headers["Cache-Control"] == "no-store"
            self.headers = response.headers
            return response.status, await response.json()

    async def new(self, remote="sae-b1", more=""):
        status, body = await self.ask(f"/key?remoteSystemID={remote}{more}")
        assert status == 200, body
        assert set(body) == {"keyId", "key"}
        return body

    async def fetch(self, key_id, remote="sae-a1", more=""):
        return await self.ask(f"/key/{key_id}?remoteSystemID={remote}{more}")


@asynccontextmanager
async def served(pair, keys=64):
    async with pair.running(), Encryptor(pair) as a, Encryptor(pair, "sae-b1", "kme-b") as b:
        async with pair.client("sae-a1") as client:
            await until_stock(client, "sae-b1", keys)
        yield a, b


async def stored(pair):
    async with pair.client("sae-a1") as client:
        return (await client.status("sae-b1")).stored_key_count


async def test_both_ends_get_the_same_bits_once(pair):
    async with served(pair) as (a, b):
        drawn = [await a.new() for _ in range(3)]
        for key in drawn:
            assert re.fullmatch("[0-9a-f]{32}", key["keyId"])
            assert re.fullmatch("[0-9a-f]{64}", key["key"])
        assert len({key["key"] for key in drawn}) == len({key["keyId"] for key in drawn}) == 3
        for key in reversed(drawn):
            assert await b.fetch(key["keyId"]) == (200, key)
        for key in drawn:
            status, error = await b.fetch(key["keyId"])
            assert (status, error["code"]) == (400, NOT_FOUND)


async def test_the_other_direction_works_too(pair):
    async with served(pair) as (a, b):
        async with pair.client("sae-b1") as client:
            await until_stock(client, "sae-a1", 8)
        key = await b.new("sae-a1")
        assert await a.fetch(key["keyId"], "sae-b1") == (200, key)


async def test_who_drew_a_key_does_not_get_it_again(pair):
    async with served(pair) as (a, b):
        key = await a.new()
        assert (await a.fetch(key["keyId"], "sae-b1"))[0] == 400
        assert (await a.fetch(key["keyId"], "sae-a1"))[0] == 400
        assert await b.fetch(key["keyId"]) == (200, key)


async def test_a_key_id_is_read_in_either_case(pair):
    async with served(pair) as (a, b):
        key = await a.new()
        assert await b.fetch(key["keyId"].upper()) == (200, key)


async def test_a_key_of_another_encryptor_is_not_found_and_stays_fetchable(pair):
    async with served(pair) as (a, b), Encryptor(pair, "sae-b2", "kme-b") as other:
        key = await a.new()
        refused = await other.fetch(key["keyId"])
        assert refused == await other.fetch(uuid.uuid4().hex)  # whether it exists is not told
        assert (refused[0], refused[1]["code"]) == (400, NOT_FOUND)
        assert (await b.fetch(key["keyId"], "sae-a2"))[0] == 400
        assert (await b.fetch(key["keyId"], "sae-b1"))[0] == 400
        assert await b.fetch(key["keyId"]) == (200, key)


async def test_sixteen_at_once_get_a_key_once(pair):
    async with served(pair) as (a, b):
        key = await a.new()
        answers = await asyncio.gather(*(b.fetch(key["keyId"]) for _ in range(16)))
    assert sorted(status for status, _ in answers) == [200] + [400] * 15


async def test_a_key_has_the_size_that_was_asked_for(pair):
    async with served(pair, 600) as (a, b):
        for size in (8, 128, 256, 512, 8192, 1 << 17):
            key = await a.new(more=f"&size={size}")
            assert (len(key["key"]), bool(HEX.fullmatch(key["key"]))) == (size // 4, True)
            assert await b.fetch(key["keyId"]) == (200, key)


async def test_the_longest_key_arrives_whole(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 24, skip_systems={})
    size = 8 * ((1 << 21) - 32)
    async with served(pair, size // 256) as (a, b):
        key = await a.new(more=f"&size={size}")
        assert len(key["key"]) == size // 4
        assert await b.fetch(key["keyId"]) == (200, key)


async def test_without_a_size_a_key_has_256_bits_whatever_the_kme_gives_others(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 18, skip_systems={}, limits={"key_size_bits": 512})
    async with served(pair) as (a, _):
        assert len((await a.new())["key"]) == 64


async def test_a_fetch_that_names_another_size_burns_nothing(pair):
    async with served(pair) as (a, b):
        key = await a.new()
        for size in (255, 512, 0):
            status, error = await b.fetch(key["keyId"], more=f"&size={size}")
            assert (status, error["code"]) == (400, NOT_FOUND)
        assert await b.fetch(key["keyId"], more="&size=256") == (200, key)


WRONG_QUERIES = [
    "",
    "?remoteSystemID=",
    "?remoteSystemID=nobody",
    "?remoteSystemID=sae-*",
    "?remoteSystemID=SAE-B1",
    "?remoteSystemID=%FF",
    "?remotesystemid=sae-b1",
    "?remoteSystemID=sae-b1&remoteSystemID=sae-b1",
    "?remoteSystemID=sae-b1&remoteSystemID=sae-b2",
    "?remoteSystemID=sae-b1&size=256&size=256",
    *(f"?remoteSystemID=sae-b1&size={size}" for size in ("", "x", "0", "-8", "%2B8", "1e3", "257", "2147483648")),
    "?remoteSystemID=sae-b1&size=" + "9" * 400,
    "?remoteSystemID=sae-b1&" + "&".join(f"x{number}" for number in range(40)),
    "?remoteSystemID=" + "b" * 4000,
]


async def test_a_wrong_key_request_is_400_and_burns_nothing(pair):
    async with served(pair) as (a, _):
        before = await stored(pair)
        for query in WRONG_QUERIES:
            status, body = await a.ask(f"/key{query}")
            assert (status, set(body)) == (400, {"message", "code"}), query
        assert await stored(pair) >= before


async def test_a_malformed_key_id_is_400(pair):
    key_ids = ("x", "0" * 31, "0" * 33, "g" * 32, "%00" * 32, "%30" * 31, str(uuid.UUID(int=7)), "0" * 4000)
    async with pair.running("kme-a"), Encryptor(pair) as a:
        for key_id in key_ids:
            status, body = await a.ask(f"/key/{key_id}?remoteSystemID=sae-b1")
            assert (status, body["code"]) == (400, "skip.bad_request"), key_id


async def test_a_refused_fetch_burns_nothing(pair):
    async with served(pair) as (a, b):
        key = await a.new()
        where = f"/key/{key['keyId']}"
        for query in ("", "?remoteSystemID=", "?remoteSystemID=nobody", "?remoteSystemID=sae-a1&remoteSystemID=sae-a1"):
            assert (await b.ask(where + query))[0] == 400
        assert (await b.ask(where + "?remoteSystemID=sae-a1", "POST"))[0] == 405
        assert (await b.ask(where + "?remoteSystemID=sae-a1", data=b"{}"))[0] == 400
        assert (await b.ask(where + "/?remoteSystemID=sae-a1"))[0] == 404
        assert await b.fetch(key["keyId"]) == (200, key)


async def test_a_path_that_the_draft_does_not_list_is_404(pair):
    paths = (
        "/",
        "/keys",
        "/key/",
        "/Key?remoteSystemID=sae-b1",
        "/capabilities/",
        "/entropy/8",
        "/key//",
        "/api/v1/keys/x/status",
    )
    async with pair.running("kme-a"), Encryptor(pair) as a:
        for path in paths:
            status, body = await a.ask(path)
            assert (status, body["code"]) == (404, "skip.path_unknown"), path
            assert (await a.ask(path, "POST"))[0] == 404


async def test_another_method_is_405_and_burns_nothing(pair):
    async with served(pair) as (a, _):
        before = await stored(pair)
        for path in ("/capabilities", "/key?remoteSystemID=sae-b1", f"/key/{'0' * 32}", "/entropy"):
            for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
                status, body = await a.ask(path, method)
                assert (status, body["code"], a.headers["Allow"]) == (405, "skip.method_unknown", "GET")
        assert await stored(pair) >= before


@pytest.mark.parametrize("size", [10, 1 << 20])
async def test_a_request_with_a_body_is_refused(pair, size):
    async with served(pair) as (a, _):
        before = await stored(pair)
        status, body = await a.ask("/key?remoteSystemID=sae-b1", data=bytes(size))
        assert (status, body["code"]) == (400, "skip.bad_request")
        assert await stored(pair) >= before
        await a.new()


async def test_parameters_of_other_names_are_ignored(pair):
    async with served(pair) as (a, b):
        key = await a.new(more="&version=2&minentropy=x")
        assert await b.fetch(key["keyId"], more="&a=b") == (200, key)


async def raw_answer(pair, text, newest=ssl.TLSVersion.TLSv1_3):
    context = Encryptor(pair).context
    context.maximum_version = newest
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", pair.skip_port["kme-a"], ssl=context, server_hostname="kme-a"
    )
    try:
        writer.write(text)
        return await reader.read(), writer.get_extra_info("ssl_object").cipher()[0]
    finally:
        writer.close()


@pytest.mark.parametrize(
    "text",
    [b"NONSENSE\r\n\r\n", b"GET /key?remoteSystemID=" + b"b" * 10000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"],
    ids=["nonsense", "oversize"],
)
async def test_what_is_no_http_or_too_long_is_400_json(pair, text):
    async with pair.running("kme-a"):
        answer, _ = await raw_answer(pair, text)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert set(json.loads(body)) == {"message", "code"}


@pytest.mark.parametrize(
    ("newest", "cipher"),
    [
        (ssl.TLSVersion.TLSv1_3, "TLS_AES_256_GCM_SHA384"),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ],
)
async def test_a_plain_client_gets_an_answer_with_the_drafts_ciphers(pair, newest, cipher):
    """One request, `Connection: close`, another host name, and the connection read to its end: as `skip-qkd` does."""
    async with pair.running("kme-a"):
        text = b"GET /capabilities HTTP/1.1\r\nHost: my_system\r\nConnection: close\r\n\r\n"
        answer, used = await raw_answer(pair, text, newest)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert json.loads(body)["localSystemID"] == "sae-a1"
    assert used == cipher


async def test_capabilities_have_the_drafts_members(pair):
    async with pair.running(), Encryptor(pair) as a, Encryptor(pair, "sae-b2", "kme-b") as b:
        assert await a.ask("/capabilities") == (
            200,
            {
                "entropy": True,
                "key": True,
                "algorithm": "simulated-qkd",
                "localSystemID": "sae-a1",
                "remoteSystemID": ["sae-a2", "sae-b1", "sae-b2"],
            },
        )
        body = (await b.ask("/capabilities"))[1]
    assert (body["localSystemID"], body["remoteSystemID"]) == ("sae-b2", ["sae-a1", "sae-a2", "sae-b1"])


async def test_a_system_id_may_differ_from_the_sae_id(tmp_path):
    systems = {"sae-a1": "KP_ALICE_LOC1", "sae-b1": "sae-a1"}
    pair = KmePair(tmp_path, stock_bits=1 << 18, skip_systems=systems)
    async with served(pair) as (a, b):
        body = (await a.ask("/capabilities"))[1]
        assert body["localSystemID"] == "KP_ALICE_LOC1"
        assert body["remoteSystemID"] == ["sae-a2", "sae-a1", "sae-b2"]
        key = await a.new("sae-a1")
        assert (await b.fetch(key["keyId"], "sae-a1"))[0] == 400
        assert await b.fetch(key["keyId"], "KP_ALICE_LOC1") == (200, key)
        assert (await a.ask("/key?remoteSystemID=sae-b1"))[0] == 400


async def test_entropy_is_as_long_as_asked_and_never_the_same(pair):
    lengths = {"": 256, "?minentropy=128": 128, "?minentropy=1": 8, "?minentropy=65536": 65536}
    seen = set()
    async with pair.running("kme-a"), Encryptor(pair) as a:
        for query, bits in lengths.items():
            status, body = await a.ask(f"/entropy{query}")
            assert (status, set(body), body["minentropy"]) == (200, {"randomStr", "minentropy"}, bits)
            assert len(bytes.fromhex(body["randomStr"])) == bits // 8
        for _ in range(5):
            seen.add((await a.ask("/entropy"))[1]["randomStr"])
    assert len(seen) == 5


async def test_entropy_that_is_not_to_be_had_is_400(pair):
    async with pair.running("kme-a"), Encryptor(pair) as a:
        for wanted in ("0", "65537", "-1", "x", "", "128&minentropy=128"):
            assert (await a.ask(f"/entropy?minentropy={wanted}"))[0] == 400, wanted


async def test_keys_go_from_either_interface_to_the_other(pair):
    async with served(pair) as (a, b), pair.client("sae-a1") as a014, pair.client("sae-b1") as b014:
        key = await a.new()
        (fetched,) = await b014.dec_keys(SaeId("sae-a1"), [str(uuid.UUID(key["keyId"]))])
        assert fetched.material.take().hex() == key["key"]
        assert (await b.fetch(key["keyId"]))[0] == 400
        (drawn,) = await a014.enc_keys(SaeId("sae-b1"), number=1, size_bits=192)
        status, body = await b.fetch(drawn.key_id.replace("-", ""))
        assert (status, body["key"]) == (200, drawn.material.take().hex())


async def test_two_encryptors_of_one_kme_share_local_keys(pair):
    async with pair.running("kme-a"), Encryptor(pair) as a, Encryptor(pair, "sae-a2") as other:
        key = await a.new("sae-a2")
        assert (await a.fetch(key["keyId"], "sae-a1"))[0] == 400
        assert (await other.fetch(key["keyId"], more="&size=128"))[0] == 400
        assert await other.fetch(key["keyId"]) == (200, key)
        assert (await other.fetch(key["keyId"]))[0] == 400


async def test_too_little_stock_is_503_and_burns_nothing(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 15, attenuation_db=90.0, skip_systems={})
    async with served(pair, keys=100) as (a, _):
        before = await stored(pair)
        status, body = await a.ask("/key?remoteSystemID=sae-b1&size=65536")
        assert (status, body["code"]) == (503, "keys.stream_dry")
        assert int(a.headers["Retry-After"]) >= 1
        assert await stored(pair) == before
        await a.new(more="&size=256")
        assert await stored(pair) == before - 1


async def test_nothing_is_handed_out_before_the_ends_have_met(pair):
    async with pair.running("kme-a"), Encryptor(pair) as a:
        status, body = await a.ask("/key?remoteSystemID=sae-b1")
        assert (status, body["code"]) == (503, "keys.stream_not_ready")
        assert (await a.fetch("0" * 32, "sae-b1"))[0] == 503


async def test_the_quota_of_an_sae_holds_at_both_interfaces(tmp_path):
    limits = {"sae_bits_per_s": 1e-9, "sae_burst_bits": 1024.0}
    pair = KmePair(tmp_path, stock_bits=1 << 18, skip_systems={}, limits=limits)
    async with served(pair) as (a, _), pair.client("sae-a1") as a014:
        await a014.enc_keys(SaeId("sae-b1"), number=3, size_bits=256)
        await a.new()
        status, body = await a.ask("/key?remoteSystemID=sae-b1")
        assert (status, body["code"]) == (503, "keys.quota_exceeded")


async def test_an_answer_without_memory_is_503_and_burns_nothing(pair, monkeypatch):
    async with served(pair) as (a, b):
        key, before = await a.new(), await stored(pair)
        with monkeypatch.context() as patch:
            patch.setattr(skip, "key_bytes", lambda _: 1 << 40)
            for answer in (await b.fetch(key["keyId"]), await a.ask("/key?remoteSystemID=sae-b1")):
                assert (answer[0], answer[1]["code"]) == (503, "skip.busy")
        assert await stored(pair) >= before
        assert await b.fetch(key["keyId"]) == (200, key)


async def test_a_defect_is_500_and_says_nothing(pair, monkeypatch):
    async def fails(*_):
        raise RuntimeError("a secret")

    monkeypatch.setattr(SkipService, "_serve", fails)
    async with pair.running("kme-a"), Encryptor(pair) as a:
        status, body = await a.ask("/capabilities")
    assert (status, body["code"]) == (500, "skip.defect")
    assert "secret" not in str(body)


async def test_an_sae_of_another_kme_is_403(pair):
    async with pair.running("kme-a"), Encryptor(pair, "sae-b1", "kme-a") as b:
        for path in ("/capabilities", "/entropy", "/key?remoteSystemID=sae-a1", "/nothing"):
            status, body = await b.ask(path)
            assert (status, body["code"]) == (403, "keys.caller_unknown"), path


@pytest.mark.parametrize("uris", [[], ["urn:shosoin:kme:sae-a1"], ["urn:shosoin:sae:sae-a1", "urn:shosoin:sae:sae-a2"]])
async def test_a_certificate_that_names_no_single_sae_is_403(pair, uris):
    files = pair.sae_plane.issue("odd", "sae-a1", uris=uris)
    async with pair.running("kme-a"), Encryptor(pair, files=files) as a:
        status, _ = await a.ask("/capabilities", headers={"ssl-client-cert": "sae-a1"})
    assert status == 403


async def test_strangers_do_not_get_in(pair, tmp_path):
    stranger = TestAuthority(tmp_path / "stranger", "sae-plane").issue("sae", "sae-a1")
    bare = ssl.create_default_context(cafile=str(pair.sae_plane.certificate))
    async with pair.running("kme-a"):
        for files in (stranger, pair.kme_plane.issue("sae", "sae-a1")):
            async with Encryptor(pair, files=files) as client:
                with pytest.raises(aiohttp.ClientError):
                    await client.ask("/capabilities")
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"https://127.0.0.1:{pair.skip_port['kme-a']}/", ssl=bare, server_hostname="kme-a")


async def test_one_sae_has_at_most_half_of_the_connections(tmp_path):
    pair = KmePair(tmp_path, skip_systems={}, limits={"max_connections": 4})
    async with pair.running("kme-a"), Encryptor(pair) as first, Encryptor(pair) as second:
        for client in (first, second):
            assert (await client.ask("/capabilities"))[0] == 200
        async with Encryptor(pair) as third:
            with pytest.raises(aiohttp.ClientError):
                await third.ask("/capabilities")
        async with Encryptor(pair, "sae-a2") as other:
            assert (await other.ask("/capabilities"))[0] == 200


async def test_the_interface_is_there_only_where_the_configuration_says_so(tmp_path):
    pair = KmePair(tmp_path)
    async with pair.running("kme-a") as running, Encryptor(pair) as a:
        assert running["kme-a"].skip_port is None
        with pytest.raises(aiohttp.ClientConnectionError):
            await a.ask("/capabilities")
        ready = json.loads((pair.directory("kme-a") / "ready").read_text())
        assert "skip_port" not in ready


async def test_ready_names_the_port(pair):
    async with pair.running("kme-a"):
        ready = json.loads((pair.directory("kme-a") / "ready").read_text())
    assert ready["skip_port"] == pair.skip_port["kme-a"]


async def test_processes_of_their_own_serve_it_and_log_no_key(pair):
    servers = [ServerProcess(pair.config(kme)) for kme in ("kme-a", "kme-b")]
    try:
        await asyncio.gather(*(server.start() for server in servers))
        async with Encryptor(pair) as a, Encryptor(pair, "sae-b1", "kme-b") as b, pair.client("sae-a1") as client:
            await until_stock(client, "sae-b1", 8)
            key = await a.new()
            assert await b.fetch(key["keyId"]) == (200, key)
            assert (await b.fetch(key["keyId"]))[0] == 400
    finally:
        await asyncio.gather(*(server.stop() for server in servers))
    logs = [(server.config.parent / "log").read_text() for server in servers]
    assert all("kme.stopped" in text for text in logs)
    assert not any(key["key"] in text or key["keyId"] in text for text in logs)
