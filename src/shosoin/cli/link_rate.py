"""``shosoin link rate``: the secret key rate of a protocol over length or loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.link_protocols import complete_protocol
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.link.rates.registry import ProtocolEntry, RateModel, Request
    from shosoin.link.rates.result import LinkRate

__all__ = ["rate", "rate_text"]

_DEFAULT_PROTOCOL = "decoy-bb84"
_DB_PER_KM = 0.2
_POINTS_MAX = 2000
_BLOCK_BITS_MAX = 1e18
_BAR = 30
_RATES = ("pulse_rate_hz", "symbol_rate_hz")
_BAR_DECADES = 10.0


def rate(
    protocol_name: Annotated[
        str,
        typer.Option(
            "--protocol",
            metavar="NAME",
            help="One of `shosoin link protocols`.",
            autocompletion=complete_protocol,
        ),
    ] = _DEFAULT_PROTOCOL,
    length_km: Annotated[
        list[float] | None, typer.Option("--length-km", metavar="KM", help="Fibre between the users; repeatable.")
    ] = None,
    first_km: Annotated[float | None, typer.Option("--from", metavar="KM", help="First length of a series.")] = None,
    last_km: Annotated[float | None, typer.Option("--to", metavar="KM", help="Last length of a series.")] = None,
    step_km: Annotated[float, typer.Option("--step", metavar="KM", help="Step of a series.")] = 10.0,
    attenuation_db: Annotated[
        list[float] | None,
        typer.Option("--attenuation-db", metavar="DB", help="Loss instead of a length; repeatable."),
    ] = None,
    db_per_km: Annotated[
        float | None,
        typer.Option("--db-per-km", metavar="DB", help=f"Loss of the fibre; {_DB_PER_KM} or what the protocol says."),
    ] = None,
    block_bits: Annotated[
        float | None,
        typer.Option("--block-bits", metavar="BITS", help="Sifted bits in a block, for a finite-key proof: 1e7."),
    ] = None,
    optimise: Annotated[
        bool | None,
        typer.Option("--optimise/--no-optimise", help="Search for the best intensities and bases at each length."),
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameters", metavar="FILE|KEY=VALUE", help="A TOML file, or one parameter; repeatable."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw the rate as .svg or .png (extra: plots).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compute the secret key rate of a protocol over fibre length or loss.

    A rate is of a model, not of a device. Asymptotic rates hold for infinitely many pulses and say so; finite ones
    name their epsilon. Defaults are those of `shosoin link protocols NAME`. The bar is logarithmic: ten decades.
    """
    from shosoin.link.rates.registry import Request, protocol

    entry = protocol(protocol_name)
    model = entry.model()
    changes = _changes(parameters or [])
    chosen = model.changed(changes)
    known = model.known(chosen)
    per_km = db_per_km if db_per_km is not None else float(known.get("attenuation_db_per_km", _DB_PER_KM))
    losses = _losses(length_km or [], (first_km, last_km, step_km), attenuation_db or [], per_km)
    request = Request(_array(losses), _block(entry, block_bits), _optimise(entry, optimise))
    found = _computed(model, chosen, request, is_changed=bool(changes))
    answer = _answer(entry, found, known, request.block_bits, None if attenuation_db else per_km)
    if plot is not None:
        _draw(plot, answer)
    if as_json:
        print_json(answer)
    else:
        print_lines(_lines(answer))


def _computed(model: RateModel, parameters: Any, request: Request, *, is_changed: bool) -> LinkRate:
    """Return what a model says.

    Raises:
        Rejected: it says nothing for parameters that were changed. With its own that is our defect.
    """
    import numpy as np

    try:
        # What comes of it is looked at; next to no light is no mistake.
        with np.errstate(all="ignore") if is_changed else np.errstate(under="ignore"):
            found = model.rate(parameters, request)
        unbounded = np.isposinf(found.secret_bits_per_pulse) & (found.attenuation_db == 0.0)
        if not np.all(np.isfinite(found.secret_bits_per_pulse) | unbounded):
            raise ValueError("what comes out is no number")
    except (ValueError, ArithmeticError) as err:
        if not is_changed:
            raise
        raise Rejected(f"no rate for these parameters: {err}", code="link.bad_parameter") from err
    return found


def _array(losses: Sequence[float]) -> Any:
    import numpy as np

    return np.asarray(losses, dtype=np.float64)


def _changes(given: Sequence[str]) -> dict[str, Any]:
    """Return the parameters that the command line names, files first to last and values as written."""
    from shosoin.cli.link_parameters import parameters_in

    changes: dict[str, Any] = {}
    for each in given:
        name, equals, value = each.partition("=")
        changes |= {name.strip(): value.strip()} if equals else parameters_in(Path(each))
    return changes


def _losses(
    lengths: list[float], series: tuple[float | None, float | None, float], losses: list[float], per_km: float
) -> list[float]:
    """Return the losses to compute, from one way of saying them.

    Raises:
        Rejected: more than one way, or none that makes sense.
    """
    first, last, step = series
    ways = [bool(lengths), first is not None or last is not None, bool(losses)]
    if sum(ways) > 1:
        raise Rejected("--length-km, --from with --to, and --attenuation-db exclude each other", code="cli.usage")
    if losses:
        return _checked(losses, "--attenuation-db")
    if ways[1]:
        lengths = _series(0.0 if first is None else first, last, step)
    if not per_km > 0 or not math.isfinite(per_km):
        raise Rejected(f"a fibre loses more than 0 dB a km, got {per_km:g}", code="cli.usage")
    return [length * per_km for length in _checked(lengths or _series(0.0, 200.0, 20.0), "lengths")]


