"""Administrators of a real KME: who may do what, what it does, and that everything is recorded."""

import asyncio
import ssl
from contextlib import AsyncExitStack

import pytest

from shosoin.adapters.admin_log import read_entries, verify_log
from shosoin.base import Rejected, SaeId, ShosoinError, Unavailable
from shosoin.services.admin_calls import CALLS
from shosoin.services.kme_config import load_kme_config
from tests.services.test_kme_identity import connected, is_ended, is_refused
from tests.support.admin import ROLES, Administration
from tests.support.kme import KmePair, ServerProcess, until, until_stock
from tests.support.operations import with_operations

pytestmark = pytest.mark.processes
SUBJECT = {"peer KME": "kme-b", "SAE": "sae-a2"}


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 20)


@pytest.fixture
def admin(pair):
    return Administration(pair)


def path_of(call):
    return "/v1/" + call.path.replace("{id}", SUBJECT.get(call.target, ""))


async def make(admin, who, call):
    return await admin.ask(who, call.method, path_of(call), {} if call.changes else None)


def allowed(who, call):
    return who in ROLES and (call.role == "viewer" or call.role in ROLES[who])


async def test_each_role_may_do_what_is_its_own_and_nothing_else(pair, admin):
    made = []
    async with pair.running("kme-a") as processes:
        for who in (*ROLES, "nobody", "n" * 64):
            for call in CALLS:
                status, answer = await make(admin, who, call)
                made.append((f"admin:{who}", call.name, status))
                if allowed(who, call):
                    assert status == 200, answer
                else:
                    assert (status, answer["code"]) == (403, "admin.denied")
                    assert answer["hint"]
        processes["kme-a"].stop_wanted.clear()
    entries = [entry for entry in read_entries(admin.folder) if entry["result"] != "begun"]
    assert [(entry["who"], entry["call"], 200 if entry["result"] == "done" else 403) for entry in entries] == made
    assert {entry["result"] for entry in entries} == {"done", "refused"}
    verify_log(admin.folder)


async def test_what_changes_something_is_recorded_before_and_after(pair, admin):
    async with pair.running("kme-a"):
        await admin.ask("sec", "POST", "/v1/saes/sae-a1/revoke", {"reason": "left the company"})
        await admin.ask("sec", "POST", "/v1/saes/sae-a9/revoke", {})
    told = [(each["call"], each["on"], each["result"], each.get("code")) for each in read_entries(admin.folder)]
    assert told == [
        ("revoke", "sae-a1", "begun", None),
        ("revoke", "sae-a1", "done", None),
        ("revoke", "sae-a9", "begun", None),
        ("revoke", "sae-a9", "failed", "admin.not_there"),
    ]
    first = next(read_entries(admin.folder))
    assert first["with"] == {"reason": "left the company"}
    assert first["roles"] == ["security", "viewer"]


async def test_certificates_of_other_planes_do_not_even_connect(pair, admin):
    async with pair.running("kme-a"):
        for plane in (pair.sae_plane, pair.kme_plane):
            for role in ("admin", "sae", "kme"):
                files = plane.issue(role, "olga", stem="tried")
                assert await is_refused(pair, "kme-a", files, admin.plane.certificate, port=admin.port)
        # An administrator's opens nothing elsewhere either.
        olga = admin.people["olga"]
        assert await is_refused(pair, "kme-a", olga, pair.sae_plane.certificate)
        assert await is_refused(pair, "kme-a", olga, pair.kme_plane.certificate, port=pair.peer_port["kme-a"])


async def test_whoever_is_no_administrator_may_nothing_whatever_its_name(pair, admin):
    async with pair.running("kme-a"):
        for role in ("sae", "kme", "node"):
            files = admin.plane.issue(role, "olga", stem="tried")
            assert (await admin.ask(files, "GET", "/v1/status"))[0] == 403
        uris = ["urn:shosoin:admin:olga", "urn:shosoin:sae:olga"]
        two = admin.plane.issue("admin", "olga", uris=uris, stem="two")
        assert (await admin.ask(two, "GET", "/v1/status"))[0] == 403
    assert [entry["who"] for entry in read_entries(admin.folder)] == ["sae:olga", "kme:olga", "node:olga", "unknown:"]


