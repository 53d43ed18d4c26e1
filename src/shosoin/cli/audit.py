"""``shosoin audit``: have the sites prove that they still hold good shares, without reading any."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from shosoin.base import Alarm, Rejected, Unavailable
from shosoin.base.messages import text
from shosoin.cli.common import run_async
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of

__all__ = ["audit"]

_BAD = ("wrong", "damaged", "doubtful")
_NAMES_SHOWN = 5


def audit(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names in the vault.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Audit every object.")] = False,
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have every site prove that it still holds a good share, without reading it.

    Exits 6 if a share is wrong, damaged or doubtful, else 4 if one is missing or could not be checked. When a site is
    named here, `shosoin verify` reads the shares and proves it.
    """
    if everything == bool(names):
        raise Rejected(
            "audit takes names, or --all", code="cli.usage", hint="for example: shosoin audit clinic/records.csv"
        )
    run_async(_audit(names if not everything else None, owner_config_path(testbed, owner, config), as_json))


async def _audit(names: list[str] | None, config: Path, as_json: bool) -> None:
    async with vault_of(config) as vault:
        found = await vault.audit(names)
    answer = {name: {str(site): state for site, state in states.items()} for name, states in found.items()}
    if as_json:
        print_json({"ok": not any(_with(answer, _BAD)), "objects": answer})
    else:
        print_lines(_table(answer))
    _judge(answer)


def _table(answer: dict[str, dict[str, str]]) -> list[str]:
    """One object: a line for each site. Many: how many shares are in each state, by site."""
    if len(answer) == 1:
        ((_, states),) = answer.items()
        return columns((text("plan.site"), text("verify.state")), states.items())
    counts: dict[str, Counter[str]] = {}
    for states in answer.values():
        for site, state in states.items():
            counts.setdefault(site, Counter())[state] += 1
    rows = [(site, _counted(count)) for site, count in counts.items()]
    return [text("audit.objects", count=len(answer)), *columns((text("plan.site"), text("verify.state")), rows)]


def _counted(count: Counter[str]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(count.items()))


def _with(answer: dict[str, dict[str, str]], bad: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the names with a share in one of the states, and where."""
    found = {name: [site for site, state in states.items() if state in bad] for name, states in answer.items()}
    return {name: sites for name, sites in found.items() if sites}


def _judge(answer: dict[str, dict[str, str]]) -> None:
    bad = _with(answer, _BAD)
    if bad:
        raise Alarm(
            f"{_shown(bad)} are not right",
            code="cli.audit_failed",
            hint="`shosoin verify NAME` reads the shares and proves which are wrong",
        )
    unchecked = _with(answer, ("missing", "unreachable", "unchecked"))
    if unchecked:
        raise Unavailable(f"{_shown(unchecked)} could not be checked", code="cli.audit_partial")


def _shown(found: dict[str, list[str]]) -> str:
    """Return what was found in a few words: all sites, and the first names."""
    sites = sorted({site for places in found.values() for site in places})
    names: list[Any] = [repr(name) for name in list(found)[:_NAMES_SHOWN]]
    more = f" and {len(found) - _NAMES_SHOWN} more objects" if len(found) > _NAMES_SHOWN else ""
    return f"shares of {', '.join(names)}{more} at {', '.join(sites)}"
