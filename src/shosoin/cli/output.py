"""How answers look: one JSON object for programs, plain lines for people, a progress bar only on a terminal."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from shosoin.base.messages import retold, text
from shosoin.base.summary import SAID, summary_of

__all__ = [
    "alarm_line",
    "columns",
    "detail_lines",
    "label_lines",
    "print_json",
    "print_lines",
    "progress",
    "seconds_text",
    "size_text",
]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
DoneBytes = Callable[[int], None]


def print_json(answer: Any) -> None:
    """Print one JSON value on one line of standard output; a terminal that cannot show a character gets its number."""
    is_unicode = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    sys.stdout.write(json.dumps(answer, ensure_ascii=not is_unicode, default=str) + "\n")
    sys.stdout.flush()


def print_lines(lines: Iterable[str]) -> None:
    """Print lines on standard output."""
    for line in lines:
        sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def size_text(size_bytes: float) -> str:
    """Return a size for people, with binary units."""
    size = float(size_bytes)
    for unit in _UNITS[:-1]:
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} {_UNITS[-1]}"


def seconds_text(seconds: float) -> str:
    """Return a duration for people."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def columns(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Return a table as lines, each column as wide as its widest cell; numbers are right-aligned."""
    cells = [list(heading), *([str(cell) for cell in row] for row in rows)]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(heading))]
    return [_row(row, widths) for row in cells]


def _row(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        " " * (width - _width(cell)) + cell if _is_number(cell) else cell + " " * (width - _width(cell))
        for cell, width in zip(row, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"-?[\d,]+(\.\d+)?(e[+-]?\d+)?", cell) is not None


def _width(cell: str) -> int:
    """Return how many terminal columns a text takes (East Asian characters take two)."""
    if cell.isascii():
        return len(cell)
    import unicodedata

    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in cell)


def label_lines(label: Mapping[str, Any]) -> list[str]:
    """Return an assurance label in plain words: first what everybody understands, then how we know."""
    return [*summary_of(label), "", *detail_lines(label)]


def detail_lines(label: Mapping[str, Any]) -> list[str]:
    """Return everything that a label says: who together could open the object, and how we know."""
    lines = [
        text("label.heading"),
        text(
            "label.collusion",
            number=label["collusion_number"],
            names=", ".join(label["collusion_set"]) or text("label.nobody"),
        ),
        text("label.home", site=label.get("trusted_home", "?")),
        _scheme_line(label),
        text(f"label.class_{label['class']}"),
        *_transfer_lines(label),
    ]
    if label["everlasting"]:
        lines.append(text("label.everlasting"))
    else:
        lines.append(text("label.not_everlasting"))
        lines += [f"  - {retold(reason, SAID)}" for reason in label["reasons"]]
    sources = "; ".join(retold(source, SAID) for source in _words(label["randomness"]))
    lines.append(text("label.randomness", sources=sources))
    epsilon = label.get("epsilon_total")
    lines.append(text("label.epsilon_unknown") if epsilon is None else text("label.epsilon", epsilon=f"{epsilon:.1e}"))
    lines += _further_lines(label)
    if label.get("freshness", "proven") != "proven":
        lines.append(text("label.unproven"))
    if label["simulated"]:
        lines.append(text("label.simulated"))
    return lines


def _further_lines(label: Mapping[str, Any]) -> list[str]:
    """Return what was checked, when it was written, under which policy, and what is not known."""
    checked, audited_at = label.get("deal_checked"), label.get("audited_at")
    lines = [] if checked is None else [text("label.deal_checked" if checked else "label.deal_unchecked")]
    lines.append(text("label.age", ago=seconds_text(label["age_s"]), epoch=label["epoch"]))
    if audited_at is not None:
        lines.append(text("label.audited", ago=seconds_text(max(time.time() - audited_at, 0.0))))
    policy = label.get("policy", [])
    if policy is None:
        lines.append(text("label.policy_unreadable"))
    elif policy:
        lines.append(text("label.policy", clauses="; ".join(policy)))
    unknown = [f"  - {retold(gap, SAID)}" for gap in label.get("unknown", [])]
    return [*lines, text("label.unknown"), *unknown] if unknown else lines


def _scheme_line(label: Mapping[str, Any]) -> str:
    k, n = label["scheme"]["k"], label["scheme"]["n"]
    return text("label.scheme", k=k, n=n, k_less=k - 1, durable_at=label["durable_at"])


def _transfer_lines(label: Mapping[str, Any]) -> list[str]:
    """Return how the share of each site travelled and who saw its keys, one line a site."""
    transfers, routes = label.get("transfers", {}), label.get("routes", {})
    width = max(map(_width, transfers), default=0)
    said = [
        f"  {site}{' ' * (width - _width(site))}  {retold(how, SAID)}{_route(routes.get(site, ()))}"
        for site, how in transfers.items()
    ]
    return [text("label.transfers"), *said] if said else []


def _route(relays: Sequence[str] | None) -> str:
    if relays is None:
        return f", {text('label.route_unknown')}"
    return f", {text('label.relays', relays=', '.join(relays))}" if relays else ""


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [f"{key}: {source}" for key, source in value.items()]
    return [str(item) for item in value]


def alarm_line(event: Mapping[str, Any]) -> str:
    """Return one line about an alarm."""
    return text("cli.alarm", site=event.get("site", "?"), kind=event.get("kind", event.get("name", "?")))


@contextlib.contextmanager
def progress(title: str, total_bytes: int | None, *, wanted: bool = True) -> Iterator[DoneBytes | None]:
    """Show a bar on standard error while the block runs; yield what to call with the bytes done so far.

    Yields ``None`` when standard error is not a terminal or no bar is wanted.
    """
    if not (wanted and sys.stderr.isatty()):
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    parts = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*parts, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total_bytes)
        yield lambda done_bytes: bar.update(task, completed=done_bytes)
