"""Exact binomial tails: how unlikely is what was counted, if the link were as it should be.

Source: Clopper, Pearson, Biometrika 26, 404 (1934); the tail of a binomial is a regularised incomplete beta function.
"""

from __future__ import annotations

from collections.abc import Callable

from scipy.special import betainc, betaincc

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
    if successes >= trials:
        return 1.0
    return max(SMALLEST, float(betaincc(successes + 1, trials - successes, probability)))


def confidence_interval(successes: int, trials: int, miss: float) -> tuple[float, float]:
    """Return an interval that misses the true probability below it, or above it, with probability ``miss`` at most.

    Each end is where its tail is ``miss``, by bisection: the inverse in SciPy is off by a factor for 10^11 trials.

    Raises:
        ValueError: a probability outside of (1e-200, 1), which no tail here falls below.
    """
    if not SMALLEST < miss < 1.0:
        raise ValueError(f"want a probability from {SMALLEST} to 1, got {miss}")
    return _low_end(successes, trials, miss), _high_end(successes, trials, miss)


def _low_end(successes: int, trials: int, miss: float) -> float:
    if successes <= 0:
        return 0.0
    low = high = successes / trials
    while at_least(successes, trials, low) > miss:
        low, high = low / 2, low
    return _bisected(lambda middle: at_least(successes, trials, middle) <= miss, low, high)[0]


def _high_end(successes: int, trials: int, miss: float) -> float:
    if successes >= trials:
        return 1.0
    low = high = max(successes, 0.5) / trials
    while high < 1.0 and at_most(successes, trials, high) > miss:
        low, high = high, min(1.0, 2 * high)
    return _bisected(lambda middle: at_most(successes, trials, middle) > miss, low, high)[1]


def _bisected(is_low: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if is_low(middle) else (low, middle)
    return low, high
