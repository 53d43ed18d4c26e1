"""A put that fails anywhere: acknowledged means readable from any k good sites; otherwise one version stands, whole."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import combinations, product
from typing import Any

import pytest

from shosoin.base import ShosoinError, Unavailable
from shosoin.vault.ports import ShareState
from tests.vault.support import (
    SITES,
    DirectLink,
    Hook,
    World,
    failing,
    fetch,
    kinds_of,
    make_world,
    pattern,
    reached,
    store,
)

OLD, NEW = b"old version " * 9, b"NEW VERSION " * 9


def nth(number: int, *, dead_after: bool = False) -> Hook:
    """Lose the n-th exchange of a link (and, with ``dead_after``, all later ones)."""
    count = [0]

    def hook(link: DirectLink, _: dict[str, Any]) -> None:
        count[0] += 1
        if count[0] == number or (dead_after and count[0] > number):
            raise Unavailable(f"{link.site}: lost on the way")

    return hook


async def put_under(world: World, hooks: Mapping[str, tuple[Hook | None, Hook | None]], class_: str) -> Any:
    """Put the new version while hooks are on; returns the receipt or ``None``."""
    for name, (before, after) in hooks.items():
        world.links[name].before, world.links[name].after = before, after
    try:
        return await store(world, "name", NEW, class_)
    except ShosoinError:
        return None
    finally:
        world.on_all()


async def check(world: World, receipt: Any) -> None:
    """What must hold after any failure."""
    reader = world.another_vault()
    found, got = await fetch(reader.vault, "name")
    if receipt is None:
        assert found in (OLD, NEW)
        return
    assert found == NEW
    assert receipt.durable_at >= 4
    assert got.alarms == []
    # a name is found while its index is: a site may have died between the object and the index
    bodies = [body for state in reader.vault._names.states.values() if state.value for body in state.value.bodies]
    assert all(len(body.good) >= 4 for body in bodies)
    good = set(receipt.acknowledged).intersection(*(body.good for body in bodies))
    for away in list(combinations(SITES[:5], 2))[::3]:
        if len(good - set(away)) >= 3:
            reader = world.another_vault()
            for name in away:
                reader.links[name].down = True
            assert (await fetch(reader.vault, "name"))[0] == NEW


async def prepared(class_: str, *, by_us: bool = False) -> World:
    """Return a world with an object; whoever put it goes on without phase one."""
    world = make_world()
    await store(world if by_us else world.another_vault(), "name", OLD, class_)
    return world


@pytest.mark.parametrize("class_", ["its", "pqc"])
@pytest.mark.parametrize("number", [1, 3, 4, 5, 6, 7, 8, 9, 10])
async def test_one_site_misses_one_exchange(class_: str, number: int) -> None:
    for lose_answer, by_us in product((False, True), repeat=2):
        world = await prepared(class_, by_us=by_us)
        hook = nth(number)
        receipt = await put_under(world, {SITES[1]: (None, hook) if lose_answer else (hook, None)}, class_)
        assert receipt is not None, "one lost message must not stop a put"
        await check(world, receipt)


@pytest.mark.parametrize("class_", ["its", "pqc"])
@pytest.mark.parametrize("number", [1, 4, 5, 6, 7, 8, 9, 10])
async def test_sites_die_in_the_middle(class_: str, number: int) -> None:
    for dead, by_us in product((1, 2), (False, True)):
        world = await prepared(class_, by_us=by_us)
        hooks = {name: (nth(number + index, dead_after=True), None) for index, name in enumerate(SITES[1 : 1 + dead])}
        receipt = await put_under(world, hooks, class_)
        if dead == 1:
            assert receipt is not None, "four of five sites are enough"
        await check(world, receipt)


@pytest.mark.parametrize("by_us", [False, True])
@pytest.mark.parametrize("kind", ["write", "seal", "prepare", "accept", "commit"])
async def test_two_sites_miss_one_step_of_every_kind(kind: str, by_us: bool) -> None:
    """n=5, q=4: with two sites refusing a step the put must not be acknowledged, and the old version stands."""
    if by_us and kind == "prepare":
        return  # it does without
    world = await prepared("pqc", by_us=by_us)
    object_id = (await world.vault.stat("name")).listing.object_id
    hook = failing(kind)
    receipt = await put_under(world, {SITES[3]: (hook, None), SITES[4]: (hook, None)}, "pqc")
    assert receipt is None
    found, _ = await fetch(world.another_vault().vault, "name")
    assert found == (OLD if kind != "commit" else found)
    rows = {name: site.shares() for name, site in world.stores.items()}
    old_rows = [name for name, held in rows.items() if any(row.key.object_id == object_id for row in held)]
    assert len(old_rows) == 5


async def test_a_full_disk_loses_a_site_and_not_the_put() -> None:
    world = await prepared("pqc")
    world.stores[SITES[2]].full = True
    receipt = await put_under(world, {}, "pqc")
    assert receipt.missing == [SITES[2]]
    await check(world, receipt)


async def test_full_disks_everywhere_leave_the_old_version() -> None:
    world = await prepared("pqc")
    for site in world.stores.values():
        site.full = True
    assert await put_under(world, {}, "pqc") is None
    for site in world.stores.values():
        site.full = False
        assert site.staged == 0
    await check(world, None)
    await check(world, await put_under(world, {}, "pqc"))


async def test_a_site_that_crashes_between_stage_and_accept_has_its_share_or_is_left_out() -> None:
    for kind in ("seal", "accept", "commit"):
        world = await prepared("pqc")

        def crash(link: DirectLink, header: dict[str, Any], kind: str = kind, world: World = world) -> None:
            if kind in kinds_of(header):
                world.restart(str(link.site))

        receipt = await put_under(world, {SITES[1]: (None, crash)}, "pqc")
        await check(world, receipt)
        for name in receipt.acknowledged:
            rows = [row for row in world.stores[name].shares() if row.key.version == receipt.version]
            assert len(rows) == 1


async def test_an_acknowledgement_names_at_least_k_plus_f_sites_with_the_certificate() -> None:
    world = await prepared("pqc")
    world.links[SITES[4]].down = True
    receipt = await put_under(world, {}, "pqc")
    committed = [
        name
        for name, site in world.stores.items()
        if any(row.key.version == receipt.version and row.state is ShareState.COMMITTED for row in site.shares())
    ]
    assert len(committed) >= 4
    assert set(committed) <= set(receipt.acknowledged)
    assert receipt.missing == [SITES[4]]


# ------------------------------------------------------------------------------------------------- cancellation


@pytest.mark.parametrize("class_", ["its", "pqc"])
@pytest.mark.parametrize("kind", ["write", "seal", "digest", "prepare"])
async def test_a_cancelled_put_leaves_no_staged_share(class_: str, kind: str) -> None:
    if kind == "digest" and class_ != "its":
        return
    world = await prepared(class_)
    before = {name: {row.key for row in site.shares()} for name, site in world.stores.items()}
    there = asyncio.Event()

    async def stop(link: DirectLink, header: dict[str, Any]) -> None:
        if kind in kinds_of(header):
            there.set()
            await asyncio.sleep(0)
            if link.site == SITES[3]:  # in class its the sites before it take keys and get no write
                await asyncio.Event().wait()

    world.on_all(before=stop)
    task = asyncio.create_task(store(world, "name", NEW, class_))
    await reached(there, task)
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    world.on_all()
    for _ in range(50):
        await asyncio.sleep(0)
    after = {name: {row.key for row in site.shares()} for name, site in world.stores.items()}
    assert after == before
    assert all(site.staged == 0 for site in world.stores.values())
    assert (await fetch(world.another_vault().vault, "name"))[0] == OLD


async def test_a_source_that_fails_leaves_nothing() -> None:
    world = await prepared("pqc")
    before = {name: {row.key for row in site.shares()} for name, site in world.stores.items()}

    class Broken:
        size_hint = None

        async def read(self, size_bytes: int) -> bytes:
            raise OSError("the cable was pulled")

    with pytest.raises(OSError, match="cable"):
        await world.vault.put(Broken(), "name", class_="pqc")
    assert {name: {row.key for row in site.shares()} for name, site in world.stores.items()} == before
    assert (await fetch(world.vault, "name"))[0] == OLD


async def test_a_batch_is_reported_as_one_and_no_object_is_half_there() -> None:
    world = await prepared("pqc")
    other = world.another_vault()
    raced = [False]

    async def race(_: DirectLink, header: dict[str, Any]) -> None:
        if "prepare" in kinds_of(header) and not raced[0]:
            raced[0] = True
            await store(other, "name", b"the other writer", "pqc")

    world.on_all(before=race)
    with pytest.raises(ShosoinError):
        await world.vault.put_many({"name": NEW, "second": pattern(99)}, class_="pqc")
    world.on_all()
    reader = world.another_vault().vault
    assert (await fetch(reader, "name"))[0] == b"the other writer"
    for listing in await reader.ls():
        assert (await fetch(reader, listing.name))[0] in (b"the other writer", pattern(99))
