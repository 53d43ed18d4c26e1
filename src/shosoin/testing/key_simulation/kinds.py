"""Kinds of events: what a plan can draw.

An event has an end and three numbers below 2**16, which its function reads as it likes; so a plan is plain data, and a
new kind is a new function under ``event``, in ``events`` or a module beside it. ``weight`` says how often a plan draws
the kind; kinds of group ``wire`` come only in plans where somebody broke the TLS between the KMEs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shosoin.testing.key_simulation.world import World

__all__ = ["KINDS", "Group", "Kind", "Values", "event", "happen"]

Values = tuple[int, int, int]
Reaction = Callable[[World, str, Values], None]


class Group:
    """Names of groups of kinds."""

    USE, FAULT, WIRE = "use", "fault", "wire"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of event."""

    name: str
    group: str
    weight: int
    react: Reaction


KINDS: dict[str, Kind] = {}


def event(weight: int, group: str = Group.FAULT) -> Callable[[Reaction], Reaction]:
    """Register a kind of event under its function's name."""

    def register(react: Reaction) -> Reaction:
        KINDS[react.__name__] = Kind(react.__name__, group, weight, react)
        return react

    return register


def happen(world: World, kind: str, end: str, values: Values) -> None:
    """Let an event happen."""
    world.trace.tell("---", f"{kind} {end} {values}", count=kind)
    KINDS[kind].react(world, end, values)
