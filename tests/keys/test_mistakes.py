"""Deliberate mistakes in the key streams: what must catch each does, and finds nothing in the code as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shosoin.testing.key_simulation import make_plan, simulate
from tests.keys.mistakes import MISTAKES, applied

ROOT = Path(__file__).parents[2]
SEEDS_MAX = 600
"""A search ends with the first find; other seeds than the noted one find it when the plans have changed."""
SIMULATED = [name for name, mistake in MISTAKES.items() if mistake.caught_by == "simulation"]
TESTED = [name for name in MISTAKES if name not in SIMULATED]


@pytest.mark.parametrize("name", SIMULATED)
def test_the_simulation_catches(name: str) -> None:
    noted = MISTAKES[name].seed
    with applied(MISTAKES[name]):
        found = (simulate(make_plan(seed)).violations for seed in (noted, *range(1, SEEDS_MAX)))
        assert any(found), "no seed breaks a promise"
    assert not simulate(make_plan(noted)).violations


def test_a_test_catches_each_of_the_others() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.keys.mistakes"], cwd=ROOT, capture_output=True, check=False, text=True
    )
    caught = [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" is caught")]
    assert caught == TESTED, done.stdout[-4000:] + done.stderr[-2000:]


def test_there_are_enough_each_in_a_sentence() -> None:
    assert len(MISTAKES) >= 40
    assert all(mistake.says.endswith(".") for mistake in MISTAKES.values())
