"""Rows for fibre, and for light beside the quantum channel in it."""

from __future__ import annotations

import math

from shosoin.link.channels.fibre import G652D
from shosoin.link.channels.four_wave_mixing import G652_DISPERSION
from shosoin.link.channels.raman import (
    RamanScattering,
    backward_length_km,
    forward_length_km,
    gain_shape,
    vibration_quanta,
)
from shosoin.link.channels.units import BOLTZMANN_J_PER_K, PLANCK_J_S, photon_energy_j
from shosoin.link.validation.row import AtLeast, AtMost, Factor, Row, Within, Witness

__all__ = ["ROWS"]

_ERAERDS = "Eraerds, Walenta, Legré, Gisin, Zbinden 2010 (NJP 12 063027), equations (2) and (3)"
_EXAMPLE = f"{_ERAERDS}, at 0 dBm, 50 km of 0.2 dB/km, 3e-9 per km and nm, filter of 0.2 nm"
_NEPERS = 0.2 * math.log(10.0) / 10.0
_LAUNCH_W, _BETA, _FILTER_NM, _LENGTH_KM = 1e-3, 3e-9, 0.2, 50.0


def _noise_w(forward: bool) -> float:
    length = (forward_length_km if forward else backward_length_km)(_LENGTH_KM, _NEPERS, _NEPERS)
    return _LAUNCH_W * _BETA * _FILTER_NM * float(length)


def _anti_stokes_share() -> float:
    quanta = float(vibration_quanta(13.2e12, temperature_k=293.15))
    return quanta / (quanta + 1.0)


def _scattering(name: str, claim: str, unit: str, published: float, ours: float) -> Row:
    return Row(
        id=f"raman.{name}",
        claim=claim,
        source=_EXAMPLE,
        witness=Witness.ARITHMETIC,
        unit=unit,
        published=published,
        criterion=Within(relative=0.005),
        compute=lambda: ours,
    )


def _experiment(name: str, claim: str, source: str, published: float, unit: str, missing: str) -> Row:
    return Row(
        id=f"coexistence.{name}",
        claim=claim,
        source=source,
        witness=Witness.EXPERIMENT,
        unit=unit,
        published=published,
        criterion=Within(relative=0.2),
        missing=missing,
    )


def _fibre_limit(wavelength_nm: float, limit_db_per_km: float) -> Row:
    return Row(
        id=f"fibre.g652d-{wavelength_nm:.0f}nm",
        claim=f"loss at {wavelength_nm:.0f} nm does not exceed the limit for cabled fibre",
        source="Recommendation ITU-T G.652 (2016), table 2 (G.652.D)",
        witness=Witness.STANDARD,
        unit="dB/km",
        published=limit_db_per_km,
        criterion=AtMost(),
        compute=lambda: float(G652D.db_per_km(wavelength_nm)),
    )


def _dispersion(name: str, limit: float, criterion: AtLeast | AtMost) -> Row:
    return Row(
        id=f"fibre.dispersion-{name}",
        claim="dispersion at 1550 nm is within the limits",
        source="Recommendation ITU-T G.652 (2016), table 2 (G.652.D)",
        witness=Witness.STANDARD,
        unit="ps/nm/km",
        published=limit,
        criterion=criterion,
        compute=lambda: float(G652_DISPERSION.ps_per_nm_km(1550.0)),
    )


def _gain(shift_thz: float, published: float) -> Row:
    return Row(
        id=f"raman.gain-{shift_thz:g}thz",
        claim=f"Raman gain at {shift_thz:g} THz over its peak",
        source="measured standard fibre, table of GNPy 3 (gnpy/core/parameters.py, BSD)",
        witness=Witness.EXPERIMENT,
        unit="",
        published=published,
        criterion=Factor(1.2),
        compute=lambda: float(gain_shape(shift_thz * 1e12)),
    )


def _cross_section(wavelength_nm: float, published: float) -> Row:
    return Row(
        id=f"raman.cross-section-{wavelength_nm:.0f}nm",
        claim=f"scattering of 1550 nm into {wavelength_nm:.0f} nm, per km and nm",
        source="table of a public simulation (ml-qkd, raman.py), a curve like Eraerds et al. 2010, figure 2",
        witness=Witness.PROGRAM,
        unit="1/(km nm)",
        published=published,
        criterion=Factor(1.26),
        compute=lambda: float(RamanScattering().per_km_nm(1550.0, wavelength_nm)),
    )


_PHOTON_J = float(photon_energy_j(1550.0))

ROWS = (
    _fibre_limit(1310.0, 0.40),
    _fibre_limit(1383.0, 0.40),
    _fibre_limit(1550.0, 0.30),
    _dispersion("min", 13.3, AtLeast()),
    _dispersion("max", 18.6, AtMost()),
    _scattering("forward-power", "Raman noise that leaves with the traffic", "W", 3.00e-12, _noise_w(True)),
    _scattering("backward-power", "Raman noise that comes back against it", "W", 6.45e-12, _noise_w(False)),
    _scattering("forward-photons", "the same as photons", "1/s", 2.34e7, _noise_w(True) / _PHOTON_J),
    _scattering("backward-photons", "the same as photons", "1/s", 5.03e7, _noise_w(False) / _PHOTON_J),
    Row(
        id="raman.anti-stokes",
        claim="at 13.2 THz and 293.15 K the anti-Stokes side has this share of the Stokes side",
        source="Bose and Einstein: n / (n + 1) = exp(-h nu / kT)",
        witness=Witness.ARITHMETIC,
        unit="",
        published=math.exp(-PLANCK_J_S * 13.2e12 / (BOLTZMANN_J_PER_K * 293.15)),
        criterion=Within(relative=1e-9),
        compute=_anti_stokes_share,
    ),
    _gain(4.0, 0.297),
    _gain(10.0, 0.798),
    _gain(13.0, 0.994),
    _cross_section(1510.0, 2.2e-9),
    _cross_section(1530.0, 3.3e-9),
    _cross_section(1570.0, 4.8e-9),
    _experiment(
        "patel-90km",
        "key beside 1 Gb/s in both directions over this length",
        "Patel et al. 2012 (PRX 2 041010, arXiv 1212.0033)",
        90.0,
        "km",
        "launch powers, filters and gates at that length are not in what we have read",
    ),
    _experiment(
        "dynes-100km",
        "key beside 200 Gb/s over this length",
        "Dynes et al. 2016 (Sci. Rep. 6 35149)",
        101.0,
        "km",
        "launch powers and filters are not in what we have read",
    ),
    _experiment(
        "huang-80km",
        "key beside terabits per second over this length",
        "arXiv 1610.04475",
        80.0,
        "km",
        "launch powers and filters are not in what we have read",
    ),
)
