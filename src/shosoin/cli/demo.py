"""``shosoin demo``: the main job, on this machine, from one command."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base.messages import text
from shosoin.cli.common import run_async
from shosoin.cli.output import columns, label_lines, print_json, print_lines, seconds_text, size_text
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.testbed.demo import DemoResult

__all__ = ["demo"]


class DemoClass(StrEnum):
    """Transfer classes of the demonstration."""

    ITS = "its"
    QKD = "qkd"
    AUTO = "auto"


def demo(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="What to store; a small file of the package by default.")
    ] = None,
    scenario: Annotated[str, typer.Option(metavar="NAME|PATH", help="A shipped scenario or a file.")] = "five-sites",
    class_: Annotated[
        DemoClass | None,
        typer.Option(
            "--class",
            help="Transfer class; auto, the default for a FILE over 64 KiB: its if the keys suffice, else qkd.",
        ),
    ] = None,
    lose: Annotated[
        int | None, typer.Option(metavar="N", help="How many sites to kill; as many as may be lost.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--dir", metavar="DIR", help="Where the testbed lives; kept afterwards.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the temporary directory.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the main job on this machine.

    Starts all sites, stores a file over them, kills some, catches one that lies, gets the file back, and says who
    together could open it.
    """
    from shosoin.testbed.demo import DemoOptions, run_demo

    options = DemoOptions(
        file=file,
        scenario=scenario,
        class_=None if class_ is None else class_.value,
        lose=lose,
        directory=directory,
        keep=keep,
    )
    result = run_async(run_demo(options, _Silent() if as_json else _Narrator()))
    if as_json:
        print_json(result.to_json())
    else:
        print_lines(_report(result))


class _Silent:
    """A reporter for programs: they read the result."""

    def say(self, message_id: str, **fields: Any) -> None:
        """Say nothing."""


class _Narrator:
    """A reporter for people."""

    def say(self, message_id: str, **fields: Any) -> None:
        """Print one step."""
        print_lines([text(message_id, **_spoken(fields))])


def _spoken(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields as people read them."""
    spoken: dict[str, Any] = {}
    for name, value in fields.items():
        if name == "seconds":
            spoken[name] = seconds_text(value)
        elif name == "size_bytes":
            spoken["size"] = size_text(value)
        elif name == "wait_s":
            spoken["wait"] = _wait_text(value)
        elif name == "identical":
            spoken["verdict"] = text("demo.identical" if value else "demo.different")
        elif isinstance(value, list):
            spoken[name] = ", ".join(str(item) for item in value)
        else:
            spoken[name] = f"{value:,}" if isinstance(value, int) else value
    return spoken


def _wait_text(wait_s: float | None) -> str:
    if wait_s is None:
        return text("demo.wait_unknown")
    return text("demo.wait", wait=seconds_text(wait_s)) if wait_s > 0 else text("demo.wait_none")


def _report(result: DemoResult) -> list[str]:
    bits = result.key_bits_by_link
    rows = [
        (site.name, site.domain, text(f"report.{site.outcome}"), f"{bits[site.name]:,}" if site.name in bits else "-")
        for site in result.sites
    ]
    headings = tuple(text(f"report.{heading}") for heading in ("site", "domain", "outcome", "bits"))
    return [
        "",
        text("report.heading"),
        *(f"  {line}" for line in columns(headings, rows)),
        _verdict(result),
        text(
            "report.times",
            up=seconds_text(result.up_seconds),
            put=seconds_text(result.put_seconds),
            get=seconds_text(result.get_seconds),
            past=seconds_text(result.get_past_liar_seconds),
        ),
        *([] if result.directory is None else [text("report.kept", directory=result.directory)]),
        "",
        *label_lines(result.label),
    ]


def _verdict(result: DemoResult) -> str:
    if not result.lost:
        return text("report.identical_none_lost", liar=result.liar_named)
    return text("report.identical", lost=", ".join(result.lost), liar=result.liar_named)
