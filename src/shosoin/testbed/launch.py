"""What a testbed's processes execute: ``python -m shosoin.testbed.launch ROLE CONFIG``.

The same as ``shosoin kme run`` and ``shosoin node run``, without the command line's imports: ten processes start at
once on few cores. Most of a start is loading modules, so several processes are forked off one that has loaded them:
``python -m shosoin.testbed.launch together DIR SITE/ROLE ...`` ends as soon as every pid file is written.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from pathlib import Path

from shosoin.base import ShosoinError
from shosoin.testbed.layout import Layout, Process
from shosoin.testbed.processes import detach, record_of

__all__ = ["TOGETHER", "main"]

TOGETHER = "together"
_MODULES = {"kme": "shosoin.services.kme", "node": "shosoin.services.node"}


def main(arguments: list[str]) -> int:
    """Run one process until it is told to stop; return its exit status."""
    if arguments[0] != TOGETHER:
        return _become(arguments[0], Path(arguments[1]))
    layout = Layout.load(Path(arguments[1]))
    return _fork([process for target in arguments[2:] for process in layout.select(target)])


def _load(roles: set[str]) -> None:
    # What is loaded stays; looking through it for garbage would also copy, in each process, the pages that all share.
    gc.disable()
    for role in roles:
        importlib.import_module(_MODULES[role])
    gc.freeze()
    gc.enable()


def _fork(processes: list[Process]) -> int:
    """Fork each process; every one returns its own exit status from here."""
    _load({process.role.value for process in processes})
    for process in processes:
        pid = os.fork()
        if pid == 0:
            detach(process.log)
            return _become(process.role.value, process.config)
        record_of(pid).write(process.pid)
    return 0


def _become(role: str, config: Path) -> int:
    os.chdir(config.parent)
    _load({role})  # its own service only
    try:
        importlib.import_module(_MODULES[role]).run(config)
    except ShosoinError as err:
        sys.stderr.write(f"shosoin: error: {err}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
