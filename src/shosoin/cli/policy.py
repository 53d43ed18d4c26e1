"""``shosoin policy``: what an owner requires of objects, and which stored ones fail it now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shosoin.base import Rejected, Unavailable
from shosoin.base.messages import text
from shosoin.cli.common import run_async, talk
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of

__all__ = ["app", "verdict_lines", "warn"]

_SHOW = "show"
_NAMES_SHOWN = 3


class _ShowByDefault(TyperGroup):
    """``policy`` and ``policy NAME`` mean ``policy show``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command's name where it was left out."""
        if not args or (args[0] not in self.commands and args[0] not in {"-h", "--help"}):
            args = [_SHOW, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(help="Policies of an owner.", rich_markup_mode=None, cls=_ShowByDefault)


@app.callback()
def group() -> None:
    """Show what the owner requires of objects, or check which stored ones fail it now.

    `shosoin policy NAME` is `shosoin policy show NAME`.
    """


@app.command()
def show(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The policy that binds this name; all of them if left out.")
    ] = None,
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the policies, or the one that binds a name, whether an object of that name exists or not."""
    run_async(_show(name, owner_config_path(testbed, owner, config), as_json))


@app.command()
def check(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names in the vault.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every object of the owner.")] = False,
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which stored objects fail their policy now, that of their put or that of today, and why.

    Exits 2 if one fails, else 4 if the label of one cannot be had. No share is read.
    """
    if everything == bool(names):
        raise Rejected(
            "policy check takes names, or --all",
            code="cli.usage",
            hint="for example: shosoin policy check clinic/records.csv",
        )
    run_async(_check(None if everything else names, owner_config_path(testbed, owner, config), as_json))


async def _show(name: str | None, config: Path, as_json: bool) -> None:
    from shosoin.cli.answers import policies_json, policy_json

    async with vault_of(config) as vault:
        answer = policies_json(vault.policies) if name is None else policy_json(vault.policy(name))
    if as_json:
        print_json(answer)
    elif name is None:
        rows = [(policy["prefix"], clause) for policy in answer["policies"] for clause in policy["require"]]
        print_lines(_clauses(rows))
    else:
        print_lines(_clauses([(each["source"], each["clause"]) for each in answer["clauses"]]))
        print_lines(text("policy.never", why=why) for why in answer["never_met"])


def _clauses(rows: Sequence[tuple[str, str]]) -> list[str]:
    if not rows:
        return [text("policy.none")]
    headings = (text("policy.source"), text("policy.clause"))
    return columns(headings, [(_source(source), clause) for source, clause in rows])


def _source(source: str) -> str:
    """Return where a clause comes from, for people."""
    return {"": text("policy.owner"), "at put": text("policy.at_put")}.get(source, source)


async def _check(names: list[str] | None, config: Path, as_json: bool) -> None:
    from shosoin.cli.answers import checked_json

    async with vault_of(config) as vault:
        objects = [checked_json(found) for found in await vault.labels(names=names)]
    failed = [each for each in objects if each["met"] is False]
    troubled = [each for each in objects if each["met"] is None]
    if as_json:
        print_json({"ok": not failed and not troubled, "objects": objects})
    else:
        print_lines(_check_lines(objects, failed, troubled))
    if failed:
        raise Rejected(
            f"{_shown(failed)} {'does' if len(failed) == 1 else 'do'} not meet the policy",
            code="vault.policy_refused",
            hint=next(verdict["hint"] for verdict in failed[0]["policy"] if verdict["met"] is False),
        )
    if troubled:
        raise Unavailable(f"{_shown(troubled)} could not be checked", code="cli.policy_unchecked")


def _check_lines(
    objects: list[dict[str, Any]], failed: list[dict[str, Any]], troubled: list[dict[str, Any]]
) -> list[str]:
    lines = [text("policy.trouble", name=each["name"], trouble=each["trouble"]) for each in troubled]
    for each in failed:
        lines += [each["name"], *(f"  {line}" for line in verdict_lines(each["policy"]))]
    if failed:
        return [*lines, text("policy.fail", failed=len(failed), count=len(objects))]
    return [*lines, text("policy.all_meet", count=len(objects))] if not troubled else lines


def verdict_lines(verdicts: Sequence[dict[str, Any]]) -> list[str]:
    """Return verdicts as a table; nothing if there are none."""
    states = {True: "policy.met", False: "policy.failed", None: "policy.pending"}
    rows = [(each["clause"], text(states[each["met"]]), each["found"], _source(each["source"])) for each in verdicts]
    headings = tuple(text(f"policy.{heading}") for heading in ("clause", "state", "found", "source"))
    return columns(headings, rows) if rows else []


def _shown(objects: list[dict[str, Any]]) -> str:
    names = ", ".join(repr(each["name"]) for each in objects[:_NAMES_SHOWN])
    return f"{names} and {len(objects) - _NAMES_SHOWN} more" if len(objects) > _NAMES_SHOWN else names


def warn(warnings: Sequence[dict[str, Any]]) -> None:
    """Say on standard error which clauses a read went past."""
    for each in warnings:
        talk(text("policy.despite", clause=each["clause"], found=each["found"]))
