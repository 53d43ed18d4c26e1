"""A deterministic simulation of both ends of a pair of KMEs: one seed replays everything.

>>> from shosoin.testing.key_simulation import make_plan, simulate
>>> outcome = simulate(make_plan(1))
>>> outcome.violations
()
>>> outcome.digest == simulate(make_plan(1)).digest
True
"""

from shosoin.testing.key_simulation.plan import Plan, PlannedEvent, make_plan
from shosoin.testing.key_simulation.shrinking import shrink
from shosoin.testing.key_simulation.simulate import Outcome, simulate

__all__ = ["Outcome", "Plan", "PlannedEvent", "make_plan", "shrink", "simulate"]
