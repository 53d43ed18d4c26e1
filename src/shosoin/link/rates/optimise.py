"""The best settings of a link: intensities, how often each is sent, and how biased the bases are.

The rate over these is smooth but has flat parts without key and more than one hill, so the search is global first
(differential evolution, all candidates of a generation in one call) and local after (Nelder and Mead). Both are
deterministic for a seed. Coordinates are such that a step of one size means as much anywhere: logarithms of
intensities, logits of probabilities. Along a fibre each point starts from its neighbour's optimum, without the global
part, and the global part runs again where that finds no key.

Sources: R. Storn, K. Price, J. Global Optim. 11, 341 (1997); J. A. Nelder, R. Mead, Comput. J. 7, 308 (1965), as in
scipy.optimize.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize

from shosoin.link.information import Array
from shosoin.link.rates.expected_counts import DecoyLink
from shosoin.link.rates.finite_key import Block, FiniteProof, Security, Settings, expected_secret_bits

__all__ = [
    "Coordinate",
    "Optimum",
    "Scale",
    "SettingsOptimum",
    "coordinates_of",
    "maximise",
    "optimise_along",
    "optimise_settings",
    "settings_from",
]

_APPROACH_DB = 6.0
_STEP_DB = 2.0
Start = dict[str, float]
Objective = Callable[[Array], Array]
"""Takes candidates of shape (candidates, coordinates), returns the value of each."""


class Scale(enum.Enum):
    """In what a coordinate moves evenly."""

    LINEAR = "linear"
    LOG = "log"
    LOGIT = "logit"


@dataclass(frozen=True, slots=True)
class Coordinate:
    """One parameter to choose, its range and its scale.

    Raises:
        ValueError: the range is empty, or not one the scale has.
    """

    name: str
    low: float
    high: float
    scale: Scale = Scale.LINEAR

    def __post_init__(self) -> None:
        floor = -np.inf if self.scale is Scale.LINEAR else 0.0
        ceiling = 1.0 if self.scale is Scale.LOGIT else np.inf
        if not floor < self.low < self.high < ceiling:
            raise ValueError(f"{self.name}: [{self.low}, {self.high}] is no range on a {self.scale.value} scale")

    def position(self, value: npt.ArrayLike) -> Array:
        """Return where in its range a value is, from 0 to 1; beyond the range it is cut off."""
        low, high, at = (_straight(self.scale, v) for v in (self.low, self.high, np.clip(value, self.low, self.high)))
        return np.asarray((at - low) / (high - low))

    def value(self, position: npt.ArrayLike) -> Array:
        """Return the value at a position from 0 to 1."""
        low, high = _straight(self.scale, self.low), _straight(self.scale, self.high)
        bent = _bent(self.scale, low + (high - low) * np.clip(position, 0.0, 1.0))
        return np.asarray(np.clip(bent, self.low, self.high))


@dataclass(frozen=True, slots=True)
class Optimum:
    """The best candidate found."""

    values: dict[str, float]
    """By name of the coordinate."""
    objective: float


def maximise(
    objective: Objective,
    coordinates: Sequence[Coordinate],
    *,
    start: dict[str, float] | None = None,
    seed: int = 1,
    generations: int = 60,
    polish_steps: int = 400,
) -> Optimum:
    """Return the best candidate within the ranges; the same for the same arguments.

    Args:
        objective: vectorised over candidates; must be finite.
        start: where to begin; the search is global without one, and where no positive value is near it.
        seed: of the global search.
        generations: of the global search, each of 10 candidates per coordinate and of 80 at least.
        polish_steps: evaluations of the local search, per coordinate.
    """

    def loss(positions: Array) -> Array:
        values = np.stack([c.value(p) for c, p in zip(coordinates, positions, strict=True)], axis=-1)
        return -objective(np.atleast_2d(values))

    def loss_at(positions: Array) -> float:
        return float(loss(positions)[0])

    def climb(positions: Array) -> Optimum:
        options = {"maxfev": polish_steps * len(coordinates), "xatol": 1e-4, "fatol": 1e-7 * abs(loss_at(positions))}
        limits = [(0.0, 1.0)] * len(coordinates)
        found = optimize.minimize(loss_at, positions, method="Nelder-Mead", bounds=limits, options=options)
        values = {c.name: float(c.value(p)) for c, p in zip(coordinates, found.x, strict=True)}
        return Optimum(values, -float(found.fun))

    if start is not None:
        near = climb(np.array([float(c.position(start[c.name])) for c in coordinates]))
        if near.objective > 0.0:
            return near
    return climb(_globally(loss, len(coordinates), seed, generations))


def _globally(loss: Callable[[Array], Array], dimensions: int, seed: int, generations: int) -> Array:
    found = optimize.differential_evolution(
        loss,
        [(0.0, 1.0)] * dimensions,
        seed=seed,
        popsize=max(10, 80 // dimensions),
        init="sobol",
        maxiter=generations,
        tol=1e-8,
        polish=False,
        vectorized=True,
        updating="deferred",
    )
    return np.asarray(found.x, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class SettingsOptimum:
    """The best settings of a link at one attenuation."""

    settings: Settings
    secret_bits_per_pulse: float
    """Of expected counts; 0 where no settings give a key."""
    values: dict[str, float]
    """The same settings as coordinates: a start for the next."""


def coordinates_of(proof: FiniteProof) -> tuple[Coordinate, ...]:
    """Return the coordinates of a protocol's settings and their ranges."""
    basis = Coordinate("key_basis_probability", 0.001, 0.9999, Scale.LOGIT)
    bright = Coordinate("mu1", 0.02, 1.5, Scale.LOG)
    ratio = Coordinate("mu2_over_mu1", 0.01, 0.97, Scale.LOGIT)
    first = Coordinate("p1", 0.001, 0.9995, Scale.LOGIT)
    if proof.intensities == 2:
        return bright, ratio, first, basis
    return bright, ratio, first, Coordinate("p2_of_rest", 0.001, 0.9995, Scale.LOGIT), basis


