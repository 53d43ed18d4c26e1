"""A deterministic simulation of a whole vault: one seed replays everything.

>>> from shosoin.testing.simulation import make_plan, simulate
>>> outcome = simulate(make_plan(1))
>>> outcome.violations
()
>>> outcome.digest == simulate(make_plan(1)).digest
True
"""

from shosoin.testing.simulation.plan import Liars, Plan, make_plan
from shosoin.testing.simulation.simulate import Outcome, simulate

__all__ = ["Liars", "Outcome", "Plan", "make_plan", "simulate"]
