"""Repair: shares that were not written, were lost or proved bad are rebuilt by the sites, and only good ones count."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from shosoin.base import SaeId, SiteId
from shosoin.base.ports import KeyStatus
from shosoin.vault.client import NotFound
from shosoin.vault.fetching import NotRecoverable
from shosoin.vault.index import index_register
from shosoin.vault.ports import ShareState
from shosoin.vault.repair import Repaired
from shosoin.vault.repair_plan import Need
from tests.vault.repair_support import (
    FIVE,
    CountedKeys,
    committed,
    count_keys,
    dealt,
    holds,
    lose,
    no_key_twice,
    rows,
    share,
    staged_anywhere,
)
from tests.vault.support import OWNER, DirectLink, World, failing, fetch, kinds_of, make_world, pattern, store

CLASSES = ("its", "qkd", "pqc")


async def put_without(world: World, away: str, content: bytes, class_: str = "its") -> Any:
    """Store an object while a site is away, then bring it back."""
    world.links[away].down = True
    receipt = await store(world, "a", content, class_)
    world.links[away].down = False
    return receipt


def problems(done: list[Repaired]) -> list[str]:
    return [f"{each.name}: {each.problem}" for each in done if each.problem]


@pytest.mark.parametrize("class_", CLASSES)
@pytest.mark.parametrize("away", FIVE[1:])
async def test_site_away_during_a_put_gets_the_share_that_the_dealer_made(class_: str, away: str) -> None:
    world = make_world()
    counted = count_keys(world)
    receipt = await put_without(world, away, pattern(5000), class_)
    assert receipt.missing == [away]
    done = await world.vault.repair()
    assert not problems(done)
    assert {(each.name, each.site, each.reason) for each in done} == {
        ("a", away, "not written"),
        (f"(names of class {class_})", away, "not written"),
    }
    assert all(each.durable_at == 5 for each in done)
    for row in rows(world, away):
        assert share(world, away, row.key) == dealt(world, away, row.key)
        assert row.state is ShareState.COMMITTED
    assert len(rows(world, away)) == 2
    no_key_twice(counted)
    label = (await world.vault.stat("a")).label
    assert label.durable_at == 5
    assert (await fetch(world.vault, "a"))[0] == pattern(5000)
    assert not await world.vault.repair()


async def test_what_was_rebuilt_serves_reads() -> None:
    world = make_world()
    await put_without(world, "otemachi", pattern(9000))
    await world.vault.repair()
    for away in ("hongo", "hakusan"):
        world.links[away].down = True
    content, receipt = await fetch(world.vault, "a")
    assert content == pattern(9000)
    assert "otemachi" in receipt.sites_used


async def test_home_site_is_rebuilt_too() -> None:
    world = make_world()
    await store(world, "a", pattern(700))
    for row in rows(world, "koganei"):
        lose(world, "koganei", row.key)
    done = await world.vault.repair()
    assert {(each.site, each.reason) for each in done} == {("koganei", "lost")}
    assert not problems(done)
    assert len(rows(world, "koganei")) == 2
    for row in rows(world, "koganei"):
        assert share(world, "koganei", row.key) == dealt(world, "koganei", row.key)


async def test_large_object_is_rebuilt_range_by_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shosoin.vault.repair_plan._ENVELOPE_BYTES", 40_000)
    world = make_world()
    takes: list[int] = []
    receipt = await put_without(world, "hongo", pattern(50_000))
    world.links["hongo"].before = lambda _, header: takes.extend(
        op["size"] for op in header.get("ops", ()) if op["op"] == "repair_take"
    )
    done = await world.vault.repair(["a"])
    assert not problems(done)
    assert max(takes) <= 8192
    assert len(takes) > 6
    key = world.share_key(receipt.object_id, "hongo")
    assert share(world, "hongo", key) == dealt(world, "hongo", key)


async def test_lost_share_is_rebuilt_and_its_audit_answers_go_on() -> None:
    world = make_world()
    receipt = await store(world, "a", pattern(600))
    key = world.share_key(receipt.object_id, "hakusan")
    for _ in range(3):
        await world.vault.audit(["a"], fresh=True)
    before = list(world.stores["hakusan"]._tables.challenges[key])
    whole = share(world, "hakusan", key)
    lose(world, "hakusan", key)
    done = await world.vault.repair()
    assert [(each.site, each.reason, each.done) for each in done] == [("hakusan", "lost", True)]
    assert share(world, "hakusan", key) == whole
    after = world.stores["hakusan"]._tables.challenges[key]
    assert set(before) < set(after)
    assert len(after) == len(before) + 1  # the audit of the repair
    assert (await world.vault.audit(["a"], fresh=True))["a"][SiteId("hakusan")] == "ok"


async def test_damaged_share_is_rebuilt_once_it_was_found() -> None:
    world = make_world()
    receipt = await store(world, "a", pattern(600))
    key = world.share_key(receipt.object_id, "hongo")
    whole = share(world, "hongo", key)
    world.stores["hongo"].rot(key)
    assert not await world.vault.repair()  # the site lists its share as if nothing were
    done = await world.vault.repair(["a"], verify=True)
    assert [(each.site, each.reason, each.done) for each in done] == [("hongo", "damaged", True)]
    assert share(world, "hongo", key) == whole
    assert (await world.vault.verify("a")).per_site[SiteId("hongo")] == "ok"


@pytest.mark.parametrize("class_", CLASSES)
async def test_wrong_share_is_replaced_after_a_check_with_the_owners_keys(class_: str) -> None:
    world = make_world()
    receipt = await store(world, "a", pattern(600), class_)
    key = world.share_key(receipt.object_id, "musashino")
    whole = share(world, "musashino", key)
    world.stores["musashino"].falsify(key, len(whole) - 40, b"lie")
    done = await world.vault.repair(["a"], verify=True)
    assert [(each.site, each.reason, each.done) for each in done] == [("musashino", "wrong", True)]
    assert share(world, "musashino", key) == whole
    assert world.stores["musashino"]._tables.shares[key].state is ShareState.COMMITTED


async def test_bad_share_stays_until_the_new_one_passed_its_audit() -> None:
    world = make_world()
    receipt = await store(world, "a", pattern(600))
    key = world.share_key(receipt.object_id, "musashino")
    world.stores["musashino"].falsify(key, 1000, b"lie")
    bad = share(world, "musashino", key)
    seen: list[bytes] = []
    world.links["musashino"].before = lambda _, header: (
        seen.append(share(world, "musashino", key)) if kinds_of(header) & {"repair_seal", "repair_adopt"} else None
    )
    await world.vault.repair(["a"], verify=True)
    assert seen == [bad, bad]
    assert share(world, "musashino", key) == dealt(world, "musashino", key) != bad


async def test_share_that_no_certificate_confirms_needs_no_rebuilding() -> None:
    world = make_world()
    world.links["hongo"].before = failing("accept", "prepare")
    receipt = await store(world, "a", pattern(600))
    world.links["hongo"].before = None
    key = world.share_key(receipt.object_id, "hongo")
    assert key in {row.key for row in rows(world, "hongo")}
    counted = count_keys(world)
    done = await world.vault.repair(["a"])
    assert {(each.site, each.reason, each.done) for each in done} == {("hongo", "not confirmed", True)}
    assert not any(keys.drawn for keys in counted.values())
    assert (await world.vault.stat("a")).label.durable_at == 5


async def test_key_managers_that_hand_out_32_bytes_at_most() -> None:
    """A pad is many keys then, and their IDs are longer than what they hide."""
    world = make_world(4, "2-of-4", max_key_size_bits=256, max_key_per_request=100)
    counted = count_keys(world)
    world.links["hongo"].down = True
    receipt = await store(world, "a", pattern(300_000), "qkd")
    world.links["hongo"].down = False
    other = await store(world, "b", pattern(60_000))
    key = world.share_key(other.object_id, "hongo")
    lose(world, "hongo", key)
    sizes: list[int] = []
    world.links["hongo"].before = lambda _, header: sizes.append(len(json.dumps(header)))
    planned: list[Need] = []

    def look(needs: Any) -> bool:
        planned.extend(needs)
        return True

    assert not problems(await world.vault.repair(planned=look))
    assert share(world, "hongo", key) == dealt(world, "hongo", key, 2)
    there = world.share_key(receipt.object_id, "hongo")
    assert share(world, "hongo", there) == dealt(world, "hongo", there, 2)
    assert max(sizes) < 3 << 20
    drawn = sum(8 * len(content) for keys in counted.values() for content in keys.contents.values())
    assert drawn <= sum(sum(need.bits.values()) for need in planned)


async def test_two_sites_are_rebuilt_one_after_the_other() -> None:
    world = make_world(7, "3-of-7")
    for away in ("hongo", "tsukuba"):
        world.links[away].down = True
    receipt = await store(world, "a", pattern(800))
    for away in ("hongo", "tsukuba"):
        world.links[away].down = False
    done = await world.vault.repair()
    assert not problems(done)
    for away in ("hongo", "tsukuba"):
        key = world.share_key(receipt.object_id, away)
        assert share(world, away, key) == dealt(world, away, key)
    assert (await world.vault.stat("a")).label.durable_at == 7


@pytest.mark.parametrize(("n", "scheme"), [(3, "2-of-3"), (5, "4-of-5"), (5, "2-of-5"), (8, "5-of-8")])
async def test_other_schemes(n: int, scheme: str) -> None:
    world = make_world(n, scheme)
    receipt = await store(world, "a", pattern(800))
    key = world.share_key(receipt.object_id, "otemachi")
    whole = share(world, "otemachi", key)
    lose(world, "otemachi", key)
    done = await world.vault.repair(["a"])
    assert not problems(done)
    assert share(world, "otemachi", key) == whole
    assert len(done[0].helpers) == world.context.default_scheme.k


async def test_without_a_spare_site_the_owner_reads_what_was_rebuilt() -> None:
    world = make_world(3, "2-of-3")
    receipt = await store(world, "a", pattern(800))
    key = world.share_key(receipt.object_id, "otemachi")
    lose(world, "otemachi", key)
    reads: list[str] = []
    world.on_all(before=lambda link, header: reads.append(link.site) if "read" in kinds_of(header) else None)
    await world.vault.repair(["a"])
    assert "otemachi" in reads


async def test_names_are_rebuilt_with_their_index() -> None:
    world = make_world()
    register = index_register(OWNER, "its")
    await store(world, "a", b"one")
    world.links["hongo"].down = True
    await store(world, "b", b"two")
    world.links["hongo"].down = False
    done = await world.vault.repair(["b"])
    assert not problems(done)
    value = committed(world, "hongo", register)
    for body in value.bodies:
        assert "hongo" in body.good
        key = world.share_key(register, "hongo", body.version)
        assert share(world, "hongo", key) == dealt(world, "hongo", key)
    assert (await world.vault.stat("b")).label.durable_at == 5
    fresh = world.another_vault()
    assert [each.name for each in await fresh.vault.ls()] == ["a", "b"]


@pytest.mark.parametrize("bad", ["damaged", "wrong"])
async def test_bad_share_of_the_index_is_found_by_the_owners_keys(bad: str) -> None:
    world = make_world()
    await store(world, "a", pattern(700))
    (row,) = rows(world, "hongo", index_register(OWNER, "its"))
    whole = share(world, "hongo", row.key)
    if bad == "wrong":
        world.stores["hongo"].falsify(row.key, len(whole) - 1, bytes([whole[-1] ^ 1]))
    else:
        world.stores["hongo"].rot(row.key)
    assert not await world.vault.repair()
    done = await world.vault.repair(verify=True)
    assert [(each.name, each.site, each.reason, each.problem) for each in done] == [
        ("(names of class its)", "hongo", bad, "")
    ]
    assert share(world, "hongo", row.key) == whole
    assert not await world.vault.repair(verify=True)


@pytest.mark.parametrize("kind", ["seal", "accept", "commit"])
async def test_repair_that_ends_in_the_middle_of_a_put_takes_no_names_away(kind: str) -> None:
    world = make_world()
    await store(world, "a", pattern(700))
    repairs: list[list[Repaired]] = []

    async def repair_once(link: DirectLink, header: dict[str, Any]) -> None:
        if kind in kinds_of(header) and not repairs:
            repairs.append([])
            repairs[0] += await world.vault.repair()

    world.links["hongo"].before = repair_once
    await store(world, "b", pattern(900))
    assert len(repairs) == 1
    assert {listing.name for listing in await world.vault.ls()} == {"a", "b"}
    assert (await fetch(world.vault, "b"))[0] == pattern(900)


async def test_index_goes_on_after_a_repair() -> None:
    world = make_world()
    await put_without(world, "hongo", b"one")
    await world.vault.repair()
    await store(world, "b", b"two")
    await store(world, "a", b"three")
    assert (await world.vault.stat("a")).label.durable_at == 5
    assert (await fetch(world.vault, "a"))[0] == b"three"
    await world.vault.rm("b")
    assert not await world.vault.repair()
    assert not staged_anywhere(world)


async def test_old_version_goes_once_the_new_one_is_rebuilt() -> None:
    world = make_world()
    first = await store(world, "a", b"old")
    await put_without(world, "hongo", b"new")
    assert {row.key.version for row in rows(world, "hongo", first.object_id)} == {first.version}
    await world.vault.repair()
    held = {row.key.version for row in rows(world, "hongo", first.object_id)}
    assert held == {committed(world, "hongo", first.object_id).version} != {first.version}


async def test_plan_says_what_it_takes_before_anything_is_drawn() -> None:
    world = make_world()
    counted = count_keys(world)
    await put_without(world, "hongo", pattern(20_000))
    seen: list[Need] = []

    def look(needs: Any) -> bool:
        seen.extend(needs)
        return False

    assert await world.vault.repair(["a"], planned=look) == []
    assert not any(keys.drawn for keys in counted.values())
    need = next(each for each in seen if each.name == "a")
    assert need.target == "hongo"
    assert need.helpers[0] == "koganei"
    assert len(need.bits) == 3 + 3
    assert sum(need.bits.values()) >= 6 * 8 * need.size_bytes
    done = await world.vault.repair(["a"])
    drawn = sum(8 * len(content) for keys in counted.values() for content in keys.contents.values())
    planned = sum(sum(each.bits.values()) for each in seen)
    assert not problems(done)
    assert sum(need.size_bytes for need in seen) * 6 * 8 < drawn <= planned


async def test_budget_stops_before_keys_are_drawn() -> None:
    world = make_world()
    await put_without(world, "hongo", pattern(20_000))
    counted = count_keys(world)
    done = await world.vault.repair(["a"], key_budget_bits=1000)
    assert all("budget" in each.problem and not each.done for each in done)
    assert not any(keys.drawn for keys in counted.values())
    enough = 6 * 8 * 40_000 * 2
    assert not problems(await world.vault.repair(["a"], key_budget_bits=enough))


async def test_rate_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shosoin.vault.repair_plan._ENVELOPE_BYTES", 20_000)
    world = make_world()
    receipt = await put_without(world, "hongo", pattern(40_000))
    runtime = world.context.runtime
    started_s = runtime.now_s()
    await world.vault.repair(["a"], rate_bytes_per_s=10_000)
    key = world.share_key(receipt.object_id, "hongo")
    assert runtime.now_s() - started_s >= (len(share(world, "hongo", key)) - 4096) / 10_000


async def test_progress_ends_at_what_was_planned() -> None:
    world = make_world()
    await put_without(world, "hongo", pattern(5000))
    told: list[int] = []
    sizes: list[int] = []

    def look(needs: Any) -> bool:
        sizes.extend(need.size_bytes for need in needs)
        return True

    await world.vault.repair(planned=look, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == sum(sizes)


def dry(counted: dict[str, CountedKeys], one: str, other: str) -> None:
    """Leave two nodes without keys of each other."""
    counted[one].dry.add(f"node-{other}")
    counted[other].dry.add(f"node-{one}")


async def test_pair_without_keys_does_not_help_together() -> None:
    world = make_world()
    counted = count_keys(world)
    await put_without(world, "hongo", pattern(500))
    dry(counted, "koganei", "otemachi")
    done = await world.vault.repair()
    assert not problems(done)
    for each in done:
        assert not {"koganei", "otemachi"} <= set(each.helpers)


@pytest.mark.parametrize("class_", ["its", "qkd"])
async def test_target_without_keys_stays_as_it_is_and_says_why(class_: str) -> None:
    world = make_world()
    counted = count_keys(world)
    await put_without(world, "hongo", pattern(500), class_)
    for other in FIVE:
        if other != "hongo":
            dry(counted, other, "hongo")
    done = await world.vault.repair()
    assert done
    assert all(each.problem == "too little key between koganei and hongo" for each in done)
    assert not any(keys.drawn for keys in counted.values())
    assert not rows(world, "hongo")


async def test_keys_that_pass_through_relays_are_not_used() -> None:
    world = make_world()
    counted = count_keys(world)
    await put_without(world, "hongo", pattern(500))
    for keys in counted.values():
        keys.relayed = {f"node-{name}": ["kawasaki"] for name in FIVE}
    done = await world.vault.repair()
    assert all("pass through kawasaki" in each.problem for each in done)
    assert not any(keys.drawn for keys in counted.values())


async def test_exposed_placement_is_not_repaired() -> None:
    """Who saw the owner's keys would hold k shares with the one that is rebuilt."""
    world = make_world()
    counted = count_keys(world)
    await put_without(world, "hongo", pattern(500))
    asked = world.keys.status

    async def relayed(slave: SaeId) -> KeyStatus:
        return replace(await asked(slave), extension={"shosoin_relays": ["otemachi"]})

    world.keys.status = relayed  # type: ignore[method-assign]
    done = await world.vault.repair(["a"])
    assert done
    assert all("together would know the shares" in each.problem for each in done)
    assert not any(keys.drawn for keys in counted.values())


