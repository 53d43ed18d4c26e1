"""``[etsi004]`` of a KME's configuration: where key streams are served to applications, and how much of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shosoin.adapters.key_exchange import KeyExchange
from shosoin.keys.wire004 import DEFAULT_PORT
from shosoin.services.toml_sections import Sections

__all__ = ["Etsi004Section", "read_etsi004"]

_WORD_MAX = (1 << 32) - 1
_CHUNK_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Etsi004Section:
    """``[etsi004]``: ETSI GS QKD 004 for the SAEs of the site, in the binary form of ETSI's example code."""

    host: str
    certificate: Path
    key: Path
    client_ca: Path
    port: int = DEFAULT_PORT
    minimum_tls: str = "1.2"
    key_exchange: KeyExchange = KeyExchange.CLASSICAL
    crl: Path | None = None
    """Revocation lists: a file, or a folder of files."""
    crl_required: bool = False
    """Whether nobody is admitted without a current list of the authority."""
    max_connections: int = 256
    idle_timeout_s: float = 300.0
    """How long a connection may stay open without a request, or leave an answer untaken."""
    max_streams: int = 1024
    max_streams_per_sae: int = 64
    peer_wait_s: float = 300.0
    """How long a stream waits for its second application."""
    chunk_bytes: int = 32
    """Key_chunk_size for who leaves it to us."""
    max_chunk_bytes: int = 65536
    max_bps: int = 100_000_000
    timeout_ms: int = 5_000
    max_timeout_ms: int = 60_000
    ttl_s: int = 3_600
    max_ttl_s: int = 86_400
    max_stream_reserved_bytes: int = 1 << 20
    """Key of one stream that one end has had and the other has not."""
    max_reserved_bytes: int = 64 << 20
    """Likewise of all streams, in memory; of one SAE at most half of what the others leave."""


def read_etsi004(document: Mapping[str, Any], sections: Sections) -> Etsi004Section | None:
    """Read ``[etsi004]``, ``None`` where it is absent.

    Raises:
        Rejected: a key is wrong.
    """
    if "etsi004" not in document:
        return None
    found = sections.read(Etsi004Section, "etsi004", sections.table(document, "etsi004", "etsi004"))
    _check(found, sections)
    return found


def _check(found: Etsi004Section, sections: Sections) -> None:
    if found.minimum_tls not in {"1.2", "1.3"}:
        raise sections.wrong("[etsi004] minimum_tls must be '1.2' or '1.3'")
    positive = ("max_connections", "idle_timeout_s", "max_streams", "max_streams_per_sae", "peer_wait_s", "max_bps")
    for name in (*positive, "timeout_ms", "ttl_s", "chunk_bytes"):
        if getattr(found, name) <= 0:
            raise sections.wrong(f"[etsi004] {name} must be above zero")
    for name, most in (("timeout_ms", "max_timeout_ms"), ("ttl_s", "max_ttl_s"), ("chunk_bytes", "max_chunk_bytes")):
        if getattr(found, name) > getattr(found, most):
            raise sections.wrong(f"[etsi004] {name} must be at most {most}")
    for name in ("max_bps", "max_timeout_ms", "max_ttl_s"):
        if getattr(found, name) > _WORD_MAX:
            raise sections.wrong(f"[etsi004] {name} must be at most {_WORD_MAX}, as 32 bits carry it")
    if found.max_chunk_bytes > _CHUNK_BYTES_MAX:
        raise sections.wrong(f"[etsi004] max_chunk_bytes must be at most {_CHUNK_BYTES_MAX}")
    if found.max_reserved_bytes < 4 * found.max_chunk_bytes:
        raise sections.wrong("[etsi004] max_reserved_bytes must be at least four times max_chunk_bytes")
