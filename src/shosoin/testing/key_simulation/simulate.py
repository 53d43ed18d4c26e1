"""Running a plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

from shosoin.testing.key_simulation.calm import calm_down
from shosoin.testing.key_simulation.kinds import happen
from shosoin.testing.key_simulation.plan import Plan
from shosoin.testing.key_simulation.world import World
from shosoin.testing.simulation.seeds import hash_of

__all__ = ["Outcome", "simulate"]

_AFTERMATH_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a plan led to."""

    plan: Plan
    violations: tuple[str, ...]
    lines: tuple[str, ...]
    counts: Counter[str]
    seconds: float
    """Simulated."""
    digest: str


def simulate(plan: Plan) -> Outcome:
    """Run a plan; equal plans give equal outcomes."""
    world = World(hash_of(f"key world {plan.seed}"))
    world.judge.names_can_be_forged = plan.tls_is_broken
    for event in plan.events:
        world.at(event.at_s, partial(happen, world, event.kind, event.end, event.values))
    try:
        world.run_until(plan.seconds + _AFTERMATH_S)
        if not world.trace.violations:
            calm_down(world, tls_was_broken=plan.tls_is_broken)
    except RuntimeError as err:
        world.trace.violate(f"the simulation fails: {err}")
    trace = world.trace
    trace.counts["events"] += len(plan.events)
    return Outcome(plan, tuple(trace.violations), tuple(trace.lines), trace.counts, world.now_s, trace.digest())
