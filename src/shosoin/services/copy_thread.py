"""The store of a KME's multicast copies, on a thread of its own: one for all who use it, from the start to the end.

It is there before any pair is opened, because a pair whose burn was interrupted has its copies removed first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from shosoin.adapters.copy_store import CopyStorage

__all__ = ["CopyThread"]

T = TypeVar("T")


class CopyThread:
    """A store and its thread, on which one thing is done after the other."""

    def __init__(self, store: CopyStorage) -> None:
        self.store = store
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="multicast")

    async def do(self, work: Callable[[CopyStorage], T]) -> T:
        """Return what something done to the store returns; a disk or a network may take its time."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, work, self.store)

    def close(self) -> None:
        """Let go of the store, after everything else has ended."""
        self.thread.shutdown(wait=True)
        self.store.close()
