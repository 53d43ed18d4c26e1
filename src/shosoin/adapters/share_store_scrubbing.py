"""Checking shares at rest, a little at a time, so that rot is found while the other sites can still repair it."""

from __future__ import annotations

from dataclasses import dataclass, field

from shosoin.adapters.share_store_reading import Reader, ScrubTarget
from shosoin.adapters.share_store_records import Records
from shosoin.vault.ports import ShareKey

__all__ = ["Place", "ScrubReport", "Scrubbed", "scrub", "scrub_place", "write_down"]

_BATCH = 64
_DIGITS_MAX = 19


@dataclass(frozen=True, slots=True)
class ScrubReport:
    """What one round of checking shares at rest found."""

    shares_checked: int
    bytes_checked: int
    damaged: tuple[ShareKey, ...]
    """Found damaged just now; they stay marked until replaced or found whole again."""
    round_complete: bool
    """Whether the last share was reached; the next call starts with the first again."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where checking goes on: after this content, or inside the next one from this byte on."""

    after: int = 0
    offset: int = 0


@dataclass(slots=True)
class Scrubbed:
    """What a thread found."""

    place: Place
    bytes_checked: int = 0
    shares_checked: int = 0
    whole_again: list[ScrubTarget] = field(default_factory=list)
    damaged: list[ScrubTarget] = field(default_factory=list)
    round_complete: bool = False

    def report(self) -> ScrubReport:
        """Return what callers see."""
        keys = tuple(target.key for target in self.damaged)
        return ScrubReport(self.shares_checked, self.bytes_checked, keys, self.round_complete)


def scrub(reader: Reader, place: Place, bytes_max: int) -> Scrubbed:
    """Check shares from a place on until about ``bytes_max`` bytes were read or the last share was reached."""
    found = Scrubbed(place)
    while found.bytes_checked < bytes_max:
        targets = reader.targets(found.place.after, _BATCH)
        if not targets:
            found.round_complete, found.place = True, Place()
            return found
        for target in targets:
            if found.bytes_checked >= bytes_max:
                return found
            _check(reader, target, found, bytes_max)
    return found


def _check(reader: Reader, target: ScrubTarget, found: Scrubbed, bytes_max: int) -> None:
    start = found.place.offset
    whole, stop = reader.check(target, start, bytes_max - found.bytes_checked)
    found.bytes_checked += stop - start
    if whole and stop < target.size_bytes:
        found.place = Place(found.place.after, stop)
        return
    found.shares_checked += 1
    if not whole:
        found.damaged.append(target)
    elif target.marked and start == 0:
        found.whole_again.append(target)
    found.place = Place(target.content_id)


def scrub_place(step: Records) -> Place:
    """Return where the last process stopped."""
    row = step.connection.execute("SELECT value FROM meta WHERE name = 'scrub'").fetchone()
    written = row[0] if row else None
    if not isinstance(written, str) or not written.isdecimal() or len(written) > _DIGITS_MAX:
        return Place()  # begins anew: it is only a place
    return Place(int(written))


def write_down(step: Records, found: Scrubbed) -> None:
    """Mark what is damaged, clear the mark of what is whole again, remember the place."""
    changes = [(1, target.content_id) for target in found.damaged]
    changes += [(0, target.content_id) for target in found.whole_again]
    step.connection.executemany("UPDATE contents SET damaged = ? WHERE id = ?", changes)
    step.connection.execute("UPDATE meta SET value = ? WHERE name = 'scrub'", (str(found.place.after),))
