"""Real processes: two puts of one name at once, and a site that hangs in the middle of everything."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shosoin.testbed.control import Testbed
from shosoin.testbed.layout import ProcessRole
from shosoin.testbed.scenario import load_scenario

pytestmark = pytest.mark.processes

LIMIT_S = 120.0


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    testbed = asyncio.run(Testbed.up(load_scenario("tiny"), tmp_path_factory.mktemp("together") / "bed"))
    yield testbed
    testbed.down(grace_s=2.0)


@pytest.mark.parametrize("class_", ["its", "qkd"])
def test_of_two_puts_of_one_name_at_once_one_stands_whole(shosoin, bed, tmp_path, class_):
    for turn in range(3):
        files = [tmp_path / f"{turn}-{number}" for number in range(2)]
        for file in files:
            file.write_bytes(os.urandom(60_000))
        name = f"{class_}-{turn}"
        command = [sys.executable, "-m", "shosoin.cli", "put"]
        options = [name, "--class", class_, "--testbed", str(bed.layout.root)]
        writers = [subprocess.Popen([*command, str(file), *options], stderr=subprocess.PIPE) for file in files]
        said = [writer.communicate(timeout=LIMIT_S)[1] for writer in writers]
        codes = [writer.returncode for writer in writers]
        assert 0 in codes, said
        assert set(codes) <= {0, 2}, said
        copy = tmp_path / "copy"
        assert shosoin("get", name, copy, "--testbed", bed.layout.root).code == 0
        acknowledged = [file.read_bytes() for file, code in zip(files, codes, strict=True) if code == 0]
        assert copy.read_bytes() in acknowledged
        verified = shosoin("verify", name, "--testbed", bed.layout.root, "--json")
        assert verified.code == 0
        assert set(verified.json["per_site"].values()) == {"ok"}


def test_a_site_that_hangs_is_left_out_and_loses_nothing(shosoin, bed, tmp_path):
    owner = ("--testbed", bed.layout.root)
    file: Path = tmp_path / "file"
    file.write_bytes(os.urandom(5000))
    assert shosoin("put", file, "before", *owner, "--class", "qkd").code == 0
    pids = {(process.site, process.role): pid for process, pid in bed.pids().items()}
    hanging = pids["naka", ProcessRole.NODE]
    os.kill(hanging, signal.SIGSTOP)
    try:
        stored = shosoin("put", file, "meanwhile", *owner, "--class", "qkd", "--json")
        assert stored.code == 0, stored.err
        assert (stored.json["durable_at"], stored.json["missing"]) == (2, ["naka"])
        for name in ("before", "meanwhile"):
            assert shosoin("get", name, tmp_path / "copy", *owner).code == 0
            assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    finally:
        os.kill(hanging, signal.SIGCONT)
    assert shosoin("put", file, "after", *owner, "--class", "qkd", "--json").json["durable_at"] == 3
    assert shosoin("get", "meanwhile", tmp_path / "copy", *owner).code == 0
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
