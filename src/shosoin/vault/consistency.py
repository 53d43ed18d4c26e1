"""Decide whether values at evaluation points lie on one polynomial, and if not, whose do not.

With more than k answers a wrong one is noticed; with k + 2e answers e wrong ones are named without any key. Used on
audit digests (one element per site) and, element by element, wherever no MAC can decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from shosoin.base import SiteId
from shosoin.kernels import element_mul, lagrange_weights

__all__ = ["agreeing_sites"]


def _value_at(points: list[int], values: list[int], at: int) -> int:
    total = 0
    for weight, value in zip(lagrange_weights(points, at), values, strict=True):
        total ^= element_mul(weight, value)
    return total


def agreeing_sites(
    answers: Mapping[SiteId, tuple[int, int]], k: int, wrong_max: int, trusted: SiteId
) -> frozenset[SiteId] | None:
    """Return the sites whose answers lie on one polynomial of degree below k.

    ``answers`` maps a site to (point, value). Sets that leave out 0, 1, ... ``wrong_max`` sites are tried. ``None``
    means that no set of at least k+1 answers agrees, or more than one would. A set without the ``trusted`` site, if it
    answered, does not count: k-1 others could shift their shares so that they frame it.
    """
    for wrong in range(wrong_max + 1):
        size = len(answers) - wrong
        if size < k + 1 and wrong:
            return None
        found = [
            frozenset(subset)
            for subset in combinations(answers, size)
            if (trusted in subset or trusted not in answers) and _agree(answers, subset, k)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            return None
    return None


def _agree(answers: Mapping[SiteId, tuple[int, int]], subset: tuple[SiteId, ...], k: int) -> bool:
    base = [answers[site] for site in subset[:k]]
    points, values = [point for point, _ in base], [value for _, value in base]
    return all(_value_at(points, values, answers[site][0]) == answers[site][1] for site in subset[k:])
