"""``shosoin get``: fetch a file."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.common import run_async, talk
from shosoin.cli.output import alarm_line, print_json, print_lines, progress, seconds_text, size_text
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of

__all__ = ["get", "parse_range"]

_RANGE = re.compile(r"([0-9]{1,18})-([0-9]{1,18})?")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What to fetch."""

    name: str
    start: int
    length: int | None
    despite_policy: bool


class _Sink(Protocol):
    async def write(self, data: bytes | bytearray | memoryview) -> None: ...


def get(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name in the vault.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it; - is standard output.")],
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    range_: Annotated[
        str | None,
        typer.Option("--range", metavar="START-END", help="Only these bytes, both ends included; END may be left out."),
    ] = None,
    despite_policy: Annotated[
        bool, typer.Option("--despite-policy", help="Fetch it even if it does not meet its policy, with a warning.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch a file.

    FILE appears, or is replaced, only when every byte has been checked; before that nothing is there. A site that
    answers wrongly is named on standard error, and the right bytes are served all the same.
    """
    if as_json and file == "-":
        raise Rejected("--json and - both want standard output", code="cli.two_outputs", hint=text("cli.get_json_hint"))
    start, length = parse_range(range_)
    wanted = _Wanted(name, start, length, despite_policy)
    run_async(_get(wanted, file, owner_config_path(testbed, owner, config), as_json))


def parse_range(written: str | None) -> tuple[int, int | None]:
    """Return start and length of ``START-END`` (both included), or of ``START-`` (to the end).

    Raises:
        Rejected: not of that form, or the end lies before the start.
    """
    if written is None:
        return 0, None
    match = _RANGE.fullmatch(written)
    if match is None:
        raise Rejected(f"range {written[:60]!r} is not of the form START-END", code="cli.bad_range")
    start = int(match[1])
    if match[2] is None:
        return start, None
    end = int(match[2])
    if end < start:
        raise Rejected(f"range {written!r} ends before it starts", code="cli.bad_range")
    return start, end - start + 1


async def _get(wanted: _Wanted, file: str, config: Path, as_json: bool) -> None:
    from shosoin.cli.answers import get_json
    from shosoin.cli.policy import warn

    async with vault_of(config) as vault, _target(file) as sink:
        with progress(text("cli.fetching", name=wanted.name), wanted.length, wanted=file != "-") as done:
            receipt = await vault.get(
                wanted.name,
                sink,
                start=wanted.start,
                length=wanted.length,
                progress=done,
                despite_policy=wanted.despite_policy,
            )
    answer = get_json(receipt)
    warn(answer["warnings"])
    for alarm in answer["alarms"]:
        talk(alarm_line(alarm))
    if as_json:
        print_json(answer)
    elif file == "-":
        talk(_summary(answer))
    else:
        print_lines([_summary(answer)])


def _summary(answer: dict[str, Any]) -> str:
    summary = text(
        "get.fetched",
        name=answer["name"],
        size=size_text(answer["size_bytes"]),
        seconds=seconds_text(answer["seconds"]),
        sites=", ".join(answer["sites_used"]),
    )
    return summary if answer["freshness"] == "proven" else f"{summary} {text('label.unproven')}"


@contextlib.asynccontextmanager
async def _target(file: str) -> AsyncIterator[_Sink]:
    """Yield where the bytes go; a file appears whole when the block ends well, and not at all otherwise."""
    if file == "-":
        from shosoin.cli.streams import StandardOutput

        yield StandardOutput()
        return
    from shosoin.adapters.owner import FileTarget

    target = FileTarget(_checked_target(Path(file)))
    try:
        yield target
    except BaseException:
        target.discard()
        raise
    target.commit()


def _checked_target(path: Path) -> Path:
    """Return the file to replace, links followed.

    Raises:
        Rejected: it is a directory or a device, which must never be renamed over.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise Rejected(
            f"{path} is not a regular file", code="cli.not_a_file", hint=text("cli.get_not_a_file_hint", path=path)
        )
    if not target.parent.is_dir():
        raise Rejected(f"{target.parent} is not a directory", code="cli.not_a_directory")
    return target
