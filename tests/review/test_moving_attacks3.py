"""Sites that are retired and not moved off yet: what else an owner does meanwhile must work, or say why not."""

from __future__ import annotations

from dataclasses import replace

from shosoin.vault import Vault
from shosoin.vault.assurance import SiteDomains
from shosoin.vault.policies import Policies
from shosoin.vault.verdicts import PolicyRefused
from tests.vault.repair_support import lose
from tests.vault.support import SITES, World, fetch, make_world, store

OLD, NEW, OTHER = SITES[2], SITES[5], SITES[3]


def configured(world: World, *retired: str) -> World:
    client = world.another_vault()
    client.context.sites = tuple(replace(site, retired=site.name in retired) for site in client.context.sites)
    return replace(client, vault=Vault(client.context))


def shared_operator() -> dict[str, SiteDomains]:
    """The new site is run by whoever runs another one."""
    return {OTHER: SiteDomains("both"), NEW: SiteDomains("both")}


async def test_a_move_that_would_break_a_policy_leaves_the_object_where_it_is() -> None:
    world = make_world(6, "3-of-5", domains=shared_operator())
    before = configured(world, NEW)
    before.context.policies = Policies.of([("a", ["collusion >= 3"])])
    await store(before, "a", b"content", "qkd")
    await store(before, "free", b"other", "qkd")
    after = configured(world, OLD)
    after.context.policies = before.context.policies
    moved = {one.name: one for one in await after.vault.move_retired()}
    assert isinstance(moved["a"].error, PolicyRefused)
    assert moved["free"].error is None
    stat = await after.vault.stat("a")
    assert (OLD in stat.placement, stat.label.collusion_number) == (True, 3)
    assert (await fetch(after.vault, "a"))[0] == b"content"
    assert (await after.vault.stat("free")).label.collusion_number == 2


async def test_a_durability_policy_does_not_forbid_the_move() -> None:
    world = make_world(6, "3-of-5")
    before = configured(world, NEW)
    before.context.policies = Policies.of([("a", ["durable = n"])])
    await store(before, "a", b"content", "qkd")
    after = configured(world, OLD)
    after.context.policies = before.context.policies
    assert [one.error for one in await after.vault.move_retired()] == [None]
    assert all(each.done for each in await after.vault.repair(None))
    assert (await after.vault.stat("a")).label.durable_at == 5


async def world_with_objects(*away: str) -> tuple[World, World]:
    """Objects at the first five of six sites, but for those away; then ``OLD`` is retired."""
    world = make_world(6, "3-of-5")
    before = configured(world, NEW)
    for site in away:
        before.links[site].down = True
    await store(before, "a", b"content", "qkd")
    return world, configured(world, OLD)


async def test_repair_before_the_move_uses_the_retired_site() -> None:
    _, after = await world_with_objects(OTHER)
    done = await after.vault.repair(None)
    found = {(each.name, each.site): each.problem for each in done}
    assert found[("a", OTHER)] == ""
    assert (await after.vault.stat("a")).label.durable_at == 5
    assert (await fetch(after.vault, "a"))[0] == b"content"


async def test_repair_of_a_share_that_the_retired_site_lacks_says_that_it_moves_instead() -> None:
    _, after = await world_with_objects(OLD)
    done = await after.vault.repair(None)
    assert {each.site for each in done if each.done} <= {NEW, OTHER}
    assert (await fetch(after.vault, "a"))[0] == b"content"


async def test_repair_with_a_site_that_left_the_configuration() -> None:
    world, after = await world_with_objects()
    for row in world.stores[OTHER].shares():
        lose(world, OTHER, row.key)
    after.context.sites = tuple(site for site in after.context.sites if site.name != OLD)
    done = await after.vault.repair(None)
    assert all(each.done or each.problem for each in done)
    assert (await fetch(after.vault, "a"))[0] == b"content"


async def test_a_target_that_left_the_configuration_is_told() -> None:
    _, after = await world_with_objects(OLD)
    after.context.sites = tuple(site for site in after.context.sites if site.name != OLD)
    done = await after.vault.repair(None)
    assert all(each.done or OLD in each.problem for each in done)


async def test_audit_verify_and_rm_before_the_move() -> None:
    _, after = await world_with_objects()
    assert set((await after.vault.verify("a")).per_site.values()) == {"ok"}
    assert set((await after.vault.audit())["a"].values()) == {"ok"}
    receipt = await after.vault.rm("a")
    assert OLD in [*receipt.erased_at, *receipt.pending_at]


async def test_the_share_of_a_removed_object_at_a_silent_retired_site_is_pending() -> None:
    """``rm`` must not call everything erased when the retired site was away and keeps its share."""
    world, after = await world_with_objects()
    after.links[OLD].down = True
    receipt = await after.vault.rm("a")
    assert OLD in receipt.pending_at
    after.links[OLD].down = False
    await after.vault.move_retired()
    (leaving,) = (await after.vault.ties()).sites
    assert leaving.may_go, leaving
    assert not world.stores[OLD].shares()
