"""Watching a link: whether what was counted in a block is possible on an honest link, and whether it may become key.

Each check is a test of a hypothesis: "the probability is within what calibration allows". Its p-value is an exact
binomial tail at the edge of that range. A block's false-alarm probability is divided evenly among the checks, so an
honest link within its calibration raises an alarm in at most that share of blocks. A policy turns findings into a
decision: continue, discard the block, or suspend the link until somebody resumes it. No clock, no device, no protocol:
what was counted comes in, a verdict goes out.

Detections count as independent of one another. Dead time makes counts more regular than that, after-pulses less so;
the tolerances of a calibration cover what is left.
What has no reading cannot be watched, and a verdict says so: without a diode nobody sees a Trojan horse.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import numpy as np

from shosoin.base import Alarm
from shosoin.link.events.devices import NOISE_BITS, ReceiverReadings, TransmitterReadings
from shosoin.link.events.tails import SMALLEST, at_least, at_most, confidence_interval
from shosoin.link.events.tally import BlockTally

__all__ = [
    "Calibration",
    "Decision",
    "Finding",
    "Kind",
    "LinkMonitor",
    "Observation",
    "Policy",
    "Verdict",
]


class Kind(StrEnum):
    """What a check looks at; the value is what logs and events say."""

    QBER = "qber-high"
    """More errors than calibration allows: somebody measures, or the alignment is gone."""
    YIELDS = "yields-inconsistent"
    """No one channel explains the gains of all intensities: somebody treats photon numbers differently."""
    GAIN = "gain-out-of-range"
    """An intensity is detected more or less often than calibration allows; no dark counts are part of it."""
    DOUBLE_CLICKS = "double-clicks"
    """Both detectors click too often, or suspiciously seldom."""
    BALANCE = "detectors-unbalanced"
    """One detector takes more of the clicks than calibration allows."""
    PHOTOCURRENT = "photocurrent-high"
    """Detectors draw more current than their clicks explain: something bright keeps them blind."""
    GATE_TIMES = "clicks-off-centre"
    """Clicks leave the middle of the gate: somebody shifts pulses in time."""
    DIODE = "light-into-transmitter"
    """The transmitter's monitor diode sees light: somebody probes its modulators."""


class Decision(StrEnum):
    """What becomes of a block and of the link."""

    CONTINUE = "continue"
    DISCARD = "discard-block"
    SUSPEND = "suspend-link"


@dataclass(frozen=True, slots=True)
class Calibration:
    """What an honest link may show; every value is a limit, not a mean.

    Raises:
        ValueError: lengths differ, or a range is empty.
    """

    intensities: tuple[float, ...]
    gains_min: tuple[float, ...]
    gains_max: tuple[float, ...]
    """Per intensity: detections a pulse sent, bases as drawn."""
    intensity_tolerance: float = 0.02
    """Relative error of each intensity."""
    background_max: float = 1e-5
    """Largest probability a gate of a click without light: dark counts and stray light."""
    afterpulse_max: float = 0.0
    """Largest share of clicks that are after-pulses."""
    live_min: float = 1.0
    """Smallest share of gates in which detectors are not dead."""
    qber_max: float = 0.05
    """Of the brightest intensity, in either basis."""
    double_clicks_min: float = 0.0
    double_clicks_max: float = 0.05
    """Share of detections with both detectors."""
    balance_min: float = 0.45
    balance_max: float = 0.55
    """Share of detector 1 among single clicks."""
    idle_current_na: int = 100
    click_current_na: int = 0
    """What leakage, and each click, add to a reading of the current."""
    current_tolerance_na: int = 5
    outer_share_max: float = 0.5
    """Share of timed clicks in the outer thirds of the gate."""
    diode_probability_max: float = 1e-6

    def __post_init__(self) -> None:
        if not len(self.intensities) == len(self.gains_min) == len(self.gains_max) >= 1:
            raise ValueError("want one range of gains for each intensity")
        if any(not 0.0 <= low < high <= 1.0 for low, high in zip(self.gains_min, self.gains_max, strict=True)):
            raise ValueError(f"gains must have ranges within [0, 1], got {self.gains_min} to {self.gains_max}")
        for low, high in (
            (self.double_clicks_min, self.double_clicks_max),
            (self.balance_min, self.balance_max),
        ):
            if not 0.0 <= low < high <= 1.0:
                raise ValueError(f"a range must lie within [0, 1], got {low} to {high}")
        if not 0.0 < self.live_min <= 1.0 or not 0.0 <= self.intensity_tolerance < 1.0:
            raise ValueError("live_min must lie within (0, 1], intensity_tolerance within [0, 1)")
        for name in ("background_max", "afterpulse_max", "qber_max", "outer_share_max", "diode_probability_max"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must lie within [0, 1], got {getattr(self, name)}")
        if not self.background_max + self.afterpulse_max < 1.0:
            raise ValueError("background_max and afterpulse_max must leave room for light: their sum is below 1")


@dataclass(frozen=True, slots=True)
class Observation:
    """All that is known of one block; readings are ``None`` where a link lacks the device."""

    tally: BlockTally
    receiver: ReceiverReadings | None = None
    transmitter: TransmitterReadings | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One check that an honest link would fail with probability ``p_value`` at most."""

    kind: Kind
    p_value: float
    evidence: Mapping[str, float | int]
    """Counts and limits by name; no secret among them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "evidence", MappingProxyType(dict(self.evidence)))

    def to_json(self) -> dict[str, object]:
        """Return what logs and events say."""
        return {"kind": self.kind.value, "p_value": self.p_value, "evidence": dict(self.evidence)}


