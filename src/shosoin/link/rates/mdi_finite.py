"""MDI-QKD with two decoy intensities and a vacuum, and a finite number of pulse pairs: composable secret key rate.

Each user sends a signal (key basis Z) or one of two decoys in basis X or vacuum. Announced events with one photon from
each side are alike in Z and X, because the two bases mix to the same state. So their number is bounded from below, and
the errors among them from above, from the X events alone; what lies in the key is a random part of all such events.
Sizes are expected counts; every statistical statement is a Chernoff or Serfling bound and its failure is paid for:

    length = n1 (1 - h(e1)) - leak - log2(2/eps_cor) - 2 log2(1/(2 eps_pa)),
    eps_sec = 2 eps_smooth + eps_pa + eps_count.

The statements about errors are smoothed over, hence hold with eps_smooth squared; the count of single-photon pairs is
a property of the sources and its failures simply add. Valid against general attacks on channel and relay. Trusted:
transmitters with exact intensities and random phases. Vacuum events are not credited.

Sources: Curty, Xu, Cui, Lim, Tamaki, Lo, "Finite-key analysis for measurement-device-independent quantum key
distribution", Nature Communications 5, 3732 (2014), arXiv 1307.1081 (structure, counts assigned to intensities
afterwards); Xu, Curty, Qi, Lo, New J. Phys. 15, 113007 (2013), arXiv 1305.6965 (elimination of higher photon numbers);
Zhou, Yu, Wang, Phys. Rev. A 93, 042324 (2016), arXiv 1502.01262 (one signal in Z, decoys in X only).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.epsilons import Epsilons
from shosoin.link.information import Array, binary_entropy
from shosoin.link.rates.deviations import count_min, mean_max, mean_min, sampling_gap
from shosoin.link.rates.mdi import RelayParameters, arm_transmittances, gain_and_errors_x, gain_and_errors_z
from shosoin.link.rates.result import LinkRate
from shosoin.link.rates.search import best_settings
from shosoin.link.rates.shaped import attenuations, require_block, shaped_rate

__all__ = ["RelayBlock", "RelaySettings", "rate"]

# Statistical statements: seven cells of X announcements, four cells of X errors, three on the way into the key.
_COUNT_STATEMENTS = 10
_ERROR_STATEMENTS = 12
_RANGES = {
    "signal": (5e-3, 1.5),
    "bright": (5e-2, 1.5),
    "dim_share": (5e-3, 0.9),
    "test": (1e-3, 0.95),
    "dim_weight": (0.05, 20.0),
    "vacuum_weight": (1e-3, 20.0),
}
_START = {"signal": 0.3, "bright": 0.4, "dim_share": 0.2, "test": 0.4, "dim_weight": 2.0, "vacuum_weight": 0.7}


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """What both users send, and how often; the probabilities add up to at most 1, the rest is vacuum."""

    signal_mean: float
    """Mean photon number of a signal in basis Z."""
    bright_mean: float
    """Mean photon number of the brighter decoy in basis X."""
    dim_mean: float
    """Mean photon number of the dimmer decoy in basis X, below the brighter one's and above 0."""
    signal_probability: float
    bright_probability: float
    dim_probability: float

    def __post_init__(self) -> None:
        shares = (self.signal_probability, self.bright_probability, self.dim_probability)
        if not 0.0 < self.dim_mean < self.bright_mean <= 10.0 or not 0.0 < self.signal_mean <= 10.0:
            raise ValueError("means must be above 0 and at most 10, and the dimmer decoy below the brighter")
        if min(shares) <= 0.0 or sum(shares) >= 1.0:
            raise ValueError("probabilities must be above 0 and leave some for the vacuum")


@dataclass(frozen=True, slots=True)
class RelayBlock:
    """How long a run is, in pulse pairs; sifting factor and mean photons of ``RelayParameters`` are not used."""

    pulse_pairs: float
    epsilon_secrecy: float = 1e-10
    epsilon_correctness: float = 1e-15
    settings: RelaySettings | None = None
    """None searches good settings at each attenuation."""

    def __post_init__(self) -> None:
        require_block(self.pulse_pairs, (self.epsilon_secrecy, self.epsilon_correctness))


