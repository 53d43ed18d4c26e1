"""Re-encryption of stores in PostgreSQL: one transaction for each pair, which reseals its records and data keys.

Blocks stay as they are, for each is under a data key of its own. What PostgreSQL keeps of rows that were changed
(until VACUUM, and in its log for as long as that is kept) stays under the old key, which is gone at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from shosoin.adapters.copy_store_postgres import COPIES_PLACE, PostgresCopyStore
from shosoin.adapters.discard_marks import DISCARDED_RECORD
from shosoin.adapters.postgres import PostgresDatabase, reason_of
from shosoin.adapters.stream_store_postgres import PostgresStreamStore
from shosoin.adapters.stream_tables import statements
from shosoin.keys.errors import StoreUnavailable, StreamRefused
from shosoin.keys.reencryption import StoreSize, Told, size_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from psycopg import Connection

__all__ = ["PostgresCopies", "PostgresStores"]


class PostgresStores:
    """``ReencryptableStores`` of a KME that keeps its pairs in a database.

    Raises (all methods):
        StoreUnavailable: the database cannot be used.
    """

    def __init__(self, database: PostgresDatabase, kme: str) -> None:
        self._database, self._kme = database, kme
        self._do = statements(database.schema)

    def names(self) -> Sequence[str]:
        """Return the peers of which something is stored."""
        with self._connected() as connection:
            if not self._has_tables(connection):
                return []
            return [peer for (peer,) in connection.execute(self._do["peers"], [self._kme]).fetchall()]

    def check(self, name: str, keys: Sequence[bytes]) -> StoreSize:
        """Return what is stored of a pair under the first key that opens it."""
        for key in keys[:-1]:
            try:
                return self._size(name, key)
            except StoreUnavailable:
                raise
            except StreamRefused:
                continue
        return self._size(name, keys[-1])

    def check_room(self, sizes: Iterable[StoreSize]) -> None:
        """Ask for nothing: blocks stay where they are."""

    def reencrypt(self, name: str, old_key: bytes, new_key: bytes, told: Told) -> None:
        """Bring a pair's store under the new key."""
        try:
            size = self._size(name, new_key)
        except StoreUnavailable:
            raise
        except StreamRefused:
            with closing(self._opened(name, old_key)) as store:
                size = size_of(store.load())
                store.reseal(new_key)
        told(size.block_bytes)

    def has_copies(self) -> bool:
        """Whether anything is stored of multicast keys."""
        with self._connected() as connection:
            if not self._has_tables(connection) or not self._has_copies(connection):
                return False
            where = [self._kme, COPIES_PLACE]
            row = connection.execute(self._do["count_copies"], [*where, *where]).fetchone()
            return row is not None and row[0] > 0

    def discard(self, peer: str) -> None:
        """Remove all that is stored of a pair, and leave what no start takes for a journal until a new one is there.

        Its place in the order of owners stays.
        """
        with closing(self._opened(peer, bytes(32))), self._connected() as connection, connection.transaction():
            for statement in ("discard_pieces", "discard_blocks", "discard_records"):
                connection.execute(self._do[statement], [self._kme, peer])
            connection.execute(self._do["mark_discarded"], [DISCARDED_RECORD, self._kme, peer])

    def _size(self, name: str, key: bytes) -> StoreSize:
        with closing(self._opened(name, key)) as store:
            return size_of(store.load())

    def _opened(self, name: str, key: bytes) -> PostgresStreamStore:
        return PostgresStreamStore(self._database, self._kme, name, key, wait_s=0.0)

    def _has_tables(self, connection: Connection[Any]) -> bool:
        row = connection.execute(self._do["has_tables"]).fetchone()
        return row is not None and bool(row[0])

    def _has_copies(self, connection: Connection[Any]) -> bool:
        """Whether the tables are of a version that has those of copies; a pair that is opened brings them to it."""
        row = connection.execute(self._do["has_copies"]).fetchone()
        return row is not None and bool(row[0])

    @contextmanager
    def _connected(self) -> Iterator[Connection[Any]]:
        import psycopg  # noqa: PLC0415  # an extra

        connection = self._database.connect()
        try:
            yield connection
        except psycopg.Error as err:
            raise StoreUnavailable(f"the database failed: {reason_of(err)}") from err
        finally:
            connection.close()


class PostgresCopies:
    """``ReencryptableStores`` with one store at most: the multicast copies of a KME, beside its pairs."""

    def __init__(self, database: PostgresDatabase, kme: str) -> None:
        self._database, self._kme = database, kme

    def names(self) -> Sequence[str]:
        """Return a name that no pair has, if anything is stored."""
        return [COPIES_PLACE] if PostgresStores(self._database, self._kme).has_copies() else []

    def check(self, name: str, keys: Sequence[bytes]) -> StoreSize:
        """Return how many copies there are; those that do not open are lost, not an obstacle."""
        del name
        with closing(self.opened(keys[0])) as store:
            return StoreSize(len(store.index()), 0, 0)

    def check_room(self, sizes: Iterable[StoreSize]) -> None:
        """Ask for nothing: copies stay where they are."""

    def reencrypt(self, name: str, old_key: bytes, new_key: bytes, told: Told) -> None:
        """Bring all copies under the new key."""
        del name
        with closing(self.opened(old_key)) as store:
            store.reseal(new_key)
        told(0)

    def opened(self, key: bytes) -> PostgresCopyStore:
        """Open the copies.

        Raises:
            StoreUnavailable: they are in use, or the database cannot be used.
        """
        return PostgresCopyStore(self._database, self._kme, key, wait_s=0.0)
