"""Attacks on the repair of shares: liars that block it, links nobody vouches for, sites that were replaced."""

from __future__ import annotations

from typing import Any

import pytest

from shosoin.base import SiteId, Unavailable
from shosoin.vault.audit_round import AuditOptions
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from shosoin.vault.ports import ShareState
from tests.vault.repair_support import FIVE, count_keys, dealt, lose, share
from tests.vault.support import SITES, World, fetch, make_world, pattern, store
from tests.vault.test_moving import NEW, OLD, configured, down

CLASSES = ("its", "qkd", "pqc")
CONTENT = {"a": pattern(700), "b": pattern(5000), "c": b""}


async def id_of(client: World, name: str) -> str:
    return next(entry.object_id for entry in await client.vault.ls() if entry.name == name)


def problems(done: Any) -> list[str]:
    return [f"{each.name} at {each.site}: {each.problem}" for each in done if each.problem]


async def moved_world(class_: str) -> tuple[World, World]:
    """A world whose third site is retired and whose sixth took its place, before any repair."""
    world = make_world(6, "3-of-5")
    before = configured(world, NEW)
    for name, content in CONTENT.items():
        await store(before, name, content, class_)
    return world, configured(world, OLD)


@pytest.mark.parametrize("class_", CLASSES)
async def test_replaced_site_is_repaired_and_the_retired_one_erases(class_: str) -> None:
    world, after = await moved_world(class_)
    moved = await after.vault.move_retired()
    assert all(one.error is None and one.missing == (NEW,) for one in moved)
    counted = count_keys(world)
    done = await after.vault.repair()
    assert not problems(done)
    assert {(each.name, each.site) for each in done} >= {(name, SiteId(NEW)) for name in CONTENT}
    for name in CONTENT:
        stat = await after.vault.stat(name)
        assert stat.label.durable_at == 5
        key = world.share_key(await id_of(after, name), NEW)
        assert share(world, NEW, key) == share(world, OLD, key), "the same place has the same share"
        assert world.stores[NEW]._tables.shares[key].state is ShareState.COMMITTED
    for keys in counted.values():
        assert all(count == 1 for count in [*keys.drawn.values(), *keys.fetched.values()])
    again = await after.vault.move_retired()
    assert [one.erased_at for one in again] == [(OLD,)] * len(CONTENT)
    down(after, OLD, FIVE[3], FIVE[4])
    for name, content in CONTENT.items():
        assert (await fetch(after.vault, name))[0] == content
    down(after)
    assert not await after.vault.repair()
    states = await after.vault.audit()
    assert all(set(found.values()) == {"ok"} for found in states.values()), states


@pytest.mark.parametrize("class_", CLASSES)
async def test_repair_before_the_move_says_what_it_can(class_: str) -> None:
    """The retired site is in the placement and no member any more; its share is lost."""
    world, after = await moved_world(class_)
    object_id = await id_of(after, "a")
    lose(world, FIVE[4], world.share_key(object_id, FIVE[4]))
    done = await after.vault.repair(["a"])
    assert not problems(done)
    assert (await after.vault.stat("a")).label.durable_at >= 4


async def test_links_are_counted_in_the_direction_in_which_they_are_used() -> None:
    world, after = await moved_world("its")
    await after.vault.move_retired()
    await after.vault.repair()
    object_id = await id_of(after, "b")
    target = FIVE[4]
    key = world.share_key(object_id, target)
    lose(world, target, key)
    for other in FIVE[3:4]:
        after.links[other].down = True
    counted = count_keys(world)
    done = await after.vault.repair(["b"])
    assert not problems(done)
    (one,) = done
    assert NEW in one.helpers
    drawn = {site for site, keys in counted.items() if keys.drawn}
    planned = {str(link[0]) for link in one.key_bits}
    placement = (await after.vault.stat("b")).placement
    pairs = [(a, b) for a in one.helpers for b in one.helpers if placement.index(a) < placement.index(b)] + [
        (helper, SiteId(target)) for helper in one.helpers
    ]
    assert set(one.key_bits) == set(pairs), (drawn, planned)


def falsify_like(world: World, liars: tuple[str, ...], honest: tuple[str, str], key: Any, at: int) -> None:
    """Liars add to their shares what vanishes at two honest sites: c (x - x1)(x - x2)."""
    from shosoin.kernels import element_mul, point_of

    place = {name: index for index, name in enumerate(world.stores, start=1)}
    first, second = (point_of(place[name]) for name in honest)
    for liar in liars:
        x = point_of(place[liar])
        change = element_mul(element_mul(x ^ first, x ^ second), 0x1234567).to_bytes(16, "little")
        old = share(world, liar, key)[at : at + 16]
        world.stores[liar].falsify(key, at, bytes(a ^ b for a, b in zip(old, change, strict=True)))


