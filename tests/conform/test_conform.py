"""The conformance kit on our KMEs, over real mutual TLS: all is well as they are, and each mistake is found."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shosoin.base import Denied, Rejected, SaeId
from shosoin.conform import CHECKS, Caller, Identity, Level, Outcome, Report, Session, chosen, run_checks
from shosoin.keys.kme import Kme
from shosoin.services import etsi014, extensions014, wire014
from tests.support.kme import KmePair, until_stock

pytestmark = pytest.mark.processes
Patch = pytest.MonkeyPatch


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 21, limits={"max_key_size_bits": 4096})


def _caller(pair: KmePair, sae: str, kme: str) -> Caller:
    files = pair.saes[sae]
    identity = Identity(files.certificate, files.key)
    url = f"https://127.0.0.1:{pair.sae_port[kme]}"
    return Caller(url, pair.sae_plane.certificate, identity, server_name=kme)


@asynccontextmanager
async def session_of(pair: KmePair, **options: Any):
    async with pair.running(), pair.client("sae-a1") as client:
        await until_stock(client, "sae-b1", 64)
        session = Session(
            master=_caller(pair, "sae-a1", "kme-a"),
            slave_sae="sae-b1",
            slave=_caller(pair, "sae-b1", "kme-b"),
            stranger=_caller(pair, "sae-b2", "kme-b"),
            master_sae="sae-a1",
            **options,
        )
        try:
            yield session
        finally:
            session.close()


async def report_of(pair: KmePair, *patterns: str, mistake: Callable[[], None] = lambda: None) -> Report:
    async with session_of(pair) as session:
        mistake()
        return await asyncio.to_thread(run_checks, session, chosen(patterns))


def test_there_are_enough_checks_and_each_has_a_name_and_a_reason_of_its_own():
    assert len(CHECKS) >= 60
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.clause for check in CHECKS if check.level is Level.SHALL)
    assert len({check.statement for check in CHECKS}) == len(CHECKS)


async def test_our_kme_passes_every_check(pair):
    report = await report_of(pair)
    assert [(found.check.name, found.seen) for found in report.findings if found.outcome is not Outcome.PASSED] == [
        ("transport.cuts_slow_clients_off", "it takes up to 45 s: --slow runs it")
    ]


async def test_a_client_that_stops_is_cut_off(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 18, limits={"request_timeout_s": 0.5})
    async with session_of(pair, slow=True) as session:
        report = await asyncio.to_thread(run_checks, session, chosen(["transport.cuts_slow_clients_off"]))
    assert report.findings[0].outcome is Outcome.PASSED


async def test_without_a_slave_its_checks_are_left_out(pair):
    async with session_of(pair) as session:
        session.slave = session.stranger = None
        report = await asyncio.to_thread(run_checks, session, chosen(["dec_keys.gives_*", "dec_keys.refuses_s*"]))
    assert {found.outcome for found in report.findings} == {Outcome.SKIPPED}
    assert report.conforms


async def test_no_report_has_a_key(pair, monkeypatch):
    drawn: list[str] = []
    broken(lambda body: {**body, "keys": body["keys"] * 2})(monkeypatch)
    sent = vars(etsi014)["container_json"]

    def noted(delivery: Any) -> bytes:
        content: bytes = sent(delivery)
        drawn.extend(item["key"] for item in json.loads(content)["keys"])
        return content

    monkeypatch.setattr(etsi014, "container_json", noted)
    report = await report_of(pair, "enc_keys.*", "dec_keys.*")
    assert not report.conforms
    told = json.dumps([found.to_json() for found in report.findings]) + repr(report)
    assert len(drawn) > 50
    assert not [key for key in drawn if key in told]


def status_with(**members: Any) -> Callable[[Patch], None]:
    """Status has other members; ``None`` takes one away."""

    def apply(patch: Patch) -> None:
        honest = wire014.status_json

        def altered(status: Any) -> bytes:
            body = json.loads(honest(status)) | members
            return json.dumps({name: value for name, value in body.items() if value is not None}).encode()

        patch.setattr(etsi014, "status_json", altered)

    return apply


def broken(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Patch], None]:
    """Key containers are altered before they are sent."""

    def apply(patch: Patch) -> None:
        honest = wire014.container_json
        patch.setattr(
            etsi014, "container_json", lambda delivery: json.dumps(change(json.loads(honest(delivery)))).encode()
        )

    return apply


def request_read_as(change: Callable[[wire014.KeyRequest], wire014.KeyRequest]) -> Callable[[Patch], None]:
    """Key requests are taken for others."""

    def apply(patch: Patch) -> None:
        honest = wire014.parse_key_request
        patch.setattr(etsi014, "parse_key_request", lambda body, query: change(honest(body, query)))

    return apply


def each_key(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Patch], None]:
    """Every key of a container is altered."""
    return broken(lambda body: {**body, "keys": [change(item) for item in body["keys"]]})


def hashed_id(item: dict[str, Any]) -> dict[str, Any]:
    """Name a key after its own hash."""
    digest = hashlib.sha1(base64.b64decode(item["key"]), usedforsecurity=False).hexdigest()
    return {**item, "key_ID": f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"}


def other_codes(patch: Patch) -> None:
    """Whatever is not found is 404."""
    patch.setattr(etsi014, "status_code", lambda _: 404)


def errors_without_body(patch: Patch) -> None:
    """An Error is an empty object."""
    patch.setattr(etsi014, "error_of", lambda _: b"{}")


def another_content_type(patch: Patch) -> None:
    """Answers say that they are text."""
    patch.setattr(etsi014, "NO_STORE", {"Content-Type": "text/plain"})


def another_message(patch: Patch) -> None:
    """An unsupported extension is explained in other words."""
    patch.setattr(extensions014, "EXTENSION_UNSUPPORTED", "this extension is not supported")


def served_again(patch: Patch) -> None:
    """Keys once fetched are fetched again."""
    honest = etsi014.Etsi014Service._answer
    kept: dict[tuple[str, bytes], bytes] = {}

    async def answer(self: Any, request: Any, body_room: Any, room: Any) -> bytes:
        body = request.content.read_nowait() if request.content.total_bytes else b""
        if body:
            request.content.unread_data(body)
        where = (request.path, bytes(body))
        if b"key_IDs" in body and where in kept:
            return kept[where]
        found = await honest(self, request, body_room, room)
        if b"key_IDs" in body:
            kept[where] = found
        return found

    patch.setattr(etsi014.Etsi014Service, "_answer", answer)


def anybody_fetches(patch: Patch) -> None:
    """Whoever knows a key_ID gets its key: the caller is taken for the slave."""
    honest = Kme.dec_keys

    def dec_keys(self: Kme, caller: SaeId, *others: Any) -> Any:
        return honest(self, SaeId("sae-b1"), *others)

    patch.setattr(Kme, "dec_keys", dec_keys)


def refused_as_unknown(patch: Patch) -> None:
    """A key_ID of another SAE is called unknown, with 400."""
    honest = Kme.dec_keys

    def dec_keys(self: Kme, *arguments: Any) -> Any:
        try:
            return honest(self, *arguments)
        except Denied:
            raise Rejected("one or more keys specified are not found on KME") from None

    patch.setattr(Kme, "dec_keys", dec_keys)


def header_names_caller(patch: Patch) -> None:
    """A header names the caller."""
    honest = vars(etsi014)["caller_of"]
    patch.setattr(
        etsi014, "caller_of", lambda request: SaeId(request.headers.get("X-SAE-ID", "") or str(honest(request)))
    )


def content_type_needed(patch: Patch) -> None:
    """A body that does not say that it is JSON is not read."""
    honest = etsi014.Etsi014Service._body

    async def body(self: Any, request: Any, *others: Any) -> bytes:
        content: bytes = await honest(self, request, *others)
        if content and request.content_type != "application/json":
            raise Rejected("not JSON")
        return content

    patch.setattr(etsi014.Etsi014Service, "_body", body)


def ids_taken_literally(patch: Patch) -> None:
    """An SAE ID of a path is not URL-decoded."""
    patch.setattr(etsi014, "unquote", lambda text, **_: text)
    etsi014._route.cache_clear()


MISTAKES = {
    "status.gives_numbers": status_with(key_size=None),
    "status.names_ids": status_with(source_KME_ID=None),
    "status.numbers_make_sense": status_with(max_key_per_request=0),
    "status.extension_is_object": status_with(status_extension=[]),
    "status.repeats_slave": status_with(slave_SAE_ID="another"),
    "status.names_caller": status_with(master_SAE_ID="another"),
    "status.sizes_are_ordered": status_with(min_key_size=1 << 20),
    "status.stock_is_within_its_limit": status_with(max_key_count=0),
    "status.decodes_sae_ids": ids_taken_literally,
    "status.refuses_unknown_saes": other_codes,
    "status.explains_refusals": errors_without_body,
    "transport.says_json": another_content_type,
    "transport.believes_no_headers": header_names_caller,
    "enc_keys.get_gives_one": broken(lambda body: {"Keys": body["keys"]}),
    "enc_keys.post_honours_number": request_read_as(lambda asked: wire014.KeyRequest(1, asked.size_bits)),
    "enc_keys.get_honours_number_and_size": request_read_as(lambda asked: wire014.KeyRequest(asked.number, None)),
    "enc_keys.delivers_smallest": request_read_as(lambda asked: wire014.KeyRequest(asked.number, None)),
    "enc_keys.refuses_none": request_read_as(lambda asked: wire014.KeyRequest(max(asked.number, 1), asked.size_bits)),
    "enc_keys.refuses_too_many": request_read_as(lambda asked: wire014.KeyRequest(min(asked.number, 9), None)),
    "enc_keys.ids_are_uuids": each_key(lambda item: {**item, "key_ID": f"key-{item['key_ID'][:8]}"}),
    "enc_keys.ids_are_unique": each_key(lambda item: {**item, "key_ID": "550e8400-e29b-41d4-a716-446655440000"}),
    "enc_keys.keys_are_unique": each_key(lambda item: {**item, "key": base64.b64encode(bytes(32)).decode()}),
    "enc_keys.keys_are_canonical_base64": each_key(lambda item: {**item, "key": item["key"].rstrip("=")}),
    "enc_keys.ids_are_independent": each_key(hashed_id),
    "enc_keys.refuses_unknown_mandatory_extensions": another_message,
    "enc_keys.reads_json_without_content_type": content_type_needed,
    "dec_keys.gives_the_same_key": each_key(lambda item: {**item, "key": base64.b64encode(os.urandom(32)).decode()}),
    "dec_keys.gives_once": served_again,
    "dec_keys.refuses_the_master": anybody_fetches,
    "dec_keys.refuses_strangers": refused_as_unknown,
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_is_found(pair, monkeypatch, name):
    etsi014._route.cache_clear()
    report = await report_of(pair, name, mistake=lambda: MISTAKES[name](monkeypatch))
    etsi014._route.cache_clear()
    (found,) = report.findings
    assert found.outcome is (Outcome.FAILED if found.check.level is Level.SHALL else Outcome.WARNED)
    assert found.seen
