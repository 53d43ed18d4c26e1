"""A simulated link with everything on it, for studies: one call, all counts, and what Eve really learned.

Only here do both ends and the truth meet. Everything it returns is simulated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shosoin.base import SimulationRng
from shosoin.link.events.devices import ReceiverReadings, SimulatedMonitorDiode, TransmitterReadings
from shosoin.link.events.optics import Eavesdropper, Effects, Line
from shosoin.link.events.receiver import SimulatedReceiver
from shosoin.link.events.records import KEY_BASIS, UNKNOWN, Detections, SentPulses, Settings, Truth
from shosoin.link.events.tally import BlockTally, tally
from shosoin.link.events.transmitter import SimulatedTransmitter

__all__ = ["BATCH_PULSES", "DIODE_DARK_PROBABILITY", "Batch", "Knowledge", "SimulatedStudy"]

BATCH_PULSES = 1 << 22
DIODE_DARK_PROBABILITY = 1e-7


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What Eve knows of the sifted key, counted against the truth."""

    sifted: int = 0
    """Bits in the key basis that both ends keep."""
    guessed: int = 0
    """Of these, bits of which she holds a value after the bases were announced."""
    right: int = 0
    """Of these, bits that equal the transmitter's."""
    single_photons: int = 0
    """Sifted bits that came of a pulse of one photon: what decoy states bound from below."""
    vacuum: int = 0
    """Sifted bits that came of a pulse of none."""

    def __add__(self, other: Knowledge) -> Knowledge:
        return Knowledge(
            self.sifted + other.sifted,
            self.guessed + other.guessed,
            self.right + other.right,
            self.single_photons + other.single_photons,
            self.vacuum + other.vacuum,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """All that came of some pulses."""

    sent: SentPulses
    detected: Detections
    truth: Truth
    tally: BlockTally
    receiver: ReceiverReadings
    transmitter: TransmitterReadings
    knowledge: Knowledge


class SimulatedStudy:
    """A transmitter, a line with or without an eavesdropper, and a receiver, from one seed."""

    def __init__(
        self,
        settings: Settings,
        line: Line,
        seed: int,
        *,
        eavesdropper: Eavesdropper | None = None,
        fraction: float = 1.0,
    ) -> None:
        rng = SimulationRng(seed)
        self._transmitter = SimulatedTransmitter(settings, rng)
        self.settings = self._transmitter.settings
        self._receiver = SimulatedReceiver(self.settings, line, rng, eavesdropper=eavesdropper, fraction=fraction)
        effects = eavesdropper.effects if eavesdropper else Effects()
        self._diode = SimulatedMonitorDiode(
            rng, dark_probability=DIODE_DARK_PROBABILITY, effects=effects, fraction=fraction
        )

    def batch(self, count: int) -> Batch:
        """Return what comes of the next ``count`` pulses."""
        sent, light = self._transmitter.send(count)
        detected, truth = self._receiver.receive(light)
        return Batch(
            sent,
            detected,
            truth,
            tally(sent, detected, len(self.settings.intensities)),
            self._receiver.take_readings(),
            self._diode.read(count),
            knowledge_of(sent, detected, truth),
        )

    def batches(self, count: int, *, batch_pulses: int = BATCH_PULSES) -> Iterator[Batch]:
        """Yield batches that cover the next ``count`` pulses; their sum does not depend on how they are cut."""
        while count > 0:
            size = min(count, batch_pulses)
            yield self.batch(size)
            count -= size


def knowledge_of(sent: SentPulses, detected: Detections, truth: Truth) -> Knowledge:
    """Return what Eve knows of the sifted bits of a batch."""
    bases = sent.bases_at(detected.pulses)
    sifted = (bases == detected.bases) & (bases == KEY_BASIS)
    holds = (truth.eve_bit != UNKNOWN) & ((truth.eve_basis == UNKNOWN) | (truth.eve_basis == bases)) & sifted
    right = holds & (truth.eve_bit == sent.bits_at(detected.pulses))
    counted = [sifted, holds, right, sifted & (truth.photons == 1), sifted & (truth.photons == 0)]
    return Knowledge(*(int(np.count_nonzero(each)) for each in counted))
