"""Making a failing plan small: drop events, many at once first, as long as it still fails in the same words."""

from __future__ import annotations

from dataclasses import replace

from shosoin.testing.key_simulation.simulate import Outcome, simulate

__all__ = ["shrink"]


def shrink(outcome: Outcome, *, runs_max: int = 600) -> Outcome:
    """Return the smallest failing outcome found with so many runs."""
    best, size, runs = outcome, max(1, len(outcome.plan.events) // 2), 0
    while True:
        start, progress = 0, False
        while start < len(best.plan.events) and runs < runs_max:
            events = best.plan.events[:start] + best.plan.events[start + size :]
            tried, runs = simulate(replace(best.plan, events=events)), runs + 1
            if any(_kind(violation) == _kind(outcome.violations[0]) for violation in tried.violations):
                best, progress = tried, True
            else:
                start += size
        if runs >= runs_max or (size == 1 and not progress):
            return best
        size = max(1, size // 2)


def _kind(violation: str) -> str:
    """Return the words of a violation without its names and numbers."""
    return " ".join(word for word in violation.splitlines()[-1].split() if word.isalpha())
