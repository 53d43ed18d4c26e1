"""``shosoin link pass``: what one pass of a satellite yields, under a finite-key proof."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.link_parameters import check_range
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.link.channels.pass_key import PassKey
    from shosoin.link.channels.satellite_pass import SatellitePass
    from shosoin.link.rates.result import SecretLength

__all__ = ["satellite_pass"]

_LINES = 13


def satellite_pass(
    altitude_km: Annotated[float, typer.Option("--altitude-km", metavar="KM", help="Of a circular orbit.")] = 500.0,
    elevation_deg: Annotated[
        float, typer.Option("--max-elevation", metavar="DEGREES", help="How high the pass gets.")
    ] = 80.0,
    wavelength_nm: Annotated[float, typer.Option("--wavelength-nm", metavar="NM")] = 850.0,
    divergence_urad: Annotated[
        float, typer.Option("--divergence-urad", metavar="URAD", help="Half angle of the beam, to 1/e^2.")
    ] = 10.0,
    aperture_m: Annotated[
        float, typer.Option("--aperture-m", metavar="M", help="Diameter of the telescope on the ground.")
    ] = 1.0,
    jitter_urad: Annotated[
        float, typer.Option("--jitter-urad", metavar="URAD", help="Of the pointing, per axis.")
    ] = 1.0,
    zenith_transmittance: Annotated[
        float, typer.Option("--zenith-transmittance", metavar="SHARE", help="Of the air overhead.")
    ] = 0.7,
    optics_db: Annotated[float, typer.Option("--optics-db", metavar="DB", help="Optics on the ground.")] = 8.0,
    background_hz: Annotated[
        float, typer.Option("--background-hz", metavar="HZ", help="Photons of the sky at the detectors.")
    ] = 1000.0,
    pulse_rate_hz: Annotated[float, typer.Option("--pulse-rate", metavar="HZ", help="Pulses per second.")] = 1e8,
    efficiency: Annotated[float, typer.Option("--efficiency", metavar="SHARE", help="Of a detector.")] = 0.5,
    dark_counts: Annotated[float, typer.Option("--dark-counts", metavar="P", help="Per gate and detector.")] = 2.5e-8,
    misalignment: Annotated[
        float, typer.Option("--misalignment", metavar="SHARE", help="Photons that take the wrong detector.")
    ] = 0.01,
    as_json: JsonOption = False,
) -> None:
    """Compute the key of one satellite pass, as one block with two decoys under the proof of Lim et al. 2014.

    All of it is simulated: expected counts over a clear sky. The window of elevations is the one that makes most key.
    """
    from shosoin.link.channels.optical_link import OpticalLink
    from shosoin.link.channels.pass_key import DecoySource, pass_key
    from shosoin.link.channels.satellite_pass import pass_over
    from shosoin.link.detector import Detector
    from shosoin.link.rates import two_decoys

    check_range("--altitude-km", [altitude_km], 100.0, 50_000.0)
    check_range("--wavelength-nm", [wavelength_nm], 200.0, 20_000.0)
    check_range("--divergence-urad", [divergence_urad], 1e-2, 1e5)
    check_range("--aperture-m", [aperture_m], 1e-3, 100.0)
    check_range("--jitter-urad", [jitter_urad], 0.0, 1e5)
    check_range("--zenith-transmittance", [zenith_transmittance], 1e-9, 1.0)
    check_range("--optics-db", [optics_db], 0.0, 200.0)
    check_range("--background-hz", [background_hz], 0.0, 1e15)
    check_range("--pulse-rate", [pulse_rate_hz], 1.0, 1e12)
    half_angle = divergence_urad * 1e-6
    try:
        link = OpticalLink(
            wavelength_nm=wavelength_nm,
            waist_radius_m=max(wavelength_nm * 1e-9 / (math.pi * half_angle), 1e-3),
            receiver_radius_m=aperture_m / 2.0,
            zenith_transmittance=zenith_transmittance,
            half_angle_rad=half_angle,
            pointing_jitter_rad=jitter_urad * 1e-6,
            fixed_db=optics_db,
        )
        seen = pass_over(
            link, altitude_m=altitude_km * 1e3, maximum_elevation_deg=elevation_deg, background_hz=background_hz
        )
        source = DecoySource(pulse_rate_hz, (0.8, 0.15, 0.0), (0.7, 0.2, 0.1), 0.8, misalignment)
        key = pass_key(seen, source, Detector(efficiency, dark_counts), two_decoys.secret_length)
    except (ValueError, ZeroDivisionError) as err:
        raise Rejected(str(err), code="link.bad_parameter") from err
    answer = _answer(seen, key)
    if as_json:
        print_json(answer)
    else:
        print_lines(_lines(answer))


def _answer(seen: SatellitePass, key: PassKey[SecretLength]) -> dict[str, Any]:
    counts = key.counts
    return {
        "simulated": True,
        "proof": key.length.proof,
        "epsilons": key.length.epsilons.to_json(),
        "secret_bits": key.length.secret_bits,
        "sifted_bits": int(counts.key_detections.sum()),
        "qber": None if math.isnan(key.qber) else key.qber,
        "phase_error_rate_max": key.length.phase_error_rate_max,
        "window_elevation_min_deg": key.elevation_min_deg,
        "window_s": key.duration_s,
        "series": [
            {
                "time_s": float(time),
                "elevation_deg": float(height),
                "range_km": float(far) / 1e3,
                "loss_db": float(db) if math.isfinite(db) else None,  # JSON has no infinity
            }
            for time, height, far, db in zip(
                seen.time_s, seen.elevation_deg, seen.range_m, seen.attenuation_db, strict=True
            )
            if height > 0.0
        ],
    }


def _lines(answer: dict[str, Any]) -> list[str]:
    series = answer["series"]
    step = max(1, len(series) // (_LINES - 1))
    rows = [
        (
            f"{each['time_s']:.0f}",
            f"{each['elevation_deg']:.1f}",
            f"{each['range_km']:.0f}",
            "-" if each["loss_db"] is None else f"{each['loss_db']:.1f}",
            "*" if each["elevation_deg"] >= answer["window_elevation_min_deg"] else "",
        )
        for each in series[::step]
    ]
    qber = "-" if answer["qber"] is None else f"{answer['qber']:.2%}"
    said = text(
        "link.pass_key",
        secret=answer["secret_bits"],
        sifted=answer["sifted_bits"],
        seconds=f"{answer['window_s']:.0f}",
        elevation=f"{answer['window_elevation_min_deg']:.1f}",
        qber=qber,
        proof=answer["proof"],
        epsilon=f"{answer['epsilons']['total']:.2g}",
    )
    heads = [text(f"link.{head}") for head in ("time", "elevation", "range", "loss", "in_window")]
    return [text("link.pass_simulated"), said, "", *columns(heads, rows)]
