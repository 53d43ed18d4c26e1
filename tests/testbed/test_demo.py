"""The main job, from the outside: the command as people and programs run it, and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.processes

COMMAND = [sys.executable, "-m", "shosoin.cli", "demo", "--scenario", "tiny"]
LIMIT_S = 120


@pytest.fixture
def temporary(tmp_path):
    """The directory in which the demonstration makes its own; processes that mention it are its processes."""
    directory = tmp_path / "t"
    directory.mkdir()
    yield directory
    for process in processes_of(directory):
        process.kill()


def processes_of(directory: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
        except psutil.Error:
            continue
        if "shosoin.testbed.launch" in command and any(str(directory) in word for word in command):
            found.append(process)
    return found


def environment(temporary: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(temporary), "LANG": "C.UTF-8", "SHOSOIN_LANG": "en"}


def run(temporary: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments], env=environment(temporary), capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


def assert_nothing_left(temporary: Path) -> None:
    assert processes_of(temporary) == []
    assert list(temporary.iterdir()) == []


def test_the_main_job(temporary, tmp_path):
    file = tmp_path / "records"
    file.write_bytes(os.urandom(20_000))
    done = run(temporary, str(file), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["file_bytes"] == 20_000
    assert result["scheme"] == {"k": 2, "n": 3}
    assert result["sites"] == ["kita", "naka", "minami"]
    assert result["lost"] == ["minami"]
    assert result["identical"] is True
    assert result["liar_named"] == result["liar_altered"] == "naka"
    assert result["durable_at"] == 3
    assert result["key_bits_used"] > 2 * 8 * 20_000
    assert result["put_seconds"] > 0
    assert result["get_seconds"] > 0
    assert result["simulated"] is True
    label = result["label"]
    assert label["class"] == "its"
    assert label["everlasting"] is False
    assert any("simulated" in reason for reason in label["reasons"])
    assert label["collusion_number"] == len(label["collusion_set"]) == 2
    assert label["simulated"] is True
    assert {"randomness", "epsilon_total"} <= label.keys()
    assert_nothing_left(temporary)


def test_people_are_told_who_could_open_it(temporary):
    done = run(temporary, "--class", "auto", "--lose", "0")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Class its needs" in done.stdout
    assert "ALARM: naka gave a wrong answer" in done.stdout
    assert "lied, was named" in done.stdout
    assert "The file came back identical, also when naka lied." in done.stdout
    assert "At least 2 parties must act together" in done.stdout
    assert "SIMULATED" in done.stdout
    assert_nothing_left(temporary)


def test_class_qkd(temporary):
    result = json.loads(run(temporary, "--class", "qkd", "--json").stdout)
    assert result["label"]["class"] == "qkd"
    assert result["identical"] is True
    assert result["liar_named"] == "naka"


def test_losing_too_many_sites_really_fails(temporary):
    done = run(temporary, "--lose", "2", "--json")
    assert done.returncode == 4
    assert done.stdout == ""
    assert "with 2 of 3 sites lost 1 are left, and 2 are needed" in done.stderr
    assert "the vault said: 1 of 3 sites give a sound answer" in done.stderr
    assert "survives the loss of 1 sites" in done.stderr
    assert_nothing_left(temporary)


def said_in_order(out: str, *beginnings: str) -> bool:
    """Whether the lines that begin so are there, each after the one before."""
    lines = iter(out.splitlines())
    return all(any(line.startswith(beginning) for line in lines) for beginning in beginnings)


def test_a_large_file_follows_the_policy_that_was_stated_first(temporary, tmp_path):
    file = tmp_path / "large"
    file.write_bytes(os.urandom(20_000_000))
    done = run(temporary, str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert said_in_order(
        done.stdout,
        "Policy: class its if the keys for the put and two gets suffice within 60.0 s, else qkd.",
        "Starting 6 processes",
        "Class its needs ",
        "Class qkd needs one key of 256 bits",
        "Too few key bits for class its, so by the policy 'its, else qkd' the class is qkd.",
        "Stored large (19.1 MiB)",
        "Fetched it in ",
        "Fetched it in ",
        "The file came back identical",
        "Class qkd: ",
    )
    (plan,) = (line for line in done.stdout.splitlines() if line.startswith("Class its needs"))
    assert "links hold 33,554,432 at most: no wait helps" in plan
    assert "DIFFERENT" not in done.stdout
    assert_nothing_left(temporary)


def test_a_large_file_gets_its_where_the_keys_suffice(temporary, tmp_path):
    file = tmp_path / "large"
    file.write_bytes(os.urandom((64 << 10) + 1))
    done = run(temporary, str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert said_in_order(done.stdout, "Policy: ", "Starting ", "Class its needs ", "Transfer class: its.", "Stored ")
    assert "Class qkd needs" not in done.stdout
    file.write_bytes(os.urandom(64 << 10))
    assert "Policy" not in run(temporary, str(file)).stdout


def test_keys_that_would_only_do_for_the_put_are_too_few(temporary, tmp_path):
    """The stock covers the put; the gets would have to wait far longer than the policy says."""
    scenario = tmp_path / "slow.toml"
    shipped = resources.files("shosoin.testbed").joinpath("scenarios/tiny.toml").read_text(encoding="utf-8")
    slow = shipped.replace("speedup = 10.0", "speedup = 0.004")
    scenario.write_text(slow.replace("stock_bits_at_start = 8_388_608", "stock_bits_at_start = 2_097_152"))
    file = tmp_path / "large"
    file.write_bytes(os.urandom(120_000))
    done = run(temporary, str(file), "--scenario", str(scenario))
    assert (done.returncode, done.stderr) == (0, "")
    assert said_in_order(done.stdout, "Policy: ", "Class its needs ", "Too few key bits for class its", "Stored ")
    (plan,) = (line for line in done.stdout.splitlines() if line.startswith("Class its needs"))
    assert "a wait of" in plan
    assert "no wait" not in plan
    needed, stock = (int(number.replace(",", "")) for number in re.findall(r"needs ([\d,]+) .* has ([\d,]+)", plan)[0])
    assert needed < stock < 3 * needed


def test_an_explicit_class_its_stays_strict(temporary, tmp_path):
    file = tmp_path / "large"
    file.write_bytes(bytes(16 << 20))
    done = run(temporary, str(file), "--class", "its")
    assert done.returncode == 4
    assert "Policy" not in done.stdout
    assert "Stored" not in done.stdout
    assert "shosoin: error: class its needs" in done.stderr
    assert "links hold 33554432 at most" in done.stderr
    assert "--class auto" in done.stderr
    assert_nothing_left(temporary)


def test_a_kept_directory_is_stopped_and_can_be_used_again(temporary, tmp_path):
    directory = tmp_path / "kept"
    done = run(temporary, "--dir", str(directory), "--json")
    assert done.returncode == 0, done.stderr
    assert processes_of(directory) == []
    assert json.loads((directory / "testbed.json").read_text())["sites"][0]["kme"]["pid"] is None
    again = run(temporary, "--dir", str(directory), "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["identical"] is True


@pytest.mark.parametrize(
    ("number", "after"),
    [
        (signal.SIGINT, "Starting"),
        (signal.SIGINT, "Stored"),
        (signal.SIGINT, "Killed"),
        (signal.SIGINT, "Altered"),
        (signal.SIGTERM, "All of them"),
    ],
)
def test_stopping_it_at_any_point_leaves_nothing(temporary, number, after):
    with subprocess.Popen(
        COMMAND, env=environment(temporary), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        deadline_s = time.monotonic() + LIMIT_S
        for line in demo.stdout:
            if line.startswith(after) or time.monotonic() > deadline_s:
                break
        demo.send_signal(number)
        _, said = demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == 128 + number
    assert "stopped; nothing was left half done" in said
    assert_nothing_left(temporary)
