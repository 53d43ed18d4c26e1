"""``shosoin verify``: ask every site for its share and check each one under the object's own keys."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shosoin.base import Alarm, Rejected, Unavailable
from shosoin.base.messages import text
from shosoin.cli.common import run_async, talk
from shosoin.cli.output import alarm_line, print_json, print_lines
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of
from shosoin.cli.tallies import counting, found_json, judge_tally, plain, site_lines, tally_lines

__all__ = ["verify"]

_BAD = ("damaged", "wrong")


def verify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names in the vault.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Check every object.")] = False,
    prefix: Annotated[
        str | None, typer.Option("--prefix", metavar="P", help="Check the objects whose names begin so.")
    ] = None,
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read and check the share at every site.

    Exits 6 if one is damaged or wrong, else 4 if one is missing or could not be reached. In class its this takes key
    bits: as many as reading the object from every site.
    """
    if [everything, bool(names), prefix is not None].count(True) != 1:
        raise Rejected(
            "verify takes names, or --all, or --prefix",
            code="cli.usage",
            hint="for example: shosoin verify clinic/records.csv",
        )
    path = owner_config_path(testbed, owner, config)
    single = names is not None and len(names) == 1
    run_async(
        _verify(names[0], path, as_json) if names and single else _verify_many(names, prefix or "", path, as_json)
    )


async def _verify(name: str, config: Path, as_json: bool) -> None:
    from shosoin.cli.answers import verify_json

    async with vault_of(config) as vault:
        answer = verify_json(await vault.verify(name))
    for alarm in answer["alarms"]:
        talk(alarm_line(alarm))
    if as_json:
        print_json(answer)
    else:
        print_lines(site_lines(answer["per_site"]))
    _judge(answer)


def _judge(answer: dict[str, Any]) -> None:
    bad = [site for site, state in answer["per_site"].items() if state in _BAD]
    if bad:
        raise Alarm(
            f"the share of {answer['name']!r} is not right at {', '.join(bad)}",
            code="cli.verify_failed",
            hint=text("verify.repair_hint"),
        )
    unchecked = [site for site, state in answer["per_site"].items() if state != "ok"]
    if unchecked:
        raise Unavailable(
            f"the share of {answer['name']!r} could not be checked at {', '.join(unchecked)}", code="cli.verify_partial"
        )


async def _verify_many(names: list[str] | None, prefix: str, config: Path, as_json: bool) -> None:
    found: dict[str, dict[str, str]] = {}
    async with vault_of(config) as vault:
        with counting(text("verify.title")) as progress:
            tally = await vault.verify_many(
                names or None,
                prefix=prefix,
                progress=progress,
                on_found=lambda name, states: found.__setitem__(name, plain(states)),
            )
    if as_json:
        print_json(found_json(tally) | {"objects": dict(sorted(found.items()))})
    else:
        print_lines(tally_lines(tally))
    judge_tally(tally, failed="cli.verify_failed", partial="cli.verify_partial", hint=text("verify.repair_hint"))
