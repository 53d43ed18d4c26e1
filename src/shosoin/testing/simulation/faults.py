"""Putting the faults of a plan into a world, and taking them all away again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from shosoin.base import OwnerId, SaeId
from shosoin.testing.simulation.clients import Client
from shosoin.testing.simulation.plan import Fault, FaultKind
from shosoin.testing.simulation.share_faults import arm_mishaps
from shosoin.testing.simulation.world import OWNER, World

__all__ = ["arm", "heal"]


def arm(world: World, clients: dict[str, Client]) -> None:
    """Schedule every fault and every roll-back of the plan."""
    for fault in world.plan.faults:
        if fault.kind is FaultKind.DISK_CRASH:
            world.disks[fault.target].crash_points[fault.number] = fault.phase
            world.reboot_after_s[fault.target] = fault.for_s
        elif fault.kind is FaultKind.CLIENT_CRASH:
            clients[fault.target].dies_at[fault.number] = fault.for_s
        elif fault.kind is FaultKind.CLIENT_STALL:
            clients[fault.target].stalls_at[fault.number] = fault.for_s
        else:
            world.kernel.at(fault.at_s, partial(_begin, world, clients, fault))
    arm_mishaps(world)
    for lie in world.plan.lies:
        if lie.kind == "roll_back":
            world.kernel.at(lie.at_s, world.disks[lie.site].save)
            world.kernel.at(lie.at_s + 1.0, partial(_set_back, world, lie.site))


def _set_back(world: World, site: str) -> None:
    if world.calm:
        return
    world.crash(site, silent=False, down_s=0.1)
    if world.disks[site].set_back():
        world.trace.tell(site, "lies: goes back to an old snapshot of its disk", count="lies")


def _begin(world: World, clients: dict[str, Client], fault: Fault) -> None:
    if world.calm:
        return
    targets, end = fault.target.split(), partial(world.kernel.after, fault.for_s)
    match fault.kind:
        case FaultKind.NODE_CRASH:
            for site in targets:
                world.crash(site, silent=fault.silent, down_s=fault.for_s)
        case FaultKind.NODE_FREEZE | FaultKind.CLIENT_FREEZE:
            for target in targets:
                process = clients[target].process if target in clients else world.host(target).process
                if process is not None and process.alive:
                    world.trace.tell(target, f"freezes for {fault.for_s:.3g} s", count="freezes")
                    process.freeze()
                    end(process.thaw)
        case FaultKind.CUT_TO | FaultKind.CUT_FROM | FaultKind.CUT_PAIR:
            _cut(world, fault, 1)
            end(partial(_cut, world, fault, -1))
        case FaultKind.CLOCK_STEP:
            process = world.host(fault.target).process
            if process is not None:
                world.trace.tell(fault.target, f"has its clock stepped by {fault.rate:.3g} s", count="clock steps")
                process.wall_offset_s += fault.rate * (1 if fault.silent else -1)
        case _:
            _degrade(world, fault, end)


def _cut(world: World, fault: Fault, by: int) -> None:
    """Begin a cut (by 1) or end it (by -1)."""
    if by < 0 and world.calm:
        return
    client = fault.other if fault.kind is FaultKind.CUT_PAIR else "*"
    for site in fault.target.split():
        host = world.host(site)
        if fault.kind is not FaultKind.CUT_FROM:
            host.deaf[client] += by
        if fault.kind is not FaultKind.CUT_TO:
            host.mute[client] += by
    who = "anybody" if client == "*" else client
    what = {FaultKind.CUT_TO: f"no longer hear {who}", FaultKind.CUT_FROM: f"are no longer heard by {who}"}
    text = what.get(fault.kind, f"and {who} are cut apart") if by > 0 else f"and {who} hear each other again"
    world.trace.tell("network", f"{fault.target} {text}", count="partitions" if by > 0 else "")


def _degrade(world: World, fault: Fault, end: Callable[[Callable[[], object]], object]) -> None:
    """Make something worse for a while."""
    target, network = fault.target, world.network
    pair = SaeId(OwnerId(OWNER)), SaeId(f"node-{target}")
    changes: dict[FaultKind, tuple[str, Callable[[], object], Callable[[], object]]] = {
        FaultKind.LOSS: (
            f"{fault.rate:.0%} of all messages are lost",
            partial(setattr, network, "loss", fault.rate),
            partial(setattr, network, "loss", 0.0),
        ),
        FaultKind.DOUBLE: (
            f"{fault.rate:.0%} of all requests come twice",
            partial(setattr, network, "double", fault.rate),
            partial(setattr, network, "double", 0.0),
        ),
        FaultKind.SLOW: (
            f"messages of {target} take up to {fault.rate:.3g} s more",
            partial(setattr, world.host(target), "slow_s", fault.rate),
            partial(setattr, world.host(target), "slow_s", 0.0),
        ),
        FaultKind.DISK_FULL: (
            f"the disk of {target} is full",
            partial(setattr, world.disks[target], "full", True),
            partial(setattr, world.disks[target], "full", False),
        ),
        FaultKind.KEYS_DRY: (
            f"the keys for {target} run out",
            partial(world.keys.stock_bits.__setitem__, pair, 0),
            partial(world.keys.stock_bits.pop, pair, None),
        ),
        FaultKind.KME_DOWN: (
            f"the KME of {target} is away",
            partial(world.kmes_away.add, target),
            partial(world.kmes_away.discard, target),
        ),
    }
    text, begin, over = changes[fault.kind]
    world.trace.tell("nature", f"{text}, for {fault.for_s:.3g} s", count=fault.kind.value.replace("_", " "))
    begin()
    end(over)


def heal(world: World, clients: dict[str, Client]) -> None:
    """End every fault: all that is not a lie works again."""
    world.calm = True
    world.trace.tell("nature", "all faults are over")
    network = world.network
    network.loss = network.double = 0.0
    world.keys.stock_bits.clear()
    world.kmes_away.clear()
    for site, host in ((site, world.host(site)) for site in world.plan.sites):
        host.deaf.clear()
        host.mute.clear()
        host.slow_s = 0.0
        world.disks[site].full = False
        world.disks[site].crash_points.clear()
        if host.process is not None:
            host.process.thaw()
        world.boot(site)
    for client in clients.values():
        client.dies_at.clear()
        client.stalls_at.clear()
        client.process.thaw()
        client.boot()