def _settings_arrays(at: dict[str, Array]) -> dict[str, Array]:
    """Turn free search variables into intensities and probabilities that add up."""
    weight = 1.0 + at["dim_weight"] + at["vacuum_weight"]
    decoy = at["test"] / weight
    return {
        "signal_mean": at["signal"],
        "bright_mean": at["bright"],
        "dim_mean": at["bright"] * at["dim_share"],
        "signal_probability": 1.0 - at["test"],
        "bright_probability": decoy,
        "dim_probability": decoy * at["dim_weight"],
        "vacuum_probability": decoy * at["vacuum_weight"],
    }


def _given_arrays(settings: RelaySettings, shape: tuple[int, ...]) -> dict[str, Array]:
    names = ("signal_mean", "bright_mean", "dim_mean", "signal_probability", "bright_probability", "dim_probability")
    arrays = {name: np.full(shape, getattr(settings, name)) for name in names}
    rest = 1.0 - arrays["signal_probability"] - arrays["bright_probability"] - arrays["dim_probability"]
    return {**arrays, "vacuum_probability": rest}


@dataclass(frozen=True, slots=True)
class _Cell:
    """Expected announcements and errors of one pair of X settings, and what turns counts into yields times N."""

    count: Array
    errors: Array
    scale: Array


def _cells(parameters: RelayParameters, block: RelayBlock, loss: Array, s: dict[str, Array]) -> dict[str, _Cell]:
    eta_a, eta_b = arm_transmittances(parameters, loss)
    dark, misaligned = parameters.dark_count_probability, parameters.misalignment_error
    zero = np.zeros_like(s["bright_mean"])
    kinds = {
        "b": (s["bright_mean"], s["bright_probability"]),
        "d": (s["dim_mean"], s["dim_probability"]),
        "v": (zero, s["vacuum_probability"]),
    }
    cells = {}
    for pair in ("bb", "dd", "bv", "vb", "dv", "vd", "vv"):
        (mean_a, share_a), (mean_b, share_b) = kinds[pair[0]], kinds[pair[1]]
        gain, wrong = gain_and_errors_x(eta_a * mean_a, eta_b * mean_b, dark=dark, misaligned=misaligned)
        sent = block.pulse_pairs * share_a * share_b
        cells[pair] = _Cell(sent * gain, sent * wrong, np.exp(mean_a + mean_b) / (share_a * share_b))
    return cells


def _announced_pairs_min(cells: dict[str, _Cell], bright: Array, dim: Array, nats: float) -> Array:
    """Return a lower bound on N Y11 from the counts of X: everything above one photon a side cancels or helps."""
    low = {name: cell.scale * mean_min(cell.count, nats) for name, cell in cells.items()}
    high = {name: cell.scale * mean_max(cell.count, nats) for name, cell in cells.items()}
    vacuum = (bright**3 - dim**3) * low["vv"]
    dim_part = bright**3 * (low["dd"] - high["dv"] - high["vd"])
    bright_part = dim**3 * (high["bb"] - low["bv"] - low["vb"])
    return np.asarray((dim_part + vacuum - bright_part) / ((bright * dim) ** 2 * (bright - dim)))


def _announced_errors_max(cells: dict[str, _Cell], dim: Array, nats: float) -> Array:
    """Return an upper bound on N e11 Y11 from the errors of X."""
    low = {name: cells[name].scale * mean_min(cells[name].errors, nats) for name in ("dv", "vd")}
    high = {name: cells[name].scale * mean_max(cells[name].errors, nats) for name in ("dd", "vv")}
    return np.asarray((high["dd"] + high["vv"] - low["dv"] - low["vd"]) / dim**2)


