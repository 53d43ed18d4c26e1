"""The machine's clocks."""

from __future__ import annotations

import time

__all__ = ["SystemClock"]


class SystemClock:
    """``Clock`` of the operating system."""

    def now_s(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def wall_s(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        return time.time()
