"""The 014 client against KMEs that answer anything at all."""

import base64
import json
import uuid

import pytest
from aiohttp import web

from shosoin.adapters.kme_client import KmeClient
from shosoin.adapters.tls import server_context
from shosoin.base import Denied, PeerFault, Rejected, SaeId, Unavailable
from shosoin.base.ports import UNDECLARED
from tests.support.pki import TestAuthority

SLAVE = SaeId("sae-b")
ID_1, ID_2 = str(uuid.UUID(int=1, version=4)), str(uuid.UUID(int=2, version=4))
STATUS = {
    "source_KME_ID": "K1",
    "target_KME_ID": "K2",
    "master_SAE_ID": "sae-a",
    "slave_SAE_ID": "sae-b",
    "key_size": 352,
    "stored_key_count": 25000,
    "max_key_count": 100000,
    "max_key_per_request": 128,
    "max_key_size": 1024,
    "min_key_size": 64,
    "max_SAE_ID_count": 0,
}


class Vendor:
    """A KME of somebody else: answers what it is told to."""

    def __init__(self, directory):
        self.authority = TestAuthority(directory, "plane")
        self.server = self.authority.issue("vendor", "kme.example", uris=[])
        self.sae = self.authority.issue("sae", "sae-a")
        self.answer = (200, b"{}")
        self.seen = []

    async def __aenter__(self):
        async def handle(request):
            self.seen.append((request.method, request.raw_path, await request.read()))
            status, body = self.answer
            return web.Response(status=status, body=body, content_type="application/json")

        app = web.Application()
        app.router.add_route("*", "/{rest:.*}", handle)
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        context = server_context(self.server.certificate, self.server.key, self.authority.certificate)
        site = web.TCPSite(self.runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        self.port = self.runner.addresses[0][1]
        return self

    async def __aexit__(self, *_):
        await self.runner.cleanup()

    def client(self, **options):
        return KmeClient(
            f"https://127.0.0.1:{self.port}",
            server_name=options.pop("server_name", "kme.example"),
            certificate=self.sae.certificate,
            key=self.sae.key,
            ca=self.authority.certificate,
            **options,
        )


@pytest.fixture
async def vendor(tmp_path):
    async with Vendor(tmp_path) as vendor:
        yield vendor


def container(*keys, **more):
    items = [{"key_ID": key_id, "key": base64.b64encode(bits).decode()} for key_id, bits in keys]
    return 200, json.dumps({"keys": items, **more}).encode()


async def test_the_standards_own_example_of_a_status(vendor):
    vendor.answer = (200, json.dumps(STATUS).encode())
    async with vendor.client() as kme:
        status = await kme.status(SLAVE)
        assert kme.tls["version"] == "TLSv1.3"
    assert (status.key_size_bits, status.stored_bits) == (352, 25000 * 352)
    assert vendor.seen[0][:2] == ("GET", "/api/v1/keys/sae-b/status")


async def test_keys_of_other_vendors_are_undeclared(vendor):
    vendor.answer = container((ID_1, bytes(44)))
    async with vendor.client() as kme:
        (key,) = await kme.enc_keys(SLAVE, number=1, size_bits=352)
    assert key.facts == UNDECLARED
    assert json.loads(vendor.seen[0][2]) == {"number": 1, "size": 352}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"kind": "qkd", "simulated": False, "epsilon": 1e-10}, ("qkd", False, 1e-10)),
        ({"kind": "simulated-qkd", "simulated": True, "epsilon": None}, ("simulated-qkd", True, None)),
        ({"kind": "qkd"}, ("qkd", True, None)),
        ({"kind": "qkd", "simulated": "no", "epsilon": True}, ("qkd", True, None)),
        ({"kind": 7}, ("undeclared", False, None)),
        ("qkd", ("undeclared", False, None)),
    ],
)
async def test_a_declared_source_is_carried_and_doubt_means_simulated(vendor, source, expected):
    vendor.answer = container((ID_1, bytes(32)), key_container_extension={"shosoin_source": source})
    async with vendor.client() as kme:
        (key,) = await kme.enc_keys(SLAVE, number=1, size_bits=256)
    assert (key.facts.kind, key.facts.simulated, key.facts.epsilon) == expected


async def test_dec_keys_keeps_the_callers_order(vendor):
    vendor.answer = container((ID_2, b"2" * 32), (ID_1.upper(), b"1" * 32))
    async with vendor.client() as kme:
        keys = await kme.dec_keys(SLAVE, [ID_1, ID_2])
    assert [key.material.take() for key in keys] == [b"1" * 32, b"2" * 32]


@pytest.mark.parametrize(
    "answer",
    [
        container(),
        container((ID_1, bytes(32)), (ID_2, bytes(32))),
        container((ID_1, bytes(31))),
        container(("not-a-uuid", bytes(32))),
        (200, b'{"keys": [{"key_ID": "%s", "key": "!"}]}' % ID_1.encode()),
        (200, b'{"keys": [{"key_ID": "%s"}]}' % ID_1.encode()),
        (200, b'{"keys": {}}'),
        (200, b'{"Keys": []}'),
        (200, b"[]"),
        (200, b"no json"),
        (200, b"[" * 50_000),
        (200, b" " * (1 << 20)),
        (404, b""),
        (302, b""),
        (500, b"{}"),
    ],
)
async def test_an_answer_that_does_not_add_up_is_a_peer_fault(vendor, answer):
    vendor.answer = answer
    async with vendor.client() as kme:
        with pytest.raises(PeerFault):
            await kme.enc_keys(SLAVE, number=1, size_bits=256)
    assert len(vendor.seen) == 1


async def test_other_keys_than_asked_for_are_a_peer_fault(vendor):
    vendor.answer = container((ID_2, bytes(32)))
    async with vendor.client() as kme:
        with pytest.raises(PeerFault):
            await kme.dec_keys(SLAVE, [ID_1])


@pytest.mark.parametrize("missing", [*STATUS])
async def test_a_status_without_a_member_is_a_peer_fault(vendor, missing):
    vendor.answer = (200, json.dumps({**STATUS, missing: None}).encode())
    async with vendor.client() as kme:
        with pytest.raises(PeerFault):
            await kme.status(SLAVE)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"x", b'{"message": 5, "details": 7}', b'{"message": "m", "details": [1]}']
)
@pytest.mark.parametrize(("status", "kind"), [(400, Rejected), (401, Denied), (503, Unavailable)])
async def test_errors_map_to_kinds_and_are_never_repeated(vendor, status, kind, body):
    vendor.answer = (status, body)
    async with vendor.client() as kme:
        with pytest.raises(kind):
            await kme.dec_keys(SLAVE, [ID_1])
    assert len(vendor.seen) == 1


async def test_retry_after_is_passed_on(vendor):
    vendor.answer = (503, b'{"message": "dry", "details": [{"retry_after_s": 2.5}]}')
    async with vendor.client() as kme:
        with pytest.raises(Unavailable) as dry:
            await kme.enc_keys(SLAVE, number=1, size_bits=256)
    assert dry.value.retry_after_s == 2.5


async def test_a_server_with_another_name_is_not_asked(vendor):
    for options in ({"server_name": "kme.other"}, {"identity": "kme-a"}):
        async with vendor.client(**options) as kme:
            with pytest.raises(PeerFault):
                await kme.status(SLAVE)
    assert vendor.seen == []


def test_plain_http_is_refused(tmp_path):
    with pytest.raises(Rejected):
        KmeClient("http://x", server_name="x", certificate=tmp_path, key=tmp_path, ca=tmp_path)
