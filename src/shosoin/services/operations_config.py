"""``[operations]`` of a KME's configuration: where metrics and health are served, and how much of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shosoin.services.toml_sections import Sections

__all__ = ["OperationsSection", "is_loopback", "read_operations"]

_INTERVAL_S_MAX = 3600


@dataclass(frozen=True, slots=True)
class OperationsSection:
    """``[operations]``: plain HTTP without any authentication, hence for this machine alone unless told otherwise."""

    port: int
    host: str = "127.0.0.1"
    allow_remote: bool = False
    max_connections: int = 16
    idle_timeout_s: float = 10.0
    """How long a client may take to send a request, to take the answer, or to do nothing."""
    min_scrape_interval_s: float = 1.0
    """Within it the last text is served again, and the storage is not tried again."""
    max_sae_pairs: int = 256
    """Pairs of SAEs with counters of their own; the others are counted together."""


def read_operations(document: Mapping[str, Any], sections: Sections) -> OperationsSection | None:
    """Read ``[operations]``, ``None`` where it is absent.

    Raises:
        Rejected: a key is wrong, or the host is no loopback address and nothing allows that.
    """
    if "operations" not in document:
        return None
    found = sections.read(OperationsSection, "operations", sections.table(document, "operations", "operations"))
    if not found.allow_remote and not is_loopback(found.host):
        raise sections.wrong(
            f"[operations] host {found.host!r} is no loopback address, and metrics and health are served without TLS "
            "to everybody who can connect: write '127.0.0.1' or '::1', or allow_remote = true"
        )
    if found.min_scrape_interval_s > _INTERVAL_S_MAX:
        raise sections.wrong(
            f"[operations] min_scrape_interval_s must be at most {_INTERVAL_S_MAX}: answers grow stale"
        )
    if found.port > 65535 or found.max_connections < 1 or found.idle_timeout_s <= 0:
        raise sections.wrong("[operations] port must be at most 65535, max_connections and idle_timeout_s above zero")
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect; a name other than ``localhost`` may mean any machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
