"""Finding free loopback ports that stay free until their servers come back after a restart.

The kernel hands out ports of its *ephemeral* range to outgoing connections, so a server that was killed could find its
port taken. Ports are therefore drawn below that range, and all probes stay bound until every port is found.
"""

from __future__ import annotations

import secrets
import socket
from contextlib import ExitStack

from shosoin.base import Unavailable

__all__ = ["free_ports"]

LOWEST_PORT = 20_000
HIGHEST_PORT = 32_000
"""Below the ephemeral range of Linux (from 32768) and of macOS (from 49152)."""
MAX_PROBES_PER_PORT = 200


def free_ports(count: int) -> list[int]:
    """Return ``count`` different TCP ports that nobody on 127.0.0.1 uses now.

    Raises:
        Unavailable: too few free ports were found.
    """
    with ExitStack() as bound:
        found: list[int] = []
        for _ in range(count * MAX_PROBES_PER_PORT):
            if len(found) == count:
                return found
            port = LOWEST_PORT + secrets.randbelow(HIGHEST_PORT - LOWEST_PORT)
            probe = bound.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
        if len(found) == count:
            return found
    raise Unavailable(
        f"found {len(found)} of {count} free ports between {LOWEST_PORT} and {HIGHEST_PORT} on 127.0.0.1",
        code="testbed.no_free_port",
    )
