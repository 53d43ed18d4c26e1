"""Exact binomial tails: how unlikely is what was counted, if the link were as it should be.

Source: Clopper, Pearson, Biometrika 26, 404 (1934); the tail of a binomial is a regularised incomplete beta function.
"""

from __future__ import annotations

from scipy.special import betainc, betaincinv

__all__ = ["at_least", "at_most", "confidence_interval"]

SMALLEST = 1e-200
"""Tails below this are given as this."""


def at_least(successes: int, trials: int, probability: float) -> float:
    """Return P(X >= successes) of a binomial; the largest over all probabilities up to the one given."""
    if successes <= 0:
        return 1.0
    return max(SMALLEST, float(betainc(successes, trials - successes + 1, probability)))


def at_most(successes: int, trials: int, probability: float) -> float:
    """Return P(X <= successes) of a binomial; the largest over all probabilities from the one given."""
    return at_least(trials - successes, trials, 1.0 - probability)


def confidence_interval(successes: int, trials: int, miss: float) -> tuple[float, float]:
    """Return an interval that misses the true probability below it, or above it, with probability ``miss`` at most."""
    low = float(betaincinv(successes, trials - successes + 1, miss)) if successes > 0 else 0.0
    # The complement keeps its precision where the interval ends near 1.
    high = 1.0 - float(betaincinv(trials - successes, successes + 1, miss)) if successes < trials else 1.0
    return low, high
