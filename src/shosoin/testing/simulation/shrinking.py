"""Making a failing plan small: drop clients, operations, faults and lies as long as it still fails.

What is dropped changes the order of everything after it, so a smaller plan may fail in another way; only plans whose
violation ends in the words of one of the original's count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TypeVar

from shosoin.testing.simulation.plan import Fault, Plan
from shosoin.testing.simulation.simulate import Outcome, simulate

__all__ = ["shrink"]

T = TypeVar("T")


def shrink(outcome: Outcome, *, runs_max: int = 400, run: Callable[[Plan], Outcome] = simulate) -> Outcome:
    """Return the smallest failing outcome found with so many runs."""
    best, runs = outcome, 0
    progress = True
    while progress:
        progress = False
        for plan in _smaller(best.plan):
            if runs >= runs_max:
                return best
            runs += 1
            tried = run(plan)
            if _alike(tried, outcome):
                best, progress = tried, True
                break
    return best


def _alike(tried: Outcome, original: Outcome) -> bool:
    """Whether a run fails as the original did."""
    kinds = {_kind(violation) for violation in original.violations}
    return any(_kind(violation) in kinds for violation in tried.violations)


def _kind(violation: str) -> str:
    """Return the words of a violation without its names and numbers."""
    words = [word for word in violation.splitlines()[-1].split() if word.isalpha()]
    return " ".join(words[-4:])


def _smaller(plan: Plan) -> Iterator[Plan]:
    """Return plans with less in them, large pieces first."""
    for index in range(len(plan.clients)):
        if len(plan.clients) > 1:
            yield replace(plan, clients=_without(plan.clients, index), faults=_without_target(plan, index))
    for index in range(len(plan.faults)):
        yield replace(plan, faults=_without(plan.faults, index))
    for index in range(len(plan.mishaps)):
        yield replace(plan, mishaps=_without(plan.mishaps, index))
    for index in range(len(plan.lies)):
        yield replace(plan, lies=_without(plan.lies, index))
    for number, client in enumerate(plan.clients):
        for index in range(len(client.operations)):
            if len(client.operations) > 1:
                yield plan.with_client(number, _without(client.operations, index))


def _without(items: tuple[T, ...], index: int) -> tuple[T, ...]:
    return items[:index] + items[index + 1 :]


def _without_target(plan: Plan, index: int) -> tuple[Fault, ...]:
    """Return the faults that do not hit a client."""
    gone = plan.clients[index].name
    return tuple(fault for fault in plan.faults if fault.target != gone)
