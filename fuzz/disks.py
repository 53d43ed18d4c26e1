"""Harnesses of what lies on our own disks, after the disk changed it: records, shares, blocks of key.

Nobody sends these bytes, but a disk, a restored copy or a curious administrator changes them; a node must say that
something is damaged and must neither die of it nor serve it. An input is JSON: which place gets which value.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from tests.adapters import store_support

from fuzz.harness import Finding, Harness, check_told
from fuzz.outside_formats import scratch
from shosoin.adapters.share_store import ShareStore
from shosoin.adapters.stream_store import FileStreamStore
from shosoin.base import ObjectId, ShosoinError
from shosoin.keys.store import Batch
from shosoin.vault.envelope import canonical_json, parse_json
from shosoin.vault.ports import RegisterRow, ShareRow

__all__ = ["HARNESSES"]

TABLES = ("meta", "shares", "contents", "usage", "challenges", "registers", "signature_sets", "garbage")
SMALL, LARGE = store_support.content(500), store_support.content((1 << 20) + 5000, 2)
REGISTER = ObjectId("1" * 32)
STORAGE_KEY = bytes(range(32))
BLOCK, BLOCK_NAME = store_support.content(32 * 6, 3), "out-000000000001"


@lru_cache(maxsize=1)
def _share_store() -> Path:
    """A store with a small and a large share, a register, a challenge and some garbage."""
    root = scratch() / "shares-made"

    async def fill() -> None:
        store = store_support.open_store(root)
        for number, data in ((1, SMALL), (2, LARGE)):
            await store_support.put(store, store_support.key(number), data)
        register = RegisterRow((3, "a"), (3, "a"), "{}", (2, "b"), "{}", "[]", "name")
        await store.transact(lambda step: step.put_signatures("name", "{}"))
        await store.transact(lambda step: step.put_register(store_support.OWNER, REGISTER, register))
        await store.transact(lambda step: step.add_challenge(store_support.key(1), "5" * 32))
        await store.close()

    asyncio.run(fill())
    return root


def share_store(raw: bytes) -> None:
    """A share store whose records or files were changed: opened or refused, and no wrong byte is read."""
    told = parse_json(raw)
    root = scratch() / "shares"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(_share_store(), root)
    _change(root, "records.sqlite", told)
    asyncio.run(_use(root))


def _change(root: Path, database: str, told: dict[str, Any]) -> None:
    """Put a value into a column of a row, or bytes into a file."""
    if isinstance(told.get("file"), int):
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.name != "lock")
        path = files[told["file"] % len(files)]
        content = bytearray(path.read_bytes())
        new, where = str(told.get("value", "")).encode(), told.get("at")
        at = min(abs(where), len(content)) if isinstance(where, int) else 0
        content[at : at + len(new)] = new
        path.write_bytes(
            content[: told["keep"]] if isinstance(told.get("keep"), int) and told["keep"] >= 0 else content
        )
        return
    with contextlib.closing(sqlite3.connect(root / database, isolation_level=None)) as records:
        table = str(told.get("table"))
        known = [name for (name,) in records.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if table not in known:
            return
        columns = [row[1] for row in records.execute(f"PRAGMA table_info({table})")]  # a known table
        column = columns[told["column"] % len(columns)] if isinstance(told.get("column"), int) else columns[-1]
        value = told.get("value")
        with contextlib.suppress(sqlite3.Error, OverflowError):  # what SQLite itself does not take is not on any disk
            simple = value if isinstance(value, str | int | float | None) else canonical_json(value)
            records.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (simple,))  # noqa: S608


async def _use(root: Path) -> None:
    store = store_support.open_store(root)
    try:
        for number, data in ((1, SMALL), (2, LARGE)):
            await _told(_read(store, number, data))
        for use in _USES:
            await _told(use(store))
    finally:
        await store.close()


_USES: tuple[Callable[[ShareStore], Awaitable[Any]], ...] = (
    lambda store: store.transact(lambda step: step.register(store_support.OWNER, REGISTER)),
    lambda store: store.transact(lambda step: step.signatures("name")),
    lambda store: store.transact(lambda step: step.challenges(store_support.key(1))),
    lambda store: store.transact(lambda step: step.used_bytes(store_support.OWNER)),
    lambda store: store.transact(lambda step: step.list_shares(store_support.OWNER, "", 10)),
    lambda store: store.scrub(1 << 30),
    lambda store: store.damaged(),
    lambda store: store.collect_orphans(),
    lambda store: store.transact(lambda step: step.delete_share(store_support.key(1))),
    lambda store: store_support.put(store, store_support.key(3), SMALL),
)


async def _read(store: ShareStore, number: int, data: bytes) -> None:
    row: ShareRow | None = await store.transact(lambda step: step.share(store_support.key(number)))
    if row is None:
        return
    for offset, length in ((0, 16), (400, 100)):
        if bytes(await store.read(row, offset, length)) != data[offset : offset + length]:
            raise Finding("a wrong byte was read")


async def _told(work: Any) -> None:
    """Require an answer or a kind."""
    try:
        await work
    except ShosoinError as error:
        check_told(error)


@lru_cache(maxsize=1)
def _stream_store() -> Path:
    root = scratch() / "made" / "stream" / "pair"
    store = FileStreamStore(root, STORAGE_KEY)
    store.commit(Batch(records={f"block/{BLOCK_NAME}": b"here", "pair": b"{}"}, blocks={BLOCK_NAME: BLOCK}))
    store.close()
    return root


def stream_store(raw: bytes) -> None:
    """A stream store whose journal or block was changed: refused, or no wrong granule is read."""
    told = parse_json(raw)
    root = scratch() / "used" / "stream" / "pair"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(_stream_store(), root)
    _change(root, "journal.sqlite", told)
    store = FileStreamStore(root, STORAGE_KEY)
    try:
        store.load()
        content, damaged = store.read_block(BLOCK_NAME)
        for granule in range(len(content) // 32):
            piece = bytes(content[32 * granule : 32 * granule + 32])
            if granule not in damaged and piece != BLOCK[32 * granule : 32 * granule + 32]:
                raise Finding("a wrong granule was read")
    finally:
        store.close()


def _share_changes() -> list[bytes]:
    values: list[Any] = [None, -1, 1 << 62, "x", "", 0.5, "0" * 32]
    changes: list[dict[str, Any]] = [
        {"table": table, "column": column, "value": values[(column + place) % len(values)]}
        for place, table in enumerate(TABLES)
        for column in range(4)
    ]
    changes += [{"table": "shares", "column": column, "value": "junk"} for column in range(13)]
    changes += [{"file": number, "at": 100, "value": "rot"} for number in range(5)]
    changes += [{"file": number, "keep": 40} for number in range(5)]
    return [canonical_json(change) for change in changes]


def _stream_changes() -> list[bytes]:
    changes: list[dict[str, Any]] = [
        {"table": "record", "column": 1, "value": "x"},
        {"table": "record", "column": 0, "value": "y"},
    ]
    changes += [{"file": number, "at": at, "value": "r"} for number in range(3) for at in (0, 40, 300)]
    changes += [{"file": number, "keep": keep} for number in range(3) for keep in (0, 31, 100)]
    return [canonical_json(change) for change in changes]


HARNESSES = (
    Harness("share_store", share_store, _share_changes, (SMALL[:16],), size_max=512),
    Harness("stream_store", stream_store, _stream_changes, (BLOCK[:16],), size_max=512),
)
