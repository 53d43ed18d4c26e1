"""ETSI GS QKD 014 over real mutual TLS, between two real KMEs."""

import asyncio
import base64
import json
import ssl
import uuid
from contextlib import asynccontextmanager

import aiohttp
import pytest

from shosoin.adapters.tls import client_context
from shosoin.base import Denied, PeerFault, Rejected, Unavailable
from tests.support.kme import KmePair, until_stock
from tests.support.pki import TestAuthority

NOT_FOUND = "one or more keys specified are not found on KME"
pytestmark = pytest.mark.processes


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 18)


class Raw:
    """Plain HTTP with a SAE's certificate: what comes back is not touched."""

    def __init__(self, pair, sae="sae-a1", kme="kme-a", files=None):
        files = files or pair.saes[sae]
        self.context = client_context(files.certificate, files.key, pair.sae_plane.certificate)
        self.base = f"https://127.0.0.1:{pair.sae_port[kme]}"
        self.kme = kme

    async def __aenter__(self):
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self.context))
        return self

    async def __aexit__(self, *_):
        await self.session.close()

    async def ask(self, method, path, **options):
        async with self.session.request(
            method, self.base + path, server_hostname=self.kme, allow_redirects=False, **options
        ) as response:
            assert response.headers["Content-Type"].startswith("application/json")
            return response.status, await response.json()


@asynccontextmanager
async def served(pair, keys=64):
    async with pair.running(), Raw(pair) as a, Raw(pair, "sae-b1", "kme-b") as b, pair.client("sae-a1") as client:
        await until_stock(client, "sae-b1", keys)
        yield a, b


async def stored(raw):
    return (await raw.ask("GET", "/api/v1/keys/sae-b1/status"))[1]["stored_key_count"]


async def test_status_has_the_standards_members(pair):
    async with served(pair) as (a, _):
        status, body = await a.ask("GET", "/api/v1/keys/sae-b1/status")
    assert status == 200
    assert body["stored_key_count"] >= 64
    assert {name: body[name] for name in body if name not in {"stored_key_count", "status_extension"}} == {
        "source_KME_ID": "kme-a",
        "target_KME_ID": "kme-b",
        "master_SAE_ID": "sae-a1",
        "slave_SAE_ID": "sae-b1",
        "key_size": 256,
        "max_key_count": 1 << 14,
        "max_key_per_request": 128,
        "max_key_size": 16776960,
        "min_key_size": 8,
        "max_SAE_ID_count": 16,
    }
    assert body["status_extension"]["shosoin_simulated"] is True


async def test_both_ends_get_the_same_keys_once(pair):
    async with served(pair) as (a, b):
        status, drawn = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={"number": 3, "size": 520})
        assert status == 200
        assert all(len(base64.b64decode(key["key"])) == 65 for key in drawn["keys"])
        assert all(uuid.UUID(key["key_ID"]).version == 8 for key in drawn["keys"])
        source = drawn["key_container_extension"]["shosoin_source"]
        assert (source["kind"], source["simulated"], source["epsilon"]) == ("simulated-qkd", True, None)
        wanted = {"key_IDs": [{"key_ID": key["key_ID"], "master_SAE_ID": "x"} for key in drawn["keys"]]}
        status, fetched = await b.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=wanted)
        assert (status, fetched["keys"]) == (200, drawn["keys"])
        status, error = await b.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=wanted)
        assert (status, error["message"]) == (400, NOT_FOUND)


async def test_get_forms_work(pair):
    async with served(pair) as (a, b):
        status, drawn = await a.ask("GET", "/api/v1/keys/sae-b1/enc_keys?number=1&size=128")
        assert status == 200
        (key,) = drawn["keys"]
        assert len(base64.b64decode(key["key"])) == 16
        status, fetched = await b.ask("GET", f"/api/v1/keys/sae-a1/dec_keys?key_ID={key['key_ID']}")
        assert (status, fetched["keys"]) == (200, [key])


async def test_get_takes_one_key_id_and_not_the_first_of_several(pair):
    async with served(pair) as (a, b):
        _, drawn = await a.ask("GET", "/api/v1/keys/sae-b1/enc_keys?number=2")
        first, second = (f"key_ID={key['key_ID']}" for key in drawn["keys"])
        assert (await b.ask("GET", f"/api/v1/keys/sae-a1/dec_keys?{first}&{second}"))[0] == 400
        assert (await b.ask("GET", f"/api/v1/keys/sae-a1/dec_keys?{first}"))[0] == 200