@pytest.mark.parametrize("class_", CLASSES)
async def test_wrong_share_does_not_count_with_as_many_liars_as_are_allowed(class_: str) -> None:
    """3-of-7 allows two liars. While two honest sites are away, the four that answer an audit fit together."""
    world = make_world(7, "3-of-7")
    target, away, liars = SITES[6], SITES[4:6], SITES[2:4]
    receipt = await store(world, "a", pattern(1500), class_)
    key = world.share_key(receipt.object_id, target)
    whole = share(world, target, key)
    lose(world, target, key)
    falsify_like(world, liars, SITES[:2], key, len(whole) - 16)
    for site in away:
        world.links[site].down = True
    done = await world.vault.repair(["a"])
    held = [row.key for row in world.stores[target].shares()]
    assert key not in held or share(world, target, key) == whole, done
    for site in away:
        world.links[site].down = False
    await world.vault.repair(["a"])
    assert share(world, target, key) == whole


@pytest.mark.parametrize("op", ["repair_pads", "repair_check", "repair_help"])
@pytest.mark.parametrize("lie", ["keys", "type", "tag", "missing"])
@pytest.mark.parametrize("liar", [SITES[1], SITES[2]])
async def test_one_liar_does_not_block_a_repair(op: str, lie: str, liar: str) -> None:
    world = make_world()
    target = SITES[4]
    receipt = await store(world, "a", pattern(900))
    key = world.share_key(receipt.object_id, target)
    whole = share(world, target, key)
    lose(world, target, key)
    repair = world.links[liar].node._operations._repair
    inner = repair.handlers[op]

    def spoiled(told: Any) -> Any:
        if isinstance(told, str):
            return 7 if lie == "type" else "00" * 16
        match lie:
            case "keys":
                return {**told, "keys": ["00000000-0000-4000-8000-000000000000"]}
            case "type":
                return "no table"
            case "tag":
                return {**told, "tag": "00" * 16}
        return {}

    async def lying(owner: Any, request: Any) -> Any:
        result, payload = await inner(owner, request)
        if op == "repair_help":
            return ({**result, "data": 7} if lie == "type" else spoiled(result)) | {"origins": []}, payload
        return {"pairs": {site: spoiled(told) for site, told in result["pairs"].items()}}, payload

    repair.handlers = {**repair.handlers, op: lying}
    done = await world.vault.repair(["a"])
    assert [each.done for each in done] == [True], problems(done)
    assert share(world, target, key) == whole == dealt(world, target, key)


@pytest.mark.parametrize("class_", ["qkd", "pqc"])
@pytest.mark.parametrize("op", ["repair_open", "repair_meet"])
@pytest.mark.parametrize("junk", ["{}", "junk", 7])
async def test_one_liar_that_spoils_sessions_does_not_block_a_repair(class_: str, op: str, junk: Any) -> None:
    world = make_world()
    liar, target = SITES[2], SITES[4]
    receipt = await store(world, "a", pattern(900), class_)
    key = world.share_key(receipt.object_id, target)
    whole = share(world, target, key)
    lose(world, target, key)
    repair = world.links[liar].node._operations._repair
    inner = repair.handlers[op]
    field = "offers" if op == "repair_open" else "answers"

    async def lying(owner: Any, request: Any) -> Any:
        result, payload = await inner(owner, request)
        return {**result, field: dict.fromkeys(result.get(field, {}), junk)}, payload

    repair.handlers = {**repair.handlers, op: lying}
    done = await world.vault.repair(["a"])
    assert [each.done for each in done] == [True], problems(done)
    assert share(world, target, key) == whole


async def test_sites_known_to_be_bad_are_not_asked_to_help() -> None:
    """Key bits of whole shares are not spent on what is known to go wrong."""
    world = make_world(6, "3-of-6")
    receipt = await store(world, "a", pattern(900))
    keys = {site: world.share_key(receipt.object_id, site) for site in SITES[1:3]}
    for site, key in keys.items():
        world.stores[site].falsify(key, len(share(world, site, key)) - 40, b"lie")
    asked: list[set[SiteId]] = []

    def look(needs: Any) -> bool:
        asked.extend(set(need.helpers) for need in needs)
        return True

    done = await world.vault.repair(["a"], verify=True, planned=look)
    assert not problems(done)
    assert not any(helpers & set(SITES[1:3]) for helpers in asked)
    assert all(each.attempts == 1 for each in done)


async def test_links_of_which_nobody_says_who_sees_the_keys_carry_no_repair_of_class_its() -> None:
    """A standard KME says nothing of relays. That is not the same as saying that there are none."""
    world = make_world()
    receipt = await store(world, "a", pattern(300))
    key = world.share_key(receipt.object_id, SITES[4])
    lose(world, SITES[4], key)
    for site in SITES[:5]:
        repair = world.links[site].node._operations._repair
        repair.parts.keys = Silent(repair.parts.keys)
    done = await world.vault.repair(["a"])
    assert problems(done), "shares travelled on links of which nobody knows who sees their keys"


