"""Twin-field QKD by sending or not sending, with active odd-parity pairing: asymptotic secret key rate.

In a key window each user sends a weak pulse with a small probability or sends nothing, and the choice is the bit; a
window counts when exactly one of the relay's detectors clicks. No interference is needed for the bits, so lasers that
drift cost phase errors only, and those enter mildly. Secret are windows in which one side alone sent and sent one
photon. Errors (both sent, or neither) are many; Bob pairs each of his zeros with one of his ones, Alice keeps pairs in
which her bits differ too, and most errors are gone. Infinitely many decoys and windows: there is no block size here;
``twin_field_sns_finite`` has one, without the pairing. The relay needs no trust; the
transmitters do.

Sources: Wang, Yu, Hu, "Twin-field quantum key distribution with large misalignment error", Phys. Rev. A 98, 062323
(2018), arXiv 1805.09222; Xu, Yu, Jiang, Hu, Wang, "Sending-or-not-sending twin-field quantum key distribution: breaking
the direct transmission key rate", Phys. Rev. A 101, 042330 (2020), arXiv 1910.06916, for the pairing: the key is
n1' (1 - h(2 e1 (1 - e1))) - f nt' h(E').
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.information import Array, binary_entropy, union
from shosoin.link.rates.mdi import bessel_excess
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.search import best_settings
from shosoin.link.rates.shaped import attenuations, shaped_rate

__all__ = ["SendingParameters", "paired", "rate", "window_probabilities"]

_RANGES = {"mean": (1e-3, 2.0), "sending": (1e-4, 0.7)}


@dataclass(frozen=True, slots=True)
class SendingParameters:
    """Two like transmitters and a relay halfway between them with two like detectors.

    Raises:
        ValueError: a probability out of range, or a mean not within (0, 10].
    """

    efficiency: float
    """Probability that a photon entering the relay clicks, optics included."""
    dark_count_probability: float
    """Clicks per gate without light of one detector."""
    misalignment_error: float
    """Probability that a photon in equal superposition of both sides takes the wrong detector, in the test windows."""
    reconciliation_efficiency: float = 1.16
    active_pairing: bool = True
    sifting_factor: float = 1.0
    """Share of windows that are key windows on both sides; 1 in the limit."""
    mean_photons: float | None = None
    """Mean photon number of what is sent in a key window; None takes the best at each attenuation."""
    sending_probability: float | None = None

    def __post_init__(self) -> None:
        probabilities = (self.efficiency, self.dark_count_probability, self.misalignment_error, self.sifting_factor)
        if not all(0.0 <= value <= 1.0 for value in probabilities) or self.reconciliation_efficiency < 1.0:
            raise ValueError("probabilities must be within [0, 1] and the reconciliation efficiency at least 1")
        if self.mean_photons is not None and not 0.0 < self.mean_photons <= 10.0:
            raise ValueError("mean photon number must be above 0 and at most 10")
        if self.sending_probability is not None and not 0.0 < self.sending_probability < 1.0:
            raise ValueError("sending probability must be between 0 and 1")


def window_probabilities(arrive: Array, dark: float) -> tuple[Array, Array, Array]:
    """Return the probability of exactly one click when both, one and neither of the users sent.

    ``arrive`` is the mean number of photons of one pulse that would click, at both detectors together.
    """
    half = np.exp(-arrive / 2.0)
    one = 2.0 * (1.0 - dark) * half * union(dark, -np.expm1(-arrive / 2.0))
    # Silence of one detector, averaged over the phase between the pulses, is exp(-arrive) I0(arrive).
    silent = bessel_excess(arrive / 2.0) + union(dark, -np.expm1(-arrive))
    both = 2.0 * (1.0 - dark) * np.exp(-arrive) * silent
    return both, one, np.full(np.shape(arrive), 2.0 * dark * (1.0 - dark))


def paired(right: Array, both: Array, neither: Array, untagged: Array) -> tuple[Array, Array, Array]:
    """Return surviving pairs, wrong pairs and pairs of untagged bits, per window, of active odd-parity pairing.

    Args:
        right: probability of a counted window in which Alice alone sent; as large for Bob alone.
        both: of one in which both sent, a wrong zero of Bob's.
        neither: of one in which neither sent, a wrong one of Bob's.
        untagged: of one in which Alice alone sent, and one photon; as large for Bob alone.
    """
    zeros, ones = right + both, right + neither
    with np.errstate(divide="ignore", invalid="ignore"):
        # Each pair takes a zero and a one; the rarer sort is used up.
        scale = np.where((zeros > 0) & (ones > 0), 1.0 / np.maximum(zeros, ones), 0.0)
    return scale * (right**2 + both * neither), scale * both * neither, scale * untagged**2


def _signed_rate(p: SendingParameters, arm: Array, at: dict[str, Array]) -> tuple[Array, Array, Array]:
    mean, send = at["mean"], at["sending"]
    dark = p.dark_count_probability
    both, one, neither = window_probabilities(arm * mean, dark)
    right, both, neither = send * (1.0 - send) * one, send**2 * both, (1.0 - send) ** 2 * neither
    photon = (1.0 - dark) * (arm + 2.0 * dark * (1.0 - arm))
    wrong_photon = (1.0 - dark) * (p.misalignment_error * arm + dark * (1.0 - arm))
    untagged = send * (1.0 - send) * mean * np.exp(-mean) * photon
    phase = np.where(photon > 0, wrong_photon / np.maximum(photon, 5e-324), 0.5)
    if p.active_pairing:
        kept, wrong, secret = paired(right, both, neither, untagged)
        phase = 2.0 * phase * (1.0 - phase)
    else:
        kept, wrong, secret = 2.0 * right + both + neither, both + neither, 2.0 * untagged
    qber = np.where(kept > 0, wrong / np.maximum(kept, 5e-324), 0.5)
    disclosed = p.reconciliation_efficiency * kept * binary_entropy(np.minimum(qber, 0.5))
    bits = secret * (1.0 - binary_entropy(np.minimum(phase, 0.5))) - disclosed
    return np.asarray(p.sifting_factor * bits), np.asarray(qber), np.asarray(phase)


def rate(parameters: SendingParameters, *, attenuation_db: npt.ArrayLike) -> LinkRate:
    """Return secret bits per window over the attenuation in dB between the two users (half of it to the relay).

    ``qber`` is that after pairing. ``details``: ``mean_photons``, ``sending_probability`` (used), ``phase_error_rate``.
    """
    p = parameters
    loss = attenuations(attenuation_db)
    arm = np.asarray(p.efficiency * 10.0 ** (-loss / 20.0))
    fixed = {"mean": p.mean_photons, "sending": p.sending_probability}
    given = {name: np.full(loss.shape, value) for name, value in fixed.items() if value is not None}
    free = {name: bounds for name, bounds in _RANGES.items() if name not in given}
    # Without pairing every doubly sent pulse stays an error, so sending must be rare.
    start = {"mean": 0.4, "sending": 0.2 if p.active_pairing else 0.03}

    def signed(at: dict[str, Array]) -> Array:
        return _signed_rate(p, arm, {**given, **at})[0]

    found = {**given, **(best_settings(signed, free, start=start, rounds=5) if free else {})}
    bits, qber, phase = _signed_rate(p, arm, found)
    details = {
        "mean_photons": found["mean"],
        "sending_probability": found["sending"],
        "phase_error_rate": phase,
    }
    return shaped_rate("twin-field-sns", loss, bits, qber, None, details)
