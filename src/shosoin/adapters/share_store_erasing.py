"""A thread that overwrites and removes files that no record names any more.

What is to be erased is listed in the records, in the transaction that made it garbage: a crash forgets nothing, and
the list needs no memory. If erasing fails the file stays listed and is tried again at the next occasion. Nothing is
struck off before its name is durably gone: a name that came back later would look like a share of newer records.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading

from shosoin.adapters.share_store_files import StoreDirectory
from shosoin.adapters.share_store_records import connect
from shosoin.adapters.share_store_writer import GroupWriter

__all__ = ["Eraser"]

_BATCH = 64


class Eraser:
    """Works through the list of garbage whenever it is woken."""

    def __init__(self, directory: StoreDirectory, writer: GroupWriter) -> None:
        self._directory = directory
        self._writer = writer
        self._wanted = threading.Event()
        self._stopping = False
        self._idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shosoin-eraser", daemon=True)
        self._wanted.set()

    def start(self) -> None:
        """Begin, with what the last process left."""
        self._thread.start()

    def wake(self) -> None:
        """There may be something to erase."""
        self._idle.clear()
        self._wanted.set()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until everything listed before this call is erased or could not be."""
        return self._idle.wait(timeout_s)

    def close(self) -> None:
        """End the thread; what is left is erased after the next start."""
        self._stopping = True
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        connection = connect(self._directory.records, writer=False)
        try:
            while not self._stopping:
                self._wanted.wait()
                self._wanted.clear()
                with contextlib.suppress(sqlite3.Error):  # tried again at the next occasion
                    self._round(connection)
                if not self._wanted.is_set():
                    self._idle.set()
        finally:
            connection.close()

    def _round(self, connection: sqlite3.Connection) -> None:
        """Go through the list once."""
        after: str | None = ""
        while after is not None and not self._stopping:
            rows = connection.execute(
                "SELECT path FROM garbage WHERE path > ? ORDER BY path LIMIT ?", (after, _BATCH)
            ).fetchall()
            after = self._erase([path for (path,) in rows])

    def _erase(self, paths: list[str]) -> str | None:
        """Erase files and strike them from the list; returns where to go on, ``None`` at the end."""
        erased = []
        for path in paths:
            if self._stopping:
                break
            with contextlib.suppress(OSError):
                self._directory.erase(path)
                erased.append(path)
        gone = [(path,) for path in self._names_gone(erased)]
        if gone:
            with contextlib.suppress(Exception):  # the file is gone; the entry does no harm
                self._writer.post(
                    lambda step: step.connection.executemany("DELETE FROM garbage WHERE path = ?", gone)
                ).result()
        return paths[-1] if paths else None

    def _names_gone(self, erased: list[str]) -> list[str]:
        """Flush the directories of removed files; returns the files whose names cannot come back."""
        failed = set()
        for place in {path.rpartition("/")[0] for path in erased}:
            try:
                self._directory.disk.sync_directory(self._directory.root / place)
            except OSError:
                failed.add(place)
        return [path for path in erased if path.rpartition("/")[0] not in failed]
