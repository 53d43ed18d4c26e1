"""BBM92 with a continuously pumped pair source: asymptotic secret key rate per second.

Pairs leave at random times; two clicks within a window count as a coincidence. True coincidences are pairs that both
arrive, accidental ones are any two clicks that fall together and are wrong half the time; a brighter source and a
wider window buy both. Rate = q C (1 - f h(E) - h(E)). Assumes rare multiple pairs within a window and no dead time;
trust as in ``bbm92``.

Source: Neumann, Scheidl, Selimovic, Pivoluska, Liu, Bohmann, Ursin, "Model for optimizing quantum key distribution with
continuous-wave pumped entangled-photon sources", Phys. Rev. A 104, 022406 (2021). Accidentals here are those of clicks
that are not partners of a true coincidence, which keeps the QBER of a loss-free source right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.information import binary_entropy
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.shaped import attenuations, shaped_rate

__all__ = ["ContinuousPairParameters", "rate", "secret_bits_per_second"]


@dataclass(frozen=True, slots=True)
class ContinuousPairParameters:
    """A BBM92 system with a continuous pump; the unit of the rate is one coincidence window, not a pulse.

    Raises:
        ValueError: a share out of [0, 1], a negative rate, or a reconciliation efficiency below 1.
    """

    pairs_per_s: float
    """Pairs made at the source, before any loss."""
    efficiency_a: float
    efficiency_b: float
    dark_counts_per_s_a: float
    dark_counts_per_s_b: float
    window_s: float
    """Full width of the coincidence window."""
    window_share: float
    """Share of true coincidences whose time difference (jitter, dispersion) is within the window."""
    misalignment_error: float
    reconciliation_efficiency: float = 1.1
    sifting_factor: float = 0.5
    source_position: float = 0.5

    def __post_init__(self) -> None:
        shares = (self.efficiency_a, self.efficiency_b, self.window_share, self.misalignment_error)
        if not all(0.0 <= value <= 1.0 for value in (*shares, self.sifting_factor, self.source_position)):
            raise ValueError("probabilities and shares must be within [0, 1]")
        if min(self.pairs_per_s, self.dark_counts_per_s_a, self.dark_counts_per_s_b, self.window_s) < 0.0:
            raise ValueError("rates and the window must not be negative")
        if self.reconciliation_efficiency < 1.0:
            raise ValueError("reconciliation efficiency must be at least 1")


def secret_bits_per_second(
    coincidences_per_s: npt.ArrayLike, qber: npt.ArrayLike, *, sifting_factor: float, reconciliation_efficiency: float
) -> npt.NDArray[np.float64]:
    """Return the asymptotic rate of counted coincidences: q C (1 - (1 + f) h(E)), never negative."""
    error = np.minimum(np.asarray(qber, dtype=np.float64), 0.5)
    share = 1.0 - (1.0 + reconciliation_efficiency) * binary_entropy(error)
    count = np.asarray(coincidences_per_s, dtype=np.float64)
    return np.asarray(sifting_factor * count * np.maximum(share, 0.0), dtype=np.float64)


def rate(parameters: ContinuousPairParameters, *, attenuation_db: npt.ArrayLike) -> LinkRate:
    """Return secret bits per coincidence window; ``details`` has bit/s and coincidences/s."""
    p = parameters
    loss = attenuations(attenuation_db)
    to_a = p.efficiency_a * 10.0 ** (-loss * p.source_position / 10.0)
    to_b = p.efficiency_b * 10.0 ** (-loss * (1.0 - p.source_position) / 10.0)
    true = p.pairs_per_s * to_a * to_b
    lone_a = p.pairs_per_s * to_a - true + p.dark_counts_per_s_a
    lone_b = p.pairs_per_s * to_b - true + p.dark_counts_per_s_b
    accidental = (lone_a * lone_b + true * (lone_a + lone_b)) * p.window_s
    kept = p.window_share * true
    coincidences = kept + accidental
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(coincidences > 0, (p.misalignment_error * kept + accidental / 2.0) / coincidences, 0.5)
    bits = secret_bits_per_second(
        coincidences,
        error,
        sifting_factor=p.sifting_factor,
        reconciliation_efficiency=p.reconciliation_efficiency,
    )
    details = {"secret_bits_per_s": bits, "coincidences_per_s": coincidences}
    return shaped_rate("bbm92-continuous", loss, bits * p.window_s, error, None, details)
