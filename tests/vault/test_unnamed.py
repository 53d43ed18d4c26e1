"""Objects whose writer died before the index: found, removed, and never taken from a writer that was only slow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shosoin.base import Unavailable
from shosoin.vault.catalog import Conflict
from shosoin.vault.index import index_register
from tests.vault.support import OWNER, SITES, DirectLink, World, fetch, make_world, pattern, reached, store

CLASSES = ["its", "qkd", "pqc"]


def index_ops(class_: str, *kinds: str) -> Any:
    """Whether a request works on the index of a class."""
    register = index_register(OWNER, class_)

    def matches(header: dict[str, Any]) -> bool:
        return any(
            register in {op.get("object"), op.get("register")} and op["op"] in kinds for op in header.get("ops", ())
        )

    return matches


async def leave_unnamed(world: World, class_: str) -> str:
    """Store an object whose writer dies when it comes to the index; return its ID."""
    writer = world.another_vault()
    matches = index_ops(class_, "write", "take", "seal", "prepare")

    def die(_: DirectLink, header: dict[str, Any]) -> None:
        if matches(header):
            raise Unavailable("dead")

    before = {row.key.object_id for row in world.stores[SITES[0]].shares()}
    writer.on_all(before=die)
    with pytest.raises(Unavailable):
        await store(writer, "lost", pattern(500), class_)
    (object_id,) = {row.key.object_id for row in world.stores[SITES[0]].shares()} - before
    return object_id


@pytest.mark.parametrize("class_", CLASSES)
async def test_what_a_dead_writer_left_is_removed_and_nothing_else(class_: str) -> None:
    world = make_world()
    for kept in CLASSES:
        await store(world, f"kept-{kept}", pattern(100), kept)
    object_id = await leave_unnamed(world, class_)
    assert await world.vault.rm_unnamed() == []  # it is not a day old
    assert await world.vault.rm_unnamed(older_than_s=0.0) == [object_id]
    left = {row.key.object_id for name in SITES[:5] for row in world.stores[name].shares()}
    assert object_id not in left
    assert [listing.name for listing in await world.vault.ls()] == sorted(f"kept-{kept}" for kept in CLASSES)
    for kept in CLASSES:
        assert (await fetch(world.vault, f"kept-{kept}"))[0] == pattern(100)
    assert await world.vault.rm_unnamed(older_than_s=0.0) == []


@pytest.mark.parametrize("class_", CLASSES)
async def test_a_slow_writer_is_told_and_never_acknowledges_what_was_removed(class_: str) -> None:
    """The writer rests between the object's register and the index; meanwhile somebody cleans up."""
    world = make_world()
    slow = world.another_vault()
    at_index, go_on = asyncio.Event(), asyncio.Event()
    matches = index_ops(class_, "prepare")

    async def rest(_: DirectLink, header: dict[str, Any]) -> None:
        if matches(header):
            at_index.set()
            await go_on.wait()

    slow.on_all(before=rest)
    putting = asyncio.create_task(store(slow, "slow", pattern(500), class_))
    await reached(at_index, putting)
    removed = await world.vault.rm_unnamed(older_than_s=0.0)
    assert len(removed) == 1
    go_on.set()
    with pytest.raises(Conflict):
        await putting
    assert [listing.name for listing in await world.vault.ls()] == []
    slow.on_all()
    await store(slow, "slow", pattern(500), class_)
    assert (await fetch(world.vault, "slow"))[0] == pattern(500)


@pytest.mark.parametrize("class_", CLASSES)
async def test_a_writer_that_names_its_object_first_keeps_it(class_: str) -> None:
    """The other order: the cleaner has looked, and rests before it condemns."""
    world = make_world()
    slow = world.another_vault()
    writer_at_index, writer_goes_on = asyncio.Event(), asyncio.Event()
    cleaner_at_index, cleaner_goes_on = asyncio.Event(), asyncio.Event()
    matches = index_ops(class_, "prepare")

    async def writer_rests(_: DirectLink, header: dict[str, Any]) -> None:
        if matches(header):
            writer_at_index.set()
            await writer_goes_on.wait()

    async def cleaner_rests(_: DirectLink, header: dict[str, Any]) -> None:
        if matches(header):
            cleaner_at_index.set()
            await cleaner_goes_on.wait()

    slow.on_all(before=writer_rests)
    putting = asyncio.create_task(store(slow, "slow", pattern(500), class_))
    await reached(writer_at_index, putting)
    world.on_all(before=cleaner_rests)
    cleaning = asyncio.create_task(world.vault.rm_unnamed(older_than_s=0.0))
    await reached(cleaner_at_index, cleaning)
    writer_goes_on.set()
    await putting
    cleaner_goes_on.set()
    assert await cleaning == []
    world.on_all()
    assert (await fetch(world.vault, "slow"))[0] == pattern(500)