_BACKGROUND_CELLS = 8
_UNREMARKABLE = 1e-3
"""Gains that one channel explains with intervals that miss this often are not looked at more closely."""
_SUSPENDING = frozenset({Kind.QBER, Kind.YIELDS, Kind.PHOTOCURRENT, Kind.GATE_TIMES, Kind.DIODE})


@dataclass(frozen=True, slots=True)
class Policy:
    """What a finding leads to. What is known as the mark of an attack suspends; what may be a fault costs the block.

    Raises:
        ValueError: a number out of range.
    """

    decisions: Mapping[Kind, Decision] = field(
        default_factory=lambda: {kind: Decision.SUSPEND if kind in _SUSPENDING else Decision.DISCARD for kind in Kind}
    )
    discards_before_suspension: int = 3
    """So many blocks discarded in a row suspend the link as well."""
    false_alarm_probability: float = 1e-9
    """Of one block, over all checks together: 10^-100 to below 1."""

    def __post_init__(self) -> None:
        # Tails are not told apart below 10^-200: a limit down there would never be reached.
        if not 1e-100 <= self.false_alarm_probability < 1.0 or self.discards_before_suspension < 1:
            got = f"{self.false_alarm_probability} and {self.discards_before_suspension}"
            raise ValueError(f"want a false-alarm probability of 1e-100 to 1 and at least 1 block, got {got}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one block."""

    decision: Decision
    findings: tuple[Finding, ...]
    unwatched: tuple[Kind, ...]
    """Checks that had nothing to look at: an eavesdropper whom only they show would not have been seen."""

    def require_release(self) -> None:
        """Return if the block may become key.

        Raises:
            Alarm: it may not; no bit of it may leave.
        """
        if self.decision is Decision.CONTINUE:
            return
        reasons = ", ".join(finding.kind.value for finding in self.findings) or "an earlier block"
        raise Alarm(
            f"link monitor: {self.decision.value} because of {reasons}",
            code="link.suspended" if self.decision is Decision.SUSPEND else "link.block_discarded",
            hint="look at the findings; a suspended link delivers nothing until an operator resumes it",
        )


@dataclass(frozen=True, slots=True)
class _Check:
    kind: Kind
    p_value: float
    evidence: Mapping[str, float | int]


class LinkMonitor:
    """Watches one link; remembers how many blocks in a row went wrong, and whether it is suspended.

    Args:
        discards: how many blocks in a row went wrong before it began, for one that goes on where another ended.
        suspended: likewise.
    """

    def __init__(
        self,
        calibration: Calibration,
        policy: Policy | None = None,
        *,
        discards: int = 0,
        suspended: bool = False,
    ) -> None:
        self._calibration = calibration
        self._policy = policy or Policy()
        self._discards = discards
        self.suspended = suspended

    def inspect(self, observation: Observation) -> Verdict:
        """Return the verdict on the next block; once suspended, every block is refused.

        Raises:
            ValueError: the block was not sent with the intensities of the calibration.
        """
        sizes = {observation.tally.pulses.shape, observation.tally.detections.shape}
        if sizes != {(len(self._calibration.intensities),)}:
            raise ValueError(f"calibrated for {len(self._calibration.intensities)} intensities, got others")
        checks = list(_checks(self._calibration, observation))
        limit = self._policy.false_alarm_probability / max(1, len(checks))
        findings = tuple(Finding(c.kind, c.p_value, c.evidence) for c in checks if c.p_value < limit)
        decision = self._decide(findings)
        seen = {check.kind for check in checks}
        return Verdict(decision, findings, tuple(kind for kind in Kind if kind not in seen))

    def resume(self) -> None:
        """Let the link deliver again: an operator found and removed the cause."""
        self.suspended, self._discards = False, 0

    def _decide(self, findings: tuple[Finding, ...]) -> Decision:
        wanted = {self._policy.decisions.get(finding.kind, Decision.SUSPEND) for finding in findings}
        bad = bool(wanted & {Decision.DISCARD, Decision.SUSPEND})
        self._discards = self._discards + 1 if bad else 0
        if Decision.SUSPEND in wanted or self._discards >= self._policy.discards_before_suspension:
            self.suspended = True
        if self.suspended:
            return Decision.SUSPEND
        return Decision.DISCARD if bad else Decision.CONTINUE


def _checks(calibration: Calibration, seen: Observation) -> Iterator[_Check]:
    yield from _errors(calibration, seen.tally)
    yield from _gains(calibration, seen.tally)
    yield from _yields(calibration, seen.tally)
    if seen.receiver is not None:
        yield from _clicks(calibration, seen.receiver)
        yield from _current(calibration, seen.receiver)
        yield from _times(calibration, seen.receiver)
    if seen.transmitter is not None and seen.transmitter.pulses:
        counts, pulses = seen.transmitter.diode_counts, seen.transmitter.pulses
        limit = calibration.diode_probability_max
        yield _Check(
            Kind.DIODE, at_least(counts, pulses, limit), {"counts": counts, "pulses": pulses, "probability_max": limit}
        )


def _errors(calibration: Calibration, tally: BlockTally) -> Iterator[_Check]:
    counts = tally.counts
    for basis, detections, errors in (
        (0, counts.key_detections, counts.key_errors),
        (1, counts.test_detections, counts.test_errors),
    ):
        sifted, wrong = int(detections[0]), int(errors[0])
        if sifted:
            yield _Check(
                Kind.QBER,
                at_least(wrong, sifted, calibration.qber_max),
                {"basis": basis, "errors": wrong, "sifted": sifted, "qber_max": calibration.qber_max},
            )


def _gains(calibration: Calibration, tally: BlockTally) -> Iterator[_Check]:
    ranges = zip(calibration.gains_min, calibration.gains_max, strict=True)
    for level, (low, high) in enumerate(ranges):
        sent, detected = int(tally.pulses[level]), int(tally.detections[level])
        if sent:
            p_value = min(1.0, 2 * min(at_least(detected, sent, high), at_most(detected, sent, low)))
            evidence = {"intensity": level, "detections": detected, "pulses": sent, "gain_min": low, "gain_max": high}
            yield _Check(Kind.GAIN, p_value, evidence)


def _yields(calibration: Calibration, tally: BlockTally) -> Iterator[_Check]:
    if len(calibration.intensities) < 2 or not np.all(tally.pulses > 0):
        return
    # The largest probability of a miss at which the intervals of all intensities have a transmittance in common.
    low, high = math.log10(SMALLEST), 0.0
    if _have_common_channel(calibration, tally, _UNREMARKABLE):
        low = high  # nothing to measure
    while high - low > 0.01:
        middle = (low + high) / 2
        if _have_common_channel(calibration, tally, 10.0**middle):
            low = middle
        else:
            high = middle
    p_value = min(1.0, 2 * len(calibration.intensities) * 10.0**low)
    detections = {f"detections_{level}": int(count) for level, count in enumerate(tally.detections)}
    pulses = {f"pulses_{level}": int(count) for level, count in enumerate(tally.pulses)}
    yield _Check(Kind.YIELDS, p_value, {**detections, **pulses})


def _have_common_channel(calibration: Calibration, tally: BlockTally, miss: float) -> bool:
    total = float(tally.detections.sum() / tally.pulses.sum())
    background = calibration.background_max + calibration.afterpulse_max * total
    intervals = [
        confidence_interval(int(detected), int(sent), miss)
        for detected, sent in zip(tally.detections, tally.pulses, strict=True)
    ]
    edges = np.linspace(0.0, background, _BACKGROUND_CELLS + 1).tolist()
    return any(
        _share_transmittance(calibration, intervals, cell, live)
        for live in np.linspace(calibration.live_min, 1.0, 1 if calibration.live_min == 1.0 else 5).tolist()
        for cell in itertools.pairwise(edges)
    )


def _share_transmittance(
    calibration: Calibration, intervals: list[tuple[float, float]], background: tuple[float, float], live: float
) -> bool:
    """Whether one transmittance gives every intensity a gain within its interval, for backgrounds of this cell."""
    lowest, highest = 0.0, math.inf
    for mean, (low, high) in zip(calibration.intensities, intervals, strict=True):
        dim, bright = mean * (1 - calibration.intensity_tolerance), mean * (1 + calibration.intensity_tolerance)
        unlit_at_least = (1.0 - min(1.0, high / live)) / (1.0 - background[0])
        unlit_at_most = (1.0 - min(1.0, low / live)) / (1.0 - background[1])
        if bright > 0.0:
            lowest = max(lowest, -math.log(min(1.0, unlit_at_most)) / bright if unlit_at_most > 0.0 else math.inf)
        elif unlit_at_most < 1.0:
            return False
        if unlit_at_least > 1.0:
            return False  # even without light there would be more clicks
        if dim > 0.0 and unlit_at_least > 0.0:
            highest = min(highest, -math.log(unlit_at_least) / dim)
    return lowest <= highest


def _clicks(calibration: Calibration, read: ReceiverReadings) -> Iterator[_Check]:
    doubles = read.double_clicks
    singles = sum(read.clicks) - 2 * doubles
    detections = singles + doubles
    if detections <= 0:
        return
    least, most = calibration.double_clicks_min, calibration.double_clicks_max
    tails = at_least(doubles, detections, most), at_most(doubles, detections, least)
    yield _Check(
        Kind.DOUBLE_CLICKS,
        min(1.0, 2 * min(tails)),
        {"double_clicks": doubles, "detections": detections, "share_min": least, "share_max": most},
    )
    if singles > 0:
        ones = read.clicks[1] - doubles
        low, high = calibration.balance_min, calibration.balance_max
        yield _Check(
            Kind.BALANCE,
            min(1.0, 2 * min(at_least(ones, singles, high), at_most(ones, singles, low))),
            {"detector_1": ones, "single_clicks": singles, "share_min": low, "share_max": high},
        )


def _current(calibration: Calibration, read: ReceiverReadings) -> Iterator[_Check]:
    if not read.windows:
        return
    explained = read.windows * calibration.idle_current_na + sum(read.clicks) * calibration.click_current_na
    excess = read.current_na - explained - read.windows * calibration.current_tolerance_na
    bits = read.windows * NOISE_BITS
    ones = min(bits, bits // 2 + excess)
    beyond = excess > bits // 2  # more than any noise can make
    yield _Check(
        Kind.PHOTOCURRENT,
        SMALLEST if beyond else at_least(ones, bits, 0.5),
        {"current_na": read.current_na // read.windows, "explained_na": explained // read.windows},
    )


def _times(calibration: Calibration, read: ReceiverReadings) -> Iterator[_Check]:
    if read.timed:
        yield _Check(
            Kind.GATE_TIMES,
            at_least(read.outer, read.timed, calibration.outer_share_max),
            {"outer": read.outer, "timed": read.timed, "share_max": calibration.outer_share_max},
        )