async def test_the_other_direction_has_its_own_stream(pair):
    async with served(pair) as (a, b), pair.client("sae-b1") as client:
        await until_stock(client, "sae-a1", 8)
        _, drawn = await b.ask("POST", "/api/v1/keys/sae-a1/enc_keys", json={})
        ids = {"key_IDs": [{"key_ID": drawn["keys"][0]["key_ID"]}]}
        assert (await a.ask("POST", "/api/v1/keys/sae-b1/dec_keys", json=ids))[1]["keys"] == drawn["keys"]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("POST", {"json": {}}),
        ("POST", {}),
        ("GET", {}),
        ("GET", {"json": {"number": 1}}),
        ("POST", {"params": {"number": "7"}, "json": {"number": 1}}),
        ("POST", {"data": b'{"number": 1}', "headers": {"Content-Type": "application/x-www-form-urlencoded"}}),
        ("POST", {"json": {"extension_optional": [{"acme_colour": "red"}], "unknown": [1, 2]}}),
        ("POST", {"json": {"extension_mandatory": [], "additional_slave_SAE_IDs": []}}),
    ],
)
async def test_lenient_where_clients_in_the_field_are_sloppy(pair, method, options):
    async with served(pair) as (a, _):
        status, body = await a.ask(method, "/api/v1/keys/sae-b1/enc_keys", **options)
    assert (status, len(body["keys"])) == (200, 1)


@pytest.mark.parametrize(
    ("request_body", "message"),
    [
        ({"size": 257}, "size shall be a multiple of 8"),
        ({"extension_mandatory": [{"acme_x": 1}]}, "not all extension_mandatory parameters are supported"),
        ({"additional_slave_SAE_IDs": ["nobody"]}, None),
        ({"additional_slave_SAE_IDs": [7]}, None),
        ({"additional_slave_SAE_IDs": [f"sae-{n}" for n in range(17)]}, None),
        ({"number": 0}, None),
        ({"number": -1}, None),
        ({"number": True}, None),
        ({"number": 1.0}, None),
        ({"number": "1"}, None),
        ({"number": None}, None),
        ({"number": 129}, None),
        ({"number": 10**30}, None),
        ({"size": 0}, None),
        ({"size": -8}, None),
        ({"size": 16776968}, None),
        ({"size": [256]}, None),
        ({"size": None}, None),
        ([1], None),
        ("text", None),
    ],
)
async def test_a_wrong_key_request_is_400_and_burns_nothing(pair, request_body, message):
    async with served(pair) as (a, _):
        before = await stored(a)
        status, body = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=request_body)
        assert status == 400
        assert isinstance(body["message"], str)
        assert message is None or body["message"] == message
        assert await stored(a) >= before


@pytest.mark.parametrize(
    ("method", "path", "data"),
    [
        ("GET", "/", None),
        ("GET", "/api/v1/keys/sae-b1", None),
        ("GET", "/api/v1/keys/sae-b1/nothing", None),
        ("GET", "/api/v1/keys/sae-b1/status/more", None),
        ("GET", "/api/v1/keys/%FF/status", None),
        ("GET", "/api/v1/keys/a%2Fb/status", None),
        ("GET", "/api/v1/keys/nobody/status", None),
        ("POST", "/api/v1/keys/sae-b1/status", b"{}"),
        ("DELETE", "/api/v1/keys/sae-b1/enc_keys", None),
        ("PUT", "/api/v1/keys/sae-b1/enc_keys", b"{}"),
        ("POST", "/api/v1/keys/sae-b1/enc_keys", b"{"),
        ("POST", "/api/v1/keys/sae-b1/enc_keys", b"\xff\xfe"),
        ("POST", "/api/v1/keys/sae-b1/enc_keys", b'{"number": NaN}'),
        ("POST", "/api/v1/keys/sae-a2/enc_keys", b'{"unknown": [Infinity]}'),
        ("POST", "/api/v1/keys/sae-a2/enc_keys", b'{"number": 1, "number": 1}'),
        ("POST", "/api/v1/keys/sae-a2/enc_keys", b'{"unknown": {"a": 1, "a": 2}}'),
        ("POST", "/api/v1/keys/sae-a2/enc_keys", '{"number": 1}'.encode("utf-16")),
        ("POST", "/api/v1/keys/sae-b1/enc_keys", b"[" * 60000),
        ("POST", "/api/v1/keys/sae-b1/enc_keys", b" " * 70000),
        ("GET", "/api/v1/keys/sae-b1/enc_keys?number=x", None),
        ("GET", "/api/v1/keys/sae-b1/enc_keys?number=-1", None),
        ("GET", "/api/v1/keys/sae-b1/enc_keys?number=1&number=2", None),
        ("GET", "/api/v1/keys/sae-b1/dec_keys", None),
        ("POST", "/api/v1/keys/sae-b1/dec_keys", b"{}"),
        ("POST", "/api/v1/keys/sae-b1/dec_keys", b'{"key_IDs": []}'),
        ("POST", "/api/v1/keys/sae-b1/dec_keys", b'{"key_IDs": [{"key_ID": 7}]}'),
        ("POST", "/api/v1/keys/sae-b1/dec_keys", b'{"key_IDs": ["x"]}'),
    ],
)
async def test_everything_else_that_is_wrong_is_400_with_an_error_body(pair, method, path, data):
    async with pair.running("kme-a"), Raw(pair) as a:
        status, body = await a.ask(method, path, data=data)
    assert status == 400
    assert set(body) == {"message", "details"}


