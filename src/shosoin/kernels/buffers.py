"""What a buffer is to the NumPy backend: contiguous bytes, checked as the native backends check theirs."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from itertools import combinations
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

__all__ = ["Buffer", "check_shapes", "check_xor", "contents", "new_buffer", "size_bytes", "view"]

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap.mmap | npt.NDArray[Any]
"""Contiguous memory. Any object with the buffer protocol will do; these are the types we name."""

_ELEMENT_BYTES = 16
_BUFFERS_MAX = 64
_PAGE_BYTES = 4096
_ALIGNED_FROM_BYTES = 64 << 10


def new_buffer(size: int) -> memoryview:
    """Return a writable buffer of ``size`` bytes that nobody has cleared: what it holds is whatever was there before.

    For outputs that are written to their last byte before anybody reads them; clearing those first costs a tenth of the
    time of a large transfer. Large ones begin at a page boundary, as files want them that bypass the page cache.
    """
    if size < _ALIGNED_FROM_BYTES:
        return view(np.empty(size, np.uint8)) if size else memoryview(bytearray())
    memory = np.empty(size + _PAGE_BYTES - 1, np.uint8)
    start = -memory.ctypes.data % _PAGE_BYTES
    return view(memory[start : start + size])


def view(buffer: Buffer) -> memoryview:
    """Return a memoryview of a buffer.

    Raises:
        TypeError: the object is no buffer.
    """
    return memoryview(cast(bytes, buffer))  # before Python 3.12 the type of buffers has no name


def size_bytes(buffer: Buffer) -> int:
    """Return the size of a buffer.

    Raises:
        TypeError: the object is no buffer.
    """
    return view(buffer).nbytes


def contents(buffer: Buffer, *, writable: bool = False) -> npt.NDArray[np.uint8]:
    """Return the bytes of a buffer as an array on the same memory, shape (bytes,).

    Raises:
        TypeError: the object is no buffer.
        ValueError: it is not contiguous, or must be writable and is not.
    """
    memory = view(buffer)
    if not memory.contiguous or (writable and memory.readonly):
        raise ValueError("a buffer must be contiguous and writable" if writable else "a buffer must be contiguous")
    if not memory.nbytes:
        return np.empty(0, np.uint8)
    return np.frombuffer(memory, np.uint8)


def check_shapes(inputs: Sequence[npt.NDArray[np.uint8]], outputs: Sequence[npt.NDArray[np.uint8]]) -> None:
    """Check that lengths are equal and whole elements, and that outputs overlap nothing.

    Raises:
        ValueError: if not.
    """
    if not 1 <= len(inputs) <= _BUFFERS_MAX or len(outputs) > _BUFFERS_MAX:
        raise ValueError(
            f"got {len(inputs)} inputs and {len(outputs)} outputs, expected 1 to 64 inputs and at most 64 outputs"
        )
    size = inputs[0].size
    if size % _ELEMENT_BYTES:
        raise ValueError(f"got {size} bytes, expected a multiple of 16")
    for other in (*inputs, *outputs):
        if other.size != size:
            raise ValueError(f"got buffers of {size} and {other.size} bytes, expected equal lengths")
    pairs = [(a, b) for a in outputs for b in inputs] + list(combinations(outputs, 2))
    if any(np.may_share_memory(a, b) for a, b in pairs):
        raise ValueError("an output must not overlap another buffer")


def check_xor(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], output: npt.NDArray[np.uint8]) -> None:
    """Check that lengths are equal, and that the output is an input or overlaps none.

    Raises:
        ValueError: if not.
    """
    if not a.size == b.size == output.size:
        raise ValueError("buffers must have equal lengths")
    for one in (a, b):
        if np.may_share_memory(one, output) and one.ctypes.data != output.ctypes.data:
            raise ValueError("an output must be an input or overlap none")