def settings_from(proof: FiniteProof, candidates: Array, *, vacuum_intensity: float = 2e-4) -> Settings:
    """Return the settings of candidates of shape (..., coordinates), in the order of ``coordinates_of``.

    With two decoys the dimmest intensity is given, and the ratio is of mu2 to mu1 - mu3, so that mu1 > mu2 + mu3.
    """
    mu1, ratio, p1, *rest, basis = np.moveaxis(np.asarray(candidates, dtype=np.float64), -1, 0)
    if proof.intensities == 2:
        return Settings(np.stack([mu1, ratio * mu1], -1), np.stack([p1, 1.0 - p1], -1), basis)
    mu2 = vacuum_intensity + ratio * (mu1 - 2.0 * vacuum_intensity)
    p2 = (1.0 - p1) * rest[0]
    intensities = np.stack([mu1, mu2, np.full_like(mu1, vacuum_intensity)], -1)
    return Settings(intensities, np.stack([p1, p2, 1.0 - p1 - p2], -1), basis)


def optimise_settings(
    link: DecoyLink,
    *,
    proof: FiniteProof,
    block: Block,
    attenuation_db: float,
    security: Security = Security(),  # noqa: B008 - frozen, so one instance serves all
    start: dict[str, float] | None = None,
    vacuum_intensity: float = 2e-4,
    seed: int = 1,
) -> SettingsOptimum:
    """Return the settings with the most secret bits per pulse at one attenuation."""

    def objective(candidates: Array) -> Array:
        settings = settings_from(proof, candidates, vacuum_intensity=vacuum_intensity)
        bits, pulses = expected_secret_bits(
            link, settings, proof=proof, block=block, attenuation_db=attenuation_db, security=security
        )
        return np.asarray(bits / pulses)

    coordinates = coordinates_of(proof)
    best = maximise(objective, coordinates, start=start, seed=seed)
    candidate = np.array([best.values[c.name] for c in coordinates])
    settings = settings_from(proof, candidate, vacuum_intensity=vacuum_intensity)
    return SettingsOptimum(settings, max(best.objective, 0.0), best.values)


def optimise_along(
    link: DecoyLink,
    *,
    proof: FiniteProof,
    block: Block,
    attenuation_db: npt.ArrayLike,
    security: Security = Security(),  # noqa: B008
    vacuum_intensity: float = 2e-4,
    seed: int = 1,
) -> list[SettingsOptimum]:
    """Return the optimum at each attenuation, in the order given; each starts from that at the next lower one.

    Past the end of the key there is none either, and none is sought: behind the first point without one that follows
    points with one, or behind two at the beginning, since the lowest attenuation may be too bright for a key.
    """

    def seek(loss: float, start: Start | None) -> SettingsOptimum:
        return optimise_settings(
            link,
            proof=proof,
            block=block,
            attenuation_db=loss,
            security=security,
            start=start,
            vacuum_intensity=vacuum_intensity,
            seed=seed,
        )

    losses = np.asarray(attenuation_db, dtype=np.float64).ravel()
    order = np.argsort(losses, kind="stable")
    found: list[SettingsOptimum] = []
    last: tuple[float, Start] | None = None
    for loss in losses[order].tolist():
        if _has_ended([each.secret_bits_per_pulse > 0.0 for each in found]):
            found.append(found[-1])
            continue
        best = seek(loss, found[-1].values if found else None)
        if not best.secret_bits_per_pulse > 0.0:
            best = _approached(seek, loss, last) or best
        if best.secret_bits_per_pulse > 0.0:
            last = loss, best.values
        found.append(best)
    return [found[place] for place in np.argsort(order)]


def _approached(
    seek: Callable[[float, Start | None], SettingsOptimum], loss: float, last: tuple[float, Start] | None
) -> SettingsOptimum | None:
    """Return the optimum at an attenuation, come to in small steps from less of it; None if the key ends on the way.

    Just before a key ends few settings give any, and a search from nothing or from afar may miss them.

    Args:
        seek: finds the optimum at an attenuation from a start.
        loss: where the search found none.
        last: the last attenuation with a key, and its settings.
    """
    place, start = max(loss - _APPROACH_DB, 0.0), None
    if last is not None and last[0] >= place:
        place, start = last
        if loss - place <= _STEP_DB:
            return None  # it was tried from there
    best = None
    for at in [*np.arange(place, loss, _STEP_DB).tolist()[start is not None :], loss]:
        best = seek(at, start)
        if not best.secret_bits_per_pulse > 0.0:
            return None
        start = best.values
    return best


def _has_ended(has_key: list[bool]) -> bool:
    """Return whether there is no key farther on, by whether there was one at each point so far."""
    return not has_key[-1] if any(has_key) else len(has_key) > 1


def _straight(scale: Scale, value: npt.ArrayLike) -> Array:
    x = np.asarray(value, dtype=np.float64)
    if scale is Scale.LOG:
        return np.asarray(np.log(x))
    return np.asarray(np.log(x) - np.log1p(-x)) if scale is Scale.LOGIT else x


def _bent(scale: Scale, value: Array) -> Array:
    if scale is Scale.LOG:
        return np.asarray(np.exp(value))
    return np.asarray(1.0 / (1.0 + np.exp(-value))) if scale is Scale.LOGIT else value
