"""``shosoin stat``: all that is known of one object, its assurance label above all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shosoin.base.messages import text
from shosoin.base.summary import summary_of
from shosoin.cli.common import run_async
from shosoin.cli.ls import time_text
from shosoin.cli.output import detail_lines, print_json, print_lines, size_text
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of
from shosoin.cli.policy import verdict_lines

__all__ = ["stat"]


def stat(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name in the vault.")],
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show an object and who could open it."""
    run_async(_stat(name, owner_config_path(testbed, owner, config), as_json))


async def _stat(name: str, config: Path, as_json: bool) -> None:
    from shosoin.cli.answers import stat_json

    async with vault_of(config) as vault:
        answer = stat_json(await vault.stat(name))
    if as_json:
        print_json(answer)
    else:
        label = answer["label"]
        parts = (summary_of(label), _facts(answer), detail_lines(label), verdict_lines(answer["policy"]))
        print_lines("\n\n".join("\n".join(part) for part in parts if part).split("\n"))


def _facts(answer: dict[str, Any]) -> list[str]:
    rows = {
        "name": answer["name"],
        "size": f"{answer['size_bytes']:,} bytes ({size_text(answer['size_bytes'])})",
        "content type": answer["content_type"],
        "created": time_text(answer["created_wall_s"]),
        "object": answer["object_id"],
        "version": answer["version"],
        "scheme": text("scheme.short", **answer["scheme"]),
        "class": answer["class"],
        "sites": ", ".join(answer["placement"]),
        "share": f"{answer['share_bytes']:,} bytes at each site",
    }
    return [f"{heading + ':':<14}{value}" for heading, value in rows.items()]
