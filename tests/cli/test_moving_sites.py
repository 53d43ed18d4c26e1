"""``shosoin move`` over real processes: a site is replaced by a new one, switched off, and everything reads."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shosoin.adapters.owner import load_owner_config
from shosoin.testbed.control import Testbed
from shosoin.testbed.scenario import load_scenario

NEW, OLD = "kawasaki", "hakusan"
OLD_SITES = ("koganei", "otemachi", "hakusan", "hongo", "musashino")
LINK = '\n[[link]]\na = "{a}"\nb = "{b}"\nlength_km = 20.0\nattenuation_db_per_km = 0.3\n'


def six_sites(directory: Path) -> str:
    """The scenario of five sites and one more; returns the path of its file."""
    text = (
        load_scenario("five-sites").text
        + f'\n[[site]]\nname = "{NEW}"\nplace = "Kawasaki"\ndomain = "Fictional Port"\n'
    )
    path = directory / "six.toml"
    path.write_text(text + "".join(LINK.format(a=site, b=NEW) for site in OLD_SITES))
    return str(path)


@pytest.fixture
def bed(tmp_path: Path) -> Iterator[Testbed]:
    testbed = asyncio.run(Testbed.up(load_scenario(six_sites(tmp_path)), tmp_path / "bed"))
    yield testbed
    testbed.down(grace_s=2.0)


def retire(config: Path, site: str, retired: bool) -> None:
    text = config.read_text().replace(f'name = "{site}"\nretired = true\n', f'name = "{site}"\n')
    if retired:
        text = text.replace(f'name = "{site}"\n', f'name = "{site}"\nretired = true\n')
    config.write_text(text)
    assert {each.name for each in load_owner_config(config).sites if each.retired} == ({site} if retired else set())


@pytest.mark.processes
@pytest.mark.timeout(600)
def test_a_site_is_replaced_and_switched_off(shosoin, bed, tmp_path):
    config = bed.layout.owner_config(None)
    owner = ("--config", config)
    retire(config, NEW, retired=True)
    contents = {"small": os.urandom(5_000), "large": os.urandom(300_000), "空": b""}
    for (name, content), class_ in zip(contents.items(), ("its", "qkd", "its"), strict=True):
        (tmp_path / "source").write_bytes(content)
        stored = shosoin("put", tmp_path / "source", name, "--class", class_, *owner, "--json").json
        assert set(stored["acknowledged"]) == set(OLD_SITES)

    retire(config, NEW, retired=False)
    retire(config, OLD, retired=True)
    planned = shosoin("move", "--dry-run", *owner, "--json").json
    assert (planned["next"], {each["state"] for each in planned["objects"]}) == ("move", {"to_move"})
    assert planned["sites"][0] | {"holds_shares_of": 5} == planned["sites"][0]
    assert planned["sites"][0]["needed_by"] == 5  # three objects and the names of two classes

    moved = shosoin("move", *owner)
    assert moved.code == 0, moved
    assert "no: repair first" in moved.out
    assert "next: `shosoin repair --all`" in moved.out
    for name in contents:
        stat = shosoin("stat", name, *owner, "--json").json
        assert stat["placement"] == ["koganei", "otemachi", NEW, "hongo", "musashino"]
        assert stat["label"]["durable_at"] == 4

    repaired = shosoin("repair", "--all", *owner, "--json")
    assert repaired.code == 0, repaired
    done = shosoin("move", *owner, "--json").json
    assert (done["next"], done["sites"]) == (
        "off",
        [{"site": OLD, "configured": True, "needed_by": 0, "unrepaired": 0, "holds_shares_of": 0}
         | {"behind": [], "may_be_switched_off": True}],
    )  # fmt: skip
    assert all(each["erased_at"] == [OLD] for each in done["objects"] if each["name"])

    bed.kill(OLD)
    bed.kill("musashino/node")  # one of five may be lost besides
    for name, content in contents.items():
        assert shosoin("get", name, tmp_path / "copy", *owner).code == 0
        assert (tmp_path / "copy").read_bytes() == content
    asyncio.run(bed.start("musashino/node"))
    for name in contents:
        assert shosoin("stat", name, *owner, "--json").json["label"]["durable_at"] == 5
    assert set(shosoin("audit", "--all", *owner, "--json").json["counts"]) == {
        "koganei",
        "otemachi",
        NEW,
        "hongo",
        "musashino",
    }
    silent = shosoin("move", *owner)
    assert silent.code == 0
    assert "it does not answer" in silent.out


def test_home_cannot_be_retired(shosoin, tmp_path):
    path = tmp_path / "owner.toml"
    names = ("node", "url", "server_name", "domain", "signing_public_key")
    site = 'name = "a"\n' + "".join(f'{name} = "x"\n' for name in names)
    for retired, said in (
        ("true", "the home site a cannot be retired"),
        ('"yes"', "retired is neither true nor false"),
    ):
        path.write_text(f'[owner]\nsite = "a"\n[[site]]\n{site}retired = {retired}\n')
        answer = shosoin("move", "--config", path)
        assert answer.code == 2
        assert said in answer.err
