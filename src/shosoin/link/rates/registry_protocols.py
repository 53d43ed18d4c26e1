"""BBM92, MDI, twin field, Gaussian CV, and the bound above them all, as the registry offers them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from shosoin.link.rates import (
    bbm92,
    bbm92_continuous,
    bbm92_finite,
    gaussian_cv,
    gaussian_cv_finite,
    mdi,
    mdi_finite,
    plob,
    twin_field,
    twin_field_sns,
    twin_field_sns_finite,
)
from shosoin.link.rates.bbm92 import MA_FUNG_LO_2007, PairParameters
from shosoin.link.rates.bbm92_continuous import ContinuousPairParameters
from shosoin.link.rates.bbm92_finite import PairBlock
from shosoin.link.rates.gaussian_cv import TYPICAL_CV, GaussianParameters
from shosoin.link.rates.gaussian_cv_finite import GaussianBlock
from shosoin.link.rates.mdi import LO_CURTY_QI_2012, RelayParameters
from shosoin.link.rates.mdi_finite import RelayBlock
from shosoin.link.rates.registry import RateModel, Request
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.twin_field import CURTY_AZUMA_LO_2019
from shosoin.link.rates.twin_field_sns import SendingParameters
from shosoin.link.rates.twin_field_sns_finite import SendingBlock

__all__ = ["MODELS"]

_CONTINUOUS = ContinuousPairParameters(
    pairs_per_s=1e9,
    efficiency_a=0.3,
    efficiency_b=0.3,
    dark_counts_per_s_a=300.0,
    dark_counts_per_s_b=300.0,
    window_s=1e-10,
    window_share=0.8,
    misalignment_error=0.01,
)
"""Of our own choosing: a bright source and superconducting detectors."""

_SENDING = SendingParameters(efficiency=0.6, dark_count_probability=1e-9, misalignment_error=0.05)
"""Of our own choosing, of the order of the experiments beyond 500 km."""

_HETERODYNE = replace(TYPICAL_CV, detection="heterodyne")
_DETECTION = frozenset({"detection", "system.detection"})

_PAIR_BLOCK = PairBlock(pulses=1e12)
_RELAY_BLOCK = RelayBlock(pulse_pairs=1e13)
_GAUSSIAN_BLOCK = GaussianBlock(symbols=1e9)
_SENDING_BLOCK = SendingBlock(windows=1e13)


@dataclass(frozen=True, slots=True)
class _PairRun:
    system: PairParameters = MA_FUNG_LO_2007
    block: PairBlock = _PAIR_BLOCK


@dataclass(frozen=True, slots=True)
class _RelayRun:
    system: RelayParameters = LO_CURTY_QI_2012
    block: RelayBlock = _RELAY_BLOCK


@dataclass(frozen=True, slots=True)
class _GaussianRun:
    system: GaussianParameters = TYPICAL_CV
    block: GaussianBlock = _GAUSSIAN_BLOCK


@dataclass(frozen=True, slots=True)
class _SendingRun:
    system: SendingParameters = _SENDING
    block: SendingBlock = _SENDING_BLOCK


@dataclass(frozen=True, slots=True)
class _Nothing:
    """The bound has no parameters."""


def _bbm92_finite(run: _PairRun, request: Request) -> LinkRate:
    return bbm92_finite.rate(run.system, attenuation_db=request.attenuation_db, block=run.block)


def _mdi_finite(run: _RelayRun, request: Request) -> LinkRate:
    return mdi_finite.rate(run.system, attenuation_db=request.attenuation_db, block=run.block)


def _cv_finite(run: _GaussianRun, request: Request) -> LinkRate:
    return gaussian_cv_finite.rate(run.system, attenuation_db=request.attenuation_db, block=run.block)


def _sns_finite(run: _SendingRun, request: Request) -> LinkRate:
    return twin_field_sns_finite.rate(run.system, attenuation_db=request.attenuation_db, block=run.block)


def _at_loss(rate: Any) -> Any:
    """Return a model's rate over the loss alone, as the registry calls it."""

    def asked(parameters: Any, request: Request) -> LinkRate:
        found: LinkRate = rate(parameters, attenuation_db=request.attenuation_db)
        return found

    return asked


MODELS = {
    "bbm92": RateModel(MA_FUNG_LO_2007, _at_loss(bbm92.rate)),
    "bbm92-continuous": RateModel(_CONTINUOUS, _at_loss(bbm92_continuous.rate)),
    "bbm92-finite": RateModel(_PairRun(), _bbm92_finite, frozenset({"system.sifting_factor"})),
    "mdi": RateModel(LO_CURTY_QI_2012, _at_loss(mdi.rate)),
    "mdi-finite": RateModel(
        _RelayRun(), _mdi_finite, frozenset({"system.sifting_factor", "system.mean_photons", "block.settings"})
    ),
    "twin-field": RateModel(CURTY_AZUMA_LO_2019, _at_loss(twin_field.rate)),
    "twin-field-sns": RateModel(_SENDING, _at_loss(twin_field_sns.rate)),
    "twin-field-sns-finite": RateModel(
        _SendingRun(), _sns_finite, frozenset({"system.sifting_factor", "system.active_pairing"})
    ),
    "cv-homodyne": RateModel(TYPICAL_CV, _at_loss(gaussian_cv.rate), _DETECTION),
    "cv-heterodyne": RateModel(_HETERODYNE, _at_loss(gaussian_cv.rate), _DETECTION),
    "cv-homodyne-finite": RateModel(_GaussianRun(), _cv_finite, _DETECTION),
    "cv-heterodyne-finite": RateModel(_GaussianRun(_HETERODYNE), _cv_finite, _DETECTION),
    "plob": RateModel(_Nothing(), lambda _, request: plob.rate(attenuation_db=request.attenuation_db)),
}
