"""``shosoin link postprocess``: recorded pulses and detections to keys, by two processes as at the ends of a link."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.common import run_async
from shosoin.cli.output import columns, print_json, print_lines, seconds_text
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.link.events.recording import Header
    from shosoin.services.link_pair import PairResult

__all__ = ["postprocess"]


def postprocess(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="One recording of both ends, or that of each.", show_default=False),
    ],
    block_bits: Annotated[
        float, typer.Option("--block-bits", metavar="BITS", help="Sifted key bits of a block: 1e7.")
    ] = 1e7,
    proof: Annotated[
        str | None,
        typer.Option(
            "--proof", metavar="NAME", help="wiesemann2024 or rusca2018 for two intensities, lim2014 for three."
        ),
    ] = None,
    epsilon_secrecy: Annotated[
        float, typer.Option("--epsilon-secrecy", metavar="E", help="Failure probability of secrecy, a block.")
    ] = 1e-9,
    epsilon_correctness: Annotated[
        float, typer.Option("--epsilon-correctness", metavar="E", help="Failure probability of equality, a block.")
    ] = 1e-15,
    codes: Annotated[
        str, typer.Option("--codes", metavar="NAME", help="ldpc, or cascade, which takes blocks up to 2097152.")
    ] = "ldpc",
    qber_max: Annotated[
        float, typer.Option("--qber-max", metavar="RATE", help="Above this error rate: an alarm, and no key.")
    ] = 0.06,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write the keys there, a directory for each end; new."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn what two devices recorded into keys.

    Both ends run as processes of their own: the transmitter's gets the transmitter's record only, the receiver's only
    the receiver's. They talk over an authenticated connection, and no block leaves longer than its bound allows.
    Keys are written with --out only, readable for their owner alone.
    """
    from shosoin.link.postprocessing import SessionParameters

    if not abs(block_bits) < 1 << 63:
        raise Rejected(f"a block of {block_bits} bits", code="link.bad_parameters")
    if out is not None and (out.exists() or out.is_symlink()):
        raise Rejected(f"{out} exists already", code="link.out_exists", hint="name a directory that is new")
    with tempfile.TemporaryDirectory(prefix="shosoin-link-") as scratch:
        records, header = _parted(files, Path(scratch))
        parameters = SessionParameters(
            header.settings,
            proof=proof or ("lim2014" if len(header.settings.intensities) == 3 else "wiesemann2024"),
            epsilon_secrecy=epsilon_secrecy,
            epsilon_correctness=epsilon_correctness,
            block_bits=int(block_bits) // 8 * 8,
            codes=codes,
            qber_max=qber_max,
        )
        result = run_async(_run(records, Path(scratch) / "state", parameters, out))
    answer = _answer(header, parameters.to_json(), result)
    if as_json:
        print_json(answer)
    else:
        print_lines(_lines(answer))


async def _run(records: tuple[Path, Path], state: Path, parameters: Any, out: Path | None) -> PairResult:
    from shosoin.services.link_pair import run_pair

    return await run_pair(records, state, parameters, keys=out)


def _parted(files: Sequence[Path], scratch: Path) -> tuple[tuple[Path, Path], Header]:
    """Return the transmitter's and the receiver's recording; a recording of both is taken apart.

    Raises:
        Rejected: the files are not one recording of each end.
    """
    from shosoin.link.events.recording import Part
    from shosoin.services.link_records import read_header, split_recording

    headers = [read_header(path) for path in files]
    if [header.part for header in headers] == [Part.BOTH]:
        return split_recording(files[0], scratch), headers[0]
    by_part = {header.part: (path, header) for path, header in zip(files, headers, strict=True)}
    if len(files) != 2 or set(by_part) != {Part.TRANSMITTER, Part.RECEIVER}:
        raise Rejected(
            f"got {len(files)} recordings, expected one of both ends, or one of each end",
            code="link.recordings_missing",
        )
    (sent, header), (detected, other) = by_part[Part.TRANSMITTER], by_part[Part.RECEIVER]
    if header.settings != other.settings or header.simulated != other.simulated:
        raise Rejected("the two recordings are of different links", code="link.parameters_differ")
    return (sent, detected), header


def _answer(header: Header, parameters: dict[str, Any], result: PairResult) -> dict[str, Any]:
    pulses = sum(report["pulses"] for report in result.blocks.values()) + sum(result.void_pulses.values())
    seconds = pulses / header.settings.pulse_rate_hz
    secret = sum(report["secret_bits"] for report in result.blocks.values())
    return {
        "simulated": header.simulated,
        "origin": header.origin,
        "parameters": parameters,
        "blocks": [{"block": number, **report} for number, report in sorted(result.blocks.items())],
        "void": [{"block": number, "reason": reason} for number, reason in sorted(result.voids.items())],
        "alarms": result.alarms,
        "pulses": pulses,
        "link_seconds": seconds,
        "secret_bits": secret,
        "key_bits": sum(report["key_bits"] for report in result.blocks.values()),
        "secret_bits_per_second": secret / seconds if seconds else 0.0,
        "run_seconds": result.seconds,
    }


def _lines(answer: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            report["block"],
            f"{report['key_basis_bits']:,}",
            f"{report['qber']:.4f}",
            f"{report['phase_error_rate_max']:.4f}",
            f"{report['leak_ec_bits']:,}",
            "-" if report["f_ec"] is None else f"{report['f_ec']:.3f}",
            f"{report['bound_bits']:,}",
            f"{report['authentication_bits']:,}",
            f"{report['key_bits']:,}",
            f"{report['epsilons']['total']:.1e}",
        )
        for report in answer["blocks"]
    ]
    names = ("block", "sifted", "qber", "phase", "leak", "f", "bound", "authentication", "key", "epsilon")
    heading = [text(f"postprocess.{name}") for name in names]
    lines = [text("postprocess.simulated", origin=answer["origin"])] if answer["simulated"] else []
    lines += columns(heading, rows) if rows else [text("postprocess.no_key")]
    lines += [
        text("postprocess.void", block=void["block"], reason=text(f"postprocess.{void['reason']}"))
        for void in answer["void"]
    ]
    lines.append(
        text(
            "postprocess.total",
            key=f"{answer['key_bits']:,}",
            rate=f"{answer['secret_bits_per_second']:.4g}",
            link=seconds_text(answer["link_seconds"]),
            seconds=seconds_text(answer["run_seconds"]),
        )
    )
    return [*lines, text("postprocess.alarms", count=answer["alarms"])] if answer["alarms"] else lines
