"""A running testbed: up, down, status, and the faults that an operator would fear.

``Testbed`` holds a layout and works on the processes that the pid files name, so that it does not matter which program
started them. Every change holds the directory's lock; every step may be repeated, and a testbed that is half up (a
killed site, an interrupted ``up``) is a state like any other.

    testbed = await Testbed.up(load_scenario("tiny"), Path("bed"))
    testbed.kill("naka")
    await testbed.start("naka")
    testbed.down()
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import shosoin
from shosoin.base import Unavailable
from shosoin.testbed.build import claim, prepare
from shosoin.testbed.launch import TOGETHER
from shosoin.testbed.layout import HOST, Layout, Process, ProcessRole
from shosoin.testbed.manifest import write_testbed_json
from shosoin.testbed.processes import (
    ProcessRecord,
    end_all,
    is_alive,
    kill_all,
    log_tail,
    read_record,
    spawn,
    wait_gone,
)
from shosoin.testbed.scenario import Scenario
from shosoin.testbed.stock import link_stock

__all__ = ["ProcessStatus", "StartFailed", "Testbed", "service_command"]

START_TIMEOUT_S = 60.0
STOP_GRACE_S = 10.0
POLL_S = 0.02
STOCK_TIMEOUT_S = 10.0
STOCK_POLL_S = 0.1
PROBE_TIMEOUT_S = 1.0

# Elsewhere libraries of the system must not be used on both sides of a fork.
_CAN_FORK = sys.platform == "linux"

OnReady = Callable[[Process], None]
Launcher = Callable[[Process], list[str]]
"""Returns the command that runs a process."""


def service_command(process: Process) -> list[str]:
    """Return the command that runs a real service."""
    return [sys.executable, "-P", "-m", "shosoin.testbed.launch", process.role.value, str(process.config)]


class StartFailed(Unavailable):
    """A process of the testbed ended early or did not serve in time."""

    code = "testbed.start_failed"


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What is known of one process from outside."""

    process: Process
    pid: int | None
    """``None`` when it does not run."""
    serving: bool
    """It said that it is ready, and its port accepts connections."""


class Testbed:
    """A whole system on one machine."""

    __test__ = False  # pytest takes classes of this name for tests

    def __init__(self, layout: Layout, launcher: Launcher = service_command) -> None:
        self.layout = layout
        self._launcher = launcher

    @classmethod
    def load(cls, root: Path, launcher: Launcher = service_command) -> Testbed:
        """Return the testbed in a directory.

        Raises:
            Rejected: there is none.
        """
        return cls(Layout.load(root), launcher)

    @classmethod
    async def up(
        cls,
        scenario: Scenario | None,
        root: Path,
        *,
        timeout_s: float = START_TIMEOUT_S,
        on_ready: OnReady | None = None,
        launcher: Launcher = service_command,
    ) -> Testbed:
        """Make the directory if needed, start every process that does not run, and return when all serve.

        Args:
            scenario: what to make; ``None`` means what the directory already holds.
            root: the directory; created when missing.
            timeout_s: how long all of them together may take.
            on_ready: called with each process as it begins to serve.
            launcher: which command runs a process; tests bring another.

        Raises:
            Rejected: the directory holds something else.
            Unavailable: a process did not start (the message ends with its log), or another command is at work here.
                Whatever this call started is ended before it raises, also when it is cancelled.
        """
        if scenario is None:
            testbed = cls.load(root, launcher)
        else:
            claim(root)
        with _locked(root) as lock:
            if scenario is not None:
                testbed = cls(prepare(scenario, root), launcher)
            await testbed._start(testbed.layout.processes(), timeout_s, on_ready, lock)
        return testbed

    async def start(
        self, *targets: str, timeout_s: float = START_TIMEOUT_S, on_ready: OnReady | None = None
    ) -> list[Process]:
        """Start the processes that each ``SITE`` or ``SITE/ROLE`` names, if they do not run; return those started.

        Raises:
            Rejected: no such site or role.
            Unavailable: as for ``up``.
        """
        with _locked(self.layout.root) as lock:
            wanted = [process for target in targets for process in self.layout.select(target)]
            return await self._start(wanted, timeout_s, on_ready, lock)

    def kill(self, target: str) -> list[Process]:
        """Kill processes without warning (SIGKILL) and return those that did run.

        Raises:
            Rejected: no such site or role.
        """
        with _locked(self.layout.root):
            running = {
                process: record for process in self.layout.select(target) if (record := _running(process)) is not None
            }
            kill_all(list(running.values()))
            self._forget(list(running))
            return list(running)

    def down(self, *, grace_s: float = STOP_GRACE_S) -> list[Process]:
        """End every process and return those that did run; a second call finds nothing to do."""
        with _locked(self.layout.root):
            running = {
                process: record for process in self.layout.processes() if (record := _running(process)) is not None
            }
            end_all(list(running.values()), grace_s=grace_s)
            self._forget(self.layout.processes())
            return list(running)

    def status(self) -> list[ProcessStatus]:
        """Return what can be seen of every process; changes nothing and needs no lock."""
        return [_status(process) for process in self.layout.processes()]

    def pids(self) -> dict[Process, int]:
        """Return the pid of every process that runs."""
        return {process: record.pid for process in self.layout.processes() if (record := _running(process))}

    async def _start(
        self, wanted: Sequence[Process], timeout_s: float, on_ready: OnReady | None, lock: int | None = None
    ) -> list[Process]:
        deadline_s = time.monotonic() + timeout_s
        running = {process: record for process in wanted if (record := _running(process)) is not None}
        started: dict[Process, ProcessRecord] = {}
        try:
            missing = [process for process in wanted if process not in running]
            if len(missing) > 1 and self._launcher is service_command and _CAN_FORK:
                started = await _spawn_together(self.layout, missing, timeout_s, lock)
            else:
                for process in missing:
                    started[process] = _spawn(process, self._launcher(process))
            await _until_ready(running | started, timeout_s, deadline_s, on_ready)
            await self._until_stocked({process.site for process in started if process.role is ProcessRole.KME})
        except BaseException:
            end_all(list(started.values()), grace_s=STOP_GRACE_S)
            self._forget(list(started))
            raise
        write_testbed_json(self.layout, self.pids())
        return list(started)

    async def _until_stocked(self, started: set[str]) -> None:
        """Wait a while until the links of sites whose KME was just started hold keys, in both directions.

        A link that stays dry is nobody's failure: its keys may be used up, and whoever asks for them is told.
        """
        scenario = self.layout.scenario
        running = {process.site for process in self.pids() if process.role is ProcessRole.KME}
        awaited = {
            (end, link.other(end))
            for link in scenario.links
            for end in (link.a, link.b)
            if link.stock_bits_at_start > 0 and link.ends <= running and link.ends & started
        }
        deadline_s = time.monotonic() + STOCK_TIMEOUT_S
        while awaited and time.monotonic() < deadline_s:
            stock = await asyncio.to_thread(link_stock, self.layout, sorted({source for source, _ in awaited}))
            awaited &= {(entry["from"], entry["to"]) for entry in stock if entry["stock_bits"] == 0}
            await asyncio.sleep(STOCK_POLL_S if awaited else 0)

    def _forget(self, processes: Sequence[Process]) -> None:
        for process in processes:
            process.pid.unlink(missing_ok=True)
            process.ready.unlink(missing_ok=True)
        if self.layout.testbed_json.exists():
            write_testbed_json(self.layout, self.pids())


