"""Four-wave mixing: two strong channels and a third make light at a fourth frequency, which may be the quantum one.

Three frequencies produce ``f_i + f_j - f_k``. The product grows along the fibre as long as it stays in phase with its
sources; dispersion ends that after a few hundred metres at 1550 nm and hardly ever near 1310 nm. Only channels that
run along with the quantum channel count: against it nothing stays in phase.

The phase mismatch is exact to third order of the dispersion at the quantum frequency, the loss is that of the quantum
wavelength, pumps are not depleted, and all light has one polarisation, which is the worst case.

Sources: K. O. Hill, D. C. Johnson, B. S. Kawasaki, R. I. MacDonald, J. Appl. Phys. 49, 5098 (1978); N. Shibata,
R. P. Braun, R. G. Waarts, IEEE J. Quantum Electron. 23, 1205 (1987), for the efficiency. Dispersion: ITU-T G.652.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.channels.units import LIGHT_M_PER_S, frequency_hz
from shosoin.link.information import Array

__all__ = ["G652_DISPERSION", "Dispersion", "Product", "efficiency", "product_power_w", "products"]


@dataclass(frozen=True, slots=True)
class Dispersion:
    """Chromatic dispersion of a fibre and the size of its Kerr effect.

    Raises:
        ValueError: a value is not positive.
    """

    zero_nm: float = 1312.0
    """Wavelength without dispersion."""
    slope_ps_per_nm2_km: float = 0.090
    """Slope there."""
    nonlinearity_per_w_km: float = 1.3
    """gamma, the phase that a watt gathers over a kilometre."""

    def __post_init__(self) -> None:
        if not min(self.zero_nm, self.slope_ps_per_nm2_km, self.nonlinearity_per_w_km) > 0.0:
            raise ValueError(f"dispersion needs positive values, got {self}")

    def ps_per_nm_km(self, wavelength_nm: npt.ArrayLike) -> Array:
        """Return D of the three-term fit of G.652: ``S0/4 (lambda - lambda0^4 / lambda^3)``."""
        wavelength = np.asarray(wavelength_nm, dtype=np.float64)
        return np.asarray(self.slope_ps_per_nm2_km / 4.0 * (wavelength - self.zero_nm**4 / wavelength**3))

    def derivatives(self, wavelength_nm: float) -> tuple[float, float]:
        """Return the second and third derivative of the propagation constant, in s^2/km and s^3/km."""
        wavelength_m = wavelength_nm * 1e-9
        d = float(self.ps_per_nm_km(wavelength_nm)) * 1e-3  # ps/(nm km) in s/(m km)
        slope = self.slope_ps_per_nm2_km / 4.0 * (1.0 + 3.0 * (self.zero_nm / wavelength_nm) ** 4) * 1e6
        per_frequency = wavelength_m**2 / (2.0 * np.pi * LIGHT_M_PER_S)
        return -d * per_frequency, per_frequency**2 * (slope + 2.0 * d / wavelength_m)


G652_DISPERSION = Dispersion()
"""About 17 ps/(nm km) at 1550 nm."""


@dataclass(frozen=True, slots=True)
class Product:
    """One mixing product; indices into the list of channels."""

    i: int
    j: int
    k: int
    frequency_hz: float

    @property
    def is_degenerate(self) -> bool:
        """Whether two of the three photons come from one channel."""
        return self.i == self.j


def products(channel_nm: npt.ArrayLike, *, near_nm: float, within_hz: float) -> list[Product]:
    """Return the products ``f_i + f_j - f_k`` (k differs from i and j) at most ``within_hz`` from a wavelength."""
    frequencies = np.atleast_1d(frequency_hz(channel_nm))
    i, j = np.triu_indices(len(frequencies))
    mixed = (frequencies[i] + frequencies[j])[:, None] - frequencies
    # A hertz, so that rounding of wavelengths does not move a product off an edge.
    near = np.abs(mixed - float(frequency_hz(near_nm))) <= within_hz + 1.0
    third = np.arange(len(frequencies))
    near &= (third != i[:, None]) & (third != j[:, None])
    return [Product(int(i[pair]), int(j[pair]), int(k), float(mixed[pair, k])) for pair, k in np.argwhere(near)]


def efficiency(mismatch_per_km: npt.ArrayLike, *, nepers_per_km: float, length_km: npt.ArrayLike) -> Array:
    """Return the power of a product over its power in perfect phase, within [0, 1].

    ``|1 - exp(-(a + i b) L)|^2 a^2 / ((a^2 + b^2) (1 - exp(-a L))^2)`` with loss a and mismatch b.
    """
    b, length = np.asarray(mismatch_per_km, dtype=np.float64), np.asarray(length_km, dtype=np.float64)
    attenuation = max(nepers_per_km, 1e-12)
    # Lengths over which the fields add up; their quotient is squared, not they, so that tiny ones do not underflow.
    grown = np.abs(np.expm1(-(attenuation + 1j * b) * length)) / np.hypot(attenuation, b)
    in_phase = np.broadcast_to(-np.expm1(-attenuation * length) / attenuation, grown.shape)
    quotient = np.divide(grown, in_phase, out=np.ones_like(grown), where=in_phase > 0.0)
    return np.asarray(np.minimum(quotient, 1.0) ** 2)


def mismatch_per_km(product: Product, channel_nm: npt.ArrayLike, dispersion: Dispersion) -> float:
    """Return ``beta_i + beta_j - beta_k - beta_product``, expanded about the product so that its own part is zero."""
    second, third = dispersion.derivatives(LIGHT_M_PER_S / product.frequency_hz * 1e9)
    x = 2.0 * np.pi * (frequency_hz(channel_nm)[[product.i, product.j, product.k]] - product.frequency_hz)
    sign = np.array([1.0, 1.0, -1.0])
    return float((sign * (second / 2.0 * x**2 + third / 6.0 * x**3)).sum())


def product_power_w(
    product: Product,
    channel_nm: npt.ArrayLike,
    launch_w: npt.ArrayLike,
    *,
    length_km: float,
    nepers_per_km: float,
    dispersion: Dispersion = G652_DISPERSION,
) -> float:
    """Return the power of a product at the far end: ``eta (D gamma / 3)^2 P_i P_j P_k exp(-a L) L_eff^2``.

    D is 3 when i and j are one channel, else 6.
    """
    powers = np.asarray(launch_w, dtype=np.float64)[[product.i, product.j, product.k]]
    attenuation = max(nepers_per_km, 1e-12)
    effective_km = -np.expm1(-attenuation * length_km) / attenuation
    paths = 1.0 if product.is_degenerate else 2.0
    grown = (paths * dispersion.nonlinearity_per_w_km * effective_km) ** 2 * powers.prod()
    mismatch = mismatch_per_km(product, channel_nm, dispersion)
    share = efficiency(mismatch, nepers_per_km=nepers_per_km, length_km=length_km)
    return float(share * grown * np.exp(-nepers_per_km * length_km))
