"""Seals: nothing altered, replayed, redirected or downgraded is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import Denied, OwnerId, PeerFault, Rejected, SaeId, ShosoinError, SiteId
from shosoin.vault.channel import LocalChannel, OneTimeChannel, SessionChannel
from shosoin.vault.envelope import canonical_json, cut, join, parse_json
from shosoin.vault.operations import OwnerRecord
from shosoin.vault.pads import PadSource
from shosoin.vault.sealing import AeadSeal, OneTimeSeal, SealBroken
from shosoin.vault.session import SessionOffer, accept_offer, read_offer
from shosoin.vault.site import _WINDOW, _Session
from tests.vault.support import OWNER, SIGNER, SITES, World, fetch, kinds_of, make_world, store

REMOTE = SITES[1]


def seals(name: str) -> tuple[Any, Any]:
    """Two equal seals: one to close, one to open."""
    if name == "its":
        return OneTimeSeal(b"k" * 32, b"p" * 100), OneTimeSeal(b"k" * 32, b"p" * 100)
    key = AESGCM(b"k" * 32)
    return AeadSeal(key, 7), AeadSeal(key, 7)


@pytest.mark.parametrize("name", ["its", "aead"])
@given(st.binary(max_size=60), st.lists(st.binary(max_size=30), max_size=3))
def test_what_is_closed_opens(name: str, header: bytes, parts: list[bytes]) -> None:
    close, open_ = seals(name)
    payload, tag = close.close(header, list(parts))
    sealed = b"".join(payload) + tag
    assert len(sealed) == sum(map(len, parts)) + 16
    assert bytes(open_.open(header, memoryview(sealed))) == b"".join(parts)


@pytest.mark.parametrize("name", ["its", "aead"])
def test_every_single_bit_counts(name: str) -> None:
    close, open_ = seals(name)
    header = b'{"a":1}'
    payload, tag = close.close(header, [b"content of a share"])
    sealed = b"".join(payload) + tag
    for bit in range(8 * len(sealed)):
        spoiled = bytearray(sealed)
        spoiled[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            open_.open(header, memoryview(bytes(spoiled)))
    for bit in range(8 * len(header)):
        other = bytearray(header)
        other[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealBroken):
            open_.open(bytes(other), memoryview(sealed))
    for size in range(len(sealed)):
        with pytest.raises(SealBroken):
            open_.open(header, memoryview(sealed[:size]))


def test_header_and_payload_cannot_trade_bytes() -> None:
    """The tag covers the header's length: moving its last byte to the payload is noticed."""
    close, open_ = seals("its")
    payload, tag = close.close(b"header", [b"pad"])
    with pytest.raises(SealBroken):
        open_.open(b"heade", memoryview(b"r" + b"".join(payload) + tag))


def test_more_than_the_pad_holds_is_never_encrypted() -> None:
    with pytest.raises(SealBroken):
        OneTimeSeal(b"k" * 32, b"p" * 10).close(b"", [b"x" * 11])


def test_seals_and_keys_do_not_print() -> None:
    assert "p" * 10 not in repr(OneTimeSeal(b"k" * 32, b"p" * 10))
    offer = SessionOffer("pqc", OWNER, "node", [], b"")
    keys, _ = accept_offer(offer.body, read_offer(offer.body), b"", "0" * 32)
    assert "redacted" in repr(keys)


# ------------------------------------------------------------------------------------------------------ a session


def test_both_halves_agree_and_directions_differ() -> None:
    offer = SessionOffer("qkd", OWNER, "node", ["id"], b"q" * 32)
    node, answer = accept_offer(offer.body, read_offer(offer.body), b"q" * 32, "0" * 32)
    owner = offer.finish(answer)
    sealed = owner.to_node.encrypt(bytes(12), b"x", b"")
    assert node.to_node.decrypt(bytes(12), sealed, b"") == b"x"
    assert node.to_owner.encrypt(bytes(12), b"x", b"") != sealed
    assert owner.session_id == node.session_id


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.replace(b'"qkd"', b'"pqc"'),
        lambda body: body.replace(b'"from":"owner-1"', b'"from":"owner-2"'),
        lambda body: body.replace(b'"to":"node"', b'"to":"n0de"'),
        lambda body: body.replace(b'"id"', b'"io"'),
    ],
)
def test_an_altered_offer_is_not_confirmed(change: Callable[[bytes], bytes]) -> None:
    """The transcript is the offer as it was received: class, names and key_IDs are all in it."""
    offer = SessionOffer("qkd", OWNER, "node", ["id"], b"q" * 32)
    altered = change(offer.body)
    assert altered != offer.body
    _, answer = accept_offer(altered, parse_json(altered), b"q" * 32, "0" * 32)
    with pytest.raises(SealBroken):
        offer.finish(answer)


