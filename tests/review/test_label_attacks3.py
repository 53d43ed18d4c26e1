"""Labels after shares were found bad: as durable as what is known, not as what was once written."""

from __future__ import annotations

from typing import Any

import pytest

from shosoin.base import SiteId
from tests.vault.repair_support import lose
from tests.vault.support import SITES, World, fetch, make_world, pattern, store

SITE, OTHER = "hakusan", "hongo"


async def durable(world: World) -> int:
    return int((await world.another_vault().vault.stat("a")).label.durable_at)


def shared_ledger(world: World) -> None:
    """Other vaults of the world are later commands of the same owner on the same computer."""
    inner = world.another_vault

    def another(**options: Any) -> World:
        client = inner(**options)
        client.context.ledger = world.context.ledger
        return client

    world.another_vault = another  # type: ignore[method-assign]


async def damaged() -> World:
    """Two shares of an object are bad: one rotted, one is lost."""
    world = make_world()
    shared_ledger(world)
    stored = await store(world, "a", b"content" * 99, "qkd")
    world.stores[SITE].rot(world.share_key(stored.object_id, SITE))
    lose(world, OTHER, world.share_key(stored.object_id, OTHER))
    return world


@pytest.mark.parametrize("check", ["verify", "verify_many", "audit"])
async def test_shares_that_were_found_bad_do_not_count(check: str) -> None:
    world = await damaged()
    assert await durable(world) == 5  # nobody looked
    if check == "verify":
        await world.vault.verify("a")
    elif check == "verify_many":
        await world.vault.verify_many(None)
    else:
        await world.vault.audit_round(None)
    assert await durable(world) == 3
    (listed,) = await world.another_vault().vault.labels("")
    assert listed.label is not None
    assert listed.label.durable_at == 3


async def test_rebuilt_shares_count_again() -> None:
    world = await damaged()
    await world.vault.verify("a")
    done = await world.vault.repair(["a"], verify=True)
    assert {(each.site, each.problem) for each in done if each.name == "a"} == {(SITE, ""), (OTHER, "")}
    assert await durable(world) == 5
    await world.vault.audit_round(None)
    assert await durable(world) == 5


@pytest.mark.parametrize("rounds", [1, 3])
async def test_a_site_that_lost_its_records_and_was_repaired_is_not_accused(rounds: int) -> None:
    """It can answer nothing new in this epoch, through no fault of its own: unchecked, as the repair's page says."""
    world = await damaged()
    assert {each.problem for each in await world.vault.repair(["a"], verify=True)} == {""}
    for _ in range(rounds):
        found = await world.vault.audit_round(None)
        assert not found.bad
        assert {str(each.states[SiteId(OTHER)]) for each in found.findings} == {"unchecked"}
    assert not [event for event in world.sink.events if event.fields.get("kind") == "audit_refused"]
    assert (await world.vault.verify("a")).per_site[SiteId(OTHER)] == "ok"


async def test_a_new_version_starts_afresh() -> None:
    world = await damaged()
    await world.vault.verify("a")
    await store(world, "a", b"new", "qkd")
    assert await durable(world) == 5


@pytest.mark.parametrize("together", [False, True])
async def test_a_read_that_catches_a_liar_does_not_count_it(together: bool) -> None:
    """The label that stands beside the alarm must not say that all sites hold the object."""
    world = make_world()
    await store(world, "name", pattern(500), "its")
    key = world.share_key((await world.vault.stat("name")).listing.object_id, SITES[1])
    world.stores[SITES[1]].falsify(key, 800, b"wrong bytes on the disk")
    if together:
        await world.vault.get_many(["name"])
    else:
        _, receipt = await fetch(world.vault, "name")
        assert receipt.label.durable_at == 4
    assert (await world.vault.stat("name")).label.durable_at == 4
    await world.vault.repair(["name"], verify=True)
    assert (await world.vault.stat("name")).label.durable_at == 5
