"""Key-stream bits as shares (class its): who takes them, what happens when a copy is lost, and who lied about them."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from shosoin.base import SaeId, ShosoinError, Unavailable
from shosoin.vault.deal_check import DealInconsistent
from shosoin.vault.envelope import cut, parse_json
from tests.vault.support import OWNER, SITES, DirectLink, World, fetch, kinds_of, make_world, pattern, store


def headers(world: World) -> list[tuple[str, dict[str, Any]]]:
    """Every envelope header that every site saw."""
    return [(name, parse_json(cut(raw).header)) for name, link in world.links.items() for raw in link.seen]


def takes(world: World) -> list[tuple[str, dict[str, Any]]]:
    return [(name, op) for name, header in headers(world) for op in header["ops"] if op["op"] == "take"]


@pytest.mark.parametrize(("k", "n"), [(2, 3), (3, 5), (4, 5), (3, 6)])
async def test_k_minus_1_remote_sites_take_each_chunk_and_never_home(k: int, n: int, small_segments: int) -> None:
    world = make_world(n, f"{k}-of-{n}")
    content = pattern(5000)
    await store(world, "object", content, "its")
    per_chunk = Counter((op["object"], op["version"], op["offset"]) for _, op in takes(world))
    assert set(per_chunk.values()) == {k - 1}
    assert SITES[0] not in {name for name, _ in takes(world)}
    assert (await fetch(world.vault, "object"))[0] == content


async def test_without_a_spare_site_no_share_is_key_bits_alone() -> None:
    """n = k: nothing could tell that a KME differs at its far end, so every share travels under a pad and its MAC."""
    world = make_world(3, "3-of-3")
    await store(world, "object", pattern(500), "its")
    assert takes(world) == []
    check_single_use(world)
    assert (await fetch(world.vault, "object"))[0] == pattern(500)


async def test_other_classes_take_no_keys() -> None:
    world = make_world()
    for class_ in ("qkd", "pqc"):
        await store(world, class_, pattern(500), class_)
    assert takes(world) == []


def check_single_use(world: World) -> None:
    """No key_ID appears twice anywhere: not as pad and share, not in two envelopes, not at two sites."""
    used = [key_id for _, header in headers(world) for key_id in header["auth"].get("keys", ())]
    used += [key_id for _, op in takes(world) for key_id in op["keys"]]
    offers = [parse_json(raw) for link in world.links.values() for raw in link.offers]
    used += [key_id for offer in offers for key_id in offer["keys"]]
    assert len(used) == len(set(used))
    assert set(used) <= {key_id for key_id, _ in world.keys.drawn}


async def test_no_key_serves_twice(small_segments: int) -> None:
    world = make_world()
    for round_ in range(2):
        await store(world, "object", pattern(5000, round_), "its")
        await store(world, "other", pattern(50, round_), "qkd")
        await fetch(world.vault, "object")
    check_single_use(world)


@pytest.mark.parametrize("lose_answer", [False, True])
async def test_a_failed_take_is_sent_again_under_a_fresh_pad(lose_answer: bool, small_segments: int) -> None:
    world = make_world()
    await store(world, "warm-up", b"x", "its")
    already = len(takes(world))
    lost: list[dict[str, Any]] = []

    def lose(link: DirectLink, header: dict[str, Any]) -> None:
        if not lost and "take" in kinds_of(header):
            lost.extend(op for op in header["ops"] if op["op"] == "take")
            raise Unavailable("lost on the way")

    hook = {"after" if lose_answer else "before": lose}
    world.links[SITES[1]].before, world.links[SITES[1]].after = hook.get("before"), hook.get("after")
    content = pattern(5000)
    receipt = await store(world, "object", content, "its")
    assert lost
    assert receipt.missing == []
    check_single_use(world)
    # the second try is an ordinary write of the same range, and the keys of the first are not named again
    resent = [
        op
        for name, header in headers(world)
        if name == SITES[1]
        for op in header["ops"]
        if op["op"] == "write" and (op["object"], op["offset"]) in {(old["object"], old["offset"]) for old in lost}
    ]
    assert [op["size"] for op in resent] == [op["size"] for op in lost]
    assert len(takes(world)) > already
    for away in SITES[2:4]:
        world.links[away].down = True
    found, got = await fetch(world.vault, "object")  # needs the share that was sent again
    assert found == content
    assert SITES[1] in got.sites_used


async def test_a_site_that_loses_its_copy_before_sealing_gets_it_again() -> None:
    world = make_world()

    def crash(link: DirectLink, header: dict[str, Any]) -> None:
        if "take" in kinds_of(header) and not crashed:
            crashed.append(1)
            world.stores[str(link.site)].crash()
            raise Unavailable("the node restarted")

    crashed: list[int] = []
    world.links[SITES[2]].after = crash
    content = pattern(400)
    receipt = await store(world, "object", content, "its")
    assert crashed
    assert receipt.missing == []
    check_single_use(world)
    assert (await fetch(world.vault, "object"))[0] == content


def corrupt_takes(world: World, *sites: str) -> None:
    """The KMEs of some sites deliver other bits than the home KME drew, for key-shares alone."""

    def corrupt(link: DirectLink, header: dict[str, Any]) -> None:
        for op in header.get("ops", ()):
            for key_id in op.get("keys", ()) if op["op"] == "take" else ():
                slot = SaeId(OWNER), SaeId(f"node-{link.site}"), key_id
                chance = random.Random(key_id)  # every key differs in its own way
                waiting = world.network._waiting[slot]
                world.network._waiting[slot] = bytes(byte ^ chance.randrange(1, 256) for byte in waiting)

    for name in sites:
        world.links[name].before = corrupt


async def test_the_deal_check_names_a_site_whose_kme_differs() -> None:
    world = make_world()
    corrupt_takes(world, SITES[1])
    content = pattern(400)
    receipt = await store(world, "object", content, "its")
    assert receipt.durable_at == 4
    assert receipt.missing == [SITES[1]]
    assert {(alarm.fields["site"], alarm.fields["kind"]) for alarm in receipt.alarms} == {(SITES[1], "deal_wrong")}
    assert any(event.name == "vault.bad_deal" for event in world.sink.events)
    assert (await fetch(world.another_vault().vault, "object"))[0] == content


async def test_two_sites_whose_kmes_differ_are_too_many() -> None:
    world = make_world()
    await store(world, "object", b"old", "its")
    corrupt_takes(world, SITES[1], SITES[2])
    with pytest.raises(DealInconsistent):
        await store(world, "object", pattern(400), "its")
    world.on_all()
    assert (await fetch(world.vault, "object"))[0] == b"old"
    assert all(row.state.value == "committed" for site in world.stores.values() for row in site.shares())


@pytest.mark.parametrize(("k", "n"), [(3, 4), (2, 3), (4, 5)])
async def test_with_one_spare_site_a_difference_is_detected_and_refused(k: int, n: int) -> None:
    world = make_world(n, f"{k}-of-{n}")
    corrupt_takes(world, SITES[1])
    with pytest.raises(DealInconsistent):
        await store(world, "object", pattern(400), "its")


async def test_a_kme_whose_ends_always_differ_costs_that_site_alone() -> None:
    """Pads differ too, so no message of that pair authenticates: an alarm, and four sites remain."""
    world = make_world()
    world.network.corrupted.add((SaeId(OWNER), SaeId(f"node-{SITES[3]}")))
    content = pattern(200)
    receipt = await store(world, "object", content, "its")
    assert receipt.missing == [SITES[3]]
    assert any(event.name == "vault.seal_broken" for event in world.sink.events)
    assert (await fetch(world.vault, "object"))[0] == content


async def test_a_dry_link_is_replaced_by_another_site() -> None:
    """The first remote site has no key at all: the put takes the shares elsewhere and says who is missing."""
    world = make_world()
    world.network.stock_bits[SaeId(OWNER), SaeId(f"node-{SITES[1]}")] = 0
    content = pattern(300)
    receipt = await store(world, "object", content, "its")
    assert receipt.missing == [SITES[1]]
    assert SITES[1] not in {name for name, _ in takes(world)}
    assert (await fetch(world.vault, "object"))[0] == content


async def test_a_link_that_runs_dry_in_the_middle(small_segments: int) -> None:
    world = make_world()
    await store(world, "warm-up", b"x", "its")
    content = pattern(9000)
    plan = await world.vault.plan(9000)
    world.network.stock_bits[SaeId(OWNER), SaeId(f"node-{SITES[1]}")] = (
        plan.needed_bits[world.context.sites[1].name] // 4
    )
    try:
        receipt = await store(world, "object", content, "its")
    except ShosoinError:
        pytest.fail("four of five links have key enough")
    assert receipt.durable_at == 4
    check_single_use(world)
    assert (await fetch(world.vault, "object"))[0] == content
