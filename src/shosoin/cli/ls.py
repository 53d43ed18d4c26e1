"""``shosoin ls``: what an owner has stored."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from shosoin.base.messages import text
from shosoin.cli.common import run_async
from shosoin.cli.output import columns, print_json, print_lines, size_text
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of

__all__ = ["ls", "time_text"]


def ls(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only names that begin like this.")] = "",
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    long: Annotated[
        bool, typer.Option("--long", help="Also durability, collusion number and policy; asks the sites.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List what is stored."""
    config_path = owner_config_path(testbed, owner, config)
    run_async(_ls_long(prefix, config_path, as_json) if long else _ls(prefix, config_path, as_json))


def time_text(wall_s: float) -> str:
    """Return a moment in UTC for people."""
    moment = datetime.datetime.fromtimestamp(wall_s, datetime.UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


async def _ls(prefix: str, config: Path, as_json: bool) -> None:
    from shosoin.cli.answers import listing_json

    async with vault_of(config) as vault:
        listings = sorted(await vault.ls(prefix), key=lambda listing: listing.name)
    answer = [listing_json(listing) for listing in listings]
    if as_json:
        print_json({"objects": answer})
    elif answer:
        print_lines(columns(_HEADING, [_row(entry) for entry in answer]))


async def _ls_long(prefix: str, config: Path, as_json: bool) -> None:
    from shosoin.cli.answers import labelled_json

    async with vault_of(config) as vault:
        answer = [labelled_json(found) for found in await vault.labels(prefix)]
    if as_json:
        print_json({"objects": answer})
    elif answer:
        print_lines(columns(_LONG_HEADING, [_long_row(entry) for entry in answer]))


_LONG_HEADING = ("NAME", "SIZE", "CLASS", "SCHEME", "DURABLE", "COLLUSION", "POLICY", "CREATED")


def _long_row(entry: dict[str, Any]) -> tuple[str, ...]:
    *first, created = _row(entry)
    label = entry["label"]
    if label is None:
        return (*first, "?", "?", "?", created)
    number = f"{'' if label['collusion_complete'] else '<='}{label['collusion_number']}"
    policy = "-" if not entry["policy"] else text("policy.met" if entry["policy_met"] else "policy.failed")
    return (*first, f"{label['durable_at']} of {label['sites']}", number, policy, created)


_HEADING = ("NAME", "SIZE", "CLASS", "SCHEME", "CREATED")


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    scheme = text("scheme.short", **entry["scheme"])
    return (
        entry["name"],
        size_text(entry["size_bytes"]),
        entry["class"],
        scheme,
        time_text(entry["created_wall_s"]),
    )
