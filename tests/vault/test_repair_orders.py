"""Whoever coordinates may lie: what every node demands of an order, and what two nodes demand of each other."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from shosoin.base import ObjectId, OwnerId, SaeId, SiteId, VersionId
from shosoin.kernels import combine_into, element_inv, lagrange_weights, point_of
from shosoin.vault import repair_wire
from shosoin.vault.ports import ShareKey
from shosoin.vault.repair_order import RepairOrder, sign_orders
from shosoin.vault.signing import OwnerSigner
from tests.vault.repair_support import (
    FIVE,
    Hostile,
    code,
    committed,
    count_keys,
    dealt,
    holds,
    lose,
    order_for,
    restart,
    share,
)
from tests.vault.support import World, fetch, make_world, pattern, store

HELPERS = ("koganei", "otemachi", "hakusan")
TARGET = "hongo"
Change = Callable[[RepairOrder], RepairOrder]


async def lost_share(class_: str = "its", size: int = 100) -> tuple[World, ShareKey, Hostile]:
    """A world in which one site lost the share of an object."""
    world = make_world()
    receipt = await store(world, "a", pattern(size), class_)
    key = world.share_key(receipt.object_id, TARGET)
    lose(world, TARGET, key)
    return world, key, Hostile(world, class_)


def another(order: RepairOrder, place: int, **change: Any) -> RepairOrder:
    helpers = list(order.helpers)
    helpers[place] = replace(helpers[place], **change)
    return replace(order, helpers=tuple(helpers))


def with_target(order: RepairOrder, **change: Any) -> RepairOrder:
    return replace(order, target=replace(order.target, **change))


REFUSED_BY_HELPERS: dict[str, tuple[Change, str]] = {
    "another x": (lambda o: with_target(o, x=5), "vault.repair_refused"),
    "a site that stands nowhere": (
        lambda o: with_target(o, site=SiteId("kawasaki"), node=SaeId("node-kawasaki"), x=6),
        "vault.repair_refused",
    ),
    "a stranger at the target's place": (
        lambda o: with_target(o, site=SiteId("kawasaki"), node=SaeId("node-kawasaki")),
        "vault.repair_refused",
    ),
    "another version": (lambda o: replace(o, version=VersionId("c" * 32)), "vault.repair_stale"),
    "another epoch": (lambda o: replace(o, epoch=1), "vault.repair_stale"),
    "another object": (lambda o: replace(o, object_id=ObjectId("d" * 32)), "vault.repair_stale"),
    "another length": (lambda o: replace(o, size_bytes=o.size_bytes + 16), "vault.repair_refused"),
    "fewer masks": (lambda o: replace(o, masks=o.masks - 1), "vault.repair_refused"),
    "two helpers of three": (lambda o: replace(o, helpers=o.helpers[:2]), "vault.repair_refused"),
    "a helper in another's place": (lambda o: another(o, 2, x=5), "vault.repair_refused"),
    "a target that never counted": (lambda o: replace(o, counted=False), "vault.repair_refused"),
    "a site in another's place": (lambda o: replace(o, instead_of=SiteId(TARGET)), "vault.repair_refused"),
    "another owner": (lambda o: replace(o, owner=OwnerId("owner-2")), "vault.repair_refused"),
    "another class": (lambda o: replace(o, class_="pqc"), "vault.repair_refused"),
    "helpers twice": (
        lambda o: replace(o, helpers=(o.helpers[0], o.helpers[0], o.helpers[1])),
        "vault.repair_malformed",
    ),
    "one helper at two places": (
        lambda o: another(o, 1, site=o.helpers[0].site),
        "vault.repair_malformed",
    ),
    "helpers out of order": (lambda o: replace(o, helpers=o.helpers[::-1]), "vault.repair_malformed"),
    "a target among its helpers": (lambda o: replace(o, target=o.helpers[1]), "vault.repair_malformed"),
    "one helper": (lambda o: replace(o, helpers=o.helpers[:1]), "vault.repair_malformed"),
    "no length": (lambda o: replace(o, size_bytes=0), "vault.repair_malformed"),
    "an endless length": (lambda o: replace(o, size_bytes=1 << 60), "vault.repair_malformed"),
    "an uneven length": (lambda o: replace(o, size_bytes=o.size_bytes + 1), "vault.repair_malformed"),
    "more masks than bytes": (lambda o: replace(o, masks=o.size_bytes), "vault.repair_malformed"),
    "a node of another site": (lambda o: another(o, 0, node=SaeId("node-kawasaki")), "vault.repair_refused"),
}


@pytest.mark.parametrize("lie", REFUSED_BY_HELPERS)
async def test_helper_refuses(lie: str) -> None:
    world, key, hostile = await lost_share()
    change, expected = REFUSED_BY_HELPERS[lie]
    counted = count_keys(world)
    order = order_for(world, key, TARGET, HELPERS, counted=True, change=change)
    answer = await hostile.open("koganei", order)
    assert code(answer) in {expected, "vault.wrong_class"}
    remote = await hostile.open("otemachi", order)
    if lie not in {"a node of another site", "another class"}:
        assert code(remote) == expected
    drawn = await hostile.ask(
        "koganei", "repair_pads", object=order.object_id, attempt=order.attempt, offset=0, size=16
    )
    assert code(drawn) == "vault.repair_no_attempt"
    assert not counted["koganei"].drawn


async def test_order_of_another_class_is_refused_at_every_site() -> None:
    world, key, hostile = await lost_share()
    order = order_for(world, key, TARGET, HELPERS, counted=True, change=lambda o: replace(o, class_="pqc"))
    assert code(await hostile.open("otemachi", order)) == "vault.wrong_class"
    assert code(await Hostile(world, "pqc").open("otemachi", order)) == "vault.repair_refused"


async def test_certificate_without_keys_reaches_nothing_of_class_its() -> None:
    """Who holds the owner's TLS identity and none of its keys speaks under class pqc at most."""
    world, key, hostile = await lost_share()
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    forger = Hostile(world, "pqc")
    assert code(await forger.open("otemachi", order)) == "vault.wrong_class"
    assert not code(await hostile.open("otemachi", order))
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": 0, "size": 16}
    for op in ("repair_pads", "repair_check", "repair_help", "repair_abort"):
        assert code(await forger.ask("otemachi", op, **there)) == "vault.wrong_class"


