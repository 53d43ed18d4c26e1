"""Ctrl-C in a put whose data already lies staged at the sites: nothing is stored, and the name is free.

What may stay are staged bytes, which no record names: a write that was under way may reach a site after it was told to
forget the object. They are dropped at the next start, or when nobody has touched them for a while.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shosoin.adapters.clock import SystemClock
from shosoin.adapters.share_store import ShareStore
from shosoin.base import OwnerId
from shosoin.testbed.control import Testbed
from shosoin.testbed.layout import Process, ProcessRole
from shosoin.testbed.scenario import load_scenario
from shosoin.testbed.tamper import store_directory
from shosoin.vault.ports import ShareRow

pytestmark = pytest.mark.processes

MIB = 1 << 20
LIMIT_S = 60
OWNER = OwnerId("owner-1")


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Testbed]:
    testbed = asyncio.run(Testbed.up(load_scenario("tiny"), tmp_path / "bed"))
    yield testbed
    testbed.down(grace_s=2.0)


def nodes(testbed: Testbed) -> list[Process]:
    return [process for process in testbed.layout.processes() if process.role is ProcessRole.NODE]


def staged_bytes(node: Process) -> int:
    """Bytes in the staging files of a node; a file may go while it is looked at."""
    total = 0
    for path in (store_directory(node) / "staging").iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


def share_files(node: Process) -> list[Path]:
    return [path for path in (store_directory(node) / "shares").rglob("*") if path.is_file()]


def shares_at(node: Process) -> list[ShareRow]:
    """What the records of a stopped node name."""

    async def read() -> list[ShareRow]:
        store = ShareStore.open(store_directory(node), clock=SystemClock())
        try:
            return await store.transact(lambda step: list(step.list_shares(OWNER, "", 1000)))
        finally:
            await store.close()

    return asyncio.run(read())


def putting(testbed: Testbed, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "shosoin.cli", "put", "-", "large", "--class", "qkd", *arguments]
    return subprocess.Popen(
        [*command, "--testbed", str(testbed.layout.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "SHOSOIN_LANG": "en"},
    )


def test_ctrl_c_with_data_staged_leaves_nothing(shosoin, bed, tmp_path):
    owner = ("--testbed", bed.layout.root)
    content = os.urandom(16 * MIB)
    with putting(bed) as client:
        assert client.stdin is not None
        client.stdin.write(content[: 12 * MIB])
        client.stdin.flush()
        deadline_s = time.monotonic() + LIMIT_S
        while min(map(staged_bytes, nodes(bed))) < 4 * MIB:
            assert client.poll() is None
            assert time.monotonic() < deadline_s
            os.sched_yield()
        client.send_signal(signal.SIGINT)
        out, said = client.communicate(timeout=LIMIT_S)
    assert (client.returncode, out) == (130, b"")
    assert b"nothing was left half done" in said
    assert shosoin("ls", *owner, "--json").json["objects"] == []

    bed.down(grace_s=2.0)
    for node in nodes(bed):
        assert share_files(node) == []
        assert shares_at(node) == []
        assert staged_bytes(node) == 0  # reading the store opened it

    asyncio.run(Testbed.up(None, bed.layout.root))
    with putting(bed, "--json") as client:
        out, said = client.communicate(content, timeout=LIMIT_S)
    assert client.returncode == 0, said
    copy = tmp_path / "copy"
    assert shosoin("get", "large", copy, *owner).code == 0
    assert copy.read_bytes() == content
    stored = shosoin("stat", "large", *owner, "--json").json
    bed.down(grace_s=2.0)
    for node in nodes(bed):
        assert [row.key.object_id for row in shares_at(node) if row.size_bytes >= MIB] == [stored["object_id"]]
        assert len(share_files(node)) == 1
