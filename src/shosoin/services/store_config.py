"""``[kme.store]``: where a KME keeps its streams, and opening that place for a pair."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shosoin.adapters.discard_marks import DiscardMark
from shosoin.adapters.postgres import PostgresDatabase
from shosoin.adapters.stream_store import FileStreamStore
from shosoin.adapters.stream_store_postgres import PostgresStreamStore
from shosoin.base import Rejected
from shosoin.keys.store import StreamStore
from shosoin.services.toml_sections import Sections

__all__ = ["StoreSection", "database_of", "open_store", "read_store"]

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
