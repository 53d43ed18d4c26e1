"""Independent programs that compute what we compute: asked where they are installed, never needed.

TNO's ``tno.quantum.communication.qkd_key_rate`` (Apache-2.0) has models of its own for BB84 and BBM92 after Attema,
Bosman and Neumann (Quantum Inf. Process. 20, 154, 2021) and Ma, Fung and Lo (2007). It takes the reconciliation at the
Shannon limit and no sifting into account, so ours is asked for the same. ``randextract`` (HSLU, MIT) hashes by Toeplitz
matrices.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from shosoin.base import Unavailable

__all__ = ["HASHING_PEER", "PEER", "bb84_rate", "bbm92_rate", "hashed_bits"]

Bits = npt.NDArray[np.uint8]

_PACKAGE = "tno.quantum.communication.qkd_key_rate.quantum"
PEER = "tno.quantum.communication.qkd_key_rate 2.0.4"
HASHING_PEER = "randextract 0.2.2"


def _package(name: str, peer: str = PEER) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise Unavailable(f"{peer} is not installed", code="link.no_peer", hint="see requirements/dev.txt") from err


def _detector(*, efficiency: float, dark_count_probability: float, drift: float, error: float) -> Any:
    return _package(_PACKAGE).standard_detector.customise(
        dark_count_rate=dark_count_probability,
        polarization_drift=drift,
        error_detector=error,
        efficiency_party=efficiency,
    )


def bb84_rate(
    *, efficiency: float, dark_count_probability: float, misalignment_error: float, mean_photons: float, loss_db: float
) -> float:
    """Return secret bits per pulse of decoy-state BB84 with infinitely many decoys and pulses."""
    drift = math.asin(math.sqrt(misalignment_error))
    detector = _detector(efficiency=efficiency, dark_count_probability=dark_count_probability, drift=drift, error=0.0)
    estimate = _package(f"{_PACKAGE}.bb84").BB84FullyAsymptoticKeyRateEstimate(detector=detector)
    return float(estimate.compute_rate(mu=mean_photons, attenuation=loss_db))


def bbm92_rate(
    *, efficiency: float, background: float, misalignment_error: float, mean_pairs: float, loss_db: float
) -> float:
    """Return secret bits per pump pulse of BBM92, the source in the middle."""
    detector = _detector(efficiency=efficiency, dark_count_probability=background, drift=0.0, error=misalignment_error)
    estimate = _package(f"{_PACKAGE}.bbm92").BBM92AsymptoticKeyRateEstimate(detector=detector)
    return float(estimate.compute_rate(mu=mean_pairs, attenuation=loss_db))


def hashed_bits(key: Bits, seed: Bits, output_bits: int) -> Bits:
    """Return a Toeplitz hash; key and seed as arrays of zeros and ones, the seed with the diagonals from top right.

    The package begins its seed with the main diagonal, goes down, and comes back from the top right.
    """
    field = _package("galois", HASHING_PEER).GF2
    hashing = _package("randextract", HASHING_PEER).ToeplitzHashing(len(key), output_bits)
    hashed = hashing.extract(field(key), field(np.roll(seed, 1 - len(key))))
    return np.asarray(hashed, dtype=np.uint8)
