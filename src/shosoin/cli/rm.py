"""``shosoin rm``: remove an object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.cli.common import run_async
from shosoin.cli.output import print_json, print_lines
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of

__all__ = ["rm"]


def rm(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name in the vault.")] = None,
    unnamed: Annotated[
        bool, typer.Option("--unnamed", help="Instead, remove objects that never got a name: their writer died.")
    ] = False,
    older_than_h: Annotated[
        float, typer.Option("--older-than", metavar="HOURS", min=0.0, help="With --unnamed: only those that old.")
    ] = 24.0,
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove an object.

    Its shares are erased at every site that can be reached, and at the others later.
    """
    config = owner_config_path(testbed, owner, config)
    if unnamed == (name is not None):
        raise Rejected(
            "rm takes a name, or --unnamed", code="cli.usage", hint="`shosoin ls` shows the names that exist"
        )
    run_async(_rm_unnamed(older_than_h, config, as_json) if name is None else _rm(name, config, as_json))


async def _rm_unnamed(older_than_h: float, config: Path, as_json: bool) -> None:
    async with vault_of(config) as vault:
        removed = await vault.rm_unnamed(older_than_s=older_than_h * 3600.0)
    if as_json:
        print_json({"removed": removed})
    else:
        print_lines([text("rm.unnamed", count=len(removed))])


async def _rm(name: str, config: Path, as_json: bool) -> None:
    from shosoin.cli.answers import rm_json

    async with vault_of(config) as vault:
        answer = rm_json(await vault.rm(name))
    if as_json:
        print_json(answer)
    else:
        pending = answer["pending_at"]
        later = [text("rm.pending", sites=", ".join(pending))] if pending else []
        print_lines([text("rm.removed", name=answer["name"], sites=", ".join(answer["erased_at"])), *later])
