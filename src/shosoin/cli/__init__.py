"""The command line: ``shosoin``.

Data goes to standard output and talk to standard error; exit codes say what to do next (``docs/reference/cli.md``).

>>> from shosoin.cli import run
>>> run(["--version"])
shosoin 0.1.0
0
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main", "run"]


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every expected failure is already reported on standard error."""
    from shosoin.cli.app import command
    from shosoin.cli.common import guarded

    return guarded(lambda: command().main(list(arguments), prog_name="shosoin", standalone_mode=False))


def main() -> None:
    """Run the command that the process was started with, and exit."""
    from shosoin.adapters.memory import collect_garbage_rarely, reuse_large_blocks

    reuse_large_blocks()
    collect_garbage_rarely()
    sys.exit(run(sys.argv[1:]))
