"""Repair stopped at every step: whoever dies, nothing stays half done, and the next repair ends it."""

from __future__ import annotations

from typing import Any

import pytest

from shosoin.base import Unavailable
from shosoin.vault.ports import ShareState
from tests.vault.repair_support import (
    FIVE,
    committed,
    count_keys,
    dealt,
    no_key_twice,
    repair_ops,
    restart,
    rows,
    share,
)
from tests.vault.support import DirectLink, World, fetch, kinds_of, make_world, pattern, store

TARGET = "hongo"
CONTENT = pattern(9000)
K, SITES = 2, FIVE[:4]
CHANGES = {"accept", "commit", "prepare", "erase"}


@pytest.fixture(autouse=True)
def _short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranges for the object."""
    monkeypatch.setattr("shosoin.vault.repair_plan._ENVELOPE_BYTES", 16_000)


async def world_with_need(class_: str = "its") -> tuple[World, str]:
    world = make_world(4, "2-of-4")
    world.links[TARGET].down = True
    receipt = await store(world, "a", CONTENT, class_)
    world.links[TARGET].down = False
    return world, receipt.object_id


def counts(world: World, object_id: str) -> bool:
    """Whether the register of a majority counts on the target's share."""
    holding = [name for name in SITES if name != TARGET]
    return sum(TARGET in committed(world, name, object_id).bodies[0].good for name in holding) > 1


async def check_whole(world: World, object_id: str) -> None:
    """What counts is what the dealer made, and what does not count is nothing's problem."""
    for row in rows(world, TARGET):
        if row.state is not ShareState.STAGED or counts(world, object_id):
            assert share(world, TARGET, row.key) == dealt(world, TARGET, row.key, K)
    if counts(world, object_id):
        assert any(row.key.object_id == object_id for row in rows(world, TARGET))


async def check_done(world: World, object_id: str) -> None:
    """Everything is rebuilt, byte for byte, by a coordinator that knows of nothing that was before."""
    fresh = world.another_vault()
    for _ in range(5):
        left = await fresh.vault.repair()
        if not left:
            break
    assert not left
    assert (await fresh.vault.stat("a")).label.durable_at == 4
    for row in rows(world, TARGET):
        assert row.state is not ShareState.STAGED
        assert share(world, TARGET, row.key) == dealt(world, TARGET, row.key, K)
    assert {row.key.object_id for row in rows(world, TARGET)} > {object_id}
    assert (await fetch(fresh.vault, "a"))[0] == CONTENT


class Death:
    """Everything that one client sends or hears is lost from a step on."""

    def __init__(self, world: World, step: int, *, after: bool) -> None:
        self.left, self.dead, self.steps = step, False, 0
        world.on_all(before=self.before, after=self.after if after else None)
        self.late = after

    def before(self, link: DirectLink, header: dict[str, Any]) -> None:
        if self.dead:
            raise Unavailable(f"{link.site}: the coordinator is dead")
        if not self.late:
            self.count(header)

    def after(self, _: DirectLink, header: dict[str, Any]) -> None:
        self.count(header)

    def count(self, header: dict[str, Any]) -> None:
        if repair_ops(header) or kinds_of(header) & CHANGES:
            self.steps += 1
            self.left -= 1
            if self.left < 0:
                self.dead = True
                raise Unavailable("the coordinator is dead")


@pytest.mark.any_kernels
@pytest.mark.parametrize("after", [False, True])
async def test_coordinator_dies_at_every_step(after: bool) -> None:
    step, died = 0, True
    while died:
        world, object_id = await world_with_need()
        counted = count_keys(world)
        death = Death(world, step, after=after)
        try:
            await world.vault.repair(["a"])
        except Unavailable:
            assert death.dead
        died = death.dead
        await check_whole(world, object_id)
        await check_done(world, object_id)
        no_key_twice(counted)
        step += 2 if after else 1  # an answer that is lost is much like the next request that never came
    assert step > 30


@pytest.mark.any_kernels
@pytest.mark.parametrize(("class_", "after"), [("its", False), ("its", True), ("qkd", False)])
@pytest.mark.parametrize("site", ["hakusan", TARGET])
async def test_site_restarts_at_every_step(site: str, after: bool, class_: str) -> None:
    step, died = 0, True
    while died:
        world, object_id = await world_with_need(class_)
        counted = count_keys(world)
        died = await restarted_run(world, site, step, after=after)
        await check_whole(world, object_id)
        await check_done(world, object_id)
        no_key_twice(counted)
        step += 1
    assert step > 5


