"""How far a count may be from its mean, and a sample from what it was drawn from.

Every statement here fails with probability at most exp(-nats); ``nats`` is ln(1/epsilon). Counts are sums of
independent indicators that need not be alike, as an adversary may treat every pulse differently.

Sources: H. Chernoff (1952) in the forms P(X <= m - t) <= exp(-t^2/2m) and P(X >= m + t) <= exp(-t^2/(2m + 2t/3)), here
solved for the mean m; R. J. Serfling, Annals of Statistics 2, 39 (1974), for samples without replacement.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shosoin.link.information import Array

__all__ = ["count_min", "mean_max", "mean_min", "sampling_gap"]


def mean_max(count: npt.ArrayLike, nats: float) -> Array:
    """Return the largest mean from which a count is still plausible."""
    x = np.asarray(count, dtype=np.float64)
    return np.asarray(x + nats + np.sqrt(nats * (2.0 * x + nats)), dtype=np.float64)


def mean_min(count: npt.ArrayLike, nats: float) -> Array:
    """Return the smallest mean from which a count is still plausible, at least 0."""
    x = np.asarray(count, dtype=np.float64)
    gap = np.sqrt(4.0 / 9.0 * nats**2 + 2.0 * x * nats) - 2.0 / 3.0 * nats
    return np.asarray(np.maximum(x - gap, 0.0), dtype=np.float64)


def count_min(mean: npt.ArrayLike, nats: float) -> Array:
    """Return a count below which a sum with this mean plausibly does not fall, at least 0."""
    m = np.asarray(mean, dtype=np.float64)
    return np.asarray(np.maximum(m - np.sqrt(2.0 * m * nats), 0.0), dtype=np.float64)


def sampling_gap(rest: npt.ArrayLike, sample: npt.ArrayLike, nats: float) -> Array:
    """Return by how much the rate of errors in the rest may exceed that in a random sample of the whole.

    Both sizes are numbers of items; the gap is infinite where one is 0.
    """
    n, k = np.asarray(rest, dtype=np.float64), np.asarray(sample, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = np.sqrt((n + k) * (k + 1.0) * nats / (2.0 * n * k**2))
    return np.asarray(np.where((n > 0) & (k > 0), gap, np.inf), dtype=np.float64)