def _series(first: float, last: float | None, step: float) -> list[float]:
    if last is None:
        raise Rejected("--from wants --to", code="cli.usage", hint="for example --from 0 --to 200 --step 10")
    if not (step > 0 and math.isfinite(last - first) and last >= first and (last - first) / step < _POINTS_MAX):
        raise Rejected(
            f"from {first:g} to {last:g} in steps of {step:g} is no series of at most {_POINTS_MAX} lengths",
            code="cli.usage",
            hint="for example --from 0 --to 200 --step 10",
        )
    return [first + step * index for index in range(math.floor((last - first) / step + 1e-9) + 1)]


def _checked(values: list[float], what: str) -> list[float]:
    if any(not (value >= 0.0 and math.isfinite(value)) for value in values):
        raise Rejected(f"{what} must be numbers not below 0, got {', '.join(map(str, values))}", code="cli.usage")
    return values


def _block(entry: ProtocolEntry, given: float | None) -> float | None:
    if given is None:
        return entry.block_bits
    if entry.block_bits is None:
        how = "its run is a parameter" if entry.is_finite else "it is computed for infinitely many pulses"
        raise Rejected(
            f"{entry.name} takes no --block-bits: {how}",
            code="cli.usage",
            hint=f"`shosoin link protocols {entry.name}` shows what it takes",
        )
    if not 1 <= given <= _BLOCK_BITS_MAX:
        raise Rejected(f"a block has 1 to {_BLOCK_BITS_MAX:g} bits, got {given:g}", code="cli.usage")
    return given


def _optimise(entry: ProtocolEntry, wanted: bool | None) -> bool:
    if wanted and not entry.can_optimise:
        raise Rejected(f"{entry.name} has nothing to optimise", code="cli.usage", hint="leave --optimise out")
    return entry.can_optimise if wanted is None else wanted


def _answer(
    entry: ProtocolEntry, found: LinkRate, known: dict[str, Any], block_bits: float | None, per_km: float | None
) -> dict[str, Any]:
    """Return what is printed, as one JSON object."""
    pulse_rate = next((value for name, value in known.items() if name.endswith(_RATES)), None)
    points = [_point(found, index, per_km, pulse_rate) for index in range(found.attenuation_db.size)]
    return {
        "protocol": entry.name,
        "about": entry.about,
        "source": entry.source,
        "model": True,
        "asymptotic": found.is_asymptotic,
        "epsilons": None if found.epsilons is None else found.epsilons.to_json(),
        "block_bits": None if found.is_asymptotic else block_bits,
        "parameters": known,
        "bits_per": entry.unit,
        "points": points,
    }


def _point(found: LinkRate, index: int, per_km: float | None, pulse_rate: Any) -> dict[str, Any]:
    loss, per_pulse = float(found.attenuation_db[index]), _number(found.secret_bits_per_pulse[index])
    return {
        "length_km": None if per_km is None else round(loss / per_km, 9),
        "attenuation_db": round(loss, 9),
        "secret_bits_per_pulse": per_pulse,
        "secret_key_rate_bps": None if pulse_rate is None or per_pulse is None else per_pulse * float(pulse_rate),
        "qber": _number(found.qber[index]),
        "details": {name: _number(values[index]) for name, values in found.details.items()},
    }


def _number(value: Any) -> float | None:
    """Return a number that JSON has; it knows no NaN."""
    return float(value) if math.isfinite(value) else None


def _lines(answer: dict[str, Any]) -> list[str]:
    heads = [text(f"link.{head}") for head in ("km", "loss", "qber", f"per_{answer['bits_per']}", "bps", "bar")]
    rows = [_row(point) for point in answer["points"]]
    return [
        f"{answer['protocol']}: {answer['about']} ({answer['source']})",
        text("link.is_asymptotic") if answer["asymptotic"] else _finite(answer),
        "",
        *columns(heads, rows),
    ]


def _finite(answer: dict[str, Any]) -> str:
    epsilon, block = f"{answer['epsilons']['total']:.2g}", answer["block_bits"]
    if block is None:
        return text("link.is_finite_run", epsilon=epsilon)
    return text("link.is_finite", epsilon=epsilon, block=f"{block:.3g}")


def _row(point: dict[str, Any]) -> tuple[str, ...]:
    length, qber, bps = point["length_km"], point["qber"], point["secret_key_rate_bps"]
    per_pulse = point["secret_bits_per_pulse"]
    if per_pulse is None:  # a bound, where nothing is lost
        return (
            "" if length is None else f"{length:.6g}",
            f"{point['attenuation_db']:.4g}",
            "",
            text("link.unbounded"),
            "",
            "",
        )
    return (
        "" if length is None else f"{length:.6g}",
        f"{point['attenuation_db']:.4g}",
        "" if qber is None else f"{qber:.2%}",
        f"{per_pulse:.3e}" if per_pulse > 0 else "0",
        "" if bps is None else rate_text(bps),
        _bar(per_pulse),
    )


def rate_text(bps: float) -> str:
    """Return bits per second for people."""
    for unit, size in (("Gb/s", 1e9), ("Mb/s", 1e6), ("kb/s", 1e3)):
        if bps >= size:
            return f"{bps / size:.3g} {unit}"
    return f"{bps:.3g} b/s" if bps > 0 else "0"


def _bar(per_pulse: float) -> str:
    """Return a bar for ten decades below one bit per pulse."""
    if per_pulse <= 0:
        return ""
    return "#" * max(1, min(_BAR, round(_BAR * (1.0 + math.log10(per_pulse) / _BAR_DECADES))))


def _draw(path: Path, answer: dict[str, Any]) -> None:
    from shosoin.cli.link_plot import draw_rate

    draw_rate(path, answer)
