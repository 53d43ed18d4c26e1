"""``shosoin repair``: have the sites rebuild shares that are missing or bad, until every site holds a good one."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Alarm, Rejected, ShosoinError, Unavailable
from shosoin.base.messages import text
from shosoin.cli.common import run_async, talk
from shosoin.cli.output import alarm_line, columns, print_json, print_lines, progress, seconds_text, size_text
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of

if TYPE_CHECKING:
    from shosoin.vault.client import Vault
    from shosoin.vault.repair import Repaired
    from shosoin.vault.repair_plan import Need

__all__ = ["duration_s", "repair"]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def repair(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names in the vault.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Repair every object.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read and check every share first, to find damaged and wrong ones.")
    ] = False,
    every: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Go on for ever, with such pauses: 30s, 10m, 6h, 1d.")
    ] = None,
    rate: Annotated[
        int | None, typer.Option(metavar="BYTES_PER_S", min=1, help="Rebuild no more bytes in a second.")
    ] = None,
    key_budget: Annotated[
        int | None, typer.Option(metavar="BITS", min=0, help="Use no more key bits of links between sites, in all.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is missing and what it would cost.")
    ] = False,
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rebuild shares that are missing or bad.

    The sites do it among themselves; nobody reads the object. Exits 4 if something could not be rebuilt now, 6 if a
    site gave something wrong. It can be stopped at any moment; the next one goes on.
    """
    if everything == bool(names):
        raise Rejected(
            "repair takes names, or --all", code="cli.usage", hint="for example: shosoin repair clinic/records.csv"
        )
    request = _Request(None if everything else names, verify, rate, key_budget, dry_run, as_json)
    pause_s = None if every is None else duration_s(every)
    run_async(request.run(owner_config_path(testbed, owner, config), pause_s))


def duration_s(given: str) -> float:
    """Read a duration.

    Raises:
        Rejected: it is none.
    """
    match = _DURATION.fullmatch(given.strip())
    if not match or not float(match[1]):
        raise Rejected(f"{given[:40]!r} is no duration", code="cli.bad_duration", hint="for example 30s, 10m, 6h or 1d")
    return float(match[1]) * _SECONDS[match[2] or "s"]


class _Request:
    """One repair, or repairs for ever."""

    def __init__(
        self,
        names: list[str] | None,
        verify: bool,
        rate: int | None,
        key_budget: int | None,
        dry_run: bool,
        as_json: bool,
    ) -> None:
        self.names = names
        self.verify = verify
        self.rate = rate
        self.key_budget = key_budget
        self.dry_run = dry_run
        self.as_json = as_json
        self.planned: list[Need] = []

    async def run(self, config: Path, pause_s: float | None) -> None:
        """Repair once, or round after round."""
        async with vault_of(config) as vault:
            while pause_s is not None:
                try:
                    await self._round(vault)
                except ShosoinError as err:  # the next round may find it better
                    talk(f"error: {err}")
                await asyncio.sleep(pause_s)
            await self._round(vault)

    async def _round(self, vault: Vault) -> None:
        from shosoin.cli.answers import need_json, repaired_json

        done = await self._repaired(vault)
        answer = {
            "planned": [need_json(need) for need in self.planned],
            "repaired": [repaired_json(repaired) for repaired in done],
        }
        for repaired in done:
            for site in repaired.suspects:
                talk(alarm_line({"site": site, "kind": "repair_wrong"}))
        if self.as_json:
            print_json(answer)
        elif not self.planned:
            print_lines([text("repair.nothing")])
        else:
            print_lines([] if self.dry_run else _done_lines(done))
        _judge(done)

    async def _repaired(self, vault: Vault) -> list[Repaired]:
        with contextlib.ExitStack() as stack:
            bars: list[Any] = []

            def planned(needs: Sequence[Need]) -> bool:
                self.planned = list(needs)
                if needs and not self.as_json:
                    print_lines(_plan_lines(needs))
                if not self.dry_run:
                    total = sum(need.size_bytes for need in needs if not need.problem)
                    bars.append(stack.enter_context(progress(text("repair.rebuilding"), total, wanted=total > 0)))
                return not self.dry_run

            return await vault.repair(
                self.names,
                verify=self.verify,
                rate_bytes_per_s=self.rate,
                key_budget_bits=self.key_budget,
                planned=planned,
                progress=lambda done: bars[0](done) if bars[0] is not None else None,
            )


def _plan_lines(needs: Sequence[Need]) -> list[str]:
    """Return what is missing and what it takes of the links between sites."""
    headings = [text(f"repair.{name}") for name in ("object", "site", "why", "size", "link_bits", "stock", "wait")]
    rows = [
        (
            need.name,
            need.target,
            need.reason,
            size_text(need.size_bytes),
            f"{max(need.bits.values(), default=0):,}",
            f"{min(need.stock.values(), default=0):,}",
            need.problem or (seconds_text(need.wait_s) if need.wait_s else "-"),
        )
        for need in needs
    ]
    total = sum(sum(need.bits.values()) for need in needs if not need.problem)
    return [*columns(headings, rows), text("repair.total", bits=f"{total:,}")]


def _done_lines(done: Sequence[Repaired]) -> list[str]:
    lines = []
    for each in done:
        if each.problem:
            lines.append(text("repair.left", name=each.name, site=each.site, problem=each.problem))
        else:
            lines.append(text("repair.done", name=each.name, site=each.site, durable_at=each.durable_at))
    return lines


def _judge(done: Sequence[Repaired]) -> None:
    suspects: list[Any] = sorted({str(site) for each in done for site in each.suspects})
    if suspects:
        raise Alarm(
            f"what {', '.join(suspects)} gave does not fit what the others hold",
            code="cli.repair_suspects",
            hint="`shosoin verify NAME` reads the shares and proves which are wrong",
        )
    left = [each for each in done if each.problem]
    if left:
        raise Unavailable(
            f"{len(left)} of {len(done)} shares could not be rebuilt now",
            code="cli.repair_partial",
            hint="start the missing sites, or wait for key, and repair again",
        )
