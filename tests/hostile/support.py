"""Commands as processes with bounds on time and memory, and a testbed one of whose nodes is replaced by a liar."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shosoin.testbed.control import Testbed, service_command
from shosoin.testbed.layout import Process

LIAR = Path(__file__).parent / "liar.py"
TIME_LIMIT_S = 120.0
MEMORY_LIMIT_BYTES = 2 << 30


@dataclass
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output as JSON."""
        return json.loads(self.out)


@dataclass
class Bed:
    """A testbed and the name of the site that is replaced."""

    testbed: Testbed
    site: str

    def shosoin(self, *arguments: object, owner: str = "owner-1") -> Answer:
        """Run the command in a process of its own, which may take so much memory and time and no more."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SHOSOIN", "LC_"))}
        command = [sys.executable, "-m", "shosoin.cli", *map(str, arguments)]
        done = subprocess.run(
            [*command, "--testbed", str(self.testbed.layout.root), "--as", owner],
            capture_output=True,
            env={**environment, "LANG": "C.UTF-8"},
            timeout=TIME_LIMIT_S,
            preexec_fn=_limit_memory,  # no thread of ours holds a lock
            check=False,
        )
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())

    def replace(self, behaviour: str) -> None:
        """Put a liar in the place of the node."""
        self._start(lambda process: [sys.executable, str(LIAR), str(process.config), behaviour])

    def restore(self) -> None:
        """Put the honest node back."""
        self._start(service_command)

    def _start(self, command: Any) -> None:
        self.testbed.kill(f"{self.site}/node")

        def launcher(process: Process) -> list[str]:
            return list(command(process))

        bed = Testbed.load(self.testbed.layout.root, launcher)
        asyncio.run(bed.start(f"{self.site}/node"))


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))


def is_clean(text: str) -> bool:
    """Whether a terminal shows a text and does not obey it."""
    return all(character.isprintable() or character == "\n" for character in text)
