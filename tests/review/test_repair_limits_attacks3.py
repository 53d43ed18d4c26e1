"""Attacks on the limits of repair: policies, quotas, answers, texts that are none, writers at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from shosoin.base import ShosoinError
from shosoin.vault.audit_round import AuditOptions
from shosoin.vault.catalog import Conflict
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from shosoin.vault.policies import Policies
from tests.vault.repair_support import dealt, lose, share, staged_anywhere
from tests.vault.support import SITES, SeededEntropy, fetch, kinds_of, make_world, pattern, store
from tests.vault.test_policies_enforced import REAL, Declared

CLASSES = ("its", "qkd", "pqc")
TARGET, HELPERS = SITES[4], SITES[:3]


def problems(done: Any) -> list[str]:
    return [f"{each.name} at {each.site}: {each.problem}" for each in done if each.problem]


@pytest.mark.parametrize("clause", ["epsilon <= 1e-9", "simulated = no"])
async def test_repair_does_not_take_an_object_out_of_its_policy(clause: str) -> None:
    """Keys between the sites are simulated, those of the owner are not: rebuilt under them, it could not be read."""
    world = make_world(entropy=SeededEntropy(1), facts=REAL)
    world.keys = world.context.keys = Declared(world.keys, simulated=False, epsilon=1e-12)  # type: ignore[assignment]
    world.context._channels.clear()
    world.context.policies = Policies.of([("", [clause])])
    receipt = await store(world, "a", pattern(900))
    key = world.share_key(receipt.object_id, TARGET)
    lose(world, TARGET, key)
    assert (await fetch(world.vault, "a"))[0] == pattern(900)
    done = await world.vault.repair(["a"])
    assert (await fetch(world.vault, "a"))[0] == pattern(900), "a repair made it unreadable"
    assert bool(problems(done)) == (clause == "simulated = no"), "the links between the sites declare an epsilon"


async def test_bad_share_is_replaced_though_the_quota_is_nearly_used() -> None:
    world = make_world()
    receipt = await store(world, "a", pattern(90_000), "pqc")
    key = world.share_key(receipt.object_id, TARGET)
    whole = share(world, TARGET, key)
    world.stores[TARGET].rot(key)
    used = sum(row.size_bytes for row in world.stores[TARGET].shares())
    node = world.links[TARGET].node
    from dataclasses import replace

    owners = node._owners
    for name in owners:
        owners[name] = replace(owners[name], quota_bytes=used + len(whole) + 100)
    done = await world.vault.repair(["a"], verify=True)
    assert not problems(done)
    assert share(world, TARGET, key) == whole


@pytest.mark.parametrize("class_", CLASSES)
async def test_no_share_gives_more_answers_than_its_masks_hide(class_: str) -> None:
    """By audits, deal checks, repairs and lost records together."""
    world = make_world()
    receipt = await store(world, "a", pattern(900), class_)
    key = world.share_key(receipt.object_id, TARGET)
    whole = share(world, TARGET, key)
    answered: dict[str, set[str]] = {site: set() for site in SITES[:5]}

    def heard(link: Any, header: Any) -> None:
        for op in header.get("ops", ()):
            if op["op"] in {"digest", "repair_digest"} and op["object"] == key.object_id:
                answered[link.site].add(op["r"])

    for name in world.links:
        world.links[name].after = heard
    for round_ in range(6):
        for _ in range(3):
            await world.vault.audit_round(["a"], options=AuditOptions(fresh=True))
        lose(world, TARGET, key)
        if round_ == 3:
            world.stores[TARGET]._tables.challenges.pop(key, None)
        await world.vault.repair(["a"])
        assert share(world, TARGET, key) == whole
    for site in SITES[:5]:
        known = world.stores[site]._tables.challenges[key]
        real = [each for each in known if not each.startswith("unknown-")]
        assert len(real) <= ANSWERS_PER_EPOCH + (site == TARGET), (site, len(real))
    points = {each for site in SITES[:4] for each in world.stores[site]._tables.challenges[key]}
    alone = set(world.stores[TARGET]._tables.challenges[key]) - points
    assert not {each for each in alone if not each.startswith("unknown-")}


@pytest.mark.parametrize("class_", CLASSES)
@pytest.mark.parametrize("away", [True, False])
@pytest.mark.parametrize("when", ["repair_open", "repair_take", "repair_seal", "repair_adopt", "accept", "prepare"])
async def test_put_of_a_new_version_during_a_repair(class_: str, when: str, away: bool) -> None:
    world = make_world()
    world.links[TARGET].down = away
    receipt = await store(world, "a", pattern(900), class_)
    world.links[TARGET].down = False
    key = world.share_key(receipt.object_id, SITES[0])
    if not away:
        lose(world, TARGET, key)
    writer = world.another_vault()
    once: list[int] = []

    async def meanwhile(link: Any, header: Any) -> None:
        if when in kinds_of(header) and not once:
            once.append(1)
            await store(writer, "a", pattern(700, 2), class_)

    world.links[TARGET].before = meanwhile
    done = await world.vault.repair(["a"])
    world.links[TARGET].before = None
    assert once or when == "prepare"
    if not once:
        await store(writer, "a", pattern(700, 2), class_)
    assert (await fetch(world.vault, "a"))[0] == pattern(700, 2)
    assert (await fetch(world.another_vault().vault, "a"))[0] == pattern(700, 2)
    states = await world.vault.verify("a")
    assert set(states.per_site.values()) == {"ok"}, (done, states)
    await world.vault.repair()
    assert not [row for row in staged_anywhere(world) if row.key.object_id == key.object_id]


async def test_two_repairs_at_once_leave_one_good_share() -> None:
    world = make_world()
    receipt = await store(world, "a", pattern(5000))
    key = world.share_key(receipt.object_id, TARGET)
    whole = share(world, TARGET, key)
    lose(world, TARGET, key)
    other = world.another_vault()
    found = await asyncio.gather(world.vault.repair(["a"]), other.vault.repair(["a"]), return_exceptions=True)
    assert not [each for each in found if isinstance(each, BaseException) and not isinstance(each, ShosoinError)], found
    await world.vault.repair(["a"])
    assert share(world, TARGET, key) == whole == dealt(world, TARGET, key)
    assert (await world.vault.stat("a")).label.durable_at == 5
    assert not [event for event in world.sink.events if event.name == "vault.repair_suspect"]


@pytest.mark.parametrize("class_", CLASSES)
@pytest.mark.parametrize("when", ["repair_adopt", "accept"])
async def test_removal_during_a_repair_leaves_nothing(class_: str, when: str) -> None:
    world = make_world()
    receipt = await store(world, "a", pattern(900), class_)
    key = world.share_key(receipt.object_id, TARGET)
    lose(world, TARGET, key)
    remover = world.another_vault()
    once: list[int] = []

    async def meanwhile(link: Any, header: Any) -> None:
        if when in kinds_of(header) and not once:
            once.append(1)
            await remover.vault.rm("a")

    world.links[TARGET].before = meanwhile
    with contextlib.suppress(Conflict):
        await world.vault.repair(["a"])
    world.links[TARGET].before = None
    assert once
    rows = [row for row in world.stores[TARGET].shares() if row.key == key]
    assert not rows, "a share of a removed object stays behind, and nothing will ever erase it"


async def test_stale_staging_area_does_not_fail_the_next_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of an attempt that stopped are dropped after a while; what is said of them must be dropped with them."""
    monkeypatch.setattr("shosoin.vault.repair_plan._ENVELOPE_BYTES", 40_000)
    world = make_world()
    receipt = await store(world, "a", pattern(40_000))
    key = world.share_key(receipt.object_id, TARGET)
    whole = share(world, TARGET, key)
    lose(world, TARGET, key)
    takes: list[int] = []

    def stop(link: Any, header: Any) -> None:
        if "repair_take" in kinds_of(header):
            takes.append(1)
            if len(takes) > 2:
                raise asyncio.CancelledError

    world.links[TARGET].before = stop
    with contextlib.suppress(asyncio.CancelledError):
        await world.vault.repair(["a"])
    world.links[TARGET].before = None
    quotas = world.links[TARGET].node._operations._repair.parts.quotas
    assert key in quotas._areas
    quotas._areas[key].touched_s -= 10_000
    quotas._swept_s.clear()
    world.links[TARGET].node._operations._repair.attempts._running.clear()
    await store(world, "b", pattern(100))  # another share is staged, and what is stale goes
    assert key not in quotas._areas
    done = await world.vault.repair(["a"])
    assert not problems(done)
    assert share(world, TARGET, key) == whole
