"""Counting what was found of many objects in bounded memory: by site and state, and the first that are not well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from shosoin.base import ObjectId, SiteId
from shosoin.vault.audit import BAD, SHORT, Audited, ShareFound

__all__ = ["Finding", "Tally"]

_LISTED_MAX = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """One object, or an index, with something that is not ``ok``."""

    label: str
    object_id: ObjectId
    states: Audited


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was found of the shares of many objects."""

    objects: int = 0
    counts: dict[SiteId, Counter[str]] = field(default_factory=dict)
    """How many objects are in each state, by site."""
    findings: list[Finding] = field(default_factory=list)
    """The first thousand objects with something not ``ok``."""
    found: int = 0
    """How many there are."""
    seconds: float = 0.0

    def count(self, label: str, object_id: ObjectId, states: Mapping[SiteId, str]) -> Audited:
        """Add one object; return its states."""
        self.objects += 1
        told = {site: ShareFound(state) for site, state in states.items()}
        for site, state in told.items():
            self.counts.setdefault(site, Counter())[state.value] += 1
        if any(state is not ShareFound.OK for state in told.values()):
            self.found += 1
            if len(self.findings) < _LISTED_MAX:
                self.findings.append(Finding(label, object_id, told))
        return told

    def has(self, *states: str) -> bool:
        """Whether any share is in one of these states."""
        return any(count[state] for count in self.counts.values() for state in states)

    @property
    def bad(self) -> bool:
        """Whether a share is wrong, damaged, doubtful or refused."""
        return self.has(*BAD)

    @property
    def short(self) -> bool:
        """Whether a share is missing or could not be checked."""
        return self.has(*SHORT)
