"""Threads for file I/O, with bookkeeping that happens even if nobody waits any more.

A cancelled request does not stop a thread that already writes. So what follows a piece of work (``landed``) is tied to
the work, not to the caller, and runs on the event loop before the caller resumes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from shosoin.base import Unavailable

__all__ = ["Workers"]

T = TypeVar("T")


class Workers:
    """A fixed number of threads."""

    def __init__(self, threads: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="shosoin-share")

    async def run(self, work: Callable[[], T], landed: Callable[[Future[T]], None] | None = None) -> T:
        """Run ``work`` in a thread and return its result; ``landed`` runs on the loop whatever happens."""
        loop = asyncio.get_running_loop()
        try:
            future = self._executor.submit(work)
        except RuntimeError:
            future = Future()
            future.set_exception(Unavailable("the share store is closed", code="vault.store_closed"))
        if landed is not None:
            future.add_done_callback(lambda done: _soon(loop, landed, done))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Wait for what runs or waits, then end the threads."""
        self._executor.shutdown(wait=True)


def _soon(loop: asyncio.AbstractEventLoop, landed: Callable[[Future[T]], None], done: Future[T]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the bookkeeping died with it
        loop.call_soon_threadsafe(landed, done)
