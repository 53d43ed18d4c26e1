"""How many files and connections this process may have open at once.

The soft limit that a shell or service manager hands down is often 1024, for the sake of programs that use ``select``.
A server that may have as many connections would then be unable to open its own files, and whoever just connects could
bring that about. The hard limit is what the administrator means.
"""

from __future__ import annotations

import resource
from contextlib import suppress

__all__ = ["allow_many_open_files"]

_ENOUGH = 1 << 16


def allow_many_open_files() -> int:
    """Raise the soft limit to the hard one, as far as that is of use; returns the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return soft
    with suppress(ValueError, OSError):  # some kernels have a lower limit than they admit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
