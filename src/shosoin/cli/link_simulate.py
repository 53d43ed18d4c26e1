"""``shosoin link simulate``: a decoy BB84 link pulse by pulse, with or without an eavesdropper."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.link.events.monitoring import LinkMonitor, Verdict
    from shosoin.link.events.optics import Line
    from shosoin.link.events.records import Settings
    from shosoin.link.events.study import Batch, SimulatedStudy

__all__ = ["simulate"]

_PULSES_MAX = 1e13
_SEEDS = 1 << 64
_COLUMNS = ("intensity", "pulses", "detections", "gain", "gain_honest", "qber", "qber_honest")


def simulate(
    length_km: Annotated[float | None, typer.Option("--length-km", metavar="KM", help="Length of the fibre.")] = None,
    attenuation_db: Annotated[
        float | None, typer.Option("--attenuation-db", metavar="DB", help="Loss of the channel instead of a length.")
    ] = None,
    db_per_km: Annotated[float, typer.Option("--db-per-km", metavar="DB", help="Loss of the fibre.")] = 0.2,
    pulses: Annotated[float, typer.Option("--pulses", metavar="N", help="How many pulses, as 1e8.")] = 1e8,
    block_pulses: Annotated[
        float, typer.Option("--block-pulses", metavar="N", help="Pulses in a block that the monitor judges.")
    ] = 2.0**24,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same pulses.")] = 1,
    attack: Annotated[
        str | None,
        typer.Option(
            "--attack",
            metavar="NAME",
            help="intercept-resend, photon-number-splitting, detector-blinding, time-shift or trojan-horse.",
        ),
    ] = None,
    fraction: Annotated[
        float, typer.Option("--fraction", metavar="SHARE", help="Share of the pulses that are attacked.")
    ] = 1.0,
    intensities: Annotated[
        str, typer.Option("--intensities", metavar="A,B,..", help="Mean photon numbers, bright to dim.")
    ] = "0.4,0.12",
    probabilities: Annotated[
        str, typer.Option("--probabilities", metavar="A,B,..", help="How often each is sent.")
    ] = "0.6,0.4",
    key_basis: Annotated[
        float, typer.Option("--key-basis", metavar="SHARE", help="Probability of the key basis, at both ends.")
    ] = 0.7,
    pulse_rate_hz: Annotated[float, typer.Option("--pulse-rate", metavar="HZ", help="Pulses per second.")] = 1e9,
    efficiency: Annotated[
        float, typer.Option("--efficiency", metavar="SHARE", help="Of a detector, optics of the receiver included.")
    ] = 0.2,
    dark_counts: Annotated[
        float, typer.Option("--dark-counts", metavar="P", help="Probability per gate and detector.")
    ] = 6e-7,
    after_pulses: Annotated[
        float, typer.Option("--after-pulses", metavar="P", help="Probability that a click is followed by another.")
    ] = 0.01,
    dead_time_ns: Annotated[float, typer.Option("--dead-time-ns", metavar="NS", help="Of a detector.")] = 20.0,
    jitter_ps: Annotated[float, typer.Option("--jitter-ps", metavar="PS", help="Standard deviation.")] = 80.0,
    misalignment: Annotated[
        float, typer.Option("--misalignment", metavar="SHARE", help="Photons that take the wrong detector.")
    ] = 0.01,
    transmitter_file: Annotated[
        Path | None, typer.Option("--transmitter-file", metavar="FILE", help="Write what the transmitter records.")
    ] = None,
    receiver_file: Annotated[
        Path | None, typer.Option("--receiver-file", metavar="FILE", help="Write what the receiver records.")
    ] = None,
    calibration_file: Annotated[
        Path | None,
        typer.Option(
            "--calibration-file",
            metavar="FILE",
            help="Write what an honest link like this one may show, for postprocess --calibration.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Simulate a decoy BB84 link pulse by pulse, and say what its monitor makes of it.

    Everything here is simulated; what the eavesdropper learned is counted against the truth, which no real link knows.
    Recordings are written in the format of docs/specs/detections.md.
    """
    from shosoin.link.detector import Detector
    from shosoin.link.events.catalogue import attack_named
    from shosoin.link.events.optics import Line
    from shosoin.link.events.study import SimulatedStudy

    if not abs(seed) < _SEEDS:
        raise Rejected("--seed must be a whole number of at most 64 bits", code="cli.usage")
    if transmitter_file is not None and transmitter_file == receiver_file:
        raise _same_file()
    with _said_of_options():
        count, block = _whole(pulses, "--pulses"), _whole(block_pulses, "--block-pulses")
        detector = Detector(
            efficiency, dark_counts, after_pulses, dead_time_ns * 1e-9, jitter_ps * 1e-12, 1.0 / pulse_rate_hz / 2
        )
        loss = _loss(length_km, attenuation_db, db_per_km)
        line = Line(loss, (detector, detector), misalignment)
        settings = _settings(intensities, probabilities, key_basis, pulse_rate_hz)
        eve = attack_named(attack, settings, line) if attack is not None else None
        study = SimulatedStudy(settings, line, seed, eavesdropper=eve, fraction=fraction)
        total = _Total(study.settings, line)
    setting: dict[str, Any] = {"simulated": True, "attenuation_db": loss, "seed": seed, "pulses": count}
    setting |= {"attack": attack, "attacked_fraction": fraction if attack else 0.0}
    with _recorders(study, (transmitter_file, receiver_file), seed) as record, _progress(count, not as_json) as done:
        _run(study, (count, block), total, record, done)
    if calibration_file is not None:
        _write_calibration(calibration_file, study.settings, line)
    answer = setting | total.to_json()
    if as_json:
        print_json(answer)
    else:
        print_lines(_lines(answer))


