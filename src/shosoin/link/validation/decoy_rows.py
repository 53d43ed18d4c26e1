"""Rows for decoy-state BB84 with infinitely many pulses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from shosoin.link.rates.decoy import GYS, cutoff_km, secret_key_rate_per_pulse
from shosoin.link.validation.row import Row, Within, Witness

__all__ = ["ROWS"]

_MA = "Ma, Qi, Zhao, Lo 2005 (PRA 72 012326, arXiv quant-ph/0503005)"


def _best_intensity(length_km: float) -> float:
    intensities = np.arange(0.30, 0.701, 0.005)
    loss = length_km * GYS.attenuation_db_per_km
    rates = [
        float(secret_key_rate_per_pulse(replace(GYS, mean_photon_number=float(mu)), attenuation_db=loss))
        for mu in intensities
    ]
    return float(intensities[int(np.argmax(rates))])


ROWS = (
    Row(
        id="decoy.gys-cutoff",
        claim="with the parameters of Gobby, Yuan and Shields and infinitely many decoys, key ends at this length",
        source=f"{_MA}, section V",
        witness=Witness.THEORY,
        unit="km",
        published=142.0,
        criterion=Within(absolute=0.2),
        compute=lambda: cutoff_km(GYS),
    ),
    Row(
        id="decoy.gys-intensity",
        claim="the best signal intensity of that system at 50 km",
        source=f"{_MA}, section IV",
        witness=Witness.THEORY,
        unit="photons per pulse",
        published=0.48,
        criterion=Within(absolute=0.02),
        compute=lambda: _best_intensity(50.0),
    ),
)
