"""Choosing a kernel path once, when the package is imported."""

from __future__ import annotations

import os
from types import ModuleType

try:
    from shosoin.kernels import _native
except ImportError:  # built without a compiler
    _found: ModuleType | None = None
else:
    _found = _native

__all__ = ["NATIVE", "PATH", "active_path", "available_paths"]

_VARIABLE = "SHOSOIN_KERNELS"


def available_paths() -> tuple[str, ...]:
    """Return the paths that run on this machine, fastest first; ``reference`` always does."""
    return (*(_found.paths() if _found else ()), "reference")


def _chosen() -> str:
    wanted = os.environ.get(_VARIABLE, "auto")
    there = available_paths()
    if wanted == "auto":
        return there[0]
    if wanted not in there:
        raise ImportError(f"{_VARIABLE}={wanted[:20]!r} is not available here; this machine has: {', '.join(there)}")
    return wanted


PATH = _chosen()
NATIVE = None if PATH == "reference" else _found


def active_path() -> str:
    """Return the path in use: ``avx512``, ``avx2``, ``portable`` or ``reference``."""
    return PATH
