"""Helpers that lie: what they spoil never counts, they are suspected where it can be told, and others help instead."""

from __future__ import annotations

from typing import Any

import pytest

from shosoin.base import Unavailable
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from shosoin.vault.ports import ShareKey, ShareRow
from tests.vault.repair_support import dealt, holds, lose, share, staged_anywhere
from tests.vault.support import DirectLink, World, fetch, kinds_of, make_world, pattern, store

TARGET = "otemachi"


class LyingReads:
    """A store whose owner helps with other bytes than those that it keeps, and answers audits with the right ones."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read(self, row: ShareRow, offset: int, length: int) -> bytes:
        right = bytearray(await self._inner.read(row, offset, length))
        right[-1] ^= 1
        return bytes(right)


def lie_when_helping(world: World, site: str) -> None:
    repair = world.links[site].node._operations._repair
    repair.parts.store = LyingReads(repair.parts.store)


def lie_always(world: World, site: str, key: ShareKey) -> None:
    """Alter the share at rest, checksum and all: combinations and audit answers are wrong in the same way."""
    world.stores[site].falsify(key, len(share(world, site, key)) - 20, b"lie")


async def lost(
    n: int = 5, scheme: str = "3-of-5", class_: str = "its", size: int = 1500
) -> tuple[World, ShareKey, bytes]:
    world = make_world(n, scheme)
    receipt = await store(world, "a", pattern(size), class_)
    key = world.share_key(receipt.object_id, TARGET)
    whole = share(world, TARGET, key)
    lose(world, TARGET, key)
    return world, key, whole


def suspects(done: Any) -> set[str]:
    return {str(site) for each in done for site in each.suspects}


@pytest.mark.parametrize("liar", ["hakusan", "hongo", "musashino"])
async def test_wrong_combination_fails_the_audit_and_others_help(liar: str) -> None:
    world, key, whole = await lost()
    lie_when_helping(world, liar)
    done = await world.vault.repair(["a"])
    assert [each.done for each in done] == [True]
    assert share(world, TARGET, key) == whole
    assert liar not in done[0].helpers
    if done[0].attempts > 1:
        assert suspects(done) == {liar}
        assert any(event.name == "vault.repair_suspect" for event in world.sink.events)


async def test_liar_is_found_by_the_sets_that_went_wrong() -> None:
    world, key, whole = await lost(7, "3-of-7")
    lie_when_helping(world, "hakusan")
    done = await world.vault.repair(["a"])
    assert share(world, TARGET, key) == whole
    assert done[0].attempts > 1
    assert suspects(done) == {"hakusan"}


async def test_budget_holds_for_attempts_that_were_not_planned() -> None:
    world, key, _ = await lost(7, "3-of-7")
    lie_when_helping(world, "hakusan")
    planned: list[int] = []

    def look(needs: Any) -> bool:
        planned.append(sum(sum(need.bits.values()) for need in needs))
        return False

    await world.vault.repair(["a"], planned=look)
    done = await world.vault.repair(["a"], key_budget_bits=planned[0])
    assert not done[0].done
    assert done[0].attempts == 1
    assert sum(done[0].key_bits.values()) == planned[0]
    assert not holds(world, TARGET, key)
    assert (await world.vault.repair(["a"], key_budget_bits=8 * planned[0]))[0].done


async def test_helper_that_lies_in_both_ways_does_not_frame_others() -> None:
    """With k+1 other answers a lie shows and cannot be located, so the owner reads before it counts."""
    world, key, whole = await lost()
    lie_always(world, "hakusan", key)
    done = await world.vault.repair(["a"])
    assert done[0].done
    assert share(world, TARGET, key) == whole
    assert suspects(done) <= {"hakusan"}


async def test_liar_among_many_is_named_by_the_audit() -> None:
    world, key, whole = await lost(7, "3-of-7")
    lie_always(world, "hakusan", key)
    done = await world.vault.repair(["a"])
    assert done[0].done
    assert share(world, TARGET, key) == whole
    assert suspects(done) == {"hakusan"}


@pytest.mark.parametrize("class_", ["its", "pqc"])
async def test_without_an_honest_set_nothing_counts(class_: str) -> None:
    world, _, _ = await lost(3, "2-of-3", class_)
    lie_when_helping(world, "hakusan")  # of three sites, only this one and home can help
    done = await world.vault.repair(["a"])
    assert not done[0].done
    assert "is not its share" in done[0].problem
    assert (await world.vault.stat("a")).label.durable_at <= 3
    assert not staged_anywhere(world)
    assert (await fetch(world.vault, "a"))[0] == pattern(1500)


async def test_target_that_lies_about_its_audit_counts_for_nothing() -> None:
    world, _, _ = await lost()

    async def wrong(row: ShareRow, challenge: str) -> bytes:
        return bytes(16)

    world.links[TARGET].node._operations._repair.parts.digest = wrong
    done = await world.vault.repair(["a"])
    assert not done[0].done
    assert not staged_anywhere(world)


async def test_bad_share_is_not_replaced_by_another_bad_one() -> None:
    world = make_world(3, "2-of-3")
    receipt = await store(world, "a", pattern(1500))
    key = world.share_key(receipt.object_id, TARGET)
    lie_always(world, TARGET, key)
    lie_when_helping(world, "hakusan")
    done = await world.vault.repair(["a"], verify=True)
    assert not done[0].done
    assert not holds(world, TARGET, key)
    assert (await fetch(world.vault, "a"))[0] == pattern(1500)


async def test_audit_answers_of_old_and_new_copies_count_together() -> None:
    world = make_world()
    receipt = await store(world, "a", pattern(1500))
    key = world.share_key(receipt.object_id, TARGET)
    for _ in range(10):
        await world.vault.audit(["a"], fresh=True)
    for _ in range(3):
        lose(world, TARGET, key)
        await world.vault.repair(["a"])
    for _ in range(6):
        await world.vault.audit(["a"], fresh=True)
    answered = {name: world.stores[name]._tables.challenges[key] for name in world.stores}
    assert all(len(challenges) <= ANSWERS_PER_EPOCH for challenges in answered.values())
    assert (await world.vault.audit(["a"], fresh=True))["a"] == dict.fromkeys(world.context.members, "ok")
    assert answered == {name: world.stores[name]._tables.challenges[key] for name in world.stores}, "only repeated"


async def test_site_that_lost_its_records_answers_nothing_new() -> None:
    """It may have answered as often as any other before: the same masks must not hide more."""
    world, key, whole = await lost()
    tables = world.stores[TARGET]._tables
    before = set(tables.challenges.pop(key))
    register = next(row for (_, name), row in tables.registers.items() if name == key.object_id)
    assert register.committed_value is not None
    tables.registers.clear()
    done = await world.vault.repair(["a"])
    assert done[0].done
    assert share(world, TARGET, key) == whole
    assert (await world.vault.audit(["a"], fresh=True))["a"][done[0].site] == "unchecked"
    real = {each for each in tables.challenges[key] if not each.startswith("unknown-")}
    answered = set(world.stores["koganei"]._tables.challenges[key])
    assert before <= real <= answered


async def test_site_that_never_counted_starts_with_what_its_helpers_answered() -> None:
    world = make_world()
    world.links[TARGET].down = True
    receipt = await store(world, "a", pattern(1500))
    for _ in range(4):
        await world.vault.audit(["a"], fresh=True)
    world.links[TARGET].down = False
    done = await world.vault.repair(["a"])
    key = world.share_key(receipt.object_id, TARGET)
    assert done[0].done
    helper = world.stores[str(done[0].helpers[0])]
    assert set(world.stores[TARGET]._tables.challenges[key]) == set(helper._tables.challenges[key])
    assert (await world.vault.audit(["a"], fresh=True))["a"][done[0].site] == "ok"


async def test_used_up_audits_leave_the_check_by_keys() -> None:
    world, key, whole = await lost()
    for _ in range(20):
        await world.vault.audit(["a"], fresh=True)
    reads: list[str] = []
    world.on_all(before=lambda link, header: reads.append(str(link.site)) if "read" in kinds_of(header) else None)
    done = await world.vault.repair(["a"])
    assert done[0].done
    assert TARGET in reads
    assert share(world, TARGET, key) == whole


async def test_start_from_other_helpers_blames_nobody_who_went_on_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A liar spoils the first range and vanishes; those who go on from there are asked once more, for all of it."""
    monkeypatch.setattr("shosoin.vault.repair_plan._ENVELOPE_BYTES", 20_000)
    world, key, whole = await lost(size=9000)
    lie_when_helping(world, "hakusan")

    def vanish(link: DirectLink, header: dict[str, Any]) -> None:
        if any(op["op"] == "repair_pads" and op["offset"] > 4096 for op in header.get("ops", ())):
            link.down = True
            raise Unavailable("gone")

    world.links["hakusan"].before = vanish
    done = await world.vault.repair(["a"])
    assert done[0].done
    assert done[0].attempts == 3
    assert share(world, TARGET, key) == whole == dealt(world, TARGET, key)
    assert not suspects(done)