def _running(process: Process) -> ProcessRecord | None:
    record = read_record(process.pid)
    return record if is_alive(record) else None


def _spawn(process: Process, command: list[str]) -> ProcessRecord:
    """Start one process; its pid file lets any later command end it."""
    process.ready.unlink(missing_ok=True)
    record = spawn(command, process.log, _environment())
    try:
        record.write(process.pid)
    except BaseException:
        kill_all([record])
        raise
    return record


async def _spawn_together(
    layout: Layout, processes: Sequence[Process], timeout_s: float, lock: int | None
) -> dict[Process, ProcessRecord]:
    """Start several services by one process that loads them once and leaves their pid files.

    It holds the directory's lock too, so that no other command comes between if we are killed.
    """
    log = layout.launch_log
    for path in (log, *(path for process in processes for path in (process.ready, process.pid))):
        path.unlink(missing_ok=True)
    targets = [process.target for process in processes]
    command = [sys.executable, "-P", "-m", "shosoin.testbed.launch", TOGETHER, str(layout.root.resolve()), *targets]
    launcher = spawn(command, log, _environment(), lock)
    try:
        late = await asyncio.to_thread(wait_gone, [launcher], timeout_s)
        started = _records(processes)
        if late:
            raise StartFailed(f"the processes did not start within {timeout_s:g} s{_end_of(log)}")
        if len(started) < len(processes):
            raise StartFailed(f"the processes did not start{_end_of(log)}")
    except BaseException:
        kill_all([launcher])  # what it forked and no pid file names ends with it
        kill_all(list(_records(processes).values()))
        raise
    return started


def _records(processes: Sequence[Process]) -> dict[Process, ProcessRecord]:
    records = {process: read_record(process.pid) for process in processes}
    return {process: record for process, record in records.items() if record is not None}


def _environment() -> dict[str, str]:
    """Return our environment with an absolute module path, since the process changes its directory.

    Loading the system's authorities takes a tenth of a start, and a testbed trusts its own ones only. No service has
    work for a second thread of linear algebra, and a process without one can be forked.
    """
    package_parent = Path(shosoin.__file__).resolve().parents[1]
    inherited = [str(Path(entry).resolve()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(package_parent), *inherited]),
        "PYTHONUNBUFFERED": "1",
        "SSL_CERT_FILE": os.devnull,
        "OPENBLAS_NUM_THREADS": "1",
    }


async def _until_ready(
    expected: dict[Process, ProcessRecord], timeout_s: float, deadline_s: float, on_ready: OnReady | None
) -> None:
    waiting = dict(expected)
    while waiting:
        for process, record in list(waiting.items()):
            if _said_ready(process):
                del waiting[process]
                if on_ready is not None:
                    on_ready(process)
            elif not is_alive(record):
                raise StartFailed(f"{process.target} ended while starting{_end_of(process.log)}")
        if waiting and time.monotonic() > deadline_s:
            late = next(iter(waiting))
            raise StartFailed(f"{late.target} did not serve within {timeout_s:g} s{_end_of(late.log)}")
        await asyncio.sleep(POLL_S)


def _said_ready(process: Process) -> bool:
    try:
        json.loads(process.ready.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def _end_of(log: Path) -> str:
    tail = log_tail(log)
    return f"; the end of {log}:\n{tail}" if tail else f"; the log {log} is empty"


def _status(process: Process) -> ProcessStatus:
    record = _running(process)
    serving = record is not None and _said_ready(process) and _accepts(process.port)
    return ProcessStatus(process, record.pid if record else None, serving)


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[int]:
    """Hold the directory's lock; it vanishes with this process and what it is given to, however those end."""
    descriptor = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as err:
            raise Unavailable(
                f"another command is at work on the testbed in {root}", code="testbed.locked", retry_after_s=1.0
            ) from err
        yield descriptor
    finally:
        os.close(descriptor)
