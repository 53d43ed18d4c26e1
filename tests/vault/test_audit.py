"""Audit: the sites prove that they hold shares which fit together, and nobody reads a share."""

from __future__ import annotations

from typing import Any

import pytest

from shosoin.base import SiteId
from shosoin.vault.audit_round import AuditOptions
from shosoin.vault.client import NotFound
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from tests.vault.support import SITES, DirectLink, World, kinds_of, make_world, pattern, store

CLASSES = ["its", "qkd", "pqc"]
ALL_OK = dict.fromkeys(SITES[:5], "ok")


async def stored(class_: str, count: int = 3) -> tuple[World, list[str]]:
    """A world with some objects."""
    world = make_world()
    names = [f"name-{number}" for number in range(count)]
    for number, name in enumerate(names):
        await store(world, name, pattern(3000 + 5000 * number, number), class_)
    return world, names


async def object_of(world: World, name: str) -> str:
    return (await world.vault.stat(name)).listing.object_id


@pytest.mark.parametrize("class_", CLASSES)
async def test_good_shares_are_ok_and_no_share_is_read(class_: str) -> None:
    world, names = await stored(class_)
    await world.vault.ls()
    asked: set[str] = set()

    def listen(_: DirectLink, header: dict[str, Any]) -> None:
        asked.update(kinds_of(header))

    world.on_all(before=listen)
    assert await world.vault.audit() == dict.fromkeys(names, ALL_OK)
    assert asked == {"register", "digest"}


@pytest.mark.parametrize("class_", CLASSES)
@pytest.mark.parametrize("offset", [0, 20_000, -16])
async def test_one_changed_element_anywhere_in_a_share_is_found_and_the_site_named(class_: str, offset: int) -> None:
    world = make_world()
    await store(world, "name", pattern(30_000), class_)
    await store(world, "other", pattern(10), class_)
    key = world.share_key(await object_of(world, "name"), SITES[3])
    size = next(row.size_bytes for row in world.stores[SITES[3]].shares() if row.key == key)
    world.stores[SITES[3]].falsify(key, offset % size, b"\x5a" * 16)
    found = await world.vault.audit(["name", "other"])
    assert found == {"name": ALL_OK | {SITES[3]: "wrong"}, "other": ALL_OK}
    alarms = [event for event in world.sink.events if event.name == "vault.audit_failed"]
    assert [(alarm.fields["site"], alarm.fields["kind"]) for alarm in alarms] == [(SITES[3], "audit_wrong")]


async def test_two_wrong_shares_of_five_are_noticed_but_nobody_is_framed() -> None:
    """k + 2e answers name e liars: with 3-of-5 that is one. Two may try to make an honest site look bad."""
    world, _ = await stored("qkd", 1)
    object_id = await object_of(world, "name-0")
    for site in SITES[1:3]:
        world.stores[site].falsify(world.share_key(object_id, site), 64, site.encode().ljust(16)[:16])
    found = await world.vault.audit()
    assert found == {"name-0": dict.fromkeys(SITES[:5], "doubtful")}


async def test_lost_damaged_and_unreachable_shares_are_told_apart() -> None:
    world, _ = await stored("its", 1)
    object_id = await object_of(world, "name-0")
    world.stores[SITES[1]].rot(world.share_key(object_id, SITES[1]))
    world.links[SITES[2]].down = True
    found = await world.vault.audit()
    assert found["name-0"] == {
        SITES[0]: "unchecked",  # three answers are on some polynomial, whatever they are
        SITES[1]: "damaged",
        SITES[2]: "unreachable",
        SITES[3]: "unchecked",
        SITES[4]: "unchecked",
    }
    world.links[SITES[2]].down = False
    found = await world.vault.audit()
    assert found["name-0"] == ALL_OK | {SITES[1]: "damaged"}


async def test_a_site_that_was_away_at_the_put_is_missing() -> None:
    world = make_world()
    world.links[SITES[4]].down = True
    await store(world, "name", b"content", "qkd")
    world.links[SITES[4]].down = False
    assert (await world.vault.audit())["name"] == ALL_OK | {SITES[4]: "missing"}


async def test_a_share_answers_so_many_challenges_and_no_more() -> None:
    """More answers than masks would be equations about the data."""
    world, _ = await stored("qkd", 1)
    for left in reversed(range(ANSWERS_PER_EPOCH)):
        round_ = await world.vault.audit_round(index=False, options=AuditOptions(fresh=True))
        assert (round_.new, round_.bad, round_.short) == (1, False, False)
        assert round_.spent == (left == 0)
    key = world.share_key(await object_of(world, "name-0"), SITES[1])
    answered = await world.stores[SITES[1]].transact(lambda tx: tx.challenges(key))
    assert len(set(answered)) == ANSWERS_PER_EPOCH
    round_ = await world.vault.audit_round(index=False, options=AuditOptions(fresh=True))
    assert (round_.new, round_.repeated, round_.spent, round_.bad) == (0, 1, 1, False)
    channel = world.context.channels("qkd")[SiteId(SITES[1])]
    op = {"op": "digest", "object": key.object_id, "version": key.version, "epoch": 0, "r": "7" * 32}
    (result,) = (await channel.exchange([op], answer_bytes=16)).results
    assert result["error"]["code"] == "vault.audits_used"


async def test_an_audit_of_a_name_that_does_not_exist_is_refused() -> None:
    world, _ = await stored("qkd", 1)
    with pytest.raises(NotFound):
        await world.vault.audit(["name-0", "no such name"])


@pytest.mark.any_kernels
async def test_many_objects_travel_in_few_exchanges() -> None:
    world = make_world()
    contents = {f"name-{number:03}": pattern(20, number) for number in range(200)}
    await world.vault.put_many(contents, class_="pqc")
    await world.vault.ls()
    for link in world.links.values():
        link.seen.clear()
    found = await world.vault.audit()
    assert found == dict.fromkeys(sorted(contents), ALL_OK)
    assert max(len(link.seen) for link in world.links.values()) <= 12
