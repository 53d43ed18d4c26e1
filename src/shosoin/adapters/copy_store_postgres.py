"""Durable store of a KME's multicast copies in a PostgreSQL database, beside its streams, so that they move with them.

Tables ``copy`` and ``sent`` mean what those of ``shosoin.adapters.copy_store`` mean, and copies are sealed alike. The
copies of a KME are a place with one owner (``postgres_owner``), which every change checks.

Security: as of the streams there (``stream_store_postgres``). Whoever runs the database may put back rows that were
removed: a copy is served only if the other KME has its row too, so that must be done at both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from shosoin.adapters.copy_sealing import CopySeal, HeldCopy, can_be_stored, copy_of_row, row_of_copy
from shosoin.adapters.postgres import PostgresDatabase
from shosoin.adapters.postgres_owner import PostgresOwner
from shosoin.adapters.stream_tables import statements
from shosoin.base import KmeId, Rejected, SaeId
from shosoin.keys.errors import KeyDamaged, KeyNotFound, PairProtocolError, StoreUnavailable, StreamRefused

__all__ = ["COPIES_PLACE", "PostgresCopyStore", "ReopenedCopyStore"]

COPIES_PLACE = "~copies"
"""Where the name of a peer would stand; no KME can be called so."""
T = TypeVar("T")
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.5, 8.0


class PostgresCopyStore:
    """``CopyStorage`` of one KME.

    Raises:
        StoreUnavailable: the database cannot be used, or another process owns the copies.
        StreamRefused: the tables are of another version.
    """

    epoch = 1

    def __init__(
        self, database: PostgresDatabase, kme: str, storage_key: bytes, *, hold_s: float = 30.0, wait_s: float = 10.0
    ) -> None:
        self._where = f"the multicast copies of {kme} in schema {database.schema}"
        self._do = statements(database.schema)
        self._seal = CopySeal(storage_key)
        self._owner = PostgresOwner(database, kme, COPIES_PLACE, self._where, hold_s=hold_s, wait_s=wait_s)
        self._place = self._owner.place

    def tick(self) -> None:
        """Say that the owner is there, and see whether it still is the owner."""
        with self._owner.transaction():
            pass

    def index(self) -> list[HeldCopy]:
        """Return what is held, without the bits."""
        with self._owner.transaction() as cursor:
            rows = cursor.execute(self._do["copy_index"], [self._place]).fetchall()
        try:
            return [copy_of_row(row) for row in rows]
        except (Rejected, AttributeError, TypeError, ValueError) as err:
            raise StoreUnavailable(f"{self._where} hold what was not written here") from err

    def add_held(self, copies: Sequence[HeldCopy]) -> None:
        """Store copies for slaves of this KME.

        Raises:
            PairProtocolError: the peer has sent such a copy already; none is stored then.
        """
        rows = [(self._place, *row_of_copy(one), self._seal.sealed(one, bytes(one.bits))) for one in copies]
        with self._owner.transaction() as cursor:
            cursor.executemany(self._do["add_copy"], rows)
            if rows and cursor.rowcount < len(rows):  # no failure of the database, which would cost the place
                raise PairProtocolError("a key_ID is in use")

    def take_held(self, copies: Sequence[HeldCopy]) -> list[bytearray]:
        """Remove copies and return their bits."""
        sealed = self._remove(copies)
        if None in sealed:
            raise KeyNotFound
        found = [self._seal.opened(one, each) for one, each in zip(copies, sealed, strict=True)]
        if None in found:
            raise KeyDamaged("a stored copy of a multicast key fails its check")
        return [bytearray(bits) for bits in found if bits is not None]

    def drop_held(self, copies: Sequence[HeldCopy]) -> None:
        """Remove copies."""
        self._remove(copies)

    def add_sent(self, rows: Sequence[tuple[str, SaeId, KmeId]], born_s: float) -> None:
        """Write down what other KMEs may claim."""
        with self._owner.transaction() as cursor:
            cursor.executemany(self._do["add_sent"], [(self._place, *row, born_s) for row in rows])

    def shared_with(self, peers: Sequence[KmeId], key_ids: Sequence[str]) -> list[KmeId]:
        """Return those of some KMEs that may claim a copy of one of these keys."""
        where = [self._place, list(filter(can_be_stored, key_ids))]
        with self._owner.transaction() as cursor:
            found = {peer for (peer,) in cursor.execute(self._do["sent_to"], where).fetchall()}
        return [peer for peer in peers if peer in found]

    def claim(self, peer: KmeId, slave: SaeId, key_ids: Sequence[str]) -> bool:
        """Remove the rows of all these keys, if all are there; whether they were."""
        if not all(map(can_be_stored, key_ids)):  # else the database would refuse them, and the place be lost
            return False
        where = [self._place, slave, peer, list(key_ids)]
        with self._owner.transaction() as cursor:
            (there,) = cursor.execute(self._do["count_sent"], where).fetchone() or (0,)
            if there != len(key_ids):
                return False
            cursor.execute(self._do["take_sent"], where)
        return True

    def expire(self, before_s: float, now_s: float) -> None:
        """Remove everything born before a time of the wall clock; what was born after ``now_s`` counts as born then."""
        with self._owner.transaction() as cursor:
            for name in ("redate_copies", "redate_sent"):
                cursor.execute(self._do[name], [now_s, self._place, now_s])
            for name in ("expire_copies", "expire_sent"):
                cursor.execute(self._do[name], [self._place, before_s])

    def burn(self, peer: KmeId) -> None:
        """Remove what came from a KME's masters, and all that may be claimed of keys of which it may claim a copy."""
        with self._owner.transaction() as cursor:
            cursor.execute(self._do["burn_copies"], [self._place, peer])
            cursor.execute(self._do["burn_sent"], [self._place, self._place, peer])

    def discard(self) -> None:
        """Remove everything."""
        with self._owner.transaction() as cursor:
            for name in ("discard_copies", "discard_sent"):
                cursor.execute(self._do[name], [self._place])

    def reseal(self, storage_key: bytes) -> None:
        """Seal every copy under another storage key, in one transaction; copies that do not open are removed."""
        fresh = CopySeal(storage_key)
        with self._owner.transaction() as cursor:
            for *row, sealed in cursor.execute(self._do["copies"], [self._place]).fetchall():
                one = copy_of_row(row)
                if fresh.opened(one, sealed) is not None:
                    continue
                bits = self._seal.opened(one, sealed)
                if bits is None:
                    cursor.execute(self._do["take_copy"], [self._place, *one.place])
                else:
                    cursor.execute(self._do["reseal_copy"], [fresh.sealed(one, bits), self._place, *one.place])
        self._seal = fresh

    def close(self) -> None:
        """Let go of the place."""
        self._owner.close()

    def _remove(self, copies: Sequence[HeldCopy]) -> list[bytes | None]:
        """Remove copies and return what was stored of each, ``None`` where nothing was."""
        with self._owner.transaction() as cursor:
            rows = [cursor.execute(self._do["take_copy"], [self._place, *one.place]).fetchone() for one in copies]
        return [row[0] if row is not None else None for row in rows]