async def test_a_request_that_is_no_http_is_400_json(pair):
    async with pair.running("kme-a"):
        context = Raw(pair).context
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", pair.sae_port["kme-a"], ssl=context, server_hostname="kme-a"
        )
        writer.write(b"NONSENSE\r\n\r\n")
        answer = await reader.read()
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head.splitlines()[0]
    assert set(json.loads(body)) == {"message", "details"}


async def test_a_key_for_another_sae_is_401_and_stays_fetchable(pair):
    async with served(pair) as (a, b), Raw(pair, "sae-b2", "kme-b") as other:
        _, drawn = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={"number": 2})
        ids = {"key_IDs": [{"key_ID": key["key_ID"]} for key in drawn["keys"]]}
        status, error = await other.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=ids)
        assert status == 401
        assert set(error) == {"message", "details"}
        assert (await b.ask("POST", "/api/v1/keys/sae-a2/dec_keys", json=ids))[0] == 400
        assert (await b.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=ids))[1]["keys"] == drawn["keys"]


async def test_one_bad_key_id_fails_the_whole_request_and_burns_nothing(pair):
    async with served(pair) as (a, b):
        _, drawn = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={"number": 2})
        good = [{"key_ID": key["key_ID"]} for key in drawn["keys"]]
        for bad in (str(uuid.uuid4()), str(uuid.UUID(int=uuid.uuid4().int, version=5)), "not a uuid", ""):
            ids = {"key_IDs": [*good, {"key_ID": bad}]}
            status, error = await b.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=ids)
            assert (status, error["message"]) == (400, NOT_FOUND)
        twice = {"key_IDs": [good[0], good[0]]}
        assert (await b.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=twice))[0] == 400
        assert (await b.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json={"key_IDs": good}))[0] == 200


async def test_sixteen_at_once_get_a_key_once(pair):
    async with served(pair) as (a, b):
        _, drawn = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={})
        ids = {"key_IDs": [{"key_ID": drawn["keys"][0]["key_ID"]}]}
        asked = [b.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=ids) for _ in range(16)]
        codes = sorted(status for status, _ in await asyncio.gather(*asked))
    assert codes == [200] + [400] * 15


async def test_too_little_stock_is_503_and_burns_nothing(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 15, attenuation_db=90.0)
    async with served(pair, keys=100) as (a, _):
        before = await stored(a)
        status, body = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={"number": 128, "size": 512})
        assert status == 503
        assert any("retry_after_s" in item for item in body["details"])
        assert await stored(a) == before
        status, _ = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={"number": 100})
        assert status == 200
        assert await stored(a) == before - 100


async def test_nothing_is_handed_out_before_the_ends_have_met(pair):
    async with pair.running("kme-a"), Raw(pair) as a:
        assert (await a.ask("GET", "/api/v1/keys/sae-b1/status"))[1]["stored_key_count"] == 0
        assert (await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={}))[0] == 503


@pytest.mark.parametrize("slave", ["sae-a1", "sae-a2"])
async def test_two_saes_of_one_kme_share_local_keys(pair, slave):
    async with pair.running("kme-a"), Raw(pair) as a, Raw(pair, slave) as other:
        status, drawn = await a.ask("POST", f"/api/v1/keys/{slave}/enc_keys", json={"number": 2})
        assert status == 200
        assert drawn["key_container_extension"]["shosoin_source"]["kind"] == "local-generator"
        ids = {"key_IDs": [{"key_ID": key["key_ID"]} for key in drawn["keys"]]}
        assert (await other.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=ids))[1]["keys"] == drawn["keys"]
        assert (await other.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=ids))[0] == 400


async def test_an_sae_of_another_kme_is_401(pair):
    async with pair.running("kme-a"), Raw(pair, "sae-b1", "kme-a") as b:
        status, body = await b.ask("GET", "/api/v1/keys/sae-a1/status")
    assert (status, set(body)) == (401, {"message", "details"})


@pytest.mark.parametrize(
    "uris", [[], ["urn:shosoin:kme:sae-a1"], ["urn:shosoin:sae:sae-a1", "urn:shosoin:sae:sae-a2"], ["urn:x"]]
)
async def test_a_certificate_that_names_no_single_sae_is_401(pair, uris):
    files = pair.sae_plane.issue("odd", "sae-a1", uris=uris)
    async with pair.running("kme-a"), Raw(pair, files=files) as a:
        status, _ = await a.ask("GET", "/api/v1/keys/sae-b1/status", headers={"ssl-client-cert": "sae-a1"})
    assert status == 401


