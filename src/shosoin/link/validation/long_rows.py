"""Rows for the protocols that reach furthest, or need no single-photon detectors: twin field and Gaussian CV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from shosoin.link.rates import gaussian_cv, plob, twin_field, twin_field_sns
from shosoin.link.rates.gaussian_cv import HAJOMER_2024, GaussianParameters
from shosoin.link.rates.twin_field import CURTY_AZUMA_LO_2019
from shosoin.link.rates.twin_field_sns import SendingParameters
from shosoin.link.validation.row import AtLeast, Factor, Row, Within, Witness

__all__ = ["ROWS"]

_CAL = "Curty, Azuma, Lo 2019 (npj Quantum Inf. 5 64, arXiv 1807.07667)"
_LIU = "Liu et al. 2023 (PRL 130 210801, arXiv 2303.15795), abstract"
_LODEWYCK = "Lodewyck et al. 2007 (PRA 76 042305, arXiv 0706.4255), 25 km, 350 kHz"
_HAJOMER = "Hajomer et al. 2024 (Sci. Adv. 10 eadi9474, arXiv 2305.08156)"
_LODEWYCK_25KM = GaussianParameters(
    excess_noise=0.005,
    efficiency=0.606,
    electronic_noise=0.041,
    reconciliation_efficiency=0.898,
    modulation_variance=18.5,
    symbol_rate_hz=350e3,
)
_TRANSMITTANCE = 0.302


@cache
def _over_the_bound() -> float:
    """Return the best ratio of twin-field rate to the repeaterless bound between 30 and 80 dB."""
    loss = np.arange(30.0, 80.0, 1.0)
    rate = twin_field.rate(CURTY_AZUMA_LO_2019, attenuation_db=loss).secret_bits_per_pulse
    return float((rate / plob.capacity_bits_per_mode(loss)).max())


def _drop_over_20_db() -> float:
    quiet = replace(CURTY_AZUMA_LO_2019, dark_count_probability=1e-10)
    first, second = twin_field.rate(quiet, attenuation_db=np.array([60.0, 80.0])).secret_bits_per_pulse
    return float(first / second)


def _thousand_km() -> float:
    """Return the rate of detectors with 0.02 counts a second, gates of 1 ns and an efficiency of 60 %."""
    cold = SendingParameters(efficiency=0.6, dark_count_probability=0.02e-9, misalignment_error=0.05)
    return float(twin_field_sns.rate(cold, attenuation_db=0.157 * 1002.0).secret_bits_per_pulse)


def _lodewyck(name: str, claim: str, published: float, bits: Callable[[float, float], float]) -> Row:
    def compute() -> float:
        known = {"transmittance": _TRANSMITTANCE, "variance": 18.5, "excess": _LODEWYCK_25KM.excess_noise}
        shared = float(gaussian_cv.mutual_information(_LODEWYCK_25KM, **known))
        leaked = float(gaussian_cv.holevo_information(_LODEWYCK_25KM, **known))
        return bits(shared, leaked) * 350.0

    return Row(
        id=f"cv.lodewyck-{name}",
        claim=claim,
        source=f"{_LODEWYCK}: variance 18.5, transmittance 0.302, 0.606, 0.041, 0.005, 0.898",
        witness=Witness.EXPERIMENT,
        unit="kb/s",
        published=published,
        criterion=Within(relative=0.003),
        compute=compute,
    )


def _hajomer() -> float:
    return float(gaussian_cv.rate(HAJOMER_2024, attenuation_db=15.4).secret_bits_per_pulse)


def _experiment(name: str, claim: str, source: str, published: float, unit: str, missing: str) -> Row:
    return Row(
        id=name,
        claim=claim,
        source=source,
        witness=Witness.EXPERIMENT,
        unit=unit,
        published=published,
        criterion=Within(relative=0.2),
        missing=missing,
    )


ROWS = (
    Row(
        id="twin-field.beats-the-bound",
        claim="with dark counts of 1e-7 and 2 % misalignment twin field passes the repeaterless bound: best ratio",
        source=f"{_CAL}, figure 2",
        witness=Witness.THEORY,
        unit="",
        published=1.0,
        criterion=AtLeast(),
        compute=_over_the_bound,
    ),
    Row(
        id="twin-field.square-root",
        claim="20 dB more loss cost a factor of ten, as long as dark counts do not matter (1e-10, from 60 to 80 dB)",
        source=f"{_CAL}; Lucamarini, Yuan, Dynes, Shields 2018 (Nature 557 400)",
        witness=Witness.THEORY,
        unit="",
        published=10.0,
        criterion=Within(relative=0.2),
        compute=_drop_over_20_db,
    ),
    Row(
        id="twin-field.liu-1002km",
        claim="over 1002 km of 0.157 dB/km the asymptotic rate is this; gate and efficiency are ours (1 ns, 60 %)",
        source=_LIU,
        witness=Witness.EXPERIMENT,
        unit="bit/pulse",
        published=9.53e-12,
        criterion=Factor(5.0),
        compute=_thousand_km,
    ),
    _experiment(
        "twin-field.liu-952km",
        "over 952 km the rate of a finite block is this",
        _LIU,
        8.75e-12,
        "bit/pulse",
        "the experiment pairs bits actively, and pairing has no model for finite blocks here",
    ),
    _experiment(
        "twin-field.liu-202km",
        "over 202 km key is made at this rate",
        "Liu et al. 2023 (Quantum Frontiers 2 16)",
        111.74,
        "kb/s",
        "the experiment pairs bits actively, and pairing has no model for finite blocks here",
    ),
    _experiment(
        "twin-field.pittaluga-605km",
        "key was made over this length, in the limit of endless blocks",
        "Pittaluga et al. 2021 (Nat. Photonics 15 530, arXiv 2012.15099)",
        605.0,
        "km",
        "losses, dark counts and the share of the phase reference are not in what we have read",
    ),
    _lodewyck("shared", "what both ends share", 365.0, lambda shared, _: shared),
    _lodewyck("leaked", "what an eavesdropper holds at most", 316.0, lambda _, leaked: leaked),
    _lodewyck("key", "the key that is left", 12.3, lambda shared, leaked: 0.898 * shared - leaked),
    Row(
        id="cv.hajomer-finite",
        claim="100 km with a local oscillator of its own: the asymptotic rate is not below the finite one printed",
        source=f"{_HAJOMER}, abstract and table 1",
        witness=Witness.EXPERIMENT,
        unit="bit/symbol",
        published=2.54e-4,
        criterion=AtLeast(),
        compute=_hajomer,
    ),
    Row(
        id="cv.hajomer-asymptotic",
        claim="the same with endless blocks, by another program",
        source=f"{_HAJOMER}; qkd (public Rust and Python program), validation page",
        witness=Witness.PROGRAM,
        unit="bit/symbol",
        published=2.7e-3,
        criterion=Within(relative=0.02),
        compute=_hajomer,
    ),
    _experiment(
        "cv.milicevic-142km",
        "codes of rate 0.02 allow key at this rate over 142 km",
        "Milicevic, Feng, Zhang, Gulak 2018 (npj Quantum Inf. 4 21), abstract",
        6.64e-8,
        "bit/pulse",
        "modulation variance, excess noise and frame error rate of that point are not in what we have read",
    ),
)
