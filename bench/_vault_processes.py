"""What a benchmark needs to know of processes: processor time, memory, and their end by pid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

__all__ = ["cpu_s", "end", "free_ports", "peak_mib", "python", "start", "wait_for_port"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_END_S = 5.0


def cpu_s(pid: int) -> float:
    """Return user and system seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def peak_mib(pid: int | str = "self") -> float:
    """Return the largest resident size that a process ever had."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def free_ports(count: int) -> list[int]:
    """Return TCP ports that nobody listens on at this moment."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(command: Sequence[str | Path], log: Path, **variables: str) -> subprocess.Popen[bytes]:
    """Start a process whose output goes to a file."""
    with log.open("ab") as file:
        return subprocess.Popen(
            [str(part) for part in command],
            stdout=file,
            stderr=file,
            stdin=subprocess.DEVNULL,
            env=os.environ | variables,
        )


def wait_for_port(process: subprocess.Popen[bytes], port: int, timeout_s: float) -> None:
    """Wait until a process accepts connections.

    Raises:
        RuntimeError: it ended, or the time is over.
    """
    deadline_s = time.monotonic() + timeout_s
    while process.poll() is None and time.monotonic() < deadline_s:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{process.args!r} does not serve")


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes: asked first, killed if they do not listen."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline_s = time.monotonic() + _END_S
    for process in processes:
        try:
            process.wait(max(0.1, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def python(program: str, *arguments: str | Path) -> list[str | Path]:
    """Return the command that runs a program beside this file."""
    return [sys.executable, Path(__file__).with_name(program), *arguments]