async def test_order_that_another_owner_signed_is_refused() -> None:
    world, key, hostile = await lost_share()
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    for site in (*HELPERS, TARGET):
        assert code(await hostile.open(site, order, signer=OwnerSigner(bytes(32)))) == "vault.value_forged"


@pytest.mark.parametrize("text", [None, 7, "", "{}", "[]", "x" * 9000, '{"v":1}', "[" * 4000])
async def test_text_that_is_no_order_is_refused(text: Any) -> None:
    _, key, hostile = await lost_share()
    answer = await hostile.raw_open("otemachi", text, b"", key.object_id)
    assert code(answer) == "vault.repair_malformed"


async def test_order_in_another_spelling_is_refused() -> None:
    """Two texts of one order would have two one-time tags to compare."""
    world, key, hostile = await lost_share()
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    (proof,) = sign_orders([order], OwnerSigner(bytes(range(32))))
    loose = json.dumps(json.loads(order.text))
    assert code(await hostile.raw_open("otemachi", loose, proof, key.object_id)) == "vault.repair_malformed"


async def test_target_that_holds_a_good_share_refuses_another() -> None:
    world = make_world()
    receipt = await store(world, "a", b"x")
    key = world.share_key(receipt.object_id, TARGET)
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    assert code(await Hostile(world).open(TARGET, order)) == "vault.repair_refused"


async def test_target_that_knows_better_refuses() -> None:
    world, key, hostile = await lost_share()
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    await store(world, "a", b"newer")
    for site in (*HELPERS, TARGET):
        assert code(await hostile.open(site, order)) == "vault.repair_stale"


async def test_helper_without_its_share_refuses() -> None:
    world, key, hostile = await lost_share()
    lose(world, "otemachi", key)
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    assert code(await hostile.open("otemachi", order)) == "vault.no_share"


