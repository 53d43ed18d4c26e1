"""Rows for decoy-state BB84 with infinitely many pulses: Ma, Qi, Zhao, Lo 2005 and the experiment that followed.

Two of them reach the two-decoy bounds of the finite-key proof through a block so large that its deviations vanish:
there the bounds must become those that Ma et al. derived, with the numbers that they print.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shosoin.link.counts import DecoyCounts
from shosoin.link.rates import decoy_published as published
from shosoin.link.rates import two_decoys
from shosoin.link.rates.decoy import GYS
from shosoin.link.rates.sampling import Sampling
from shosoin.link.validation.row import Row, Within, Witness

__all__ = ["ROWS"]

_MA = "Ma, Qi, Zhao, Lo 2005 (PRA 72 012326, arXiv quant-ph/0503005)"
_ZHAO = "Zhao, Qi, Ma, Lo, Qian 2006 (PRL 96 070502, arXiv quant-ph/0503192)"
_SIGNAL = 0.48
_ENDLESS = 1e30


@dataclass(frozen=True, slots=True)
class _VacuumWeak:
    """What the bounds say of single photons, per pulse that carries one."""

    yield_min: float
    error_max: float


def _gain(mu: float, eta: float) -> float:
    """Return Q of Ma et al., equation (10), which adds the two probabilities."""
    return GYS.background_yield + 1.0 - float(np.exp(-eta * mu))


def _error_gain(mu: float, eta: float) -> float:
    """Return E Q, equation (11)."""
    return GYS.background_yield / 2.0 + GYS.misalignment_error * (1.0 - float(np.exp(-eta * mu)))


def _eta(length_km: float) -> float:
    return float(10.0 ** (-GYS.attenuation_db_per_km * length_km / 10.0)) * GYS.receiver_efficiency


def _vacuum_weak(length_km: float, weak: float) -> _VacuumWeak:
    """Return the bounds of signal, weak decoy and vacuum on an endless block with the gains of the paper."""
    mu, eta = np.array([_SIGNAL, weak, 0.0]), _eta(length_km)
    p = np.full(3, 1.0 / 3.0)
    detections = _ENDLESS * p * [_gain(float(each), eta) for each in mu]
    errors = _ENDLESS * p * [_error_gain(float(each), eta) for each in mu]
    counts = DecoyCounts(detections, errors, detections, errors)
    found = two_decoys.bounds(counts, mu, p, epsilon_secrecy=1e-9, sampling=Sampling.CHERNOFF)
    photons = _ENDLESS * float((p * mu * np.exp(-mu)).sum())
    return _VacuumWeak(float(found.single_min) / photons, float(found.phase_error_rate_max))


def _single(length_km: float) -> _VacuumWeak:
    """Return the true yield and error of single photons, equations (7) and (9)."""
    y0, eta = GYS.background_yield, _eta(length_km)
    true = y0 + eta - y0 * eta
    return _VacuumWeak(true, (y0 / 2.0 + GYS.misalignment_error * eta) / true)


ROWS = (
    Row(
        id="decoy.gys-cutoff",
        claim="with the parameters of Gobby, Yuan and Shields and infinitely many decoys, key ends at this length",
        source=f"{_MA}, figure 2",
        witness=Witness.THEORY,
        unit="km",
        published=142.05,
        criterion=Within(absolute=0.2),
        compute=published.gys_reach_km,
    ),
    Row(
        id="decoy.gys-vacuum-weak-cutoff",
        claim="with a weak decoy of 0.05 and vacuum, key ends at this length",
        source=f"{_MA}, figure 2",
        witness=Witness.THEORY,
        unit="km",
        published=140.55,
        criterion=Within(absolute=0.2),
        compute=published.gys_reach_with_vacuum_and_weak_decoy_km,
    ),
    Row(
        id="decoy.gys-yield-bound",
        claim="vacuum and a weak decoy of a quarter of the signal underestimate the yield of single photons at 40 km",
        source=f"{_MA}, figure 1",
        witness=Witness.THEORY,
        unit="%",
        published=3.5,
        criterion=Within(absolute=0.1),
        compute=lambda: 100.0 * (1.0 - _vacuum_weak(40.0, _SIGNAL / 4.0).yield_min / _single(40.0).yield_min),
    ),
    Row(
        id="decoy.gys-error-bound",
        claim="and overestimate their error rate",
        source=f"{_MA}, figure 1",
        witness=Witness.THEORY,
        unit="%",
        published=16.8,
        criterion=Within(absolute=0.3),
        compute=lambda: 100.0 * (_vacuum_weak(40.0, _SIGNAL / 4.0).error_max / _single(40.0).error_max - 1.0),
    ),
    Row(
        id="decoy.gys-intensity",
        claim="the best signal intensity of that system, error correction at 1.22 times the Shannon limit",
        source=f"{_MA}, section II, equation (12)",
        witness=Witness.THEORY,
        unit="photons",
        published=0.48,
        criterion=Within(absolute=0.01),
        compute=lambda: published.gys_best_mean_photon_number(1.22),
    ),
    Row(
        id="decoy.gys-intensity-shannon",
        claim="the best signal intensity of that system, error correction at the Shannon limit",
        source=f"{_MA}, section II, equation (12)",
        witness=Witness.THEORY,
        unit="photons",
        published=0.54,
        criterion=Within(absolute=0.01),
        compute=lambda: published.gys_best_mean_photon_number(1.0),
    ),
    Row(
        id="decoy.zhao-15km",
        claim="the first decoy-state experiment makes this much key over 15 km",
        source=f"{_ZHAO}, abstract",
        witness=Witness.EXPERIMENT,
        unit="bit/s",
        published=165.0,
        criterion=Within(relative=0.05),
        missing="counts by intensity and the variances that were subtracted stand in a table that we have not read",
    ),
)
