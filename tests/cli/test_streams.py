"""Standard input and output: whole reads, no blocked thread, and files as well as pipes."""

from __future__ import annotations

import asyncio
import os

import pytest

from shosoin.cli.streams import WRITE_BYTES_MAX, StandardInput, StandardOutput


@pytest.fixture
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


async def test_a_read_is_whole_although_the_pipe_gives_pieces(pipe):
    reader, writer = pipe
    source = StandardInput(reader)
    reading = asyncio.create_task(source.read(6))
    for piece in (b"ab", b"cd", b"ef"):
        os.write(writer, piece)
        await asyncio.sleep(0)
    assert await reading == b"abcdef"
    os.write(writer, b"rest")
    os.close(writer)
    assert await source.read(100) == b"rest"
    assert await source.read(100) == b""


async def test_a_blocked_read_can_be_cancelled(pipe):
    reading = asyncio.create_task(StandardInput(pipe[0]).read(1))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_a_large_write_waits_for_the_reader(pipe):
    reader, writer = pipe
    content = os.urandom(40 * WRITE_BYTES_MAX + 7)
    writing = asyncio.create_task(StandardOutput(writer).write(content))
    received = await StandardInput(reader).read(len(content))
    await writing
    assert received == content


async def test_a_reader_that_left_is_an_error_not_a_hang(pipe):
    reader, writer = pipe
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        await StandardOutput(writer).write(b"x")


async def test_regular_files_work_too(tmp_path):
    path = tmp_path / "file"
    content = os.urandom(3 << 20)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    await StandardOutput(descriptor).write(memoryview(content))
    os.close(descriptor)
    descriptor = os.open(path, os.O_RDONLY)
    assert await StandardInput(descriptor).read(len(content) + 1) == content
    os.close(descriptor)
