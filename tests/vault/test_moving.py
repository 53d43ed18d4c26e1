"""Replacing a site: members and placements change, nothing acknowledged is lost, old shares go last."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest

from shosoin.base import SiteId, Unavailable
from shosoin.vault import Vault
from shosoin.vault.catalog import PROVEN, Conflict
from tests.vault.support import SITES, World, failing, fetch, make_world, store

FIVE, OLD, NEW = SITES[:5], SITES[2], SITES[5]
CONTENT = {"a": b"first" * 9, "b": b"second" * 300, "c": b""}


def configured(world: World, *retired: str) -> World:
    """A client with these sites retired."""
    client = world.another_vault()
    sites = tuple(replace(site, retired=site.name in retired) for site in client.context.sites)
    client.context.sites = sites
    return replace(client, vault=Vault(client.context))


def down(client: World, *sites: str) -> None:
    for name, link in client.links.items():
        link.down = name in sites


async def filled(class_: str = "pqc") -> tuple[World, World]:
    """A world of six sites whose sixth is not in use yet, and its client."""
    world = make_world(6, "3-of-5")
    before = configured(world, NEW)
    for name, content in CONTENT.items():
        await store(before, name, content, class_)
    return world, before


async def everything(client: World) -> dict[str, bytes]:
    return {entry.name: (await fetch(client.vault, entry.name))[0] for entry in await client.vault.ls()}


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
async def test_all_objects_leave_a_retired_site(class_: str) -> None:
    world, _ = await filled(class_)
    after = configured(world, OLD)
    moved = await after.vault.move_retired()
    assert {one.name for one in moved} == set(CONTENT)
    assert all(one.error is None and one.missing == (NEW,) and OLD not in one.good for one in moved)
    down(after, OLD, FIVE[4])
    assert await everything(after) == CONTENT
    for name in CONTENT:
        stat = await after.vault.stat(name)
        assert stat.placement == [*FIVE[:2], NEW, *FIVE[3:]]
        assert stat.label.freshness == PROVEN
        assert stat.label.durable_at == 4
    again = await after.vault.move_retired()
    assert [one.erased_at for one in again] == [()] * 3, "the old share stays until no site is missing"
    await store(after, "d", b"new", class_)
    assert (await fetch(after.vault, "d"))[1].label.durable_at >= 4


async def test_a_retired_site_erases_what_it_holds_when_nothing_is_missing() -> None:
    world, _ = await filled()
    after = configured(world, OLD)
    await after.vault.move_retired()
    for name, content in CONTENT.items():
        await store(after, name, content + b"!", "pqc")  # written anew at all five
    moved = await after.vault.move_retired()
    assert [one.erased_at for one in moved] == [(OLD,)] * 3
    assert not [row for row in world.stores[OLD].shares() if str(row.key.object_id) in {m.object_id for m in moved}]
    assert await everything(after) == {name: content + b"!" for name, content in CONTENT.items()}


async def test_a_client_that_does_not_know_of_the_change_reads_and_writes_on() -> None:
    world, before = await filled()
    after = configured(world, OLD)
    await after.vault.move_retired()
    assert await everything(before) == CONTENT
    with contextlib.suppress(Conflict):
        await store(before, "a", b"by the old configuration", "pqc")
    assert (await fetch(after.vault, "a"))[0] in (b"by the old configuration", CONTENT["a"])
    assert (await everything(after)).keys() == CONTENT.keys()


async def test_a_writer_and_a_move_at_once_lose_nothing() -> None:
    world, before = await filled()
    after = configured(world, OLD)
    moving = asyncio.create_task(after.vault.move_retired())
    written: Any = None
    with contextlib.suppress(Conflict, Unavailable):
        written = await store(before, "a", b"meanwhile", "pqc")
    with contextlib.suppress(Conflict, Unavailable):
        await moving
    found = await everything(configured(world, OLD))
    assert found["a"] == (b"meanwhile" if written else CONTENT["a"]) or found["a"] == b"meanwhile"
    assert {name: found[name] for name in "bc"} == {name: CONTENT[name] for name in "bc"}


async def test_an_object_that_needs_the_retired_site_stays() -> None:
    world = make_world(6, "3-of-5")
    before = configured(world, NEW)
    before.links[FIVE[4]].down = True
    await store(before, "short", b"at four sites", "pqc")
    after = configured(world, OLD)
    (moved,) = await after.vault.move_retired()
    assert isinstance(moved.error, Unavailable)
    assert (await fetch(after.vault, "short"))[0] == b"at four sites"
    assert OLD in (await after.vault.stat("short")).placement


@pytest.mark.parametrize("step", ["prepare", "accept", "commit", "write", "seal"])
async def test_a_move_that_stops_anywhere_can_be_done_again(step: str) -> None:
    world, _ = await filled()
    cut = configured(world, OLD)
    cut.on_all(before=failing(step, times=9))
    with contextlib.suppress(Unavailable, Conflict):
        await cut.vault.move_retired()
    after = configured(world, OLD)
    assert await everything(after) == CONTENT
    moved = await after.vault.move_retired()
    assert all(one.error is None for one in moved)
    down(after, OLD)
    assert await everything(after) == CONTENT


async def test_a_dead_site_is_replaced_too() -> None:
    """It is in nobody's configuration any more, and answers nobody."""
    world, _ = await filled()
    world.links[OLD].down = True
    after = configured(world, OLD)
    after.context.sites = tuple(site for site in after.context.sites if site.name != OLD)
    moved = await after.vault.move_retired()
    assert all(one.error is None and one.missing == (SiteId(NEW),) for one in moved)
    assert await everything(after) == CONTENT
    states = await after.vault.audit()
    assert all(set(found.values()) <= {"ok", "missing"} for found in states.values())
    report = await after.vault.verify("b")
    assert report.per_site[SiteId(NEW)] == "missing"


