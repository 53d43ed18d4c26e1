"""``shosoin move``: take everything off retired sites, and say when they may be switched off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shosoin.base import Unavailable
from shosoin.base.messages import text
from shosoin.cli.common import run_async
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import AsOption, ConfigOption, JsonOption, TestbedOption, owner_config_path, vault_of
from shosoin.cli.tallies import counting

if TYPE_CHECKING:
    from shosoin.vault.leaving import Leaving, Tied, Ties
    from shosoin.vault.moving import Moved

__all__ = ["move"]

_SHOWN = 20
_PASSING = {"vault.too_few_sites", "vault.conflict"}
"""Errors that go away when sites are back, or others have done."""


def move(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is to be moved and what is left.")] = False,
    testbed: TestbedOption = None,
    owner: AsOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Move every object off the sites that the configuration calls retired.

    New sites take their places and have no shares until they are repaired. Says what to do next, and when an old site
    may be switched off. Exits 4 if something could not be moved now. It can be stopped at any moment and run again.
    """
    run_async(_move(owner_config_path(testbed, owner, config), dry_run, as_json))


async def _move(config: Path, dry_run: bool, as_json: bool) -> None:
    moved: list[Moved] = []
    async with vault_of(config) as vault:
        if not dry_run:
            with counting(text("move.title"), wanted=not as_json) as progress:
                moved = await vault.move_retired(progress=progress)
        ties = await vault.ties()
    report = _Report(moved, ties, dry_run)
    if as_json:
        print_json(report.json())
    else:
        print_lines(report.lines())
    _judge(moved)


def _judge(moved: list[Moved]) -> None:
    failed = [one for one in moved if one.error is not None]
    if failed:
        first = failed[0]
        raise Unavailable(
            f"{len(failed)} of {len(moved)} objects could not be moved now ({first.name!r}: {first.error})",
            code="cli.move_partial",
            hint=getattr(first.error, "hint", ""),
        )


class _Report:
    """What was moved, what is left, and what comes next."""

    def __init__(self, moved: list[Moved], ties: Ties, dry_run: bool) -> None:
        self.moved = {one.object_id: one for one in moved}
        self.ties = ties
        self.dry_run = dry_run

    def state(self, tied: Tied) -> str:
        """Return one word for what became of an object or an index."""
        one = self.moved.get(tied.object_id)
        if one is not None and one.error is not None:
            return "stays"
        if tied.to_move:
            return "to_move"
        if one is not None and one.changed:
            return "moved"
        return "short" if tied.missing else "settled"

    def next(self) -> str:
        """Return one word for what the owner should do next."""
        if any(tied.to_move for tied in self.ties.objects):
            return "move" if self.dry_run else self._next_of_failed()
        if any(tied.missing for tied in self.ties.objects) and self.ties.sites:
            return "repair"
        if any(leaving.behind for leaving in self.ties.sites):
            return "again"
        if any(leaving.listed for leaving in self.ties.sites):
            return "erase"
        if any(leaving.listed is None for leaving in self.ties.sites):
            return "again"
        return "off" if self.ties.sites else "nothing"

    def _next_of_failed(self) -> str:
        """Return what objects that stay wait for: a repair, sites that are away, or a decision of the owner."""
        codes = {one.error.code for one in self.moved.values() if one.error is not None}
        if "vault.repair_first" in codes:
            return "repair"
        return "see" if codes - _PASSING else "again"

    def json(self) -> dict[str, Any]:
        """Return the whole report."""
        return {
            "dry_run": self.dry_run,
            "objects": [self._object_json(tied) for tied in self.ties.objects],
            "sites": [_site_json(leaving) for leaving in self.ties.sites],
            "next": self.next(),
        }

    def _object_json(self, tied: Tied) -> dict[str, Any]:
        one = self.moved.get(tied.object_id)
        return {
            "name": None if tied.is_index else tied.name,
            "index": tied.name if tied.is_index else None,
            "object_id": str(tied.object_id),
            "state": self.state(tied),
            "needs": [str(site) for site in tied.sites],
            "missing": [str(site) for site in tied.missing],
            "erased_at": [] if one is None else [str(site) for site in one.erased_at],
            "problem": "" if one is None or one.error is None else str(one.error),
        }

    def lines(self) -> list[str]:
        """Return the report for people."""
        told = [tied for tied in self.ties.objects if self.state(tied) != "settled"]
        rows = [(_name(tied), self._said(tied), ", ".join(tied.missing) or "-") for tied in told[:_SHOWN]]
        lines = columns([text(f"move.{name}") for name in ("object", "state", "missing")], rows) if rows else []
        if len(told) > _SHOWN:
            lines.append(text("audit.more", count=len(told) - _SHOWN))
        if len(told) < len(self.ties.objects):
            lines.append(text("move.settled", count=len(self.ties.objects) - len(told)))
        return [*lines, *_site_lines(self.ties.sites), self._next_line()]

    def _said(self, tied: Tied) -> str:
        one = self.moved.get(tied.object_id)
        problem = "" if one is None else one.error
        return text(f"move.{self.state(tied)}", problem=problem)

    def _next_line(self) -> str:
        return text(f"move.next_{self.next()}", sites=", ".join(leaving.site for leaving in self.ties.sites))


def _name(tied: Tied) -> str:
    return text("move.index", class_=tied.name) if tied.is_index else tied.name


def _site_json(leaving: Leaving) -> dict[str, Any]:
    return {
        "site": str(leaving.site),
        "configured": leaving.is_configured,
        "needed_by": leaving.needed_by,
        "unrepaired": leaving.unrepaired,
        "holds_shares_of": leaving.listed,
        "behind": [str(site) for site in leaving.behind],
        "may_be_switched_off": leaving.may_go,
    }


def _site_lines(sites: tuple[Leaving, ...]) -> list[str]:
    headings = [text(f"move.{name}") for name in ("site", "needed_by", "shares", "may_go")]
    rows = [
        (
            each.site,
            each.needed_by,
            "?" if each.listed is None else each.listed,
            text(f"move.{_verdict(each)}", sites=", ".join(each.behind)),
        )
        for each in sites
    ]
    return columns(headings, rows) if rows else []


def _verdict(leaving: Leaving) -> str:
    if leaving.may_go:
        return "yes"
    if not leaving.is_configured:
        return "no_stranger"
    if leaving.needed_by:
        return "no_needed"
    if leaving.unrepaired:
        return "no_repair"
    if leaving.behind:
        return "no_behind"
    return "no_silent" if leaving.listed is None else "no_holds"
