"""BBM92 with a pulsed pair source and a finite number of pulses: composable secret key rate.

The key basis gives n bits, the other basis k for the test; by the uncertainty relation for smooth entropies the secret
length is n (1 - h(E + mu)) - leak - log2(2 / (eps_sec^2 eps_cor)), where mu is how far the unseen phase error rate may
be above the one seen. The proof holds against general attacks. Trust as in ``bbm92``; the source may be anyone's. The
number of rounds is that of pump pulses, as an average: a run yields its expected counts.

Source: Tomamichel, Lim, Gisin, Renner, "Tight finite-key analysis for quantum cryptography", Nature Communications 3,
634 (2012), equation (2) with mu of its parameter estimation; the same bound in Tomamichel and Leverrier, Quantum 1, 14
(2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.epsilons import Epsilons
from shosoin.link.information import Array, binary_entropy
from shosoin.link.rates.bbm92 import PairParameters, gain_and_error_rate
from shosoin.link.rates.deviations import sampling_gap
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.search import best_settings
from shosoin.link.rates.shaped import attenuations, require_block, shaped_rate

__all__ = ["PairBlock", "rate", "secret_bits"]

_RANGES = {"mean": (1e-5, 3.0), "test": (1e-5, 0.5)}


@dataclass(frozen=True, slots=True)
class PairBlock:
    """How long a run is and how it is cut; the sifting factor of ``PairParameters`` is not used."""

    pulses: float
    epsilon_secrecy: float = 1e-10
    epsilon_correctness: float = 1e-15
    test_basis_probability: float | None = None
    """Probability with which each user chooses the test basis; None takes the best at each attenuation."""

    def __post_init__(self) -> None:
        require_block(self.pulses, (self.epsilon_secrecy, self.epsilon_correctness), (self.test_basis_probability,))


def secret_bits(
    key_bits: npt.ArrayLike,
    test_bits: npt.ArrayLike,
    *,
    test_qber: npt.ArrayLike,
    leak_ec_bits: npt.ArrayLike,
    block: PairBlock,
) -> Array:
    """Return the secret length in bits that counted bits are worth; negative when there is no key (not rounded)."""
    n = np.asarray(key_bits, dtype=np.float64)
    # A gap that fails with probability (eps/4)^2 smooths the entropy by eps/4.
    gap = sampling_gap(n, test_bits, 2.0 * np.log(4.0 / block.epsilon_secrecy))
    phase_error = np.minimum(np.asarray(test_qber, dtype=np.float64) + gap, 0.5)
    fixed = np.log2(2.0) - 2.0 * np.log2(block.epsilon_secrecy) - np.log2(block.epsilon_correctness)
    return np.asarray(
        n * (1.0 - binary_entropy(phase_error)) - np.asarray(leak_ec_bits, dtype=np.float64) - fixed, dtype=np.float64
    )


def _signed_bits(parameters: PairParameters, block: PairBlock, loss: Array, mean: Array, test: Array) -> Array:
    gain, error = gain_and_error_rate(parameters, attenuation_db=loss, mean_pairs=mean)
    key, tested = block.pulses * gain * (1.0 - test) ** 2, block.pulses * gain * test**2
    leak = parameters.reconciliation_efficiency * key * binary_entropy(np.minimum(error, 0.5))
    return secret_bits(key, tested, test_qber=error, leak_ec_bits=leak, block=block)


def rate(parameters: PairParameters, *, attenuation_db: npt.ArrayLike, block: PairBlock) -> LinkRate:
    """Return secret bits per pump pulse of a run of ``block.pulses`` pulses.

    ``details``: ``mean_pairs``, ``test_basis_probability`` (used), ``gain``.
    """
    loss = attenuations(attenuation_db)
    fixed = {"mean": parameters.mean_pairs, "test": block.test_basis_probability}
    free = {name: bounds for name, bounds in _RANGES.items() if fixed[name] is None}
    given = {name: np.full(loss.shape, value) for name, value in fixed.items() if value is not None}

    def signed(at: dict[str, Array]) -> Array:
        settings = {**given, **at}
        return _signed_bits(parameters, block, loss, settings["mean"], settings["test"])

    found = {**given, **(best_settings(signed, free, start={"mean": 0.1, "test": 0.2}, rounds=6) if free else {})}
    gain, error = gain_and_error_rate(parameters, attenuation_db=loss, mean_pairs=found["mean"])
    bits = signed(found) / block.pulses
    epsilons = Epsilons({"secrecy": block.epsilon_secrecy, "correctness": block.epsilon_correctness})
    details = {"mean_pairs": found["mean"], "test_basis_probability": found["test"], "gain": gain}
    return shaped_rate("bbm92-finite", loss, bits, error, epsilons, details)
