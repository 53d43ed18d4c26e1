"""Twin-field QKD by sending or not sending, with two decoys and a finite number of windows, without pairing.

In key windows each user sends a signal or nothing. In test windows each sends nothing, a dim or a bright decoy. Windows
in which one side sent nothing bound the single photons that count; windows in which both sent the dim decoy with nearly
equal or opposite phases, which are then disclosed, bound their phase errors. A single photon from either side at random
is the same state in key and test windows, so what is in the key is a random part of all of them. Sizes are expected
counts; every statement is a Chernoff or Serfling bound:

    length = n1 (1 - h(e1)) - leak - log2(2/eps_cor) - 2 log2(1/(2 eps_pa)),
    eps_sec = 2 eps_smooth + eps_pa + eps_count.

Active pairing, which reaches further, is not here: its finite statistics need a proof of their own (Jiang, Hu, Yu,
Wang, New J. Phys. 23, 063038 (2021)). The relay needs no trust; intensities, random phases and the disclosed ones do.

Sources: Wang, Yu, Hu, Phys. Rev. A 98, 062323 (2018), arXiv 1805.09222; Yu, Hu, Jiang, Xu, Wang, Scientific Reports 9,
3080 (2019), arXiv 1807.09891 (decoys); Jiang, Yu, Hu, Wang, Phys. Rev. Applied 12, 024061 (2019), arXiv 1904.00192
(finite size). The bounds are written out anew from these ideas.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.epsilons import Epsilons
from shosoin.link.information import Array, binary_entropy, union
from shosoin.link.rates.deviations import count_min, mean_max, mean_min, sampling_gap
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.search import best_settings
from shosoin.link.rates.shaped import attenuations, require_block, shaped_rate
from shosoin.link.rates.twin_field_sns import SendingParameters, window_probabilities

__all__ = ["SendingBlock", "rate"]

# Single photons: three counts a side and two steps a side into the key, or two into the test; vacuum errors and the
# sample's gap beside.
_COUNT_STATEMENTS = 10
_ERROR_STATEMENTS = 11
_RANGES = {
    "mean": (1e-2, 1.5),
    "sending": (1e-3, 0.6),
    "test": (1e-3, 0.95),
    "bright": (2e-2, 1.5),
    "dim_share": (1e-2, 0.9),
    "dim_weight": (1e-2, 100.0),
    "vacuum_weight": (1e-2, 100.0),
    "slice_rad": (1e-2, 2.0),
}
_START = {
    "mean": 0.35,
    "sending": 0.04,
    "test": 0.4,
    "bright": 0.4,
    "dim_share": 0.2,
    "dim_weight": 10.0,
    "vacuum_weight": 5.0,
    "slice_rad": 0.4,
}


@dataclass(frozen=True, slots=True)
class SendingBlock:
    """How long a run is, in windows; settings are searched at each attenuation.

    The ``sifting_factor`` and ``active_pairing`` of ``SendingParameters`` are not used; a given mean photon number or
    sending probability is kept.
    """

    windows: float
    epsilon_secrecy: float = 1e-10
    epsilon_correctness: float = 1e-15

    def __post_init__(self) -> None:
        require_block(self.windows, (self.epsilon_secrecy, self.epsilon_correctness))


def _probabilities(at: dict[str, Array]) -> tuple[Array, Array, Array]:
    """Return with which probability a user's window is a bright, a dim and an empty test window."""
    bright = at["test"] / (1.0 + at["dim_weight"] + at["vacuum_weight"])
    return bright, bright * at["dim_weight"], bright * at["vacuum_weight"]


def _single_photons_min(
    counts: tuple[Array, Array, Array], dim: Array, bright: Array, shares: tuple[Array, Array, Array], nats: float
) -> Array:
    """Return a lower bound on windows times the yield of one photon from one side (dim, bright and no decoy)."""
    low = mean_min(counts[0], nats) * np.exp(dim) / shares[0]
    high = mean_max(counts[1], nats) * np.exp(bright) / shares[1]
    empty = mean_max(counts[2], nats) / shares[2]
    known = bright**2 * low - dim**2 * high - (bright**2 - dim**2) * empty
    return np.asarray(known / (dim * bright * (bright - dim)))


def _wrong_clicks(p: SendingParameters, arm: Array, dim: Array, slice_rad: Array) -> Array:
    """Return the probability that only the wrong detector clicks when both sent dim, averaged over the slice."""
    dark, visible = p.dark_count_probability, 1.0 - 2.0 * p.misalignment_error
    arrive = arm * dim
    clicks = union(dark, -np.expm1(-2.0 * arrive))
    wrong = np.asarray(0.0)
    for node, weight in zip(*np.polynomial.legendre.leggauss(6), strict=True):
        cosine = np.cos((1.0 + node) / 2.0 * slice_rad / 2.0)
        wrong = wrong + weight / 2.0 * (np.expm1(-arrive * (1.0 + visible * cosine)) + clicks)
    return np.asarray((1.0 - dark) * wrong, dtype=np.float64)


