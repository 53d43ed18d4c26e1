"""How many errors an ensemble of LDPC codes corrects if frames are endless: discretised density evolution for the BSC.

What edges carry, given that the bit was right, is a probability density of log-likelihood ratios, and a round of belief
propagation maps it to the next (Richardson, Urbanke, IEEE Trans. Inf. Theory 47, 599, 2001). Densities are kept on a
grid of ratios (Chung, Forney, Richardson, Urbanke, IEEE Commun. Lett. 5, 58, 2001), of which the channel's two values
are points. Columns add ratios, products of Fourier transforms long enough that nothing wraps around; checks combine two
ratios to the nearest grid point, sign and magnitude apart, and more of them by repeated squaring.

Frames of finite length do worse, and so does a decoder that stops after some rounds: no threshold here is a plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft, optimize

from shosoin.link.information import binary_entropy

__all__ = ["Ensemble", "evolution", "rounds_to_correct", "stability_limit", "threshold"]

Array = npt.NDArray[np.float64]

_RATIO_MAX = 24.0
"""Nats; a bit is wrong with a probability of 4e-11 at this ratio, far below ``_CORRECTED``."""
_CORRECTED = 1e-5
"""Errors below this share vanish, for an ensemble that is stable."""
_NO_MASS = 1e-10
"""Less than this at a ratio does not make a transform longer: it may wrap around."""


@dataclass(frozen=True, slots=True)
class Ensemble:
    """All codes with these shares of edges.

    Raises:
        ValueError: a degree below 2, a share that is not positive, or shares of no sum near 1.
    """

    columns: Mapping[int, float]
    """Share of the edges at columns of each degree; divided by their sum wherever they are used."""
    checks: Mapping[int, float]
    """The same for checks."""

    def __post_init__(self) -> None:
        for shares in (self.columns, self.checks):
            if not shares or min(shares) < 2 or min(shares.values()) <= 0 or not 0.9 < sum(shares.values()) < 1.1:
                raise ValueError("an ensemble wants degrees from 2 and positive shares of edges that add up to 1")

    @staticmethod
    def of_columns(counts: Mapping[int, int], rows: int) -> Ensemble:
        """Return that of a code with so many columns of each degree, its edges spread evenly over the rows."""
        edges = sum(degree * count for degree, count in counts.items())
        low, longer = divmod(edges, rows)
        checks = {low: low * (rows - longer) / edges, low + 1: (low + 1) * longer / edges}
        return Ensemble(
            {degree: degree * count / edges for degree, count in counts.items() if count},
            {degree: share for degree, share in checks.items() if share},
        )

    @property
    def rate(self) -> float:
        """Payload over frame bits: 1 less the checks for each column."""
        return 1 - _per_edge(self.checks) / _per_edge(self.columns)

    def column_counts(self, columns: int) -> dict[int, int]:
        """Return whole numbers of columns of each degree, by largest remainders."""
        shares = {degree: share / degree for degree, share in sorted(self.columns.items())}
        exact = {degree: columns * share / sum(shares.values()) for degree, share in shares.items()}
        counts = {degree: int(count) for degree, count in exact.items()}
        for degree in sorted(exact, key=lambda d: counts[d] - exact[d])[: columns - sum(counts.values())]:
            counts[degree] += 1
        return {degree: count for degree, count in counts.items() if count}


def _per_edge(shares: Mapping[int, float]) -> float:
    return sum(share / degree for degree, share in shares.items()) / sum(shares.values())


class _Grid:
    """Ratios at whole multiples of a step, so chosen that the channel's ratio is one of them."""

    def __init__(self, qber: float, step: float) -> None:
        ratio = float(np.log((1 - qber) / qber))
        self.qber = qber
        self.channel = max(1, round(ratio / step))
        self.size = round(_RATIO_MAX * self.channel / ratio)
        self.step = ratio / self.channel
        self._reached_by = self._combinations()

    def _combinations(self) -> npt.NDArray[np.intp]:
        """Return, for each k and each i from k, the least j with which i combines to k or more, up to where k will do.

        A combination is never larger than either part. It is the smaller one, rounded, if the larger is so much larger
        that its correction is less than half a step.
        """
        window = int(np.ceil(-np.log(np.expm1(self.step / 2)) / self.step))
        magnitudes = self.step * np.arange(self.size + 1 + window)
        sums, gaps = np.add.outer(magnitudes, magnitudes), np.abs(np.subtract.outer(magnitudes, magnitudes))
        least = np.minimum.outer(magnitudes, magnitudes)
        combined = np.rint((least + np.log1p(np.exp(-sums)) - np.log1p(np.exp(-gaps))) / self.step).astype(np.intp)
        # No row decreases, so the place where k would be inserted is the least j that gives k.
        reached_by = np.array([np.searchsorted(row, np.arange(self.size + 1)) for row in combined])
        levels = np.arange(self.size + 1)[:, None]
        bounded: npt.NDArray[np.intp] = np.minimum(reached_by[levels + np.arange(window), levels], self.size + 1)
        return bounded

    def start(self) -> Array:
        """Return what columns send at first: densities over -size to size."""
        density = np.zeros(2 * self.size + 1)
        density[self.size + self.channel], density[self.size - self.channel] = 1 - self.qber, self.qber
        return density

    def through_checks(self, sent: Array, checks: Mapping[int, float]) -> Array:
        """Return what checks answer."""
        positive, negative = sent[self.size :].copy(), sent[self.size :: -1].copy()
        positive[0] /= 2
        negative[0] /= 2
        # The sum and the difference of both signs combine each with its own kind: a transform over the sign.
        powers = _Powers(np.stack([positive + negative, positive - negative]), self._combined)
        either, difference = powers.average(checks)
        answered = np.empty(2 * self.size + 1)
        answered[self.size :] = (either + difference) / 2
        answered[self.size :: -1] = (either - difference) / 2
        answered[self.size] = either[0]
        return np.clip(answered, 0, None)

    def _combined(self, one: Array, other: Array) -> Array:
        """Return the density of two magnitudes combined: first of how often it is k or more, then of k."""
        window = self._reached_by.shape[1]
        near = np.lib.stride_tricks.sliding_window_view(_padded(one, window - 1), window, axis=1)
        reached: Array = np.einsum("skw,skw->sk", near, _tails(other, 1)[:, self._reached_by])
        reached += _tails(one, window)[:, window:] * _tails(other, 0)
        reached[:, :-1] -= reached[:, 1:]
        return reached

    def through_columns(self, answered: Array, columns: Mapping[int, float]) -> Array:
        """Return what columns send, having heard the channel and checks."""
        reach = self._reach(answered)
        span = (max(columns) - 1) * reach + self.channel
        length = fft.next_fast_len(2 * span + 1, real=True)
        powers = _Powers(_transform(answered, self.size, length), np.multiply)
        summed = fft.irfft(powers.average(columns), length)
        summed = (1 - self.qber) * np.roll(summed, self.channel) + self.qber * np.roll(summed, -self.channel)
        around = np.concatenate([summed[-span:], summed[: span + 1]])
        return self._saturated(np.clip(around, 0, None), span)

    def _reach(self, density: Array) -> int:
        """Return how far from zero there is any mass worth counting."""
        return int(np.abs(np.flatnonzero(density > _NO_MASS) - self.size).max(initial=1))

    def _saturated(self, density: Array, span: int) -> Array:
        """Return a density over -span to span with all beyond -size to size moved to the ends, of mass 1."""
        if span < self.size:
            kept = np.pad(density, self.size - span)
        else:
            kept = density[span - self.size : span + self.size + 1].copy()
            kept[0] += density[: span - self.size].sum()
            kept[-1] += density[span + self.size + 1 :].sum()
        normal: Array = kept / kept.sum()
        return normal

    def error(self, density: Array) -> float:
        """Return the share of wrong decisions."""
        return float(density[: self.size].sum() + density[self.size] / 2)

    def entropy(self, density: Array) -> float:
        """Return the bits that are missing, on average."""
        ratios = np.arange(-self.size, self.size + 1) * self.step
        return float(density @ np.logaddexp(0, -ratios)) / float(np.log(2))


