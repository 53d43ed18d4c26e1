"""``shosoin repair`` over real processes: a site that was dead during puts gets its shares."""

from __future__ import annotations

import asyncio
import os
import re
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
from shosoin.cli.repair import duration_s
from shosoin.kernels import combine_into, lagrange_weights, point_of
from shosoin.testbed.control import Testbed
from shosoin.testbed.layout import Process, ProcessRole
from shosoin.testbed.scenario import load_scenario
from shosoin.testbed.tamper import store_directory
from shosoin.vault.ports import ShareKey, ShareState

AWAY = "hongo"
LIMIT_S = 120


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Testbed]:
    testbed = asyncio.run(Testbed.up(load_scenario("five-sites"), tmp_path / "bed"))
    yield testbed
    testbed.down(grace_s=2.0)


def node_of(testbed: Testbed, site: str) -> Process:
    return next(
        process for process in testbed.layout.processes() if process.role is ProcessRole.NODE and process.site == site
    )


def shares_at(node: Process) -> dict[ShareKey, tuple[int, bytes, ShareState]]:
    """Place, bytes and state of every share of a stopped node."""

    async def read() -> dict[ShareKey, tuple[int, bytes, ShareState]]:
        store = ShareStore.open(store_directory(node), clock=SystemClock())
        try:
            rows = await store.transact(lambda step: list(step.list_shares(OwnerId("owner-1"), "", 1000)))
            return {row.key: (row.x_index, bytes(await store.read(row, 0, row.size_bytes)), row.state) for row in rows}
        finally:
            await store.close()

    return asyncio.run(read())


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_site_that_was_dead_gets_its_shares_from_the_others(shosoin, bed, tmp_path):
    owner = ("--testbed", bed.layout.root)
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(os.urandom(5_000))
    large.write_bytes(os.urandom(3_000_000))
    bed.kill(f"{AWAY}/node")
    put = shosoin("put", small, "small", "--class", "its", *owner)
    assert put.code == 0
    assert f"not yet at: {AWAY}\n`shosoin repair small` completes it" in put.out
    assert shosoin("put", large, "large", "--class", "qkd", *owner, "--json").json["missing"] == [AWAY]
    left = shosoin("repair", "--all", *owner)
    assert left.code == 4
    assert f"{AWAY} does not answer" in left.out
    asyncio.run(bed.start(f"{AWAY}/node"))

    planned = shosoin("repair", "--all", "--dry-run", *owner, "--json").json
    assert {(need["name"], need["site"], need["reason"]) for need in planned["planned"]} >= {
        ("small", AWAY, "not written"),
        ("large", AWAY, "not written"),
    }
    assert planned["repaired"] == []
    done = shosoin("repair", "--all", *owner, "--json")
    assert done.code == 0, done
    assert all(each["done"] and each["durable_at"] == 5 for each in done.json["repaired"])
    for name in ("small", "large"):
        assert shosoin("stat", name, *owner, "--json").json["label"]["durable_at"] == 5
    assert shosoin("repair", "--all", *owner).out == "every site holds every share that it should\n"
    assert set(shosoin("verify", "large", *owner, "--json").json["per_site"].values()) == {"ok"}

    for away in ("koganei", "musashino"):
        bed.kill(f"{away}/node")
    for source, name in ((small, "small"), (large, "large")):
        assert shosoin("get", name, tmp_path / "copy", *owner).code == 0
        assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    bed.down(grace_s=2.0)
    held = {site: shares_at(node_of(bed, site)) for site in (AWAY, "koganei", "otemachi", "hakusan")}
    assert len(held[AWAY]) >= 4
    for key, (place, content, state) in held[AWAY].items():
        others = [held[site][key] for site in ("koganei", "otemachi", "hakusan")]
        expected = bytearray(len(content))
        weights = lagrange_weights([point_of(each[0]) for each in others], point_of(place))
        combine_into(weights, [each[1] for each in others], expected)
        assert content == expected
        assert state is ShareState.COMMITTED


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_rounds_go_on_until_they_are_told_to_stop(shosoin, bed, tmp_path):
    owner = ("--testbed", bed.layout.root)
    small = tmp_path / "small"
    small.write_bytes(b"kept")
    bed.kill(f"{AWAY}/node")
    assert shosoin("put", small, "small", "--class", "qkd", *owner).code == 0
    command = [sys.executable, "-m", "shosoin.cli", "repair", "--all", "--every", "1s", "--json"]
    with subprocess.Popen(
        [*command, "--testbed", str(bed.layout.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "SHOSOIN_LANG": "en"},
    ) as client:
        try:
            assert client.stdout is not None
            assert f"{AWAY} does not answer" in client.stdout.readline()
            asyncio.run(bed.start(f"{AWAY}/node"))
            end_s = time.monotonic() + LIMIT_S
            for line in client.stdout:
                if '"planned": []' in line:
                    break
                assert time.monotonic() < end_s
            client.send_signal(signal.SIGTERM)
            assert client.wait(timeout=LIMIT_S) == 128 + signal.SIGTERM
        finally:
            client.kill()
    assert shosoin("stat", "small", *owner, "--json").json["label"]["durable_at"] == 5


@pytest.mark.parametrize(
    ("given", "seconds"), [("30s", 30), ("10m", 600), ("6h", 21_600), ("1d", 86_400), ("2", 2), (" 1.5 h", 5400)]
)
def test_durations(given, seconds):
    assert duration_s(given) == seconds


@pytest.mark.parametrize("given", ["", "0s", "-1s", "soon", "1y", "1e9"])
def test_what_is_no_duration_is_refused(shosoin, given):
    answer = shosoin("repair", "--all", f"--every={given}", "--config", "none.toml")
    assert answer.code == 2
    assert re.search("is no duration|no such file|cannot read", answer.err)


def test_names_or_all(shosoin):
    assert shosoin("repair", "--config", "none.toml").code == 2
    assert shosoin("repair", "a", "--all", "--config", "none.toml").code == 2
