"""Decoy-state BB84 as the registry offers it: for infinitely many pulses, and for blocks under each proof."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shosoin.link.detector import Detector
from shosoin.link.rates.decoy import METRO, DecoyParameters, secret_key_rate_per_pulse
from shosoin.link.rates.decoy_bounds import DecoySettings
from shosoin.link.rates.expected_counts import DecoyLink
from shosoin.link.rates.finite_key import Block, FiniteProof, Security, Settings, finite_key_rate
from shosoin.link.rates.optimise import optimise_along
from shosoin.link.rates.registry import RateModel, Request
from shosoin.link.rates.result import LinkRate

__all__ = ["MODELS", "FiniteParameters"]

_METRO = DecoyLink(
    detector=Detector(efficiency=0.14, dark_count_probability=1e-7), misalignment_error=0.02, pulse_rate_hz=1e9
)
"""The finite twin of ``METRO``: two detectors, half of its background each."""


@dataclass(frozen=True, slots=True)
class FiniteParameters:
    """A link, what its ends choose where nothing is optimised, and the epsilons.

    Raises:
        ValueError: an epsilon is not within (0, 1).
    """

    link: DecoyLink = _METRO
    intensities: tuple[float, ...] = (0.4, 0.12)
    probabilities: tuple[float, ...] = (0.67, 0.33)
    key_basis_probability: float = 0.86
    epsilon_secrecy: float = 1e-9
    epsilon_correctness: float = 1e-15

    def __post_init__(self) -> None:
        for name in ("key_basis_probability", "epsilon_secrecy", "epsilon_correctness"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be within (0, 1), got {getattr(self, name)}")


def _asymptotic(parameters: DecoyParameters, request: Request) -> LinkRate:
    loss = request.attenuation_db
    rate = secret_key_rate_per_pulse(parameters, attenuation_db=loss)
    click = -np.expm1(-(10.0 ** (-loss / 10.0)) * parameters.receiver_efficiency * parameters.mean_photon_number)
    dark = parameters.background_yield * (1.0 - click)
    qber = (dark / 2.0 + parameters.misalignment_error * click) / (dark + click)
    return LinkRate("decoy-bb84", loss, rate, qber, None)


def _finite(proof: FiniteProof) -> RateModel:
    def rate(parameters: FiniteParameters, request: Request) -> LinkRate:
        block = Block(key_detections=request.block_bits)
        security = Security(
            epsilon_secrecy=parameters.epsilon_secrecy, epsilon_correctness=parameters.epsilon_correctness
        )
        return finite_key_rate(
            parameters.link,
            _settings(proof, parameters, request, block, security),
            proof=proof,
            block=block,
            attenuation_db=request.attenuation_db,
            security=security,
        )

    if proof.intensities == 2:
        return RateModel(FiniteParameters(), rate)
    return RateModel(FiniteParameters(intensities=(0.44, 0.23, 2e-4), probabilities=(0.4, 0.43, 0.17)), rate)


def _settings(
    proof: FiniteProof, parameters: FiniteParameters, request: Request, block: Block, security: Security
) -> Settings:
    """Return the settings at each loss: those given, or the best ones."""
    if not request.optimise:
        if len(parameters.intensities) != proof.intensities:
            raise ValueError(f"{proof.value} takes {proof.intensities} intensities, got {len(parameters.intensities)}")
        sent = DecoySettings(np.asarray(parameters.intensities), np.asarray(parameters.probabilities))
        return Settings(
            sent.intensities,
            sent.probabilities,
            np.full(request.attenuation_db.shape, parameters.key_basis_probability),
        )
    found = optimise_along(
        parameters.link, proof=proof, block=block, attenuation_db=request.attenuation_db, security=security
    )
    return Settings(
        np.stack([each.settings.intensities for each in found]),
        np.stack([each.settings.probabilities for each in found]),
        np.stack([each.settings.key_basis_probability for each in found]),
    )


MODELS = {
    "decoy-bb84": RateModel(METRO, _asymptotic),
    **{f"decoy-bb84/{proof.value}": _finite(proof) for proof in FiniteProof},
}
