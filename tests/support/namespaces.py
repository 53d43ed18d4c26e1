"""Two hosts on one machine: network namespaces that a test makes, uses and removes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.programs import program

ADDRESSES = ("10.99.7.1", "10.99.7.2")

_ECHO = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((sys.argv[1], 7)); print("up", flush=True)
while True:
    data, sender = s.recvfrom(2048); s.sendto(data, sender)
"""
_ASK = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(0.5)
for _ in range(int(sys.argv[2])):
    s.sendto(b"hello", (sys.argv[1], 7))
    try:
        sys.exit(0 if s.recv(2048) == b"hello" else 2)
    except TimeoutError:
        pass
sys.exit(1)
"""


class Host:
    """One namespace, with what runs in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.processes: list[subprocess.Popen[bytes]] = []

    def command(self, *words: str) -> list[str]:
        return [program("ip"), "netns", "exec", self.name, *words]

    def ip(self, *words: str) -> None:
        _run(program("ip"), "-n", self.name, *words)

    def start(self, *words: str, log: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            process = subprocess.Popen(
                self.command(*words), stdout=out, stderr=out, env={**os.environ, **(environment or {})}
            )
        self.processes.append(process)
        return process

    def echo(self, address: str) -> None:
        """Answer datagrams from now on."""
        process = subprocess.Popen(self.command(sys.executable, "-c", _ECHO, address), stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        process.stdout.close()

    async def reaches(self, address: str, tries: int) -> bool:
        """Whether an echo comes back."""
        process = await asyncio.create_subprocess_exec(*self.command(sys.executable, "-c", _ASK, address, str(tries)))
        return await process.wait() == 0

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        _run(program("ip"), "netns", "del", self.name)


@contextmanager
def two_hosts():
    """Two namespaces with a cable between them."""
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        if os.environ.get("SHOSOIN_REQUIRE_PROGRAMS") == "1":
            pytest.fail("network namespaces need root and /dev/net/tun")
        pytest.skip("network namespaces need root and /dev/net/tun")
    names = [f"shosoin{os.getpid()}{side}" for side in "ab"]
    cables = [f"sh{os.getpid()}{side}" for side in "ab"]
    hosts: list[Host] = []
    try:
        for name in names:
            _run(program("ip"), "netns", "add", name)
            hosts.append(Host(name))
        ends = (cables[0], "netns", names[0], "type", "veth", "peer", "name", cables[1], "netns", names[1])
        _run(program("ip"), "link", "add", *ends)
        for host, cable, address in zip(hosts, cables, ADDRESSES, strict=True):
            host.ip("addr", "add", f"{address}/24", "dev", cable)
            host.ip("link", "set", "lo", "up")
            host.ip("link", "set", cable, "up")
        yield hosts
    finally:
        for host in hosts:
            host.end()


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
