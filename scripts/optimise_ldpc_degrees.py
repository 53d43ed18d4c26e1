"""Find column degrees for the LDPC codes: those that decode most errors in a given number of rounds.

Density evolution with one simplification: what checks tell columns is taken as Gaussian. What columns tell checks is
exact for the binary symmetric channel, and so is the check itself, by moments of tanh (Richardson and Urbanke, "Modern
Coding Theory", chapter 4). F(y) is the information that checks send when they received it at y; a decoder needs about
the integral of dy / (F(y) - y) rounds. The script raises the error rate until no distribution needs fewer than the
rounds asked for, and prints whole numbers of base columns.

    python scripts/optimise_ldpc_degrees.py --rows 91 104 --columns 400
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize

from shosoin.link.information import binary_entropy

Array = npt.NDArray[np.float64]

_MOMENTS = 300
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(64)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_EXPONENTS = 2 * np.arange(1, _MOMENTS + 1)
_SERIES = 1 / (_EXPONENTS * (_EXPONENTS - 1) * np.log(2))
_SERIES[-1] += 1 - _SERIES.sum()
_INFORMATION = np.concatenate([np.geomspace(2e-3, 0.1, 12)[:-1], np.linspace(0.1, 0.97, 40)])


_DEGREES = np.array([2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 25, 30, 40, 50, 60], dtype=float)


def gaussian_mean(information: Array) -> Array:
    """Return the mean of the consistent Gaussian log-likelihood ratio that carries this information."""
    means = np.geomspace(1e-4, 80, 4000)
    at = means[:, None] + np.sqrt(2 * means)[:, None] * _NODES
    carried = 1 - (np.logaddexp(0, -at) / np.log(2)) @ _WEIGHTS
    return np.interp(information, carried, means)


@dataclass(frozen=True, slots=True)
class Evolution:
    """Moments of what columns of each degree send: shape (information, degrees, moments)."""

    moments: Array

    @staticmethod
    def at(qber: float, degrees: Array) -> Evolution:
        """Return those for one error rate."""
        channel = np.log((1 - qber) / qber)
        mean = gaussian_mean(_INFORMATION)[:, None] * (degrees - 1)[None, :]
        total = np.zeros((*mean.shape, _MOMENTS))
        for sign, chance in ((1, 1 - qber), (-1, qber)):
            heard = sign * channel + mean[..., None] + np.sqrt(2 * mean)[..., None] * _NODES
            square = np.tanh(heard / 2) ** 2
            power = np.ones_like(square)
            for k in range(_MOMENTS):
                power *= square
                total[..., k] += chance * (power @ _WEIGHTS)
        return Evolution(total)

    def gaps(self, edge_shares: Array, check_degree: float) -> tuple[Array, Array]:
        """Return F(y) - y and its derivative by the shares of edges."""
        heard = np.einsum("yik,i->yk", self.moments, edge_shares)
        low = int(np.floor(check_degree))
        gap, slope = -_INFORMATION.copy(), np.zeros(self.moments.shape[:2])
        # Edges, not checks: checks of degree low + 1 hold more than their share of edges.
        part = (check_degree - low) * (low + 1) / check_degree
        for degree, share in ((low, 1 - part), (low + 1, part)):
            gap += share * (heard ** (degree - 1) @ _SERIES)
            slope += share * np.einsum("yik,yk->yi", self.moments, (degree - 1) * heard ** (degree - 2) * _SERIES)
        return gap, slope


def rounds_needed(evolution: Evolution, nodes: Array, degrees: Array, leak: float) -> tuple[float, Array]:
    """Return the rounds and their derivative by the shares of columns; hopeless ones cost steeply more."""
    edges = nodes * degrees
    mean = edges.sum()
    gap, slope = evolution.gaps(edges / mean, mean / leak)
    # The check degree depends on the shares too; its derivative by difference.
    step = 1e-4
    more, _ = evolution.gaps(edges / mean, (mean + step) / leak)
    by_share = slope * (degrees / mean) - (slope @ (edges / mean))[:, None] * (degrees / mean)
    by_node = by_share + ((more - gap) / step)[:, None] * degrees
    floor = 2e-3 * (1 - _INFORMATION) * np.minimum(1, _INFORMATION * 20)
    width = np.gradient(_INFORMATION)
    open_gap = np.maximum(gap, floor)
    cost = width / open_gap + np.where(gap < floor, width / floor**2 * (floor - gap), 0)
    by_gap = -width / open_gap**2
    return float(cost.sum()), by_gap @ by_node


def optimise(leak: float, degrees: Array, *, rounds: float, light_max: float, mean_max: float) -> tuple[float, Array]:
    """Return the highest error rate found, and the shares of columns."""
    nodes = np.full(degrees.size, 0.02)
    nodes[degrees == 3] += 1 - nodes.sum()
    best = (0.0, nodes)
    entropy_of = np.linspace(1e-4, 0.2, 20000)
    efficiency = 1.30
    while efficiency > 1.0:
        qber = float(np.interp(leak / efficiency, binary_entropy(entropy_of), entropy_of))
        evolution = Evolution.at(qber, degrees)

        def cost(x: Array, evolution: Evolution = evolution) -> tuple[float, Array]:
            value, gradient = rounds_needed(evolution, x, degrees, leak)
            return np.log(value), gradient / value

        upper = np.ones(degrees.size)
        upper[degrees == 2] = light_max
        result = optimize.minimize(
            cost,
            nodes,
            jac=True,
            method="SLSQP",
            bounds=[(0.0, high) for high in upper],
            constraints=[
                {"type": "eq", "fun": lambda x: x.sum() - 1},
                {"type": "ineq", "fun": lambda x: mean_max - x @ degrees},
            ],
            options={"maxiter": 200, "ftol": 1e-7},
        )
        needed = float(np.exp(result.fun))
        if needed > rounds:
            break
        nodes = np.clip(result.x, 0, None)
        nodes /= nodes.sum()
        best = (qber, nodes)
        efficiency -= 0.02 if efficiency > 1.1 else 0.01
    return best


def whole(nodes: Array, degrees: Array, columns: int) -> dict[int, int]:
    """Return counts of columns: shares rounded, the mean degree kept as well as it goes."""
    counts = np.floor(nodes * columns).astype(int)
    while counts.sum() < columns:
        missing = nodes * columns - counts
        counts[int(np.argmax(missing))] += 1
    return {int(d): int(c) for d, c in zip(degrees, counts, strict=True) if c}


def main() -> None:
    """Print the degrees of each code, and the f that density evolution promises."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--columns", type=int, default=400)
    parser.add_argument("--rounds", type=float, default=150.0)
    parser.add_argument("--degree-max", type=int, default=40)
    parser.add_argument("--mean-max", type=float, default=6.5)
    arguments = parser.parse_args()
    for rows in arguments.rows:
        degrees = _DEGREES[min(arguments.degree_max, rows * 4 // 5) >= _DEGREES]
        leak = rows / arguments.columns
        qber, nodes = optimise(
            leak,
            degrees,
            rounds=arguments.rounds,
            light_max=(rows - 1) / arguments.columns,
            mean_max=arguments.mean_max,
        )
        counts = whole(nodes, degrees, arguments.columns)
        print(f"    {rows}: {counts},  # f {leak / float(binary_entropy(qber)):.3f} at {qber:.5f}", flush=True)


if __name__ == "__main__":
    main()
