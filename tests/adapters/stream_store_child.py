"""Processes that use a stream store until they are killed: ``python -m tests.adapters.stream_store_child``.

Each line of standard input makes one process. It is JSON with ``spec``, ``["files", DIRECTORY]`` or ``["postgres", DSN,
SCHEMA]``, and either ``line``: the process kills itself before so many lines of the store's own code have run; or
``hold_s``: it opens the store, commits at every further line, and says what came of it.
A process says ``acked K`` after a commit; when it has ended, its parent says ``over``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from hashlib import shake_256
from types import FrameType
from typing import Any

from shosoin.keys.errors import StreamRefused
from shosoin.keys.store import Batch, StreamStore, WipeRange
from tests.adapters.stream_store_places import open_files, open_postgres


def block_name(number: int) -> str:
    return f"out-{number:012d}"


def block_bytes(number: int, granules: int) -> bytes:
    return shake_256(b"block %d" % number).digest(32 * granules)


def _put(number: int, granules: int) -> Batch:
    name = block_name(number)
    records = {f"block/{name}": b"%d" % granules, "stream": b"after block %d" % number}
    return Batch(records=records, blocks={name: block_bytes(number, granules)})


BATCHES = [
    Batch(records={"pair": b"as at every start", "stream": b"new"}),
    _put(1, 70),
    Batch(
        records={f"block/{block_name(2)}": b"5", f"block/{block_name(3)}": b"64", "stream": b"two at once"},
        blocks={block_name(2): block_bytes(2, 5), block_name(3): block_bytes(3, 64)},
    ),
    Batch(records={"stream": b"wiped"}, wipes=[WipeRange(block_name(1), 3, 40), WipeRange(block_name(2), 0, 1)]),
    Batch(records={f"block/{block_name(1)}": None, "stream": b"dropped"}, drops=[block_name(1)]),
    Batch(
        records={f"block/{block_name(2)}": None, f"block/{block_name(4)}": b"33", "stream": b"all together"},
        blocks={block_name(4): block_bytes(4, 33)},
        wipes=[WipeRange(block_name(3), 32, 32)],
        drops=[block_name(2)],
    ),
]


def expected_after(count: int) -> tuple[dict[str, bytes], dict[str, set[int]]]:
    """Return the records, and the wiped granules of each block, after so many batches."""
    records: dict[str, bytes] = {}
    wiped: dict[str, set[int]] = {}
    for batch in BATCHES[:count]:
        for name, value in batch.records.items():
            records.pop(name, None)
            if value is not None:
                records[name] = value
        wiped |= {name: set() for name in batch.blocks}
        for wipe in batch.wipes:
            wiped[wipe.block] |= set(range(wipe.first, wipe.first + wipe.count))
        for name in batch.drops:
            del wiped[name]
    return records, wiped


def open_spec(spec: list[str], **options: Any) -> StreamStore:
    return open_files(spec[1]) if spec[0] == "files" else open_postgres(spec[1], spec[2], **options)


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def _die_at(line: int) -> None:
    left = line

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal left
        if "/adapters/stream_" not in frame.f_code.co_filename or "/tests/" in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def _run_all(spec: list[str], line: int) -> None:
    _die_at(line)
    store = open_spec(spec)
    store.load()
    for number, batch in enumerate(BATCHES, 1):
        store.commit(batch)
        say("acked", number)
    store.close()
    say("whole")


def _hold(spec: list[str], hold_s: float) -> None:
    store = open_spec(spec, hold_s=hold_s)
    store.load()
    say("holds", os.getpid())
    for number, word in enumerate(sys.stdin):
        try:
            store.commit(Batch(records={"held": word.encode()}))
        except StreamRefused as err:
            say("refused", err.message)
        else:
            say("acked", number)


def main() -> None:
    for word in iter(sys.stdin.readline, ""):
        asked = json.loads(word)
        child = os.fork()
        if child == 0:
            if "line" in asked:
                _run_all(asked["spec"], asked["line"])
            else:
                _hold(asked["spec"], asked["hold_s"])
            os._exit(0)
        os.waitpid(child, 0)
        say("over")


if __name__ == "__main__":
    main()
