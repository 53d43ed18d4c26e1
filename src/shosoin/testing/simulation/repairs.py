"""Repairs by clients, and what must hold after them.

What a repair reports as done lies at its site, durably and with the right bytes; it claims no more than there is; it
leaves every object readable and accuses nobody who is honest. When all faults are over, a repair of everything brings
every object to a good share at every honest site, or says of each that lacks one why not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shosoin.base import ObjectId, ShosoinError
from shosoin.testing.simulation.plan import Deed, MishapKind, Operation
from shosoin.testing.simulation.share_faults import hurt_all
from shosoin.testing.simulation.truth import committed, good_sites, honest_sites, is_good
from shosoin.testing.simulation.world import OWNER, World
from shosoin.vault.ports import ShareKey
from shosoin.vault.repair import Repaired
from shosoin.vault.repair_plan import Reason
from shosoin.vault.values import RegisterValue

if TYPE_CHECKING:
    from shosoin.testing.simulation.clients import Caller

__all__ = ["repair", "repair_all"]

_ROUNDS = 4
_PAUSE_S = 30.0
_KINDS = (MishapKind.RECORD_LOST, MishapKind.ROT, MishapKind.ALTERED, MishapKind.BYTES_LOST)


async def repair(caller: Caller, op: Operation) -> str:
    """Repair as a deed of a client, of odd sizes after a check by keys; return what came of it."""
    names = None if op.deed is Deed.REPAIR_ALL else list(op.names)
    found = await _repaired(caller, names, verify=op.size_bytes % 2 == 1)
    return ", ".join(f"{each.name} at {each.site} {each.problem or 'done'}" for each in found) or "nothing to do"


async def _repaired(caller: Caller, names: list[str] | None, *, verify: bool) -> list[Repaired]:
    began_s = caller.world.kernel.now_s
    found = await caller.vault.repair(names, verify=verify)
    caller.process.check()
    values = committed(caller.world)
    for each in found:
        _count(caller.world, each)
        _check_suspects(caller, each)
        key = _key_of(each, values)
        if key is not None:
            _check_repaired(caller, each, key, began_s)
    return found


def _count(world: World, each: Repaired) -> None:
    rebuilt = each.reason != Reason.UNCONFIRMED
    world.trace.counts[("shares rebuilt" if rebuilt else "shares confirmed") if each.done else "shares left"] += 1
    world.trace.counts["repair attempts"] += each.attempts


def _key_of(each: Repaired, values: Mapping[ObjectId, RegisterValue]) -> ShareKey | None:
    """Return the share that was repaired; ``None`` if its version does not count any more."""
    value = values.get(each.object_id)
    bodies = value.bodies if value is not None else ()
    return next(
        (ShareKey(OWNER, each.object_id, b.version, b.epoch) for b in bodies if b.version == each.version), None
    )


def _check_suspects(caller: Caller, each: Repaired) -> None:
    """Check that nobody is suspected where nobody lies; a liar may bring suspicion on who helped with it."""
    world = caller.world
    for site in each.suspects:
        if site in world.plan.liars or world.befell(site, each.object_id):
            continue
        world.trace.counts["honest suspects"] += 1
        if not world.plan.liars:
            world.trace.violate(f"{caller.name}'s repair of {each.name} suspects the honest site {site}")


def _check_repaired(caller: Caller, each: Repaired, key: ShareKey, began_s: float) -> None:
    world, who = caller.world, f"{caller.name}'s repair of {each.name} for {each.site}"
    target = str(each.site)
    hurt_s = world.hurt.get((target, key), -1.0)
    excused = hurt_s >= began_s or (hurt_s >= 0 and each.reason == Reason.UNCONFIRMED)
    if each.done and target not in world.plan.liars and not excused and not is_good(world, target, key):
        world.trace.violate(f"{who} is reported as done, and the site does not hold the right share")
    held = [
        site
        for site in world.plan.sites
        if site in world.plan.liars or is_good(world, site, key) or (site, key) in world.hurt
    ]
    if each.done and each.durable_at > len(held):  # what was left repeats whom the register counts on
        world.trace.violate(f"{who} claims {each.durable_at} sites, {len(held)} hold a share")
    if len(good_sites(world, key)) < world.scheme.k:
        world.trace.violate(f"{who} left fewer than k good shares")


async def repair_all(caller: Caller) -> None:
    """Hurt what may be hurt, repair everything, and check that all is well, or that it is said why not."""
    world = caller.world
    if not await _settled(caller):
        return
    hurt_all(world, _KINDS)
    told: dict[tuple[str, str, str], str] = {}
    for _ in range(_ROUNDS):
        try:
            found = await _repaired(caller, None, verify=True)
        except ShosoinError as error:
            world.trace.violate(f"after all faults ended, a repair fails: {error.code}: {error.message}")
            return
        told = {(each.object_id, each.version, each.site): each.problem for each in found if not each.done}
        for (object_id, _version, site), problem in told.items():
            world.trace.tell(caller.name, f"is told that {object_id[:8]} at {site} is left: {problem}")
        if not told:
            break
        await caller.process.runtime.sleep(_PAUSE_S)
    world.trace.counts["shares left when calm"] += len(told)
    await _check_named(caller, told)


async def _settled(caller: Caller) -> bool:
    """Wait until no disk has anything under way."""
    for _ in range(100):
        if all(disk.settled for disk in caller.world.disks.values()):
            return True
        await caller.process.runtime.sleep(0.01)
    return False


async def _check_named(caller: Caller, told: dict[tuple[str, str, str], str]) -> None:
    """Check every object that has a name, its label, and the index."""
    world, values = caller.world, committed(caller.world)
    listings = {listing.object_id: listing.name for listing in await caller.vault.ls()}
    for register_id, value in values.items():
        if value.tombstone or (value.kind == "object" and register_id not in listings):
            continue
        _check_whole(world, listings.get(register_id, "the index"), value, told)
    for object_id, name in listings.items():
        stat = await caller.vault.stat(name)
        value = next(value for register_id, value in values.items() if register_id == object_id)
        held = [site for site in world.plan.sites if _holds_all(world, site, value)]
        if stat.label.durable_at > len(held):
            world.trace.violate(f"after repair {name} is labelled {stat.label.durable_at}, {len(held)} sites hold it")


def _holds_all(world: World, site: str, value: RegisterValue) -> bool:
    keys = [ShareKey(OWNER, value.register_id, body.version, body.epoch) for body in value.bodies]
    return site in world.plan.liars or all(is_good(world, site, key) for key in keys)


def _check_whole(world: World, name: str, value: RegisterValue, told: dict[tuple[str, str, str], str]) -> None:
    for body in value.bodies:
        key = ShareKey(OWNER, value.register_id, body.version, body.epoch)
        for site in honest_sites(world):
            if is_good(world, site, key):
                continue
            why = told.get((value.register_id, body.version, site), "")
            if not why or not world.plan.liars:
                world.trace.violate(f"after a repair of everything {site} lacks its share of {name}: {why or 'unsaid'}")
