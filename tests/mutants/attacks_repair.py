"""Attacks on repair by coordinators, helpers and auditors that keep to no rules.

Each returns what it broke, or ``None`` if nothing.
"""

from __future__ import annotations

from shosoin.base import SiteId
from shosoin.kernels import element_inv
from shosoin.vault.layout import ANSWERS_PER_EPOCH
from shosoin.vault.ports import ShareKey
from shosoin.vault.repair_order import RepairOrder
from tests.mutants.attacks_register import seeded
from tests.vault.repair_support import Hostile, committed, dealt, lose, order_for, restart, share
from tests.vault.support import World, pattern, store
from tests.vault.test_repair_liars import lie_when_helping
from tests.vault.test_repair_orders import HELPERS, TARGET, drive, opened, scaled, total, two_targets

_ASKED = 10


async def lost_share(size: int = 3000) -> tuple[World, ShareKey]:
    """A world in which one site lost the share of an object of class its."""
    world = seeded()
    receipt = await store(world, "a", pattern(size), "its")
    key = world.share_key(receipt.object_id, TARGET)
    lose(world, TARGET, key)
    return world, key


async def two_targets_at_once() -> str | None:
    """Helpers are told of different targets, which kept their shares: together they compute the share of a third."""
    world, key = await lost_share()
    second = "musashino"
    kept, lost = dealt(world, TARGET, key), share(world, second, key)
    lose(world, second, key)
    told, orders = await two_targets(world, key, Hostile(world))
    if not all("data" in each for each in told.values()):
        return None
    sums = total(*(opened(world, TARGET, site, told[site]) for site in HELPERS[:2]))
    sums = total(sums, opened(world, second, HELPERS[2], told[HELPERS[2]]), kept)
    liar = SiteId(HELPERS[2])
    difference = orders[HELPERS[0]].weight_of(liar) ^ orders[HELPERS[2]].weight_of(liar)
    third = scaled(element_inv(difference), sums)
    known = third == share(world, HELPERS[2], key) and lost != third
    return f"{TARGET} and {second} compute the share of {HELPERS[2]}, and with it the object" if known else None


async def combined(hostile: Hostile, order: RepairOrder) -> bool:
    """Whether every helper gave its combination of the share."""
    try:
        told = await drive(hostile, dict.fromkeys(HELPERS, order), order.size_bytes)
    except KeyError:  # a helper drew no pads
        return False
    return all("data" in each for each in told.values())


async def one_attempt_twice() -> str | None:
    """A coordinator begins an attempt again, with another target, after the nodes restarted."""
    world, key = await lost_share()
    lose(world, "musashino", key)
    hostile, given = Hostile(world), 0
    for target in (TARGET, "musashino"):
        order = order_for(world, key, target, HELPERS, counted=True)
        for site in (*HELPERS, target):
            await hostile.open(site, order)
        given += await combined(hostile, order)
        for site in HELPERS:
            restart(world, site)
    return "helpers gave two combinations of their shares under one attempt" if given == 2 else None


async def one_range_twice() -> str | None:
    """A coordinator asks for the same range of an attempt again: pads of pairs are spent twice."""
    world, key = await lost_share()
    hostile, order = Hostile(world), order_for(world, key, TARGET, HELPERS, counted=True)
    for site in (*HELPERS, TARGET):
        await hostile.open(site, order)
    given = [await combined(hostile, order) for _ in range(2)]
    return "helpers gave two combinations of one range of their shares in one attempt" if all(given) else None


async def helper_that_lies() -> str | None:
    """A helper gives a wrong combination; of three sites no others can help."""
    world = seeded(3, "2-of-3")
    receipt = await store(world, "a", pattern(1500))
    key = world.share_key(receipt.object_id, "otemachi")
    whole = share(world, "otemachi", key)
    lose(world, "otemachi", key)
    lie_when_helping(world, "hakusan")
    done = await world.vault.repair(["a"])
    good = committed(world, "koganei", receipt.object_id).bodies[0].good
    counted = [each.done for each in done] == [True] and SiteId("otemachi") in good
    return "the register counts on a wrong share" if counted and share(world, "otemachi", key) != whole else None


async def answers_after_lost_records() -> str | None:
    """A site loses its records again and again, has its share rebuilt, and is asked ten new challenges each time."""
    world, key = await lost_share(300)
    channel = world.context.channels("its")[SiteId(TARGET)]
    where = {"object": key.object_id, "version": key.version, "epoch": key.epoch}
    answered = 0
    for turn in range(3):
        await world.vault.repair(["a"])
        for number in range(_ASKED):
            ask = {"op": "digest", **where, "r": f"{1 + turn * _ASKED + number:032x}"}
            (result,) = (await channel.exchange([ask], answer_bytes=16)).results
            answered += "error" not in result
        lose(world, TARGET, key)
        world.stores[TARGET]._tables.challenges.pop(key, None)
    return f"one share answered {answered} challenges" if answered > ANSWERS_PER_EPOCH else None
