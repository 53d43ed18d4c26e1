"""An owner (and somebody without a certificate) attacks a real node with everything while another owner works with it.

The attacker is a process with the certificate of ``owner-2``; ``owner-1`` stores and fetches beside it through the
command line. Afterwards the node is the same process, has told of no defect, and took no more memory than it may.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import psutil
import pytest

from shosoin.testbed.control import Testbed
from shosoin.testbed.layout import ProcessRole
from shosoin.testbed.scenario import parse_scenario
from tests.hostile.support import Bed
from tests.support.commands import loaded_commands

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(900)]

ATTACKER = Path(__file__).parent / "attacker.py"
SITE = "naka"
CONNECTIONS_PER_CALLER = 256
MEMORY_MAX_BYTES = 900 << 20
"""Of the node: its limit for request bodies is 256 MiB, and parsing a header of 4 MiB takes its share."""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Three sites and two owners, neither of whom lives at the site that is attacked."""
    tiny = (resources.files("shosoin.testbed") / "scenarios" / "tiny.toml").read_text(encoding="utf-8")
    scenario = parse_scenario(f'{tiny}\n[[owner]]\nid = "owner-2"\nsite = "minami"\nquota_bytes = 100_000_000\n')
    testbed = asyncio.run(Testbed.up(scenario, tmp_path_factory.mktemp("attacked") / "bed"))
    try:
        with loaded_commands() as commands:
            yield Bed(testbed, SITE, commands)
    finally:
        testbed.down()


def test_a_node_under_attack_serves_the_others_and_gives_nothing_away(bed: Bed, tmp_path: Path) -> None:
    file, copy = tmp_path / "file", tmp_path / "copy"
    file.write_bytes(os.urandom(20_000))
    receipt = bed.shosoin("put", file, "before", "--class", "pqc", "--json").json
    layout = bed.testbed.layout
    (node,) = [
        pid for process, pid in bed.testbed.pids().items() if (process.site, process.role) == (SITE, ProcessRole.NODE)
    ]
    config = layout.owner_config("owner-2")
    command = [sys.executable, str(ATTACKER), str(config), SITE, "owner-1", receipt["object_id"], receipt["version"]]
    with (tmp_path / "attacker").open("wb") as said:
        attacker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env=_environment())
        try:
            served = _serve_beside(bed, attacker, file, copy)
            out, _ = attacker.communicate(timeout=600)
        finally:
            attacker.kill()
            attacker.wait()
    assert attacker.returncode == 0, (tmp_path / "attacker").read_text()
    _check_told(json.loads(out))
    assert served >= 3
    assert psutil.Process(node).memory_info().rss < MEMORY_MAX_BYTES
    assert bed.testbed.pids()[layout.process(SITE, ProcessRole.NODE)] == node
    log = layout.process(SITE, ProcessRole.NODE).log.read_text()
    assert "node.defect" not in log
    assert '"level": "error"' not in log, log[-3000:]
    assert bed.shosoin("get", "before", copy).code == 0
    assert copy.read_bytes() == file.read_bytes()
    assert bed.shosoin("verify", "before", "--json").json["per_site"][SITE] == "ok"


def _environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def _serve_beside(bed: Bed, attacker: subprocess.Popen[bytes], file: Path, copy: Path) -> int:
    """Work as the other owner as long as the attack lasts; every command must succeed. Return how often it did."""
    served = 0
    while attacker.poll() is None:
        name = f"meanwhile/{served % 5}"
        stored = bed.shosoin("put", file, name, "--class", "pqc", "--json")
        assert stored.code == 0, stored.err
        assert stored.json["missing"] == [], stored.out  # the attacked node took its share, too
        fetched = bed.shosoin("get", name, copy)
        assert fetched.code == 0, fetched.err
        assert copy.read_bytes() == file.read_bytes()
        served += 1
    return served


def _check_told(told: dict[str, list[str]]) -> None:
    """Check what came of each attack."""
    kinds = {attack: set(outcomes) for attack, outcomes in told.items()}
    assert kinds["junk http"] <= {"200", "400", "404", "closed"}, told["junk http"]  # 200: a URI in absolute form
    assert told["junk http"].count("200") == 1
    assert kinds["half closed"] <= {"400", "closed"}
    assert kinds["giant"] <= {"vault.malformed_envelope", "vault.wrong_party", "node.body_too_long"}, told["giant"]
    assert kinds["too long"] == {"node.body_too_long"}
    assert kinds["giant offer"] == {"vault.malformed_envelope"}
    assert kinds["replay"] == {"vault.replay"}
    assert kinds["altered"] <= {"vault.replay", "vault.seal_broken"}
    assert kinds["pretends"] <= {"vault.wrong_party", "vault.class_refused"}
    assert kinds["others"] <= {"vault.no_share", "done"}, told["others"]  # an abort of what is not there is done
    assert told["others"].count("done") == 1
    assert kinds["others register"] == {"done"}
    assert kinds["others listed"] == {"done"}
    assert kinds["others erased"] == {"done"}
    assert "done" not in kinds["forged"], told["forged"]
    assert told["ballot"].count("done") == 0, told["ballot"]
    assert kinds["quota"] <= {"vault.quota_exceeded", "vault.bad_operation"}
    assert told["audits"] == ["done"] * 16 + ["vault.audits_used"]
    assert kinds["stages"] <= {"done", "vault.too_many_stages"}
    assert "vault.too_many_stages" in kinds["stages"]
    assert kinds["no certificate"] == {"closed"}
    assert told["idle"].count("open") <= CONNECTIONS_PER_CALLER, "one owner has at most half of the connections"
