"""Processes that start together, while somebody kills whoever starts them, and what a shell leaves open for them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from shosoin.base import Unavailable
from shosoin.testbed.control import StartFailed, Testbed, _environment, _locked
from shosoin.testbed.layout import Layout
from shosoin.testbed.processes import ProcessRecord, is_alive
from tests.testbed.conftest import bed_directory, layout, standin  # noqa: F401  # fixtures

pytestmark = [pytest.mark.processes, pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")]

DIES_BEFORE_THE_PID_FILE = """
import os, signal, sys
from shosoin.testbed import launch
launch.record_of = lambda pid: os.kill(os.getpid(), signal.SIGKILL)
launch.main(sys.argv[1:])
"""


STARTS_A_SITE = """
import asyncio, pathlib, sys
from shosoin.testbed.control import Testbed
asyncio.run(Testbed.load(pathlib.Path(sys.argv[1])).start("kita"))
"""


def is_locked(directory: Path) -> bool:
    try:
        with _locked(directory):
            return False
    except Unavailable:
        return True


def mention(directory: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(directory) in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def until(holds: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + 60.0
    while not holds() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    return holds()


@contextlib.contextmanager
def launcher_of_somebody_killed(layout: Layout) -> Iterator[None]:  # noqa: F811
    """Kill a program that starts a site as soon as it launches it; the launcher waits while the context lasts."""
    starting = subprocess.Popen([sys.executable, "-c", STARTS_A_SITE, str(layout.root)], env=_environment())
    assert until(lambda: any("together" in process.cmdline() for process in mention(layout.root)))
    (launcher,) = [process for process in mention(layout.root) if "together" in process.cmdline()]
    launcher.suspend()
    starting.kill()
    starting.wait()
    try:
        yield
    finally:
        launcher.resume()


async def test_when_up_is_killed_nobody_starts_the_same_processes_a_second_time(layout):  # noqa: F811
    testbed = Testbed(layout)
    with launcher_of_somebody_killed(layout), pytest.raises(Unavailable, match="another command is at work"):
        await testbed.start("kita")
    assert until(lambda: len(testbed.pids()) == 2)
    assert until(lambda: not is_locked(layout.root))
    assert await testbed.start("kita") == []
    for pid in testbed.pids().values():
        descriptors = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
        assert not [each for each in descriptors if each in (str(layout.root / "lock"), str(layout.launch_log))]
    assert len(testbed.down()) == 2
    assert mention(layout.root) == []


def test_a_process_that_no_pid_file_names_ends_with_the_launcher(layout):  # noqa: F811
    launcher = subprocess.Popen(
        [sys.executable, "-c", DIES_BEFORE_THE_PID_FILE, "together", str(layout.root), "kita/node"], env=_environment()
    )
    assert launcher.wait(60.0) == -signal.SIGKILL
    assert until(lambda: mention(layout.root) == [])
    assert not layout.processes()[1].ready.exists()


def test_a_launcher_that_was_given_no_lock_starts_its_processes_too(layout):  # noqa: F811
    command = [sys.executable, "-m", "shosoin.testbed.launch", "together", str(layout.root), "kita/node", "kita/kme"]
    assert subprocess.run(command, env=_environment(), check=False, timeout=60.0).returncode == 0
    assert until(lambda: all(process.ready.exists() for process in layout.processes()[:2]))
    assert len(Testbed(layout).down()) == 2
    assert mention(layout.root) == []


async def test_a_launcher_that_takes_too_long_is_ended_with_all_it_began(layout):  # noqa: F811
    testbed = Testbed(layout)
    with pytest.raises(StartFailed, match=r"did not start within 0\.05 s"):
        await testbed.start("kita", timeout_s=0.05)
    assert testbed.pids() == {}
    assert until(lambda: mention(layout.root) == [])
    assert not is_locked(layout.root)


async def test_a_process_gets_neither_files_nor_blocked_signals_of_a_shell(standin, tmp_path):  # noqa: F811
    foreign = os.open(tmp_path / "of the shell", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(foreign, True)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    try:
        await standin.start("kita/kme")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(foreign)
    (pid,) = standin.pids().values()
    assert not [each for each in Path(f"/proc/{pid}/fd").iterdir() if "of the shell" in str(each.readlink())]
    blocked = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk"))
    assert int(blocked.split()[1], 16) == 0
    record = ProcessRecord(pid, "")
    assert not is_alive(record)
    assert len(standin.down()) == 1
