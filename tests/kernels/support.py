"""Every path in turn, and an oracle that shares no code with any of them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import pytest
from hypothesis import strategies as st

from shosoin.kernels import available_paths, paths

PATHS = available_paths()
NATIVE_PATHS = tuple(path for path in PATHS if path != "reference")
each_path = pytest.mark.parametrize("path", PATHS)

elements = st.one_of(st.integers(0, 20), st.integers(0, 2**128 - 1), st.just(2**128 - 1), st.just(1 << 127))

# In elements: nothing, one, around the vectors, groups, tiles and steps of every path, and whatever hypothesis finds.
counts = st.one_of(st.sampled_from([0, 1, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129]), st.integers(0, 600))


@contextmanager
def using(path: str) -> Iterator[None]:
    """Run the public functions on one path."""
    with mock.patch.object(paths, "_active", paths.load(path)):
        yield


def times(a: int, b: int) -> int:
    """Multiply as on paper: the product of the polynomials, then the remainder."""
    product = 0
    for i in range(128):
        if b >> i & 1:
            product ^= a << i
    for i in range(255, 127, -1):
        if product >> i & 1:
            product ^= ((1 << 128) | (1 << 7) | (1 << 2) | (1 << 1) | 1) << (i - 128)
    return product


def to_ints(data: bytes | bytearray | memoryview) -> list[int]:
    raw = bytes(data)
    return [int.from_bytes(raw[at : at + 16], "little") for at in range(0, len(raw), 16)]


def to_bytes(values: Sequence[int]) -> bytes:
    return b"".join(value.to_bytes(16, "little") for value in values)


def at_offset(data: bytes, offset: int) -> memoryview:
    """Copy data to memory that begins ``offset`` bytes after a multiple of 64."""
    raw = bytearray(len(data) + 128)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(raw)) % 64 + offset
    view = memoryview(raw)[start : start + len(data)]
    view[:] = data
    return view