def test_different_qkd_keys_at_the_ends_are_not_confirmed() -> None:
    offer = SessionOffer("qkd", OWNER, "node", ["id"], b"q" * 32)
    _, answer = accept_offer(offer.body, read_offer(offer.body), b"r" * 32, "0" * 32)
    with pytest.raises(SealBroken):
        offer.finish(answer)


@pytest.mark.parametrize("field", ["session", "mlkem", "x25519", "confirm"])
def test_an_altered_answer_is_not_confirmed(field: str) -> None:
    offer = SessionOffer("pqc", OWNER, "node", [], b"")
    _, answer = accept_offer(offer.body, read_offer(offer.body), b"", "0" * 32)
    value = parse_json(answer)
    value[field] = ("1" if value[field][0] != "1" else "2") + value[field][1:]
    with pytest.raises(ShosoinError):
        offer.finish(canonical_json(value))


def test_class_qkd_is_never_agreed_without_qkd_keys() -> None:
    for class_, ids in (("qkd", []), ("pqc", ["id"])):
        with pytest.raises(PeerFault):
            read_offer(SessionOffer(class_, OWNER, "node", ids, b"").body)


def spend(session: _Session, number: Any) -> None:
    session.use(session.check(number))


def test_a_message_number_counts_once_within_a_wide_window() -> None:
    offer = SessionOffer("pqc", OWNER, "node", [], b"")
    keys, _ = accept_offer(offer.body, read_offer(offer.body), b"", "0" * 32)
    session = _Session(keys, "pqc", OWNER)
    for number in (3, 1, 2, 5, 4):
        spend(session, number)
        with pytest.raises(Denied):
            spend(session, number)
    spend(session, 3 * _WINDOW)
    for number in (6, 3 * _WINDOW, 2 * _WINDOW):
        with pytest.raises(Denied):
            spend(session, number)
    for junk in (0, -1, True, 1.0, "7", None, 1 << 62):
        with pytest.raises(PeerFault):
            spend(session, junk)


def test_pruning_what_was_seen_forgets_nothing_inside_the_window() -> None:
    offer = SessionOffer("pqc", OWNER, "node", [], b"")
    keys, _ = accept_offer(offer.body, read_offer(offer.body), b"", "0" * 32)
    session = _Session(keys, "pqc", OWNER)
    last = 2 * _WINDOW + 10
    for number in range(1, last):
        spend(session, number)
    assert len(session.seen) < 2 * _WINDOW
    for number in (1, _WINDOW, _WINDOW + 11, last - 1):
        with pytest.raises(Denied):
            spend(session, number)


# ------------------------------------------------------------------------------------------------------ a node


async def replayed(world: World, site: str, wanted: str) -> None:
    """Send each recorded message that carries an operation a second time."""
    link = world.links[site]
    sent = [raw for raw in link.seen if wanted in kinds_of(parse_json(cut(raw).header))]
    assert sent
    for raw in sent:
        with pytest.raises((Rejected, Denied)):
            await link.node.exchange(OWNER, raw)


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
async def test_a_recorded_message_is_refused_the_second_time(class_: str) -> None:
    world = make_world()
    await store(world, "object", b"x" * 64, class_)
    await fetch(world.vault, "object")
    for wanted in ("seal", "commit", "register"):
        await replayed(world, REMOTE, wanted)


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
async def test_an_answer_is_not_taken_for_another_request(class_: str) -> None:
    """A forger on the wire gives back an older answer, or the request itself."""
    world = make_world(3, "2-of-3")
    await store(world, "object", b"x" * 64, class_)
    site = world.context.sites[1]
    channel = world.context.channels(class_)[site.name]
    link = world.links[REMOTE]
    old = link.answered[-1]
    op = {"op": "register", "register": "0" * 32}
    for replacement in (old, link.seen[-1]):
        link.spoil = lambda _, given=replacement: given
        with pytest.raises(ShosoinError):
            await channel.exchange([op])
    link.spoil = None
    assert len((await channel.exchange([op])).results) == 1


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
async def test_another_node_and_another_owner_refuse_the_message(class_: str) -> None:
    world = make_world(3, "2-of-3")
    await store(world, "object", b"x" * 64, class_)
    other = OwnerId("owner-2")
    node = world.links[REMOTE].node
    node._owners = {**node._owners, other: OwnerRecord(other, SiteId("elsewhere"), SIGNER.public_key, 1 << 20)}
    raw = world.links[REMOTE].seen[-1]
    for caller, there in ((other, REMOTE), (OWNER, SITES[2]), (OwnerId("stranger"), REMOTE)):
        with pytest.raises(Denied):
            await world.links[there].node.exchange(caller, raw)


