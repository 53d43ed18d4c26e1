"""What the owner remembers of its audits: challenges used, when, what was found, and who stays silent.

A share answers at most T challenges in an epoch, so challenges are spent like money: one new r per object and slot of
time. Within a slot the same r is asked again, which costs nothing and still finds a share that rotted or was lost; only
a new r finds a site that threw its share away and kept its old answer. When all are spent the last one is repeated.

A challenge is random and not derived from anything, because a site that can compute the next r needs its share no more.
It is remembered before it is sent, so that a crash does not spend another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

from shosoin.base import Entropy, ObjectId, SiteId, VersionId
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.layout import ANSWERS_PER_EPOCH

__all__ = [
    "SLOT_S",
    "AuditLedger",
    "AuditRecord",
    "BodyName",
    "MemoryLedger",
    "known_site",
    "left_of",
    "next_challenge",
]

SLOT_S = 28 * 86_400.0
"""Length of a slot: 15 answers (the deal check takes one) then last for 60 weeks."""

BodyName = tuple[ObjectId, VersionId]


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """What is remembered of the audits of one body."""

    epoch: int
    challenges: tuple[str, ...] = ()
    """Challenges sent in this epoch, oldest first."""
    challenged_wall_s: float = 0.0
    """When the last of them was new."""
    audited_wall_s: float = 0.0
    states: Mapping[SiteId, str] | None = None
    """What the last audit found."""
    terms: Mapping[str, Any] | None = None
    """Where the shares are (see ``audit_bodies``), so that the next audit need not ask the register."""

    def to_text(self) -> str:
        """Return a text that ``from_text`` reads."""
        return json.dumps(
            [
                self.epoch,
                self.challenges,
                self.challenged_wall_s,
                self.audited_wall_s,
                self.states and dict(self.states),
                self.terms and dict(self.terms),
            ],
            separators=(",", ":"),
        )

    @classmethod
    def from_text(cls, text: str) -> AuditRecord:
        """Read a record."""
        epoch, challenges, challenged_s, audited_s, states, terms = json.loads(text)
        known = None if states is None else {known_site(site): state for site, state in states.items()}
        return cls(epoch, tuple(challenges), challenged_s, audited_s, known, terms)


class AuditLedger(Protocol):
    """The owner's memory of audits. Methods are short; what was saved survives a crash."""

    def records(self, names: Sequence[BodyName]) -> dict[BodyName, AuditRecord]:
        """Return the records that exist."""
        ...

    def save(self, records: Mapping[BodyName, AuditRecord]) -> None:
        """Write records, all or none."""
        ...

    def forget_before(self, wall_s: float) -> int:
        """Forget bodies last audited before a moment; return how many."""
        ...

    def note(self, name: str) -> Any:
        """Return a JSON value that was kept under a name, or ``None``."""
        ...

    def keep_note(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name; ``None`` forgets it."""
        ...


class MemoryLedger:
    """A ledger that lasts as long as its process."""

    def __init__(self) -> None:
        self._records: dict[BodyName, str] = {}
        self._notes: dict[str, str] = {}

    def records(self, names: Sequence[BodyName]) -> dict[BodyName, AuditRecord]:
        """Return the records that exist."""
        return {name: AuditRecord.from_text(self._records[name]) for name in names if name in self._records}

    def save(self, records: Mapping[BodyName, AuditRecord]) -> None:
        """Write records."""
        self._records |= {name: record.to_text() for name, record in records.items()}

    def forget_before(self, wall_s: float) -> int:
        """Forget bodies last audited before a moment."""
        old = [name for name, text in self._records.items() if AuditRecord.from_text(text).audited_wall_s < wall_s]
        for name in old:
            del self._records[name]
        return len(old)

    def note(self, name: str) -> Any:
        """Return a JSON value that was kept."""
        return json.loads(self._notes.get(name, "null"))

    def keep_note(self, name: str, value: Any) -> None:
        """Keep a JSON value."""
        self._notes[name] = json.dumps(value)


@lru_cache(maxsize=256)
def known_site(name: str) -> SiteId:
    """Return a site's ID; the same few come again and again."""
    return SiteId(name)


def next_challenge(
    record: AuditRecord, *, deal_checked: bool, now_wall_s: float, slot_s: float, fresh: bool, entropy: Entropy
) -> tuple[AuditRecord, bool]:
    """Return the record with the challenge to send as its last, and whether it is new.

    It is new when a slot has passed (also backwards: a clock that was wrong once must not stop audits for ever), or
    when a ``fresh`` one is wanted, unless all of this epoch are spent.
    """
    due = not record.challenges or abs(now_wall_s - record.challenged_wall_s) >= slot_s
    if not (due or fresh) or (left_of(record, deal_checked=deal_checked) == 0 and record.challenges):
        return record, False
    challenge = entropy.random_bytes(ELEMENT_BYTES).hex()
    return replace(record, challenges=(*record.challenges, challenge), challenged_wall_s=now_wall_s), True


def left_of(record: AuditRecord, *, deal_checked: bool) -> int:
    """Return how many new challenges the shares still answer in this epoch, as far as the owner knows."""
    return max(0, ANSWERS_PER_EPOCH - int(deal_checked) - len(record.challenges))
