"""What a testbed's processes execute: ``python -m shosoin.testbed.launch ROLE CONFIG``.

The same as ``shosoin kme run`` and ``shosoin node run``, without the command line's imports: ten processes start at
once on few cores. Most of a start is loading modules, so several processes are forked off one that has loaded them:
``python -m shosoin.testbed.launch together DIR SITE/ROLE ...`` ends as soon as every pid file is written. Each of them
begins only when its own is: whoever is killed in between, no process runs that no pid file names.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import sys
from pathlib import Path

from shosoin.base import ShosoinError
from shosoin.testbed.layout import Layout, Process
from shosoin.testbed.processes import KEPT_DESCRIPTOR, detach, record_of

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
    """Fork each process; every one returns its own exit status from here.

    The directory's lock, which we were given, is ours until the last pid file is written: if whoever started us is
    killed, nobody else starts the same processes meanwhile.
    """
    is_held = _is_open(KEPT_DESCRIPTOR)  # started by hand, there is none, and the number is free for others
    _load({process.role.value for process in processes})
    for process in processes:
        known, says_known = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(says_known)
            if is_held:
                os.close(KEPT_DESCRIPTOR)
            return _begin(process, known)
        os.close(known)
        record_of(pid).write(process.pid)
        with contextlib.suppress(BrokenPipeError):  # it is gone; its pid file tells
            os.write(says_known, b"!")
        os.close(says_known)
    return 0


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _begin(process: Process, known: int) -> int:
    """Become the process once its pid file names it; end if the launcher ends before that."""
    if not os.read(known, 1):
        return 1
    os.close(known)
    detach(process.log)
    return _become(process.role.value, process.config)


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
