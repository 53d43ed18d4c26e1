"""Files that cannot be read, vanish, shrink or grow while they are put: a clear error, exit code 2, nothing stored.

The files and their source are real; only the moment is arranged: what happens to the file happens right before the
source opens it or reads from it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shosoin.adapters.owner import FileSource
from shosoin.testbed.control import Testbed
from shosoin.testbed.scenario import load_scenario

pytestmark = pytest.mark.processes

MIB = 1 << 20
SIZE_BYTES = 5 * MIB + 4321
NAME = "changing"


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("changing") / "bed"
    testbed = asyncio.run(Testbed.up(load_scenario("tiny"), root))
    yield root
    testbed.down(grace_s=2.0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "records"
    path.write_bytes(os.urandom(SIZE_BYTES))
    return path


@pytest.fixture
def before_opening(monkeypatch) -> Callable[[Callable[[], object]], None]:
    """Do something right before the source opens the file."""
    original = FileSource.__init__

    def arrange(change: Callable[[], object]) -> None:
        def opening(self, *arguments):
            change()
            original(self, *arguments)

        monkeypatch.setattr(FileSource, "__init__", opening)

    return arrange


@pytest.fixture
def before_reading(monkeypatch) -> Callable[[int, Callable[[], object]], None]:
    """Do something right before the source is read for the n-th time."""
    original = FileSource.read

    def arrange(number: int, change: Callable[[], object]) -> None:
        calls = iter(range(1, 1 << 20))

        async def reading(self, size_bytes):
            if next(calls) == number:
                change()
            return await original(self, size_bytes)

        monkeypatch.setattr(FileSource, "read", reading)

    return arrange


@pytest.fixture
def refused(shosoin, bed, monkeypatch) -> Callable[..., None]:
    """Put a file; it must be refused with these words, and leave nothing under its name."""

    def check(path: Path, *words: str) -> None:
        answer = shosoin("put", path, NAME, "--testbed", bed, "--class", "qkd", "--json")
        assert (answer.code, answer.out) == (2, "")
        assert len(answer.errors) == 1
        for word in words:
            assert word in answer.err
        assert NAME not in [entry["name"] for entry in shosoin("ls", "--testbed", bed, "--json").json["objects"]]

    return check


def append(path: Path, content: bytes) -> None:
    with path.open("ab") as stream:
        stream.write(content)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; the cases below do without permissions")
def test_a_file_without_permission(refused, file):
    file.chmod(0)
    refused(file, f"cannot read {file}: Permission denied")


def test_a_directory(refused, tmp_path):
    refused(tmp_path, "is not a regular file", "shosoin put - NAME")


def test_a_dangling_link(refused, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nothing")
    refused(link, "link: no such file or directory")


def test_a_link_to_itself(refused, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(link)
    refused(link, "link: too many levels of symbolic links")


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="no file at hand whose reading fails")
def test_a_file_that_opens_and_cannot_be_read(refused):
    refused(Path("/proc/self/mem"), "reading failed: Input/output error")


def test_a_file_that_vanishes_before_it_is_opened(refused, file, before_opening):
    before_opening(file.unlink)
    refused(file, f"cannot read {file}: No such file or directory")


def test_a_file_that_becomes_a_directory_before_it_is_opened(refused, file, before_opening):
    def replace() -> None:
        file.unlink()
        file.mkdir()

    before_opening(replace)
    refused(file, f"cannot read {file}: Is a directory")


@pytest.mark.parametrize("number", [1, 3], ids=["before the first byte", "with data on its way"])
@pytest.mark.parametrize("left", [0, 2 * MIB, SIZE_BYTES - 1])
def test_a_file_that_shrinks(refused, file, before_reading, number, left):
    before_reading(number, lambda: os.truncate(file, left))
    refused(file, f"bytes, expected {SIZE_BYTES}", "nothing was stored; try again when nobody writes to the file")


@pytest.mark.parametrize("number", [1, 3], ids=["before the first byte", "with data on its way"])
@pytest.mark.parametrize("more", [1, MIB])
def test_a_file_that_grows(refused, file, before_reading, number, more):
    before_reading(number, lambda: append(file, bytes(more)))
    refused(file, f"grew beyond the {SIZE_BYTES} bytes it had", "nothing was stored")


def test_a_file_that_grows_by_whole_segments(refused, tmp_path, before_reading):
    """The growth is only seen behind the last byte that was expected."""
    path = tmp_path / "whole"
    path.write_bytes(bytes(2 * MIB))
    before_reading(2, lambda: append(path, bytes(2 * MIB)))
    refused(path, f"grew beyond the {2 * MIB} bytes it had")


def test_a_file_whose_name_goes_while_it_is_read_is_stored_whole(shosoin, bed, file, tmp_path, before_reading):
    """Whoever has a file open still reads it: nothing is lost, and nothing need be refused."""
    content = file.read_bytes()
    before_reading(2, file.unlink)
    stored = shosoin("put", file, "unlinked", "--testbed", bed, "--class", "qkd", "--json")
    assert (stored.code, stored.json["size_bytes"]) == (0, SIZE_BYTES)
    assert shosoin("get", "unlinked", tmp_path / "copy", "--testbed", bed).code == 0
    assert (tmp_path / "copy").read_bytes() == content
