"""The event loop as the vault sees it, on asyncio.

``AsyncioRuntime`` adds nothing to asyncio but bounds: work that blocks goes to a fixed number of threads.
A deterministic simulation hands the vault another ``Runtime``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

from shosoin.base.ports import Task

__all__ = ["AsyncioRuntime"]

T = TypeVar("T")
THREADS = 4


class AsyncioRuntime:
    """``Runtime`` on the running asyncio loop.

    A task that nobody asks for its result fails silently here, as the port says: ``result`` raises, nothing else does.
    """

    def __init__(self, threads: int = THREADS) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="shosoin-work")
        self._running: set[asyncio.Task[Any]] = set()  # the loop itself only keeps weak references

    def now_s(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """Run a coroutine beside the caller."""
        task = asyncio.create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()

    async def wait(self, tasks: Collection[Task[Any]], *, timeout_s: float | None, first: bool) -> None:
        """Wait until all tasks (or, with ``first``, any one) ended or the time is over; raises nothing."""
        if not tasks:
            return
        until = asyncio.FIRST_COMPLETED if first else asyncio.ALL_COMPLETED
        await asyncio.wait(cast("Collection[asyncio.Task[Any]]", tasks), timeout=timeout_s, return_when=until)

    async def in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function that computes or does file I/O away from the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)

    def close(self) -> None:
        """End the threads; work that already runs is finished first."""
        self._executor.shutdown(wait=True, cancel_futures=True)
