"""All harnesses by name."""

from __future__ import annotations

from fuzz import (
    disks,
    key_formats,
    kme_edges,
    link_ends,
    link_formats,
    outside_formats,
    stream_formats,
    vault_ends,
    vault_formats,
)
from fuzz.harness import Harness

__all__ = ["HARNESSES"]

HARNESSES: dict[str, Harness] = {
    harness.name: harness
    for module in (
        vault_formats,
        vault_ends,
        key_formats,
        kme_edges,
        stream_formats,
        outside_formats,
        link_formats,
        link_ends,
        disks,
    )
    for harness in module.HARNESSES
}
