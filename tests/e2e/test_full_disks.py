"""Real sites whose disks are full, seen from the command line: one is put up with, two are refused, nothing stays.

A node's disk counts as full once less is free than its configuration reserves for records (``[limits] reserve_bytes``).
Reserving more than the volume has makes the real node refuse shares for the real reason, and needs no privileges.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from shosoin.testbed.control import Testbed
from shosoin.testbed.layout import ProcessRole
from shosoin.testbed.scenario import load_scenario
from tests.support.commands import Answer, Commands, loaded_commands

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(300)]

T = TypeVar("T")
MORE_THAN_ANY_VOLUME = 1 << 60
ERASING_S = 30.0


@dataclass
class Bed:
    """Five real sites and how to fill their disks."""

    testbed: Testbed
    commands: Commands

    def shosoin(self, *arguments: object) -> Answer:
        """Run the command in a process of its own."""
        return self.commands.run(*arguments, "--testbed", self.testbed.layout.root)

    def reserve(self, sites: Sequence[str], size_bytes: int | None) -> None:
        """Restart nodes with so much of their volume reserved; ``None`` means the default again."""
        for site in sites:
            self.testbed.kill(f"{site}/node")
            config = self.testbed.layout.process(site, ProcessRole.NODE).config
            text = config.read_text().partition("\n[limits]\n")[0]
            config.write_text(text if size_bytes is None else f"{text}\n[limits]\nreserve_bytes = {size_bytes}\n")
        asyncio.run(self.testbed.start(*(f"{site}/node" for site in sites)))

    def holdings(self) -> dict[str, tuple[int, int]]:
        """Return how many shares each site has on record, and how many files of shares."""
        found = {}
        for site in self.testbed.layout.scenario.sites:
            store = self.testbed.layout.process(site.name, ProcessRole.NODE).config.parent / "state" / "store"
            with closing(sqlite3.connect(f"file:{store / 'records.sqlite'}?mode=ro", uri=True)) as records:
                (recorded,) = records.execute("SELECT count(*) FROM shares").fetchone()
            files = [*store.glob("shares/*/*"), *store.glob("staging/*")]
            found[site.name] = (recorded, len(files))
        return found

    def files(self) -> dict[str, int]:
        """Return how many files of shares each site has; the index of names is too short for files here."""
        return {site: files for site, (_, files) in self.holdings().items()}


def becomes(observed: Callable[[], T], expected: T) -> None:
    """Wait, for a bounded time, until the nodes have erased what they were told to forget."""
    deadline_s = time.monotonic() + ERASING_S
    while (found := observed()) != expected and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert found == expected


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Five sites, ended by pid whatever happens."""
    testbed = asyncio.run(Testbed.up(load_scenario("five-sites"), tmp_path_factory.mktemp("full") / "bed"))
    try:
        with loaded_commands() as commands:
            yield Bed(testbed, commands)
    finally:
        testbed.down()


@pytest.mark.parametrize(
    ("class_", "size", "full"),
    [
        ("its", 300_000, ("hongo", "musashino")),
        ("its", 40_000, ("otemachi", "koganei")),  # shares as rows; the owner's home site among the full ones
        ("qkd", 6_000_000, ("hakusan", "hongo")),  # several exchanges, a seal that travels alone
    ],
)
def test_one_full_disk_is_put_up_with_two_are_refused_and_nothing_stays(
    bed: Bed, tmp_path: Path, class_: str, size: int, full: tuple[str, str]
) -> None:
    file, changed, copy = tmp_path / "file", tmp_path / "changed", tmp_path / "copy"
    file.write_bytes(os.urandom(size))
    changed.write_bytes(os.urandom(size))
    name, other = f"{class_}-{size}", f"{class_}-{size}-other"
    how = ("--class", class_)
    try:
        bed.reserve(full[:1], MORE_THAN_ANY_VOLUME)
        stored = bed.shosoin("put", file, name, *how)
        assert stored.code == 0, stored.err
        assert "durable at 4 sites" in stored.out
        assert f"not yet at: {full[0]}\n" in stored.out
        receipt = bed.shosoin("put", file, name, *how, "--json").json
        assert receipt["durable_at"] == 4
        assert receipt["missing"] == [full[0]]

        bed.reserve(full[1:], MORE_THAN_ANY_VOLUME)
        before = bed.holdings()
        for content, where in ((file, other), (changed, name)):
            refused = bed.shosoin("put", content, where, *how)
            assert refused.code == 4, refused
            assert refused.out == ""
            assert "3 of 5 sites can take a share, 4 are needed" in refused.lines("error")[0]
            assert all(f"{site} refused: the space left is reserved" in refused.lines("error")[0] for site in full)
            (hint,) = refused.lines("hint")
            assert "nothing was committed" in hint
            assert all(site in hint for site in full)
            assert "make room on the disks of" in hint
        becomes(bed.holdings, before)
        listed = [entry["name"] for entry in bed.shosoin("ls", "--json").json["objects"]]
        assert name in listed
        assert other not in listed
        assert bed.shosoin("get", name, copy).code == 0
        assert copy.read_bytes() == file.read_bytes()
    finally:
        bed.reserve(full, None)
    for content, where in ((file, other), (changed, name)):
        again = bed.shosoin("put", content, where, *how, "--json")
        assert again.code == 0, again.err
        assert again.json["durable_at"] == 5
        assert again.json["missing"] == []
        assert bed.shosoin("get", where, copy).code == 0
        assert copy.read_bytes() == content.read_bytes()


def test_objects_can_be_removed_when_every_disk_is_full(bed: Bed, tmp_path: Path) -> None:
    """The reserve is there for that; the index of names, which has to change, may use half of it."""
    file = tmp_path / "file"
    file.write_bytes(os.urandom(300_000))
    assert bed.shosoin("put", file, "to be removed", "--class", "qkd").code == 0
    sites = [site.name for site in bed.testbed.layout.scenario.sites]
    before = bed.files()
    volume = os.statvfs(bed.testbed.layout.root)
    free_bytes = volume.f_bavail * volume.f_frsize
    try:
        bed.reserve(sites, free_bytes + free_bytes // 2)
        assert bed.shosoin("put", file, "one more", "--class", "qkd").code == 4
        removed = bed.shosoin("rm", "to be removed")
        assert removed.code == 0, removed.err
        becomes(bed.files, {site: files - 1 for site, files in before.items()})
        assert "to be removed" not in bed.shosoin("ls").out
    finally:
        bed.reserve(sites, None)