def _signed_bits(
    parameters: RelayParameters, block: RelayBlock, loss: Array, s: dict[str, Array]
) -> tuple[Array, dict[str, Array]]:
    part = block.epsilon_secrecy / 4.0
    count_nats = np.log(_COUNT_STATEMENTS / part)
    error_nats = np.log(_ERROR_STATEMENTS / part**2)
    cells = _cells(parameters, block, loss, s)
    bright, dim, signal = s["bright_mean"], s["dim_mean"], s["signal_mean"]
    x_share = (s["bright_probability"] * bright * np.exp(-bright) + s["dim_probability"] * dim * np.exp(-dim)) ** 2
    z_share = (s["signal_probability"] * signal * np.exp(-signal)) ** 2
    # For the length of the key, with the milder failure probability.
    in_x = x_share * np.maximum(_announced_pairs_min(cells, bright, dim, count_nats), 0.0)
    in_key = count_min(mean_min(in_x, count_nats) * z_share / x_share, count_nats)
    # For the phase error rate, with the smoothing's.
    known = _announced_pairs_min(cells, bright, dim, error_nats)
    x_pairs = x_share * np.maximum(known, 0.0)
    x_errors = x_share * _announced_errors_max(cells, dim, error_nats)
    with np.errstate(divide="ignore", invalid="ignore"):
        seen = np.where(x_pairs > 0, x_errors / x_pairs, 0.5)
    open_phase = seen + sampling_gap(in_key, x_pairs, error_nats)
    phase = np.minimum(open_phase, 0.5)

    eta_a, eta_b = arm_transmittances(parameters, loss)
    dark, misaligned = parameters.dark_count_probability, parameters.misalignment_error
    gain, wrong = gain_and_errors_z(eta_a * signal, eta_b * signal, dark=dark, misaligned=misaligned)
    key = block.pulse_pairs * s["signal_probability"] ** 2 * gain
    qber = np.where(gain > 0, wrong / np.maximum(gain, 5e-324), 0.5)
    leak = parameters.reconciliation_efficiency * key * binary_entropy(np.minimum(qber, 0.5))
    fixed = np.log2(2.0 / block.epsilon_correctness) - 2.0 * np.log2(2.0 * part)
    bits = in_key * (1.0 - binary_entropy(phase)) - leak - fixed
    # Where there is no key, a search needs to know which way leads to one: first to single photons, then to few errors.
    lost = np.where(known > 0, -1.0 - np.minimum(open_phase, 1e3), np.maximum(known / block.pulse_pairs, -1e6) - 1e4)
    merit = np.where(bits > 0, bits / block.pulse_pairs, lost)
    figures = {"qber": qber, "single_photon_pairs_min": in_key, "phase_error_rate_max": phase, "merit": merit}
    return np.asarray(bits, dtype=np.float64), figures


def rate(parameters: RelayParameters, *, attenuation_db: npt.ArrayLike, block: RelayBlock) -> LinkRate:
    """Return secret bits per pair of pulses of a run of ``block.pulse_pairs``.

    ``details``: the settings used (means, probabilities), ``single_photon_pairs_min``, ``phase_error_rate_max``.
    """
    loss = attenuations(attenuation_db)
    if block.settings is None:
        found = best_settings(
            lambda at: _signed_bits(parameters, block, loss, _settings_arrays(at))[1]["merit"],
            _RANGES,
            start=_START,
            rounds=8,
        )
        settings = _settings_arrays(found)
    else:
        settings = _given_arrays(block.settings, loss.shape)
    bits, figures = _signed_bits(parameters, block, loss, settings)
    part = block.epsilon_secrecy / 4.0
    epsilons = Epsilons(
        {
            "smoothing": 2.0 * part,
            "privacy_amplification": part,
            "single_photon_count": part,
            "correctness": block.epsilon_correctness,
        }
    )
    qber = figures.pop("qber")
    del figures["merit"]
    return shaped_rate("mdi-finite", loss, bits / block.pulse_pairs, qber, epsilons, {**settings, **figures})
