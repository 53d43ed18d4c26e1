"""What was used of a key source, on disk before its bits are used: so that nothing comes twice, over restarts too.

Two kinds of memory in one SQLite file. *Tickets* are names of pieces of key material, 16 bytes each; the newest
``keep`` are remembered, which bounds the file. *Marks* are for streams whose pieces are used in ascending order: one
number each, below which everything counts as used. Of the streams that were used last there are marks; every earlier
one is over for good (``ended_streams``). Tickets and marks name key material and say nothing about its bits.

Durable when a call returns (WAL, ``synchronous=FULL``). After a failure nothing may be used: the call raises.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from shosoin.adapters.ended_streams import SCHEMA, add_ended, is_ended
from shosoin.base import Alarm, Unavailable

__all__ = [
    "FOLDED_SHARE",
    "MARKS_MAX",
    "OVER",
    "USED_NAME",
    "Remembered",
    "TicketUsed",
    "UsedMemory",
    "UsedTickets",
    "failed",
    "used_before",
    "used_mark",
]

T = TypeVar("T")
MARKS_MAX = 4096
USED_NAME = "used.sqlite"
"""In the directory of a source."""
"""Streams that may go on; with one more, those that were used longest ago are over."""
FOLDED_SHARE = 64
"""One in so many of them at once."""
OVER = (1 << 63) - 1
"""The mark of a stream that is over."""
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS used (number INTEGER PRIMARY KEY AUTOINCREMENT, ticket BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS mark
    (stream TEXT PRIMARY KEY, below INTEGER NOT NULL, turn INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
{SCHEMA}
"""
_TURN = "ALTER TABLE mark ADD COLUMN turn INTEGER NOT NULL DEFAULT 0"
"""For files of earlier versions."""
_TURN_INDEX = "CREATE INDEX IF NOT EXISTS mark_turn ON mark (turn)"


class TicketUsed(Alarm):
    """A source delivered, or a peer named, key material that was used before."""

    code = "source.used_before"
    hint = "the device or the vendor's KME gives key material out twice, or an old copy of it is running"


@dataclass(frozen=True, slots=True)
class Remembered:
    """All that a memory has."""

    tickets: Sequence[bytes]
    """The oldest first."""
    marks: Sequence[tuple[str, int]]
    """Streams and the lowest number not used, what was used longest ago first."""
    ended: Sequence[tuple[int, bytes]]
    """Blocks of streams that are over (``shosoin.adapters.ended_streams``)."""


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
            if "turn" not in {row[1] for row in self._database.execute("PRAGMA table_info(mark)")}:
                self._database.execute(_TURN)
            self._database.execute(_TURN_INDEX)
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
        """Return the lowest number of a stream that is not used, beyond all numbers if the stream is over."""
        return await asyncio.to_thread(self._in_transaction, lambda: self._mark(stream))

    def everything(self) -> Remembered:
        """Return all that is remembered, for another memory."""

        def read() -> Remembered:
            queries = (
                "SELECT ticket FROM used ORDER BY number",
                "SELECT stream, below FROM mark ORDER BY turn",
                "SELECT place, bits FROM ended",
            )
            tickets, marks, ended = (self._database.execute(query).fetchall() for query in queries)
            return Remembered([ticket for (ticket,) in tickets], marks, ended)

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
        (latest,) = self._database.execute("SELECT COALESCE(MAX(turn), 0) FROM mark").fetchone()
        row = stream, last + 1, latest + 1
        self._database.execute("INSERT OR REPLACE INTO mark (stream, below, turn) VALUES (?, ?, ?)", row)
        self._fold()

    def _fold(self) -> None:
        """End the streams that were used longest ago, if there are too many."""
        (streams,) = self._database.execute("SELECT COUNT(*) FROM mark").fetchone()
        if streams <= MARKS_MAX:
            return
        some = max(1, MARKS_MAX // FOLDED_SHARE)
        over = self._database.execute("SELECT stream FROM mark ORDER BY turn LIMIT ?", (some,)).fetchall()
        for (stream,) in over:
            add_ended(self._database, stream)
        self._database.executemany("DELETE FROM mark WHERE stream = ?", over)

    def _mark(self, stream: str) -> int:
        row = self._database.execute("SELECT below FROM mark WHERE stream = ?", (stream,)).fetchone()
        if row:
            return int(row[0])
        return OVER if is_ended(self._database, stream) else 0


def used_before(fresh: int, number: int) -> TicketUsed:
    """Return what says that only ``fresh`` of a number of tickets were not used before."""
    return TicketUsed(f"{number - fresh} of {number} pieces of key material were used before")


def used_mark(first: int, below: int) -> TicketUsed:
    """Return what says that a stream's material at ``first`` was used before."""
    state = "the stream is over" if below == OVER else f"the next unused is at {below}"
    return TicketUsed(f"key material at {first} was used before, {state}")


def failed(err: Exception) -> Unavailable:
    """Return what says that nothing could be recorded."""
    return Unavailable(f"what was used of a key source cannot be recorded: {err}", code="source.record")
