"""Errors nobody looked at, bounded by errors in a random sample: from the test basis to the phase error rate.

Single-photon detections of both bases are one population, and the basis chosen at random is a random sample of it.
The sample had so many errors; how many would the rest have had? Four answers, all for sampling without replacement:

* ``SERFLING``: Serfling's inequality. Proven for every sample, however small, and indifferent to the error rate.
* ``CHERNOFF``: the relative-entropy bound on the hypergeometric tail. Proven, and tight at low error rates.
* ``GAUSSIAN``: the closed form ``gamma`` of Lim et al. 2014, an expansion of Fung, Ma and Chau's bound about equal
  rates. It is what published curves use, but it is an approximation: with no error in the sample it adds nothing.
* ``GUARDED``: the larger of the last two, hence proven, and never more optimistic than what was published.

Sources: R. J. Serfling, Ann. Statist. 2, 39 (1974), corollary 1.1; V. Chvátal, Discrete Math. 25, 285 (1979);
C.-H. F. Fung, X. Ma, H. F. Chau, Phys. Rev. A 81, 012318 (2010); Lim et al., Phys. Rev. A 89, 022307 (2014), eq. (5).
"""

from __future__ import annotations

import enum

import numpy as np
import numpy.typing as npt

from shosoin.link.information import Array

__all__ = ["Sampling", "phase_error_rate_max"]

_NOTHING_KNOWN = 0.5
"""A phase error rate at which a bit carries no secret."""

_NEWTON_STEPS = 12

_TINY = 1e-300


class Sampling(enum.Enum):
    """How the error rate of what was not sampled is bounded."""

    SERFLING = "serfling"
    CHERNOFF = "chernoff"
    GAUSSIAN = "gaussian"
    GUARDED = "guarded"


def phase_error_rate_max(
    errors_max: npt.ArrayLike,
    tested_min: npt.ArrayLike,
    untested_min: npt.ArrayLike,
    *,
    failure_probability: npt.ArrayLike,
    method: Sampling,
) -> Array:
    """Return an upper bound, at most 0.5, on the error rate of the untested.

    Arguments broadcast. ``errors_max`` is an upper bound on errors among the tested, the next two are lower bounds on
    the numbers of tested and untested; every method only grows when a bound gets worse. ``failure_probability``, in
    (0, 1], is the chance that the bound is wrong although those three hold.
    """
    errors, tested, untested, failure = np.broadcast_arrays(
        *(np.asarray(value, dtype=np.float64) for value in (errors_max, tested_min, untested_min, failure_probability))
    )
    known = (tested >= 1.0) & (untested >= 1.0) & (errors < _NOTHING_KNOWN * tested) & (failure > 0.0)
    d, c = np.where(known, tested, 1.0), np.where(known, untested, 1.0)
    v, log_inverse = np.where(known, np.maximum(errors, 0.0), 0.0), -np.log(np.where(known, failure, 1.0))
    rate = _METHODS[method](v, d, c, log_inverse)
    return np.asarray(np.where(known, np.clip(rate, 0.0, _NOTHING_KNOWN), _NOTHING_KNOWN), dtype=np.float64)


def _serfling(v: Array, d: Array, c: Array, log_inverse: Array) -> Array:
    deviation = np.sqrt((c + d) * (d + 1.0) / (2.0 * c * d * d) * log_inverse)
    return np.asarray(v / d + deviation)


def _gaussian(v: Array, d: Array, c: Array, log_inverse: Array) -> Array:
    b = v / d
    variance = (c + d) * b * (1.0 - b) / (c * d)
    # b log(1/b) vanishes with b, and the formula with it.
    inverse_variance = (c + d) / (c * d * np.maximum(b * (1.0 - b), _TINY))
    bits = (np.log(inverse_variance) + log_inverse) / np.log(2.0)
    return np.asarray(b + np.sqrt(variance / np.log(2.0) * np.maximum(bits, 0.0)))


def _chernoff(v: Array, d: Array, c: Array, log_inverse: Array) -> Array:
    """Solve ``K KL(v/K || d/(c+d)) = log_inverse`` for w/c, where K = v + w errors are in all and w were not seen.

    Of K errors each falls among the d tested with probability d/(c+d), without replacement; that v or fewer do has at
    most the probability exp(-K KL). The exponent is convex and grows with w, so a step of Newton's never ends below the
    solution. The start is above it: where Chernoff's weaker exp(-(m - v)^2 / 2m), with m = K d/(c+d), is as small.
    """
    seen_mean_max = v + log_inverse + np.sqrt(log_inverse * (2.0 * v + log_inverse))
    mean = np.maximum(v * c / d, _TINY)  # of w, if the sample were no better than the rest
    w = start = np.clip(seen_mean_max * (c + d) / d - v, mean, np.maximum(mean, _NOTHING_KNOWN * c))
    for _ in range(_NEWTON_STEPS):
        seen_mean, unseen_mean = (v + w) * d / (c + d), (v + w) * c / (c + d)
        beyond = (w * d - v * c) / (c + d)  # both w - unseen_mean and seen_mean - v, with all its digits
        slope = np.log1p(beyond / unseen_mean)
        near, far = np.log1p(-np.minimum(beyond / seen_mean, 0.5)), np.log(np.maximum(v, _TINY) / seen_mean)
        exponent = w * slope + v * np.where(2.0 * v < seen_mean, far, near)
        w = np.clip(w - (exponent - log_inverse) / np.maximum(slope, _TINY), mean, start)
    return np.asarray(w / c)


def _guarded(v: Array, d: Array, c: Array, log_inverse: Array) -> Array:
    return np.maximum(_gaussian(v, d, c, log_inverse), _chernoff(v, d, c, log_inverse))


_METHODS = {
    Sampling.SERFLING: _serfling,
    Sampling.CHERNOFF: _chernoff,
    Sampling.GAUSSIAN: _gaussian,
    Sampling.GUARDED: _guarded,
}
