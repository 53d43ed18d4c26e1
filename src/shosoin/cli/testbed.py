"""``shosoin testbed``: a whole system on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base.messages import text
from shosoin.cli.common import run_async, run_whole, talk
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.testbed.control import Testbed
    from shosoin.testbed.layout import Process

__all__ = ["app"]

app = typer.Typer(help="Run a whole system on this machine.", rich_markup_mode=None)

DirOption = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The testbed's directory.")]
TargetArgument = Annotated[str, typer.Argument(metavar="SITE[/ROLE]", help="A site, or its kme or node alone.")]


@app.command()
def up(
    directory: DirOption,
    scenario: Annotated[
        str | None,
        typer.Argument(metavar="SCENARIO", help="A shipped scenario or a file; what DIR holds, else five-sites."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Start everything in the background.

    Returns when all of it serves. What already runs is left alone, so it may be repeated.
    """
    from shosoin.testbed.control import Testbed
    from shosoin.testbed.demo_values import DEFAULT_SCENARIO
    from shosoin.testbed.scenario import load_scenario

    if scenario is None and not (directory / "ports.json").exists():
        scenario = DEFAULT_SCENARIO
    wanted = None if scenario is None else load_scenario(scenario)
    testbed = run_async(Testbed.up(wanted, directory, on_ready=_say_ready))
    if as_json:
        print_json(_status_json(testbed))
    else:
        print_lines([text("testbed.up", path=testbed.layout.testbed_json)])


@app.command()
def status(directory: DirOption, as_json: JsonOption = False) -> None:
    """Show every process and the key stock of every link."""
    from shosoin.testbed.control import Testbed

    answer = _status_json(Testbed.load(directory))
    if as_json:
        print_json(answer)
        return
    rows = [
        (f"{process['site']}/{process['role']}", process["pid"] or "-", _state_text(process), process["url"])
        for process in answer["processes"]
    ]
    print_lines(columns(("PROCESS", "PID", "STATE", "URL"), rows))
    stocks = [
        (
            f"{link['from']} -> {link['to']}",
            "-" if link["stock_bits"] is None else f"{link['stock_bits']:,}",
            link["devices"] or "-",
        )
        for link in answer["links"]
    ]
    print_lines(["", *columns(("LINK", "STOCK BITS", "DEVICES"), stocks), text("label.simulated")])


@app.command()
def down(directory: DirOption, as_json: JsonOption = False) -> None:
    """End every process.

    The directory and what is stored in it stay; `up` brings everything back.
    """
    from shosoin.testbed.control import Testbed

    ended = [process.target for process in run_whole(Testbed.load(directory).down)]
    if as_json:
        print_json({"ended": ended})
    else:
        print_lines([text("testbed.down", count=len(ended))])


@app.command()
def kill(target: TargetArgument, directory: DirOption, as_json: JsonOption = False) -> None:
    """Kill a site without warning.

    SIGKILL to its KME and its node, or to one of them.
    """
    from shosoin.testbed.control import Testbed

    testbed = Testbed.load(directory)
    _answer("killed", run_whole(lambda: testbed.kill(target)), as_json)


@app.command()
def start(target: TargetArgument, directory: DirOption, as_json: JsonOption = False) -> None:
    """Start a site again.

    Returns when it serves.
    """
    from shosoin.testbed.control import Testbed

    testbed = Testbed.load(directory)
    _answer("started", run_async(testbed.start(target)), as_json)


def _answer(what: str, processes: list[Process], as_json: bool) -> None:
    targets = [process.target for process in processes]
    if as_json:
        print_json({what: targets})
    else:
        print_lines([text(f"testbed.{what}", targets=", ".join(targets) or text("testbed.nothing"))])


def _say_ready(process: Process) -> None:
    talk(text("testbed.serving", target=process.target))


def _state_text(process: dict[str, Any]) -> str:
    if process["pid"] is None:
        return text("testbed.state_down")
    return text("testbed.state_serving") if process["serving"] else text("testbed.state_starting")


def _status_json(testbed: Testbed) -> dict[str, Any]:
    from shosoin.testbed.layout import HOST
    from shosoin.testbed.stock import link_stock

    statuses = testbed.status()
    return {
        "directory": str(testbed.layout.root),
        "scenario": testbed.layout.scenario.name,
        "simulated": True,
        "serving": all(status.serving for status in statuses),
        "processes": [
            {
                "site": status.process.site,
                "role": status.process.role.value,
                "pid": status.pid,
                "serving": status.serving,
                "url": f"https://{HOST}:{status.process.port}",
            }
            for status in statuses
        ],
        "links": link_stock(testbed.layout),
    }
