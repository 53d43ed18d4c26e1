"""Key material that QKD modules push into the two KMEs as the source of a link's bits.

The modules at the two sites deliver the same material under the same names, key stream and index. What came waits,
bounded in size and age, until the transmitting end has found out which of it the other end has too, and makes a block
of that: even indexes for the direction that the KME with the lower id transmits, odd ones for the other. Indexes of a
stream are used in ascending order, so one durable mark per stream and direction keeps anything from being used or
taken twice, over restarts too; what lies below the mark and was not used is burned.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

from shosoin.adapters.used_tickets import TicketUsed, UsedMemory
from shosoin.base import PeerFault, Unavailable
from shosoin.base.ports import Clock
from shosoin.services.sources.config import PushSection
from shosoin.services.sources.held_keys import HeldKeys
from shosoin.services.sources.offers import TICKETS_MAX
from shosoin.services.sources.port import Material, Supply
from shosoin.services.sources.push_http import PushedKey, PushServer
from shosoin.services.tls_plane import TlsPlane

__all__ = ["Pushed"]

_INDEX_MAX = (1 << 53) - 1


class Pushed(Supply):
    """What one end's device pushes.

    Args:
        plane: the TLS endpoint that the device meets.
        even: whether this end transmits what has even indexes.
    """

    def __init__(self, section: PushSection, plane: TlsPlane, used: UsedMemory, clock: Clock, *, even: bool) -> None:
        super().__init__(used)
        self._section = section
        self._parity = 0 if even else 1
        self._held = HeldKeys(clock, capacity_bytes=section.max_held_bits // 8, expiry_s=section.expiry_s)
        self._server = PushServer(section, plane, self._taken)
        self._asked = 0
        self._candidates: tuple[str, list[int]] | None = None
        self._agreed: tuple[str, list[int]] | None = None
        self._staged: dict[str, bytearray] = {}
        """Pieces whose use is recorded and which are about to be fetched."""

    async def start(self) -> None:
        """Listen for the device."""
        await self._server.start()

    async def stop(self) -> None:
        """Listen no longer and forget what is held."""
        await self._server.stop()
        self._held.wipe()

    # From the device

    async def _taken(self, stream: UUID, keys: Sequence[PushedKey]) -> list[tuple[int, str]]:
        """Hold what a device delivers; return what is refused, and why."""
        name = str(stream)
        while not self._held.knows(name):
            await self._learn(name)
        refused = []
        for key in keys:
            reason = self._held.refusal(name, key.index, len(key.bits))
            if reason:
                refused.append((key.index, reason))
            else:
                self._held.put(name, key.index, key.bits)
        return refused

    async def _learn(self, stream: str) -> None:
        for parity in (0, 1):
            self._held.set_mark(stream, parity, await self._used.mark(f"{stream}/{parity}"))

    # Transmitting

    async def prepare(self) -> str:
        """Choose what could make a block; the note asks the other end what of it is there."""
        self._agreed = None
        self._candidates = self._held.choose(self._parity, self._section.min_block_bits // 8, TICKETS_MAX)
        if self._candidates is None:
            return ""
        self._asked += 1  # the same question may have another answer now
        return json.dumps([self._asked, *self._candidates], separators=(",", ":"))

    async def greeted(self, answer: str) -> None:
        """Learn what both ends have."""
        if self._candidates is None:
            return
        stream, indexes = self._candidates
        present = set(_indexes(_loaded(answer)))
        self._agreed = stream, [index for index in indexes if index in present]

    async def draw(self, least_bytes: int, most_bytes: int) -> Material | None:
        """Take what both ends have, up to a block."""
        if self._agreed is None:
            return None
        (stream, indexes), self._agreed = self._agreed, None
        material = Material()
        for index in indexes:
            piece = self._held.take(stream, index) if material.size_bytes < most_bytes else None
            if piece is not None:
                material.add(f"{stream}/{index}", piece)
        if material.size_bytes >= least_bytes:
            return material
        for ticket, piece in zip(material.tickets, material.pieces, strict=True):
            self._held.put(stream, int(ticket.partition("/")[2]), piece)
        return None

    # Receiving

    async def greet(self, note: str) -> str:
        """Say what is here of that the other end has."""
        if not note:
            return "[]"
        asked = _loaded(note)
        if not isinstance(asked, list) or len(asked) != 3:
            raise PeerFault("a note that does not parse", code="source.bad_offer")
        stream, indexes = _stream(asked[1]), _indexes(asked[2])
        mine = [index for index in indexes if index % 2 != self._parity]
        return json.dumps(self._held.present(stream, mine), separators=(",", ":"))

    async def fetch(self, tickets: Sequence[str], size_bytes: int) -> Material:
        """Take the pieces that the other end chose."""
        staged, self._staged = self._staged, {}
        material = Material()
        for ticket in tickets:
            if ticket in staged:
                material.add(ticket, staged[ticket])
        if len(material.tickets) < len(tickets):
            material.wipe()
            missing = len(tickets) - len(material.tickets)
            raise Unavailable(f"{missing} of {len(tickets)} pieces are not here", code="source.not_held")
        return material

    async def claim(self, tickets: Sequence[str], *, transmitting: bool) -> None:
        """Raise the mark of the stream, and drop whatever of this direction lies below it."""
        stream, indexes = _pieces_of(tickets)
        parity = self._parity if transmitting else 1 - self._parity
        if any(index % 2 != parity for index in indexes):
            raise PeerFault("pieces that the other end does not transmit", code="source.bad_offer")
        mark = f"{stream}/{parity}"
        if not transmitting and not self._held.present(stream, indexes):
            # Nothing is used, and nothing written: a peer that lies could fill the record with made-up names.
            if indexes[0] < await self._used.mark(mark):
                raise TicketUsed(f"the peer named key material at {indexes[0]}, which was used before")
            raise Unavailable(f"none of {len(indexes)} pieces is here", code="source.not_held")
        await self._used.raise_mark(mark, indexes[0], indexes[-1])
        if not transmitting:
            for piece in self._staged.values():
                piece[:] = bytes(len(piece))
            found = {ticket: self._held.take(stream, index) for ticket, index in zip(tickets, indexes, strict=True)}
            self._staged = {ticket: piece for ticket, piece in found.items() if piece is not None}
        self._held.set_mark(stream, parity, indexes[-1] + 1)


def _pieces_of(tickets: Sequence[str]) -> tuple[str, list[int]]:
    """Return the stream and the ascending indexes of tickets; each piece has one spelling."""
    names, numbers = set(), []
    for ticket in tickets:
        name, _, number = ticket.partition("/")
        if not (number.isascii() and number.isdigit() and len(number) <= 16):
            raise PeerFault("a ticket that names no piece", code="source.bad_offer")
        names.add(_stream(name))
        numbers.append(int(number))
        if ticket != f"{name}/{numbers[-1]}":
            raise PeerFault("a ticket that names no piece", code="source.bad_offer")
    ascending = all(low < high for low, high in pairwise(numbers))
    if len(names) != 1 or not ascending:
        raise PeerFault("pieces of several streams, or not in order", code="source.bad_offer")
    return names.pop(), numbers


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise PeerFault("a note that does not parse", code="source.bad_offer") from err


def _stream(text: Any) -> str:
    try:
        name = str(UUID(text)) if isinstance(text, str) else ""
    except ValueError:
        name = ""
    if not name or name != text:
        raise PeerFault("a note that names no key stream", code="source.bad_offer")
    return name


def _indexes(value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) > TICKETS_MAX:
        raise PeerFault("a note without indexes", code="source.bad_offer")
    if not all(type(index) is int and 0 <= index <= _INDEX_MAX for index in value):
        raise PeerFault("a note without indexes", code="source.bad_offer")
    return value
