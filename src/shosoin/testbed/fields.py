"""Reading one TOML table strictly: every key is known, typed, in range, and used exactly once.

A table remembers which keys were asked for, so that ``finish`` can refuse the ones nobody understands and name the key
that was probably meant. Without that, a misspelt option is silently a default.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from shosoin.base import Rejected

__all__ = ["Table", "did_you_mean"]

MAX_TEXT_CHARACTERS = 200
MAX_TABLES = 256
MAX_TEXTS = 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MISSING: Any = object()


def did_you_mean(written: str, known: Iterable[str]) -> str:
    """Return a hint that names the nearest known word, or lists all of them when none is near."""
    words = list(known)
    near = difflib.get_close_matches(written, words, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known are: {', '.join(words)}" if words else ""


class Table:
    """A TOML table that is being read.

    Raises (every method): ``Rejected`` with code ``testbed.bad_scenario``, saying where, what was got and expected.
    """

    def __init__(self, where: str, content: dict[str, Any]) -> None:
        self.where = where
        self._content = content
        self._asked: list[str] = []

    def text(self, key: str, *, default: str = _MISSING) -> str:
        """Return one line of text without control characters."""
        value = self._take(key, default)
        if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS or _CONTROL.search(value):
            raise self._wrong(key, value, f"a line of at most {MAX_TEXT_CHARACTERS} characters")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a list of one or more lines of text."""
        value = self._take(key, _MISSING)
        fits = isinstance(value, list) and 1 <= len(value) <= MAX_TEXTS
        if not fits or not all(isinstance(item, str) and len(item) <= MAX_TEXT_CHARACTERS for item in value):
            raise self._wrong(key, value, f"a list of 1 to {MAX_TEXTS} texts")
        return tuple(value)

    def name(self, key: str, pattern: re.Pattern[str], characters_max: int) -> str:
        """Return a text that matches a pattern."""
        value = self.text(key)
        if len(value) > characters_max or not pattern.fullmatch(value):
            raise self._wrong(
                key, value, f"lower-case letters, digits and single hyphens, at most {characters_max} characters"
            )
        return value

    def one_of(self, key: str, choices: Sequence[str], *, default: str) -> str:
        """Return one of a few words."""
        value = self.text(key, default=default)
        if value not in choices:
            raise self._wrong(key, value, f"one of {', '.join(choices)}")
        return value

    def integer(self, key: str, low: int, high: int, *, default: int) -> int:
        """Return a whole number in ``[low, high]``."""
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._wrong(key, value, f"a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, *, default: float = _MISSING) -> float:
        """Return a finite number in ``[low, high]``; the default is returned as it is."""
        value = self._take(key, default)
        if value is default:
            return float(value)
        if not isinstance(value, int | float) or isinstance(value, bool) or not _within(value, low, high):
            raise self._wrong(key, value, f"a number from {low:g} to {high:g}")
        return float(value)

    def table(self, key: str, *, optional: bool = False) -> Table:
        """Return a table inside this one."""
        value = self._take(key, {} if optional else _MISSING)
        if not isinstance(value, dict):
            raise self._wrong(key, value, f"a table [{key}]")
        return Table(f"[{key}]", value)

    def tables(self, key: str) -> list[Table]:
        """Return an array of tables, empty when there is none."""
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._wrong(key, value, f"tables [[{key}]]")
        if len(value) > MAX_TABLES:
            raise Rejected(f"{self.where} has more than {MAX_TABLES} [[{key}]]", code="testbed.bad_scenario")
        return [Table(f"[[{key}]] number {number}", item) for number, item in enumerate(value, 1)]

    def finish(self) -> None:
        """Refuse every key that was never asked for."""
        for key in self._content:
            if key not in self._asked:
                raise Rejected(
                    f"{self.where} has an unknown key {key[:80]!r}",
                    code="testbed.bad_scenario",
                    hint=did_you_mean(key, self._asked),
                )

    def _take(self, key: str, default: Any) -> Any:
        self._asked.append(key)
        value = self._content.get(key, default)
        if value is _MISSING:
            raise Rejected(f"{self.where} lacks the key {key!r}", code="testbed.bad_scenario", hint=self._nearby(key))
        return value

    def _nearby(self, key: str) -> str:
        near = difflib.get_close_matches(key, [str(name) for name in self._content], n=1, cutoff=0.6)
        return f"there is {near[0]!r}; was {key!r} meant?" if near else ""

    def _wrong(self, key: str, value: Any, expected: str) -> Rejected:
        return Rejected(f"{self.where}: {key} is {_shown(value)}, expected {expected}", code="testbed.bad_scenario")


def _shown(value: Any) -> str:
    """Return a value short enough for a message."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length()} bits"
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _within(value: float, low: float, high: float) -> bool:
    """Return whether a number is finite and in range; huge integers do not overflow."""
    try:
        return math.isfinite(value) and low <= value <= high
    except OverflowError:
        return False
