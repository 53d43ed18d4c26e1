"""A simulated channel with a receiver at its end, and whoever sits between.

What may arrive is a table made once from the physics (``optics``) and the eavesdropper (``attacks``); each pulse then
takes one random number from a counter-based generator, so results depend on the seed, not on the sizes of batches.
The protocol gets ``Detections`` and ``ReceiverReadings``. What really happened comes apart, as ``Truth``, for tests and
reports.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shosoin.base import SimulationRng
from shosoin.kernels import pulses
from shosoin.link.events.devices import ReceiverReadings, SimulatedAmmeter, SimulatedGateTimer
from shosoin.link.events.optics import Eavesdropper, Effects, Line, arrival_table, dynamics_of
from shosoin.link.events.records import Detections, QuantumSignal, Settings, Truth

__all__ = ["SimulatedReceiver"]

_SHIFTED = 4  # attacks.Action.SHIFTED; this module knows eavesdroppers by their protocol only


class SimulatedReceiver:
    """Takes the light of one batch after the other."""

    def __init__(
        self,
        settings: Settings,
        line: Line,
        rng: SimulationRng,
        *,
        eavesdropper: Eavesdropper | None = None,
        fraction: float = 1.0,
        first_pulse: int = 0,
    ) -> None:
        self._table = arrival_table(settings, line, eavesdropper, fraction=fraction)
        self._dynamics = dynamics_of(line, settings.pulse_rate_hz)
        self._state = pulses.new_state()
        self._basis_threshold = round(settings.receiver_key_basis_probability * 2**32)
        self._seed = rng.integer(0, 2**64 - 1)
        self._next = first_pulse
        effects = eavesdropper.effects if eavesdropper else Effects()
        self._ammeter = SimulatedAmmeter(rng, settings.pulse_rate_hz, effects, fraction)
        self._timer = SimulatedGateTimer(rng, line.detectors[0], effects)
        self._readings = ReceiverReadings()

    def receive(self, signal: QuantumSignal) -> tuple[Detections, Truth]:
        """Return what the receiver registers, and apart from it what really happened.

        Raises:
            ValueError: the batch does not follow the one before.
        """
        if signal.first != self._next:
            raise ValueError(f"pulse {self._next} comes next, got {signal.first}")
        clicks = pulses.detect(
            signal.states,
            self._table,
            self._dynamics,
            self._state,
            seed=self._seed,
            first=signal.first,
            basis_threshold=self._basis_threshold,
        )
        self._next += signal.count
        truth = _truth(clicks)
        self._readings += self._read_devices(signal, clicks, truth)
        return _detections(signal, clicks), truth

    def take_readings(self) -> ReceiverReadings:
        """Return what the devices read since this was last called."""
        taken, self._readings = self._readings, ReceiverReadings()
        return taken

    def _read_devices(self, signal: QuantumSignal, clicks: pulses.Clicks, truth: Truth) -> ReceiverReadings:
        patterns = np.bincount(clicks.codes & np.uint32(3), minlength=4)
        each = (int(patterns[1] + patterns[3]), int(patterns[2] + patterns[3]))
        windows, current = self._ammeter.read(signal.first, signal.count, sum(each))
        dark = truth.after_pulse | (truth.photons == 0)
        timed, outer = self._timer.read(clicks.pulses, dark, truth.eve_action == _SHIFTED)
        return ReceiverReadings(each, int(patterns[3]), windows, current, timed, outer)


def _detections(signal: QuantumSignal, clicks: pulses.Clicks) -> Detections:
    codes = clicks.codes
    both = int(np.count_nonzero((codes & np.uint32(3)) == 3))
    return Detections(signal.first, signal.count, clicks.pulses, _field(codes, 30, 1), _field(codes, 29, 1), both)


def _truth(clicks: pulses.Clicks) -> Truth:
    codes = clicks.codes
    return Truth(
        clicks.pulses,
        _field(codes, 2, 31),
        _field(codes, 28, 1).astype(np.bool_),
        _field(codes, 7, 7),
        _field(codes, 10, 3),
        _field(codes, 12, 3),
    )


def _field(codes: npt.NDArray[np.uint32], shift: int, mask: int) -> npt.NDArray[np.uint8]:
    return (codes >> np.uint32(shift) & np.uint32(mask)).astype(np.uint8)
