"""Syndromes and decoding of quasi-cyclic LDPC codes; ``reference_ldpc`` tells what they are."""

from __future__ import annotations

from typing import Protocol

from shosoin.kernels.buffers import Buffer
from shosoin.kernels.paths import family
from shosoin.kernels.reference_ldpc import MESSAGE_MAX, UNITS_PER_NAT, ReferenceLdpcKernels

__all__ = ["KNOWN", "MESSAGE_MAX", "UNITS_PER_NAT", "LdpcKernels", "ldpc_kernels"]

KNOWN = 32767
"""The magnitude of a column whose bits are zero without doubt: its edges are left out."""


class LdpcKernels(Protocol):
    """What each path offers; :class:`shosoin.kernels.reference_ldpc.ReferenceLdpcKernels` has the meaning."""

    def syndrome(self, rows: int, lifting: int, edges: bytes, bits: Buffer) -> bytes:
        """Return the packed parities of all checks."""
        ...

    def decode(
        self, rows: int, lifting: int, edges: bytes, magnitudes: bytes, syndrome: Buffer, iterations_max: int
    ) -> tuple[bytes, int, bool]:
        """Return the error pattern, the iterations used and whether it has the wanted syndrome."""
        ...


def ldpc_kernels(path: str | None = None) -> LdpcKernels:
    """Return the kernels of a path, by default the one in use."""
    return family("LdpcKernels", ReferenceLdpcKernels, path)
