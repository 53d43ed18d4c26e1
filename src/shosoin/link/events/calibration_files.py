"""The calibration of a link as text: what a monitor takes as possible on an honest link, for both ends to read.

It holds limits and no record of any pulse, so that either end may have it. The limits of a simulated link follow from
its model; those of a real one are measured with nobody on the line. Whoever can change the file decides what the
monitor overlooks.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from shosoin.base import Rejected
from shosoin.link.events.monitoring import Calibration

__all__ = ["CALIBRATION_BYTES_MAX", "CalibrationFile", "decode_calibration", "encode_calibration"]

CALIBRATION_BYTES_MAX = 1 << 16
_FORMAT = "shosoin link calibration"
_VERSION = 1
_ORIGIN_CHARACTERS_MAX = 200
_LISTS = {"intensities", "gains_min", "gains_max"}


@dataclass(frozen=True, slots=True)
class CalibrationFile:
    """A calibration with where it comes from."""

    calibration: Calibration
    simulated: bool
    origin: str
    """How the limits were found, in one line of at most 200 printable characters."""


def encode_calibration(file: CalibrationFile) -> bytes:
    """Return the text: a JSON object in UTF-8."""
    told = {"format": _FORMAT, "version": _VERSION, "simulated": file.simulated, "origin": file.origin}
    return json.dumps(told | {"limits": asdict(file.calibration)}, indent=2).encode() + b"\n"


def decode_calibration(data: bytes) -> CalibrationFile:
    """Read a text that ``encode_calibration`` may have made.

    Raises:
        Rejected: it is none of version 1, or a limit is missing, unknown or out of range.
    """
    try:
        if len(data) > CALIBRATION_BYTES_MAX:
            raise ValueError(f"longer than {CALIBRATION_BYTES_MAX} bytes")
        told: Any = json.loads(data.decode())  # UTF-8 alone
        if (told["format"], told["version"]) != (_FORMAT, _VERSION):
            raise ValueError("another format or version")
        if type(told["simulated"]) is not bool or not _is_line(told["origin"]):
            raise ValueError("simulated or origin")
        return CalibrationFile(Calibration(**_limits(told["limits"])), told["simulated"], told["origin"])
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as err:
        raise Rejected(
            f"not a calibration of a link: {err}",
            code="link.calibration_rejected",
            hint="shosoin link simulate --calibration-file writes one; docs/guides/link.md tells of it",
        ) from err


def _is_line(told: Any) -> bool:
    return type(told) is str and len(told) <= _ORIGIN_CHARACTERS_MAX and told.isprintable()


def _limits(told: Any) -> dict[str, Any]:
    names = {each.name for each in fields(Calibration)}
    if not isinstance(told, dict) or set(told) != names:
        raise ValueError("limits are missing or unknown")
    for name in names:
        values = told[name] if name in _LISTS else [told[name]]
        if not isinstance(values, list) or not all(type(each) in {int, float} for each in values):
            raise ValueError(f"{name} is no number")
        if not all(math.isfinite(each) for each in values):
            raise ValueError(f"{name} is not finite")
        if name.endswith("_na") and type(told[name]) is not int:
            raise ValueError(f"{name} is no whole number")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in told.items()}
