"""Every parser of outside bytes: whatever comes, the answer is a kind, never a crash, and nothing changes."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shosoin.base import ObjectId, Rejected, ShosoinError, SiteId, VersionId
from shosoin.vault.amd import amd_encode
from shosoin.vault.ballots import parse_ballot
from shosoin.vault.deal_check import combined_challenge
from shosoin.vault.electorate import Electorate
from shosoin.vault.envelope import HEADER_BYTES_MAX, MalformedEnvelope, canonical_json, cut, join, parse_json
from shosoin.vault.index import IndexInvalid, decode_part
from shosoin.vault.layout import BodyLayout
from shosoin.vault.manifest import decode_page, decode_root
from shosoin.vault.scheme import Scheme
from shosoin.vault.session import SessionOffer, read_offer
from shosoin.vault.signing import SignatureForged
from shosoin.vault.values import Body, MalformedValue, RegisterValue, ValueDraft, sign_values
from tests.vault.support import OWNER, SIGNER, SITES, SeededEntropy, make_world, store

OBJECT = ObjectId("ab" * 16)
VERSION = VersionId("cd" * 16)

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=40)
)
junk = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def example_value() -> RegisterValue:
    """A signed value as a put makes it."""
    sites = tuple(SiteId(name) for name in SITES[:3])
    draft = ValueDraft(
        kind="object",
        register_id=OBJECT,
        owner=OWNER,
        version=VERSION,
        parent=None,
        scheme=Scheme(2, 3),
        class_="pqc",
        placement=sites,
        electorate=Electorate(sites, 2, 0),
        bodies=(Body(VERSION, BodyLayout(512, 64, 0, 0, 4096), sites),),
        created_wall_s=1.5,
        facts={},
        added=1,
    )
    return sign_values([draft], SIGNER)[0]


@given(st.binary(max_size=200))
def test_any_bytes_are_cut_or_refused(raw: bytes) -> None:
    try:
        parts = cut(raw)
    except MalformedEnvelope:
        return
    assert bytes(raw[:4]) == len(parts.header).to_bytes(4, "little")
    assert raw == b"".join(join(bytes(parts.header), [bytes(parts.sealed)], b""))


@given(st.binary(max_size=200))
@example(b"\xff\xfe{}")
@example(b"{" * 150)
@example(b'{"a":NaN}')
@example(b'{"a":' + b"[" * 90 + b"]" * 90 + b"}")
@example(b'{"a":' + b"9" * 190 + b"}")
def test_any_bytes_are_json_or_refused(raw: bytes) -> None:
    try:
        value = parse_json(raw)
    except MalformedEnvelope:
        return
    assert isinstance(value, dict)


def test_json_that_would_exhaust_the_parser_is_refused() -> None:
    for raw in (b'{"a":' + b"[" * 200_000, b'{"a":' + b"9" * 10_000 + b"}", b'{"a":1e999}' * 2):
        with pytest.raises(MalformedEnvelope):
            parse_json(raw)


def test_a_header_beyond_its_limit_is_neither_sent_nor_read() -> None:
    with pytest.raises(Rejected):
        join(bytes(HEADER_BYTES_MAX + 1), [], b"")
    with pytest.raises(MalformedEnvelope):
        cut((HEADER_BYTES_MAX + 1).to_bytes(4, "little") + bytes(100))


@given(junk)
def test_canonical_json_reads_back(value: Any) -> None:
    assert json.loads(canonical_json({"v": value})) == {"v": value}
    assert canonical_json({"b": value, "a": 1}) == canonical_json(dict(reversed({"b": value, "a": 1}.items())))


@given(st.binary(max_size=300), st.integers(0, 5))
def test_any_bytes_are_a_layout_manifest_or_index_part_or_refused(raw: bytes, page: int) -> None:
    assert decode_root(raw, OBJECT, VERSION, SIGNER.public_key) is None or raw == b""
    assert decode_page(raw, OBJECT, VERSION, page, bytes(32)) is None
    with pytest.raises(IndexInvalid):
        decode_part(raw + b"\0\0\0\0")


@given(st.binary(max_size=200))
def test_a_record_with_a_sound_code_word_but_no_signature_is_an_alarm(raw: bytes) -> None:
    record = raw + bytes(-len(raw) % 16)
    with pytest.raises(ShosoinError):
        decode_root(amd_encode(record, SeededEntropy(1)), OBJECT, VERSION, SIGNER.public_key)


@given(junk)
def test_a_body_layout_is_read_or_refused(value: Any) -> None:
    try:
        layout = BodyLayout.from_json(value)
    except ShosoinError:
        return
    assert BodyLayout.from_json(layout.to_json()) == layout


@given(junk)
@example([0, "x"])
@example([1, ""])
@example([True, "x"])
@example([1 << 41, "x"])
def test_a_ballot_is_read_or_refused(value: Any) -> None:
    try:
        number, proposer = parse_ballot(value)
    except Rejected:
        return
    assert 1 <= number <= 1 << 40
    assert 1 <= len(proposer) <= 64


@given(st.text(max_size=300))
def test_any_text_is_a_register_value_or_malformed(text: str) -> None:
    with pytest.raises(MalformedValue):
        RegisterValue.parse(text)


@given(st.data())
def test_a_register_value_with_one_field_replaced_is_malformed_or_forged(data: st.DataObject) -> None:
    value = example_value()
    outer = json.loads(value.text)
    part = json.loads(outer["owner"])
    name = data.draw(st.sampled_from(sorted(part)))
    new = data.draw(junk.filter(lambda found: found != part[name]))
    part[name] = new
    outer["owner"] = canonical_json(part).decode()
    try:
        changed = RegisterValue.parse(canonical_json(outer).decode())
    except MalformedValue:
        return
    with pytest.raises(SignatureForged):
        changed.verify(SIGNER.public_key)


@given(st.sampled_from(["version", "layout", "good", "epoch"]), junk)
def test_the_site_part_of_a_value_is_read_or_malformed(name: str, new: Any) -> None:
    value = example_value()
    outer = json.loads(value.text)
    outer["site"]["bodies"][0][name] = new
    try:
        changed = RegisterValue.parse(canonical_json(outer).decode())
    except MalformedValue:
        return
    changed.verify(SIGNER.public_key)
    (body,), (signed,) = changed.bodies, value.bodies
    assert (body.version, body.layout) == (signed.version, signed.layout)  # the owner signed these
    assert name in {"good", "epoch"}
    if name == "epoch":
        assert (body.epoch, type(new)) == (new, int)
        assert 0 <= new <= 1 << 53
    else:
        assert list(body.good) == list(new)


def test_a_register_value_keeps_what_was_signed() -> None:
    value = example_value()
    again = RegisterValue.parse(value.text)
    again.verify(SIGNER.public_key)
    assert again == value
    for place in range(0, len(value.signature), 257):
        forged = bytearray(value.signature)
        forged[place] ^= 1
        outer = json.loads(value.text)
        outer["signature"] = base64.b64encode(bytes(forged)).decode()
        with pytest.raises(SignatureForged):
            RegisterValue.parse(json.dumps(outer)).verify(SIGNER.public_key)


@given(junk, st.sampled_from(["v", "keys", "mlkem", "x25519", "from", "to"]))
def test_a_session_offer_with_one_field_replaced_is_read_or_refused(new: Any, name: str) -> None:
    raw = json.loads(SessionOffer("pqc", OWNER, "node", [], b"").body)
    raw[name] = new
    try:
        offer = read_offer(canonical_json(raw))
    except MalformedEnvelope:
        assert name in {"v", "keys"}
        return
    assert offer == raw
    assert (offer["v"], offer["keys"]) == (1, [])


@given(st.dictionaries(st.sampled_from(["session", "mlkem", "x25519", "confirm", "other"]), junk))
def test_a_junk_session_answer_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(ShosoinError):
        SessionOffer("pqc", OWNER, "node", [], b"").finish(canonical_json(value))


def test_a_challenge_takes_something_from_every_site() -> None:
    parts = ["0" * 31 + "1", "f" * 32, "8" + "0" * 31]
    whole = combined_challenge(parts)
    assert whole != combined_challenge(parts[:2])
    assert combined_challenge([*parts, whole]) == "0" * 32


KNOWN = (
    "write",
    "take",
    "seal",
    "abort",
    "read",
    "digest",
    "register",
    "prepare",
    "accept",
    "commit",
    "erase",
    "inventory",
)
FIELDS = (
    "object",
    "version",
    "epoch",
    "offset",
    "size",
    "x",
    "k",
    "masks",
    "r",
    "register",
    "ballot",
    "value",
    "certificate",
    "keys",
    "after",
    "limit",
)
# numbers stay small: the memory store of the tests really allocates what it is told to
field_values = (
    junk.filter(lambda found: not isinstance(found, int | float) or abs(found) < 1 << 16)
    | st.integers(-2, 4096)
    | st.sampled_from(["0" * 32, "ab" * 16, [1, "me"], [0, "me"], [SITES[0]]])
)
operations = st.fixed_dictionaries(
    {"op": st.sampled_from(KNOWN) | st.text(max_size=6)},
    optional=dict.fromkeys(FIELDS, field_values),
)


@settings(max_examples=150)
@given(st.lists(operations, min_size=1, max_size=4), st.binary(max_size=64))
def test_junk_operations_are_answered_by_kind(ops: list[dict[str, Any]], payload: bytes) -> None:
    async def run() -> None:
        world = make_world(3, "2-of-3")
        header = {"v": 1, "class": "local", "from": OWNER, "to": f"node-{SITES[0]}", "ops": ops, "auth": {}}
        try:
            answer = await world.links[SITES[0]].node.exchange(
                OWNER, b"".join(join(canonical_json(header), [payload], b""))
            )
        except ShosoinError:
            return
        results = parse_json(cut(b"".join(answer)).header)["results"]
        assert len(results) == len(ops)

    asyncio.run(run())


def world_state(world: Any, site: str) -> Any:
    tables = world.stores[site]._tables
    return (
        tables.shares.copy(),
        tables.contents.copy(),
        tables.registers.copy(),
        tables.challenges.copy(),
        world.stores[site].staged,
    )


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
async def test_a_refused_envelope_changes_nothing(class_: str) -> None:
    world = make_world(3, "2-of-3")
    await store(world, "object", b"x" * 64, class_)
    link = world.links[SITES[1]]
    before = world_state(world, SITES[1])
    for raw in list(link.seen):
        for place in range(0, len(raw), max(len(raw) // 23, 1)):
            spoiled = bytearray(raw)
            spoiled[place] ^= 4
            with pytest.raises(ShosoinError):
                await link.node.exchange(OWNER, bytes(spoiled))
        assert world_state(world, SITES[1]) == before


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":"\xed\xa0\x80"}',  # half a surrogate pair, in bytes that json.loads takes
        '{"a":"\\ud800"}'.encode("utf-16"),
        '{"a":1}'.encode("utf-32-be"),
        b'{"a":1e999}',
        b'{"a":-Infinity}',
    ],
)
def test_json_that_could_not_be_written_again_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedEnvelope):
        parse_json(raw)
