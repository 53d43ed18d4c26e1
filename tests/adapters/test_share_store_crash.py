"""Real processes killed at random moments: what was acknowledged is there, what was not is whole or absent."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shosoin.adapters.share_store import ShareStore
from shosoin.vault.ports import ShareRow
from tests.adapters.store_support import OWNER, content, key, open_store

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("share_store_child.py")
TIME_LIMIT_S = 120.0

pytestmark = pytest.mark.processes


@dataclass
class Model:
    """What each share may be after a crash: what was acknowledged last, or a change that was under way."""

    allowed: dict[int, list[dict[str, Any] | None]] = field(default_factory=dict)
    acknowledged: int = 0

    def hear(self, line: bytes) -> None:
        if not line.endswith(b"\n"):
            return  # torn by the kill
        said = json.loads(line)
        number = said["n"]
        value = {"g": said["g"], "size": said["size"]} if "g" in said else None
        options = self.allowed.setdefault(number, [None])
        if "do" in said:
            options.append(value)
        elif said["done"] == "nothing":
            options.pop()
        else:
            self.allowed[number] = [value]
            self.acknowledged += 1

    def found(self, rows: dict[int, ShareRow], generations: dict[int, int | None]) -> None:
        """Compare and go on from what is there."""
        for number, options in self.allowed.items():
            row = rows.get(number)
            value = None if row is None else {"g": generations[number], "size": row.size_bytes}
            assert value in options, f"share {number} is {value}, expected one of {options}"
            self.allowed[number] = [value]
        assert set(rows) <= set(self.allowed)


def environment_of_children() -> dict[str, str]:
    """Return an environment in which children find this project and these tests."""
    paths = [str(ROOT / "src"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def spawn(directory: Path, seed: int, *more: str) -> subprocess.Popen[bytes]:
    environment = environment_of_children()
    return subprocess.Popen(
        [sys.executable, str(CHILD), str(directory), str(seed), *more], stdout=subprocess.PIPE, env=environment
    )


def run_and_kill(directory: Path, seed: int, model: Model, *, after: int | None, kill_at: int | None = None) -> None:
    """Run a child until it acknowledged ``after`` changes (or kills itself), then kill it."""
    child = spawn(directory, seed, *([str(kill_at)] if kill_at else []))
    watchdog = threading.Timer(TIME_LIMIT_S, child.kill)
    watchdog.start()
    try:
        assert child.stdout is not None
        goal = None if after is None else model.acknowledged + after
        for line in child.stdout:
            model.hear(line)
            if goal is not None and model.acknowledged >= goal:
                child.kill()
                goal = None
        assert child.wait() == -signal.SIGKILL
        assert watchdog.is_alive(), "the child did not get there in time"
    finally:
        watchdog.cancel()
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


async def count_of(store: ShareStore, table: str) -> int:
    """Return the number of rows of a table."""
    counted = await store._writer.run(lambda step: step.connection.execute(f"SELECT count(*) FROM {table}").fetchone())
    return int(counted[0])


async def check(directory: Path, model: Model) -> None:
    """Open the store after a crash and compare everything with the model."""
    store = open_store(directory)
    try:
        assert store.recovered.damaged == ()
        listed = await store.transact(lambda tx: list(tx.list_shares(OWNER, "", 1000)))
        rows = {int(found.key.object_id, 16): found for found in listed}
        generations = {}
        for number, found in rows.items():
            data = await store.read(found, 0, found.size_bytes)
            options = [option for option in model.allowed[number] if option]
            fits = [option["g"] for option in options if content(option["size"], option["g"]) == data]
            generations[number] = fits[0] if fits else None
        model.found(rows, generations)
        used = await store.transact(lambda tx: tx.used_bytes(OWNER))
        assert used == sum(found.size_bytes for found in listed)
        assert (await store.scrub(1 << 40)).damaged == ()
        assert await asyncio.to_thread(store._eraser.wait_idle, 60)
        in_files = {store._directory.share_path(int(r.locator[1:], 16)) for r in listed if r.locator[0] == "f"}
        assert {path for path in store._directory.shares.rglob("*") if path.is_file()} == in_files
        assert list(store._directory.staging.iterdir()) == []
        garbage = await count_of(store, "garbage")
        assert garbage == 0
    finally:
        await store.close()


@pytest.mark.parametrize("seed", range(2))
async def test_nothing_acknowledged_is_lost_over_many_kills(tmp_path, seed):
    model, rng = Model(), random.Random(seed)
    for round_number in range(4):
        after = rng.randint(1, 60)
        await asyncio.to_thread(run_and_kill, tmp_path / "store", seed * 10 + round_number, model, after=after)
        await check(tmp_path / "store", model)
    assert model.acknowledged > 4
    assert key(1).owner == OWNER


@pytest.mark.parametrize("seed", range(8))
async def test_a_kill_at_any_operation_of_the_file_system_leaves_whole_shares(tmp_path, seed):
    model, rng = Model(), random.Random(1000 + seed)
    for round_number in range(2):
        # The first operations prepare the directory; a fresh store dies there as well.
        kill_at = rng.randint(1, 12) if seed == 0 else rng.randint(8, 120)
        await asyncio.to_thread(
            run_and_kill, tmp_path / "store", seed * 10 + round_number, model, after=None, kill_at=kill_at
        )
        await check(tmp_path / "store", model)


GROWS_UNTIL_THE_LIMIT = """
import asyncio, json, resource, sys
from pathlib import Path
from shosoin.base import ObjectId, Unavailable
from shosoin.vault.ports import RegisterRow, ShareState
from tests.adapters.store_support import OWNER, content, key, open_store, put

async def main():
    store = open_store(Path(sys.argv[1]))
    small = await put(store, key(1), content(5000))
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))
    codes = []
    try:
        await put(store, key(2), content(4 << 20))
    except Unavailable as err:
        codes.append(err.code)
    done = 0
    try:
        for number in range(100, 2000):
            value = RegisterRow(accepted_value="x" * 50_000)
            await store.transact(lambda tx: tx.put_register(OWNER, ObjectId(f"{number:032x}"), value))
            done += 1
    except Unavailable as err:
        codes.append(err.code)
    try:
        await store.transact(lambda tx: tx.delete_share(key(1)))
    except Unavailable as err:
        codes.append(err.code)
    readable = await store.read(small, 0, 5000) == content(5000)
    print(json.dumps({"codes": codes, "done": done, "readable": readable}))
    sys.stdout.flush()
    import os
    os._exit(0)

asyncio.run(main())
"""


async def test_when_files_cannot_grow_writes_fail_and_what_was_acknowledged_stays(tmp_path):
    environment = environment_of_children()
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", GROWS_UNTIL_THE_LIMIT, str(tmp_path / "store")],
        capture_output=True,
        env=environment,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    said = json.loads(ended.stdout)
    assert said["codes"] == ["vault.storage_failed"] * 3
    assert said["readable"]
    assert said["done"] > 5
    store = open_store(tmp_path / "store")
    count = await count_of(store, "registers")
    assert count == said["done"]
    assert await store.transact(lambda tx: tx.share(key(1))) is not None
    assert await store.transact(lambda tx: tx.share(key(2))) is None
    await store.close()
