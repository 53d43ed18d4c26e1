"""The operating system's generator of secret bytes."""

from __future__ import annotations

import os

__all__ = ["SystemEntropy"]


class SystemEntropy:
    """``Entropy`` of the operating system.

    Security: a computational generator seeded from hardware noise; ``physical`` is therefore false.
    """

    @property
    def source(self) -> str:
        """Where the bits come from."""
        return "operating system generator"

    @property
    def physical(self) -> bool:
        """Whether every bit is physical: no."""
        return False

    def random_bytes(self, size_bytes: int) -> bytes:
        """Return fresh uniform bytes."""
        return os.urandom(size_bytes)
