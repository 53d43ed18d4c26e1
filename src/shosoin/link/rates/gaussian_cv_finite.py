"""GG02 with a finite block: composable secret key rate against collective Gaussian attacks.

Of N symbols, m tell the users the channel and n = N - m make key. Transmittance and excess noise are taken at the bad
end of their confidence intervals; then per key symbol

    R = beta I_AB - chi_BE(worst channel) - Delta / sqrt(n) + Theta / n,
    Delta = 4 log2(sqrt(d) + 2) sqrt(log2(2 / eps_s^2)),   Theta = log2(2 eps_h^2 eps_cor),

and the rate is p_ec n / N R, with p_ec the share of blocks that reconciliation saves and d the number of values that a
digitised symbol takes. eps = eps_cor + eps_s + eps_h + 2 p_ec eps_pe. Assumes collective Gaussian attacks; a proof
against all attacks costs an energy test and more for heterodyne, and is not known to be practical for homodyne.

Sources: Pirandola, Papanastasiou, "Improved composable key rates for CV-QKD", Phys. Rev. Research 6, 023321 (2024),
arXiv 2301.10270; channel estimation as in Leverrier, Grosshans, Grangier, Phys. Rev. A 81, 062343 (2010), and
Pirandola, Phys. Rev. Research 3, 043014 (2021). The confidence factor w is sqrt(2 ln(1/eps_pe)), which a Gaussian
estimate exceeds with less than eps_pe. An estimated variance of m values is not Gaussian: it is divided by
1 - w sqrt(2/m), where print multiplies by 1 + w sqrt(2/m), which m of some ten thousand are too few for (B. Laurent,
P. Massart, Ann. Statist. 28, 1302 (2000), lemma 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.epsilons import Epsilons
from shosoin.link.information import Array
from shosoin.link.rates.gaussian_cv import (
    GaussianParameters,
    detector_noise,
    holevo_information,
    mutual_information,
    quadratures,
)
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.search import best_settings
from shosoin.link.rates.shaped import attenuations, require_block, shaped_rate

__all__ = ["GaussianBlock", "rate", "worst_channel"]

_RANGES = {"variance": (0.02, 200.0), "estimation": (1e-4, 0.9)}


@dataclass(frozen=True, slots=True)
class GaussianBlock:
    """How long a block is and how it is cut."""

    symbols: float
    """N, of key and estimation together; several reconciliation blocks may share it."""
    estimation_share: float | None = None
    """m / N; None takes the best at each attenuation."""
    digitisation_bits: int = 5
    """Bits per quadrature: d is 2 to this power, squared for heterodyne."""
    reconciliation_success: float = 1.0
    """p_ec."""
    epsilon_smoothing: float = 2.5e-11
    epsilon_hashing: float = 2.5e-11
    epsilon_estimation: float = 1e-11
    epsilon_correctness: float = 2.5e-11

    def __post_init__(self) -> None:
        parts = (self.epsilon_smoothing, self.epsilon_hashing, self.epsilon_estimation, self.epsilon_correctness)
        require_block(self.symbols, parts, (self.estimation_share,))
        if self.digitisation_bits < 1 or not 0.0 <= self.reconciliation_success <= 1.0:
            raise ValueError("a symbol needs at least one bit, and the success must be within [0, 1]")


def worst_channel(
    parameters: GaussianParameters, *, transmittance: npt.ArrayLike, variance: Array, samples: Array, epsilon: float
) -> tuple[Array, Array]:
    """Return the transmittance and the excess noise that hold except with probability epsilon each.

    ``samples`` counts pairs of quadrature values. A transmittance of 0 means that nothing is known.
    """
    through = parameters.efficiency * np.asarray(transmittance, dtype=np.float64)
    floor = 1.0 + detector_noise(parameters)
    noise = floor + through * parameters.excess_noise
    factor = np.sqrt(2.0 * np.log(1.0 / epsilon))
    amplitude = np.maximum(np.sqrt(through) - factor * np.sqrt(noise / (samples * variance)), 0.0)
    spread = factor * np.sqrt(2.0 / samples)
    amplitude = np.where(spread < 1.0, amplitude, 0.0)  # so few values bound no variance
    worst_noise = noise / np.where(spread < 1.0, 1.0 - spread, 1.0) - floor
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(amplitude**2 / parameters.efficiency), np.asarray(worst_noise / amplitude**2)


def _signed_rate(p: GaussianParameters, block: GaussianBlock, t: Array, variance: Array, share: Array) -> Array:
    key = block.symbols * (1.0 - share)
    samples = quadratures(p) * block.symbols * share
    worst_t, worst_xi = worst_channel(
        p, transmittance=t, variance=variance, samples=samples, epsilon=block.epsilon_estimation
    )
    known = worst_t > 0.0
    chi = holevo_information(
        p, transmittance=np.where(known, worst_t, 1.0), variance=variance, excess=np.where(known, worst_xi, 0.0)
    )
    kept = p.reconciliation_efficiency * mutual_information(
        p, transmittance=t, variance=variance, excess=p.excess_noise
    )
    root_d = 2.0 ** (block.digitisation_bits * quadratures(p) / 2.0)
    delta = 4.0 * np.log2(root_d + 2.0) * np.sqrt(1.0 - 2.0 * np.log2(block.epsilon_smoothing))
    theta = 1.0 + 2.0 * np.log2(block.epsilon_hashing) + np.log2(block.epsilon_correctness)
    # Without a bound on the channel Eve may know everything.
    per_symbol = kept - np.where(known, chi, np.inf) - delta / np.sqrt(key) + theta / key
    return np.asarray(block.reconciliation_success * (1.0 - share) * per_symbol, dtype=np.float64)


def rate(parameters: GaussianParameters, *, attenuation_db: npt.ArrayLike, block: GaussianBlock) -> LinkRate:
    """Return secret bits per symbol of blocks of ``block.symbols`` symbols.

    ``details``: ``modulation_variance`` and ``estimation_share`` (used).
    """
    loss = attenuations(attenuation_db)
    t = np.asarray(10.0 ** (-loss / 10.0))
    fixed = {"variance": parameters.modulation_variance, "estimation": block.estimation_share}
    given = {name: np.full(loss.shape, value) for name, value in fixed.items() if value is not None}
    free = {name: bounds for name, bounds in _RANGES.items() if name not in given}

    def signed(at: dict[str, Array]) -> Array:
        settings = {**given, **at}
        return _signed_rate(parameters, block, t, settings["variance"], settings["estimation"])

    start = {"variance": 4.0, "estimation": 0.3}
    found = {**given, **(best_settings(signed, free, start=start, rounds=6) if free else {})}
    epsilons = Epsilons(
        {
            "correctness": block.epsilon_correctness,
            "smoothing": block.epsilon_smoothing,
            "hashing": block.epsilon_hashing,
            "parameter_estimation": 2.0 * block.reconciliation_success * block.epsilon_estimation,
        }
    )
    details = {"modulation_variance": found["variance"], "estimation_share": found["estimation"]}
    return shaped_rate(f"cv-{parameters.detection}-finite", loss, signed(found), np.nan, epsilons, details)
