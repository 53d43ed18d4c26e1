"""Measurement-device-independent QKD with decoy states: asymptotic secret key rate.

Alice and Bob send phase-randomised weak pulses to a relay that announces which two of its four detectors clicked; the
relay and its detectors need no trust at all. With infinitely many decoy intensities the users know how often pairs of
single photons led to an announcement (Y11) and how often wrongly (e11): rate = P11 Y11 (1 - h(e11X)) - QZ f h(EZ), per
pair of pulses in the key basis Z. Trusted: both transmitters (states, intensities, phase randomisation). Vacuum
pulses, which forward reconciliation would credit too, are not credited.

Sources: Lo, Curty, Qi, Phys. Rev. Lett. 108, 130503 (2012), arXiv 1109.1473; the gains are those of Ma, Razavi,
"Alternative schemes for measurement-device-independent quantum key distribution", Phys. Rev. A 86, 062319 (2012), arXiv
1204.4856, appendices A (single photons, A9 and A11) and B (weak pulses, B28 to B31, and the X basis). They are exact
for threshold detectors; here they are arranged so that no digits are lost when next to nothing arrives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.information import Array, binary_entropy, union
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.search import best_settings
from shosoin.link.rates.shaped import attenuations, shaped_rate

__all__ = [
    "LO_CURTY_QI_2012",
    "RelayParameters",
    "arm_transmittances",
    "gain_and_errors_x",
    "gain_and_errors_z",
    "rate",
    "single_photon_yield_and_errors",
]

_MEAN_PHOTONS = (1e-3, 2.0)
# The power series of the modified Bessel function I0: 1 / ((k!)^2 4^k).
_SERIES_TERMS = np.arange(1, 31, dtype=np.float64)
_SERIES_WEIGHTS = 1.0 / np.cumprod(4.0 * _SERIES_TERMS**2)


@dataclass(frozen=True, slots=True)
class RelayParameters:
    """An MDI system: two like transmitters and a relay with four like detectors.

    Raises:
        ValueError: a probability out of [0, 1], a reconciliation efficiency below 1, or a mean not within (0, 10].
    """

    efficiency: float
    """Probability that a photon entering the relay clicks, optics included."""
    dark_count_probability: float
    """p_d: clicks per gate without light of one detector."""
    misalignment_error: float
    """e_d: probability that a pair of photons that should cancel or agree does not."""
    reconciliation_efficiency: float
    sifting_factor: float = 1.0
    """Share of pulse pairs in which both users chose the key basis and the signal intensity; 1 in the limit."""
    mean_photons: float | None = None
    """Mean photon number of both users' signals; None takes the best at each attenuation."""
    relay_position: float = 0.5
    """Share of the attenuation in dB between Alice and the relay."""
    pulse_rate_hz: float = 1e9

    def __post_init__(self) -> None:
        probabilities = (self.efficiency, self.dark_count_probability, self.misalignment_error)
        if not all(0.0 <= value <= 1.0 for value in (*probabilities, self.sifting_factor, self.relay_position)):
            raise ValueError("probabilities and shares must be within [0, 1]")
        if self.reconciliation_efficiency < 1.0:
            raise ValueError("reconciliation efficiency must be at least 1")
        # The series of the Bessel function below is exact up to here, far beyond any use.
        if self.mean_photons is not None and not 0.0 < self.mean_photons <= 10.0:
            raise ValueError("mean photon number must be above 0 and at most 10")


LO_CURTY_QI_2012 = RelayParameters(
    efficiency=0.145, dark_count_probability=3.01e-6, misalignment_error=0.015, reconciliation_efficiency=1.16
)
"""The figure of Lo, Curty and Qi: 14.5 %, background 6.02e-6 for a receiver of two detectors, 1.5 %, 0.2 dB/km."""


def bessel_excess(x: npt.ArrayLike, *, less: float = 0.0) -> Array:
    """Return sum over k of (x^2/4)^k (4^k - less) / (k!)^2: I0(2x) - 1 - less (I0(x) - 1), without cancellation.

    For |x| up to about 5.
    """
    square = np.asarray(x, dtype=np.float64) ** 2
    total = np.zeros_like(square)
    for weight in (_SERIES_WEIGHTS * (4.0**_SERIES_TERMS - less))[::-1]:
        total = (total + weight) * square
    return np.asarray(total, dtype=np.float64)


def arm_transmittances(parameters: RelayParameters, attenuation_db: npt.ArrayLike) -> tuple[Array, Array]:
    """Return the transmittances from Alice and from Bob to the relay's clicks."""
    loss = np.asarray(attenuation_db, dtype=np.float64)
    to_relay = [parameters.relay_position, 1.0 - parameters.relay_position]
    arms = [np.asarray(parameters.efficiency * 10.0 ** (-loss * share / 10.0)) for share in to_relay]
    return arms[0], arms[1]


