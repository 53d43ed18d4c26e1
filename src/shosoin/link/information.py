"""The two formulas that every rate model needs: the binary entropy, and the exact union of independent clicks.

Papers often add probabilities (a dark count *or* a photon) as if both were rare. Sums leave [0, 1] in daylight or at
short distance; the union ``1 - (1 - p)(1 - q)`` does not, and agrees with the sum where both are small.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "binary_entropy", "union"]

Array = npt.NDArray[np.float64]


def binary_entropy(probability: npt.ArrayLike) -> Array:
    """Return h(p) = -p log2 p - (1-p) log2 (1-p) in bits; values outside [0, 1] are taken as 0 or 1."""
    p = np.clip(np.asarray(probability, dtype=np.float64), 0.0, 1.0)
    q = 1.0 - p
    # log2 of the smallest positive number times zero is zero, as the limit wants.
    return np.asarray(-p * np.log2(np.maximum(p, 5e-324)) - q * np.log2(np.maximum(q, 5e-324)), dtype=np.float64)


def union(*probabilities: npt.ArrayLike) -> Array:
    """Return the probability that at least one of independent events happens."""
    some = np.asarray(0.0, dtype=np.float64)
    for probability in probabilities:
        # Not 1 - (1 - p)(1 - q), which loses what is far below 1e-16.
        some = some + np.asarray(probability, dtype=np.float64) * (1.0 - some)
    return np.asarray(some, dtype=np.float64)
