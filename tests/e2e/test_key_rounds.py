"""Five rounds of ``kill -9`` on two KMEs under load; ``make rounds-keys`` runs hundreds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.key_rounds import run

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

ROUNDS = 5


async def test_no_bit_comes_twice_and_keys_flow_again_after_every_kill(tmp_path: Path) -> None:
    seed = int(os.environ.get("SHOSOIN_SEED", int.from_bytes(os.urandom(3), "little")))
    summary = await run(ROUNDS, seed, tmp_path, print)
    assert summary.ok, summary
    assert summary.rounds == ROUNDS
    assert summary.keys_fetched > 20
    assert summary.stock_drained_bits > 0