async def test_tls_before_1_3_is_refused(pair, admin):
    async with pair.running("kme-a"):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(admin.plane.certificate)
        context.load_cert_chain(admin.people["vic"].certificate, admin.people["vic"].key)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", admin.port, ssl=context, server_hostname="kme-a")


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code"),
    [
        ("GET", "/v1/nothing", {}, 404, "admin.not_there"),
        ("GET", "/", {}, 404, "admin.not_there"),
        ("GET", "/v1/../v1/status", {}, 404, "admin.not_there"),
        ("POST", "/v1/status", {"body": {}}, 405, "admin.bad_method"),
        ("GET", "/v1/stop", {}, 405, "admin.bad_method"),
        ("OPTIONS", "/v1/stop", {}, 405, "admin.bad_method"),
        ("POST", "/v1/pairs/kme-c/pause", {"body": {}}, 404, "admin.not_there"),
        ("POST", "/v1/saes/sae-b1/revoke", {"body": {}}, 404, "admin.not_there"),
        ("POST", "/v1/saes/%2e%2e/revoke", {"body": {}}, 404, "admin.not_there"),
        ("POST", "/v1/stop", {"body": {"drain_s": -1}}, 400, "admin.bad_request"),
        ("POST", "/v1/stop", {"body": {"drain_s": True}}, 400, "admin.bad_request"),
        ("POST", "/v1/stop", {"body": {"drain_s": "soon"}}, 400, "admin.bad_request"),
        ("POST", "/v1/stop", {"raw": b'{"drain_s": NaN}'}, 400, "admin.bad_request"),
        ("POST", "/v1/stop", {"raw": b'{"drain_s": 1e999}'}, 400, "admin.bad_request"),
        ("POST", "/v1/stop", {"body": {"drian_s": 1}}, 400, "admin.bad_request"),
        ("POST", "/v1/stop", {"body": []}, 400, "admin.bad_request"),
        ("POST", "/v1/stop", {"raw": b"{"}, 400, "admin.bad_request"),
        ("POST", "/v1/stop", {"raw": b"[" * 4000}, 400, "admin.bad_request"),
        ("POST", "/v1/stop", {"raw": b" " * 5000}, 400, "admin.bad_request"),
        ("POST", "/v1/stop", {"body": {}, "content_type": "text/plain"}, 400, "admin.bad_request"),
        ("POST", "/v1/saes/sae-a1/revoke", {"body": {"reason": "x" * 201}}, 400, "admin.bad_request"),
        ("POST", "/v1/saes/sae-a1/revoke", {"body": {"reason": "a\nsae:sae-a2"}}, 400, "admin.bad_request"),
        ("POST", "/v1/saes/sae-a1/revoke", {"body": {"reason": "a\u202eb"}}, 400, "admin.bad_request"),
        ("POST", "/v1/saes/sae-a1/revoke", {"raw": b'{"reason": "\\ud800"}'}, 400, "admin.bad_request"),
        ("POST", "/v1/saes/sae-a1/revoke", {"body": {"reason": 7}}, 400, "admin.bad_request"),
    ],
)
async def test_wrong_requests_are_refused_and_recorded(pair, admin, method, path, options, status, code):
    async with pair.running("kme-a") as processes:
        found, answer = await admin.ask(
            "both",
            method,
            path,
            options.get("body"),
            **{name: value for name, value in options.items() if name != "body"},
        )
        assert (found, answer["code"]) == (status, code)
        assert not processes["kme-a"].stop_wanted.is_set()
        assert not processes["kme-a"].is_draining
        assert processes["kme-a"].identity.revoked.identities == frozenset()
    last = list(read_entries(admin.folder))[-1]
    assert (last["who"], last["code"]) == ("admin:both", code)
    verify_log(admin.folder)


@pytest.mark.parametrize(
    "raw",
    [
        b"\0\xff\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\n" + b"A: " + b"x" * 20000 + b"\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: kme\r\nConnection: close\r\n\r\n",
        b"GET http://elsewhere/v1/status HTTP/1.1\r\nHost: kme\r\nConnection: close\r\n\r\n",
        b"GET /v1/status?x=\x01%zz HTTP/1.1\r\nHost: kme\r\nConnection: close\r\n\r\n",
        b"POST /v1/stop HTTP/1.1\r\nHost: kme\r\nContent-Type: application/json\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/stop HTTP/1.1\r\nHost: kme\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{}",
    ],
)
async def test_what_is_hardly_http_ends_nothing(pair, raw):
    admin = Administration(pair, idle_timeout_s=0.5)
    async with pair.running("kme-a") as processes:
        where = connected(pair, "kme-a", admin.people["both"], admin.plane.certificate, port=admin.port)
        async with where as (reader, writer):
            writer.write(raw)
            async with asyncio.timeout(20):
                answer = await reader.read()
        assert b"Traceback" not in answer
        assert not processes["kme-a"].stop_wanted.is_set()
        assert (await admin.ask("vic", "GET", "/v1/status"))[0] == 200
    verify_log(admin.folder)


