"""Standard output that is full, or that cannot show a character: an answer, never a defect of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ASCII = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "SHOSOIN_LANG": "ja"}
DOCTOR = [sys.executable, "-m", "shosoin.cli", "doctor"]


def test_a_terminal_that_lacks_characters_gets_their_numbers(tmp_path):
    done = subprocess.run(DOCTOR, capture_output=True, env=ASCII, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert rb"\u" in done.stdout
    assert b"defect" not in done.stderr


def test_json_stays_json_on_such_a_terminal(tmp_path):
    done = subprocess.run([*DOCTOR, "--json"], capture_output=True, env=ASCII, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode("ascii"))["kernels"]["means"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_output_that_has_no_space_is_not_called_a_defect(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(DOCTOR, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
    assert done.returncode == 4
    assert b"defect" not in done.stderr
    assert b"no space left" in done.stderr.lower()
