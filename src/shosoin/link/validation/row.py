"""One published claim beside what our code computes for it, and a verdict that nobody writes by hand.

A validation table is worth reading only if it can say no. So a row holds a claim, where it is printed, a criterion and
a computation; the verdict follows from these by the rules of ``judged`` alone. A row that fails must carry a reason
that somebody found out, else it counts as an alarm; a row that cannot be computed must say what is missing.

Verdicts: *reproduced*, a number within its tolerance; *compatible*, a claim weaker than a number (at least, at most,
about) that holds; *not reproduced*; *not derivable*, where the source does not say enough to compute it, or the
independent program that it names is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from shosoin.base import Unavailable

__all__ = [
    "AtLeast",
    "AtMost",
    "Criterion",
    "Factor",
    "Finding",
    "Row",
    "Verdict",
    "Within",
    "Witness",
    "judged",
]


class Verdict(StrEnum):
    """What the comparison of a row says."""

    REPRODUCED = "reproduced"
    COMPATIBLE = "compatible"
    NOT_REPRODUCED = "not reproduced"
    NOT_DERIVABLE = "not derivable"


class Witness(StrEnum):
    """Who says the published value."""

    THEORY = "theory"
    """A paper computes it from a model."""
    EXPERIMENT = "experiment"
    """A paper measured it."""
    STANDARD = "standard"
    """A standards body prints it."""
    PROGRAM = "independent program"
    """A program that we did not write computes it, now or when the row was made."""
    ARITHMETIC = "arithmetic"
    """It follows from a printed formula or printed parts with a pocket calculator; the source need not print it."""


class Criterion(Protocol):
    """How close is close enough; ``str`` of it goes into the table."""

    @property
    def grants(self) -> Verdict:
        """The verdict of a row that meets it."""

    def holds(self, ours: float, published: float) -> bool:
        """Whether our value confirms the published one."""


@dataclass(frozen=True, slots=True)
class Within:
    """A number within an absolute tolerance, or within one relative to the published value, whichever is wider."""

    absolute: float = 0.0
    relative: float = 0.0

    @property
    def grants(self) -> Verdict:
        """A number that comes out is reproduced."""
        return Verdict.REPRODUCED

    def holds(self, ours: float, published: float) -> bool:
        """Whether the two differ by no more than the tolerance."""
        return abs(ours - published) <= max(self.absolute, self.relative * abs(published))

    def __str__(self) -> str:
        parts = [f"±{self.absolute:g}"] if self.absolute else []
        return " or ".join([*parts, *([f"±{self.relative * 100:g} %"] if self.relative else [])]) or "exact"


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A claim that something is reached."""

    @property
    def grants(self) -> Verdict:
        """An inequality fixes no number."""
        return Verdict.COMPATIBLE

    def holds(self, ours: float, published: float) -> bool:
        """Whether ours is not below."""
        return ours >= published

    def __str__(self) -> str:
        return "at least"


@dataclass(frozen=True, slots=True)
class AtMost:
    """A claim that something is not exceeded."""

    @property
    def grants(self) -> Verdict:
        """An inequality fixes no number."""
        return Verdict.COMPATIBLE

    def holds(self, ours: float, published: float) -> bool:
        """Whether ours is not above."""
        return ours <= published

    def __str__(self) -> str:
        return "at most"


@dataclass(frozen=True, slots=True)
class Factor:
    """A claim whose parameters are not all printed: right up to a factor either way."""

    factor: float

    @property
    def grants(self) -> Verdict:
        """An order of magnitude is no number."""
        return Verdict.COMPATIBLE

    def holds(self, ours: float, published: float) -> bool:
        """Whether the quotient of the two is within the factor."""
        return ours > 0 < published and max(ours / published, published / ours) <= self.factor

    def __str__(self) -> str:
        return f"factor {self.factor:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """A claim with all that it takes to judge it.

    Raises:
        ValueError: the row is incomplete: neither a computation nor what is missing for one, or both.
    """

    id: str
    """``subject.name``, unique, and stable from version to version."""
    claim: str
    """One sentence."""
    source: str
    """Paper or standard with table, figure or equation; the name and version of a program."""
    witness: Witness
    unit: str
    published: float | Callable[[], float] | None
    """The number, or what asks an independent program for it."""
    criterion: Criterion
    compute: Callable[[], float] | None = None
    """Our value for it, in the same unit. May raise ``Unavailable`` where an independent program is missing."""
    missing: str = ""
    """What the source does not say, where nothing can be computed."""
    reason: str = ""
    """Why the row is not reproduced, where that was found out."""

    def __post_init__(self) -> None:
        subject, dot, name = self.id.partition(".")
        if not (subject and dot and name) or not self.claim or not self.source:
            raise ValueError(f"a row wants an id of the form subject.name, a claim and a source, got {self.id!r}")
        if (self.compute is None) != bool(self.missing):
            raise ValueError(f"row {self.id} wants either a computation or what is missing for one")
        if self.published is None and self.compute is not None:
            raise ValueError(f"row {self.id} computes what nothing was published for")
        if self.reason and self.compute is None:
            raise ValueError(f"row {self.id} explains a deviation that nothing computes")

    @property
    def subject(self) -> str:
        """The part of the id before the dot."""
        return self.id.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Finding:
    """A row, what was computed for it, and the verdict that follows. Only ``judged`` makes one."""

    row: Row
    published: float | None
    ours: float | None
    verdict: Verdict
    why: str
    """The reason where it is not reproduced, what is missing where it is not derivable, else empty."""

    @property
    def is_unexplained(self) -> bool:
        """Whether the row fails and nobody found out why."""
        return self.verdict is Verdict.NOT_REPRODUCED and not self.why

    @property
    def is_outdated(self) -> bool:
        """Whether the row explains a deviation that is not there."""
        return bool(self.row.reason) and self.verdict in {Verdict.REPRODUCED, Verdict.COMPATIBLE}

    def to_json(self) -> dict[str, Any]:
        """Return the finding as one object."""
        return {
            "id": self.row.id,
            "claim": self.row.claim,
            "source": self.row.source,
            "witness": str(self.row.witness),
            "unit": self.row.unit,
            "published": self.published,
            "ours": self.ours,
            "criterion": str(self.row.criterion),
            "verdict": str(self.verdict),
            "why": self.why,
        }


def judged(row: Row) -> Finding:
    """Compute a row and derive its verdict."""
    if row.compute is None:
        published = row.published if isinstance(row.published, int | float) else None
        return Finding(row, published, None, Verdict.NOT_DERIVABLE, row.missing)
    try:
        published = row.published() if callable(row.published) else row.published
        ours = float(row.compute())
    except Unavailable as err:
        return Finding(row, None, None, Verdict.NOT_DERIVABLE, err.message)
    assert published is not None  # noqa: S101  # __post_init__ refused it
    if math.isfinite(ours) and row.criterion.holds(ours, published):
        return Finding(row, published, ours, row.criterion.grants, "")
    return Finding(row, published, ours, Verdict.NOT_REPRODUCED, row.reason)
