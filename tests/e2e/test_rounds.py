"""Six rounds of kills, full disks and lies under load on real processes; ``make rounds`` runs hundreds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.rounds import run

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900)]

ROUNDS = 6


async def test_what_was_acknowledged_reads_back_and_every_history_is_linearizable(tmp_path: Path) -> None:
    seed = int(os.environ.get("SHOSOIN_SEED", int.from_bytes(os.urandom(3), "little")))
    summary = await run(ROUNDS, seed, tmp_path / "bed", print)
    assert summary.ok, summary
    assert summary.outcomes["put"] > 5
    assert summary.outcomes["get"] > 5
