"""The label says when an object was audited last, and what a configuration lacks to read a register."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shosoin.vault import Vault
from shosoin.vault.catalog_answers import SignersUnknown
from tests.vault.support import SITES, fetch, make_world, store


async def test_an_audit_shows_in_the_label() -> None:
    world = make_world()
    before_s = world.context.clock.wall_s()
    await store(world, "name", b"content", "pqc")
    assert (await world.vault.stat("name")).label.audited_at_wall_s is None
    await world.vault.audit(["name"])
    audited_s = (await world.vault.stat("name")).label.audited_at_wall_s
    assert audited_s is not None
    assert before_s <= audited_s <= world.context.clock.wall_s()
    await store(world, "name", b"next", "pqc")
    assert (await world.vault.stat("name")).label.audited_at_wall_s is None


async def test_a_site_that_left_the_configuration_too_early_is_named() -> None:
    """It signed with a bare quorum, because another site was away: without its key the certificate proves nothing."""
    world = make_world()
    world.links[SITES[4]].down = True
    await store(world, "name", b"content", "pqc")
    world.links[SITES[4]].down = False
    early = world.another_vault()
    early.context.sites = tuple(site for site in early.context.sites if site.name != SITES[1])
    with pytest.raises(SignersUnknown) as told:
        await fetch(early.vault, "name")
    assert SITES[1] in told.value.message
    assert "retired" in told.value.hint
    kept = world.another_vault()
    kept.context.sites = tuple(replace(site, retired=site.name == SITES[1]) for site in kept.context.sites)
    assert (await fetch(Vault(kept.context), "name"))[0] == b"content"
