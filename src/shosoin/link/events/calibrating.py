"""What an honest link may show, worked out from what its devices are.

For simulated links and for planning. The calibration of a real link is measured with nobody on the line, and has the
same fields; margins are the operator's choice: what they allow, an eavesdropper may use.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

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
    """
    table = arrival_table(settings, line)
    middle = expected(settings, table)
    worse = expected(settings, arrival_table(settings, _moved(line, drift_db)))
    better = expected(settings, arrival_table(settings, _moved(line, -drift_db)))
    shares = np.array(settings.probabilities)
    after_pulses = max(detector.afterpulse_probability for detector in line.detectors)
    rate = float(better.gain @ shares) * (1.0 + after_pulses)
    live = 1.0 / (1.0 + rate * (max(dynamics_of(line, settings.pulse_rate_hz).dead_gates) - 1))
    wrong = float((middle.matched_error[0] + after_pulses * (middle.gain @ shares) / 2) / middle.matched_gain[0])
    doubles, ones = _patterns(settings, table.thresholds, table.codes)
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
        balance_min=max(0.0, ones - 0.03),
        balance_max=min(1.0, ones + 0.03),
        click_current_na=click_current_na(settings.pulse_rate_hz),
        outer_share_max=min(0.95, 1.1 * (outer_share(line.detectors[0]) * (1 - unlit) + 2 / 3 * unlit) + 0.02),
    )


def _moved(line: Line, change_db: float) -> Line:
    return replace(line, attenuation_db=max(0.0, line.attenuation_db + change_db))


def _patterns(settings: Settings, thresholds: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """Return the share of double clicks, and of detector 1 among single clicks, over everything sent."""
    chances = np.diff(thresholds.astype(np.float64), axis=1, prepend=0.0)
    sent, received = settings.transmitter_key_basis_probability, settings.receiver_key_basis_probability
    levels = np.zeros(4)
    levels[: len(settings.probabilities)] = settings.probabilities
    weights = np.einsum("l,a,b,c->labc", levels, [sent, 1 - sent], [0.5, 0.5], [received, 1 - received]).ravel()
    zero, one, both = (float(weights @ (chances * ((codes & 3) == pattern)).sum(axis=1)) for pattern in (1, 2, 3))
    return both / (zero + one + both), one / (zero + one)
