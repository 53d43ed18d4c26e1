"""A TLS handshake without a network: to see what two contexts agree on before anybody relies on them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

__all__ = ["MemoryHandshake", "shake_hands"]

_TURNS_MAX = 16
"""A handshake takes three or four; more is none."""


@dataclass(frozen=True, slots=True)
class MemoryHandshake:
    """Both ends after the handshake."""

    client: ssl.SSLObject
    server: ssl.SSLObject


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, server_hostname: str) -> MemoryHandshake:
    """Shake hands and return both ends.

    Raises:
        ssl.SSLError: one of them refuses.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(to_client, to_server, server_hostname=server_hostname)
    far = server.wrap_bio(to_server, to_client, server_side=True)
    waiting = [near, far]
    for _ in range(_TURNS_MAX):
        waiting = [end for end in waiting if not _is_done(end)]
        if not waiting:
            return MemoryHandshake(near, far)
    raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the handshake does not end")


def _is_done(end: ssl.SSLObject) -> bool:
    """Take one end as far as it goes; return whether it has finished."""
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
