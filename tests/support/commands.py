"""Commands in processes of their own, forked off one that has loaded them: most of a short command is loading modules.

``python -m tests.support.commands`` reads orders on standard input, one JSON object a line, and answers each with one.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLL_S = 0.005
TIME_LIMIT_S = 120.0
MEMORY_LIMIT_BYTES = 2 << 30
LOADED = ("shosoin.cli.app", "shosoin.cli.put", "shosoin.cli.get", "shosoin.cli.verify", "shosoin.adapters.owner")


@dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)

    @property
    def errors(self) -> list[str]:
        """The lines that say what went wrong."""
        return [line for line in self.err.splitlines() if line.startswith("shosoin: error: ")]

    @property
    def hints(self) -> list[str]:
        """The lines that say what to do about it."""
        return [line for line in self.err.splitlines() if line.startswith("shosoin: hint: ")]

    def lines(self, kind: str) -> list[str]:
        """Return what it said after ``shosoin: KIND:``."""
        prefix = f"shosoin: {kind}: "
        return [line.removeprefix(prefix) for line in self.err.splitlines() if line.startswith(prefix)]


class Commands:
    """Runs ``shosoin`` as often as it is asked, one at a time."""

    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self._process = process
        self._directory = directory

    def run(self, *arguments: object) -> Answer:
        """Run one command with a limit on its time and memory."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SHOSOIN", "LC_"))}
        out, err = self._directory / "out", self._directory / "err"
        words = [str(argument) for argument in arguments]
        order = {
            "arguments": words,
            "environment": {**environment, "LANG": "C.UTF-8"},
            "out": str(out),
            "err": str(err),
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = json.loads(self._process.stdout.readline())["code"]
        if code is None:
            raise subprocess.TimeoutExpired(words, TIME_LIMIT_S)
        return Answer(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))


@contextlib.contextmanager
def loaded_commands() -> Iterator[Commands]:
    """Load the command line once, in a process that ends with the context."""
    command = [sys.executable, "-m", "tests.support.commands"]
    environment = {**os.environ, "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryDirectory() as directory,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True) as process,
    ):
        yield Commands(process, Path(directory))
        assert process.stdin is not None
        process.stdin.close()


def _serve() -> None:
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(order)
        sys.stdout.write(json.dumps({"code": _ended(child, TIME_LIMIT_S)}) + "\n")
        sys.stdout.flush()


def _become(order: Mapping[str, Any]) -> None:
    """Run the command in this process, and end it."""
    for number, name in ((1, "out"), (2, "err")):
        descriptor = os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.environ.clear()
    os.environ.update(order["environment"])
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    sys.argv = ["shosoin", *order["arguments"]]
    from shosoin.cli import main

    main()  # ends with SystemExit


def _ended(child: int, timeout_s: float) -> int | None:
    """Return the exit code of a child, None if it had to be killed because its time was over."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(POLL_S)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


if __name__ == "__main__":
    _serve()
