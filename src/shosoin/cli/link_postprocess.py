"""``shosoin link postprocess``: recorded pulses and detections to keys, by two processes as at the ends of a link."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Alarm, Rejected, Unavailable
from shosoin.base.messages import text
from shosoin.cli.common import Interrupted, run_async, talk
from shosoin.cli.output import columns, print_json, print_lines, progress, seconds_text
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.link.events.recording import Header
    from shosoin.link.events.records import Settings
    from shosoin.link.postprocessing import SessionParameters
    from shosoin.services.link_pair import PairResult
    from shosoin.services.link_run import RunState

__all__ = ["postprocess"]


def postprocess(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="One recording of both ends, or that of each.", show_default=False),
    ],
    block_bits: Annotated[
        float,
        typer.Option(
            "--block-bits",
            metavar="BITS",
            help="Sifted key bits of a block, as expected: it is a number of detections.",
        ),
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
        str, typer.Option("--codes", metavar="NAME", help="ldpc, or cascade, which takes blocks below 2097152.")
    ] = "ldpc",
    qber_max: Annotated[
        float, typer.Option("--qber-max", metavar="RATE", help="Above this error rate: an alarm, and no key.")
    ] = 0.06,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write the keys there, a directory for each end; new."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            metavar="DIR",
            help="Keep there what both ends must know to go on: the same command goes on after whatever ended it."
            " Whoever reads DIR reads unused authentication key; never use a copy of it.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            help="Watch the link at both ends: what this file of limits does not allow becomes no key.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn what two devices recorded into keys.

    Both ends run as processes of their own: the transmitter's gets the transmitter's record only, the receiver's only
    the receiver's. They talk over an authenticated connection, and no block leaves longer than its bound allows.
    Keys are written with --out only, readable for their owner alone. A recording may become key once: the journals in
    the directory of --state see to that, and without --state it is up to you. Exits 6 if a block raised an alarm.
    """
    if not abs(block_bits) < 1 << 63:
        raise Rejected(f"a block of {block_bits} bits", code="link.bad_parameters")
    if state is not None:
        _require_apart(state, [*files, *([] if out is None else [out])])
    ends, header = _ends(files)
    parameters = _parameters(
        header.settings,
        proof=proof or ("lim2014" if len(header.settings.intensities) == 3 else "wiesemann2024"),
        epsilon_secrecy=epsilon_secrecy,
        epsilon_correctness=epsilon_correctness,
        block_bits=int(block_bits) // 8 * 8,
        codes=codes,
        qber_max=qber_max,
    )
    limits = None if calibration is None else _calibration(calibration, header.settings)
    with _directory(state) as (directory, lock):
        job = _Job(ends, parameters, out, limits, directory, lock, keeps_state=state is not None)
        result = _processed(job, is_quiet=as_json)
    answer = _answer(header, parameters.to_json(), result) | {"calibration": _told_of(limits)}
    if as_json:
        print_json(answer)
    else:
        print_lines(_lines(answer))
    if result.alarms:
        raise Alarm(
            f"{result.alarms} of {len(result.blocks) + len(result.voids)} blocks raised an alarm and became no key",
            code="link.blocks_alarmed",
            hint="somebody may be on the line, or the devices are not as they should be: look before you go on",
        )


def _require_apart(state: Path, others: Sequence[Path]) -> None:
    """Check that nothing of the user's lies in the directory of a run, which is emptied of what is not the run's."""
    inside = [path for path in others if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(state))]
    if inside:
        raise Rejected(
            f"{inside[0]} lies in {state}, which is for the state of the run alone",
            code="link.state_rejected",
            hint="name a directory beside it",
        )


def _parameters(settings: Settings, **further: Any) -> SessionParameters:
    """Return the parameters of both ends, once it is known that the proof takes them: before a bit is disclosed."""
    import numpy as np

    from shosoin.link.counts import DecoyCounts
    from shosoin.link.postprocessing import SessionParameters
    from shosoin.link.postprocessing.parameters import secret_length

    none = np.zeros(len(settings.intensities), np.int64)
    try:
        with np.errstate(all="ignore"):
            parameters = SessionParameters(settings, **further)
            secret_length(parameters, DecoyCounts(none, none, none, none), leak_bits=0, block_bits=8)
    except (ValueError, ArithmeticError) as err:
        raise Rejected(
            f"no key can come of these recordings: {err}",
            code="link.bad_parameters",
            hint="the intensities and probabilities in a recording must be those that the proof is made for",
        ) from err
    return parameters


@dataclass(frozen=True, slots=True)
class _Job:
    """What a run is made of."""

    ends: tuple[Path, ...]
    """The transmitter's and the receiver's recording, or one of both."""
    parameters: SessionParameters
    out: Path | None
    calibration: str | None
    directory: Path
    lock: int
    keeps_state: bool

    def subject(self) -> dict[str, Any]:
        """Return what must be the same for a run to go on."""
        from shosoin.services.link_run import digest_of

        return {
            "parameters": self.parameters.to_json(),
            "recordings": digest_of(self.ends),
            "--out": None if self.out is None else str(self.out.absolute()),
            "--calibration": self.calibration,
        }

    def records(self) -> tuple[Path, Path]:
        """Return the recordings of the two ends; one of both is taken apart."""
        from shosoin.services.link_records import split_recording

        return self.ends if len(self.ends) == 2 else split_recording(self.ends[0], self.directory / "parts")