async def test_ties_say_when_the_old_site_may_go() -> None:
    world, _ = await filled("qkd")
    after = configured(world, OLD)
    before_move = await after.vault.ties()
    (leaving,) = before_move.sites
    assert (leaving.site, leaving.needed_by, leaving.listed, leaving.may_go) == (OLD, 4, 4, False)
    after.links[OLD].down = True  # it hears of nothing
    assert all(one.error is None and one.changed for one in await after.vault.move_retired())
    (leaving,) = (await after.vault.ties()).sites
    assert (leaving.needed_by, leaving.unrepaired, leaving.listed, leaving.may_go) == (0, 3, None, False)
    for name, content in CONTENT.items():
        await store(after, name, content, "qkd")
    after.links[OLD].down = False
    (leaving,) = (await after.vault.ties()).sites
    assert (leaving.needed_by, leaving.unrepaired, leaving.may_go) == (0, 0, False)
    assert leaving.listed == 4
    moved = await after.vault.move_retired()
    assert [(one.changed, one.erased_at) for one in moved] == [(False, (OLD,))] * 3
    (leaving,) = (await after.vault.ties()).sites
    assert leaving.may_go, leaving
    assert not world.stores[OLD].shares()


async def test_an_old_site_may_not_go_before_a_member_that_was_away_has_heard_of_it() -> None:
    world, _ = await filled()
    mover = configured(world, OLD)
    down(mover, FIVE[4])
    await mover.vault.move_retired()
    down(mover)
    mover.links[FIVE[4]].before = failing("register")  # it is back for repairs, and hears of nothing else yet
    await mover.vault.repair()
    await mover.vault.move_retired()
    (left,) = (await mover.vault.ties()).sites
    assert (left.needed_by, left.unrepaired, left.listed) == (0, 0, 0)
    assert (left.may_go, left.behind) == (False, (SiteId(FIVE[4]),))
    mover.links[FIVE[4]].before = None
    (left,) = (await mover.vault.ties()).sites
    assert (left.may_go, left.behind) == (True, ())
    newest = {row.committed_ballot for row in registers_at(world, FIVE[0])}
    assert newest == {row.committed_ballot for row in registers_at(world, FIVE[4])}


def registers_at(world: World, site: str) -> list[Any]:
    return list(world.stores[site]._tables.registers.values())
