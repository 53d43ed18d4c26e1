"""One run: clients at work while things go wrong, then quiet, then the reckoning."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from shosoin.testing.linearizability import find_violations
from shosoin.testing.simulation.checks import AUDITOR
from shosoin.testing.simulation.clients import Caller, Client, perform
from shosoin.testing.simulation.faults import arm, heal
from shosoin.testing.simulation.hostile_clients import HostileClient
from shosoin.testing.simulation.hostility import reckon_hostility, start_hostile_clients
from shosoin.testing.simulation.plan import Deed, Operation, Plan
from shosoin.testing.simulation.repairs import repair_all
from shosoin.testing.simulation.world import World, build_vault

__all__ = ["Outcome", "simulate"]

_CALM_S = 1.0
"""After the last fault ended."""
_PATIENCE_S = 3_000.0
"""Until every operation must have ended once all faults are over."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a plan."""

    plan: Plan
    violations: tuple[str, ...]
    lines: tuple[str, ...]
    digest: str
    counts: Counter[str]
    seconds: float
    """Simulated."""


def simulate(plan: Plan) -> Outcome:
    """Run a plan."""
    world = World(plan)
    clients = {each.name: Client(world, each) for each in plan.clients}
    hostile = start_hostile_clients(world)
    try:
        _work(world, clients, hostile)
        reckon_hostility(world, hostile)
        _reckon(world)
        reckon_hostility(world, [])
    finally:
        _end(world, clients)
    trace = world.trace
    return Outcome(plan, tuple(trace.violations), tuple(trace.lines), trace.digest(), trace.counts, world.kernel.now_s)


def _work(world: World, clients: dict[str, Client], hostile: list[HostileClient]) -> None:
    """Let the clients work until the faults are over, and after that until they are done."""
    arm(world, clients)
    kernel = world.kernel
    ends_s = [fault.at_s + fault.for_s for fault in world.plan.faults]
    ends_s += [mishap.at_s + mishap.for_s for mishap in world.plan.mishaps]
    over_s = max(ends_s, default=0.0) + _CALM_S

    def ended() -> bool:
        return all(client.ended for client in clients.values()) and all(client.ended for client in hostile)

    kernel.run(until_s=over_s, stop=ended)
    heal(world, clients)
    kernel.run(until_s=kernel.now_s + _PATIENCE_S, stop=ended)
    unfinished = [each.name for each in clients.values() if not each.ended]
    unfinished += [each.name for each in hostile if not each.ended]
    for name in unfinished:
        world.trace.violate(f"an operation of {name} never ends")


def _reckon(world: World) -> None:
    """Read everything back with a client that remembers nothing, and judge the history."""
    process = world.kernel.process(AUDITOR)
    caller = Caller(world, process.name, process, build_vault(world, process)[0])
    names = sorted({name for client in world.plan.clients for op in client.operations for name in op.names})
    deeds = [Operation(Deed.GET, (name,), 1, 0.0, 0, "its", "check") for name in names]
    deeds += [Operation(Deed.LS, (), 1, 0.0, 0, "its", "check"), Operation(Deed.AUDIT, (), 1, 0.0, 0, "its", "check")]
    deeds += [Operation(Deed.VERIFY, (name,), 1, 0.0, 0, "its", "check") for name in names[:1]]
    class_ = ("its", "qkd", "pqc")[world.plan.seed % 3]
    if world.plan.attacks:  # nobody may be blocked for good
        pairs = [(name, deed) for name in names for deed in (Deed.PUT, Deed.GET)]
        deeds += [Operation(deed, (name,), 1, 0.0, 100, class_, "check") for name, deed in pairs]
    deeds += [Operation(deed, ("new",), 1, 0.0, 100, class_, "check") for deed in (Deed.PUT, Deed.GET)]

    async def check() -> None:
        for deed in deeds:
            error = await perform(caller, deed)
            if error is not None and error.code == "vault.conflict" and world.plan.attacks:
                error = await perform(caller, deed)  # of what a thief left half done one writer may still hear
            if error is not None and error.code != "vault.not_found":
                world.trace.violate(f"after all faults ended, {deed.deed} {deed.names} fails: {error.code}: {error}")
        if world.plan.repairs:
            await repair_all(caller)

    task = process.start(check(), origin=AUDITOR)
    world.kernel.run(until_s=world.kernel.now_s + _PATIENCE_S, stop=task.done)
    if not task.done():
        world.trace.violate("after all faults ended, a check never ends")
    for violation in find_violations(world.history.operations):
        world.trace.violate(violation.story())


def _end(world: World, clients: dict[str, Client]) -> None:
    """Close all coroutines that are left."""
    for client in clients.values():
        client.process.kill()
    for host in world.network.hosts.values():
        if host.process is not None:
            host.process.kill()
