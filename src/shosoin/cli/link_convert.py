"""``shosoin link convert``: a list of time tags made into a recording of the receiver."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.output import print_json, print_lines
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.link.events.records import Detections, SentPulses
    from shosoin.link.events.timetags import Clock, TimeTags

__all__ = ["convert"]

_TAGS_BYTES_MAX = 1 << 31
_STATES = {"key0": (0, 0), "key1": (0, 1), "test0": (1, 0), "test1": (1, 1)}


def convert(
    tags_file: Annotated[Path, typer.Argument(metavar="TAGS", help="A line a click: its time in ps, its channel.")],
    transmitter_file: Annotated[
        Path, typer.Option("--transmitter-file", metavar="FILE", help="What the transmitter recorded of the same run.")
    ],
    receiver_file: Annotated[
        Path, typer.Option("--receiver-file", metavar="FILE", help="The recording to write; new.")
    ],
    channels: Annotated[
        str,
        typer.Option("--channels", metavar="N=STATE,..", help="What a channel stands for: key0, key1, test0, test1."),
    ] = "0=key0,1=key1,2=test0,3=test1",
    gate_ps: Annotated[
        float | None, typer.Option("--gate-ps", metavar="PS", help="Width of the gate; by default half a period.")
    ] = None,
    offset_ps: Annotated[
        float | None, typer.Option("--offset-ps", metavar="PS", help="When pulse 0 arrives, if that is known.")
    ] = None,
    within: Annotated[
        int,
        typer.Option("--within", metavar="N", help="How many pulses off pulse 0 may be where nobody knows; slow."),
    ] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Make a recording of the receiver from a list of time tags.

    Rate and phase of the pulses come from the tags themselves. Without --offset-ps, which pulse is pulse 0 comes from a
    sample of bits compared with the transmitter's record; pulses up to its end are left out, since that discloses them.
    """
    from shosoin.adapters.entropy import SystemEntropy
    from shosoin.adapters.private_files import create_private
    from shosoin.link.events import timetags
    from shosoin.link.events.recording import Part, RecordingWriter
    from shosoin.link.events.records import PULSES_MAX
    from shosoin.services.link_records import read_header

    if offset_ps is not None and not abs(offset_ps) <= timetags.TIME_PS_MAX:
        raise Rejected(f"--offset-ps must be within {timetags.TIME_PS_MAX} of 0, got {offset_ps:g}", code="cli.usage")
    if not 0 <= within <= PULSES_MAX:
        raise Rejected(f"--within must be from 0 to {PULSES_MAX}, got {within}", code="cli.usage")
    header = read_header(transmitter_file)
    states = _states(channels)
    tags = timetags.parse_time_tags(_contents(tags_file))
    clock = timetags.recover_clock(tags, header.settings.pulse_rate_hz)
    if offset_ps is not None:
        clock = _beginning(clock, offset_ps)
    gate = clock.period_ps / 2 if gate_ps is None else gate_ps
    if not 0 < gate <= clock.period_ps:
        raise Rejected(f"--gate-ps must be above 0 and at most {clock.period_ps:.1f}, got {gate:g}", code="cli.usage")
    batches = _sent(transmitter_file)
    first_batch = next(batches)
    shift = 0
    first = first_batch.first
    if offset_ps is None:
        shift, first = _placed(tags, clock, states, gate, first_batch, within)
    end = max([first_batch.first + first_batch.count, *(batch.first + batch.count for batch in batches)])
    if first >= end:
        raise Rejected(
            "the sample that was disclosed to find pulse 0 is all that there is",
            code="link.time_tags",
            hint="take a longer recording, or tell when pulse 0 arrives with --offset-ps",
        )
    made = timetags.convert(
        tags, clock, states, gate_ps=gate, first=first - shift, count=end - first, random=SystemEntropy()
    )
    found = _moved(made.detections, shift)
    writer = RecordingWriter(replace(header, part=Part.RECEIVER, origin=f"time tags of: {header.origin}"[:200]))
    create_private(receiver_file, writer.begin() + writer.add(found) + writer.end())
    answer: dict[str, Any] = {
        "simulated": header.simulated,
        "detections": int(found.pulses.size),
        "first_pulse": first,
        "pulses": end - first,
        "period_ps": clock.period_ps,
        "double_clicks": found.double_clicks,
        "outside_gate": made.outside_gate,
        "outside_range": made.outside_range,
        "unknown_channel": made.unmapped,
        "both_bases": made.both_bases,
    }
    if as_json:
        print_json(answer)
    else:
        print_lines(_lines(answer))