async def restarted_run(world: World, site: str, step: int, *, after: bool) -> bool:
    """Repair while a site restarts at one step; false if it has fewer steps."""
    left, died = [step], [False]

    def die(link: DirectLink, header: dict[str, Any]) -> None:
        if not repair_ops(header):
            return
        left[0] -= 1
        if left[0] == -1:
            died[0] = True
            restart(world, site)
            raise Unavailable(f"{link.site} restarts")

    link = world.links[site]
    link.before, link.after = (None, die) if after else (die, None)
    await world.vault.repair(["a"])
    link.before = link.after = None
    return died[0]


async def test_helper_that_stays_away_is_replaced_by_another_set() -> None:
    world, object_id = await world_with_need()

    def vanish(link: DirectLink, header: dict[str, Any]) -> None:
        if "repair_help" in repair_ops(header):
            link.down = True
            raise Unavailable("gone")

    world.links["hakusan"].before = vanish
    done = await world.vault.repair()
    assert all(each.done and "hakusan" not in each.helpers for each in done if each.object_id == object_id)
    key = world.share_key(object_id, TARGET)
    assert share(world, TARGET, key) == dealt(world, TARGET, key, K)


async def test_next_attempt_goes_on_where_the_last_one_stopped() -> None:
    world, object_id = await world_with_need()
    taken: list[tuple[str, int]] = []
    stop = [1]

    def note(_: DirectLink, header: dict[str, Any]) -> None:
        taken.extend((op["attempt"], op["offset"]) for op in header["ops"] if op["op"] == "repair_take")

    def lose_one(_: DirectLink, header: dict[str, Any]) -> None:
        for op in header.get("ops", ()):
            if op["op"] == "repair_help" and op["object"] == object_id and op["offset"] > 0:
                stop[0] -= 1
                if stop[0] == 0:
                    raise Unavailable("lost")

    world.links[TARGET].after = note
    world.links["hakusan"].before = lose_one
    done = await world.vault.repair(["a"])
    assert all(each.done for each in done)
    mine = next(each for each in done if each.object_id == object_id)
    assert mine.attempts == 2
    attempts = list(dict.fromkeys(attempt for attempt, _ in taken))
    offsets = {name: [offset for attempt, offset in taken if attempt == name] for name in attempts}
    objects = [each for each in offsets.values() if len(each) > 0]
    assert any(min(each) > 0 for each in objects)
    key = world.share_key(object_id, TARGET)
    assert share(world, TARGET, key) == dealt(world, TARGET, key, K)


async def test_no_two_attempts_give_the_same_combination_under_the_same_pad() -> None:
    """What a helper says of one range in two attempts differs, though share, order and helpers are the same."""
    world, object_id = await world_with_need()
    said: dict[tuple[str, int], list[str]] = {}
    failures = [3]

    def lose_take(link: DirectLink, header: dict[str, Any]) -> None:
        for op in header.get("ops", ()):
            if op["op"] == "repair_take" and op["object"] == object_id:
                for site, part in op["parts"].items():
                    said.setdefault((site, op["offset"]), []).append(part["data"])
                if failures[0] > 0:
                    failures[0] -= 1
                    raise Unavailable(f"{link.site}: lost")

    world.links[TARGET].before = lose_take
    for _ in range(4):
        await world.vault.repair(["a"])
    repeated = [texts for texts in said.values() if len(texts) > 1]
    assert repeated
    assert all(len(set(texts)) == len(texts) for texts in repeated)
    key = world.share_key(object_id, TARGET)
    assert share(world, TARGET, key) == dealt(world, TARGET, key, K)


async def test_cancelled_repair_leaves_no_attempt_behind() -> None:
    world, object_id = await world_with_need()
    task: Any = None

    def cancel(_: DirectLink, header: dict[str, Any]) -> None:
        if any(op["op"] == "repair_take" and op["offset"] > 0 for op in header.get("ops", ())):
            task.cancel()

    world.links[TARGET].before = cancel
    task = world.context.runtime.start(world.vault.repair(["a"]))
    await world.context.runtime.wait([task], timeout_s=None, first=False)
    assert task.cancelled()
    for name in SITES:
        assert not world.links[name].node._operations._repair.attempts._running
    world.links[TARGET].before = None
    await check_done(world, object_id)