def single_photon_yield_and_errors(
    eta_a: Array, eta_b: Array, *, dark: float, misaligned: float
) -> tuple[Array, Array]:
    """Return Y11, the same in both bases, and e11 Y11 in basis X, of one photon from each side (A9, A11).

    In Z two photons on one detector beside a dark count are always wrong, in X half the time; the phase errors of the
    key are those of X.
    """
    both = eta_a * eta_b
    one_or_two = (2.0 * eta_a + 2.0 * eta_b - 3.0 * both) * dark
    success = (1.0 - dark) ** 2 * (both / 2.0 + one_or_two + 4.0 * (1.0 - eta_a) * (1.0 - eta_b) * dark**2)
    return success, success / 2.0 - (0.5 - misaligned) * (1.0 - dark) ** 2 * both / 2.0


def gain_and_errors_z(arrive_a: Array, arrive_b: Array, *, dark: float, misaligned: float) -> tuple[Array, Array]:
    """Return gain and error gain in basis Z for mean photon numbers that arrive and are detected (B28 to B31)."""
    mean = arrive_a + arrive_b
    common = 2.0 * (1.0 - dark) ** 2 * np.exp(-mean / 2.0)
    right = common * union(dark, -np.expm1(-arrive_a / 2.0)) * union(dark, -np.expm1(-arrive_b / 2.0))
    interference = bessel_excess(np.sqrt(arrive_a * arrive_b) / 2.0)
    wrong = common * dark * (interference + union(dark, -np.expm1(-mean / 2.0)))
    return right + wrong, misaligned * right + (1.0 - misaligned) * wrong


def gain_and_errors_x(arrive_a: Array, arrive_b: Array, *, dark: float, misaligned: float) -> tuple[Array, Array]:
    """Return gain and error gain in basis X, where weak pulses that interfere err a quarter of the time."""
    mean, x = arrive_a + arrive_b, np.sqrt(arrive_a * arrive_b) / 2.0
    clicks = union(dark, -np.expm1(-mean / 4.0))
    silent = 1.0 - clicks
    # 4 (I0(x) - 1) is the excess at half the argument, four times.
    once = 4.0 * bessel_excess(x / 2.0)
    gain = 2.0 * silent**2 * (bessel_excess(x, less=4.0) + clicks * once + 2.0 * clicks**2)
    return gain, gain / 2.0 - (1.0 - 2.0 * misaligned) * silent**2 * bessel_excess(x)


def _signed_rate(parameters: RelayParameters, loss: Array, mean: Array) -> tuple[Array, dict[str, Array]]:
    dark, misaligned = parameters.dark_count_probability, parameters.misalignment_error
    eta_a, eta_b = arm_transmittances(parameters, loss)
    y11, e11y11 = single_photon_yield_and_errors(eta_a, eta_b, dark=dark, misaligned=misaligned)
    gain, wrong = gain_and_errors_z(eta_a * mean, eta_b * mean, dark=dark, misaligned=misaligned)
    with np.errstate(divide="ignore", invalid="ignore"):
        qber = np.where(gain > 0, wrong / gain, 0.5)
        phase = np.where(y11 > 0, e11y11 / y11, 0.5)
    secret = mean**2 * np.exp(-2.0 * mean) * y11 * (1.0 - binary_entropy(np.minimum(phase, 0.5)))
    disclosed = gain * parameters.reconciliation_efficiency * binary_entropy(np.minimum(qber, 0.5))
    figures = {"qber": qber, "gain": gain, "single_photon_yield": y11, "single_photon_phase_error_rate": phase}
    return np.asarray(parameters.sifting_factor * (secret - disclosed)), figures


def rate(parameters: RelayParameters, *, attenuation_db: npt.ArrayLike) -> LinkRate:
    """Return secret bits per pair of pulses over the attenuation in dB between the two users.

    ``details``: ``mean_photons`` (used), ``gain``, ``single_photon_yield``, ``single_photon_phase_error_rate``.
    """
    loss = attenuations(attenuation_db)
    if parameters.mean_photons is None:
        found = best_settings(lambda at: _signed_rate(parameters, loss, at["mean"])[0], {"mean": _MEAN_PHOTONS})
        mean = found["mean"]
    else:
        mean = np.full(loss.shape, parameters.mean_photons)
    signed, figures = _signed_rate(parameters, loss, mean)
    qber = figures.pop("qber")
    return shaped_rate("mdi", loss, signed, qber, None, {"mean_photons": mean, **figures})