async def test_site_that_is_still_away_is_left_for_later() -> None:
    world = make_world()
    await put_without(world, "hongo", pattern(500))
    world.links["hongo"].down = True
    done = await world.vault.repair()
    assert [each.problem for each in done] == ["hongo does not answer"] * len(done)
    assert (await world.vault.stat("a")).label.durable_at == 4


async def test_too_few_helpers_is_said() -> None:
    world = make_world()
    await put_without(world, "hongo", pattern(500))
    world.links["hakusan"].down = world.links["otemachi"].down = True
    done = await world.vault.repair(["a"])
    assert done
    assert all("2 sites with good shares answer, 3 are needed" in each.problem for each in done)


async def test_unknown_name_is_refused() -> None:
    world = make_world()
    with pytest.raises(NotFound):
        await world.vault.repair(["nothing"])


async def test_label_tells_how_a_rebuilt_share_travelled() -> None:
    world = make_world()
    await put_without(world, "hongo", pattern(500))
    assert "hongo" not in dict((await world.vault.stat("a")).label.transfers)
    await world.vault.repair()
    label = (await world.vault.stat("a")).label
    assert dict(label.transfers)[SiteId("hongo")].startswith("rebuilt by koganei, ")
    assert any("hongo" in reason and "simulated" in reason for reason in label.reasons)
    assert not any("not recorded how" in reason for reason in label.reasons)
    assert json.loads(dict(committed(world, "hongo", label_object(world)).bodies[0].repaired)[SiteId("hongo")])["keys"]


