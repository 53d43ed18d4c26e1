"""Whether a process number still means the process that wrote it down: numbers are used again.

A signal that is meant for a KME must not reach whoever was given its number after it died. Linux tells when a process
started, counted from the start of the machine; where a system does not tell, only the number is compared.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["is_running", "mark_of"]

_BOOT = Path("/proc/sys/kernel/random/boot_id")


def mark_of(pid: int) -> str:
    """Return what distinguishes a process from an earlier or later one with its number, empty if nothing is known."""
    try:
        # The name, in parentheses, may hold anything; what follows it are fields without spaces.
        rest = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return f"{_BOOT.read_text(encoding='ascii').strip()}/{rest[19]}"
    except (OSError, IndexError):
        return ""


def is_running(pid: int, mark: str) -> bool:
    """Whether the process with that mark still runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return mark_of(pid) == mark
