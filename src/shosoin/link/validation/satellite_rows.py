"""Rows for satellites: the budget of Micius line by line, and a pass as an independent program counts it.

What Micius kept of a pass is not derivable: neither background light nor counts by intensity are printed. Only the
parts of its budget are, so those are compared, and nothing is tuned to make the end come out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from shosoin.link.channels.free_space import aperture_transmittance, diffraction_half_angle_rad
from shosoin.link.channels.orbit import CircularOrbit, overpass
from shosoin.link.channels.pass_key import DecoySource, expected_counts
from shosoin.link.channels.satellite_pass import SatellitePass
from shosoin.link.detector import Detector
from shosoin.link.validation.row import AtLeast, AtMost, Row, Within, Witness

__all__ = ["ROWS"]

_MICIUS = "Liao et al. 2017 (Nature 549 43, arXiv 1707.00542)"
_SATQUMA = "SatQuMA 2.0.0 (Sidhu et al. 2022, npj Quantum Inf. 8 18; MIT), key_length, zenith pass at 500 km, 27 dB"
_RANGE_M = 1.2e6
_BEAM_DIAMETER_M = 12.0


def _db(share: float) -> float:
    return -10.0 * math.log10(share)


def _gaussian_db() -> float:
    """Return the loss of a Gaussian beam of that diameter (to 1/e^2) into a telescope of 1 m."""
    return _db(float(aperture_transmittance(_BEAM_DIAMETER_M / 2.0, aperture_radius_m=0.5)))


def _diffraction_limited_db() -> float:
    angle = diffraction_half_angle_rad(waist_radius_m=0.15, wavelength_nm=848.6)
    return _db(float(aperture_transmittance(angle * _RANGE_M, aperture_radius_m=0.5)))


def _implied_loss_db() -> float:
    """Return the loss at which half of the signal pulses (0.8 photons, every second one of 1e8) sift to 1 kb/s."""
    return _db(1e3 / (1e8 * 0.5 * 0.8 * 0.5))


@cache
def _satquma_pass() -> SatellitePass:
    seen = overpass(altitude_m=5e5, step_s=1.0)
    none = np.zeros_like(seen.time_s)
    return SatellitePass(
        slot_s=1.0,
        time_s=seen.time_s,
        elevation_deg=seen.elevation_deg,
        range_m=seen.range_m,
        attenuation_db=27.0 + 20.0 * np.log10(seen.range_m / 5e5),
        background_hz=none,
        is_day=none > 0,
        is_in_shadow=none > 0,
    )


def _counted(half_window_s: float, extraneous: float, error: float, what: str) -> float:
    source = DecoySource(1e8, (0.7921, 0.1707, 0.0), (0.7501, 0.1749, 0.075), 0.7611, error)
    counts = expected_counts(_satquma_pass(), source, Detector(1.0, extraneous))
    window = np.abs(_satquma_pass().time_s) <= half_window_s
    counted: Any = getattr(counts, what)
    return float(counted[window].sum())


def _satquma(name: str, claim: str, published: float, tolerance: float, compute: Callable[[], float]) -> Row:
    return Row(
        id=f"satellite.satquma-{name}",
        claim=claim,
        source=_SATQUMA,
        witness=Witness.PROGRAM,
        unit="bit",
        published=published,
        criterion=Within(relative=tolerance),
        compute=compute,
    )


def _budget(
    name: str,
    claim: str,
    published: float,
    compute: Callable[[], float],
    reason: str = "",
    *,
    witness: Witness = Witness.EXPERIMENT,
) -> Row:
    return Row(
        id=f"satellite.micius-{name}",
        claim=claim,
        source=f"{_MICIUS}, methods",
        witness=witness,
        unit="dB",
        published=published,
        criterion=Within(absolute=0.5),
        compute=compute,
        reason=reason,
    )


def _gap(name: str, claim: str, source: str, published: float, unit: str, missing: str) -> Row:
    return Row(
        id=f"satellite.{name}",
        claim=claim,
        source=source,
        witness=Witness.EXPERIMENT,
        unit=unit,
        published=published,
        criterion=Within(relative=0.2),
        missing=missing,
    )


_NO_COUNTS = "background light, the efficiency of error correction and counts by intensity are not printed"

ROWS = (
    _budget(
        "beam-area",
        "a beam of 12 m over a telescope of 1 m at 1200 km, as a ratio of areas",
        22.0,
        lambda: _db(1.0 / _BEAM_DIAMETER_M**2),
        witness=Witness.ARITHMETIC,
    ),
    _budget(
        "beam-gaussian",
        "the same as a Gaussian beam",
        22.0,
        _gaussian_db,
        "12 m is the diameter of the spot seen; the printed 22 dB is the ratio of areas, 3 dB above what a Gaussian "
        "beam of that 1/e^2 diameter puts into the telescope",
    ),
    _budget(
        "beam-diffraction",
        "the same for a beam as narrow as a telescope of 300 mm allows",
        22.0,
        _diffraction_limited_db,
        "the beam of the satellite is some 10 urad wide and not limited by diffraction",
    ),
    _budget(
        "receiver",
        "optics of 16 % and detectors of 50 %",
        10.97,
        lambda: _db(0.16 * 0.5),
        witness=Witness.ARITHMETIC,
    ),
    Row(
        id="satellite.micius-total-max",
        claim="the loss that 1 kb/s at 1200 km implies is not above the largest parts together (22, 8, 3, 10.97 dB)",
        source=f"{_MICIUS}, figure 3 and methods",
        witness=Witness.ARITHMETIC,
        unit="dB",
        published=43.97,
        criterion=AtMost(),
        compute=_implied_loss_db,
    ),
    Row(
        id="satellite.micius-total-min",
        claim="and not below the smallest (22, 3, 0, 10.97 dB)",
        source=f"{_MICIUS}, figure 3 and methods",
        witness=Witness.ARITHMETIC,
        unit="dB",
        published=35.97,
        criterion=AtLeast(),
        compute=_implied_loss_db,
    ),
    _gap("micius-sifted", "sifted bits of the pass of 19 December 2016", _MICIUS, 1671072.0, "bit", _NO_COUNTS),
    _gap("micius-qber", "error rate of that pass", _MICIUS, 1.1, "%", _NO_COUNTS),
    _gap("micius-key", "secret bits of that pass", _MICIUS, 300939.0, "bit", _NO_COUNTS),
    _gap(
        "jinan1-key",
        "secret bits of the best pass of a microsatellite",
        "Li et al. 2025 (Nature 640 47, arXiv 2408.10994)",
        0.59e6,
        "bit",
        _NO_COUNTS,
    ),
    _gap(
        "quantsat-sifted",
        "sifted rate in the zenith at 750 km",
        "QuantSat-PT (arXiv 2209.10293)",
        32.1,
        "kb/s",
        "the budget is a sum of margins in a table that we have not read",
    ),
    Row(
        id="satellite.period-500km",
        claim="period of a circular orbit at 500 km",
        source="Kepler's third law with the mean radius of the Earth, 6371 km",
        witness=Witness.ARITHMETIC,
        unit="min",
        published=94.47,
        criterion=Within(absolute=0.05),
        compute=lambda: CircularOrbit(5e5).period_s / 60.0,
    ),
    _satquma(
        "key-detections",
        "sifted bits of the key basis within 200 s of the zenith, background of 1e-8",
        12224272.61,
        1e-6,
        lambda: _counted(200.0, 1e-8, 0.001, "key_detections"),
    ),
    _satquma(
        "test-detections",
        "sifted bits of the test basis there",
        1204403.15,
        1e-6,
        lambda: _counted(200.0, 1e-8, 0.001, "test_detections"),
    ),
    _satquma(
        "key-errors",
        "errors in the key basis there",
        12456.10,
        1e-3,
        lambda: _counted(200.0, 1e-8, 0.001, "key_errors"),
    ),
    _satquma(
        "noisy-errors",
        "errors in the key basis with a background of 5e-7 and 0.5 % of misalignment",
        72733.47,
        1e-3,
        lambda: _counted(200.0, 5e-7, 0.005, "key_errors"),
    ),
)
