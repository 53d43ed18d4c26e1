"""What the judge knows of multicast keys.

* Each slave is given its copy once, whichever processes of an end were asked, and nobody else is given it.
* All slaves of a key_ID and its master get the same bits.
* A pad of a stream goes into one record.
* What an operator burned at an end is not given out there, nor at the other end once it has heard of it; nor are the
  other copies of a key that was sent over the pair, those at the master's own end.

Both disks put back since a key was drawn, one after the other, are outside: then no record of the truth is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shosoin.base import SaeId
from shosoin.testing.simulation.trace import Trace

if TYPE_CHECKING:
    from shosoin.testing.key_simulation.process import KmeProcess

__all__ = ["CopyJudge", "SeveralKey"]

_GRACE_S = 0.1
"""What was under way when an end heard of a burn may still come out for so long."""


@dataclass(slots=True)
class SeveralKey:
    """A key for several slaves."""

    master: SaeId
    end: str
    """Where it was drawn."""
    drawn_s: float
    bits: bytes = field(repr=False)
    given: set[SaeId] = field(default_factory=set)


class CopyJudge:
    """Every multicast key that anybody was ever given."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.keys: dict[str, SeveralKey] = {}
        self._records: dict[str, bytes] = {}
        self.restored_s = {"a": -1.0, "b": -1.0}
        """When each end was last put back to an old copy."""

    def sealed(self, process: KmeProcess, pad_id: str, record: bytes) -> None:
        """Hear of a record that leaves."""
        if self._records.setdefault(pad_id, record) != record:
            self._trace.violate(f"{process.name}: a pad goes into two records")

    def drawn(self, process: KmeProcess, keys: Sequence[tuple[str, bytes]], master: SaeId) -> None:
        """Hear what a master was given."""
        for key_id, bits in keys:
            if key_id in self.keys:
                self._trace.violate(f"{process.name}: key_ID {key_id} is given to two masters")
            self.keys[key_id] = SeveralKey(master, process.end, process.world.now_s, bits)

    def fetched(
        self, process: KmeProcess, caller: SaeId, master: SaeId, keys: Sequence[tuple[str, bytes | bytearray]]
    ) -> None:
        """Hear what a slave was given."""
        for key_id, bits in keys:
            known = self.keys.get(key_id)
            if known is None or known.master != master:
                self._trace.violate(f"{process.name}: gives {caller} a copy of no key of {master}")
                continue
            if known.bits != bits:
                self._trace.violate(f"{process.name}: {caller} gets other bits than {master} for {key_id}")
            if caller in known.given:
                self._given_again(process, caller, key_id, known)
            known.given.add(caller)
            self._check_unburned(process, key_id, known)

    def _given_again(self, process: KmeProcess, caller: SaeId, key_id: str, known: SeveralKey) -> None:
        if known.end != process.end and all(at_s >= known.drawn_s for at_s in self.restored_s.values()):
            self._trace.counts["copies given again after both ends went back"] += 1
        else:
            self._trace.violate(f"{process.name}: {caller} is given its copy of {key_id} twice")

    def _check_unburned(self, process: KmeProcess, key_id: str, known: SeveralKey) -> None:
        untouched = all(at_s < known.drawn_s for at_s in self.restored_s.values())
        is_late = process.world.now_s > process.heard_of_burn_s + _GRACE_S
        if known.drawn_s < process.copies_burned_before_s and is_late and untouched:
            self._trace.violate(f"{process.name}: the burned copy of {key_id} is given out")
