"""The best setting of a source at every attenuation, found for all attenuations at once.

Rate models have one to six free settings (intensities, probabilities), are smooth, and are cheap on whole arrays. So a
grid is laid over one setting, the best point is kept, and the grid is drawn closer around it; several settings take
turns. No derivative and no random start: the same question always has the same answer. The result is a setting that
was tried, so what it yields is attained whether or not it is the global optimum.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from shosoin.link.information import Array

__all__ = ["best_settings"]

_GRID_POINTS = 17
_ZOOMS = 4


def best_settings(
    objective: Callable[[dict[str, Array]], Array],
    ranges: Mapping[str, tuple[float, float]],
    *,
    start: Mapping[str, float] | None = None,
    rounds: int = 1,
) -> dict[str, Array]:
    """Return for each name the value within its range (low, high; both above 0) that maximises the objective.

    Args:
        objective: takes one array per name, each of shape (candidates, *shape) or (*shape,), and returns the figure
            to maximise in the broadcast shape; it must accept a leading axis of candidates. It may be negative.
        ranges: bounds per name; searched on a logarithmic scale.
        start: first values when there are several names; the geometric middle of the range by default.
        rounds: how often each setting gets its turn; later turns search an ever smaller surrounding.

    Returns:
        One array per name, of the shape that the objective returns for scalar settings.
    """
    names = list(ranges)
    at = {name: (start or {}).get(name, float(np.sqrt(np.prod(ranges[name])))) for name in names}
    shape = np.shape(objective({name: np.asarray(value, dtype=np.float64) for name, value in at.items()}))
    values = {name: np.full(shape, at[name]) for name in names}
    for turn in range(rounds):
        for name in names:
            low, high = (np.log(bound) for bound in ranges[name])
            half_width = (high - low) * 0.7**turn
            values[name] = _best_along(objective, values, name, low, high, half_width)
    return values


def _best_along(
    objective: Callable[[dict[str, Array]], Array],
    values: dict[str, Array],
    name: str,
    low: float,
    high: float,
    half_width: float,
) -> Array:
    centre = np.log(values[name])
    offsets = np.linspace(-1.0, 1.0, _GRID_POINTS).reshape(-1, *([1] * centre.ndim))
    for _ in range(_ZOOMS):
        tried = np.clip(centre + half_width * offsets, low, high)
        figures = objective({**values, name: np.exp(tried)})
        best = np.argmax(np.where(np.isnan(figures), -np.inf, figures), axis=0)
        centre = np.take_along_axis(tried, best[None], axis=0)[0]
        half_width *= 2.5 / (_GRID_POINTS - 1)
    return np.asarray(np.exp(centre), dtype=np.float64)
