"""Repair: shares that were not written, were lost or proved bad are rebuilt by the sites, and only good ones count."""

from __future__ import annotations

import pytest

from tests.vault.support import World, fetch, make_world, pattern, store

SITES = ("koganei", "otemachi", "hakusan", "hongo", "musashino")


async def test_site_away_during_a_put_gets_its_share() -> None:
    world = make_world()
    world.links["hongo"].down = True
    receipt = await store(world, "a", pattern(5000))
    assert receipt.durable_at == 4
    world.links["hongo"].down = False
    done = await world.vault.repair()
    assert [each.problem for each in done] == [""] * len(done)
    assert {each.site for each in done} == {"hongo"}
    assert (await world.vault.stat("a")).label.durable_at == 5
    assert (await fetch(world.vault, "a"))[0] == pattern(5000)
