"""Durations and rates as people write them on a command line."""

from __future__ import annotations

import re

from shosoin.base import Rejected

__all__ = ["duration_s", "rate_bytes_per_s"]

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_SECONDS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_BYTES = {
    "": 1.0, "b": 1.0,
    "kb": 1e3, "mb": 1e6, "gb": 1e9,
    "kib": 1024.0, "mib": 1024.0**2, "gib": 1024.0**3,
}  # fmt: skip


def duration_s(given: str) -> float:
    """Return the seconds of ``90s``, ``15m``, ``6h``, ``28d`` or ``2w``.

    Raises:
        Rejected: it is none of them, or 0.
    """
    return _read(given, _SECONDS, "a duration", "30s, 15m, 6h, 28d or 2w")


def rate_bytes_per_s(given: str) -> float:
    """Return the bytes per second of ``50MB``, ``100MiB`` or a number of bytes.

    Raises:
        Rejected: it is none of them, or 0.
    """
    return _read(given, _BYTES, "a rate per second", "50MB, 100MiB or a number of bytes")


def _read(given: str, units: dict[str, float], what: str, examples: str) -> float:
    match = _QUANTITY.fullmatch(given.strip())
    unit = units.get(match[2].lower()) if match else None
    if match is None or unit is None or float(match[1]) <= 0:
        raise Rejected(f"{given!r} is not {what}", code="cli.usage", hint=f"for example {examples}")
    return float(match[1]) * unit
