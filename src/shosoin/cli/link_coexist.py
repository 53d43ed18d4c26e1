"""``shosoin link coexist``: light of the traffic in the same fibre, over the wavelength of the quantum channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.link_parameters import check_range
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.link.channels.coexistence import Coexistence

__all__ = ["coexist"]

_SILICA_NM = (1260.0, 1675.0)
_TRAFFIC_MAX = 200
_WAVELENGTHS_MAX = 1000
_WAVELENGTHS = "1270,1310,1350,1430,1460,1490,1510,1531,1540,1560,1571,1600"


def coexist(
    traffic: Annotated[
        list[str] | None,
        typer.Option(
            "--traffic",
            metavar="NM:DBM[:against]",
            help="A classical channel: wavelength, power into the fibre, direction; repeatable. One of 0 dBm each way.",
        ),
    ] = None,
    length_km: Annotated[float, typer.Option("--length-km", metavar="KM", help="Length of the fibre.")] = 50.0,
    wavelengths: Annotated[
        str, typer.Option("--wavelengths", metavar="NM,NM,..", help="Of the quantum channel, to compare.")
    ] = _WAVELENGTHS,
    passband_nm: Annotated[
        float, typer.Option("--passband-nm", metavar="NM", help="Width of the receiver's filter.")
    ] = 0.2,
    gate_ns: Annotated[float, typer.Option("--gate-ns", metavar="NS", help="Width of a detector's gate.")] = 0.5,
    efficiency: Annotated[float, typer.Option("--efficiency", metavar="SHARE", help="Of a detector.")] = 0.2,
    dark_counts: Annotated[
        float, typer.Option("--dark-counts", metavar="P", help="Per gate and detector, without light.")
    ] = 1e-7,
    as_json: JsonOption = False,
) -> None:
    """Compute what the traffic of a fibre does to a quantum channel in it, for several wavelengths.

    Raman scattering both ways, four-wave mixing, leakage and Rayleigh light, as photons per second behind the filter;
    the yield without signal that follows; and the key rate of decoy-state BB84 with infinitely many pulses. A model.
    """
    from dataclasses import replace

    import numpy as np

    from shosoin.link.channels.coexistence import background_yield
    from shosoin.link.detector import Detector
    from shosoin.link.rates.decoy import METRO, secret_key_rate_bps

    check_range("--length-km", [length_km], 0.0, 10_000.0)
    check_range("--passband-nm", [passband_nm], 1e-6, 1000.0)
    wanted = _numbers(wavelengths)
    check_range("--wavelengths", wanted, *_SILICA_NM)
    if len(wanted) > _WAVELENGTHS_MAX:
        raise Rejected(f"got {len(wanted)} wavelengths, expected at most {_WAVELENGTHS_MAX}", code="cli.usage")
    line = _line(traffic or ["1550:0", "1550:0:against"], length_km, passband_nm)
    try:
        detector = Detector(efficiency, dark_counts, gate_s=gate_ns * 1e-9)
        noise, loss = line.noise_photons(np.asarray(wanted)), line.fibre.attenuation_db(wanted)
    except ValueError as err:
        raise Rejected(str(err), code="link.bad_parameter") from err
    quiet = background_yield(detector, noise.total_hz)
    parts = ("raman_along_hz", "raman_against_hz", "four_wave_mixing_hz", "leakage_hz", "rayleigh_hz", "total_hz")
    points = []
    for index, wavelength in enumerate(wanted):
        system = replace(METRO, receiver_efficiency=efficiency, background_yield=float(quiet[index]))
        points.append(
            {
                "wavelength_nm": wavelength,
                "attenuation_db": float(loss[index]),
                **{name: float(np.asarray(getattr(noise, name))[index]) for name in parts},
                "background_yield": float(quiet[index]),
                "secret_key_rate_bps": secret_key_rate_bps(system, attenuation_db=float(loss[index])),
            }
        )
    if as_json:
        print_json({"model": True, "asymptotic": True, "length_km": length_km, "points": points})
    else:
        print_lines(_lines(points))


def _line(given: list[str], length_km: float, passband_nm: float) -> Coexistence:
    from shosoin.link.channels.coexistence import Coexistence, Direction, ReceiverFilter, Traffic
    from shosoin.link.channels.fibre import Fibre

    if len(given) > _TRAFFIC_MAX:
        raise Rejected(f"got {len(given)} channels, expected at most {_TRAFFIC_MAX}", code="cli.usage")
    traffic = []
    for each in given:
        parts = each.split(":")
        direction = {2: Direction.ALONG, 3: Direction.AGAINST}.get(len(parts))
        if direction is None or parts[2:] not in ([], ["against"]):
            raise Rejected(f"{each!r} is no channel", code="cli.usage", hint="for example 1550:0, or 1551.7:-3:against")
        ((nanometres,), (power,)) = (_numbers(part, count=1) for part in parts[:2])
        check_range("the wavelength of --traffic", [nanometres], *_SILICA_NM)
        check_range("the power of --traffic", [power], -300.0, 60.0)
        traffic.append(Traffic(nanometres, power, direction))
    try:
        return Coexistence(Fibre(length_km), traffic, ReceiverFilter(passband_nm))
    except ValueError as err:
        raise Rejected(str(err), code="link.bad_parameter") from err


def _numbers(given: str, *, count: int | None = None) -> list[float]:
    try:
        found = [float(each) for each in given.split(",")]
        if count not in {None, len(found)}:
            raise ValueError(given)
        return found
    except ValueError:
        raise Rejected(f"{given!r} are no numbers", code="cli.usage", hint="for example 1310,1531") from None


def _lines(points: list[dict[str, Any]]) -> list[str]:
    from shosoin.cli.link_rate import rate_text

    heads = ("wavelength", "loss", "raman_along", "raman_against", "other_light", "yield", "bps")
    rows = []
    for each in points:
        other = each["total_hz"] - each["raman_along_hz"] - each["raman_against_hz"]
        shown = (each["raman_along_hz"], each["raman_against_hz"], max(other, 0.0), each["background_yield"])
        figures = (f"{each['wavelength_nm']:g}", f"{each['attenuation_db']:.4g}", *(f"{value:.2e}" for value in shown))
        rows.append((*figures, rate_text(each["secret_key_rate_bps"])))
    return [text("link.coexist"), "", *columns([text(f"link.{head}") for head in heads], rows)]
