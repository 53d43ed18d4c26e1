"""Simulated pulses by the million: a transmitter's random choices, and the clicks of a receiver's two detectors.

The kernels know nothing of photons: what may happen at a pulse is a table of probabilities (``ArrivalTable``), made
from physics by ``shosoin.link.events``, and one random number of 64 bits picks from it. ``reference_pulses`` is the
specification; results depend on the seed and the numbers of pulses, not on how they were batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from shosoin.kernels.buffers import Buffer
from shosoin.kernels.paths import family
from shosoin.kernels.reference_pulses import ROWS, STATE_WORDS, ReferencePulses

__all__ = [
    "OUTCOMES_MAX",
    "ROWS",
    "ArrivalTable",
    "Choices",
    "Clicks",
    "DetectorDynamics",
    "choose",
    "detect",
    "new_state",
]

OUTCOMES_MAX = 1024
_SEEDS = 1 << 64
_PULSES_MAX = 1 << 62


class PulseKernels(Protocol):
    """One path of this family: buffers in, buffers out."""

    def choose_from_seed(self, seed: int, first: int, thresholds: Buffer, outputs: Sequence[Buffer]) -> None:
        """Make choices from the seed."""
        ...

    def choose_from_words(self, words: Buffer, thresholds: Buffer, outputs: Sequence[Buffer]) -> None:
        """Make choices from random words."""
        ...

    def detect(
        self,
        *,
        seed: int,
        domain: int,
        first: int,
        states: Buffer,
        basis_threshold: int,
        thresholds: Buffer,
        codes: Buffer,
        dynamics: Buffer,
        state: Buffer,
        pulses: Buffer,
        found: Buffer,
    ) -> tuple[int, int]:
        """Return pulses done and detections written."""
        ...


@dataclass(frozen=True, slots=True)
class Choices:
    """Choices of a transmitter: packed bits and bases, intensities, states ``intensity << 2 | basis << 1 | bit``."""

    bits: npt.NDArray[np.uint8] = field(repr=False)
    bases: npt.NDArray[np.uint8] = field(repr=False)
    intensity: npt.NDArray[np.uint8] = field(repr=False)
    states: npt.NDArray[np.uint8] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ArrivalTable:
    """What arrives: row ``state << 1 | receiver's basis`` of 32, up to 1024 outcomes each.

    Raises:
        ValueError: shapes or values that the kernels do not take.
    """

    thresholds: npt.NDArray[np.uint64]
    """Shape (32, outcomes), not falling along a row; outcome j has probability (t[j] - t[j-1]) / 2^64."""
    codes: npt.NDArray[np.uint32]
    """Of the same shape; bits 0-1 the detectors that want to click (not 0), bits 2-27 free, the rest 0."""

    def __post_init__(self) -> None:
        shape = self.thresholds.shape
        if self.thresholds.dtype != np.uint64 or self.codes.dtype != np.uint32 or shape != self.codes.shape:
            raise ValueError("want uint64 thresholds and uint32 codes of one shape")
        if len(shape) != 2 or shape[0] != ROWS or not 1 <= shape[1] <= OUTCOMES_MAX:
            raise ValueError(f"want {ROWS} rows of 1 to {OUTCOMES_MAX} outcomes, got shape {shape}")
        if not bool(np.all(self.thresholds[:, 1:] >= self.thresholds[:, :-1])):
            raise ValueError("thresholds must not fall along a row")
        if not bool(np.all(self.codes & 3)) or bool(np.any(self.codes >> 28)):
            raise ValueError("a code must name a detector and leave its upper four bits free")


@dataclass(frozen=True, slots=True)
class DetectorDynamics:
    """How a click changes the gates after it.

    Raises:
        ValueError: a value out of range.
    """

    dead_gates: tuple[int, int] = (1, 1)
    """From a click to the next gate that can click; at least 1."""
    blinds_both: bool = False
    """Whether a click of one detector blinds the other as well."""
    after_pulse_thresholds: tuple[int, int] = (0, 0)
    """Probability of an after-pulse times 2^32, below 2^32."""
    after_pulse_code: int = 0
    """Code of a click at a pulse from which nothing arrived; bits 2-27."""
    delays: tuple[int, ...] = (1,) * 256
    """256 equally likely delays of an after-pulse in gates, each at least 1."""

    def __post_init__(self) -> None:
        limit = 1 << 31
        if len(self.delays) != 256 or not all(1 <= value < limit for value in (*self.delays, *self.dead_gates)):
            raise ValueError("want 256 delays and 2 dead times, each of 1 to 2^31 - 1 gates")
        if not all(0 <= value < 1 << 32 for value in self.after_pulse_thresholds):
            raise ValueError("thresholds of after-pulses must be below 2^32")
        if self.after_pulse_code & 3 or not 0 <= self.after_pulse_code < 1 << 28:
            raise ValueError("the code of an after-pulse has bits 2 to 27 only")

    def words(self) -> npt.NDArray[np.uint32]:
        """Return the form that the kernels take."""
        values = (*self.dead_gates, int(self.blinds_both), *self.after_pulse_thresholds, self.after_pulse_code)
        return np.array((*values, *self.delays), np.uint32)


@dataclass(frozen=True, slots=True)
class Clicks:
    """Detections and their codes; ``reference_pulses`` tells the layout of a code."""

    pulses: npt.NDArray[np.int64] = field(repr=False)
    codes: npt.NDArray[np.uint32] = field(repr=False)


def new_state() -> npt.NDArray[np.int64]:
    """Return the state of detectors that have seen nothing yet; ``detect`` carries it from batch to batch."""
    return np.zeros(STATE_WORDS, np.int64)


def choose(
    source: int | Buffer, first: int, count: int, limits: tuple[int, int, int, int], *, path: str | None = None
) -> Choices:
    """Return choices for ``count`` pulses.

    Args:
        source: a seed below 2^64, or ``4 * count`` uniform bytes (secret, if key comes of them).
        first: number of the first pulse; it matters for a seed only.
        count: how many pulses.
        limits: a basis below ``limits[0]`` of 2^15 is the key basis; the intensity is the number of further limits, of
            2^16, that do not exceed its random number.
        path: kernels to use; by default those in use.

    Raises:
        ValueError: an argument out of range.
    """
    _check(first, count)
    if not 0 <= limits[0] <= 1 << 15 or not all(0 <= limit <= 1 << 16 for limit in limits[1:]):
        raise ValueError(f"limits must be at most 2^15 and 2^16, got {limits}")
    packed = (count + 7) // 8
    outputs = [np.empty(size, np.uint8) for size in (packed, packed, count, count)]
    thresholds = np.array(limits, np.uint32)
    kernels = _kernels(path)
    if isinstance(source, int):
        if not 0 <= source < _SEEDS:
            raise ValueError("a seed must be below 2^64")
        kernels.choose_from_seed(source, first, thresholds, outputs)
    else:
        if memoryview(source).nbytes != 4 * count:  # type: ignore[arg-type]
            raise ValueError(f"want {4 * count} random bytes for {count} pulses")
        kernels.choose_from_words(source, thresholds, outputs)
    return Choices(*outputs)


def detect(
    states: npt.NDArray[np.uint8],
    table: ArrivalTable,
    dynamics: DetectorDynamics,
    state: npt.NDArray[np.int64],
    *,
    seed: int,
    first: int,
    basis_threshold: int,
    domain: int = 0,
    path: str | None = None,
) -> Clicks:
    """Return what two detectors register of pulses, and move ``state`` past them.

    Args:
        states: per pulse ``intensity << 2 | basis << 1 | bit``, below 16.
        table: what may arrive.
        dynamics: what a click does to later gates.
        state: from ``new_state`` or an earlier call, whose last pulse was ``first - 1``; changed in place.
        seed: below 2^64.
        first: number of the first pulse.
        basis_threshold: probability of the receiver's key basis times 2^32.
        domain: below 2^32; gives independent random numbers for another pair of detectors beside the same pulses.
        path: kernels to use; by default those in use.

    Raises:
        ValueError: an argument out of range.
    """
    _check(first, states.size)
    if not 0 <= seed < _SEEDS or not 0 <= basis_threshold <= 1 << 32 or not 0 <= domain < 1 << 32:
        raise ValueError("want a seed below 2^64, a threshold of at most 2^32 and a domain below 2^32")
    if state.dtype != np.int64 or state.shape != (STATE_WORDS,):
        raise ValueError("want the state that new_state() returns")
    kernels, words = _kernels(path), dynamics.words()
    likely = float(table.thresholds[:, -1].max()) / 2.0**64
    parts: list[Clicks] = []
    done = 0
    while done < states.size:
        left = states.size - done
        room = min(left, int(1.1 * likely * left + 10 * (likely * left) ** 0.5) + 64)
        pulses, found = np.empty(room, np.int64), np.empty(room, np.uint32)
        moved, count = kernels.detect(
            seed=seed,
            domain=domain,
            first=first + done,
            states=states[done:],
            basis_threshold=basis_threshold,
            thresholds=table.thresholds,
            codes=table.codes,
            dynamics=words,
            state=state,
            pulses=pulses,
            found=found,
        )

        parts.append(Clicks(pulses[:count], found[:count]))
        done += moved
    if len(parts) == 1:
        return parts[0]
    none = Clicks(np.empty(0, np.int64), np.empty(0, np.uint32))
    parts = parts or [none]
    return Clicks(np.concatenate([part.pulses for part in parts]), np.concatenate([part.codes for part in parts]))


def _kernels(path: str | None) -> PulseKernels:
    return family("Pulses", ReferencePulses, path)


def _check(first: int, count: int) -> None:
    if first < 0 or count < 0 or first + count > _PULSES_MAX:
        raise ValueError(f"pulses must be numbered from 0 to 2^62, got {count} from {first}")
