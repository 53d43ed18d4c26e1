"""What was used of a key source, in the PostgreSQL database that keeps the streams of its pair.

The same memory as ``shosoin.adapters.used_tickets``, in two tables, under the ownership of the pair: who may not write
the streams any more may record nothing here, and so may use nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from shosoin.adapters.postgres_owner import PostgresOwner
from shosoin.adapters.stream_tables import statements
from shosoin.adapters.used_tickets import MARKS_MAX, failed, used_before, used_mark
from shosoin.base import Unavailable
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

    def take_over(self, tickets: Sequence[bytes], marks: Collection[tuple[str, int]]) -> None:
        """Remember what was used according to another memory, durably; again is fine.

        Args:
            tickets: the oldest first.

        Raises:
            StoreUnavailable: that could not be written.
        """
        for start in range(0, len(tickets), _ROWS):
            with self._owner.transaction() as cursor:
                self._claim(cursor, tickets[start : start + _ROWS])
        if marks:
            with self._owner.transaction() as cursor:
                cursor.executemany(self._do["put_mark"], [(self._owner.place, *mark) for mark in marks])

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
        (streams,) = cursor.execute(self._do["count_marks"], [self._owner.place, stream]).fetchone() or (0,)
        if streams >= MARKS_MAX:
            raise Unavailable(f"{streams} streams are on record", code="source.too_many_streams")
        cursor.execute(self._do["put_mark"], [self._owner.place, stream, last + 1])

    def _mark(self, cursor: Cursor[Any], stream: str) -> int:
        row = cursor.execute(self._do["mark"], [self._owner.place, stream]).fetchone()
        return int(row[0]) if row else 0
