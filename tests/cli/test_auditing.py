"""``audit``, ``verify`` of many and ``evidence`` against a real testbed: what the guide does not show."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from shosoin.base import Rejected
from shosoin.cli.quantities import duration_s, rate_bytes_per_s
from shosoin.testbed.control import Testbed
from shosoin.testbed.scenario import load_scenario
from shosoin.testbed.tamper import alter_share


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("90s", 90), ("15m", 900), ("15min", 900), ("6h", 21_600), ("28d", 2_419_200), ("1.5h", 5400)],
)
def test_durations(given: str, seconds: float) -> None:
    assert duration_s(given) == seconds


@pytest.mark.parametrize(("given", "rate"), [("1000", 1e3), ("50MB", 5e7), ("1 MiB", 1 << 20), ("0.5GB", 5e8)])
def test_rates(given: str, rate: float) -> None:
    assert rate_bytes_per_s(given) == rate


@pytest.mark.parametrize("given", ["", "h", "6", "-6h", "0s", "6 y", "inf s", "1e3s", "six"])
def test_what_is_no_duration_is_refused(given: str) -> None:
    with pytest.raises(Rejected, match="not a duration"):
        duration_s(given)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--all", "name"),
        ("--all", "--prefix", "p"),
        ("--all", "--every", "often"),
        ("--all", "--slot", "0d"),
        ("--all", "--limit-rate", "0"),
    ],
)
def test_an_audit_that_makes_no_sense_is_refused_before_anything_is_asked(shosoin, tmp_path, options):
    answer = shosoin("audit", *options, "--config", tmp_path / "none.toml")
    assert answer.code == 2
    assert answer.hints


def test_a_verify_of_everything_and_a_name_is_refused(shosoin, tmp_path):
    assert shosoin("verify", "--all", "name", "--config", tmp_path / "none.toml").code == 2
    assert shosoin("verify", "--config", tmp_path / "none.toml").code == 2


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """A testbed of three sites."""
    testbed = asyncio.run(Testbed.up(load_scenario("tiny"), tmp_path_factory.mktemp("auditing") / "bed"))
    yield testbed
    testbed.down(grace_s=2.0)


@pytest.mark.processes
def test_liars_are_found_by_audit_proved_by_verify_and_written_down(shosoin, bed, tmp_path):
    owner = ("--testbed", bed.layout.root)
    file = tmp_path / "file"
    file.write_bytes(bytes(5000))
    for name in ("a/1", "a/2", "b/1"):
        assert shosoin("put", file, name, *owner, "--class", "qkd").code == 0
    assert shosoin("audit", "--all", *owner).code == 0
    object_id = shosoin("stat", "a/2", *owner, "--json").json["object_id"]
    asyncio.run(alter_share(bed, "naka", "owner-1", object_id))

    audited = shosoin("audit", "--prefix", "a/", *owner, "--json")
    assert audited.code == 6
    assert audited.json["ok"] is False
    assert set(audited.json["objects"]) == {"a/1", "a/2"}
    assert set(audited.json["objects"]["a/2"].values()) == {"doubtful"}
    assert audited.json["index"]["index qkd"] == dict.fromkeys(("kita", "naka", "minami"), "ok")
    assert (audited.json["new"], audited.json["spent"]) == (0, 0)
    verified = shosoin("verify", "--all", *owner, "--json")
    assert verified.code == 6
    assert verified.json["objects"]["a/2"] == {"kita": "ok", "naka": "wrong", "minami": "ok"}
    assert verified.json["counts"]["naka"]["wrong"] == 1
    assert "'a/2' at naka" in verified.errors[0]
    several = shosoin("verify", "a/1", "b/1", *owner)
    assert several.code == 0
    assert several.out.splitlines()[0].startswith("2 objects")

    whole = shosoin("evidence", "verify", *owner, "--json")
    assert whole.code == 0
    assert (whole.json["key_checked"], whole.json["unsigned"]) == (True, 0)
    shown = shosoin("evidence", "show", "--object", "a/2", *owner)
    assert [line.split("epoch 0  ")[1] for line in shown.out.splitlines()][-1] == "kita ok, minami ok, naka wrong"
    kinds = {json.loads(line)["kind"] for line in shosoin("evidence", "show", *owner, "--json").out.splitlines()}
    assert kinds - {"deal"} == {"begin", "audit", "keyed check"}  # "deal" is of other tests


@pytest.mark.processes
def test_a_copy_of_the_log_is_checked_without_anything_of_the_owners(shosoin, bed, tmp_path):
    owner = ("--testbed", bed.layout.root)
    file = tmp_path / "file"
    file.write_bytes(b"x")
    assert shosoin("put", file, "evident", *owner, "--class", "its").code == 0
    assert shosoin("audit", "evident", *owner).code == 0
    log = next(bed.layout.root.rglob("evidence.jsonl"))
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(log.read_bytes())
    told = shosoin("evidence", "verify", "--log", copy, "--json").json
    assert told["key_checked"] is False
    key = json.loads(copy.read_bytes().split(b"\n", 1)[0])["public_key"]
    head = told["head"]
    assert shosoin("evidence", "verify", "--log", copy, "--key", key, "--head", head).code == 0
    assert shosoin("evidence", "verify", "--log", copy, "--key", "00" * 1952).code == 6
    assert shosoin("evidence", "verify", "--log", copy, "--head", "junk").code == 2
    lines = copy.read_bytes().splitlines(keepends=True)
    copy.write_bytes(b"".join(lines[:-1]))
    cut = shosoin("evidence", "verify", "--log", copy)
    assert cut.code == 4
    assert "not signed" in cut.errors[0]
    assert shosoin("evidence", "verify", "--log", copy, "--head", head).code == 6
    copy.write_bytes(b"".join([*lines[:-2], lines[-2].replace(b'"audit"', b'"adit"'), lines[-1]]))
    changed = shosoin("evidence", "verify", "--log", copy)
    assert changed.code == 6
    assert "line" in changed.errors[0]
    copy.unlink()
    assert shosoin("evidence", "verify", "--log", copy).code == 2


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_audits_without_end_tell_each_round_on_a_line_and_stop_cleanly(bed, number):
    program = [sys.executable, "-m", "shosoin.cli"]
    environment = {**os.environ, "SHOSOIN_TESTBED": str(bed.layout.root)}
    subprocess.run(
        [*program, "put", __file__, "loop/1", "--class", "qkd"], env=environment, check=True, capture_output=True
    )
    command = [*program, "audit", "--prefix", "loop/", "--every", "1s", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            rounds = [json.loads(process.stdout.readline()) for _ in range(2)]
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert "Traceback" not in err
    for told in rounds:
        assert (told["ok"], told["objects"], told["in_a_row"]) == (True, {}, {})
        assert told["count"] - len(told["index"]) == 1
    assert rounds[1]["started_wall_s"] > rounds[0]["started_wall_s"]
    log = next(bed.layout.root.rglob("evidence.jsonl"))
    checked = subprocess.run([*program, "evidence", "verify", "--log", log], capture_output=True, check=False)
    assert checked.returncode == 0
