"""What the key layer asks of the outside: a durable store for one pair, and someone to carry out its steps.

The state machines of this package never touch a disk or a socket. Each reaction to a message is a generator of
*effects*; the driver carries them out one by one, in order, and sends the result back in. ``Commit`` must be durable
before the next effect is asked for: that order is the whole protocol against crashes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from shosoin.base.ports import Event
from shosoin.keys.messages import Message

__all__ = [
    "Batch",
    "BurnCopies",
    "Commit",
    "Effect",
    "Emit",
    "Mac",
    "ReadBlock",
    "Send",
    "Steps",
    "StreamStore",
    "WipeRange",
]


@dataclass(frozen=True, slots=True)
class WipeRange:
    """Granules of a stored block to overwrite, counted from the block's start."""

    block: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Changes that become durable together.

    Order inside a batch: new blocks are durable before the records, records before wipes and drops. A crash in between
    leaves a block without record (removed at the next start) or a dropped block still there (likewise).
    """

    records: Mapping[str, bytes | None] = field(default_factory=dict, repr=False)
    """Values by name; ``None`` removes."""
    blocks: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    wipes: Sequence[WipeRange] = ()
    drops: Sequence[str] = ()
    """Blocks to overwrite and delete."""


class StreamStore(Protocol):
    """Durable, encrypted store of one pair's streams.

    Raises (all methods): ``StreamRefused`` when what is stored is damaged as a whole.
    """

    def load(self) -> dict[str, bytes]:
        """Return all records, after removing blocks that no record names (keys ``block/NAME``)."""
        ...

    def commit(self, batch: Batch) -> None:
        """Make the batch durable; when this raises, nothing may be served from this store any more.

        An empty batch makes sure that the store can still be used, and is still this process's own.
        """
        ...

    def read_block(self, name: str) -> tuple[bytearray, Sequence[int]]:
        """Return a block's bytes and the granules that failed their check (their bytes are zeroed).

        A block that cannot be read at all comes back empty, with granule 0 reported.
        """
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


@dataclass(frozen=True, slots=True)
class Commit:
    """Make a batch durable."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class BurnCopies:
    """Remove the multicast copies that came from the other end or were sent to it, durably.

    Where that fails, so do the steps: with ``StreamRefused``, ``StoreUnavailable`` if it may pass.
    """


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to the peer over the classical channel."""

    message: Message


@dataclass(frozen=True, slots=True)
class Mac:
    """Compute a one-time MAC (16 bytes); the result is sent back into the generator."""

    key: bytes = field(repr=False)
    parts: tuple[bytes | bytearray, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class ReadBlock:
    """Read a stored block; the result of ``StreamStore.read_block`` is sent back."""

    name: str


@dataclass(frozen=True, slots=True)
class Emit:
    """Tell the watch."""

    event: Event


Effect = Commit | BurnCopies | Send | Mac | ReadBlock | Emit
Steps = Generator[Effect, Any, None]
