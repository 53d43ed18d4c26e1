"""``shosoin rm``: remove an object."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shosoin.base.messages import text
from shosoin.cli.common import run_async
from shosoin.cli.output import print_json, print_lines
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of

__all__ = ["rm"]


def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name in the vault.")],
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove an object.

    Its shares are erased at every site that can be reached, and at the others later.
    """
    run_async(_rm(name, owner_config_path(testbed, owner, config), as_json))


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