async def test_a_session_is_of_one_owner_and_one_class() -> None:
    world = make_world(3, "2-of-3")
    await store(world, "object", b"x" * 64, "qkd")
    node = world.links[REMOTE].node
    session = next(name for name, kept in node._sessions.items() if kept.class_ == "qkd")
    for class_ in ("pqc", "qkd"):
        other = OwnerId("owner-2")
        node._owners = {**node._owners, other: OwnerRecord(other, SiteId("elsewhere"), SIGNER.public_key, 1 << 20)}
        caller = other if class_ == "qkd" else OWNER
        header: dict[str, Any] = {
            "v": 1, "class": class_, "from": caller, "to": f"node-{REMOTE}", "ops": [],
            "auth": {"session": session, "number": 999},
        }  # fmt: skip
        with pytest.raises(Denied):
            await node.exchange(caller, b"".join(join(canonical_json(header), [], bytes(16))))


async def test_class_local_is_for_the_home_site_alone() -> None:
    world = make_world(3, "2-of-3")
    await store(world, "object", b"x" * 64, "its")
    site = world.context.sites[1]
    channel = LocalChannel(site.link, OWNER, site.node, None)
    with pytest.raises(Denied):
        await channel.exchange([{"op": "register", "register": "0" * 32}])


@pytest.mark.parametrize("class_", ["none", "", "LOCAL", "its ", None, 7])
async def test_classes_that_do_not_exist_are_refused(class_: Any) -> None:
    world = make_world(3, "2-of-3")
    header = {"v": 1, "class": class_, "from": OWNER, "to": f"node-{REMOTE}", "ops": [], "auth": {}}
    with pytest.raises(ShosoinError):
        await world.links[REMOTE].node.exchange(OWNER, b"".join(join(canonical_json(header), [], b"")))
    with pytest.raises(ShosoinError):
        await store(world, "object", b"x", "aes")


async def test_a_node_that_restarted_is_met_with_a_fresh_session() -> None:
    world = make_world(3, "2-of-3")
    await store(world, "object", b"x" * 64, "qkd")
    world.restart(REMOTE)
    receipt = await store(world, "object", b"y" * 64, "qkd")
    assert receipt.missing == []
    offers = [parse_json(raw) for raw in world.links[REMOTE].offers]
    fresh = [offer["keys"] for offer in offers if offer["class"] == "qkd"]
    assert len(fresh) == 2
    assert fresh[0] != fresh[1]


async def test_one_number_is_never_used_twice_under_one_key_even_side_by_side() -> None:
    """Exchanges that agree on sessions at the same time must not share key and number."""
    world = make_world(3, "2-of-3")
    site = world.context.sites[1]
    channel = SessionChannel("pqc", site.link, OWNER, site.node, None)
    op = {"op": "register", "register": "0" * 32}
    runtime = world.context.runtime
    for _ in range(3):
        tasks = [runtime.start(channel.exchange([op])) for _ in range(8)]
        await runtime.wait(tasks, timeout_s=None, first=False)
        for task in tasks:
            task.result()
        world.restart(REMOTE)
    used = [
        (header["auth"]["session"], header["auth"]["number"])
        for raw in world.links[REMOTE].seen
        if "session" in (header := parse_json(cut(raw).header))["auth"]
    ]
    accepted = len(used)
    assert accepted >= 24
    assert len(set(used)) == accepted


async def test_a_broken_seal_raises_an_alarm_at_the_node() -> None:
    world = make_world(3, "2-of-3")
    keys = world.network.kme(SaeId(OWNER))
    site = world.context.sites[1]
    channel = OneTimeChannel(site.link, OWNER, site.node, PadSource(keys, site.node))
    inner = world.links[REMOTE].exchange

    async def spoiling(path: str, body: Any, **options: Any) -> bytes:
        raw = bytearray(b"".join(body))
        raw[-1] ^= 1
        return await inner(path, [bytes(raw)], **options)

    world.links[REMOTE].exchange = spoiling  # type: ignore[method-assign]
    with pytest.raises(SealBroken):
        await channel.exchange([{"op": "register", "register": "0" * 32}])
    assert [event.name for event in world.sink.events] == ["vault.seal_broken"]
    # a forged request costs the keys it names: they are burned, not kept for a second try
    assert len(world.network.delivered) == 1
