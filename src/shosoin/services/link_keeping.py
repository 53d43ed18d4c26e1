"""Serving a link for as long as its store lets it, and opening stores without stopping the rest of the process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol, TypeVar

from shosoin.keys.store import StreamStore
from shosoin.services.link_driver import LinkDriver

__all__ = ["open_in_thread", "serve_until_lost", "tried_in_thread"]


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


async def serve_until_lost(driver: LinkDriver, parts: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run the parts of a link until its store is lost in a way that may pass; what a part raises is raised."""
    lost = asyncio.ensure_future(driver.lost.wait())
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.wait([lost, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for each in (lost, *tasks):
            each.cancel()
        await asyncio.gather(lost, *tasks, return_exceptions=True)


async def open_in_thread(open_store: Callable[[], StreamStore]) -> StreamStore:
    """Open a store, which may wait for a disk, a network or another process.

    Whoever is cancelled meanwhile leaves no store open.
    """
    opening = asyncio.get_running_loop().run_in_executor(None, open_store)
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_close_late)
        raise


async def tried_in_thread(opening: Callable[[], T]) -> Callable[[], T]:
    """Return what returns or raises what opening something did, which may take its time; likewise if cancelled."""
    tried = asyncio.get_running_loop().run_in_executor(None, opening)
    try:
        await asyncio.wait({tried})
    except asyncio.CancelledError:
        tried.add_done_callback(_close_late)
        raise
    return tried.result


def _close_late(opening: asyncio.Future[Any]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