def _signed_bits(
    p: SendingParameters, block: SendingBlock, arm: Array, at: dict[str, Array]
) -> tuple[Array, dict[str, Array]]:
    part = block.epsilon_secrecy / 4.0
    count_nats, error_nats = np.log(_COUNT_STATEMENTS / part), np.log(_ERROR_STATEMENTS / part**2)
    windows, dark = block.windows, p.dark_count_probability
    mean, send, bright = at["mean"], at["sending"], at["bright"]
    dim = bright * at["dim_share"]
    bright_share, dim_share, empty_share = _probabilities(at)
    shares = (empty_share * dim_share, empty_share * bright_share, empty_share**2)
    yields = [window_probabilities(arm * photons, dark)[1] for photons in (dim, bright)]
    silent_yield = window_probabilities(arm * mean, dark)[2]
    counts = (
        windows * shares[0] * yields[0],
        windows * shares[1] * yields[1],
        windows * shares[2] * silent_yield,
    )
    # How many windows of each kind hold one photon from one given side: decoys, key, and sliced test windows.
    in_decoys = empty_share * (dim_share * dim * np.exp(-dim) + bright_share * bright * np.exp(-bright))
    in_key = (1.0 - at["test"]) ** 2 * send * (1.0 - send) * mean * np.exp(-mean)
    sliced = dim_share**2 * at["slice_rad"] / np.pi
    in_slices = sliced * dim * np.exp(-2.0 * dim)

    decoys = in_decoys * np.maximum(_single_photons_min(counts, dim, bright, shares, count_nats), 0.0)
    untagged = 2.0 * count_min(mean_min(decoys, count_nats) * in_key / in_decoys, count_nats)
    known = _single_photons_min(counts, dim, bright, shares, error_nats)
    both_sides = 2.0 * in_decoys * np.maximum(known, 0.0)
    tested = count_min(mean_min(both_sides, error_nats) * in_slices / in_decoys, error_nats)
    # Half of the empty pulses that count in sliced windows are wrong.
    empty_ratio = sliced * np.exp(-2.0 * dim) / 2.0 / shares[2]
    empty_errors = count_min(mean_min(counts[2], error_nats) * empty_ratio, error_nats)
    errors = np.maximum(windows * sliced * _wrong_clicks(p, arm, dim, at["slice_rad"]) - empty_errors, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = np.where(tested > 0, errors / tested, np.inf)
    open_phase = seen + sampling_gap(untagged, tested, error_nats)
    phase = np.minimum(open_phase, 0.5)

    both, one, neither = window_probabilities(arm * mean, dark)
    wrong = send**2 * both + (1.0 - send) ** 2 * neither
    kept = 2.0 * send * (1.0 - send) * one + wrong
    qber = np.where(kept > 0, wrong / np.maximum(kept, 5e-324), 0.5)
    key = windows * (1.0 - at["test"]) ** 2 * kept
    leak = p.reconciliation_efficiency * key * binary_entropy(np.minimum(qber, 0.5))
    fixed = np.log2(2.0 / block.epsilon_correctness) - 2.0 * np.log2(2.0 * part)
    bits = untagged * (1.0 - binary_entropy(phase)) - leak - fixed
    # Where there is no key, the search first looks for single photons, then for few errors of both kinds.
    errors_left = np.minimum(open_phase, 1e3) + leak / (leak + untagged)
    lost = np.where(known > 0, -1.0 - errors_left, np.maximum(known / windows, -1e6) - 1e4)
    figures = {"qber": qber, "phase_error_rate_max": phase, "untagged_bits_min": untagged}
    return np.asarray(bits), {**figures, "merit": np.where(bits > 0, bits / windows, lost)}


def rate(parameters: SendingParameters, *, attenuation_db: npt.ArrayLike, block: SendingBlock) -> LinkRate:
    """Return secret bits per window of a run of ``block.windows`` windows.

    ``details``: the settings used (``slice_rad`` is the width of accepted phase differences around 0 and around pi),
    ``phase_error_rate_max``, ``untagged_bits_min``.
    """
    p = parameters
    loss = attenuations(attenuation_db)
    arm = np.asarray(p.efficiency * 10.0 ** (-loss / 20.0))
    fixed = {"mean": p.mean_photons, "sending": p.sending_probability}
    given = {name: np.full(loss.shape, value) for name, value in fixed.items() if value is not None}
    free = {name: bounds for name, bounds in _RANGES.items() if name not in given}

    def merit(at: dict[str, Array]) -> Array:
        return _signed_bits(p, block, arm, {**given, **at})[1]["merit"]

    found = {**given, **best_settings(merit, free, start=_START, rounds=8)}
    bits, figures = _signed_bits(p, block, arm, found)
    bright, dim, empty = _probabilities(found)
    details = {
        "mean_photons": found["mean"],
        "sending_probability": found["sending"],
        "bright_mean": found["bright"],
        "dim_mean": found["bright"] * found["dim_share"],
        "bright_probability": bright,
        "dim_probability": dim,
        "vacuum_probability": empty,
        "slice_rad": found["slice_rad"],
        "phase_error_rate_max": figures["phase_error_rate_max"],
        "untagged_bits_min": figures["untagged_bits_min"],
    }
    part = block.epsilon_secrecy / 4.0
    epsilons = Epsilons(
        {
            "smoothing": 2.0 * part,
            "privacy_amplification": part,
            "single_photon_count": part,
            "correctness": block.epsilon_correctness,
        }
    )
    return shaped_rate("twin-field-sns-finite", loss, bits / block.windows, figures["qber"], epsilons, details)