async def test_one_administrator_leaves_room_for_others(pair):
    admin = Administration(pair, max_connections=4, idle_timeout_s=600)
    async with pair.running("kme-a") as processes, AsyncExitStack() as stack:
        for _ in range(2):
            where = connected(pair, "kme-a", admin.people["vic"], admin.plane.certificate, port=admin.port)
            await stack.enter_async_context(where)
        guard = processes["kme-a"].admin.guard
        await until(lambda: guard.open == 2)
        assert (await admin.ask("olga", "GET", "/v1/status"))[0] == 200
        assert await is_refused(pair, "kme-a", admin.people["vic"], admin.plane.certificate, port=admin.port)


async def test_a_paused_pair_hands_out_nothing_until_it_is_resumed_also_after_a_restart(pair, admin):
    async with pair.running() as processes, pair.client("sae-a1") as master, pair.client("sae-b1") as slave:
        await until_stock(master, "sae-b1", 8)
        (drawn,) = await slave.enc_keys(SaeId("sae-a1"), number=1, size_bits=256)
        assert (await admin.ask("olga", "POST", "/v1/pairs/kme-b/pause", {}))[0] == 200
        stock = processes["kme-a"].drivers["kme-b"].pair.outgoing.stock_granules()
        with pytest.raises(Unavailable, match="paused"):
            await master.enc_keys(SaeId("sae-b1"), number=1, size_bits=256)
        with pytest.raises(Unavailable, match="paused"):
            await master.dec_keys(SaeId("sae-b1"), [drawn.key_id])
        assert (await master.status(SaeId("sae-b1"))).stored_key_count == 0
        assert processes["kme-a"].drivers["kme-b"].pair.outgoing.stock_granules() >= stock
        assert await master.enc_keys(SaeId("sae-a2"), number=1, size_bits=256)  # others are served
        assert (await admin.ask("vic", "GET", "/v1/pairs"))[1]["pairs"]["kme-b"]["paused"] is True
    async with pair.running(), pair.client("sae-a1") as master:
        with pytest.raises(Unavailable):
            await master.enc_keys(SaeId("sae-b1"), number=1, size_bits=256)
        assert (await admin.ask("olga", "POST", "/v1/pairs/kme-b/resume", {}))[1] == {"peer": "kme-b", "paused": False}
        await until_stock(master, "sae-b1", 4)
        assert len(await master.enc_keys(SaeId("sae-b1"), number=4, size_bits=256)) == 4


async def test_a_revoked_sae_is_out_at_once_and_for_good(pair, admin):
    files, ca = pair.saes["sae-a1"], pair.sae_plane.certificate
    async with pair.running("kme-a"):
        async with connected(pair, "kme-a", files, ca) as (reader, _):
            assert (await admin.ask("vic", "GET", "/v1/saes"))[1]["saes"]["sae-a1"]["connections"] == 1
            status, answer = await admin.ask("sec", "POST", "/v1/saes/sae-a1/revoke", {"reason": "lost laptop"})
            assert (status, answer["connections_ended"]) == (200, 1)
            assert await is_ended(reader)
        assert await is_refused(pair, "kme-a", files, ca)
        saes = (await admin.ask("vic", "GET", "/v1/saes"))[1]["saes"]
        assert (saes["sae-a1"]["revoked"], saes["sae-a2"]["revoked"]) == (True, False)
    assert (pair.directory("kme-a") / "revoked").read_text() == "sae:sae-a1  # by sec: lost laptop\n"
    async with pair.running("kme-a"), pair.client("sae-a2") as other:
        assert await is_refused(pair, "kme-a", files, ca)
        await other.status(SaeId("sae-a1"))


async def test_a_kme_that_drains_is_unready_serves_on_and_stops(pair, admin):
    with_operations(pair)
    server = ServerProcess(pair.config("kme-a"))
    try:
        await server.start()
        async with pair.client("sae-a1") as client:
            assert (await admin.ask("olga", "POST", "/v1/stop", {"drain_s": 1200}))[0] == 200
            status, answer = await admin.ask("vic", "GET", "/v1/status")
            assert (status, answer["draining"]) == (200, True)
            assert "kme.draining" in [each["code"] for each in answer["reasons"]]
            await client.enc_keys(SaeId("sae-a2"), number=1, size_bits=256)
        assert (await admin.ask("olga", "POST", "/v1/stop", {}))[0] == 200
        assert server.process is not None
        async with asyncio.timeout(30):
            assert await server.process.wait() == 0
    finally:
        await server.kill()
    assert [each["call"] for each in read_entries(admin.folder)] == ["stop", "stop", "status", "stop", "stop"]


