"""What the tests of the testbed share."""

from __future__ import annotations

import sys
from pathlib import Path

from shosoin.testbed.layout import Process

STANDIN = Path(__file__).with_name("standin.py")


def standin_command(process: Process) -> list[str]:
    """Return the command of a stand-in that listens and does nothing else."""
    return [sys.executable, str(STANDIN), str(process.port), str(process.state)]
