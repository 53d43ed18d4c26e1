"""What was used of a key source, on disk before its bits are used: so that nothing comes twice, over restarts too.

Two kinds of memory in one SQLite file. *Tickets* are names of pieces of key material, 16 bytes each; the newest
``keep`` are remembered, which bounds the file. *Marks* are for streams whose pieces are used in ascending order: one
number each, below which everything counts as used. Tickets and marks name key material and say nothing about its bits.

Durable when a call returns (WAL, ``synchronous=FULL``). After a failure nothing may be used: the call raises.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol, TypeVar

from shosoin.base import Alarm, Unavailable

__all__ = ["MARKS_MAX", "USED_NAME", "TicketUsed", "UsedMemory", "UsedTickets", "failed", "used_before", "used_mark"]

T = TypeVar("T")
MARKS_MAX = 4096
USED_NAME = "used.sqlite"
"""In the directory of a source."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS used (number INTEGER PRIMARY KEY AUTOINCREMENT, ticket BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS mark (stream TEXT PRIMARY KEY, below INTEGER NOT NULL) WITHOUT ROWID;
"""


class TicketUsed(Alarm):
    """A source delivered, or a peer named, key material that was used before."""

    code = "source.used_before"
    hint = "the device or the vendor's KME gives key material out twice, or an old copy of it is running"


class UsedMemory(Protocol):
    """What remembers, durably, what one end of a link has used."""

    async def claim(self, tickets: Collection[bytes]) -> None:
        """Remember that tickets are used; see ``UsedTickets.claim``."""
        ...

    async def raise_mark(self, stream: str, first: int, last: int) -> None:
        """Remember that everything of a stream up to ``last`` is used; see ``UsedTickets.raise_mark``."""
        ...

    async def mark(self, stream: str) -> int:
        """Return the lowest number of a stream that is not used."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class UsedTickets:
    """Memory of one end of one link.

    Raises:
        Unavailable: the file cannot be opened or is damaged.
    """

    def __init__(self, path: Path, *, keep: int = 1_000_000) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
            path.chmod(0o600)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as err:
            raise failed(err) from err

    async def claim(self, tickets: Collection[bytes]) -> None:
        """Remember that tickets are used.

        Raises:
            TicketUsed: one of them was already, or is named twice; all of them count as used from here on.
            Unavailable: that could not be made durable.
        """
        await asyncio.to_thread(self._in_transaction, lambda: self._claim(tickets))

    async def raise_mark(self, stream: str, first: int, last: int) -> None:
        """Remember that everything of a stream up to ``last`` is used, if ``first`` and later were not.

        Raises:
            TicketUsed: something at ``first`` or above was used.
            Unavailable: that could not be made durable.
        """
        await asyncio.to_thread(self._in_transaction, lambda: self._raise(stream, first, last))

    async def mark(self, stream: str) -> int:
        """Return the lowest number of a stream that is not used."""
        return await asyncio.to_thread(self._in_transaction, lambda: self._mark(stream))

    def everything(self) -> tuple[list[bytes], list[tuple[str, int]]]:
        """Return all tickets, the oldest first, and all marks."""

        def read() -> tuple[list[bytes], list[tuple[str, int]]]:
            tickets = self._database.execute("SELECT ticket FROM used ORDER BY number").fetchall()
            return [ticket for (ticket,) in tickets], self._database.execute(
                "SELECT stream, below FROM mark"
            ).fetchall()

        return self._in_transaction(read)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _in_transaction(self, work: Callable[[], T]) -> T:
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                try:
                    result = work()
                except TicketUsed:
                    self._database.execute("COMMIT")
                    raise
                except BaseException:
                    self._database.execute("ROLLBACK")
                    raise
                self._database.execute("COMMIT")
            except (OSError, sqlite3.Error) as err:
                raise failed(err) from err
            return result

    def _claim(self, tickets: Collection[bytes]) -> None:
        before = self._database.total_changes
        rows = [(ticket,) for ticket in tickets]
        self._database.executemany("INSERT INTO used (ticket) VALUES (?) ON CONFLICT DO NOTHING", rows)
        fresh = self._database.total_changes - before
        self._database.execute("DELETE FROM used WHERE number <= (SELECT MAX(number) FROM used) - ?", (self._keep,))
        if fresh < len(tickets):
            raise used_before(fresh, len(tickets))

    def _raise(self, stream: str, first: int, last: int) -> None:
        below = self._mark(stream)
        if first < below or last < first:
            raise used_mark(first, below)
        (streams,) = self._database.execute("SELECT COUNT(*) FROM mark WHERE stream <> ?", (stream,)).fetchone()
        if streams >= MARKS_MAX:
            raise Unavailable(f"{streams} streams are on record", code="source.too_many_streams")
        self._database.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (stream, last + 1))

    def _mark(self, stream: str) -> int:
        row = self._database.execute("SELECT below FROM mark WHERE stream = ?", (stream,)).fetchone()
        return int(row[0]) if row else 0


def used_before(fresh: int, number: int) -> TicketUsed:
    """Return what says that only ``fresh`` of a number of tickets were not used before."""
    return TicketUsed(f"{number - fresh} of {number} pieces of key material were used before")


def used_mark(first: int, below: int) -> TicketUsed:
    """Return what says that a stream's material at ``first`` was used before."""
    return TicketUsed(f"key material at {first} was used before, the next unused is at {below}")


def failed(err: Exception) -> Unavailable:
    """Return what says that nothing could be recorded."""
    return Unavailable(f"what was used of a key source cannot be recorded: {err}", code="source.record")