async def test_attempt_is_begun_once_even_after_a_restart() -> None:
    world, key, hostile = await lost_share()
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    for site in (*HELPERS, TARGET):
        assert not code(await hostile.open(site, order))
        assert code(await hostile.open(site, order)) == "vault.repair_used"
        restart(world, site)
        assert code(await hostile.open(site, order)) == "vault.repair_used"


async def test_attempt_of_one_order_serves_no_other() -> None:
    world, key, hostile = await lost_share()
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    other = order_for(world, key, TARGET, ("koganei", "otemachi", "musashino"), counted=True)
    assert order.attempt == other.attempt
    assert not code(await hostile.open("koganei", order))
    assert code(await hostile.open("koganei", other)) == "vault.repair_used"


async def drive(hostile: Hostile, orders: dict[str, RepairOrder], size: int) -> dict[str, dict[str, Any]]:
    """Run one range by the orders that each helper was told; return what each said last."""
    first = next(iter(orders.values()))
    there: dict[str, Any] = {"object": first.object_id, "attempt": first.attempt, "offset": 0, "size": size}
    drawn = {site: await hostile.ask(site, "repair_pads", **there) for site in HELPERS[:-1]}
    said: dict[str, dict[str, Any]] = {}
    back: dict[str, dict[str, str]] = {}
    for site in HELPERS[1:]:
        pairs = {master: drawn[master]["pairs"][site] for master in HELPERS[: HELPERS.index(site)]}
        said[site] = await hostile.ask(site, "repair_check", **there, pairs=pairs)
        for master, tag in said[site].get("pairs", {}).items():
            back.setdefault(master, {})[site] = tag
    for site in HELPERS:
        if not code(said.get(site, {})):
            said[site] = await hostile.ask(site, "repair_help", **there, pairs=back.get(site, {}))
    return said


def opened(world: World, site: str, helper: str, part: dict[str, Any]) -> bytes:
    """What a colluding target reads of what a helper gave it, with its own keys."""
    keys = world.network.fetch(SaeId(f"node-{helper}"), SaeId(f"node-{site}"), part["keys"])
    secret = b"".join(key.material.take() for key in keys)
    sealed = base64.b64decode(part["data"])
    return bytes(a ^ b for a, b in zip(sealed, secret[32:], strict=False))


def scaled(weight: int, vector: bytes) -> bytes:
    out = bytearray(len(vector))
    combine_into([weight], [vector], out)
    return bytes(out)


def total(*vectors: bytes) -> bytes:
    out = bytearray(len(vectors[0]))
    combine_into([1] * len(vectors), list(vectors), out)
    return bytes(out)


async def two_targets(world: World, key: ShareKey, hostile: Hostile) -> tuple[dict[str, Any], dict[str, RepairOrder]]:
    """Two colluding sites that kept what they say they lost; two helpers are told of one, the third of the other."""
    to_first = order_for(world, key, TARGET, HELPERS, counted=True)
    to_second = order_for(world, key, "musashino", HELPERS, counted=True)
    orders = {"koganei": to_first, "otemachi": to_first, "hakusan": to_second}
    for site, order in orders.items():
        assert not code(await hostile.open(site, order))
    return await drive(hostile, orders, to_first.size_bytes), orders


