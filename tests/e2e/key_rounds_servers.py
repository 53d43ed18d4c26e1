"""KME processes that start fast: forked from a process that has imported everything, and otherwise like any other.

Interpreters that start would take most of a round's time. A KME here is a process of its own with its own descriptors
and its own random bytes from the operating system; only its imports are inherited.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
from multiprocessing.context import ForkServerProcess
from pathlib import Path

__all__ = ["ForkedServer"]

_READY_S = 120.0
"""Bound for a broken build."""
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["shosoin.services.kme"])


class ForkedServer:
    """One KME, ended by its pid."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.process: ForkServerProcess | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process is not None else None

    def spawn(self) -> None:
        """Start it, without waiting."""
        self.process = _CONTEXT.Process(target=_run, args=(self.config,))
        self.process.start()

    async def start(self) -> None:
        """Start it and wait until it is ready."""
        self.spawn()
        sign = self.config.parent / "state" / "ready"
        async with asyncio.timeout(_READY_S):
            while not self._is_ready(sign):
                await asyncio.sleep(0.005)

    def _is_ready(self, sign: Path) -> bool:
        if self.process is None or self.process.exitcode is not None:
            raise AssertionError((self.config.parent / "log").read_text()[-2000:])
        try:
            return bool(json.loads(sign.read_text())["pid"] == self.process.pid)
        except (FileNotFoundError, ValueError):
            return False

    async def kill(self) -> None:
        """End it at once."""
        process, self.process = self.process, None
        if process is None or process.pid is None:
            return
        os.kill(process.pid, signal.SIGKILL)
        while process.exitcode is None:
            await asyncio.sleep(0.002)
        process.close()


def _run(config: Path) -> None:
    from shosoin.services.kme import run

    log = os.open(config.parent / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    run(config)