def _states(channels: str) -> dict[int, tuple[int, int]]:
    found = {}
    for item in channels.split(","):
        number, _, state = item.strip().partition("=")
        if not (number.isascii() and number.isdecimal() and len(number) <= 3 and int(number) < 256) or (
            state not in _STATES
        ):
            raise Rejected(
                f"--channels takes N=STATE with N from 0 to 255, got {item[:40]!r}",
                code="cli.usage",
                hint=f"states: {', '.join(_STATES)}",
            )
        found[int(number)] = _STATES[state]
    return found


def _contents(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_TAGS_BYTES_MAX + 1)
    except OSError as err:
        raise Rejected(f"cannot read {path}: {err.strerror}", code="link.time_tags_unreadable") from err
    if len(content) > _TAGS_BYTES_MAX:
        raise Rejected(f"{path} is longer than {_TAGS_BYTES_MAX} bytes", code="link.time_tags_unreadable")
    return content


def _sent(path: Path) -> Iterator[SentPulses]:
    from shosoin.link.events.records import SentPulses
    from shosoin.services.link_records import read_batches

    batches = (batch for batch in read_batches(path) if isinstance(batch, SentPulses))
    first = next(batches, None)
    if first is None:
        raise Rejected(f"{path} holds no pulses of a transmitter", code="link.recording_rejected")
    return itertools.chain([first], batches)


def _beginning(clock: Clock, offset_ps: float) -> Clock:
    """Return the clock with the pulse 0 that arrives nearest to a time."""
    at = offset_ps - clock.origin_ps - clock.offset_ps
    return replace(clock, offset_ps=clock.offset_ps + round(at / clock.period_ps) * clock.period_ps)


def _placed(
    tags: TimeTags,
    clock: Clock,
    states: dict[int, tuple[int, int]],
    gate_ps: float,
    sent: SentPulses,
    within: int,
) -> tuple[int, int]:
    """Return what to add to the receiver's numbers, and the first pulse behind the sample that was compared."""
    from shosoin.adapters.entropy import SystemEntropy
    from shosoin.link.events import timetags

    sample = 2000
    seen = timetags.convert(
        tags, clock, states, gate_ps=gate_ps, first=0, count=sent.count, random=SystemEntropy()
    ).detections
    shift = timetags.find_pulse_offset(sent, seen, within=within, sample=sample)
    last = int(seen.pulses[:sample][-1])
    return shift, max(sent.first, last + shift + 1)


def _moved(detections: Detections, shift: int) -> Detections:
    return replace(detections, first=detections.first + shift, pulses=detections.pulses + shift)


def _lines(answer: dict[str, Any]) -> list[str]:
    count = {name: f"{value:,}" for name, value in answer.items() if type(value) is int}
    lines = [text("label.simulated")] if answer["simulated"] else []
    lines.append(
        text("convert.made", detections=count["detections"], pulses=count["pulses"], first=answer["first_pulse"])
    )
    lines.append(text("convert.clock", period=f"{answer['period_ps']:.6f}"))
    lines.append(
        text(
            "convert.dropped",
            gate=count["outside_gate"],
            range=count["outside_range"],
            channel=count["unknown_channel"],
            doubles=count["double_clicks"],
        )
    )
    return lines
