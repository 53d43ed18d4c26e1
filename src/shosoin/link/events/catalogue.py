"""Attacks by name, each as strong as it can be while the click rate stays what it was."""

from __future__ import annotations

from shosoin.base import Rejected
from shosoin.link.events.attack_names import ATTACKS
from shosoin.link.events.attacks import (
    DetectorBlinding,
    InterceptResend,
    TimeShift,
    TrojanHorse,
    transparent_splitting,
)
from shosoin.link.events.optics import Eavesdropper, Line, arrival_table, expected
from shosoin.link.events.records import Settings

__all__ = ["attack_named"]


def attack_named(name: str, settings: Settings, line: Line) -> Eavesdropper:
    """Return the attack of this name, tuned to the line so that the brightest intensity clicks as often as before.

    Raises:
        Rejected: there is none of this name.
    """
    if name == "intercept-resend":
        return InterceptResend()
    if name == "photon-number-splitting":
        return transparent_splitting(settings.intensities[0], line)
    if name == "detector-blinding":
        share = _gain(settings, line, None) / _gain(settings, line, DetectorBlinding())
        return DetectorBlinding(resent=min(1.0, share))
    if name == "time-shift":
        left = TimeShift().remaining
        return TimeShift(transmittance=min(1.0, line.transmittance / ((2.0 + left[0] + left[1]) / 4)))
    if name == "trojan-horse":
        return TrojanHorse()
    raise Rejected(f"no attack named {name[:40]!r}", code="link.unknown_attack", hint=f"one of: {', '.join(ATTACKS)}")


def _gain(settings: Settings, line: Line, eavesdropper: Eavesdropper | None) -> float:
    return float(expected(settings, arrival_table(settings, line, eavesdropper)).gain[0])