async def test_reload_tells_what_is_in_use(pair, admin):
    async with pair.running("kme-a") as processes:
        before = (await admin.ask("vic", "GET", "/v1/certificates"))[1]
        pair.sae_plane.issue("kme", "kme-a")  # over the files in use
        status, after = await admin.ask("olga", "POST", "/v1/reload", {})
        assert (status, after["reloads"]) == (200, before["reloads"] + 1)
        assert after["endpoints"]["sae_api"]["serial"] != before["endpoints"]["sae_api"]["serial"]
        assert set(after["endpoints"]) == {"sae_api", "peer_api", "admin"}
        assert processes["kme-a"].identity.planes["sae_api"].tally.loaded == 1


async def test_nothing_is_done_that_cannot_be_recorded(pair, admin):
    async with pair.running("kme-a") as processes:
        (admin.folder / f"{1:016}.jsonl").mkdir()  # where the first entry would go
        for method, path, body in (("POST", "/v1/saes/sae-a1/revoke", {}), ("GET", "/v1/status", None)):
            status, answer = await admin.ask("both", method, path, body)
            assert (status, answer["code"]) == (503, "admin.log_unwritable")
        assert processes["kme-a"].identity.revoked.identities == frozenset()
        (admin.folder / f"{1:016}.jsonl").rmdir()
        assert (await admin.ask("both", "GET", "/v1/status"))[0] == 200


async def test_a_spoilt_record_ends_administration_and_nothing_else(pair, admin, caplog):
    async with pair.running("kme-a"):
        await admin.ask("vic", "GET", "/v1/status")
    (path,) = admin.folder.glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"vic", b"eve"))
    async with pair.running("kme-a"), pair.client("sae-a1") as client:
        assert "admin.log_tampered" in caplog.messages
        await client.enc_keys(SaeId("sae-a2"), number=1, size_bits=256)
        with pytest.raises(KeyError):
            assert admin.port


async def test_too_many_calls_are_refused_and_recorded_once(pair):
    admin = Administration(pair, calls_per_s=0.001)
    async with pair.running("kme-a"):
        statuses = [(await admin.ask("vic", "GET", "/v1/status"))[0] for _ in range(5)]
        assert statuses == [200, 429, 429, 429, 429]
        assert (await admin.ask("olga", "GET", "/v1/status"))[0] == 200  # whose calls are another matter
    codes = [entry.get("code") for entry in read_entries(admin.folder)]
    assert codes == [None, "admin.too_many_calls", None]


async def test_a_revoked_administrator_is_out(pair):
    crl = pair.root / "admin.crl"
    admin = Administration(pair, crl=str(crl), crl_required=True)
    admin.plane.revoke(admin.people["olga"], path=crl)
    async with pair.running("kme-a"):
        assert (await admin.ask("vic", "GET", "/v1/status"))[0] == 200
        assert await is_refused(pair, "kme-a", admin.people["olga"], admin.plane.certificate, port=admin.port)


async def test_the_openapi_document_has_every_call_with_its_role(pair, admin):
    async with pair.running("kme-a"):
        document = (await admin.ask("vic", "GET", "/v1/openapi.json"))[1]
    found = {
        (method.upper(), path, operation["operationId"], operation["x-role"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert found == {(call.method, f"/v1/{call.path}", call.name, call.role.value) for call in CALLS}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('vic = ["viewer"]', 'vic = ["veiwer"]', "did you mean 'viewer'"),
        ('vic = ["viewer"]', "vic = 7", "expected viewer, operator, security"),
        ('vic = ["viewer"]', '"v i c" = "viewer"', r"\[admin.roles\]"),
        ("calls_per_s = 1000", "call_per_s = 1000", "did you mean 'calls_per_s'"),
        ("calls_per_s = 1000", 'host = "0.0.0.0"', "no loopback address"),
        ("calls_per_s = 1000", "audit_files = 1", "audit_files at least 2"),
        ("calls_per_s = 1000", "calls_per_s = 0", "above zero"),
        ("port = 0", "port = 70000", "must be at most 65535"),
    ],
)
def test_mistakes_in_the_configuration_are_named(pair, admin, old, new, message):
    path = pair.config("kme-a")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(Rejected, match=message):
        load_kme_config(path)


def test_administrators_share_no_authority_with_others(pair, admin):
    path = pair.config("kme-a")
    path.write_text(path.read_text().replace(str(admin.plane.certificate), str(pair.sae_plane.certificate)))
    with pytest.raises(ShosoinError, match=r"\[kme.sae_api\] and \[admin\] trust the same"):
        load_kme_config(path)
