"""Supervision of processes, with stand-ins for the services: what runs is real, what it serves is nothing."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from shosoin.base import Rejected, Unavailable
from shosoin.testbed.control import StartFailed, Testbed, _locked
from shosoin.testbed.layout import Process
from shosoin.testbed.processes import ProcessRecord, is_alive, read_record, send_signal
from shosoin.testbed.scenario import load_scenario
from tests.testbed.support import standin_command

pytestmark = pytest.mark.processes


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def up(root: Path) -> Testbed:
    return await Testbed.up(load_scenario("tiny"), root, launcher=standin_command)


async def test_up_serves_and_down_leaves_nothing(bed_directory):
    seen: list[Process] = []
    testbed = await Testbed.up(load_scenario("tiny"), bed_directory, launcher=standin_command, on_ready=seen.append)
    assert {process.target for process in seen} == {
        f"{site}/{role}" for site in ("kita", "naka", "minami") for role in ("kme", "node")
    }
    assert all(status.serving for status in testbed.status())
    pids = list(testbed.pids().values())
    assert len(testbed.down()) == 6
    assert not any(exists(pid) for pid in pids)
    assert testbed.down() == []
    assert all(status.pid is None and not status.serving for status in testbed.status())


async def test_processes_have_a_session_of_their_own(bed_directory):
    testbed = await up(bed_directory)
    for pid in testbed.pids().values():
        assert os.getsid(pid) == pid


async def test_a_second_up_changes_nothing(bed_directory):
    first = await up(bed_directory)
    pids = first.pids()
    second = await up(bed_directory)
    assert second.pids() == pids
    assert (await Testbed.up(None, bed_directory, launcher=standin_command)).pids() == pids


async def test_up_completes_what_is_half_up(bed_directory):
    testbed = await up(bed_directory)
    before = testbed.pids()
    killed = testbed.kill("naka/node")
    assert [process.target for process in killed] == ["naka/node"]
    testbed = await up(bed_directory)
    changed = {process.target for process, pid in testbed.pids().items() if before[process] != pid}
    assert changed == {"naka/node"}


async def test_kill_is_sigkill_and_start_brings_the_site_back(standin, behave):
    behave("naka", "stubborn")
    await standin._start(standin.layout.processes(), 30.0, None)
    assert len(standin.kill("naka")) == 2
    assert standin.kill("naka") == []
    down = {status.process.target for status in standin.status() if not status.serving}
    assert down == {"naka/kme", "naka/node"}
    document = json.loads(standin.layout.testbed_json.read_text())
    naka = next(site for site in document["sites"] if site["name"] == "naka")
    assert naka["kme"]["pid"] is None
    assert len(await standin.start("naka")) == 2
    assert await standin.start("naka") == []
    assert all(status.serving for status in standin.status())


async def test_down_kills_what_ignores_the_request(standin, behave):
    behave("kita/kme", "stubborn")
    await standin.start("kita/kme")
    pid = next(iter(standin.pids().values()))
    standin.down(grace_s=0.2)
    assert not exists(pid)


async def test_early_death_is_reported_with_the_log_and_ends_the_rest(standin, behave):
    behave("minami/kme", "dies")
    await standin.start("kita")
    with pytest.raises(StartFailed, match=r"minami/kme ended while starting(.|\n)*told to die"):
        await standin._start(standin.layout.processes(), 30.0, None)
    running = {process.target for process in standin.pids()}
    assert running == {"kita/kme", "kita/node"}, "only what the failed call started is ended"


async def test_a_process_that_never_serves_times_out(standin, behave):
    behave("naka/kme", "mute")
    with pytest.raises(StartFailed, match="did not serve within"):
        await standin.start("naka/kme", timeout_s=0.5)
    assert standin.pids() == {}


async def test_cancelling_up_ends_everything(standin, behave):
    behave("minami/node", "mute")
    five_ready = asyncio.Event()
    ready = []

    def note(process):
        ready.append(process)
        if len(ready) == 5:
            five_ready.set()

    starting = asyncio.create_task(standin._start(standin.layout.processes(), 30.0, note))
    await five_ready.wait()
    pids = list(standin.pids().values())
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    assert starting.cancelled()
    assert len(pids) == 6
    assert not any(exists(pid) for pid in pids)


async def test_two_commands_do_not_work_on_one_directory(standin):
    with _locked(standin.layout.root), pytest.raises(Unavailable, match="another command"):
        await standin.start("kita")
    assert standin.pids() == {}


async def test_a_reused_pid_is_never_signalled(standin):
    record = ProcessRecord(os.getpid(), "a start time that is not ours")
    assert not is_alive(record)
    assert not send_signal(record, signal.SIGKILL)
    process = standin.layout.processes()[0]
    record.write(process.pid)
    assert standin.pids() == {}
    assert standin.down() == []


def test_a_broken_pid_file_means_nothing_runs(layout):
    path = layout.processes()[0].pid
    for content in ("", "12", "{}", '{"pid": "x", "started": 1}', "[]", "\xff"):
        path.write_text(content)
        assert read_record(path) is None


async def test_unknown_targets_name_the_nearest(standin):
    with pytest.raises(Rejected) as caught:
        standin.kill("nakka")
    assert "naka" in caught.value.hint
    with pytest.raises(Rejected) as caught:
        standin.kill("naka/kmee")
    assert "kme" in caught.value.hint
    with pytest.raises(Rejected):
        await standin.start("naka/")


async def test_testbed_json_has_the_agreed_shape(bed_directory):
    testbed = await up(bed_directory)
    document = json.loads(testbed.layout.testbed_json.read_text())
    assert document["scenario"] == "tiny"
    assert set(document["ca"]) == {"sae", "node"}
    site = document["sites"][0]
    assert site["name"] == "kita"
    assert {"id", "url", "server_name", "pid"} <= site["kme"].keys()
    assert {"id", "url", "pid"} <= site["node"].keys()
    assert site["kme"]["id"] == "kme-kita"
    assert [sae["id"] for sae in site["saes"]] == ["sae-kita-1", "sae-kita-2"]
    assert document["links"][0] == {
        "a": "kita", "b": "naka", "kind": "simulated", "length_km": 10.0, "attenuation_db": 3.0,
    }  # fmt: skip
    assert document["owners"][0]["id"] == "owner-1"
    paths = [document["owners"][0]["cert"], site["saes"][0]["key"], document["ca"]["sae"]]
    assert all(Path(path).is_absolute() and Path(path).is_file() for path in paths)
    assert site["kme"]["pid"] in testbed.pids().values()


def test_no_testbed_is_rejected(tmp_path):
    with pytest.raises(Rejected) as caught:
        Testbed.load(tmp_path)
    assert "testbed up" in caught.value.hint


THREADED = """
import fcntl, json, os, sys, threading, time
lock = os.open(sys.argv[1] + "/held", os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
ballast = bytearray(64 << 20)
for _ in range(50):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
open(sys.argv[1] + "/ready", "w").write("{}")
threading.Event().wait()
"""


async def test_a_killed_process_is_gone_with_its_locks(layout):
    testbed = Testbed(layout, lambda process: [sys.executable, "-c", THREADED, str(process.state)])
    for _ in range(5):
        await testbed.start("kita/node")
        testbed.kill("kita/node")
        held = os.open(layout.select("kita/node")[0].state / "held", os.O_RDWR)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while anything of the process is left
        finally:
            os.close(held)
    assert testbed.pids() == {}
