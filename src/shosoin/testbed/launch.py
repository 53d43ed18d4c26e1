"""What a testbed's processes execute: ``python -m shosoin.testbed.launch ROLE CONFIG``.

The same as ``shosoin kme run`` and ``shosoin node run``, without the command line's imports: ten processes start at
once on few cores. Most of a start is loading modules, so several processes are forked off one that has loaded them:
``python -m shosoin.testbed.launch together ROLE CONFIG LOG PID_FILE ...`` ends as soon as every pid file is written.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from pathlib import Path

from shosoin.base import ShosoinError
from shosoin.testbed.processes import detach, record_of

__all__ = ["TOGETHER", "main"]

TOGETHER = "together"
_MODULES = {"kme": "shosoin.services.kme", "node": "shosoin.services.node"}
_WORDS = 4
"""Of each process on the command line of several."""


def main(arguments: list[str]) -> int:
    """Run one process until it is told to stop; return its exit status."""
    # Loading the system's authorities takes a tenth of a start, and a testbed trusts its own ones only. No service has
    # work for a second thread of linear algebra; without one, a fork is a fork of everything.
    os.environ.update(SSL_CERT_FILE=os.devnull, OPENBLAS_NUM_THREADS="1")
    if arguments[0] != TOGETHER:
        return _become(arguments[0], Path(arguments[1]))
    words = arguments[1:]
    return _fork([words[at : at + _WORDS] for at in range(0, len(words), _WORDS)])


def _load(roles: set[str]) -> None:
    # What is loaded stays; looking through it for garbage would also copy, in each process, the pages that all share.
    gc.disable()
    for role in roles:
        importlib.import_module(_MODULES[role])
    gc.freeze()
    gc.enable()


def _fork(orders: list[list[str]]) -> int:
    """Fork a process for each of ``role, config, log, pid file``; each returns its own exit status from here."""
    _load({role for role, *_ in orders})
    for role, config, log, pid_file in orders:
        pid = os.fork()
        if pid == 0:
            detach(Path(log))
            return _become(role, Path(config))
        record_of(pid).write(Path(pid_file))
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
