"""How the state of many shares is shown: a line for each site, the objects that are not well, and an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from shosoin.base import Alarm, Unavailable
from shosoin.base.messages import text
from shosoin.cli.output import columns

if TYPE_CHECKING:
    from shosoin.vault.tally import Finding, Tally

__all__ = ["counting", "finding_lines", "found_json", "judge_tally", "plain", "site_lines", "tally_lines"]

_NAMES_SHOWN = 5
_FINDINGS_SHOWN = 20


def plain(states: Mapping[Any, Any]) -> dict[str, str]:
    """Return states as text."""
    return {str(site): str(state) for site, state in states.items()}


def site_lines(states: Mapping[Any, Any]) -> list[str]:
    """Return a line for each site of one object."""
    return columns((text("plan.site"), text("verify.state")), plain(states).items())


def tally_lines(tally: Tally) -> list[str]:
    """Return how many shares are in each state, by site, and the objects that are not well."""
    rows = [(site, _counted(count)) for site, count in tally.counts.items()]
    return [
        text("audit.objects", count=tally.objects),
        *columns((text("plan.site"), text("verify.state")), rows),
        *finding_lines(tally),
    ]


def finding_lines(tally: Tally) -> list[str]:
    """Return a line for each of the first objects that are not well."""
    shown = tally.findings[:_FINDINGS_SHOWN]
    lines = [text("audit.finding", name=each.label, states=_not_ok(each)) for each in shown]
    return lines + ([text("audit.more", count=tally.found - len(shown))] if tally.found > len(shown) else [])


def found_json(tally: Tally) -> dict[str, Any]:
    """Return what a tally counted."""
    return {
        "ok": not tally.bad,
        "count": tally.objects,
        "counts": {str(site): dict(sorted(count.items())) for site, count in tally.counts.items()},
        "seconds": round(tally.seconds, 3),
    }


def judge_tally(tally: Tally, *, failed: str, partial: str, hint: str = "") -> None:
    """End well, or say what is wrong and where.

    Raises:
        Alarm: a share is not right.
        Unavailable: one is missing or could not be checked.
    """
    from shosoin.vault.audit import BAD, SHORT

    if tally.bad:
        raise Alarm(f"{_shown(tally, BAD)} are not right", code=failed, hint=hint)
    if tally.short:
        raise Unavailable(f"{_shown(tally, SHORT)} could not be checked", code=partial)


def _shown(tally: Tally, states: tuple[str, ...]) -> str:
    """Return what was found in a few words: all sites, and the first names."""
    sites = sorted(str(site) for site, count in tally.counts.items() if any(count[state] for state in states))
    found = [each for each in tally.findings if any(state in states for state in each.states.values())]
    names = ", ".join(repr(each.label) for each in found[:_NAMES_SHOWN])
    more = f" and {len(found) - _NAMES_SHOWN} more objects" if len(found) > _NAMES_SHOWN else ""
    return f"shares of {names}{more} at {', '.join(sites)}"


def _counted(count: Counter[str]) -> str:
    return ", ".join(f"{number} {state}" for state, number in sorted(count.items()))


def _not_ok(finding: Finding) -> str:
    return ", ".join(f"{site} {state}" for site, state in plain(finding.states).items() if state != "ok")


@contextlib.contextmanager
def counting(title: str, *, wanted: bool = True) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar of objects on standard error; yield what to call with those done and all, or ``None``."""
    if not (wanted and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*parts, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
