"""``shosoin kme run`` and ``shosoin node run``: they serve until they are told to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from shosoin.testbed.build import prepare
from shosoin.testbed.layout import ProcessRole
from shosoin.testbed.scenario import load_scenario

LIMIT_S = 60.0


def wait_for(path, process):
    """Return once a file exists; fail when the process ends first or takes too long."""
    deadline_s = time.monotonic() + LIMIT_S
    while not path.exists():
        assert time.monotonic() < deadline_s
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"ended with {process.returncode}: {process.stderr.read()}")


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("role", list(ProcessRole))
def test_a_service_runs_until_it_is_told_to_stop(tmp_path, role, number):
    process = prepare(load_scenario("tiny"), tmp_path / "bed").process("kita", role)
    command = [sys.executable, "-m", "shosoin.cli", role.value, "run", "--config", str(process.config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as service:
        try:
            wait_for(process.ready, service)
            service.send_signal(number)
            assert service.wait(timeout=LIMIT_S) == 0
        finally:
            service.kill()


@pytest.mark.parametrize("role", ["kme", "node"])
def test_a_bad_configuration_is_rejected(shosoin, tmp_path, role):
    config = tmp_path / "config.toml"
    config.write_text("[nonsense]\n")
    answer = shosoin(role, "run", "--config", config)
    assert answer.code == 2
    assert answer.out == ""
    assert len(answer.errors) == 1
