"""Ports: what the layers need of the outside world, as protocols.

Nothing below ``adapters`` opens a socket, a file, a database or an event loop; it is handed objects that satisfy these
protocols. The real ones live in ``shosoin.adapters``; a simulation hands in its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from shosoin.base.ids import SaeId
from shosoin.base.material import KeyMaterial

__all__ = [
    "UNDECLARED",
    "Clock",
    "DeliveredKey",
    "Event",
    "EventSink",
    "KeySource",
    "KeySourceFacts",
    "KeyStatus",
    "Runtime",
    "Task",
]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Clock(Protocol):
    """Time, in two kinds that must not be confused."""

    def now_s(self) -> float:
        """Return seconds of a clock that never steps back (for intervals)."""
        ...

    def wall_s(self) -> float:
        """Return seconds since 1970-01-01 UTC (for records; may step)."""
        ...


class Task(Protocol[T_co]):
    """A coroutine that runs."""

    def done(self) -> bool:
        """Whether it has ended."""
        ...

    def result(self) -> T_co:
        """Return what it returned or raise what it raised."""
        ...

    def cancel(self) -> object:
        """Ask it to stop."""
        ...


class Runtime(Protocol):
    """The event loop as the vault sees it; a deterministic simulation brings another."""

    def now_s(self) -> float:
        """Return monotonic seconds."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """Run a coroutine beside the caller."""
        ...

    async def wait(self, tasks: Collection[Task[Any]], *, timeout_s: float | None, first: bool) -> None:
        """Wait until all tasks (or, with ``first``, any one) ended or the time is over; raises nothing."""
        ...

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that computes or does file I/O away from the loop."""
        ...


@dataclass(frozen=True, slots=True)
class KeySourceFacts:
    """What a KME says about the origin of the bits it delivered (the label repeats it)."""

    kind: str
    """``simulated-qkd``, ``qkd``, ... or ``undeclared`` when the KME said nothing."""
    simulated: bool
    epsilon: float | None = None
    """Failure probability of the link's security proof for these bits; ``None`` when undeclared."""


UNDECLARED = KeySourceFacts(kind="undeclared", simulated=False, epsilon=None)


@dataclass(frozen=True, slots=True)
class DeliveredKey:
    """One key of an ETSI GS QKD 014 key container."""

    key_id: str
    material: KeyMaterial
    facts: KeySourceFacts = UNDECLARED


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """ETSI GS QKD 014 status, the fields a client plans with. Sizes are in bits, as in the standard."""

    source_kme_id: str
    target_kme_id: str
    master_sae_id: str
    slave_sae_id: str
    key_size_bits: int
    stored_key_count: int
    max_key_count: int
    max_key_per_request: int
    max_key_size_bits: int
    min_key_size_bits: int
    max_sae_id_count: int
    extension: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stored_bits(self) -> int:
        """Bits in stock for this pair, as advertised."""
        return self.stored_key_count * self.key_size_bits


class KeySource(Protocol):
    """A KME as one of its SAEs sees it through ETSI GS QKD 014.

    Raises (all methods): ``Unavailable`` when dry or unreachable, ``Denied``, ``Rejected``, ``PeerFault``.
    """

    async def status(self, slave: SaeId) -> KeyStatus:
        """Return what the KME holds for the pair (caller, ``slave``)."""
        ...

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        """Draw fresh keys shared with ``slave``."""
        ...

    async def dec_keys(self, master: SaeId, key_ids: Sequence[str]) -> list[DeliveredKey]:
        """Fetch the keys that ``master`` drew, in the order of ``key_ids``; each can be fetched once."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth telling the watch: never carries a secret."""

    name: str
    severity: str
    """``info``, ``warning`` or ``alarm``."""
    fields: Mapping[str, Any] = field(default_factory=dict)


class EventSink(Protocol):
    """Where layers drop events; ``watch`` and the logs listen."""

    def emit(self, event: Event) -> None:
        """Record an event; never blocks and never raises."""
        ...
