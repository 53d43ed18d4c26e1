"""``shosoin link validate``: published figures beside ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from shosoin.base import Alarm
from shosoin.base.messages import text
from shosoin.cli.output import columns, print_json, print_lines
from shosoin.cli.owner import JsonOption

if TYPE_CHECKING:
    from shosoin.link.validation import Finding

__all__ = ["validate"]


def _complete(incomplete: str) -> list[str]:
    from shosoin.link.validation import names

    return [name for name in names() if name.startswith(incomplete)]


def validate(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="ID|SUBJECT", help="Only these rows; repeatable.", autocompletion=_complete),
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only rows that are not reproduced.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute what papers, standards and other programs published, and say what comes out the same.

    No verdict is written down: each follows from the published value, ours and the tolerance. Some rows are known not
    to be reproduced and say why; exits 6 if one is not reproduced and nobody wrote why.
    """
    from shosoin.link.validation import Verdict, findings

    found = list(findings(only or []))
    shown = [each for each in found if not failed or each.verdict is Verdict.NOT_REPRODUCED]
    if as_json:
        print_json({"rows": [each.to_json() for each in shown], "count": _count(found)})
    else:
        print_lines(_lines(shown, found))
    unexplained = [each.row.id for each in found if each.is_unexplained]
    if unexplained:
        raise Alarm(
            f"not reproduced, and nobody wrote why: {', '.join(unexplained)}",
            code="link.validation_failed",
            hint="a change broke the model, or the paper does not say what was thought: find out which",
        )


def _count(found: Sequence[Finding]) -> dict[str, int]:
    from shosoin.link.validation import Verdict

    counted = Counter(each.verdict for each in found)
    return {str(verdict): counted[verdict] for verdict in Verdict}


def _lines(shown: Sequence[Finding], found: Sequence[Finding]) -> list[str]:
    headings = [text(f"link.{heading}") for heading in ("row", "published", "ours", "unit", "tolerance", "verdict")]
    lines = columns(headings, [_row(each) for each in shown]) if shown else []
    whys = [f"{each.row.id}: {each.why or text('link.unexplained')}" for each in shown if _wants_why(each)]
    counted = ", ".join(f"{number} {_said(verdict)}" for verdict, number in _count(found).items())
    details = _details(shown[0]) if len(found) == 1 and shown else []
    return [
        *lines,
        *([""] if whys else []),
        *whys,
        "",
        text("link.counted", count=len(found), verdicts=counted),
        *details,
    ]


def _wants_why(each: Finding) -> bool:
    return bool(each.why) or each.is_unexplained


def _row(each: Finding) -> tuple[str, ...]:
    return (
        each.row.id,
        _number(each.published),
        _number(each.ours),
        each.row.unit,
        str(each.row.criterion),
        _said(str(each.verdict)),
    )


def _details(each: Finding) -> list[str]:
    """Return the claim and its source, when one row was asked for."""
    return [text("link.claim", claim=each.row.claim), text("link.source", source=each.row.source)]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _said(verdict: str) -> str:
    return text(f"link.verdict_{verdict.replace(' ', '_')}")
