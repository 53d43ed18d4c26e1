"""Finite-key BB84 with a signal and two decoy intensities: the bound of Lim et al. 2014.

Three intensities, every one of which makes key. The vacuum detections, the single-photon detections and the errors of
the latter follow from three linear relations with Hoeffding's deviations; the phase error rate from random sampling.
Valid against coherent attacks, if detection does not depend on the basis, phases are random and intensities exact.

Source: C. C. W. Lim, M. Curty, N. Walenta, F. Xu, H. Zbinden, "Concise security bounds for practical decoy-state
quantum key distribution", Phys. Rev. A 89, 022307 (2014), equations (1)-(5); composition of epsilon (B4). There the
key basis is called X. The proof fixes the length before the run and lets observation only accept or abort; see
``docs/concepts/link-bounds.md`` for what that means for a length computed from counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shosoin.link.counts import DecoyCounts
from shosoin.link.epsilons import Epsilons
from shosoin.link.information import Array
from shosoin.link.rates.decoy_bounds import (
    DecoyBounds,
    DecoySettings,
    between,
    correctness_cost_bits,
    finished,
    observed,
    sum_max,
    sum_min,
    within,
)
from shosoin.link.rates.result import SecretLength
from shosoin.link.rates.sampling import Sampling, phase_error_rate_max

__all__ = ["LIM2014", "bounds", "epsilons", "fixed_cost_bits", "secret_length"]

LIM2014 = "lim2014"

_SHARES = {
    "secrecy: phase error sampling": 4,
    "secrecy: chain rules": 4,
    "secrecy: privacy amplification": 1,
    "secrecy: detections per intensity": 10,
    "secrecy: errors per intensity": 2,
}
_PARTS = sum(_SHARES.values())  # 21


def epsilons(*, epsilon_secrecy: float, epsilon_correctness: float) -> Epsilons:
    """Return 2(2 alpha1 + alpha2 + alpha3) + nu + 10 eps1 + 2 eps2 with all equal, and the correctness (B4)."""
    each = epsilon_secrecy / _PARTS
    return Epsilons({**{name: share * each for name, share in _SHARES.items()}, "correctness": epsilon_correctness})


def fixed_cost_bits(*, epsilon_secrecy: npt.ArrayLike, epsilon_correctness: float) -> Array:
    """Return 6 log2(21 / eps_sec) + log2(2 / eps_cor) of equation (1)."""
    secrecy = 6.0 * (np.log2(_PARTS) - np.log2(np.asarray(epsilon_secrecy, dtype=np.float64)))
    return np.asarray(secrecy + correctness_cost_bits(epsilon_correctness))


def bounds(
    counts: DecoyCounts,
    intensities: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    epsilon_secrecy: npt.ArrayLike,
    sampling: Sampling = Sampling.GUARDED,
) -> DecoyBounds:
    """Return the bounds (2)-(5) on the key basis; leading axes of all arguments broadcast.

    Args:
        counts: arrays of shape (..., 3), observed or expected.
        intensities: mu1 > mu2 + mu3, mu2 > mu3 >= 0; shape (..., 3).
        probabilities: of each intensity; shape (..., 3).
        epsilon_secrecy: within (0, 1); shape (...). 1/21 of it goes into each deviation.
        sampling: ``GAUSSIAN`` is what is printed; the default is that or a proven bound, whichever is larger.

    Raises:
        ValueError: intensities or probabilities out of range.
    """
    settings = _three(intensities, probabilities)
    each = np.asarray(epsilon_secrecy, dtype=np.float64) / _PARTS
    vacuum, single = _photons(np.asarray(counts.key_detections, dtype=np.float64), settings, each)
    _, tested = _photons(np.asarray(counts.test_detections, dtype=np.float64), settings, each)
    errors = _single_photon_errors(np.asarray(counts.test_errors, dtype=np.float64), settings, each)
    phase = phase_error_rate_max(errors, tested, single, failure_probability=each**2, method=sampling)
    return DecoyBounds(vacuum_min=vacuum, single_min=single, phase_error_rate_max=phase)


def secret_length(
    counts: DecoyCounts,
    intensities: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    *,
    leak_ec_bits: int,
    epsilon_secrecy: float = 1e-9,
    epsilon_correctness: float = 1e-15,
    sampling: Sampling = Sampling.GUARDED,
) -> SecretLength:
    """Return how long a key the observed counts of one block allow, equation (1); 0 where they allow none.

    Args:
        counts: integers of shape (3,), bright to dim.
        leak_ec_bits: what error correction disclosed, without the verification hash (that is in the fixed cost).

    Raises:
        ValueError: intensities, probabilities, epsilons or the form of the counts are wrong; never because counts are
            few or bad.
    """
    settings = _three(intensities, probabilities)
    observed(
        counts,
        settings,
        leak_ec_bits=leak_ec_bits,
        epsilon_secrecy=epsilon_secrecy,
        epsilon_correctness=epsilon_correctness,
    )
    return finished(
        LIM2014,
        counts,
        bounds(counts, intensities, probabilities, epsilon_secrecy=epsilon_secrecy, sampling=sampling),
        leak_ec_bits=leak_ec_bits,
        fixed_cost_bits=float(
            fixed_cost_bits(epsilon_secrecy=epsilon_secrecy, epsilon_correctness=epsilon_correctness)
        ),
        epsilons=epsilons(epsilon_secrecy=epsilon_secrecy, epsilon_correctness=epsilon_correctness),
    )


def _three(intensities: npt.ArrayLike, probabilities: npt.ArrayLike) -> DecoySettings:
    settings = DecoySettings(np.asarray(intensities), np.asarray(probabilities))
    mu = settings.intensities
    if mu.shape[-1] != 3 or not np.all(mu[..., 0] > mu[..., 1] + mu[..., 2]):
        raise ValueError(f"three intensities with mu1 > mu2 + mu3 are needed, got {mu}")
    return settings


def _photons(detections: Array, settings: DecoySettings, epsilon: Array) -> tuple[Array, Array]:
    """Return lower bounds on detections of no photon, equation (2), and of one, equation (3), in one basis."""
    mu1, mu2, mu3 = np.moveaxis(settings.intensities, -1, 0)
    tau0, tau1 = settings.photon_number_probability(0), settings.photon_number_probability(1)
    total = detections.sum(axis=-1)
    less, more = within(detections, settings, epsilon, possible=False)
    vacuum = between(tau0 * sum_min(mu2 * less[2], -mu3 * more[1]) / (mu2 - mu3), total)
    # mu2^2 - mu3^2, and the denominator of (3), in factors that keep their digits.
    share = (mu2 - mu3) * (mu2 + mu3) / mu1**2
    known = sum_min(less[1], -more[2], -share * more[0], share * vacuum / tau0)
    return vacuum, between(tau1 * mu1 * known / ((mu2 - mu3) * (mu1 - mu2 - mu3)), total - vacuum)


def _single_photon_errors(errors: Array, settings: DecoySettings, epsilon: Array) -> Array:
    """Return an upper bound on the errors of single photons in one basis, equation (4)."""
    _, mu2, mu3 = np.moveaxis(settings.intensities, -1, 0)
    less, more = within(errors, settings, epsilon, possible=False)
    tau1 = settings.photon_number_probability(1)
    return np.asarray(np.maximum(tau1 * sum_max(more[1], -less[2]) / (mu2 - mu3), 0.0))
