"""Names of attacks, apart from what they do: who checks a configuration need not load a simulation."""

from __future__ import annotations

__all__ = ["ATTACKS"]

ATTACKS = (
    "intercept-resend",
    "photon-number-splitting",
    "detector-blinding",
    "time-shift",
    "trojan-horse",
)
