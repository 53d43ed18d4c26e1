"""Tahoe-LAFS beside the vault: its own virtual environment, an introducer, five storage nodes and a client, 3-of-5.

It is the closest free system: client-side encryption and erasure coding over independent storage nodes. It keeps n/k
times the bytes (ours n times) because its secrecy rests on AES, and it holds no keys of a quantum network; the figures
are put side by side, not called equal.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from _vault_processes import end, free_ports, start, wait_for_port

__all__ = ["NotInstalled", "TahoeGrid"]

PROGRAM = os.environ.get("SHOSOIN_BENCH_TAHOE", "")
"""A ``tahoe`` program to use; empty means: install it from the package index into the temporary directory."""
INSTALL_S = 120.0
START_S = 40.0
STORAGE_NODES = 5


class NotInstalled(Exception):
    """Tahoe-LAFS cannot be had here."""


class TahoeGrid:
    """A grid in a directory; use it as a context manager."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._processes: list[subprocess.Popen[bytes]] = []
        self._tahoe = Path(PROGRAM)
        self.url = ""
        self.version = ""

    def __enter__(self) -> TahoeGrid:
        try:
            self._install()
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        end(self._processes)

    @property
    def client_pid(self) -> int:
        """The client node, which encrypts and encodes."""
        return self._processes[-1].pid

    @property
    def storage_pids(self) -> list[int]:
        """The storage nodes."""
        return [process.pid for process in self._processes[1:-1]]

    def _install(self) -> None:
        if not PROGRAM:
            home = self._root / "venv"
            commands = [
                [sys.executable, "-m", "venv", str(home)],
                [str(home / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", "tahoe-lafs"],
            ]
            for command in commands:
                self._quiet(command, INSTALL_S)
            self._tahoe = home / "bin" / "tahoe"
        self.version = self._quiet([str(self._tahoe), "--version"], START_S).split("\n")[0]

    def _quiet(self, command: list[str], timeout_s: float) -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=True)
        except (OSError, subprocess.SubprocessError) as err:
            lines = (getattr(err, "stderr", None) or str(err)).strip().splitlines()
            raise NotInstalled(f"{Path(command[0]).name}: {lines[-1][:200] if lines else 'failed'}") from err
        return done.stdout

    def _create(self, kind: str, name: str, *options: str) -> Path:
        directory = self._root / name
        self._quiet([str(self._tahoe), kind, *options, str(directory)], START_S)
        return directory

    def _run(self, directory: Path, port: int) -> None:
        command: list[str | Path] = [self._tahoe, "run", "--allow-stdin-close", directory]
        process = start(command, self._root / f"{directory.name}.log")
        self._processes.append(process)
        try:
            wait_for_port(process, port, START_S)
        except RuntimeError as err:
            raise NotInstalled(f"{directory.name} does not serve") from err

    def _start(self) -> None:
        introducer_port, web_port, *ports = free_ports(2 + STORAGE_NODES)
        introducer = self._create("create-introducer", "introducer", *_listening(introducer_port))
        self._run(introducer, introducer_port)
        furl = (introducer / "private" / "introducer.furl").read_text(encoding="utf-8").strip()
        sharing = ("--introducer", furl, "--shares-needed=3", "--shares-happy=5", "--shares-total=5")
        for number, port in enumerate(ports, start=1):
            storage = self._create("create-node", f"storage-{number}", *sharing, "--webport=none", *_listening(port))
            self._run(storage, port)
        web = f"--webport=tcp:{web_port}:interface=127.0.0.1"
        self._run(self._create("create-client", "client", *sharing, web), web_port)
        self.url = f"http://127.0.0.1:{web_port}"
        self._wait_connected()

    def _wait_connected(self) -> None:
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            with urllib.request.urlopen(f"{self.url}/?t=json", timeout=5) as answer:  # noqa: S310  # our own loopback
                servers = json.loads(answer.read())["servers"]
            states = [str(server.get("connection_status")).lower() for server in servers]
            if sum(state.startswith("connected") for state in states) == STORAGE_NODES:
                return
            time.sleep(0.2)
        raise NotInstalled("the client does not reach the storage nodes")


def _listening(port: int) -> tuple[str, ...]:
    return ("--listen=tcp", f"--port=tcp:{port}:interface=127.0.0.1", f"--location=tcp:127.0.0.1:{port}")
