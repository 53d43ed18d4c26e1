"""Both ends of a pair under faults: a few dozen seeds here, thousands in ``make soak-keys``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from shosoin.keys.errors import StreamRefused
from shosoin.keys.store import Batch, WipeRange
from shosoin.testing.key_simulation import make_plan, shrink, simulate
from shosoin.testing.key_simulation.__main__ import main
from shosoin.testing.key_simulation.disk import DiskCrash, SimulatedDisk
from shosoin.testing.key_simulation.kinds import KINDS
from tests.keys.mistakes import MISTAKES, applied

SEEDS = 36
BATCH = Batch(
    records={"block/out-1": b"new"},
    blocks={"out-1": bytes([1]) * 64},
    wipes=[WipeRange("out-0", 0, 1)],
    drops=["out-2"],
)


@pytest.fixture(scope="module")
def outcomes():
    return [simulate(make_plan(seed)) for seed in range(1, SEEDS + 1)]


def test_no_seed_breaks_a_promise(outcomes):
    assert {outcome.plan.seed: outcome.violations for outcome in outcomes if outcome.violations} == {}


def test_the_seeds_exercise_everything(outcomes):
    counts = sum((outcome.counts for outcome in outcomes[1:]), outcomes[0].counts)
    assert {name for name in KINDS if not counts[name]} == set()
    for what in (
        "keys fetched",
        "keys drained",
        "restores",
        "handshakes",
        "stopped cleanly",
        "operator is done",
        "keys drawn ahead and used",
        "copies fetched",
        "multicast keys in calm",
    ):
        assert counts[what] > 20, what
    for what in ("operator is interrupted", "operator is told that the secret was used before", "keys.restored_copy"):
        assert counts[what], what
    for what in ("dies inside a commit", "keys.block_mismatch", "keys.damaged", "streams given up"):
        assert counts[what], what


def test_one_seed_replays_whatever_the_order_of_sets():
    digests = set()
    for hashes in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-m", "shosoin.testing.key_simulation", "--seed", "8", "--json"],
            env={**os.environ, "PYTHONHASHSEED": hashes},
            capture_output=True,
            check=True,
        )
        digests.add(json.loads(done.stdout)["digest"])
    assert len(digests) == 1


def test_a_failing_plan_becomes_small_and_tells_its_story(capsys):
    with applied(MISTAKES["lease_off_by_one"]):
        outcome = simulate(make_plan(1))
        small = shrink(outcome, runs_max=60)
        assert small.violations
        assert len(small.plan.events) < len(outcome.plan.events) // 4
        assert main(["--seed", "1", "--story"]) == 1
    told = capsys.readouterr().out
    assert "sends welcome" in told
    assert f"broken: {outcome.violations[0]}" in told


def test_a_run_without_events_is_quiet():
    outcome = simulate(replace(make_plan(1), events=()))
    assert outcome.violations == ()
    assert outcome.counts["keys drained"] > 10


def test_the_command_reports_seeds_and_counts(capsys):
    assert main(["--seeds", "2", "--start", "5", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["seeds"], report["start"], report["failed"]) == (2, 5, {})
    assert report["counts"]["events"] > 200


def old_disk():
    disk = SimulatedDisk()
    disk.commit(
        Batch(records={f"block/out-{n}": b"old" for n in (0, 2)}, blocks={f"out-{n}": b"x" * 64 for n in (0, 2)})
    )
    return disk


@pytest.mark.parametrize("steps", range(5))
def test_a_torn_commit_keeps_the_order_that_batches_promise(steps):
    disk = old_disk()
    disk.crash_after = steps
    if steps < 4:
        with pytest.raises(DiskCrash):
            disk.commit(BATCH)
    else:
        disk.commit(BATCH)
    done = (
        "out-1" in disk.blocks,
        "block/out-1" in disk.records,
        bool(disk.blocks["out-0"].damaged),
        "out-2" not in disk.blocks,
    )
    assert done == tuple(steps > position for position in range(4))
    disk.open()
    disk.load()
    assert ("out-1" in disk.blocks) is (steps > 1)


def test_a_full_disk_takes_nothing_more_until_it_is_opened_again():
    disk = old_disk()
    disk.full_after = 1
    for _ in range(2):
        with pytest.raises(StreamRefused):
            disk.commit(BATCH)
    disk.open()
    disk.commit(BATCH)
