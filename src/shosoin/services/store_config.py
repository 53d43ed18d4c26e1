"""``[kme.store]``: where a KME keeps its streams, and opening that place for a pair."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shosoin.adapters.copy_store import COPIES_NAME, CopyStorage, open_copy_store
from shosoin.adapters.copy_store_postgres import PostgresCopyStore, ReopenedCopyStore
from shosoin.adapters.discard_marks import DiscardMark
from shosoin.adapters.postgres import PostgresDatabase
from shosoin.adapters.stream_store import FileStreamStore
from shosoin.adapters.stream_store_postgres import PostgresStreamStore
from shosoin.adapters.used_tickets import USED_NAME, UsedMemory, UsedTickets
from shosoin.adapters.used_tickets_postgres import PostgresUsedTickets
from shosoin.base import Rejected
from shosoin.keys.store import StreamStore
from shosoin.services.toml_sections import Sections

__all__ = [
    "StoreSection",
    "database_of",
    "open_copies",
    "open_copies_in_database",
    "open_store",
    "open_used",
    "read_store",
]

_DSN_BYTES_MAX = 1 << 16
_NO_FILE = Path()


@dataclass(frozen=True, slots=True)
class StoreSection:
    """``[kme.store]``."""

    kind: str = "files"
    """``files`` (SQLite and block files in the KME's directory) or ``postgresql``."""
    dsn: str = ""
    """How to reach the database, without a password."""
    dsn_file: Path = _NO_FILE
    """A file, its owner's alone, that holds the same with a password."""
    schema: str = "shosoin"
    hold_s: float = 30.0
    """For how long after its last sign of life a process cannot be replaced while its database session lives."""
    wait_s: float = 10.0
    """How long a starting process waits for another one to let go of a pair."""


def read_store(kme: Mapping[str, Any], sections: Sections) -> StoreSection:
    """Read the section from ``[kme]``; files if there is none.

    Raises:
        Rejected: it is wrong.
    """
    if "store" not in kme:
        return StoreSection()
    section = sections.read(StoreSection, "kme.store", sections.table(kme, "store", "kme.store"))
    if section.kind not in {"files", "postgresql"}:
        raise sections.wrong(f"[kme.store] kind {section.kind[:40]!r}, expected 'files' or 'postgresql'")
    named = bool(section.dsn) + (section.dsn_file != _NO_FILE)
    if named != (section.kind == "postgresql"):
        expected = "exactly one of dsn and dsn_file" if section.kind == "postgresql" else "neither dsn nor dsn_file"
        raise sections.wrong(f"[kme.store] of kind {section.kind!r} needs {expected}")
    if section.hold_s < 5:
        raise sections.wrong("[kme.store] hold_s must be at least 5: owners say every 2 s that they are there")
    if section.kind == "postgresql":
        _check_database(section, sections)
    return section


def open_store(
    section: StoreSection, directory: Path, kme: str, peer: str, storage_key: bytes, *, half_gone: bool = False
) -> StreamStore:
    """Open the store of a pair; this may wait for a disk, a network, or another process.

    Args:
        half_gone: whether it is opened to finish throwing its old content away.

    Raises:
        StreamRefused: it cannot be used.
    """
    if not half_gone:
        DiscardMark(directory, peer).require_absent()
    if section.kind == "files":
        return FileStreamStore(directory / "links" / peer, storage_key)
    return PostgresStreamStore(
        database_of(section), kme, peer, storage_key, hold_s=section.hold_s, wait_s=section.wait_s
    )


def open_copies(section: StoreSection, directory: Path, kme: str, storage_key: bytes) -> tuple[CopyStorage, bool]:
    """Return what keeps the multicast copies of a KME that is to run; a database is asked later.

    Returns:
        The store, and whether it began anew because what was there is damaged.

    Raises:
        StreamRefused: it cannot be used.
    """
    if section.kind == "files":
        return open_copy_store(directory / COPIES_NAME, storage_key)
    return ReopenedCopyStore(lambda: open_copies_in_database(section, kme, storage_key, section.wait_s)), False


def open_copies_in_database(section: StoreSection, kme: str, storage_key: bytes, wait_s: float) -> PostgresCopyStore:
    """Open them where they are; this may wait for a network, or another process.

    Raises:
        StreamRefused: they cannot be used.
    """
    return PostgresCopyStore(database_of(section), kme, storage_key, hold_s=section.hold_s, wait_s=wait_s)


def open_used(store: StreamStore, schema: str, directory: Path) -> UsedMemory:
    """Return what remembers, beside the streams of a pair, what its source has used.

    What an earlier configuration kept in a file moves into the database with it.

    Args:
        directory: where files of the source are.

    Raises:
        StoreUnavailable: the database does not take it.
        Unavailable: the file cannot be used.
    """
    path = directory / USED_NAME
    if not isinstance(store, PostgresStreamStore):
        return UsedTickets(path)
    used = PostgresUsedTickets(store.owner, schema)
    if path.exists():
        with closing(UsedTickets(path)) as before:
            used.take_over(before.everything())
        for each in directory.glob(f"{USED_NAME}*"):
            each.unlink()
    return used


def _check_database(section: StoreSection, sections: Sections) -> None:
    try:
        database = database_of(section)
    except Rejected as err:
        raise Rejected(f"{sections.origin}: [kme.store] {err.message}", code=err.code, hint=err.hint) from None
    if section.dsn and database.has_password:
        message = "[kme.store] dsn holds a password; put it into a dsn_file, or a password file or service of libpq"
        raise sections.wrong(message)


def database_of(section: StoreSection) -> PostgresDatabase:
    """Return the database that a section names.

    Raises:
        Rejected: its connection string cannot be had or used.
    """
    return PostgresDatabase(section.dsn or _read_secret(section.dsn_file), section.schema)


def _read_secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise Rejected(
                    f"dsn_file {path} can be read by others", code="store.dsn_not_private", hint=f"chmod 600 {path}"
                )
            return file.read(_DSN_BYTES_MAX).decode().strip()
    except OSError as err:
        raise Rejected(f"cannot read dsn_file {path}: {err.strerror}", code="store.bad_dsn") from err
    except UnicodeDecodeError:
        raise Rejected(f"dsn_file {path} is not text", code="store.bad_dsn") from None
