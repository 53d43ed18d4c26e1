"""What was used of a key source, in the PostgreSQL database that keeps the streams of its pair.

The same memory as ``shosoin.adapters.used_tickets``, in two tables, under the ownership of the pair: who may not write
the streams any more may record nothing here, and so may use nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, TypeVar

from shosoin.adapters.ended_streams import BLOCK_BYTES, place_of
from shosoin.adapters.postgres_owner import PostgresOwner
from shosoin.adapters.stream_tables import statements
from shosoin.adapters.used_tickets import FOLDED_SHARE, MARKS_MAX, OVER, Remembered, failed, used_before, used_mark
from shosoin.keys.errors import StreamRefused

if TYPE_CHECKING:
    from psycopg import Cursor

__all__ = ["PostgresUsedTickets"]

T = TypeVar("T")
_ROWS = 20_000
"""Tickets that are taken over in one transaction."""


class PostgresUsedTickets:
    """``UsedMemory`` of one end of one link.

    Args:
        owner: of the streams of the pair; whoever opened it closes it.
    """

    def __init__(self, owner: PostgresOwner, schema: str, *, keep: int = 1_000_000) -> None:
        self._owner, self._keep = owner, keep
        self._do = statements(schema)

    async def claim(self, tickets: Collection[bytes]) -> None:
        """Remember that tickets are used; see ``UsedTickets.claim``."""
        fresh = await asyncio.to_thread(self._in_transaction, lambda cursor: self._claim(cursor, tickets))
        if fresh < len(tickets):
            raise used_before(fresh, len(tickets))

    async def raise_mark(self, stream: str, first: int, last: int) -> None:
        """Remember that everything of a stream up to ``last`` is used; see ``UsedTickets.raise_mark``."""
        await asyncio.to_thread(self._in_transaction, lambda cursor: self._raise(cursor, stream, first, last))

    async def mark(self, stream: str) -> int:
        """Return the lowest number of a stream that is not used."""
        return await asyncio.to_thread(self._in_transaction, lambda cursor: self._mark(cursor, stream))

    def take_over(self, found: Remembered) -> None:
        """Remember what was used according to another memory, durably; again is fine.

        Raises:
            StoreUnavailable: that could not be written.
        """
        for start in range(0, len(found.tickets), _ROWS):
            with self._owner.transaction() as cursor:
                self._claim(cursor, found.tickets[start : start + _ROWS])
        for start in range(0, len(found.ended), _ROWS):
            with self._owner.transaction() as cursor:
                for place, bits in found.ended[start : start + _ROWS]:
                    self._put_ended(cursor, place, int.from_bytes(bits, "big"))
        with self._owner.transaction() as cursor:
            for stream, below in found.marks:
                if self._mark(cursor, stream) < below:  # else it went on here, or is over
                    self._put_mark(cursor, stream, below)

    def close(self) -> None:
        """Do nothing: the ownership is the streams'."""

    def _in_transaction(self, work: Callable[[Cursor[Any]], T]) -> T:
        try:
            with self._owner.transaction() as cursor:
                return work(cursor)
        except StreamRefused as err:
            raise failed(err) from err

    def _claim(self, cursor: Cursor[Any], tickets: Collection[bytes]) -> int:
        """Return how many of them were not used before."""
        place = self._owner.place
        (newest,) = cursor.execute(self._do["newest_ticket"], [place]).fetchone() or (0,)
        rows = [(place, ticket, newest + number) for number, ticket in enumerate(tickets, 1)]
        if rows:
            cursor.executemany(self._do["add_ticket"], rows)
        fresh = cursor.rowcount if rows else 0
        cursor.execute(self._do["forget_tickets"], [place, newest + len(rows) - self._keep])
        return fresh

    def _raise(self, cursor: Cursor[Any], stream: str, first: int, last: int) -> None:
        below = self._mark(cursor, stream)
        if first < below or last < first:
            raise used_mark(first, below)
        self._put_mark(cursor, stream, last + 1)

    def _put_mark(self, cursor: Cursor[Any], stream: str, below: int) -> None:
        place = self._owner.place
        latest = _one(cursor.execute(self._do["latest_turn"], [place]))
        cursor.execute(self._do["put_mark"], [place, stream, below, latest + 1])
        if _one(cursor.execute(self._do["count_marks"], [place])) > MARKS_MAX:
            self._fold(cursor)

    def _fold(self, cursor: Cursor[Any]) -> None:
        """End the streams that were used longest ago."""
        some = max(1, MARKS_MAX // FOLDED_SHARE)
        over = cursor.execute(self._do["oldest_marks"], [self._owner.place, some]).fetchall()
        for (stream,) in over:
            self._put_ended(cursor, *place_of(stream))
            cursor.execute(self._do["delete_mark"], [self._owner.place, stream])

    def _put_ended(self, cursor: Cursor[Any], place: int, bits: int) -> None:
        bits |= self._ended(cursor, place)
        cursor.execute(self._do["put_ended"], [self._owner.place, place, bits.to_bytes(BLOCK_BYTES, "big")])

    def _ended(self, cursor: Cursor[Any], place: int) -> int:
        row = cursor.execute(self._do["ended"], [self._owner.place, place]).fetchone()
        return int.from_bytes(row[0], "big") if row else 0

    def _mark(self, cursor: Cursor[Any], stream: str) -> int:
        row = cursor.execute(self._do["mark"], [self._owner.place, stream]).fetchone()
        if row:
            return int(row[0])
        place, bits = place_of(stream)
        return OVER if self._ended(cursor, place) & bits == bits else 0


def _one(cursor: Cursor[Any]) -> int:
    row = cursor.fetchone()
    return int(row[0]) if row else 0
