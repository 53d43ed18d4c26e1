"""Deliberate mistakes in the vault: what must catch each finds it, and finds nothing in the vault as it is.

All are tried in one process of their own, in which sets have a fixed order, so that every run is the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.mutants import __main__ as command
from tests.mutants.catalogue import MUTANTS, Mutant, table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tried() -> dict[str, list[dict[str, Any]]]:
    """What came of each mutant's trials."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants", "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        check=False,
        text=True,
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for line in done.stdout.splitlines():
        trial = json.loads(line)
        found.setdefault(trial["mutant"], []).append(trial)
    assert set(found) == {mutant.name for mutant in MUTANTS}, done.stderr[-2000:]
    return found


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_deliberate_mistake_is_caught(mutant: Mutant, tried: dict[str, list[dict[str, Any]]]) -> None:
    trials = tried[mutant.name]
    assert [trial["catcher"] for trial in trials] == [catcher.name for catcher in mutant.caught_by]
    for trial in trials:
        assert trial["without"] is None
        assert trial["found"], f"survives {trial['catcher']}"


def test_there_are_enough_each_in_a_sentence_and_none_twice() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 28
    assert all(mutant.says.endswith(".") for mutant in MUTANTS)


def test_the_documentation_has_the_table() -> None:
    assert table() in (ROOT / "docs/concepts/simulation.md").read_text()


def test_the_command_tells_what_is_caught_by_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["acknowledged_at_k"]) == 0
    told = capsys.readouterr().out
    assert "plan two_full_disks, seed 7" in told
    assert told.endswith("1 of 1 mutants caught\n")


def test_the_command_fails_for_a_mutant_that_survives(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def harmless(patch: pytest.MonkeyPatch) -> None:
        """Nothing is wrong."""

    monkeypatch.setattr(command, "MUTANTS", (Mutant(harmless, MUTANTS[0].caught_by[:1]),))
    assert command.main([]) == 1
    assert "SURVIVES: Nothing is wrong." in capsys.readouterr().out
