"""Starting processes that outlive us, and ending exactly those.

A pid alone does not name a process: the number is reused. A record therefore also holds when the process started, and
nothing is signalled unless both still agree; on Linux the signal goes through a pid file descriptor, so the process
cannot be swapped between the check and the signal. A process that ended but was not collected yet (a zombie) counts
as gone.

Works on Linux and macOS. What it does not do: watch over the processes; whoever started them asks when it wants to
know.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shosoin.adapters.certificates import write_private

__all__ = [
    "KEPT_DESCRIPTOR",
    "ProcessRecord",
    "detach",
    "end_all",
    "is_alive",
    "kill_all",
    "log_tail",
    "read_record",
    "record_of",
    "send_signal",
    "spawn",
    "wait_gone",
]

POLL_S = 0.02
KILL_WAIT_S = 30.0
"""How long the operating system may take to end a process that was sent SIGKILL."""
LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 12
_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_ALL_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
KEPT_DESCRIPTOR = 3
"""Where a process finds the file that it is to hold for us."""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process we started."""

    pid: int
    started: str
    """When it started, in the words of the operating system; compared, never parsed."""

    def write(self, path: Path) -> None:
        """Keep the record in a file."""
        write_private(path, json.dumps(asdict(self)).encode())


def read_record(path: Path) -> ProcessRecord | None:
    """Return the record in a file, or ``None`` if there is none that makes sense."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return ProcessRecord(pid=int(content["pid"]), started=str(content["started"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def spawn(command: Sequence[str], log: Path, environment: Mapping[str, str], kept: int | None = None) -> ProcessRecord:
    """Start a process in a session of its own, with its output appended to a log that only we can read.

    It gets no input, no terminal, default signal handling, and none of our files but ``kept``, which it finds open as
    ``KEPT_DESCRIPTOR``.
    """
    actions = [
        # First, because without standard streams its number may be one of theirs.
        *([(os.POSIX_SPAWN_DUP2, kept, KEPT_DESCRIPTOR)] if kept is not None else []),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), _LOG_FLAGS, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
        *((os.POSIX_SPAWN_CLOSE, each) for each in _inherited() if kept is None or each != KEPT_DESCRIPTOR),
    ]
    pid = os.posix_spawn(
        command[0],
        list(command),
        dict(environment),
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=_ALL_SIGNALS,
    )
    return record_of(pid)


def _inherited() -> list[int]:
    """Return what a shell that started us left open (``exec 9>lock``): a process that stays would hold it for ever."""
    inherited = []
    for name in os.listdir("/dev/fd"):  # noqa: PTH208  # names are enough
        with contextlib.suppress(OSError, ValueError):  # the listing's own is closed by now
            if int(name) > 2 and os.get_inheritable(int(name)):  # the standard streams
                inherited.append(int(name))
    return inherited


def detach(log: Path) -> None:
    """Give the calling process, forked off one that ``spawn`` started, a session and a log of its own."""
    os.setsid()
    descriptor = os.open(log, _LOG_FLAGS, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def record_of(child: int) -> ProcessRecord:
    """Return the record of a child of ours; nobody else can collect it, so that its pid is not reused meanwhile."""
    return ProcessRecord(child, _started(child) or "")


def is_alive(record: ProcessRecord | None) -> bool:
    """Return whether exactly this process still runs."""
    if record is None:
        return False
    _collect(record.pid)
    return bool(record.started) and _started(record.pid) == record.started


def send_signal(record: ProcessRecord, number: signal.Signals) -> bool:
    """Signal exactly this process; return false if it is gone."""
    if not hasattr(os, "pidfd_open"):
        if not is_alive(record):
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, number)
        return True
    try:
        descriptor = os.pidfd_open(record.pid)
    except OSError:
        return False
    try:
        if not is_alive(record):
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def end_all(records: Sequence[ProcessRecord], *, grace_s: float) -> list[ProcessRecord]:
    """End processes: ask all, wait up to ``grace_s``, kill those that remain; return those that had to be killed.

    Does not return before all are gone; it never awaits, so that no cancellation leaves a process behind.
    """
    for record in records:
        send_signal(record, signal.SIGTERM)
    stubborn = wait_gone(records, grace_s)
    for record in stubborn:
        send_signal(record, signal.SIGKILL)
    wait_gone(stubborn, KILL_WAIT_S)
    return stubborn


def kill_all(records: Sequence[ProcessRecord]) -> None:
    """Kill processes without asking and wait until they are gone."""
    for record in records:
        send_signal(record, signal.SIGKILL)
    wait_gone(records, KILL_WAIT_S)


def wait_gone(records: Sequence[ProcessRecord], timeout_s: float) -> list[ProcessRecord]:
    """Wait until none is alive, return those that still are when the time is over."""
    deadline_s = time.monotonic() + timeout_s
    left = [record for record in records if is_alive(record)]
    while left and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
        left = [record for record in left if is_alive(record)]
    return left


def log_tail(log: Path) -> str:
    """Return the last lines of a log, for an error message."""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            lines = stream.read(LOG_TAIL_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LOG_TAIL_LINES:])


def _collect(pid: int) -> None:
    """Let the operating system forget a child of ours that ended; nothing happens for other processes."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _started(pid: int) -> str | None:
    """Return when a running process started, ``None`` if there is none or it is a zombie."""
    if pid <= 0:
        return None
    return _started_linux(pid) if sys.platform == "linux" else _started_ps(pid)


def _started_linux(pid: int) -> str | None:
    """Return field 22 of proc_pid_stat(5) (clock ticks since boot) with the id of that boot.

    The main thread of a killed process can be a zombie while other threads still end and hold its files and locks;
    the process is gone only when no other thread is left.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        state, start_ticks = fields[0], fields[19]
        ended = state in "ZX" and len(os.listdir(f"/proc/{pid}/task")) <= 1  # noqa: PTH208  # names are enough
    except (OSError, IndexError):
        return None
    return None if ended else f"{boot} {start_ticks}"


def _started_ps(pid: int) -> str | None:
    """Return the start time as ps(1) tells it."""
    answer = subprocess.run(
        ["/bin/ps", "-o", "stat=,lstart=", "-p", str(pid)],
        env={"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
    )
    state, _, started = answer.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()
