"""One process at a time owns a place in a PostgreSQL schema: the streams of a pair, or a KME's multicast copies.

The owner is the process whose session holds the place's advisory lock. Each owner takes a *fencing token*, one higher
than the last, and every transaction checks it; so an owner that was paused, replaced and woken cannot write over its
successor. The lock alone would do while sessions and processes die together; the token holds where they do not (a
pooler, a failover, an operator who ends a session). An owner says with every transaction, empty ones included, for how
long it holds the place; whoever comes after that ends its session.

After any failure the owner refuses further work: what is stored is then no longer known. Whoever takes the place anew
reads what was committed, as after a crash.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shosoin.adapters.postgres import PostgresDatabase, reason_of, within
from shosoin.adapters.stream_tables import FORMAT, statements, tables, upgrade
from shosoin.keys.errors import StoreUnavailable, StreamRefused

if TYPE_CHECKING:
    from psycopg import Connection, Cursor

__all__ = ["PostgresOwner"]

_POLL_S = 0.1
_COMMIT_S = 15.0
"""Also for a synchronous standby to answer."""
_LET_GO_S = 3.0


class PostgresOwner:
    """The ownership of the place ``name`` of ``kme``; threads may share it.

    Args:
        where: what the place is called in errors.
        hold_s: for how long after its last transaction an owner cannot be replaced while its session lives.
        wait_s: how long to wait for another owner to let go.

    Raises:
        StoreUnavailable: the database cannot be used, or another process owns the place.
        StreamRefused: the tables are of another version.
    """

    def __init__(
        self, database: PostgresDatabase, kme: str, name: str, where: str, *, hold_s: float, wait_s: float
    ) -> None:
        self.where = where
        self._do = statements(database.schema)
        self._hold_s = hold_s
        self._failed = ""
        self._turn = threading.Lock()
        self.connection = database.connect()
        try:
            with self.guarded(self.connection, wait_s + _COMMIT_S):
                _make_tables(self.connection, database.schema, self._do)
                self.place = self._find_place(kme, name)
                self._wait_for_lock(wait_s)
                self.token = self._take()
        except BaseException:
            self.connection.close()
            raise

    def close(self) -> None:
        """Let go of the place; whoever waits for it may take it at once."""
        try:
            if not self._failed:
                with self._turn, self.guarded(self.connection, _LET_GO_S):
                    self.connection.execute(self._do["let_go"], [self.place, self.token])
        except StoreUnavailable:
            self._failed = "the connection was lost while the store was closed"  # whoever comes next waits a little
        finally:
            self.connection.close()

    def require_sound(self) -> None:
        """Check that nothing has failed yet.

        Raises:
            StoreUnavailable: something has.
        """
        if self._failed:
            raise StoreUnavailable(f"an earlier access to {self.where} failed: {self._failed}")

    def fenced(self) -> StoreUnavailable:
        """Return what an owner raises that was replaced."""
        return StoreUnavailable(f"another process has taken {self.where}")

    @contextmanager
    def transaction(self) -> Iterator[Cursor[Any]]:
        """Run the body in a transaction of the owner; what fails in the database is the end of the ownership."""
        with self._turn:
            self.require_sound()
            warnings: list[str] = []
            notice = _noting(warnings)
            with self.guarded(self.connection, _COMMIT_S):
                self.connection.add_notice_handler(notice)
                try:
                    with self.connection.transaction(), self.connection.cursor(binary=True) as cursor:
                        held = cursor.execute(self._do["hold"], [self._hold_s, self.place, self.token])
                        if held.rowcount != 1:
                            raise self.fenced()
                        yield cursor
                finally:
                    self.connection.remove_notice_handler(notice)
                if warnings:  # committed here, but a synchronous standby may lack it
                    raise StoreUnavailable(f"a commit to {self.where} is in doubt: {warnings[0]}")

    @contextmanager
    def guarded(self, connection: Connection[Any], seconds: float) -> Iterator[None]:
        """Run the body with a bound on its time; a failure is the end of the ownership."""
        import psycopg  # noqa: PLC0415  # an extra

        try:
            with within(connection, seconds):
                yield
        except (psycopg.Error, OSError) as err:
            self._failed = reason_of(err)
            raise StoreUnavailable(f"access to {self.where} failed: {self._failed}") from err
        except StreamRefused as err:
            self._failed = err.message
            raise

    def _find_place(self, kme: str, name: str) -> int:
        found = _one(self.connection.execute(self._do["find_pair"], [kme, name]))
        if found is None:  # to try that always would be to wait for an owner that hangs within a transaction
            self.connection.execute(self._do["make_pair"], [kme, name])
            found = _one(self.connection.execute(self._do["find_pair"], [kme, name]))
        return int(found)

    def _wait_for_lock(self, wait_s: float) -> None:
        deadline_s = time.monotonic() + wait_s
        while not _one(self.connection.execute(self._do["lock"], [self.place])):
            holder, is_over = self.connection.execute(self._do["holder"], [self.place]).fetchone() or ("", False)
            if is_over:
                self.connection.execute(self._do["end_holder"], [self.place, self.place])
            elif time.monotonic() >= deadline_s:
                raise StoreUnavailable(f"{self.where} is in use by {holder or 'another process'}")
            time.sleep(_POLL_S)

    def _take(self) -> int:
        holder = f"process {os.getpid()} at {socket.gethostname()}"
        return int(_one(self.connection.execute(self._do["take"], [holder, self._hold_s, self.place])))


def _make_tables(connection: Connection[Any], schema: str, do: dict[str, bytes]) -> None:
    if _version(connection, do) != FORMAT:
        with connection.transaction():
            connection.execute(do["lock_tables"])  # two processes may start at once
            version = _version(connection, do)
            if version == 0:
                connection.execute(tables(schema))
            elif version < FORMAT:
                connection.execute(upgrade(schema, version))
    version = _version(connection, do)
    if version != FORMAT:
        raise StreamRefused(f"the tables in schema {schema} have version {version}, expected {FORMAT}")


def _version(connection: Connection[Any], do: dict[str, bytes]) -> int:
    """Return the version of the tables, 0 where there are none."""
    has_tables = _one(connection.execute(do["has_tables"]))
    return int(_one(connection.execute(do["format"]))) if has_tables else 0


def _one(cursor: Cursor[Any]) -> Any:
    row = cursor.fetchone()
    return row[0] if row is not None else None


def _noting(warnings: list[str]) -> Callable[[Any], None]:
    def note(diagnostic: Any) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            warnings.append(str(diagnostic.message_primary))

    return note
