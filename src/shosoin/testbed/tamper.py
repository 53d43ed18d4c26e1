"""Making a site lie, for demonstrations and tests: nothing here is of use to anybody honest.

Two faults of stored shares differ in who can notice them. *Rot* flips a bit on the disk: the site's own checksum no
longer fits and the site says that its share is damaged. A *lie* replaces the share and its checksum alike: the site
serves wrong bytes in good faith or bad, and only the reader's check against the other sites finds out.

The node's store belongs to the node while it runs, so a running node is stopped for the change and started again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shosoin.adapters.clock import SystemClock
from shosoin.base import ObjectId, OwnerId, Rejected
from shosoin.testbed.layout import Process, ProcessRole

if TYPE_CHECKING:
    from shosoin.adapters.share_store import ShareStore
    from shosoin.testbed.control import Testbed
    from shosoin.vault.ports import ShareRow

__all__ = ["AlteredShare", "alter_share", "rot_share"]

ELEMENT_BYTES = 16
"""Size of a field element; the audit masks at the start of a share are whole elements."""


@dataclass(frozen=True, slots=True)
class AlteredShare:
    """What was changed."""

    site: str
    offset: int
    """Of the changed byte in the share."""
    size_bytes: int
    """Size of the whole share."""


async def alter_share(testbed: Testbed, site: str, owner: str, object_id: str) -> AlteredShare:
    """Make a site lie about an object: change one byte of its share and refresh the local checksum.

    Raises:
        Rejected: the site has no share of the object.
    """

    async def lie(store: ShareStore, row: ShareRow) -> None:
        content = bytearray(await store.read(row, 0, row.size_bytes))
        content[_offset(row)] ^= 1
        await store.write(row.key, 0, content)
        locator = await store.finish(row.key, row.size_bytes)
        await store.transact(lambda step: step.put_share(replace(row, locator=locator)))

    return await _change(testbed, site, owner, object_id, lie)


async def rot_share(testbed: Testbed, site: str, owner: str, object_id: str) -> AlteredShare:
    """Let a site's disk rot: change one byte of its share and leave the local checksum as it was.

    Raises:
        Rejected: the site has no share of the object.
    """
    process = testbed.layout.process(site, ProcessRole.NODE)

    async def rot(store: ShareStore, row: ShareRow) -> None:
        await store.close()
        _flip_on_disk(store_directory(process), row)

    return await _change(testbed, site, owner, object_id, rot)


def store_directory(process: Process) -> Path:
    """Return where a node keeps its shares."""
    return process.state / "store"


async def _change(
    testbed: Testbed,
    site: str,
    owner: str,
    object_id: str,
    change: Callable[[ShareStore, ShareRow], Awaitable[None]],
) -> AlteredShare:
    process = testbed.layout.process(testbed.layout.scenario.site(site).name, ProcessRole.NODE)
    was_running = bool(testbed.kill(process.target))
    try:
        row = await _with_store(process, OwnerId(owner), ObjectId(object_id), change)
    finally:
        if was_running:
            await testbed.start(process.target)
    return AlteredShare(site, _offset(row), row.size_bytes)


async def _with_store(
    process: Process, owner: OwnerId, object_id: ObjectId, change: Callable[[ShareStore, ShareRow], Awaitable[None]]
) -> ShareRow:
    from shosoin.adapters.share_store import ShareStore  # noqa: PLC0415  # loads the database; few need it

    store = ShareStore.open(store_directory(process), clock=SystemClock())
    try:
        rows = await store.transact(lambda step: list(step.shares_of(owner, object_id)))
        if not rows:
            raise Rejected(f"{process.site} has no share of object {object_id}", code="testbed.no_share")
        newest = max(rows, key=lambda row: (row.created_wall_s, row.key.epoch))
        await change(store, newest)
    finally:
        await store.close()
    return newest


def _offset(row: ShareRow) -> int:
    """Return the first byte behind the audit masks: the first of the data."""
    return min(row.mask_elements * ELEMENT_BYTES, row.size_bytes - 1)


def _flip_on_disk(root: Path, row: ShareRow) -> None:
    """Flip one bit where the store keeps the bytes: a row of its database, or a file."""
    number = int(row.locator[1:], 16)
    if row.locator.startswith("f"):
        name = f"{number:016x}"
        with (root / "shares" / name[-2:] / name).open("r+b") as stream:
            stream.seek(_offset(row))
            byte = stream.read(1)[0]
            stream.seek(_offset(row))
            stream.write(bytes([byte ^ 1]))
        return
    with closing(sqlite3.connect(root / "records.sqlite", isolation_level=None)) as records:
        content = bytearray(records.execute("SELECT data FROM contents WHERE id = ?", (number,)).fetchone()[0])
        content[_offset(row)] ^= 1
        records.execute("UPDATE contents SET data = ? WHERE id = ?", (bytes(content), number))