async def test_two_targets_open_the_object_where_orders_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attack works on a node that compares nothing but the range: k-1 = 2 sites compute a third share."""
    shown = repair_wire.shown_order
    monkeypatch.setattr("shosoin.vault.repair_helper.shown_order", lambda *arguments: (b"", shown(*arguments)[1]))
    world, key, hostile = await lost_share(size=3000)
    kept = {site: dealt(world, site, key) for site in (TARGET, "musashino")}
    lose(world, "musashino", key)
    said, orders = await two_targets(world, key, hostile)
    sums = total(
        opened(world, TARGET, "koganei", said["koganei"]),
        opened(world, TARGET, "otemachi", said["otemachi"]),
        opened(world, "musashino", "hakusan", said["hakusan"]),
    )
    difference = orders["koganei"].weight_of(SiteId("hakusan")) ^ orders["hakusan"].weight_of(SiteId("hakusan"))
    third = scaled(element_inv(difference), total(sums, kept[TARGET]))
    assert third == share(world, "hakusan", key)
    points = [point_of(3), point_of(4), point_of(5)]
    secret = bytearray(len(third))
    combine_into(lagrange_weights(points), [third, kept[TARGET], kept["musashino"]], secret)
    masks = orders["koganei"].masks * 16
    assert bytes(secret)[masks : masks + 3000] == pattern(3000)


async def test_two_targets_get_nothing_from_ours() -> None:
    world, key, hostile = await lost_share(size=3000)
    lose(world, "musashino", key)
    said, _ = await two_targets(world, key, hostile)
    assert code(said["hakusan"]) == "vault.repair_forged"
    assert {code(said[site]) for site in ("koganei", "otemachi")} <= {"vault.repair_forged", "vault.repair_refused"}
    assert not any("data" in each for each in said.values())
    assert any(event.name == "vault.repair_forged" for event in world.sink.events)


async def test_target_with_another_order_opens_nothing() -> None:
    """Helpers agree, and the target was told another helper set: it takes nothing under other orders."""
    world, key, hostile = await lost_share()
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    other = order_for(world, key, TARGET, HELPERS, counted=True, attempt="cd" * 16)
    for site in HELPERS:
        await hostile.open(site, order)
    await hostile.open(TARGET, other)
    said = await drive(hostile, dict.fromkeys(HELPERS, order), order.size_bytes)
    answer = await hostile.ask(
        TARGET,
        "repair_take",
        object=key.object_id,
        attempt=other.attempt,
        offset=0,
        size=order.size_bytes,
        parts=said,
    )
    assert code(answer) == "vault.repair_forged"
    assert world.stores[TARGET].staged == 0


async def ready(size: int = 100) -> tuple[World, ShareKey, Hostile, RepairOrder]:
    """An order that everybody took."""
    world, key, hostile = await lost_share(size=size)
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    for site in (*HELPERS, TARGET):
        assert not code(await hostile.open(site, order))
    return world, key, hostile, order


async def test_no_combination_before_every_other_helper_showed_its_order() -> None:
    _, key, hostile, order = await ready()
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": 0, "size": 64}
    drawn = await hostile.ask("koganei", "repair_pads", **there)
    assert set(drawn["pairs"]) == {"otemachi", "hakusan"}
    assert code(await hostile.ask("koganei", "repair_help", **there, pairs={})) == "vault.repair_forged"
    # a range is used once, so nothing more comes of this one
    assert code(await hostile.ask("koganei", "repair_help", **there, pairs={})) == "vault.repair_refused"
    assert code(await hostile.ask("koganei", "repair_pads", **there)) == "vault.repair_used"
    assert code(await hostile.ask("hakusan", "repair_help", **there, pairs={})) == "vault.repair_refused"


async def test_last_helper_gives_nothing_with_one_pad_missing() -> None:
    _, key, hostile, order = await ready()
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": 0, "size": 64}
    drawn = await hostile.ask("koganei", "repair_pads", **there)
    pairs = {"koganei": drawn["pairs"]["hakusan"]}
    assert not code(await hostile.ask("hakusan", "repair_check", **there, pairs=pairs))
    assert code(await hostile.ask("hakusan", "repair_help", **there, pairs={})) == "vault.repair_refused"


async def test_pads_of_one_range_serve_no_other() -> None:
    """Else two ranges under one pad would differ by what their shares differ."""
    _, key, hostile, order = await ready()
    first: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": 0, "size": 64}
    other = {**first, "offset": 64}
    drawn = await hostile.ask("koganei", "repair_pads", **first)
    answer = await hostile.ask("otemachi", "repair_check", **other, pairs={"koganei": drawn["pairs"]["otemachi"]})
    assert code(answer) == "vault.repair_forged"
    answer = await hostile.ask("otemachi", "repair_check", **first, pairs={"koganei": drawn["pairs"]["otemachi"]})
    assert code(answer) == "vault.repair_no_key"  # a key is fetched once


async def test_pads_of_one_helper_serve_no_other() -> None:
    _, key, hostile, order = await ready()
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": 0, "size": 64}
    drawn = await hostile.ask("koganei", "repair_pads", **there)
    answer = await hostile.ask("otemachi", "repair_check", **there, pairs={"koganei": drawn["pairs"]["hakusan"]})
    assert code(answer) == "vault.repair_no_key"
    answer = await hostile.ask("otemachi", "repair_check", **there, pairs={"hakusan": drawn["pairs"]["hakusan"]})
    assert code(answer) == "vault.repair_refused"


async def test_tag_cannot_be_sent_back() -> None:
    _, key, hostile, order = await ready()
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": 0, "size": 64}
    drawn = await hostile.ask("koganei", "repair_pads", **there)
    tags = {site: told["tag"] for site, told in drawn["pairs"].items()}
    assert code(await hostile.ask("koganei", "repair_help", **there, pairs=tags)) == "vault.repair_forged"


@pytest.mark.parametrize(
    ("offset", "size"), [(8, 16), (0, 8), (0, 0), (0, 1 << 30), (-16, 16), (1 << 50, 16), (0, "16"), (None, 16)]
)
async def test_range_that_cannot_be_is_refused(offset: Any, size: Any) -> None:
    _, key, hostile, order = await ready()
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": offset, "size": size}
    for site, op in (("koganei", "repair_pads"), ("hakusan", "repair_check"), (TARGET, "repair_take")):
        assert code(await hostile.ask(site, op, **there, pairs={}, parts={})) == "vault.bad_operation"


async def test_range_beyond_the_share_is_refused() -> None:
    _, key, hostile, order = await ready()
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": order.size_bytes, "size": 16}
    assert code(await hostile.ask("koganei", "repair_pads", **there)) == "vault.bad_operation"


async def test_ranges_that_overlap_are_refused() -> None:
    _, key, hostile, order = await ready()
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt}
    assert not code(await hostile.ask("koganei", "repair_pads", **there, offset=32, size=64))
    for offset, size in ((0, 48), (80, 32), (48, 16), (16, 128)):
        answer = await hostile.ask("koganei", "repair_pads", **there, offset=offset, size=size)
        assert code(answer) == "vault.repair_used"


async def test_ranges_that_wait_are_bounded() -> None:
    _, key, hostile, order = await ready(3000)
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "size": 16}
    codes = [code(await hostile.ask("koganei", "repair_pads", **there, offset=16 * at)) for at in range(12)]
    assert codes[:4] == [""] * 4
    assert set(codes[4:]) == {"vault.repair_busy"}


async def test_roles_are_kept() -> None:
    _, key, hostile, order = await ready()
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": 0, "size": 64}
    for op in ("repair_pads", "repair_check", "repair_help"):
        assert code(await hostile.ask(TARGET, op, **there)) == "vault.repair_refused"
    for op in ("repair_take", "repair_seal", "repair_adopt"):
        assert code(await hostile.ask("otemachi", op, **there)) == "vault.repair_refused"
    assert code(await hostile.ask(TARGET, "repair_adopt", **there)) == "vault.repair_refused"
    assert code(await hostile.ask(TARGET, "repair_seal", **there)) == "vault.repair_refused"


async def test_altered_combination_is_not_taken() -> None:
    world, key, hostile, order = await ready()
    said = await drive(hostile, dict.fromkeys(HELPERS, order), order.size_bytes)
    raw = bytearray(base64.b64decode(said["otemachi"]["data"]))
    raw[5] ^= 1
    parts = {**said, "otemachi": {**said["otemachi"], "data": base64.b64encode(raw).decode()}}
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": 0, "size": order.size_bytes}
    assert code(await hostile.ask(TARGET, "repair_take", **there, parts=parts)) == "vault.repair_forged"
    assert code(await hostile.ask(TARGET, "repair_take", **there, parts=said)) == "vault.repair_used"
    assert not holds(world, TARGET, key)


@pytest.mark.parametrize("missing", HELPERS)
async def test_combination_of_every_helper_is_needed(missing: str) -> None:
    _, key, hostile, order = await ready()
    said = await drive(hostile, dict.fromkeys(HELPERS, order), order.size_bytes)
    parts = {site: part for site, part in said.items() if site != missing}
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": 0, "size": order.size_bytes}
    assert code(await hostile.ask(TARGET, "repair_take", **there, parts=parts)) == "vault.repair_refused"


async def test_shorter_list_of_challenges_is_not_taken() -> None:
    """What the helpers have answered is under their tags: a coordinator cannot make the target forget it."""
    world, key, hostile = await lost_share()
    for _ in range(3):
        await world.vault.audit(["a"], fresh=True)
    order = order_for(world, key, TARGET, HELPERS, counted=True)
    for site in (*HELPERS, TARGET):
        await hostile.open(site, order)
    said = await drive(hostile, dict.fromkeys(HELPERS, order), order.size_bytes)
    assert len(json.loads(said["koganei"]["challenges"])["challenges"]) == 4
    parts = {site: {**part, "challenges": '{"challenges":[]}'} for site, part in said.items()}
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt, "offset": 0, "size": order.size_bytes}
    assert code(await hostile.ask(TARGET, "repair_take", **there, parts=parts)) == "vault.repair_forged"


async def rebuilt() -> tuple[World, ShareKey, Hostile, RepairOrder]:
    """A share that is complete at its target and not recorded."""
    world, key, hostile, order = await ready()
    said = await drive(hostile, dict.fromkeys(HELPERS, order), order.size_bytes)
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt}
    assert not code(await hostile.ask(TARGET, "repair_take", **there, offset=0, size=order.size_bytes, parts=said))
    assert not code(await hostile.ask(TARGET, "repair_seal", **there))
    return world, key, hostile, order


async def test_target_answers_no_challenge_that_its_helpers_have_not_recorded() -> None:
    world, key, hostile, order = await rebuilt()
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt}
    challenge, other = "12" * 16, "34" * 16
    notes = {}
    for site in HELPERS:
        result = await hostile.ask(site, "repair_digest", answer_bytes=16, **there, r=challenge)
        notes[site] = {"keys": result["keys"], "tag": result["tag"]}
        assert challenge in world.stores[site]._tables.challenges[key]
    few = {site: notes[site] for site in HELPERS[1:]}
    answer = await hostile.ask(TARGET, "repair_digest", answer_bytes=16, **there, r=challenge, notes=few)
    assert code(answer) == "vault.repair_refused"
    answer = await hostile.ask(TARGET, "repair_digest", answer_bytes=16, **there, r=other, notes=notes)
    assert code(answer) == "vault.repair_forged"
    assert other not in world.stores[TARGET]._tables.challenges[key]


async def test_seal_asked_for_twice_is_one() -> None:
    world, key, hostile, order = await rebuilt()
    there: dict[str, Any] = {"object": key.object_id, "attempt": order.attempt}
    assert not code(await hostile.ask(TARGET, "repair_seal", **there))
    assert not holds(world, TARGET, key)
    assert not code(await hostile.ask(TARGET, "repair_adopt", **there))
    assert share(world, TARGET, key) == dealt(world, TARGET, key)


async def test_repair_of_one_owner_is_not_there_for_another() -> None:
    world, key, _, order = await ready()
    node = world.links["koganei"].node
    assert (OwnerId("owner-2"), order.attempt) not in node._operations._repair.attempts._running
    with pytest.raises(Exception, match="does not run here"):
        node._operations._repair.attempts.get(OwnerId("owner-2"), order.attempt)
    assert committed(world, "koganei", key.object_id).owner == "owner-1"


async def test_everything_goes_on_after_attacks() -> None:
    world, key, hostile = await lost_share()
    lose(world, "musashino", key)
    await two_targets(world, key, hostile)
    done = await world.vault.repair()
    assert not [each.problem for each in done if each.problem]
    for site in FIVE:
        assert share(world, site, key) == dealt(world, site, key)
    assert (await fetch(world.vault, "a"))[0] == pattern(100)
