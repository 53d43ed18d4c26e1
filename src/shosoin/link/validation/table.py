"""All rows in one order, and those that were asked for."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from functools import cache

from shosoin.base import Rejected
from shosoin.link.validation import (
    channel_rows,
    code_rows,
    decoy_rows,
    finite_rows,
    long_rows,
    post_processing_rows,
    protocol_rows,
    satellite_rows,
    sky_rows,
)
from shosoin.link.validation.row import Finding, Row, judged

__all__ = ["findings", "names", "rows"]

_MODULES = (
    decoy_rows,
    finite_rows,
    protocol_rows,
    long_rows,
    channel_rows,
    sky_rows,
    satellite_rows,
    post_processing_rows,
    code_rows,
)


@cache
def rows() -> tuple[Row, ...]:
    """Return every row, subjects in the order of the documentation.

    Raises:
        ValueError: two rows have one id.
    """
    found = tuple(row for module in _MODULES for row in module.ROWS)
    ids = [row.id for row in found]
    if doubled := {each for each in ids if ids.count(each) > 1}:
        raise ValueError(f"two rows each of the ids {', '.join(sorted(doubled))}")
    return found


def names() -> tuple[str, ...]:
    """Return what ``findings`` understands: subjects, then ids."""
    return (*dict.fromkeys(row.subject for row in rows()), *(row.id for row in rows()))


def findings(only: Sequence[str] = ()) -> Iterator[Finding]:
    """Judge all rows, or those of the subjects and ids given, one by one.

    Raises:
        Rejected: there is no such subject or id.
    """
    for name in only:
        if name not in names():
            raise Rejected(
                f"no validation row or subject {name!r}", code="link.no_such_row", hint=_suggestion(name, names())
            )
    wanted = set(only)
    for row in rows():
        if not wanted or wanted & {row.id, row.subject}:
            yield judged(row)


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"subjects are {', '.join(n for n in known if '.' not in n)}"
