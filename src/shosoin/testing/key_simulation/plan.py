"""Plans: which events come when; plain data that follows from a seed."""

from __future__ import annotations

from dataclasses import dataclass

from shosoin.base import SimulationRng
from shosoin.testing.key_simulation import copy_events, events, operator_events, worker_events
from shosoin.testing.key_simulation.kinds import KINDS, Group, Kind, Values
from shosoin.testing.simulation.seeds import hash_of

__all__ = ["Plan", "PlannedEvent", "make_plan"]

_SOURCES = (copy_events, events, operator_events, worker_events)
"""They fill ``KINDS``, in whatever order they are imported."""
_EVENTS_MIN, _EVENTS_MAX = 120, 260
_PACE_S = (0.01, 0.03, 0.06)
"""Mean times between two events: some plans leave no time to recover, some let the ends work."""
_USES = (1, 3, 8)
"""How often what SAEs do comes for each fault: likewise."""
_EMPHASES = (0, 0, 1, 1, 1, 4)
"""A kind of fault is left out, usual or frequent: plans that differ find more than some of everything in each."""


@dataclass(frozen=True, slots=True)
class PlannedEvent:
    """Something that happens at an end, at a time."""

    at_s: float
    kind: str
    end: str
    values: Values


@dataclass(frozen=True, slots=True)
class Plan:
    """One run."""

    seed: int
    events: tuple[PlannedEvent, ...]

    @property
    def seconds(self) -> float:
        """When the last event has happened."""
        return self.events[-1].at_s if self.events else 0.0

    @property
    def tls_is_broken(self) -> bool:
        """Whether somebody sits on the wire."""
        return any(KINDS[event.kind].group == Group.WIRE for event in self.events)


def make_plan(seed: int) -> Plan:
    """Return the plan of a seed."""
    rng = SimulationRng(hash_of(f"key plan {seed}"))
    kinds = _drawn_kinds(rng, with_wire=seed % 4 == 0)
    pace_s = rng.choice(_PACE_S)
    at_s, planned = 1.0, []
    for _ in range(rng.integer(_EVENTS_MIN, _EVENTS_MAX)):
        at_s += rng.uniform(0.0, 2 * pace_s)
        values = rng.integer(0, 65535), rng.integer(0, 65535), rng.integer(0, 65535)
        planned.append(PlannedEvent(at_s, rng.choice(kinds).name, rng.choice("ab"), values))
    return Plan(seed, tuple(planned))


def _drawn_kinds(rng: SimulationRng, *, with_wire: bool) -> list[Kind]:
    """Return kinds as often as they shall come."""
    drawn, uses = [], rng.choice(_USES)
    for _, kind in sorted(KINDS.items()):
        emphasis = uses if kind.group == Group.USE else rng.choice(_EMPHASES)
        if kind.group != Group.WIRE or with_wire:
            drawn += [kind] * kind.weight * emphasis
    return drawn
