"""Commands as processes with bounds on time and memory, and a testbed one of whose nodes is replaced by a liar."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shosoin.testbed.control import Testbed, service_command
from shosoin.testbed.layout import Process
from tests.support.commands import Answer, Commands

LIAR = Path(__file__).parent / "liar.py"


@dataclass
class Bed:
    """A testbed, the name of the site that is replaced, and what runs commands."""

    testbed: Testbed
    site: str
    commands: Commands
    stored: dict[str, bytes] = field(default_factory=dict)
    """What was put beside liars."""
    is_honest: bool = True

    def shosoin(self, *arguments: object, owner: str = "owner-1") -> Answer:
        """Run the command in a process of its own, which may take so much memory and time and no more."""
        return self.commands.run(*arguments, "--testbed", self.testbed.layout.root, "--as", owner)

    def replace(self, behaviour: str) -> None:
        """Put a liar in the place of the node."""
        self.is_honest = False
        self._start(lambda process: [sys.executable, str(LIAR), str(process.config), behaviour])

    def restore(self) -> None:
        """Put the honest node back, if it is not there."""
        if not self.is_honest:
            self._start(service_command)
            self.is_honest = True

    def _start(self, command: Any) -> None:
        self.testbed.kill(f"{self.site}/node")

        def launcher(process: Process) -> list[str]:
            return list(command(process))

        bed = Testbed.load(self.testbed.layout.root, launcher)
        asyncio.run(bed.start(f"{self.site}/node"))


def is_clean(text: str) -> bool:
    """Whether a terminal shows a text and does not obey it."""
    return all(character.isprintable() or character == "\n" for character in text)
