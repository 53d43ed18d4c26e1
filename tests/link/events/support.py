"""Links that the tests of this folder share."""

from __future__ import annotations

from dataclasses import replace

from shosoin.link.detector import Detector
from shosoin.link.events.catalogue import attack_named
from shosoin.link.events.monitoring import Observation
from shosoin.link.events.optics import Line
from shosoin.link.events.records import Settings
from shosoin.link.events.study import SimulatedStudy

SETTINGS = Settings((0.5, 0.1, 0.001), (0.7, 0.2, 0.1), 0.9, 0.9, 1e9).quantised()
IDEAL = Detector(0.2, 1e-6)
REAL = Detector(0.2, 1e-6, 0.02, 20e-9, jitter_s=1e-10)
LINE = Line(10.0, (REAL, REAL), 0.02)


def bare_line(attenuation_db=10.0, misalignment=0.02, **detector) -> Line:
    """A line whose detectors have no memory, so that formulas without it hold."""
    one = replace(IDEAL, **detector)
    return Line(attenuation_db, (one, one), misalignment)


def observe(pulses, *, attack=None, fraction=1.0, seed=3, line=LINE, settings=SETTINGS):
    """One block of a simulated link: what its monitor is shown, and what Eve knows."""
    eve = attack_named(attack, settings, line) if isinstance(attack, str) else attack
    study = SimulatedStudy(settings, line, seed, eavesdropper=eve, fraction=fraction)
    first, *others = study.batches(pulses)
    tally, receiver, transmitter, known = first.tally, first.receiver, first.transmitter, first.knowledge
    for batch in others:
        tally, known = tally + batch.tally, known + batch.knowledge
        receiver, transmitter = receiver + batch.receiver, transmitter + batch.transmitter
    return Observation(tally, receiver, transmitter), known