class _Total:
    """What all blocks add up to, and what the monitor said of each."""

    def __init__(self, settings: Settings, line: Line) -> None:
        from shosoin.link.events.calibrating import calibration_of
        from shosoin.link.events.monitoring import LinkMonitor
        from shosoin.link.events.optics import arrival_table, expected
        from shosoin.link.events.study import Knowledge

        self._settings = settings
        self.monitor: LinkMonitor = LinkMonitor(calibration_of(settings, line))
        self._expected = expected(settings, arrival_table(settings, line))
        self._knowledge = Knowledge()
        self._tally: Any = None
        self._double_clicks = 0
        self._decisions = {"continue": 0, "discard-block": 0, "suspend-link": 0}
        self._first_alarm: dict[str, Any] | None = None

    def add(self, batch: Batch) -> None:
        self._tally = batch.tally if self._tally is None else self._tally + batch.tally
        self._knowledge += batch.knowledge
        self._double_clicks += batch.detected.double_clicks

    def judge(self, verdict: Verdict, number: int) -> None:
        self._decisions[verdict.decision.value] += 1
        if self._first_alarm is None and verdict.findings:
            self._first_alarm = {"block": number, "findings": [each.to_json() for each in verdict.findings]}

    def to_json(self) -> dict[str, Any]:
        know = self._knowledge
        return {
            "intensities": [self._level(index) for index in range(len(self._settings.intensities))],
            "sifted_key_bits": know.sifted,
            "double_clicks": self._double_clicks,
            "blocks": self._decisions,
            "first_alarm": self._first_alarm,
            "truth": {
                "single_photon_key_bits": know.single_photons,
                "vacuum_key_bits": know.vacuum,
                "eve_holds_bits": know.guessed,
                "eve_right_bits": know.right,
            },
        }

    def _level(self, index: int) -> dict[str, Any]:
        tally, counts = self._tally, self._tally.counts
        matched = int(counts.key_detections[index] + counts.test_detections[index])
        wrong = int(counts.key_errors[index] + counts.test_errors[index])
        sent, detected = int(tally.pulses[index]), int(tally.detections[index])
        error = float(self._expected.matched_error[index] / max(self._expected.matched_gain[index], 1e-300))
        return {
            "mean_photon_number": self._settings.intensities[index],
            "pulses": sent,
            "detections": detected,
            "gain": detected / sent if sent else None,
            "gain_honest": float(self._expected.gain[index]),
            "qber": wrong / matched if matched else None,
            "qber_honest": error,
        }


Recorder = Callable[["Batch"], None]


def _run(
    study: SimulatedStudy,
    sizes: tuple[int, int],
    total: _Total,
    record: Recorder,
    done: Callable[[int], None],
) -> None:
    """Simulate block by block; the monitor sees each block as a whole."""
    from shosoin.link.events.devices import ReceiverReadings, TransmitterReadings
    from shosoin.link.events.monitoring import Observation

    count, block = sizes
    for number, start in enumerate(range(0, count, block)):
        tally, received, sent = None, ReceiverReadings(), TransmitterReadings()
        for batch in study.batches(min(block, count - start)):
            total.add(batch)
            record(batch)
            done(batch.sent.first + batch.sent.count)
            tally = batch.tally if tally is None else tally + batch.tally
            received, sent = received + batch.receiver, sent + batch.transmitter
        if tally is not None:
            total.judge(total.monitor.inspect(Observation(tally, received, sent)), number)


@contextlib.contextmanager
def _said_of_options() -> Iterator[None]:
    """Turn what a value type refuses into a refusal of the command line."""
    try:
        yield
    except (ValueError, ZeroDivisionError, OverflowError) as err:
        raise Rejected(str(err), code="cli.usage") from err


def _whole(given: float, option: str) -> int:
    if not 1 <= given <= _PULSES_MAX or given != int(given):
        raise Rejected(f"{option} must be a whole number from 1 to {_PULSES_MAX:g}, got {given:g}", code="cli.usage")
    return int(given)


