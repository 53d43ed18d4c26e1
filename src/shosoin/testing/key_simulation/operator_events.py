"""What operators of both ends do to the pair."""

from __future__ import annotations

from functools import partial

from shosoin.testing.key_simulation.kinds import Values, event
from shosoin.testing.key_simulation.operators import Order
from shosoin.testing.key_simulation.process import OTHER
from shosoin.testing.key_simulation.world import World

__all__ = ["burn_pair"]


@event(4)
def burn_pair(world: World, end: str, values: Values) -> None:
    """Let the operator of an end burn the pair."""
    world.operators[end].begin(Order.BURN, values)


@event(2)
def heal_site(world: World, end: str, values: Values) -> None:
    """Let the operator of an end heal it: the pair awaits another secret, which comes soon or late."""
    world.operators[end].begin(Order.HEAL, values)
    if values[2] % 4:
        world.after(1.2 + values[2] % 11 / 10, partial(rekey_pair, world, end, values))


@event(3)
def rekey_pair(world: World, end: str, values: Values) -> None:
    """Let both operators put another secret in place, one earlier than the other, or one of them not at all."""
    world.operators[end].begin(Order.REKEY, values)
    if values[1] % 4:
        later = (values[1], values[2], values[0])
        world.after(values[2] % 1700 / 1000, lambda: world.operators[OTHER[end]].begin(Order.REKEY, later))


@event(2)
def reuse_secret(world: World, end: str, values: Values) -> None:
    """Let both operators put a secret in place that the pair has had before; their journals know better."""
    old = world.secrets[values[0] % max(1, len(world.secrets) - 1)]
    both = [world.operators[each] for each in (end, OTHER[end])]
    if len(world.secrets) > 1 and all(operator.remembers(old) for operator in both):
        for operator in both:
            operator.begin(Order.REUSE, values)
