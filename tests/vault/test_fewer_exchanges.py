"""What a put and a get of one client after another leave out, and that nothing is lost by it."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from shosoin.base import ObjectId, ShosoinError
from shosoin.vault.catalog import PROVEN, Conflict
from shosoin.vault.index import index_register
from shosoin.vault.ports import ShareState
from tests.vault.support import OWNER, SITES, DirectLink, World, failing, fetch, kinds_of, make_world, store

FIVE = SITES[:5]


def counted(world: World) -> Counter[str]:
    """Count the operations that reach sites from now on."""
    seen: Counter[str] = Counter()

    def note(_: DirectLink, header: dict[str, Any]) -> None:
        seen.update(op["op"] for op in header.get("ops", ()))

    world.on_all(before=note)
    return seen


def staged(world: World) -> list[str]:
    """Sites that hold bytes which nothing counts on."""
    return [name for name, site in world.stores.items() if site.staged or site.shares(ShareState.STAGED)]


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_one_client_prepares_once_for_many_puts() -> None:
    world = make_world()
    seen = counted(world)
    for number in range(60):
        await store(world, f"name {number}", b"content", "pqc")
    # the first value of the index, and whenever the proposer's name has become too long
    assert seen["prepare"] == 2 * len(FIVE)
    world.on_all()
    reader = world.another_vault().vault
    assert {listing.name for listing in await reader.ls()} == {f"name {number}" for number in range(60)}


async def test_versions_of_one_object_go_on_without_promises() -> None:
    world = make_world()
    await store(world, "name", b"first", "pqc")
    seen = counted(world)
    for number in range(5):
        await store(world, "name", b"version %d" % number, "pqc")
    assert not seen["prepare"]
    assert (await fetch(world.another_vault().vault, "name"))[0] == b"version 4"


async def test_another_client_in_between_costs_a_phase_and_loses_nothing() -> None:
    world = make_world()
    other = world.another_vault()
    for number in range(4):
        await store((world, other)[number % 2], f"name {number}", b"content", "pqc")
        await store((world, other)[number % 2], "shared", b"version %d" % number, "pqc")
    for client in (world, other, world.another_vault()):
        assert (await fetch(client.vault, "shared"))[0] == b"version 3"
        assert len(await client.vault.ls()) == 5


@pytest.mark.parametrize("kind", ["accept", "commit"])
async def test_a_site_that_misses_one_value_takes_the_next(kind: str) -> None:
    """It is shown the value before, with its certificate, because it does not hold it."""
    world = make_world()
    await store(world, "name", b"first", "pqc")
    register = ObjectId((await world.vault.stat("name")).listing.object_id)
    world.links[FIVE[3]].before = failing(kind)
    await store(world, "name", b"second", "pqc")
    world.on_all()
    await store(world, "name", b"third", "pqc")
    row = world.stores[FIVE[3]]._tables.registers[OWNER, register]
    assert row.committed_ballot == world.stores[FIVE[0]]._tables.registers[OWNER, register].committed_ballot


async def test_who_knows_the_index_asks_no_more_sites_than_a_read_needs() -> None:
    world = make_world()
    await store(world, "name", b"content", "pqc")
    await world.vault.ls()
    seen = counted(world)
    assert [listing.name for listing in await world.vault.ls()] == ["name"]
    assert seen["register"] == 3 * 3, "three classes, a read quorum of three"
    seen.clear()
    await world.another_vault().vault.ls()
    assert all(state.freshness == PROVEN for state in world.vault._names.states.values())


async def test_what_another_client_wrote_is_seen_by_who_asks_few_sites() -> None:
    world = make_world()
    await world.vault.ls()
    other = world.another_vault()
    for number in range(3):
        other.links[FIVE[number]].before = failing("commit")  # one of those who are asked first does not know
        await store(other, f"name {number}", b"content", "pqc")
        other.on_all()
        assert len(await world.vault.ls()) == number + 1


# --------------------------------------------------------------------------------------- parts written ahead


async def test_the_index_is_written_while_objects_are_decided() -> None:
    world = make_world()
    await store(world, "first", b"content", "pqc")
    index, order = index_register(OWNER, "pqc"), list[str]()

    def note(_: DirectLink, header: dict[str, Any]) -> None:
        for op in header.get("ops", ()):
            if op["op"] == "commit" or (op["op"] == "seal" and op["object"] == index):
                order.append("names" if index in {op.get("object"), op.get("register")} else "object")

    world.on_all(before=note)
    await store(world, "second", b"content", "pqc")
    assert order.index("names") < len(order) - 1 - order[::-1].index("object")


async def test_no_keys_are_spent_on_names_of_objects_that_may_fail() -> None:
    world = make_world()
    await store(world, "first", b"content", "its")
    index = index_register(OWNER, "its")
    written: list[str] = []

    def note(_: DirectLink, header: dict[str, Any]) -> None:
        written.extend(op["op"] for op in header.get("ops", ()) if op.get("object") == index and op["op"] == "seal")

    world.on_all(before=note)
    for name in FIVE[2:4]:
        world.links[name].before = failing("accept")
    with pytest.raises(ShosoinError):
        await store(world, "second", b"content", "its")
    assert not written


@pytest.mark.parametrize("kind", ["accept", "commit"])
async def test_an_object_that_fails_leaves_nothing_of_its_name(kind: str) -> None:
    world = make_world()
    await store(world, "first", b"content", "pqc")
    for name in FIVE[2:4]:
        world.links[name].before = failing(kind)
    with pytest.raises(ShosoinError):
        await store(world, "second", b"content", "pqc")
    world.on_all()
    index = index_register(OWNER, "pqc")
    rows = [row for site in world.stores.values() for row in site.shares() if row.key.object_id == index]
    assert {row.state for row in rows} == {ShareState.COMMITTED}


async def test_a_conflict_withdraws_what_was_written_ahead() -> None:
    world = make_world()
    await store(world, "first", b"content", "pqc")
    other, raced = world.another_vault(), [False]

    async def race(_: DirectLink, header: dict[str, Any]) -> None:
        if "commit" in kinds_of(header) and not raced[0]:
            raced[0] = True
            await store(other, "name", b"the other writer", "pqc")

    world.on_all(before=race)
    with pytest.raises(Conflict):
        await store(world, "name", b"ours", "pqc")
    world.on_all()
    assert not staged(world)
    assert (await fetch(world.vault, "name"))[0] == b"the other writer"


async def test_other_names_that_came_meanwhile_are_kept_beside_what_was_written_ahead() -> None:
    world = make_world()
    await store(world, "first", b"content", "pqc")
    other, raced = world.another_vault(), [False]

    async def race(_: DirectLink, header: dict[str, Any]) -> None:
        if "commit" in kinds_of(header) and not raced[0]:
            raced[0] = True
            await store(other, "other", b"other", "pqc")

    world.on_all(before=race)
    await store(world, "ours", b"ours", "pqc")
    world.on_all()
    assert not staged(world)
    assert {listing.name for listing in await world.another_vault().vault.ls()} == {"first", "other", "ours"}


async def test_puts_of_one_vault_side_by_side_keep_every_name() -> None:
    world = make_world()
    await asyncio.gather(*(store(world, f"name {number}", b"content", "pqc") for number in range(4)))
    assert not staged(world)
    assert len(await world.another_vault().vault.ls()) == 4


@pytest.mark.parametrize("kind", ["write", "seal", "accept", "commit"])
async def test_a_put_that_is_cancelled_leaves_no_names_staged(kind: str) -> None:
    world = make_world()
    await store(world, "first", b"content", "pqc")
    there = asyncio.Event()
    index = index_register(OWNER, "pqc")

    async def stop(_: DirectLink, header: dict[str, Any]) -> None:
        if any(op["op"] == kind and op.get("object") != index for op in header.get("ops", ())):
            there.set()
            await turns(60)  # of the loop, as the runtime of these tests counts time: a slow machine changes nothing

    world.on_all(before=stop)
    task = asyncio.create_task(store(world, "second", b"content", "pqc"))
    await there.wait()
    await turns(30)
    task.cancel()
    await asyncio.wait([task])
    world.on_all()
    await turns(2000)  # what is on its way arrives
    rows = [row for site in world.stores.values() for row in site.shares() if row.key.object_id == index]
    assert ShareState.STAGED not in {row.state for row in rows}
