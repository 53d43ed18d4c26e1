"""Decoy-state BB84 as the registry offers it."""

from __future__ import annotations

import numpy as np

from shosoin.link.rates.decoy import METRO, DecoyParameters, secret_key_rate_per_pulse
from shosoin.link.rates.registry import RateModel, Request
from shosoin.link.rates.result import LinkRate

__all__ = ["MODELS"]


def _asymptotic(parameters: DecoyParameters, request: Request) -> LinkRate:
    loss = request.attenuation_db
    rate = secret_key_rate_per_pulse(parameters, attenuation_db=loss)
    click = -np.expm1(-(10.0 ** (-loss / 10.0)) * parameters.receiver_efficiency * parameters.mean_photon_number)
    dark = parameters.background_yield * (1.0 - click)
    qber = (dark / 2.0 + parameters.misalignment_error * click) / (dark + click)
    return LinkRate("decoy-bb84", loss, rate, qber, None)


MODELS = {"decoy-bb84": RateModel(METRO, _asymptotic)}
