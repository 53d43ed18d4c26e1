"""A console session against a real testbed: what an owner does from the first put to the last rm."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shosoin.base import Rejected
from shosoin.testbed.control import Testbed
from shosoin.testbed.scenario import load_scenario
from shosoin.testbed.tamper import alter_share, rot_share

pytestmark = pytest.mark.processes

HEX_128 = re.compile(r"[0-9a-f]{32}")
LABEL_MEMBERS = {
    "class",
    "everlasting",
    "reasons",
    "collusion_number",
    "collusion_set",
    "randomness",
    "epsilon_total",
    "simulated",
}


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A running testbed of three sites for all sessions of this module."""
    root = tmp_path_factory.mktemp("session") / "bed"
    testbed = asyncio.run(Testbed.up(load_scenario("tiny"), root))
    yield root
    testbed.down(grace_s=2.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "records.csv"
    path.write_bytes(os.urandom(40_000))
    return path


def test_an_object_lives_from_put_to_rm(shosoin, bed, file, tmp_path):
    owner = ("--testbed", bed)
    stored = shosoin("put", file, "life/records.csv", *owner, "--json")
    assert stored.code == 0
    assert stored.json["durable_at"] == 3
    assert stored.json["missing"] == []
    assert stored.json["size_bytes"] == 40_000
    assert HEX_128.fullmatch(stored.json["object_id"])
    assert stored.json["label"].keys() >= LABEL_MEMBERS

    listed = shosoin("ls", "life/", *owner, "--json").json["objects"]
    assert [(entry["name"], entry["size_bytes"], entry["class"]) for entry in listed] == [
        ("life/records.csv", 40_000, "its")
    ]
    known = shosoin("stat", "life/records.csv", *owner, "--json").json
    assert known["scheme"] == {"k": 2, "n": 3}
    assert known["placement"] == ["kita", "naka", "minami"]
    assert known["label"]["simulated"] is True
    assert known["label"]["everlasting"] is False
    assert known["label"]["reasons"]
    assert known["label"]["collusion_number"] == 2

    fetched = shosoin("get", "life/records.csv", tmp_path / "copy", *owner, "--json")
    assert fetched.code == 0
    assert fetched.json["alarms"] == []
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()

    assert shosoin("verify", "life/records.csv", *owner, "--json").json["per_site"] == dict.fromkeys(
        ("kita", "naka", "minami"), "ok"
    )
    removed = shosoin("rm", "life/records.csv", *owner, "--json")
    assert removed.code == 0
    gone = shosoin("get", "life/records.csv", tmp_path / "again", *owner)
    assert gone.code == 2
    assert not (tmp_path / "again").exists()
    assert "ls" in gone.hints[0]


def test_people_read_lines(shosoin, bed, file, tmp_path):
    owner = ("--testbed", bed)
    stored = shosoin("put", file, "people", *owner)
    assert stored.out.startswith("stored people (39.1 KiB) in ")
    assert "Who together could open this object, and how we know" in stored.out
    assert "SIMULATED" in stored.out
    assert re.search(r"^people +39\.1 KiB +its +2-of-3 +20", shosoin("ls", *owner).out, re.MULTILINE)
    assert "At least 2 parties must act together" in shosoin("stat", "people", *owner).out
    fetched = shosoin("get", "people", tmp_path / "copy", *owner)
    assert re.match(r"fetched people \(39\.1 KiB\) in .* every byte was checked\n", fetched.out)
    assert shosoin("verify", "people", *owner).out.splitlines()[1:] == ["kita    ok", "naka    ok", "minami  ok"]
    assert shosoin("rm", "people", *owner).out.startswith("removed people; shares erased at ")


def test_pipes_and_ranges(bed, file, tmp_path):
    command = [sys.executable, "-m", "shosoin.cli"]
    content = file.read_bytes()
    put = subprocess.run(
        [*command, "put", "-", "piped", "--testbed", bed, "--class", "its", "--json"],
        input=content,
        capture_output=True,
        check=True,
    )
    assert json.loads(put.stdout)["size_bytes"] == len(content)
    whole = subprocess.run([*command, "get", "piped", "-", "--testbed", bed], capture_output=True, check=True)
    assert whole.stdout == content
    assert whole.stderr.startswith(b"shosoin: fetched piped")
    part = subprocess.run(
        [*command, "get", "piped", "-", "--testbed", bed, "--range", "10-19"], capture_output=True, check=True
    )
    assert part.stdout == content[10:20]


def test_ctrl_c_in_the_middle_of_a_put_stores_nothing(shosoin, bed):
    command = [sys.executable, "-m", "shosoin.cli", "put", "-", "interrupted", "--testbed", str(bed), "--class", "its"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as putting:
        assert putting.stdin is not None
        putting.stdin.write(bytes(300_000))  # more than a pipe holds: when this returns, the command is reading
        putting.stdin.flush()
        putting.send_signal(signal.SIGINT)
        out, said = putting.communicate(timeout=60)
    assert putting.returncode == 130
    assert out == b""
    assert b"nothing was left half done" in said
    assert "interrupted" not in shosoin("ls", "--testbed", bed).out


def test_classes_and_schemes_are_chosen_per_object(shosoin, bed, file):
    answer = shosoin("put", file, "qkd-2-of-2", "--testbed", bed, "--class", "qkd", "--scheme", "2-of-2", "--json")
    assert answer.code == 0
    assert answer.json["label"]["class"] == "qkd"
    assert answer.json["label"]["scheme"] == {"k": 2, "n": 2}
    assert any("computation" in reason for reason in answer.json["label"]["reasons"])


def test_a_plan_is_told_before_anything_is_used(shosoin, bed, file):
    plan = shosoin("put", file, "planned", "--testbed", bed, "--dry-run", "--json").json
    assert plan["class"] == "its"
    assert set(plan["needed_bits"]) == {"naka", "minami"}
    assert min(plan["needed_bits"].values()) >= 8 * 40_000
    assert plan["enough"] is (plan["wait_s"] == 0)
    assert "planned" not in shosoin("ls", "--testbed", bed).out
    said = shosoin("put", file, "planned", "--testbed", bed, "--dry-run").out
    assert "KEY BITS NEEDED" in said


def test_too_large_for_the_stock_is_unavailable_or_falls_back_by_policy(shosoin, bed, tmp_path):
    large = tmp_path / "large"
    large.write_bytes(bytes(8 << 20))
    answer = shosoin("put", large, "large", "--testbed", bed, "--class", "its")
    assert answer.code == 4
    assert "key bits" in answer.errors[0]
    answer = shosoin("put", large, "large", "--testbed", bed, "--class", "auto", "--json")
    assert answer.code == 0
    assert answer.json["label"]["class"] == "qkd"
    assert "its, else qkd" in answer.err


def test_get_replaces_a_file_only_when_all_is_well(shosoin, bed, file, tmp_path):
    owner = ("--testbed", bed)
    shosoin("put", file, "replace", *owner)
    target = tmp_path / "target"
    target.write_bytes(b"old")
    assert shosoin("get", "no such name", target, *owner).code == 2
    assert target.read_bytes() == b"old"
    assert shosoin("get", "replace", target, *owner).code == 0
    assert target.read_bytes() == file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["records.csv", "target"]
    refused = shosoin("get", "replace", tmp_path, *owner)
    assert refused.code == 2
    assert "is not a regular file" in refused.errors[0]
    refused = shosoin("get", "replace", "/dev/null", *owner)
    assert refused.code == 2
    assert "> /dev/null" in refused.hints[0]
    link = tmp_path / "link"
    link.symlink_to(target)
    target.write_bytes(b"old")
    assert shosoin("get", "replace", link, *owner).code == 0
    assert link.is_symlink()
    assert target.read_bytes() == file.read_bytes()


def test_a_liar_and_a_rotten_disk_are_told_apart(shosoin, bed, file, tmp_path):
    owner = ("--testbed", bed)
    testbed = Testbed.load(bed)
    for name, fault in (("lied", alter_share), ("rotten", rot_share)):
        object_id = shosoin("put", file, name, *owner, "--json").json["object_id"]
        altered = asyncio.run(fault(testbed, "naka", "owner-1", object_id))
        assert altered.site == "naka"

    lied = shosoin("get", "lied", tmp_path / "copy", *owner, "--json")
    assert lied.code == 0
    assert [alarm["site"] for alarm in lied.json["alarms"]] == ["naka"]
    assert "shosoin: alarm: naka" in lied.err
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    checked = shosoin("verify", "lied", *owner, "--json")
    assert checked.code == 6
    assert checked.json["per_site"]["naka"] == "wrong"
    assert "not right at naka" in checked.errors[0]

    rotten = shosoin("verify", "rotten", *owner, "--json")
    assert rotten.code == 6
    assert rotten.json["per_site"]["naka"] == "damaged"
    assert shosoin("get", "rotten", tmp_path / "copy", *owner).code == 0
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


def test_tampering_with_what_is_not_there_is_refused_and_leaves_the_node_running(bed):
    testbed = Testbed.load(bed)
    with pytest.raises(Rejected, match="naka has no share"):
        asyncio.run(alter_share(testbed, "naka", "owner-1", "00" * 16))
    assert all(status.serving for status in testbed.status())


def test_sites_go_and_come_back(shosoin, bed, file, tmp_path):
    owner, directory = ("--testbed", bed), ("--dir", bed)
    shosoin("put", file, "survivor", *owner)
    assert shosoin("testbed", "kill", "minami", *directory, "--json").json == {"killed": ["minami/kme", "minami/node"]}
    status = shosoin("testbed", "status", *directory, "--json").json
    assert status["serving"] is False
    assert {process["site"] for process in status["processes"] if process["pid"] is None} == {"minami"}
    assert shosoin("get", "survivor", tmp_path / "copy", *owner).code == 0
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
    partly = shosoin("verify", "survivor", *owner, "--json")
    assert partly.code == 4
    assert partly.json["per_site"]["minami"] == "unreachable"
    assert shosoin("testbed", "start", "minami", *directory, "--json").json == {
        "started": ["minami/kme", "minami/node"]
    }
    status = shosoin("testbed", "status", *directory, "--json").json
    assert status["serving"] is True
    assert all(link["stock_bits"] is not None for link in status["links"])
    assert shosoin("verify", "survivor", *owner).code == 0
    assert "nothing to do" in shosoin("testbed", "start", "minami", *directory).out


def test_an_unknown_owner_is_refused(shosoin, bed):
    answer = shosoin("ls", "--testbed", bed, "--as", "owner-2")
    assert answer.code == 2
    assert "owner-1" in answer.hints[0]
