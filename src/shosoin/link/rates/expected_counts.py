"""What a decoy-state link is expected to count, from its attenuation and its detectors.

The receiver chooses a basis and has two threshold detectors in it, one for each bit. Light that reaches them is
Poissonian, so the two detectors click independently: the right one of the light that is not misaligned, the wrong one
of the rest, each of dark counts and stray light besides. When both click a random bit is taken, as the proofs want.
These are exact unions; papers add small probabilities instead, which agrees at the losses where they use it.
A click is followed by one that no light caused with the after-pulse probability, right half of the time. After any
click both detectors are blind for the dead time (both, or the blind one would tell the next bit); blindness scales all
counts alike by 1/(1 + rate * dead time).

Sources: Lim et al., Phys. Rev. A 89, 022307 (2014), section IV, where the printed error model has eta_ch for eta_sys:
light that is not detected makes no error. Dead time: Rusca et al. 2018, equation (B3). Fibre: 10^(-loss/10).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.counts import DecoyCounts
from shosoin.link.detector import Detector
from shosoin.link.information import Array, union

__all__ = ["DecoyLink", "clicks", "expected_counts", "pulses_for_block"]


@dataclass(frozen=True, slots=True)
class DecoyLink:
    """Source, receiver and reconciliation of a decoy-state BB84 link; the channel's loss is given with each question.

    Raises:
        ValueError: a value out of range.
    """

    detector: Detector
    """Each of the two detectors; receiver optics are part of its efficiency."""
    misalignment_error: float
    """Share of the light that goes to the wrong detector."""
    background_probability: float = 0.0
    """Probability of a click per gate of one detector by stray light, beside its dark counts."""
    reconciliation_efficiency: float = 1.16
    """f: disclosed bits over the Shannon limit, at least 1."""
    pulse_rate_hz: float = 1e9

    def __post_init__(self) -> None:
        for name in ("misalignment_error", "background_probability"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be within [0, 1], got {getattr(self, name)}")
        if not (self.reconciliation_efficiency >= 1.0 and self.pulse_rate_hz > 0.0):
            raise ValueError("the reconciliation efficiency must be at least 1 and the pulse rate positive")


def clicks(
    link: DecoyLink, *, intensity: npt.ArrayLike, attenuation_db: npt.ArrayLike, with_afterpulses: bool = True
) -> tuple[Array, Array]:
    """Return the probabilities, per pulse of matching bases, of a detection and of an erroneous one.

    Arguments broadcast. Dead time is not in them.
    """
    eta = 10.0 ** (-np.asarray(attenuation_db, dtype=np.float64) / 10.0) * link.detector.gated_efficiency
    light = eta * np.asarray(intensity, dtype=np.float64)
    noise = union(link.detector.dark_count_probability, link.background_probability)
    right = union(noise, -np.expm1(-light * (1.0 - link.misalignment_error)))
    wrong = union(noise, -np.expm1(-light * link.misalignment_error))
    detection, error = union(right, wrong), wrong * (1.0 - right) + right * wrong / 2.0
    if not with_afterpulses:
        return detection, np.asarray(error)
    late = link.detector.afterpulse_probability * detection * (1.0 - detection)
    return np.asarray(detection + late), np.asarray(error + late / 2.0)


def expected_counts(
    link: DecoyLink,
    *,
    pulses: npt.ArrayLike,
    attenuation_db: npt.ArrayLike,
    intensities: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    key_basis_probability: npt.ArrayLike,
) -> DecoyCounts:
    """Return expected detections and errors of a block, real numbers of shape (..., intensities).

    Args:
        pulses: sent in the block; shape (...), like ``attenuation_db`` and ``key_basis_probability``, the chance with
            which either side chooses the key basis.
        intensities: bright to dim; shape (..., intensities), like ``probabilities``.
    """
    sent, loss, basis = (
        np.asarray(value, dtype=np.float64)[..., None] for value in (pulses, attenuation_db, key_basis_probability)
    )
    detection, error = clicks(link, intensity=intensities, attenuation_db=loss)
    per_intensity = sent * np.asarray(probabilities, dtype=np.float64) * _awake(link, detection, probabilities)
    key, test = basis**2 * per_intensity, (1.0 - basis) ** 2 * per_intensity
    arrays = np.broadcast_arrays(key * detection, key * error, test * detection, test * error)
    return DecoyCounts(*(np.array(array) for array in arrays))


def pulses_for_block(
    link: DecoyLink,
    *,
    key_detections: npt.ArrayLike,
    attenuation_db: npt.ArrayLike,
    intensities: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    key_basis_probability: npt.ArrayLike,
) -> Array:
    """Return how many pulses it takes until the key basis has so many detections; shape (...)."""
    one = expected_counts(
        link,
        pulses=1.0,
        attenuation_db=attenuation_db,
        intensities=intensities,
        probabilities=probabilities,
        key_basis_probability=key_basis_probability,
    )
    return np.asarray(np.asarray(key_detections, dtype=np.float64) / one.key_detections.sum(axis=-1))


def _awake(link: DecoyLink, detection: Array, probabilities: npt.ArrayLike) -> Array:
    """Return the share of gates in which the detectors are not blind after a click, whatever its basis."""
    mean = (detection * np.asarray(probabilities, dtype=np.float64)).sum(axis=-1, keepdims=True)
    return np.asarray(1.0 / (1.0 + link.pulse_rate_hz * mean * link.detector.dead_time_s))
