"""A pass of a satellite as a time series: elevation, range, loss, light of the sky, day and shadow, per slot.

Within a slot nothing changes, so slots are a second or so. The loss is the mean of the fading. Light of the sky is one
radiance by day and another by night; day is when the sun stands above the horizon by more than a given angle.
Light of the Earth and of a sunlit satellite is not in it. Simulated, like everything below ``shosoin.link``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shosoin.link.channels.optical_link import OpticalLink
from shosoin.link.channels.orbit import (
    CircularOrbit,
    GroundStation,
    Look,
    is_in_shadow,
    look,
    overpass,
    sun_elevation_deg,
)
from shosoin.link.channels.sky import SkyReceiver
from shosoin.link.information import Array

__all__ = ["SatellitePass", "SkyBrightness", "pass_over", "passes"]

_CIVIL_TWILIGHT_DEG = -6.0


@dataclass(frozen=True, slots=True)
class SkyBrightness:
    """Radiance by day and by night in W/(m^2 um sr), and when which holds.

    Raises:
        ValueError: a negative radiance.
    """

    day_w_m2_um_sr: float
    night_w_m2_um_sr: float
    day_above_deg: float = _CIVIL_TWILIGHT_DEG
    """Elevation of the sun above which it is day."""

    def __post_init__(self) -> None:
        if not min(self.day_w_m2_um_sr, self.night_w_m2_um_sr) >= 0.0:
            raise ValueError(f"radiance is not negative, got {self}")


@dataclass(frozen=True, slots=True)
class SatellitePass:
    """Slots of equal length in order of time; arrays of shape (n,).

    Raises:
        ValueError: shapes differ, the slots have no length, or light or loss is negative or not a number.
    """

    slot_s: float
    time_s: Array
    """Middle of each slot."""
    elevation_deg: Array
    range_m: Array
    attenuation_db: Array
    """Mean loss from the source to the detectors, without their efficiency; infinite below the horizon."""
    background_hz: Array
    """Photons of the sky per second that enter the receiver, before its efficiency. Optics that the loss counts as
    fixed do not weaken it here, which errs to the safe side."""
    is_day: npt.NDArray[np.bool_]
    is_in_shadow: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        arrays = (self.elevation_deg, self.range_m, self.attenuation_db, self.background_hz, self.is_day)
        if self.time_s.ndim != 1 or any(array.shape != self.time_s.shape for array in (*arrays, self.is_in_shadow)):
            raise ValueError("a pass has one value per slot")
        if not self.slot_s > 0.0 or not np.all(self.attenuation_db >= 0.0) or not np.all(self.background_hz >= 0.0):
            raise ValueError("slots have a length, and neither loss nor light is negative")

    def within(self, *, elevation_min_deg: float) -> npt.NDArray[np.bool_]:
        """Return which slots are at least that high, and above the horizon in any case."""
        return np.asarray((self.elevation_deg >= elevation_min_deg) & (self.elevation_deg >= 0.0))


def pass_over(
    link: OpticalLink,
    *,
    altitude_m: float,
    maximum_elevation_deg: float = 90.0,
    slot_s: float = 1.0,
    background_hz: float = 0.0,
    is_day: bool = False,
) -> SatellitePass:
    """Return one pass over an Earth that stands still, under one sky, the middle slot at the highest point."""
    seen = overpass(altitude_m=altitude_m, maximum_elevation_deg=maximum_elevation_deg, step_s=slot_s)
    same = np.ones_like(seen.time_s)
    return _series(link, seen, slot_s, background_hz * same, same * is_day > 0.0, same < 0.0)


def passes(
    orbit: CircularOrbit,
    station: GroundStation,
    link: OpticalLink,
    *,
    sky: SkyBrightness,
    receiver: SkyReceiver,
    duration_s: float,
    epoch_days: float,
    slot_s: float = 1.0,
    earth_rotates: bool = True,
) -> list[SatellitePass]:
    """Return all passes above the horizon from an epoch (days after J2000) on, for so long."""
    times = np.arange(0.0, duration_s, slot_s)
    seen = look(orbit, station, times, epoch_days=epoch_days, earth_rotates=earth_rotates)
    day = sun_elevation_deg(station, times, epoch_days=epoch_days) > sky.day_above_deg
    shadow = is_in_shadow(orbit, times, epoch_days=epoch_days)
    light_hz = receiver.photons_hz(np.where(day, sky.day_w_m2_um_sr, sky.night_w_m2_um_sr))
    up = np.flatnonzero(seen.elevation_deg >= 0.0)
    runs = np.split(up, np.flatnonzero(np.diff(up) > 1) + 1) if up.size else []
    return [
        _series(
            link,
            Look(time_s=times[run], elevation_deg=seen.elevation_deg[run], range_m=seen.range_m[run]),
            slot_s,
            light_hz[run],
            day[run],
            shadow[run],
        )
        for run in runs
    ]


def _series(
    link: OpticalLink,
    seen: Look,
    slot_s: float,
    background_hz: Array,
    is_day: npt.NDArray[np.bool_],
    shadow: npt.NDArray[np.bool_],
) -> SatellitePass:
    return SatellitePass(
        slot_s=slot_s,
        time_s=seen.time_s,
        elevation_deg=seen.elevation_deg,
        range_m=seen.range_m,
        attenuation_db=link.attenuation_db(seen.range_m, seen.elevation_deg),
        background_hz=background_hz,
        is_day=is_day,
        is_in_shadow=shadow,
    )
