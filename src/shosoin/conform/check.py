"""What a check is: one statement about a KME, the clause behind it, and a function that finds it true or not."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from shosoin.conform.http import Answer
from shosoin.conform.session import Session

__all__ = [
    "Check",
    "Failed",
    "Group",
    "Level",
    "NotApplicable",
    "Outcome",
    "expect",
    "expect_error",
    "expect_ok",
    "expect_refused",
]


class Level(StrEnum):
    """How much it means if a check fails."""

    SHALL = "shall"
    """The standard's text asks for it: the KME does not conform."""
    FIELD = "field"
    """Clients in the field need it, or the text leaves it open: a warning."""
    SAFE = "safe"
    """The text does not ask for it, security does: a warning."""


class Outcome(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    WARNED = "warned"
    SKIPPED = "skipped"


class Failed(Exception):
    """The statement does not hold; says what was seen instead, and never a key."""


class NotApplicable(Exception):
    """The check needs what was not given, or what this KME does not offer."""


@dataclass(frozen=True, slots=True)
class Check:
    """A statement about a KME."""

    name: str
    clause: str
    """Of ETSI GS QKD 014 V1.1.1 (2019-02); empty where no clause asks for it."""
    level: Level
    statement: str
    run: Callable[[Session], None]


class Group:
    """Checks of one subject, in order; used as a decorator."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.checks: list[Check] = []

    def __call__(
        self, clause: str, statement: str, level: Level = Level.SHALL
    ) -> Callable[[Callable[[Session], None]], Callable[[Session], None]]:
        """Add a function as a check; its name is that of the function."""

        def add(function: Callable[[Session], None]) -> Callable[[Session], None]:
            name = f"{self._prefix}.{function.__name__.strip('_')}"
            self.checks.append(Check(name, clause, level, statement, function))
            return function

        return add


def expect(holds: bool, seen: str) -> None:
    """Fail with what was seen, unless it holds."""
    if not holds:
        raise Failed(seen)


def expect_ok(answer: Answer) -> None:
    """Expect 200 with a JSON object."""
    expect(answer.status == 200, f"status {_said(answer)}")
    expect(isinstance(answer.json, dict), "200 whose body is no JSON object")


def expect_refused(answer: Answer, codes: Collection[int] = (400, 401, 503)) -> None:
    """Expect one of some codes, which are all that the standard has for refusals."""
    wanted = " or ".join(str(code) for code in codes)
    expect(answer.status in codes, f"status {_said(answer)}, expected {wanted}")


def expect_error(answer: Answer, message: str | None = None, codes: Collection[int] = (400,)) -> None:
    """Expect a refusal with an Error body, and the message that the text fixes."""
    expect_refused(answer, codes)
    expect(answer.message is not None, f"{answer.status} whose body is no Error (no JSON object with a message)")
    if message is not None:
        expect(answer.message == message, f"the message is {answer.message!r}, the text fixes {message!r}")


def _said(answer: Answer) -> str:
    """Return a status for people; an error's message helps, and is no key."""
    message = answer.message if answer.status != 200 else None
    return f"{answer.status} ({message[:80]!r})" if message else str(answer.status)
