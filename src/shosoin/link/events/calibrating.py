"""What an honest link may show, worked out from what its devices are.

For simulated links and for planning. The calibration of a real link is measured with nobody on the line, and has the
same fields; margins are the operator's choice: what they allow, an eavesdropper may use.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shosoin.kernels.pulses import ArrivalTable
from shosoin.link.events.devices import click_current_na, outer_share
from shosoin.link.events.monitoring import Calibration
from shosoin.link.events.optics import Line, arrival_table, dynamics_of, expected
from shosoin.link.events.records import Settings

__all__ = ["calibration_of"]


def calibration_of(settings: Settings, line: Line, *, drift_db: float = 0.5, qber_margin: float = 0.02) -> Calibration:
    """Return the limits of a link.

    Args:
        settings: what the transmitter sends.
        line: channel and receiver as they should be.
        drift_db: how far the attenuation may move either way.
        qber_margin: how far the error rate of the brightest intensity may rise above the model's.

    Raises:
        ValueError: a margin is negative or no number; or nothing ever clicks on such a line, or something at every
            pulse, so there is nothing to calibrate.
    """
    if not (0.0 <= drift_db < np.inf and 0.0 <= qber_margin < np.inf):
        raise ValueError(f"margins are numbers from 0, got {drift_db} dB and an error rate of {qber_margin}")
    tables = [arrival_table(settings, _moved(line, change_db)) for change_db in (drift_db, 0.0, -drift_db)]
    worse, middle, better = (expected(settings, table) for table in tables)
    shares = np.array(settings.probabilities)
    patterns = [_patterns(settings, each) for each in tables]
    if not all(zero + one > 0.0 and both < 1.0 for zero, one, both in patterns):
        raise ValueError("a line without clicks, or with clicks of both detectors only, cannot be calibrated")
    after_pulses = max(detector.afterpulse_probability for detector in line.detectors)
    rate = float(better.gain @ shares) * (1.0 + after_pulses)
    live = 1.0 / (1.0 + rate * (max(dynamics_of(line, settings.pulse_rate_hz).dead_gates) - 1))
    wrong = float((middle.matched_error[0] + after_pulses * (middle.gain @ shares) / 2) / middle.matched_gain[0])
    zero, one, both = patterns[1]
    doubles = both / (zero + one + both)
    dead = dynamics_of(line, settings.pulse_rate_hz).dead_gates
    ones = [share for each in patterns for share in _balances(line, dead, each)]
    dark = 1.0 - float(np.prod([1.0 - detector.dark_count_probability for detector in line.detectors]))
    unlit = min(1.0, dark / float(worse.gain @ shares) + after_pulses)
    return Calibration(
        intensities=settings.intensities,
        gains_min=tuple(float(gain) * live * 0.97 for gain in worse.gain),
        gains_max=tuple(min(1.0, float(gain) * 1.03 + after_pulses * rate) for gain in better.gain),
        background_max=1.1 * dark,
        afterpulse_max=after_pulses,
        live_min=live,
        qber_max=min(0.5, wrong + qber_margin),
        double_clicks_max=min(1.0, 2 * doubles + after_pulses * rate + 1e-3),
        balance_min=max(0.0, min(ones) - 0.03),
        balance_max=min(1.0, max(ones) + 0.03),
        click_current_na=click_current_na(settings.pulse_rate_hz),
        outer_share_max=min(0.95, 1.1 * (outer_share(line.detectors[0]) * (1 - unlit) + 2 / 3 * unlit) + 0.02),
    )


def _moved(line: Line, change_db: float) -> Line:
    return replace(line, attenuation_db=min(200.0, max(0.0, line.attenuation_db + change_db)))


def _balances(line: Line, dead: tuple[int, int], patterns: tuple[float, float, float]) -> tuple[float, float]:
    """Return the share of detector 1 among single clicks, without memory and with dead times and after-pulses.

    Detectors that are unlike are blind for unlike shares of the time.
    """
    zero, one, both = patterns
    boosts = [1.0 + detector.afterpulse_probability for detector in line.detectors]
    rates = [(own + both) * boost for own, boost in zip((zero, one), boosts, strict=True)]
    live = [
        1.0 if line.blinds_both else 1.0 / (1.0 + rate * (gates - 1)) for rate, gates in zip(rates, dead, strict=True)
    ]
    zeros = live[0] * (zero + both * (1.0 - live[1]) + rates[0] * (1.0 - 1.0 / boosts[0]))
    ones = live[1] * (one + both * (1.0 - live[0]) + rates[1] * (1.0 - 1.0 / boosts[1]))
    return one / (zero + one), ones / (zeros + ones)


def _patterns(settings: Settings, table: ArrivalTable) -> tuple[float, float, float]:
    """Return the probability a pulse that detector 0 alone clicks, detector 1 alone, both, over everything sent."""
    chances = np.diff(table.thresholds.astype(np.float64), axis=1, prepend=0.0) / 2.0**64
    sent, received = settings.transmitter_key_basis_probability, settings.receiver_key_basis_probability
    levels = np.zeros(4)
    levels[: len(settings.probabilities)] = settings.probabilities
    weights = np.einsum("l,a,b,c->labc", levels, [sent, 1 - sent], [0.5, 0.5], [received, 1 - received]).ravel()
    zero, one, both = (float(weights @ (chances * ((table.codes & 3) == pattern)).sum(axis=1)) for pattern in (1, 2, 3))
    return zero, one, both
