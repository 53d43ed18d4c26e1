"""Blocks with the truth beside them: counts drawn from a channel of which we know what each photon number does.

A proof must hold whatever the channel does to each photon number, so the channel is a list of yields and error rates by
photon number, not a loss. The truth it is held against never reaches the bounds.
"""

from dataclasses import dataclass

import numpy as np

from shosoin.link.counts import DecoyCounts
from shosoin.link.information import Array


@dataclass(frozen=True, slots=True)
class Channel:
    """What happens to a pulse of 0, 1, 2, ... photons, the last entry standing for all above."""

    yields: Array
    error_rates: Array


@dataclass(frozen=True, slots=True)
class Truth:
    vacuum: Array
    single: Array
    phase_errors: Array


def lossy(transmittance: float, *, dark: float, error: float, photons: int = 15) -> Channel:
    clicks = 1.0 - (1.0 - transmittance) ** np.arange(photons, dtype=np.float64)
    yields = 1.0 - (1.0 - dark) * (1.0 - clicks)
    return Channel(np.asarray(yields), (dark / 2 * (1.0 - clicks) + error * clicks) / yields)


def worst_for_single_photons(transmittance: float, *, dark: float, photons: int = 15) -> Channel:
    """Only empty pulses err and none of three photons arrives: every inequality on photon numbers is an equality."""
    honest = lossy(transmittance, dark=dark, error=0.0, photons=photons)
    errors = np.zeros(photons)
    errors[0] = 0.5
    yields = honest.yields.copy()
    yields[3:] = 0.0
    return Channel(yields, errors)


def worst_for_phase_errors(transmittance: float, *, error: float, photons: int = 15) -> Channel:
    """Only single photons err, and nothing clicks in the dark."""
    honest = lossy(transmittance, dark=1e-12, error=0.0, photons=photons)
    errors = np.zeros(photons)
    errors[1] = error
    yields = honest.yields.copy()
    yields[0], yields[3:] = 0.0, 0.0
    return Channel(yields, errors)


def photon_number_splitting(transmittance: float, *, dark: float, error: float, photons: int = 15) -> Channel:
    """Single photons are blocked, those of two and more arrive without error instead: what decoys are there to see."""
    honest = lossy(transmittance, dark=dark, error=error, photons=photons)
    yields, errors = honest.yields.copy(), honest.error_rates.copy()
    yields[1] = dark
    yields[2:], errors[1:] = 4.0 * transmittance, 0.0
    return Channel(yields, errors)


def draw(
    rng: np.random.Generator, channel: Channel, mu: Array, p: Array, *, key_pulses: int, test_pulses: int, blocks: int
) -> tuple[DecoyCounts, Truth]:
    """Draw blocks: photon numbers, detections and errors by photon number, and only then the intensity of each."""
    key, single, vacuum = _basis(rng, channel, mu, p, key_pulses, blocks)
    test, _, _ = _basis(rng, channel, mu, p, test_pulses, blocks)
    phase = rng.binomial(single, channel.error_rates[1])
    return DecoyCounts(*key, *test), Truth(vacuum, single, phase)


def _basis(rng, channel, mu, p, pulses, blocks):
    n = np.arange(len(channel.yields))
    factorial = np.cumprod(np.concatenate([[1.0], n[1:]]))
    joint = p * np.exp(-mu) * mu ** n[:, None] / factorial[:, None]
    of_number = joint.sum(axis=1)
    sent = rng.multinomial(pulses, of_number / of_number.sum(), size=blocks)
    detections = rng.binomial(sent, channel.yields)
    errors = rng.binomial(detections, channel.error_rates)
    intensity = joint / of_number[:, None]
    erring = rng.multinomial(errors, intensity).sum(axis=1)
    right = rng.multinomial(detections - errors, intensity).sum(axis=1)
    return (right + erring, erring), detections[:, 1], detections[:, 0]