class ReopenedCopyStore:
    """``CopyStorage`` that is opened when it is first needed, and again after the database was lost; for one thread.

    A KME that runs has one storage key, so this seals nothing under another: whoever changes it opens the store itself.

    Args:
        open_store: opens it.
        now_s: a clock that is never set.
    """

    def __init__(
        self, open_store: Callable[[], PostgresCopyStore], now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._open, self._now_s = open_store, now_s
        self._store: PostgresCopyStore | None = None
        self._pause_s = _PAUSE_S_MIN
        self._again_s = -1.0
        self._why = ""
        self.epoch = 0

    def tick(self) -> None:
        """Open it if it is not open; say that the owner is there."""
        self._with(PostgresCopyStore.tick)

    def index(self) -> list[HeldCopy]:
        """Return what is held, without the bits."""
        return self._with(PostgresCopyStore.index)

    def add_held(self, copies: Sequence[HeldCopy]) -> None:
        """Store copies for slaves of this KME."""
        self._with(lambda store: store.add_held(copies))

    def take_held(self, copies: Sequence[HeldCopy]) -> list[bytearray]:
        """Remove copies and return their bits."""
        return self._with(lambda store: store.take_held(copies))

    def drop_held(self, copies: Sequence[HeldCopy]) -> None:
        """Remove copies."""
        self._with(lambda store: store.drop_held(copies))

    def add_sent(self, rows: Sequence[tuple[str, SaeId, KmeId]], born_s: float) -> None:
        """Write down what other KMEs may claim."""
        self._with(lambda store: store.add_sent(rows, born_s))

    def shared_with(self, peers: Sequence[KmeId], key_ids: Sequence[str]) -> list[KmeId]:
        """Return those of some KMEs that may claim a copy of one of these keys."""
        return self._with(lambda store: store.shared_with(peers, key_ids))

    def claim(self, peer: KmeId, slave: SaeId, key_ids: Sequence[str]) -> bool:
        """Remove the rows of all these keys, if all are there; whether they were."""
        return self._with(lambda store: store.claim(peer, slave, key_ids))

    def expire(self, before_s: float, now_s: float) -> None:
        """Remove everything born before a time of the wall clock; what was born after ``now_s`` counts as born then."""
        self._with(lambda store: store.expire(before_s, now_s))

    def burn(self, peer: KmeId) -> None:
        """Remove what came from a KME's masters, and all that may be claimed of keys of which it may claim a copy."""
        self._with(lambda store: store.burn(peer))

    def close(self) -> None:
        """Let go of it."""
        if self._store is not None:
            self._store.close()
            self._store = None

    def _with(self, work: Callable[[PostgresCopyStore], T]) -> T:
        store = self._opened()
        try:
            return work(store)
        except StoreUnavailable:
            self.close()
            raise

    def _opened(self) -> PostgresCopyStore:
        if self._store is None:
            if self._now_s() < self._again_s:  # whoever asks must not wait for the same failure again
                raise StoreUnavailable(self._why)
            try:
                self._store = self._open()
            except (StreamRefused, Rejected) as err:
                self._why, self._again_s = err.message, self._now_s() + self._pause_s
                self._pause_s = min(_PAUSE_S_MAX, 2 * self._pause_s)
                raise StoreUnavailable(err.message, hint=err.hint) from err
            self._pause_s = _PAUSE_S_MIN
            self.epoch += 1
        return self._store
