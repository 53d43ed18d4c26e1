"""How this process gets memory for large buffers.

glibc takes every block above 128 KiB fresh from the kernel and gives it back when it is freed. A program that moves
shares through buffers of a megabyte then spends a good part of its time in page faults (measured: a fifth of the
processor time of a large put). ``reuse_large_blocks`` has the C library keep them.
"""

from __future__ import annotations

import atexit
import ctypes
import gc

import numpy as np

__all__ = ["PAGE_BYTES", "collect_garbage_rarely", "is_page_aligned", "reuse_large_blocks"]

PAGE_BYTES = 4096

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Names of parameters in glibc's ``malloc.h``."""
_KEPT_BYTES_MAX = 128 << 20
_BLOCK_BYTES_MAX = 32 << 20
"""glibc accepts no more on 64 bits."""
_ARENAS = 2
_MADE_BEFORE_COLLECTING = 10_000


def reuse_large_blocks() -> bool:
    """Keep freed blocks of up to 32 MiB for the next use, 128 MiB of them at most; return whether that could be done.

    Call it once, early, in programs of ours; a library must not decide this for others.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    settings = ((_M_MMAP_THRESHOLD, _BLOCK_BYTES_MAX), (_M_TRIM_THRESHOLD, _KEPT_BYTES_MAX), (_M_ARENA_MAX, _ARENAS))
    taken = [mallopt(name, value) for name, value in settings]
    return all(taken)


def collect_garbage_rarely() -> None:
    """Look for reference cycles less often, and never again among what is there now; call it once, after start-up.

    Python's collector walks everything that lives each time a few hundred objects more were made than freed. That was a
    tenth of the processor time of a put and a fifth of a get; what these leave behind is freed by counting references.
    A library must not decide this for others.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_MADE_BEFORE_COLLECTING, 20, 20)
    atexit.register(gc.unfreeze)  # at the end everything goes, in order


def is_page_aligned(view: memoryview) -> bool:
    """Whether a buffer begins where a page of memory does."""
    return not len(view) or np.frombuffer(view, np.uint8).ctypes.data % PAGE_BYTES == 0
