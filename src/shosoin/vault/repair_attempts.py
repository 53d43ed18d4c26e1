"""What a node remembers of the repairs that it takes part in: which ranges were used, which pads are ready.

An attempt is recorded durably before anything of it happens and is never begun again, so a restart ends it. Within an
attempt every range of the share is used once at most: a helper that gave two combinations of one range, under other
pads or to another target, would give away more than one share.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from shosoin.base import Entropy, OwnerId, Rejected, SaeId, SiteId, Unavailable
from shosoin.base.ports import Clock, EventSink, KeySource, Runtime
from shosoin.kernels import ELEMENT_BYTES
from shosoin.vault.pads import Pad
from shosoin.vault.ports import ShareRow, SiteStore
from shosoin.vault.quotas import StagingQuotas
from shosoin.vault.repair_keys import OneTimeSecrets, SessionSecrets
from shosoin.vault.repair_order import OrderRefused, Party, RepairOrder

__all__ = ["CHUNK_BYTES_MAX", "Attempt", "Attempts", "Chunk", "NodeParts", "merged_ranges"]

CHUNK_BYTES_MAX = 1 << 20
_CHUNKS_MAX = 4
"""Ranges of one attempt whose pads are ready and not used; they wait in memory."""
_ATTEMPTS_PER_OWNER_MAX = 16
_IDLE_S = 900.0


Digester = Callable[[ShareRow, str], Awaitable[bytes]]


@dataclass(slots=True, kw_only=True)
class NodeParts:
    """What repairs need of the node that they run in."""

    site: SiteId
    node: SaeId
    store: SiteStore
    keys: KeySource
    entropy: Entropy
    clock: Clock
    runtime: Runtime
    sink: EventSink
    quotas: StagingQuotas
    challenged: Digester
    """Answers an audit challenge of a recorded share, within its T answers."""
    digest: Digester
    """Answers without recording it."""


@dataclass(slots=True)
class Chunk:
    """One range of the share on its way: pads of other helpers by site."""

    offset: int
    size: int
    drawn: dict[str, Pad] = field(default_factory=dict, repr=False)
    """Secrets that this site drew, until the other end has shown the same order."""
    pads: dict[str, memoryview] = field(default_factory=dict, repr=False)
    """Pads whose other end has."""

    @property
    def where(self) -> str:
        """The range, as it is bound into every tag."""
        return f"{self.offset}+{self.size}"


@dataclass(slots=True)
class Attempt:
    """One repair at one node, from its order to its end."""

    order: RepairOrder
    me: Party
    class_: str
    """The class under which the owner spoke: the order's, or ``local`` at the owner's home site."""
    secrets: OneTimeSecrets | SessionSecrets
    touched_s: float
    row: ShareRow | None = None
    """A helper's share; at the target what is rebuilt, once it is complete and not recorded yet."""
    chunks: dict[int, Chunk] = field(default_factory=dict)
    challenges: set[str] = field(default_factory=set)
    """At the target: audit challenges that the helpers have answered."""
    complete: bool = False
    """At the target: whether the last range came, and with it those challenges."""
    adopted: bool = False
    """At the target: whether the share is recorded."""
    _used: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_target(self) -> bool:
        """Whether this node is the one that gets the share."""
        return self.me == self.order.target

    @property
    def text(self) -> bytes:
        """The order's text, which every tag covers."""
        return self.order.text.encode()

    def begin(self, offset: int, size: int) -> Chunk:
        """Use a range.

        Raises:
            OrderRefused: part of it was used before.
            Unavailable: too many ranges wait.
        """
        end = offset + size
        if any(low < end and offset < high for low, high in self._used):
            raise OrderRefused("part of this range was used in this attempt", code="vault.repair_used")
        if len(self.chunks) >= _CHUNKS_MAX:
            raise Unavailable("too many ranges wait for their pads", code="vault.repair_busy")
        self._used = merged_ranges([*self._used, (offset, end)])
        chunk = self.chunks[offset] = Chunk(offset, size)
        return chunk

    def chunk(self, offset: int, size: int) -> Chunk:
        """Return a range that was begun, or begin it."""
        found = self.chunks.get(offset)
        return found if found is not None and found.size == size else self.begin(offset, size)

    def range_of(self, offset: int, size: int) -> None:
        """Check that a range lies inside the share and is not too long."""
        if size > CHUNK_BYTES_MAX or offset + size > self.order.size_bytes or offset % ELEMENT_BYTES:
            raise Rejected("a range that is too long, uneven or beyond the share", code="vault.bad_operation")
        if size % ELEMENT_BYTES:
            raise Rejected("a range that ends inside an element", code="vault.bad_operation")


def merged_ranges(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ranges in order, those that meet made one."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


class Attempts:
    """The attempts of one node, in memory; the record that each was begun is in the store."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._running: OrderedDict[tuple[OwnerId, str], Attempt] = OrderedDict()

    def add(self, attempt: Attempt) -> None:
        """Remember a new attempt; idle ones, and the least recently used of too many, are forgotten."""
        owner, now_s = attempt.order.owner, self._clock.now_s()
        theirs = [name for name in self._running if name[0] == owner]
        idle = [name for name in theirs if self._running[name].touched_s < now_s - _IDLE_S]
        for name in idle:
            del self._running[name]
        theirs = [name for name in theirs if name not in idle]
        for name in theirs[: max(len(theirs) - _ATTEMPTS_PER_OWNER_MAX + 1, 0)]:
            del self._running[name]
        self._running[owner, attempt.order.attempt] = attempt

    def get(self, owner: OwnerId, name: str) -> Attempt:
        """Return a running attempt.

        Raises:
            Unavailable: none of that name runs; it ended, or the node restarted since.
        """
        found = self._running.get((owner, name))
        if found is None:
            raise Unavailable("this attempt does not run here (any more)", code="vault.repair_no_attempt")
        found.touched_s = self._clock.now_s()
        self._running.move_to_end((owner, name))
        return found

    def end(self, owner: OwnerId, name: str) -> Attempt | None:
        """Forget an attempt and its pads."""
        return self._running.pop((owner, name), None)
