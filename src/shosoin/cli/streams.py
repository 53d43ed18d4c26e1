"""Standard input and output for the vault, without threads that an interruption could not end.

A thread that is blocked in ``read`` on a terminal cannot be stopped, and the event loop would wait for it at exit.
Here the loop waits until the descriptor is ready and then reads or writes no more than cannot block. Regular files are
always ready, and the loop refuses to watch them: they are used directly.
"""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from typing import Any

__all__ = ["StandardInput", "StandardOutput"]

READ_BYTES_MAX = 1 << 20
WRITE_BYTES_MAX = select.PIPE_BUF
"""A pipe that polls as writable takes this many bytes without blocking (POSIX)."""


class StandardInput:
    """A descriptor as a source of bytes."""

    size_hint: int | None = None

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor

    async def read(self, size_bytes: int) -> bytes:
        """Return up to ``size_bytes`` bytes, exactly that many unless the input ends; empty at its end."""
        parts: list[bytes] = []
        wanted = size_bytes
        while wanted > 0:
            await _ready(self._descriptor, writing=False)
            part = os.read(self._descriptor, min(wanted, READ_BYTES_MAX))
            if not part:
                break
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        """Leave the descriptor open; whoever started us owns it."""


class StandardOutput:
    """A descriptor as a target for bytes."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data``.

        Raises:
            BrokenPipeError: whoever read went away.
        """
        view = memoryview(data).cast("B")
        while view:
            watched = await _ready(self._descriptor, writing=True)
            limit = WRITE_BYTES_MAX if watched else len(view)
            view = view[os.write(self._descriptor, view[:limit]) :]


async def _ready(descriptor: int, *, writing: bool) -> bool:
    """Wait until a descriptor is ready; return false at once for one that cannot be watched (a regular file)."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    watch: Callable[..., Any] = loop.add_writer if writing else loop.add_reader
    forget = loop.remove_writer if writing else loop.remove_reader
    try:
        watch(descriptor, _resolve, ready)
    except PermissionError:
        return False
    try:
        await ready
    finally:
        forget(descriptor)
    return True


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
