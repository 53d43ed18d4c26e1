"""Rows for light through air: turbulence, air mass, light of the sky, and known figures that do not come out."""

from __future__ import annotations

from shosoin.link.channels.free_space import air_mass, beam_radius_m, diffraction_half_angle_rad
from shosoin.link.channels.sky import NIGHT_FULL_MOON, Daylight, SkyReceiver, click_probability
from shosoin.link.channels.turbulence import HufnagelValley
from shosoin.link.validation.row import AtMost, Row, Within, Witness

__all__ = ["ROWS"]

_P1622 = "Recommendation ITU-R P.1622 (2003), table 2: 75 degrees, 1.7e-14 at the ground"
_NTANOS = "Ntanos et al. 2021 (Photonics 8 544)"
_TABLE = {
    (21.0, 532.0): 0.23,
    (21.0, 850.0): 0.13,
    (21.0, 1064.0): 0.10,
    (21.0, 1550.0): 0.07,
    (30.0, 532.0): 0.36,
    (30.0, 850.0): 0.21,
    (30.0, 1064.0): 0.16,
    (30.0, 1550.0): 0.10,
}


def _scintillation(wind_m_s: float, wavelength_nm: float, published: float) -> Row:
    return Row(
        id=f"turbulence.p1622-{wind_m_s:.0f}ms-{wavelength_nm:.0f}nm",
        claim=f"log-irradiance variance at {wavelength_nm:.0f} nm with wind of {wind_m_s:.0f} m/s",
        source=_P1622,
        witness=Witness.STANDARD,
        unit="",
        published=published,
        criterion=Within(absolute=0.005),
        compute=lambda: float(
            HufnagelValley(wind_rms_m_s=wind_m_s).log_irradiance_variance(75.0, wavelength_nm=wavelength_nm)
        ),
    )


def _pointing_exponent() -> float:
    """Return what equation (9) of Ntanos et al. gives: squared beam radius over four times the squared jitter."""
    angle = diffraction_half_angle_rad(waist_radius_m=0.075, wavelength_nm=1550.0)
    radius = float(beam_radius_m(6e5, waist_radius_m=0.075, half_angle_rad=angle))
    return (radius / (2.0 * 0.75e-6 * 6e5)) ** 2


def _receiver(diameter_m: float, wavelength_nm: float) -> SkyReceiver:
    return SkyReceiver(
        aperture_radius_m=diameter_m / 2.0, field_of_view_rad=1e-4, passband_nm=0.2, wavelength_nm=wavelength_nm
    )


def _daylight_click() -> float:
    light = _receiver(2.3, 850.0).photons_hz(Daylight.BRIGHT_SUNSHINE.radiance_w_m2_um_sr(850.0))
    return float(click_probability(light, efficiency=1.0, gate_s=1e-9))


def _air_mass(elevation_deg: float, published: float, tolerance: float) -> Row:
    return Row(
        id=f"air.mass-{elevation_deg:g}deg",
        claim=f"air mass at {elevation_deg:g} degrees above the horizon",
        source="Kasten, Young 1989 (Appl. Opt. 28 4735), table II",
        witness=Witness.THEORY,
        unit="",
        published=published,
        criterion=Within(relative=tolerance),
        compute=lambda: float(air_mass(elevation_deg)),
    )


ROWS = (
    *(_scintillation(wind, wavelength, value) for (wind, wavelength), value in _TABLE.items()),
    Row(
        id="turbulence.hv57-coherence",
        claim="the 5 of the model HV-5/7: coherence length at 0.5 um overhead",
        source="Recommendation ITU-R P.1621-2 (2015), clause 5.1",
        witness=Witness.STANDARD,
        unit="cm",
        published=5.0,
        criterion=Within(relative=0.05),
        compute=lambda: 100.0 * float(HufnagelValley().coherence_length_m(90.0, wavelength_nm=500.0)),
    ),
    _air_mass(90.0, 1.0, 0.001),
    _air_mass(30.0, 1.994, 0.002),
    _air_mass(0.0, 38.0, 0.005),
    Row(
        id="sky.ntanos-pointing",
        claim="exponent of the pointing fade: 0.15 m to 0.75 m over 600 km, 0.75 urad of jitter, 1550 nm",
        source=f"{_NTANOS}, equation (9)",
        witness=Witness.THEORY,
        unit="",
        published=19.23,
        criterion=Within(absolute=0.02),
        compute=_pointing_exponent,
    ),
    Row(
        id="sky.ntanos-full-moon",
        claim="under a full moon the background of its 2.3 m telescope is at most this",
        source=f"{_NTANOS}, section 4.2.2",
        witness=Witness.THEORY,
        unit="1/s",
        published=1e4,
        criterion=AtMost(),
        compute=lambda: float(_receiver(2.3, 1550.0).photons_hz(NIGHT_FULL_MOON)),
        reason="from its own radiance, filter and field of view only its smallest telescope (0.75 m) keeps that; "
        "QuOSS found the same",
    ),
    Row(
        id="sky.ntanos-daylight",
        claim="probability of a background photon in a gate of 1 ns in bright sunshine, same telescope at 850 nm",
        source=f"{_NTANOS}, equation (20)",
        witness=Witness.THEORY,
        unit="",
        published=3.415,
        criterion=Within(relative=0.01),
        compute=_daylight_click,
        reason="equation (20) is a mean number of photons, not a probability; one photon or more come with 0.967",
    ),
)