class Silent:
    """A KME that says nothing of relays."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def status(self, slave: Any) -> Any:
        from dataclasses import replace

        return replace(await self._inner.status(slave), extension={})


async def test_dry_link_between_honest_helpers_accuses_nobody() -> None:
    """Keys that were there when it was planned are gone; another set helps, and nobody is said to have lied."""
    world = make_world()
    receipt = await store(world, "a", pattern(900))
    key = world.share_key(receipt.object_id, SITES[4])
    whole = share(world, SITES[4], key)
    lose(world, SITES[4], key)
    counted = count_keys(world)
    dry: list[str] = []

    def look(needs: Any) -> bool:
        (need,) = needs
        dry.extend(map(str, need.helpers[1:]))
        return True

    for name, keys in counted.items():
        inner = keys.enc_keys

        async def enc_keys(slave: Any, *, inner: Any = inner, name: str = name, **asked: Any) -> Any:
            if [name, str(slave).removeprefix("node-")] == dry:
                raise Unavailable("no key is left")
            return await inner(slave, **asked)

        keys.enc_keys = enc_keys  # type: ignore[method-assign]
    done = await world.vault.repair(["a"], planned=look)
    assert [(each.done, each.suspects) for each in done] == [(True, ())], problems(done)
    assert done[0].attempts > 1
    assert share(world, SITES[4], key) == whole
    assert not [event for event in world.sink.events if event.name == "vault.repair_suspect"]


@pytest.mark.parametrize("class_", CLASSES)
async def test_site_that_is_configured_no_more_stops_no_repair(class_: str) -> None:
    """A dead site was taken out of the configuration; what is placed there waits for the move, the rest is repaired."""
    world = make_world(6, "3-of-5")
    before = configured(world, NEW)
    await store(before, "a", CONTENT["b"], class_)
    before.links[OLD].down = True
    await store(before, "b", CONTENT["a"], class_)
    after = configured(world, OLD)
    after.context.sites = tuple(site for site in after.context.sites if site.name != OLD)
    key = world.share_key(await id_of(after, "a"), FIVE[4])
    lose(world, FIVE[4], key)
    done = {(each.name, str(each.site)): each.problem for each in await after.vault.repair()}
    assert not done["a", FIVE[4]]
    assert "configuration" in done["b", OLD]
    states = await after.vault.audit(["a"])
    assert states["a"].pop(SiteId(OLD)) == "unreachable"
    assert set(states["a"].values()) <= {"ok", "unchecked"}
    assert (await fetch(after.vault, "a"))[0] == CONTENT["b"]
    assert (await after.vault.verify("a")).per_site[SiteId(OLD)] == "unreachable"


@pytest.mark.parametrize("class_", CLASSES)
async def test_honest_site_that_lost_everything_and_was_repaired_is_not_accused_by_audits(class_: str) -> None:
    """It answers nothing new in this epoch, as it must; that is no refusal and no alarm."""
    world = make_world()
    receipt = await store(world, "a", CONTENT["b"], class_)
    target = SITES[4]
    key = world.share_key(receipt.object_id, target)
    lose(world, target, key)
    world.stores[target]._tables.challenges.pop(key, None)
    done = await world.vault.repair(["a"])
    assert not problems(done)
    world.sink.events.clear()
    for _ in range(4):
        states = (await world.vault.audit(["a"]))["a"]
        assert states.pop(SiteId(target)) == "unchecked"
        assert set(states.values()) == {"ok"}
    assert not [event for event in world.sink.events if event.severity == "alarm"]


@pytest.mark.parametrize("class_", CLASSES)
async def test_repair_in_the_middle_of_a_move(class_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The move stopped after the value that former and new members decided together about."""
    world, after = await moved_world(class_)

    def stop(*_: Any) -> Any:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr("shosoin.vault.moving._again", stop)
        with pytest.raises(RuntimeError):
            await after.vault.move_retired()
    client = configured(world, OLD)
    done = await client.vault.repair(list(CONTENT))
    assert not problems(done)
    assert {(each.name, str(each.site)) for each in done} >= {(name, NEW) for name in CONTENT}
    await client.vault.move_retired()
    await client.vault.repair()
    for name, content in CONTENT.items():
        assert (await client.vault.stat(name)).label.durable_at == 5
        assert (await fetch(client.vault, name))[0] == content
    assert all(one.erased_at == (OLD,) for one in await client.vault.move_retired())


async def test_share_that_was_moved_answers_no_more_than_the_place_may() -> None:
    """With the owner's own schedule, the retired and the new site at one place answer the same few challenges."""
    world, after = await moved_world("pqc")
    for _ in range(10):
        await after.vault.audit_round(["b"], options=AuditOptions(fresh=True))
    await after.vault.move_retired()
    await after.vault.repair()
    for _ in range(10):
        await after.vault.audit_round(["b"], options=AuditOptions(fresh=True))
    key = world.share_key(await id_of(after, "b"), NEW)
    answered = {
        each
        for site in (OLD, NEW)
        for each in world.stores[site]._tables.challenges[key]
        if not each.startswith("unknown-")
    }
    assert len(answered) <= ANSWERS_PER_EPOCH + 1  # one is the repair's own, which a helper has answered before