async def test_certificates_of_the_other_plane_or_of_strangers_do_not_get_in(pair, tmp_path):
    stranger = TestAuthority(tmp_path / "stranger", "sae-plane").issue("sae", "sae-a1")
    network = pair.kme_plane.issue("sae", "sae-a1")
    async with pair.running("kme-a"):
        for files in (stranger, network):
            async with pair.client("sae-a1", files=files) as client:
                with pytest.raises((PeerFault, Unavailable)):
                    await client.status("sae-b1")
        bare = ssl.create_default_context(cafile=str(pair.sae_plane.certificate))
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"https://127.0.0.1:{pair.sae_port['kme-a']}/", ssl=bare, server_hostname="kme-a")


async def test_a_sae_certificate_does_not_open_the_peer_port(pair):
    async with pair.running("kme-a"):
        with pytest.raises((OSError, ssl.SSLError, asyncio.IncompleteReadError)):
            await one_byte_from(Raw(pair).context, pair.peer_port["kme-a"])


async def one_byte_from(context, port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="kme-a")
    try:
        await reader.readexactly(1)
    finally:
        writer.transport.abort()


async def test_the_client_maps_every_answer_to_a_kind(pair):
    async with pair.running("kme-a"), pair.client("sae-a1") as a, pair.client("sae-b1", kme="kme-a") as b:
        with pytest.raises(Unavailable) as waiting:
            await a.enc_keys("sae-b1", number=1, size_bits=256)
        assert waiting.value.retry_after_s == pytest.approx(1.0)
        with pytest.raises(Rejected, match="multiple of 8"):
            await a.enc_keys("sae-b1", number=1, size_bits=9)
        with pytest.raises(Denied):
            await b.status("sae-a1")
    async with pair.client("sae-a1") as a:
        with pytest.raises(Unavailable):
            await a.status("sae-b1")


async def test_the_client_refuses_a_server_with_another_identity(pair):
    async with pair.running("kme-a"):
        client = pair.client("sae-a1")
        client._identity = "kme-b"
        async with client:
            with pytest.raises(PeerFault, match="kme-b"):
                await client.status("sae-b1")


# Extensions.

UNMET = "not all extension_mandatory request options could be met"
UNSUPPORTED = "not all extension_mandatory parameters are supported"


async def test_extensions_that_can_be_met_are(pair):
    async with served(pair) as (a, b):
        wanted = [{"shosoin_max_age_s": 3600}, {"shosoin_route_type": "direct", "shosoin_min_assurance": "simulated"}]
        for kind in ("extension_mandatory", "extension_optional"):
            status, drawn = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={kind: wanted})
            assert status == 200
            assert 0 <= drawn["key_container_extension"]["shosoin_age_s"] < 3600
            ids = {"key_IDs": [{"key_ID": key["key_ID"], "key_ID_extension": {}} for key in drawn["keys"]]}
            status, fetched = await b.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=ids | {"key_IDs_extension": {}})
            assert (status, fetched["keys"]) == (200, drawn["keys"])


@pytest.mark.parametrize(
    ("extension", "message"),
    [
        ({"shosoin_max_age_s": 1e-9}, UNMET),
        ({"shosoin_route_type": "indirect"}, UNMET),
        ({"shosoin_min_assurance": "qkd"}, UNMET),
        ({"shosoin_max_age_s": 3600, "shosoin_colour": "red"}, UNSUPPORTED),
        ({"shosoin_max_age_s": 0}, None),
        ({"shosoin_max_age_s": -5}, None),
        ({"shosoin_max_age_s": "3600"}, None),
        ({"shosoin_max_age_s": True}, None),
        ({"shosoin_max_age_s": float("nan")}, None),
        ({"shosoin_route_type": "scenic"}, None),
        ({"shosoin_route_type": ["direct"]}, None),
        ({"shosoin_min_assurance": 3}, None),
        ([], None),
        (1, None),
    ],
)
async def test_extensions_that_cannot_be_met_refuse_and_use_nothing_up(pair, extension, message):
    async with served(pair) as (a, _):
        before = await stored(a)
        status, error = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={"extension_mandatory": [extension]})
        assert status == 400
        assert message is None or error["message"] == message
        assert await stored(a) >= before
        # What is optional and known is met or ignored; a value that is none is a mistake all the same.
        status, _ = await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json={"extension_optional": [extension]})
        assert status == (200 if message else 400)


async def test_an_extension_with_two_values_is_refused(pair):
    async with served(pair) as (a, _):
        both = {"extension_optional": [{"shosoin_max_age_s": 5}, {"shosoin_max_age_s": 6}]}
        assert (await a.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=both))[0] == 400
