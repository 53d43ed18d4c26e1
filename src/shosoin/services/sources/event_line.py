"""What ``[link.events]`` stands for: devices, line, eavesdropper, and the parameters of post-processing.

The devices are those of the rate model's ``METRO`` system, with one decoy intensity, so that a link of either level
has the same physics. Both ends derive the same values from their own configuration and compare them before a bit is
used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from shosoin.link.detector import Detector
from shosoin.link.events.calibrating import calibration_of
from shosoin.link.events.catalogue import attack_named
from shosoin.link.events.monitoring import LinkMonitor
from shosoin.link.events.optics import Eavesdropper, Effects, Line
from shosoin.link.events.records import Settings
from shosoin.link.postprocessing import SessionParameters
from shosoin.link.rates.decoy import METRO
from shosoin.services.sources.config import EventsSection

__all__ = ["EPSILON_AUTHENTICATION", "EventLine", "event_line"]

EPSILON_AUTHENTICATION = 2.0**-90
"""Declared for the messages of a block, and held: it has far fewer than 2^15, each of about 2^-106."""
_INTENSITIES, _PROBABILITIES = (0.3, 0.1), (0.4, 0.6)
_AUTHENTICATION_STOCK_BYTES = 1 << 14
"""Enough for some two hundred connections that end before a block is finished."""
_KEY_BASIS_PROBABILITY = 0.6
"""Best for blocks of a few 10^5 bits, whatever the loss: test basis and dim pulses must be counted well too."""


@dataclass(frozen=True, slots=True)
class EventLine:
    """All that both ends of an event-level link have in common."""

    settings: Settings
    line: Line
    parameters: SessionParameters
    eavesdropper: Eavesdropper | None
    eavesdropper_share: float
    pulses_per_s: float

    def to_json(self) -> dict[str, Any]:
        """Return all that must be the same at both ends: parameters of post-processing, and what is simulated.

        The pace is not among it, each end has its own.
        """
        eve = self.eavesdropper
        return {
            **self.parameters.to_json(),
            "attenuation_db": self.line.attenuation_db,
            "eavesdropper": eve.name if eve else "none",
            "eavesdropper_share": self.eavesdropper_share if eve else 0.0,
        }

    @property
    def effects(self) -> Effects:
        """What the eavesdropper leaves on devices that watch for her."""
        return self.eavesdropper.effects if self.eavesdropper else Effects()

    def monitor(self) -> LinkMonitor:
        """Return what judges the blocks of one direction: it knows the line as it should be, with nobody on it."""
        return LinkMonitor(calibration_of(self.settings, self.line))


def event_line(section: EventsSection) -> EventLine:
    """Return what a table stands for."""
    settings = Settings(
        _INTENSITIES, _PROBABILITIES, _KEY_BASIS_PROBABILITY, _KEY_BASIS_PROBABILITY, METRO.pulse_rate_hz
    ).quantised()
    detector = Detector(METRO.receiver_efficiency, METRO.background_yield / 2)
    line = Line(section.attenuation_db, (detector, detector), METRO.misalignment_error)
    parameters = SessionParameters(
        settings,
        epsilon_secrecy=section.epsilon_secrecy,
        epsilon_correctness=section.epsilon_correctness,
        block_bits=section.block_bits // 8 * 8,
        authentication_stock_bytes=_AUTHENTICATION_STOCK_BYTES,
    )
    name = section.eavesdropper
    eve = None if name == "none" else attack_named(name, settings, line)
    return EventLine(settings, line, parameters, eve, section.eavesdropper_share, section.pulses_per_s)