def label_object(world: World) -> str:
    return next(row.key.object_id for row in rows(world, "hongo") if row.key.object_id != index_register(OWNER, "its"))


async def test_object_replaced_meanwhile_is_left_alone() -> None:
    world = make_world()
    receipt = await put_without(world, "hongo", pattern(500))
    other = world.another_vault()
    replaced = False

    async def replace_it(_: Any, header: dict[str, Any]) -> None:
        nonlocal replaced
        if "repair_adopt" in kinds_of(header) and not replaced:
            replaced = True
            await store(other, "a", b"newer")

    world.links["hongo"].before = replace_it
    done = await world.vault.repair(["a"])
    assert replaced
    assert any("new version" in each.problem for each in done if each.object_id == receipt.object_id)
    world.links["hongo"].before = None
    assert (await fetch(world.vault, "a"))[0] == b"newer"
    assert not [each for each in await world.vault.repair() if each.problem]
    assert all(holds(world, name, world.share_key(receipt.object_id, name)) for name in FIVE)


async def test_an_object_that_cannot_be_read_is_an_alarm_and_stops_no_other() -> None:
    world = make_world()
    kept, spoilt = await store(world, "kept", pattern(900)), await store(world, "spoilt", pattern(900))
    for site in FIVE[1:4]:  # three of five give wrong bytes: nothing can be read from the rest
        tables = world.stores[site]._tables
        locator = tables.shares[world.share_key(spoilt.object_id, site)].locator
        tables.contents[locator] = bytearray(reversed(tables.contents[locator]))
    lose(world, FIVE[4], world.share_key(kept.object_id, FIVE[4]))
    done = await world.vault.repair(verify=True)
    assert {(each.name, each.site, each.problem) for each in done if each.name == "kept"} == {("kept", FIVE[4], "")}
    assert [event.fields["object"] for event in world.sink.events if event.name == "vault.repair_unreadable"] == [
        spoilt.object_id
    ]
    with pytest.raises(NotRecoverable):
        await world.vault.repair(["spoilt"], verify=True)


async def test_a_repair_that_fails_does_not_count_the_site_that_lacks_its_share() -> None:
    world = make_world()
    receipt = await store(world, "a", pattern(900))
    lose(world, FIVE[4], world.share_key(receipt.object_id, FIVE[4]))
    world.links[FIVE[4]].before = failing("repair_open")
    (left,) = await world.vault.repair(["a"])
    assert left.problem
    assert left.durable_at == 4