def _padded(densities: Array, zeros: int) -> Array:
    return np.concatenate([densities, np.zeros((2, zeros))], axis=1)


def _tails(densities: Array, zeros: int) -> Array:
    """Return how much lies at each level or above, with so many levels more than there are."""
    return _padded(np.cumsum(densities[:, ::-1], axis=1)[:, ::-1], zeros)


def _transform(density: Array, size: int, length: int) -> npt.NDArray[np.complex128]:
    """Return the Fourier transform of what fits a circle of this length, zero at its start."""
    fits = min(size, (length - 1) // 2)
    circle = np.zeros(length)
    circle[: fits + 1] = density[size : size + fits + 1]
    circle[-fits:] = density[size - fits : size]
    transform: npt.NDArray[np.complex128] = fft.rfft(circle)
    return transform


class _Powers:
    """Powers of one density under one product, each multiplied from halves and kept."""

    def __init__(self, base: npt.NDArray[Any], multiply: Callable[[Any, Any], Any]) -> None:
        self._known = {1: base}
        self._multiply = multiply

    def average(self, edges: Mapping[int, float]) -> npt.NDArray[Any]:
        """Return what an edge gets at a node of drawn degree: all the other edges there, combined."""
        total = np.zeros_like(self._known[1])
        for degree, share in _normalised(edges):
            total += share * self.of(degree - 1)
        return total

    def of(self, exponent: int) -> npt.NDArray[Any]:
        if exponent not in self._known:
            below = max(known for known in self._known if known < exponent)
            largest = below if exponent - below in self._known else exponent // 2
            self._known[exponent] = self._multiply(self.of(exponent - largest), self.of(largest))
        return self._known[exponent]


def _normalised(shares: Mapping[int, float]) -> list[tuple[int, float]]:
    total = sum(shares.values())
    return [(degree, share / total) for degree, share in sorted(shares.items())]


def evolution(ensemble: Ensemble, qber: float, *, step: float = 0.15) -> Iterator[tuple[float, float]]:
    """Yield, for what columns send before the first round and after each, the share that is wrong and the entropy.

    Args:
        ensemble: the degrees.
        qber: error rate of the channel, above 0 and below 1/2.
        step: nats between ratios, about. Answers fainter than half of it are lost, so a large one is pessimistic.
    """
    grid = _Grid(qber, step)
    sent = grid.start()
    while True:
        yield grid.error(sent), grid.entropy(sent)
        sent = grid.through_columns(grid.through_checks(sent, ensemble.checks), ensemble.columns)


def rounds_to_correct(
    ensemble: Ensemble, qber: float, *, step: float = 0.15, rounds_max: int = 2000, stall: float = 1e-4
) -> int | None:
    """Return the rounds of belief propagation until one edge in 100,000 is wrong; None if that is not reached.

    Args:
        ensemble: the degrees.
        qber: as for :func:`evolution`.
        step: likewise.
        rounds_max: give up after so many.
        stall: give up when a round removes a smaller share than this of the entropy left.
    """
    before = 2.0
    for done, (error, entropy) in enumerate(islice(evolution(ensemble, qber, step=step), rounds_max + 1)):
        if error < _CORRECTED:
            return done
        # Errors may stay as they are for a round or two while the right bits become surer; entropy does not.
        if entropy > before * (1 - stall):
            return None
        before = entropy
    return None


def stability_limit(ensemble: Ensemble) -> float:
    """Return the error rate above which few errors grow, because of columns with two edges; 1/2 if there are none.

    Source: Richardson, Shokrollahi, Urbanke, IEEE Trans. Inf. Theory 47, 619, 2001; for the binary symmetric channel,
    equation 8 of arXiv 0901.2140.
    """
    light = dict(_normalised(ensemble.columns)).get(2, 0.0)
    growth = light * sum((degree - 1) * share for degree, share in _normalised(ensemble.checks))
    return _root(lambda qber: 2 * growth * float(np.sqrt(qber * (1 - qber))) - 1)


def threshold(ensemble: Ensemble, *, step: float = 0.15, precision: float = 0.01) -> float:
    """Return the largest error rate that belief propagation corrects in endless frames.

    Args:
        ensemble: the degrees.
        step: as for :func:`evolution`. At 0.15 thresholds are up to half a per cent too small, and less at 0.1.
        precision: twice the largest error of the search, relative to the Shannon limit.
    """
    limit = _root(lambda qber: float(binary_entropy(qber)) - (1 - ensemble.rate))
    low, high = 0.0, min(limit, stability_limit(ensemble))
    while high - low > precision * limit:
        middle = (low + high) / 2 if low else high * 0.93
        if rounds_to_correct(ensemble, middle, step=step, stall=precision / 20) is None:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def _root(excess: Callable[[float], float]) -> float:
    """Return where a growing function of an error rate passes zero, 1/2 if it does not."""
    return 0.5 if excess(0.5) <= 0 else float(optimize.brentq(excess, 1e-9, 0.5))
