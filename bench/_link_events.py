"""Simulated pulses of a decoy BB84 link: how many a second and core, on every path of the kernels.

``python bench/_link_events.py`` runs it alone. One thread, by the thread's own clock; what is compared runs in turn.
The case "choices and detection" makes the transmitter's random choices as well, "detection" takes them as given, and
"study" adds all that a study counts: both ends' records, readings of devices, sifting, and Eve's knowledge.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from _common import Report, interleave
from shosoin.kernels import available_paths, pulses
from shosoin.link.detector import Detector
from shosoin.link.events.calibrating import calibration_of
from shosoin.link.events.monitoring import LinkMonitor, Observation
from shosoin.link.events.optics import Line, arrival_table, dynamics_of
from shosoin.link.events.recording import Header, Part, decode_recording, encode_recording
from shosoin.link.events.records import Settings
from shosoin.link.events.study import SimulatedStudy
from shosoin.link.events.transmitter import SimulatedTransmitter

__all__ = ["report"]

WANTED_M_PER_S = 20.0
ROUNDS = 5
PULSES = {True: 1 << 21, False: 1 << 18}
LOSSES_DB = (10.0, 20.0)
SETTINGS = Settings((0.5, 0.1, 0.0002), (0.7, 0.2, 0.1), 0.9, 0.9, 1e9).quantised()
DETECTOR = Detector(0.2, 6e-7, 0.01, 20e-9, 8e-11)
LIMITS = (29491, 45875, 58982, 65536)


class _SystemEntropy:
    """What a link that makes key draws from."""

    source, physical = "operating system", False

    def random_bytes(self, size_bytes: int) -> bytes:
        return os.urandom(size_bytes)


def _line(loss_db: float) -> Line:
    return Line(loss_db, (DETECTOR, DETECTOR), 0.01)


def _kernel_cases(loss_db: float, path: str) -> tuple[int, dict[str, Callable[[], object]]]:
    count = PULSES[path != "reference"]
    table, dynamics = arrival_table(SETTINGS, _line(loss_db)), dynamics_of(_line(loss_db), SETTINGS.pulse_rate_hz)
    states = pulses.choose(1, 0, count, LIMITS, path=path).states

    def detection() -> object:
        return pulses.detect(
            states, table, dynamics, pulses.new_state(), seed=2, first=0, basis_threshold=3865470566, path=path
        )

    def everything() -> object:
        made = pulses.choose(1, 0, count, LIMITS, path=path)
        return pulses.detect(
            made.states, table, dynamics, pulses.new_state(), seed=2, first=0, basis_threshold=3865470566, path=path
        )

    return count, {"choices and detection": everything, "detection": detection}


def kernels(report: Report) -> None:
    """Report every path at two losses, in millions of pulses a second."""
    for loss_db in LOSSES_DB:
        cases: dict[str, Callable[[], object]] = {}
        counts: dict[str, int] = {}
        for path in available_paths():
            count, own = _kernel_cases(loss_db, path)
            for what, case in own.items():
                cases[f"{what}|{path}"], counts[f"{what}|{path}"] = case, count
        found = interleave(cases, rounds=ROUNDS, clock=time.thread_time)
        for name, seconds in found.items():
            what, path = name.split("|")
            rate = seconds.per(counts[name] / 1e6)
            native = path != "reference"
            report.emit(
                f"{what}, {loss_db:g} dB", path, rate, "M pulses/s",
                ratio=rate.value / WANTED_M_PER_S, ratio_to="20 M pulses/s", wanted=1.0 if native else None,
            )  # fmt: skip


def around(report: Report) -> None:
    """Report what surrounds the kernels, on the path in use."""
    line, count = _line(10.0), 1 << 21
    study = SimulatedStudy(SETTINGS, line, 1)
    secret = SimulatedTransmitter(SETTINGS, _SystemEntropy())
    batch = study.batch(count)
    header = Header(Part.BOTH, study.settings, True, "bench")
    data = encode_recording(header, [batch.sent, batch.detected])
    monitor = LinkMonitor(calibration_of(study.settings, line))
    seen = Observation(batch.tally, batch.receiver, batch.transmitter)
    assert not monitor.inspect(seen).findings
    cases: dict[str, Callable[[], object]] = {
        "study, 10 dB": lambda: study.batch(count),
        "choices from the system's entropy": lambda: secret.send(count),
        "write a recording of both ends": lambda: encode_recording(header, [batch.sent, batch.detected]),
        "read a recording of both ends": lambda: decode_recording(data),
    }
    for name, seconds in interleave(cases, rounds=ROUNDS, clock=time.thread_time).items():
        report.emit(name, "in use", seconds.per(count / 1e6), "M pulses/s")
    verdicts = interleave({"inspect": lambda: monitor.inspect(seen)}, rounds=ROUNDS, clock=time.thread_time)
    report.emit("monitor, verdicts", "in use", verdicts["inspect"].per(1.0), "blocks/s")


def report(report: Report) -> None:
    """Measure and report."""
    kernels(report)
    around(report)


def main() -> None:
    """Run alone."""
    mine = Report("link-events")
    report(mine)
    mine.close()


if __name__ == "__main__":
    main()
