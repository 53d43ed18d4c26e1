"""Where a ``StreamStore`` of the contract suite keeps things, and how to look at them and spoil them there."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from shosoin.adapters.postgres import PostgresDatabase
from shosoin.adapters.stream_store import FileStreamStore
from shosoin.adapters.stream_store_postgres import PostgresStreamStore
from shosoin.adapters.stream_tables import PIECE_GRANULES
from shosoin.keys.store import StreamStore
from tests.support.postgres import PostgresServer

KEY = bytes(range(32))
HEADER_BYTES = 32
WAIT_S = 1.0
"""A server needs a moment to notice that a client was killed."""


def open_files(directory: str, key: bytes = KEY) -> StreamStore:
    return FileStreamStore(Path(directory), key)


def open_postgres(dsn: str, schema: str, key: bytes = KEY, **options: Any) -> StreamStore:
    return PostgresStreamStore(PostgresDatabase(dsn, schema), "kme-a", "kme-b", key, **options)


class FilesPlace:
    """A directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.spec = ["files", str(directory)]

    def fresh(self, number: int) -> FilesPlace:
        return FilesPlace(self.directory.with_name(f"pair-{number}"))

    def open(self, key: bytes = KEY) -> StreamStore:
        return open_files(str(self.directory), key)

    def stored(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.directory.rglob("*") if path.is_file())

    def blocks(self) -> set[str]:
        return {path.name for path in (self.directory / "blocks").iterdir()}

    def add_orphan(self, name: str, like: str) -> None:
        (self.directory / "blocks" / name).write_bytes(self._file(like).read_bytes())

    def remove_block(self, name: str) -> None:
        self._file(name).unlink()

    def cells(self, name: str) -> bytes:
        granules = (self._file(name).stat().st_size - HEADER_BYTES) // 40
        return self._file(name).read_bytes()[HEADER_BYTES : HEADER_BYTES + 32 * granules]

    def checks(self, name: str) -> bytes:
        return self._file(name).read_bytes()[HEADER_BYTES + len(self.cells(name)) :]

    def put_cells(self, name: str, cells: bytes) -> None:
        raw = self._file(name).read_bytes()
        self._file(name).write_bytes(raw[:HEADER_BYTES] + cells + raw[HEADER_BYTES + len(cells) :])

    def put_checks(self, name: str, checks: bytes) -> None:
        self._file(name).write_bytes(self._file(name).read_bytes()[: -len(checks)] + checks)

    def rename_record(self, old: str, new: str) -> None:
        self._change("UPDATE record SET name = ? WHERE name = ?", new, old)

    def spoil_record(self, name: str) -> None:
        self._change("UPDATE record SET value = substr(value, 1, length(value) - 1) || x'00' WHERE name = ?", name)

    def delete_records(self) -> None:
        self._change("DELETE FROM record")

    def _file(self, name: str) -> Path:
        return self.directory / "blocks" / name

    def _change(self, statement: str, *values: str) -> None:
        with closing(sqlite3.connect(self.directory / "journal.sqlite")) as database, database:
            database.execute(statement, values)


class PostgresPlace:
    """A schema of a running server."""

    def __init__(self, server: PostgresServer, schema: str) -> None:
        self.server, self.schema = server, schema
        self.spec = ["postgres", server.dsn, schema]

    def fresh(self, number: int) -> PostgresPlace:
        return PostgresPlace(self.server, f"contract_{number}")

    def open(self, key: bytes = KEY) -> StreamStore:
        return open_postgres(self.server.dsn, self.schema, key, wait_s=WAIT_S)

    def stored(self) -> bytes:
        return self.server.stored_bytes()

    def blocks(self) -> set[str]:
        return {name for (name,) in self._do("SELECT name FROM {}.block UNION SELECT name FROM {}.piece")}

    def add_orphan(self, name: str, like: str) -> None:
        self._do("INSERT INTO {}.block SELECT pair, %s, key FROM {}.block WHERE name = %s", name, like)
        self._do(
            "INSERT INTO {}.piece SELECT pair, %s, number, cells, checks FROM {}.piece WHERE name = %s", name, like
        )

    def remove_block(self, name: str) -> None:
        self._do("DELETE FROM {}.block WHERE name = %s", name)

    def cells(self, name: str) -> bytes:
        return self._column("cells", name)

    def checks(self, name: str) -> bytes:
        return self._column("checks", name)

    def put_cells(self, name: str, cells: bytes) -> None:
        self._put_column("cells", name, cells, 32)

    def put_checks(self, name: str, checks: bytes) -> None:
        self._put_column("checks", name, checks, 8)

    def rename_record(self, old: str, new: str) -> None:
        self._do("UPDATE {}.record SET name = %s WHERE name = %s", new, old)

    def spoil_record(self, name: str) -> None:
        self._do(
            "UPDATE {}.record SET value = set_byte(value, length(value) - 1, 255 - get_byte(value, length(value) - 1))"
            " WHERE name = %s",
            name,
        )

    def delete_records(self) -> None:
        self._do("DELETE FROM {}.record")

    def _column(self, column: str, name: str) -> bytes:
        rows = self._do(f"SELECT {column} FROM {{}}.piece WHERE name = %s ORDER BY number", name)
        return b"".join(value for (value,) in rows)

    def _put_column(self, column: str, name: str, content: bytes, unit_bytes: int) -> None:
        step = PIECE_GRANULES * unit_bytes
        for number, start in enumerate(range(0, len(content), step)):
            part = content[start : start + step]
            self._do(f"UPDATE {{}}.piece SET {column} = %s WHERE name = %s AND number = %s", part, name, number)

    def _do(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return self.server.execute(statement.replace("{}", self.schema), *values)


Place = FilesPlace | PostgresPlace
