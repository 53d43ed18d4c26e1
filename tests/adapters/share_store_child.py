"""A process that fills a share store until somebody kills it, and says what it does and what it was told is done.

``python share_store_child.py DIRECTORY SEED [KILL_AT]``: lines of JSON on standard output, ``do`` before a change and
``done`` after its acknowledgement. With ``KILL_AT`` it kills itself at that operation of the file system.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
from pathlib import Path

from shosoin.adapters.share_store_files import Disk
from shosoin.vault.ports import ShareState
from tests.adapters.store_support import content, key, open_store, row

WORKERS = 3
NUMBERS_PER_WORKER = 6


class DeadlyDisk(Disk):
    """Counts operations and kills the process before the n-th."""

    def __init__(self, kill_at: int) -> None:
        self._left = kill_at
        self._lock = threading.Lock()

    def _count(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    def create(self, path):
        self._count()
        return super().create(path)

    def write_at(self, descriptor, data, offset):
        self._count()
        half = len(data) // 2
        super().write_at(descriptor, data[:half], offset)
        self._count()  # a torn write
        super().write_at(descriptor, data[half:], offset + half)

    def sync(self, descriptor):
        self._count()
        super().sync(descriptor)

    def rename(self, source, target):
        self._count()
        super().rename(source, target)
        self._count()

    def sync_directory(self, path):
        self._count()
        super().sync_directory(path)

    def unlink(self, path):
        self._count()
        super().unlink(path)


def say(**fields) -> None:
    os.write(1, json.dumps(fields).encode() + b"\n")


async def work(store, worker: int, rng: random.Random) -> None:
    while True:
        number = worker * NUMBERS_PER_WORKER + rng.randrange(NUMBERS_PER_WORKER)
        if rng.random() < 0.25:
            say(do="delete", n=number)
            await store.transact(lambda tx, n=number: tx.delete_share(key(n)))
            say(done="delete", n=number)
            continue
        size = rng.choice([rng.randrange(1, 65_536), rng.randrange(65_537, 1_300_000)])
        generation = rng.randrange(1 << 30)
        data = content(size, generation)
        say(do="put", n=number, g=generation, size=size)
        step = rng.choice([20_000, 300_000, 1 << 20])
        pieces = [store.write(key(number), at, data[at : at + step]) for at in range(0, size, step)]
        await asyncio.gather(*pieces)
        if rng.random() < 0.1:
            await store.discard(key(number))
            say(done="nothing", n=number)
            continue
        made = row(key(number), size, await store.finish(key(number), size), ShareState.COMMITTED)
        await store.transact(lambda tx, made=made: tx.put_share(made))
        say(done="put", n=number, g=generation, size=size)


async def main() -> None:
    directory, seed = Path(sys.argv[1]), int(sys.argv[2])
    disk = DeadlyDisk(int(sys.argv[3])) if len(sys.argv) > 3 else None
    store = open_store(directory, disk=disk)
    await asyncio.gather(*(work(store, worker, random.Random(seed * 100 + worker)) for worker in range(WORKERS)))


if __name__ == "__main__":
    asyncio.run(main())
