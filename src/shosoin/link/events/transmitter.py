"""A simulated transmitter of a decoy BB84 link: random choices, and the light that they make.

Choices come from ``Entropy`` where key is made of the bits, or from a seed in a study; the two cannot be mixed up.
The light goes to ``shosoin.link.events.receiver``, which never sees the record that stays here.
"""

from __future__ import annotations

import numpy as np

from shosoin.base import Entropy, SimulationRng
from shosoin.kernels import pulses
from shosoin.link.events.records import QuantumSignal, SentPulses, Settings

__all__ = ["SimulatedTransmitter"]


class SimulatedTransmitter:
    """Sends pulses one batch after the other.

    Security: with ``Entropy``, bits, bases and intensities are as secret as its bytes; four bytes make a pulse. With a
    seed they protect nothing.
    """

    def __init__(self, settings: Settings, choices: Entropy | SimulationRng, *, first_pulse: int = 0) -> None:
        self.settings = settings.quantised()
        """Settings with the probabilities that are drawn; bounds take these."""
        self.next_pulse = first_pulse
        self._entropy = None if isinstance(choices, SimulationRng) else choices
        self._seed = choices.integer(0, 2**64 - 1) if isinstance(choices, SimulationRng) else 0
        self._limits = _limits(self.settings)

    def send(self, count: int) -> tuple[SentPulses, QuantumSignal]:
        """Return the record of the next ``count`` pulses, which stays here, and their light."""
        first = self.next_pulse
        source = self._seed if self._entropy is None else self._entropy.random_bytes(4 * count)
        made = pulses.choose(source, first, count, self._limits)
        self.next_pulse = first + count
        return SentPulses(first, count, made.bits, made.bases, made.intensity), QuantumSignal(first, made.states)


def _limits(settings: Settings) -> tuple[int, int, int, int]:
    edges = np.cumsum(settings.probabilities)[:-1]
    levels = [round(float(edge) * 65536) for edge in edges] + [65536] * (4 - len(settings.probabilities))
    return round(settings.transmitter_key_basis_probability * 32768), levels[0], levels[1], levels[2]
