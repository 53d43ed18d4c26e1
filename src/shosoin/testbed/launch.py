"""What a testbed's processes execute: ``python -m shosoin.testbed.launch ROLE CONFIG``.

The same as ``shosoin kme run`` and ``shosoin node run``, without the command line's imports: ten processes start at
once on few cores.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shosoin.base import ShosoinError

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Run one process until it is told to stop; return its exit status."""
    role, config = arguments[0], Path(arguments[1])
    os.chdir(config.parent)
    try:
        _run(role, config)
    except ShosoinError as err:
        sys.stderr.write(f"shosoin: error: {err}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(role: str, config: Path) -> None:
    if role == "kme":
        from shosoin.services.kme import run as run_kme  # noqa: PLC0415  # each process loads its own service only

        run_kme(config)
    elif role == "node":
        from shosoin.services.node import run as run_node  # noqa: PLC0415

        run_node(config)
    else:
        raise ValueError(f"role {role!r} is not kme or node")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
