"""Where the secret bits of a link enter a KME: one port, whatever makes them.

A *key source* is one end of whatever delivers the same blocks of bits to the two KMEs of a link: a pair of QKD devices,
a vendor's KME on either side, a recording. Each end both transmits and receives, since the two directions of a link
have a stream each. The transmitting end calls ``PairEnd.begin_block(number, bits)``, the receiving end
``PairEnd.bits_arrived(number, bits)`` with the same number and, if all is well, the same bits; from there on the
streams compare, store and address them (``docs/specs/key-streams.md``). What a source must never do is give the same
bits twice; what it may do is lie, stall, restart and lose, which costs bits and nothing else.

Most sources know their material by names that are no secret (key_IDs, stream and index): the transmitting end draws
some, tells the other end the names, and that one fetches the same. Such a source is a ``Supply``, and
``shosoin.services.sources.coordinated`` does the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

from shosoin.adapters.used_tickets import UsedMemory
from shosoin.base import Alarm
from shosoin.services.peer_channel import Channel

__all__ = ["LinkSource", "Material", "Supply", "UndeclaredSimulation", "ticket_digest"]


class UndeclaredSimulation(Alarm):
    """The vendor's key manager says that its keys are simulated, and the configuration does not."""

    code = "source.undeclared_simulation"
    hint = "set simulated = true in the link's table at both ends, or connect real devices"


class LinkSource(Protocol):
    """One end of what feeds a link."""

    @property
    def uses_channel(self) -> bool:
        """Whether it wants a channel of its own to the peer's source."""
        ...

    @property
    def condition(self) -> str:
        """How it is, in a word or a few: ``working``, ``full``, ``dry``, ``failed: <code>``; nothing secret."""
        ...

    @property
    def suspension(self) -> str:
        """The code of the alarm since which no bit leaves, over restarts, until somebody lifts it; else empty."""
        ...

    async def lift(self) -> str:
        """Let bits leave again after an alarm, durably; return what ``suspension`` was.

        Raises:
            Unavailable: that cannot be written; nothing has changed.
        """
        ...

    async def transmit(self) -> None:
        """Make blocks at the source's pace, as long as there is room and the pair is connected, until cancelled."""
        ...

    async def handle(self, channel: Channel) -> None:
        """Take what comes from the peer's source over its channel until it ends."""
        ...

    async def answer(self, question: bytes) -> bytes:
        """Answer the peer's source."""
        ...

    def figures(self) -> Mapping[str, Any]:
        """Return what an operator may read of its devices, if they tell; nothing secret."""
        ...

    def close(self) -> None:
        """Drop the channel."""
        ...


@dataclass(slots=True)
class Material:
    """Secret bits by name: one ticket for each piece, in an order that both ends share."""

    tickets: list[str] = field(default_factory=list)
    pieces: list[bytearray] = field(default_factory=list, repr=False)

    @property
    def size_bytes(self) -> int:
        """Length of all pieces together."""
        return sum(map(len, self.pieces))

    def add(self, ticket: str, piece: bytes | bytearray) -> None:
        """Append a piece; a ``bytearray`` becomes this object's own."""
        self.tickets.append(ticket)
        self.pieces.append(piece if isinstance(piece, bytearray) else bytearray(piece))

    def joined(self, granule_bytes: int) -> bytearray:
        """Return whole granules of the pieces in order; what is left over at the end is lost."""
        whole = bytearray(self.size_bytes)
        start = 0
        for piece in self.pieces:
            whole[start : start + len(piece)] = piece
            start += len(piece)
        return whole[: len(whole) // granule_bytes * granule_bytes]

    def wipe(self) -> None:
        """Overwrite the pieces."""
        for piece in self.pieces:
            piece[:] = bytes(len(piece))


class Supply:
    """What one end of a coordinated source gets from its own device or vendor.

    All methods may raise any ``ShosoinError``; whatever was drawn or fetched until then is burned. Both roles may be
    active at once, each one call at a time.
    """

    def __init__(self, used: UsedMemory) -> None:
        self._used = used

    async def start(self) -> None:
        """Make ready; called again after it has failed."""

    async def stop(self) -> None:
        """Let go of everything; must not raise."""

    def release(self) -> None:
        """Let go of the record of what was used, for good."""
        self._used.close()

    async def forget(self, *, transmitting: bool) -> None:
        """Begin anew after a failure in one role; must not raise."""

    async def prepare(self) -> str:
        """See what there is before a block is transmitted; the note goes to the peer when it is a new one."""
        return ""

    async def greet(self, note: str) -> str:
        """Check that material can be fetched, and answer the note of the peer that transmits."""
        return ""

    async def greeted(self, answer: str) -> None:
        """Learn the peer's answer to a note."""

    async def draw(self, least_bytes: int, most_bytes: int) -> Material | None:
        """Take fresh material to transmit, ``None`` if there is not enough now."""
        raise NotImplementedError

    async def fetch(self, tickets: Sequence[str], size_bytes: int) -> Material:
        """Take the material that the peer drew, which has ``size_bytes``."""
        raise NotImplementedError

    async def claim(self, tickets: Sequence[str], *, transmitting: bool) -> None:
        """Make durable that these tickets are used, before their bits are.

        Raises:
            TicketUsed: one was used before; none may be used now.
        """
        await self._used.claim([ticket_digest(ticket) for ticket in tickets])


def ticket_digest(ticket: str) -> bytes:
    """Return 16 bytes that stand for a ticket in what is kept of it; tickets are no secrets."""
    return blake2b(ticket.lower().encode(), digest_size=16, person=b"shosoin ticket").digest()
