"""``shosoin verify``: ask every site for its share and check each one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from shosoin.base import Alarm, Unavailable
from shosoin.base.messages import text
from shosoin.cli.common import run_async, talk
from shosoin.cli.output import alarm_line, columns, print_json, print_lines
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of

__all__ = ["verify"]

_BAD = ("damaged", "wrong")


def verify(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name in the vault.")],
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the share at every site.

    Exits 6 if one is damaged or wrong, else 4 if one is missing or could not be reached.
    """
    run_async(_verify(name, owner_config_path(testbed, owner, config), as_json))


async def _verify(name: str, config: Path, as_json: bool) -> None:
    from shosoin.cli.answers import verify_json

    async with vault_of(config) as vault:
        answer = verify_json(await vault.verify(name))
    for alarm in answer["alarms"]:
        talk(alarm_line(alarm))
    if as_json:
        print_json(answer)
    else:
        print_lines(columns((text("plan.site"), text("verify.state")), answer["per_site"].items()))
    _judge(answer)


def _judge(answer: dict[str, Any]) -> None:
    bad = [site for site, state in answer["per_site"].items() if state in _BAD]
    if bad:
        raise Alarm(f"the share of {answer['name']!r} is not right at {', '.join(bad)}", code="cli.verify_failed")
    unchecked = [site for site, state in answer["per_site"].items() if state != "ok"]
    if unchecked:
        raise Unavailable(
            f"the share of {answer['name']!r} could not be checked at {', '.join(unchecked)}", code="cli.verify_partial"
        )
