"""The repeaterless bound: no protocol without a node in between beats it, whatever its source and detectors.

The two-way assisted secret key capacity of a pure-loss channel of transmittance eta is -log2(1 - eta) bits per use of
one optical mode, about 1.44 eta when little arrives. It is a ruler: a rate model above it is wrong, unless the
protocol has a node in the middle that interferes single photons (twin field).

Source: Pirandola, Laurenza, Ottaviani, Banchi, "Fundamental limits of repeaterless quantum communications", Nature
Communications 8, 15043 (2017), equation (19).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shosoin.link.information import Array
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.shaped import attenuations, shaped_rate

__all__ = ["capacity_bits_per_mode", "rate"]


def capacity_bits_per_mode(attenuation_db: npt.ArrayLike) -> Array:
    """Return -log2(1 - eta) for channel attenuations in dB; infinite without loss."""
    exponent = -np.log(10.0) / 10.0 * np.asarray(attenuation_db, dtype=np.float64)
    with np.errstate(divide="ignore"):
        # log1p keeps all digits when next to nothing arrives, expm1 when next to nothing is lost.
        return np.asarray(
            -np.where(exponent > -1.0, np.log(-np.expm1(exponent)), np.log1p(-np.exp(exponent))) / np.log(2.0)
        )


def rate(*, attenuation_db: npt.ArrayLike) -> LinkRate:
    """Return the bound in the shape of a rate, for a plot or a table beside rates."""
    loss = attenuations(attenuation_db)
    return shaped_rate("plob", loss, capacity_bits_per_mode(loss), np.nan)
