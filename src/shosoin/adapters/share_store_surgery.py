"""Falsifying stored shares, for drills and tests: nothing here is of use to an honest site.

A security drill needs a site whose disk rots, and a site that lies. Both change bytes of a share behind the node's
back, while it runs. After *rot* the local checksum no longer fits and the node itself notices. With
``refresh_checksum`` the checksum is made to fit, so the node serves the wrong bytes in good faith, as a lying site
would: only the reader's check against the other sites can find that.
"""

from __future__ import annotations

import os
import sqlite3
import zlib
from array import array
from contextlib import closing
from pathlib import Path

from shosoin.adapters.share_store_files import Disk, StoreDirectory
from shosoin.adapters.share_store_reading import file_sum
from shosoin.adapters.share_store_records import connect
from shosoin.adapters.share_store_sums import chunk_ranges
from shosoin.base import ObjectId, Rejected
from shosoin.vault.ports import Buffer

__all__ = ["overwrite_share_bytes"]


def overwrite_share_bytes(
    directory: Path, object_id: ObjectId, offset: int, data: Buffer, *, refresh_checksum: bool
) -> int:
    """FOR DRILLS ONLY: overwrite bytes of every stored share of an object, and return how many shares that were.

    Args:
        directory: the store's directory (the one with ``records.sqlite``); the node may be running.
        object_id: whose shares to falsify, in all versions and epochs.
        offset: first byte to change, from the start of the share (audit masks come first).
        data: the new bytes.
        refresh_checksum: ``True`` makes a site that lies, ``False`` a disk that rots.

    Raises:
        Rejected: no such store or share, or the range is not inside a share.
    """
    place = StoreDirectory(directory, Disk())
    if not place.records.is_file():
        raise Rejected(f"{directory} is not a share store", code="drill.no_store")
    with closing(connect(place.records, writer=True)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        found = connection.execute(
            "SELECT c.id, c.size_bytes, c.data IS NULL FROM contents c JOIN shares s ON s.content_id = c.id"
            " WHERE s.object_id = ?",
            (str(object_id),),
        ).fetchall()
        if not found:
            raise Rejected(f"no share of object {object_id} is stored here", code="drill.no_share")
        for content_id, size_bytes, in_file in found:
            if offset < 0 or offset + len(data) > size_bytes:
                raise Rejected(
                    f"bytes {offset} to {offset + len(data)} of a share of {size_bytes}", code="drill.bad_range"
                )
            change = _change_file if in_file else _change_row
            change(connection, place, content_id, offset, data, refresh_checksum)
        connection.execute("COMMIT")
    return len(found)


def _change_row(
    connection: sqlite3.Connection, _: StoreDirectory, content_id: int, offset: int, data: Buffer, refresh: bool
) -> None:
    sums, content = connection.execute("SELECT sums, data FROM contents WHERE id = ?", (content_id,)).fetchone()
    changed = bytearray(content)
    changed[offset : offset + len(data)] = data
    if refresh:
        sums = array("I", [zlib.crc32(changed)]).tobytes()
    connection.execute("UPDATE contents SET sums = ?, data = ? WHERE id = ?", (sums, bytes(changed), content_id))


def _change_file(
    connection: sqlite3.Connection, place: StoreDirectory, content_id: int, offset: int, data: Buffer, refresh: bool
) -> None:
    raw, size_bytes = connection.execute("SELECT sums, size_bytes FROM contents WHERE id = ?", (content_id,)).fetchone()
    sums = array("I", raw)
    descriptor = os.open(place.share_path(content_id), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        place.disk.write_at(descriptor, data, offset)
        place.disk.sync(descriptor)
        for chunk, _, _ in chunk_ranges(offset, offset + len(data)) if refresh else ():
            sums[chunk] = file_sum(place.disk, descriptor, chunk, size_bytes)
    finally:
        os.close(descriptor)
    connection.execute("UPDATE contents SET sums = ? WHERE id = ?", (sums.tobytes(), content_id))
