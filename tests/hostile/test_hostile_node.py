"""One of five sites is a process that lies in every way we could think of: right bytes, clear errors, bounded cost.

Commands run as people run them, in processes with a limit on memory; a command that hangs fails the test by its time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shosoin.adapters.owner import load_owner_config, open_vault
from shosoin.testbed.control import Testbed
from shosoin.testbed.scenario import load_scenario
from tests.e2e.rounds_load import Target
from tests.hostile import liar
from tests.hostile.support import Bed, is_clean
from tests.support.commands import loaded_commands

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(600)]

SITE = "otemachi"


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Five real sites with an object of each class."""
    directory = tmp_path_factory.mktemp("hostile")
    testbed = asyncio.run(Testbed.up(load_scenario("five-sites"), directory / "bed"))
    try:
        with loaded_commands() as commands:
            bed = Bed(testbed, SITE, commands)
            for class_ in ("its", "qkd"):
                (directory / class_).write_bytes(os.urandom(30_000))
                stored = bed.shosoin("put", directory / class_, f"old/{class_}", "--class", class_)
                assert stored.code == 0, stored.err
            yield bed
        bed.restore()
        asyncio.run(_check_stored(bed))
    finally:
        testbed.down()


async def _check_stored(bed: Bed) -> None:
    """Check that what was put beside a liar is there when the site is honest again."""
    assert bed.stored
    async with open_vault(load_owner_config(bed.testbed.layout.owner_config("owner-1"))) as vault:
        for name, content in bed.stored.items():
            target = Target()
            await vault.get(name, target)
            assert bytes(target.content) == content, name


@pytest.fixture
def originals(bed: Bed) -> dict[str, bytes]:
    """What was stored before anybody lied."""
    directory = bed.testbed.layout.root.parent
    return {class_: (directory / class_).read_bytes() for class_ in ("its", "qkd")}


@pytest.mark.parametrize("behaviour", [*liar.RAW, *liar.ALL_INNER])
def test_a_site_that_lies_changes_no_byte_and_no_exit_code_into_a_defect(
    bed: Bed, originals: dict[str, bytes], tmp_path: Path, behaviour: str
) -> None:
    copy, new, name = tmp_path / "copy", tmp_path / "new", f"new/{behaviour}"
    new.write_bytes(os.urandom(3000))
    bed.replace(behaviour)
    for class_ in ("its", "qkd") if behaviour in liar.ALL_INNER else ("its",):
        got = bed.shosoin("get", f"old/{class_}", copy)
        assert is_clean(got.err), got.err
        assert got.code == 0, (behaviour, got.err)
        assert copy.read_bytes() == originals[class_]
    stored = bed.shosoin("put", new, name, "--class", "its")
    assert is_clean(stored.err), stored.err
    assert stored.code == 0, (behaviour, stored.err)  # four honest sites suffice
    bed.stored[name] = new.read_bytes()
    if behaviour in liar.ALL_INNER:
        _check_verified(bed, behaviour)


def _check_verified(bed: Bed, behaviour: str) -> None:
    """Check that nobody but the liar is accused, and the liar of what it does to shares."""
    verified = bed.shosoin("verify", "old/qkd", "--json")
    assert is_clean(verified.err), verified.err
    assert verified.code in {0, 4, 6}, (behaviour, verified.err)  # 4: it could not be checked at the liar
    bad = {site for site, state in verified.json["per_site"].items() if state in {"damaged", "wrong"}}
    assert bad <= {SITE}
    if behaviour == "wrong shares":
        assert (bad, verified.code) == ({SITE}, 6)


@pytest.mark.parametrize(
    "behaviour", ["wrong shares", "junk results", "refuses everything", "stale registers", "silent"]
)
def test_listing_auditing_and_removing_beside_a_liar(bed: Bed, tmp_path: Path, behaviour: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"to be removed")
    bed.restore()
    assert bed.shosoin("put", file, "going", "--class", "qkd").code == 0
    bed.replace(behaviour)
    try:
        listed = bed.shosoin("ls", "--json")
        assert listed.code == 0, listed.err
        assert {"old/its", "old/qkd", "going"} <= {entry["name"] for entry in listed.json["objects"]}
        audited = bed.shosoin("audit", "--all", "--json")
        assert audited.code in {0, 4, 6}, audited.err
        assert is_clean(audited.err)
        removed = bed.shosoin("rm", "going")
        assert removed.code == 0, removed.err
        assert bed.shosoin("get", "going", tmp_path / "none").code == 2
    finally:
        bed.restore()
    assert bed.shosoin("get", "going", tmp_path / "none").code == 2


def test_wrong_shares_of_more_sites_than_survive_are_an_alarm_and_no_bytes(bed: Bed, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(9000))
    bed.restore()
    assert bed.shosoin("put", file, "outvoted", "--class", "qkd").code == 0
    others = [Bed(bed.testbed, site, bed.commands) for site in ("otemachi", "hakusan", "hongo")]
    for other in others:
        other.replace("wrong shares")
    try:
        got = bed.shosoin("get", "outvoted", tmp_path / "copy")
        assert got.code in {4, 6}, got.err
        assert not (tmp_path / "copy").exists()
    finally:
        for other in others:
            other.restore()
    assert bed.shosoin("get", "outvoted", tmp_path / "copy").code == 0
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()
