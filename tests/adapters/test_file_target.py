"""The target of a get: whatever pieces come, the file has exactly their bytes, and is whole or not there."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from pathlib import Path
from typing import Any

import pytest

from shosoin.adapters import owner
from shosoin.adapters.owner import FileTarget
from shosoin.base import Rejected
from shosoin.kernels import new_buffer

PAGE = 4096


def piece(content: bytes) -> memoryview:
    """The content in a buffer as a get makes them: large ones begin at a page."""
    buffer = new_buffer(len(content))
    buffer[:] = content
    return buffer


def contents(sizes: list[int]) -> list[bytes]:
    generator = random.Random(sum(sizes))
    return [generator.randbytes(size) for size in sizes]


SIZES = [
    [],
    [1],
    [1 << 20, 1 << 20, 12_345],
    [1 << 20, 100, 1 << 20],
    [PAGE, 1 << 20, 0, 1 << 20, PAGE - 1, 1],
    [100_000, 1 << 20],
]


@pytest.mark.parametrize("sizes", SIZES)
async def test_the_file_has_the_bytes_of_all_pieces(tmp_path: Path, sizes: list[int]) -> None:
    target = FileTarget(tmp_path / "file")
    wanted = contents(sizes)
    for content in wanted:
        await target.write(piece(content))
    assert not (tmp_path / "file").exists()
    target.commit()
    assert (tmp_path / "file").read_bytes() == b"".join(wanted)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_a_piece_that_is_part_of_a_buffer_is_written_too(tmp_path: Path) -> None:
    (content,) = contents([1 << 20])
    target = FileTarget(tmp_path / "file")
    await target.write(piece(content)[100 : 100 + 8 * PAGE])
    await target.write(piece(content)[PAGE : 3 * PAGE])
    target.commit()
    assert (tmp_path / "file").read_bytes() == content[100 : 100 + 8 * PAGE] + content[PAGE : 3 * PAGE]


@pytest.mark.parametrize("refuses", ["flag", "write"])
async def test_a_file_system_that_refuses_the_short_way_gets_the_long_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refuses: str
) -> None:
    wanted = contents([1 << 20, 1 << 20, 77])
    set_flags, write = fcntl.fcntl, owner._write_all
    refused: list[str] = []

    def no_flag(file: Any, command: int, argument: int = 0) -> Any:
        if refuses == "flag" and command == fcntl.F_SETFL and argument & owner._O_DIRECT:
            refused.append("flag")
            raise OSError(errno.EINVAL, "no")
        return set_flags(file, command, argument)

    def no_write(stream: Any, view: memoryview) -> None:
        if refuses == "write" and not refused:
            refused.append("write")
            raise OSError(errno.EINVAL, "no")
        write(stream, view)

    monkeypatch.setattr(fcntl, "fcntl", no_flag)
    monkeypatch.setattr(owner, "_write_all", no_write)
    target = FileTarget(tmp_path / "file")
    for content in wanted:
        await target.write(piece(content))
    target.commit()
    assert refused == [refuses]
    assert (tmp_path / "file").read_bytes() == b"".join(wanted)


async def test_another_failure_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(owner, "_write_all", full)
    target = FileTarget(tmp_path / "file")
    with pytest.raises(Rejected, match="space"):
        await target.write(piece(bytes(1 << 20)))
    target.discard()
    assert not list(tmp_path.iterdir())