@contextlib.contextmanager
def _directory(state: Path | None) -> Iterator[tuple[Path, int]]:
    """Yield the directory of the run, held; one that nobody asked for goes again."""
    from shosoin.services.link_run import held

    with contextlib.ExitStack() as stack:
        if state is None:
            state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shosoin-link-")))
        lock = stack.enter_context(held(state))
        parts = state / "parts"
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(mode=0o700)
        stack.callback(shutil.rmtree, parts, ignore_errors=True)
        yield state, lock


def _processed(job: _Job, *, is_quiet: bool) -> PairResult:
    """Go on with a run, or begin it; one that is finished is told again."""
    from shosoin.services.link_pair import PairResult
    from shosoin.services.link_run import is_begun, open_run

    if job.out is not None and not is_begun(job.directory) and (job.out.exists() or job.out.is_symlink()):
        raise Rejected(f"{job.out} exists already", code="link.out_exists", hint="name a directory that is new")
    state = open_run(job.directory, job.subject())
    if state.result is not None:
        return PairResult.from_json(state.result)
    records = job.records()
    try:
        with progress(text("postprocess.running"), records[0].stat().st_size, wanted=not is_quiet) as done:
            result = run_async(_run(job, records, state, done))
    except (Interrupted, Unavailable) as err:
        if job.keeps_state and getattr(err, "code", "") != "link.authentication_dry":
            talk(text("postprocess.goes_on"))
        raise
    state.finish(result.to_json())
    return result


async def _run(
    job: _Job, records: tuple[Path, Path], state: RunState, done: Callable[[int], None] | None
) -> PairResult:
    from shosoin.services.link_pair import run_pair

    return await run_pair(
        records,
        state,
        job.parameters,
        keys=job.out,
        calibration=job.calibration,
        lock=job.lock,
        progress=done,
    )


def _calibration(path: Path, settings: Settings) -> str:
    """Return the text of a calibration that fits a link."""
    from shosoin.link.events.calibration_files import CALIBRATION_BYTES_MAX, decode_calibration

    try:
        with path.open("rb") as file:
            data = file.read(CALIBRATION_BYTES_MAX + 1)
    except OSError as err:
        raise Rejected(f"cannot read the calibration {path}: {err.strerror}", code="link.calibration_rejected") from err
    found = decode_calibration(data).calibration.intensities
    if found != settings.intensities:
        raise Rejected(
            f"{path} is for intensities {found}, the recordings have {settings.intensities}",
            code="link.calibration_rejected",
        )
    return data.decode()


def _told_of(calibration: str | None) -> dict[str, Any] | None:
    from shosoin.link.events.calibration_files import decode_calibration

    if calibration is None:
        return None
    file = decode_calibration(calibration.encode())
    return {"simulated": file.simulated, "origin": file.origin}


def _ends(files: Sequence[Path]) -> tuple[tuple[Path, ...], Header]:
    """Return the transmitter's and the receiver's recording, or one of both.

    Raises:
        Rejected: the files are not one recording of each end.
    """
    from shosoin.link.events.recording import Part
    from shosoin.services.link_records import read_header

    headers = [read_header(path) for path in files]
    if [header.part for header in headers] == [Part.BOTH]:
        return (files[0],), headers[0]
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
    seconds = result.pulses / header.settings.pulse_rate_hz
    secret = sum(report["secret_bits"] for report in result.blocks.values())
    return {
        "simulated": header.simulated,
        "origin": header.origin,
        "parameters": parameters,
        "blocks": [{"block": number, **report} for number, report in sorted(result.blocks.items())],
        "void": [
            {"block": number, "reason": reason, "findings": result.findings.get(number, [])}
            for number, reason in sorted(result.voids.items())
        ],
        "alarms": result.alarms,
        "pulses": result.pulses,
        "link_seconds": seconds if math.isfinite(seconds) else None,
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
    watched = answer["calibration"]
    if watched is not None:
        name = "postprocess.watched_simulated" if watched["simulated"] else "postprocess.watched"
        lines.append(text(name, origin=watched["origin"]))
    lines += columns(heading, rows) if rows else [text("postprocess.no_key")]
    lines += [
        text("postprocess.void", block=void["block"], reason=text(f"postprocess.{void['reason']}"))
        for void in answer["void"]
    ]
    found = {finding["kind"]: finding["p_value"] for void in reversed(answer["void"]) for finding in void["findings"]}
    lines += [text("postprocess.found", kind=kind, p=f"{p_value:.1e}") for kind, p_value in sorted(found.items())]
    lines.append(
        text(
            "postprocess.total",
            key=f"{answer['key_bits']:,}",
            rate=f"{answer['secret_bits_per_second']:.4g}",
            link=seconds_text(math.inf if answer["link_seconds"] is None else answer["link_seconds"]),
            seconds=seconds_text(answer["run_seconds"]),
        )
    )
    return [*lines, text("postprocess.alarms", count=answer["alarms"])] if answer["alarms"] else lines
