"""What the share store tests share: made-up keys and bytes, a clock by hand, and one interface over both stores."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from shosoin.adapters.share_store import ShareStore, StoreLimits
from shosoin.adapters.share_store_files import Disk
from shosoin.base import ObjectId, OwnerId, VersionId
from shosoin.vault.ports import ShareKey, ShareRow, ShareState, SiteStore

OWNER = OwnerId("owner-1")
MIB = 1 << 20


class ManualClock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.moment_s = 1000.0

    def now_s(self) -> float:
        return self.moment_s

    def wall_s(self) -> float:
        return 1_700_000_000.0 + self.moment_s


def content(size_bytes: int, seed: int = 0) -> bytes:
    """Bytes that differ everywhere."""
    return random.Random(seed).randbytes(size_bytes)


def key(number: int = 1, *, version: int = 1, epoch: int = 0, owner: OwnerId = OWNER) -> ShareKey:
    """A share's name."""
    return ShareKey(owner, ObjectId(f"{number:032x}"), VersionId(f"{version:032x}"), epoch)


def row(
    name: ShareKey,
    size_bytes: int,
    locator: str,
    state: ShareState = ShareState.STAGED,
    created_wall_s: float = 1_700_001_000.0,
) -> ShareRow:
    """A share's record."""
    return ShareRow(name, size_bytes, state, created_wall_s, 2, 3, 48, locator, "its")


async def stage(store: SiteStore, name: ShareKey, data: bytes, piece_bytes: int = MIB) -> str:
    """Write and finish a share."""
    for offset in range(0, len(data), piece_bytes):
        await store.write(name, offset, data[offset : offset + piece_bytes])
    return await store.finish(name, len(data))


async def put(
    store: SiteStore, name: ShareKey, data: bytes, state: ShareState = ShareState.COMMITTED, **fields: float
) -> ShareRow:
    """Write, finish and record a share."""
    made = row(name, len(data), await stage(store, name, data), state, **fields)
    await store.transact(lambda step: step.put_share(made))
    return made


def open_store(
    path: Path, clock: ManualClock | None = None, *, disk: Disk | None = None, **limits: float
) -> ShareStore:
    """Open a store whose limits suit tests."""
    values = {"threads": 2, "reserve_bytes": 0, **limits}
    return ShareStore.open(path, clock=clock or ManualClock(), limits=StoreLimits(**values), disk=disk)  # type: ignore[arg-type]


@dataclass
class Bench:
    """A store, and how to pull its plug."""

    store: SiteStore
    restart: Callable[[], Awaitable[SiteStore]]