def _loss(length_km: float | None, attenuation_db: float | None, db_per_km: float) -> float:
    if length_km is not None and attenuation_db is not None:
        raise Rejected("--length-km and --attenuation-db exclude each other", code="cli.usage")
    return attenuation_db if attenuation_db is not None else (50.0 if length_km is None else length_km) * db_per_km


def _settings(intensities: str, probabilities: str, key_basis: float, pulse_rate_hz: float) -> Settings:
    from shosoin.link.events.records import Settings

    levels, shares = (tuple(float(each) for each in given.split(",")) for given in (intensities, probabilities))
    return Settings(levels, shares, key_basis, key_basis, pulse_rate_hz)


@contextlib.contextmanager
def _recorders(study: SimulatedStudy, files: tuple[Path | None, Path | None], seed: int) -> Iterator[Recorder]:
    """Yield what writes a batch into the two files that were asked for; only their owner may read them."""
    from shosoin.link.events.recording import Header, Part, RecordingWriter

    origin = f"simulated by shosoin link simulate, seed {seed}"
    with contextlib.ExitStack() as stack:
        writers: list[tuple[RecordingWriter, IO[bytes], bool]] = []
        for path, part in zip(files, (Part.TRANSMITTER, Part.RECEIVER), strict=True):
            if path is not None:
                stack.enter_context(_named(path))
                file = stack.enter_context(_private(path))
                if any(os.path.sameopenfile(file.fileno(), other.fileno()) for _, other, _ in writers):
                    raise _same_file()
                writers.append(
                    (RecordingWriter(Header(part, study.settings, True, origin)), file, part is Part.RECEIVER)
                )
                file.write(writers[-1][0].begin())

        def write(batch: Batch) -> None:
            for writer, file, receives in writers:
                file.write(writer.add(batch.detected if receives else batch.sent))

        yield write
        for writer, file, _ in writers:
            file.write(writer.end())


def _same_file() -> Rejected:
    return Rejected("--transmitter-file and --receiver-file must differ", code="cli.usage")


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let a failed write say of which file it was."""
    try:
        yield
    except OSError as err:
        if err.filename is None and not isinstance(err, BrokenPipeError):
            err.filename = str(path)
        raise


def _write_calibration(path: Path, settings: Settings, line: Line) -> None:
    """Write limits that follow from the model of the line, without any attack; they are no secret."""
    from shosoin.link.events.calibrating import calibration_of
    from shosoin.link.events.calibration_files import CalibrationFile, encode_calibration

    origin = f"model of shosoin link simulate, {line.attenuation_db:g} dB"
    path.write_bytes(encode_calibration(CalibrationFile(calibration_of(settings, line), True, origin)))


def _private(path: Path) -> IO[bytes]:
    file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        os.fchmod(file.fileno(), 0o600)  # a file that was there before keeps its mode otherwise
    return file


@contextlib.contextmanager
def _progress(total: int, wanted: bool) -> Iterator[Callable[[int], None]]:
    """Show a bar of pulses on standard error if it is a terminal."""
    if not (wanted and sys.stderr.isatty()):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    parts = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*parts, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text("simulate.running"), total=total)
        yield lambda done: bar.update(task, completed=done)


def _lines(answer: dict[str, Any]) -> list[str]:
    attack = answer["attack"]
    share = f"{100 * answer['attacked_fraction']:.6g}%"
    lines = [
        text("simulate.heading", pulses=f"{answer['pulses']:,}", loss=f"{answer['attenuation_db']:g}"),
        text("simulate.attacked", name=attack, share=share) if attack else text("simulate.honest"),
        "",
        *columns(
            [text(f"simulate.{each}") for each in _COLUMNS],
            [_row(level) for level in answer["intensities"]],
        ),
        "",
        text("simulate.sifted", bits=f"{answer['sifted_key_bits']:,}"),
    ]
    truth = answer["truth"]
    if attack:
        lines.append(text("simulate.eve", bits=f"{truth['eve_holds_bits']:,}", right=f"{truth['eve_right_bits']:,}"))
    blocks = answer["blocks"]
    lines.append(
        text(
            "simulate.blocks",
            good=blocks["continue"],
            discarded=blocks["discard-block"],
            suspended=blocks["suspend-link"],
        )
    )
    alarm = answer["first_alarm"]
    if alarm is None:
        lines.append(text("simulate.quiet"))
    else:
        kinds = ", ".join(f"{each['kind']} (p = {each['p_value']:.1e})" for each in alarm["findings"])
        lines.append(text("simulate.alarm", block=alarm["block"], kinds=kinds))
    return lines


def _row(level: dict[str, Any]) -> tuple[str, ...]:
    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.3e}"

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    return (
        f"{level['mean_photon_number']:g}",
        f"{level['pulses']:,}",
        f"{level['detections']:,}",
        share(level["gain"]),
        share(level["gain_honest"]),
        percent(level["qber"]),
        percent(level["qber_honest"]),
    )
