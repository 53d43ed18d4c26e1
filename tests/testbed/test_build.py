"""A testbed's directory: what the services and owners read, made once, private, and never over somebody's files."""

from __future__ import annotations

import json
import shutil
import stat
import tomllib
from pathlib import Path

import pytest

from shosoin.adapters.owner import load_owner_config
from shosoin.base import Rejected, SaeId
from shosoin.services.kme import KmeProcess
from shosoin.services.kme_config import load_kme_config
from shosoin.services.node_config import load_node_config
from shosoin.testbed import build
from shosoin.testbed.build import prepare
from shosoin.testbed.control import Testbed
from shosoin.testbed.layout import Layout, ProcessRole
from shosoin.testbed.scenario import load_scenario, parse_scenario
from tests.support.kme import until
from tests.testbed.test_scenario import SMALL


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return prepare(load_scenario("five-sites"), tmp_path_factory.mktemp("five") / "bed")


def test_every_service_reads_its_configuration(five):
    for site in five.scenario.sites:
        kme = load_kme_config(five.process(site.name, ProcessRole.KME).config)
        assert (kme.kme.id, kme.kme.site) == (site.kme_id, site.name)
        assert kme.sae_api.port == five.ports[site.name].sae_api
        peers = {link.other(site.name) for link in five.scenario.links_of(site.name)}
        assert {link.peer for link in kme.links} == {f"kme-{peer}" for peer in peers}
        assert len(kme.directory) == 5 * 3 + 2
        assert kme.directory[SaeId("owner-2")] == "kme-otemachi"
        node = load_node_config(five.process(site.name, ProcessRole.NODE).config)
        assert (node.node.id, node.kme.id) == (site.node_id, site.kme_id)
        assert {owner.id for owner in node.owners} == {"owner-1", "owner-2"}


def test_every_owner_reads_its_configuration(five):
    config = load_owner_config(five.owner_config("owner-2"))
    assert (config.owner, config.home, str(config.scheme), config.class_) == ("owner-2", "otemachi", "3-of-5", "its")
    assert [site.name for site in config.sites] == [site.name for site in five.scenario.sites]
    assert len({site.domain for site in config.sites}) == 5
    for path in (config.certificate, config.key, config.signing_key, config.kme_ca, config.node_ca):
        assert path.is_file()


def test_an_owner_is_told_only_of_sites_that_its_home_reaches(tmp_path):
    written = SMALL + '\n[[site]]\nname = "lonely"\ndomain = "Fictional Island"\n[defaults]\nscheme = "2-of-2"\n'
    layout = prepare(parse_scenario(written), tmp_path / "bed")
    assert [site.name for site in load_owner_config(layout.owner_config(None)).sites] == ["east", "west"]


def test_policies_reach_every_owner_and_a_mistake_stops_the_build_before_anything_is_made(tmp_path):
    policy = '\n[[policy]]\nprefix = "a/"\nrequire = ["{}"]\n'
    layout = prepare(parse_scenario(SMALL + policy.format("collusion >= 2 and durable = n")), tmp_path / "bed")
    config = load_owner_config(layout.owner_config(None))
    assert [str(each.clause) for each in config.policies.in_force("a/x")] == ["collusion >= 2", "durable = n"]
    assert config.policies.in_force("b") == ()
    with pytest.raises(Rejected, match="begins with no known subject"):
        prepare(parse_scenario(SMALL + policy.format("colusion >= 2")), tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_both_ends_of_a_link_hold_the_same_secret_and_no_other_pair_does(five):
    secrets: dict[frozenset[str], set[bytes]] = {}
    for site in five.scenario.sites:
        kme = load_kme_config(five.process(site.name, ProcessRole.KME).config)
        for link in kme.links:
            content = link.pair_secret_file.read_bytes()
            assert len(content) == 1024
            secrets.setdefault(frozenset((site.kme_id, link.peer)), set()).add(content)
    assert len(secrets) == 10
    assert all(len(contents) == 1 for contents in secrets.values())
    assert len(set().union(*secrets.values())) == 10


def test_nothing_is_readable_by_others(five):
    for path in [five.root, *five.root.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_ports_are_all_different_and_below_the_ephemeral_range(five):
    ports = [port for site in five.ports.values() for port in (site.sae_api, site.peer_api, site.node_api)]
    assert len(set(ports)) == 15
    assert all(20_000 <= port < 32_768 for port in ports)


def test_configurations_name_only_relative_paths(five, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(five.root, moved)
    for path in moved.rglob("*.toml"):
        assert str(five.root) not in path.read_text()
    layout = Layout.load(moved)
    assert layout.scenario == five.scenario
    assert load_owner_config(layout.owner_config(None)).certificate.is_file()


def test_a_second_time_gives_the_same(five):
    before = {path: path.stat().st_mtime_ns for path in five.root.rglob("*") if path.is_file()}
    again = prepare(load_scenario("five-sites"), five.root)
    assert again == five
    assert {path: path.stat().st_mtime_ns for path in five.root.rglob("*") if path.is_file()} == before


def test_another_scenario_is_refused(five):
    with pytest.raises(Rejected, match=r"already holds a testbed of scenario 'five-sites'"):
        prepare(load_scenario("tiny"), five.root)


def test_an_interrupted_build_is_made_afresh(tmp_path):
    root = tmp_path / "bed"
    first = prepare(load_scenario("tiny"), root)
    (root / "ports.json").unlink()
    (first.process("naka", ProcessRole.KME).config).unlink()
    second = prepare(load_scenario("tiny"), root)
    assert json.loads((root / "ports.json").read_text()).keys() == {"kita", "naka", "minami"}
    assert tomllib.loads(second.process("naka", ProcessRole.KME).config.read_text())["kme"]["id"] == "kme-naka"


async def test_a_directory_of_somebody_else_is_left_as_it_is(tmp_path):
    root = tmp_path / "home"
    root.mkdir(mode=0o755)
    (root / "thesis.tex").write_text("precious")
    with pytest.raises(Rejected, match=r"holds 'thesis.tex'"):
        await Testbed.up(load_scenario("tiny"), root)
    assert stat.S_IMODE(root.stat().st_mode) == 0o755
    assert [path.name for path in root.iterdir()] == ["thesis.tex"]
    with pytest.raises(Rejected, match="is not a directory"):
        await Testbed.up(load_scenario("tiny"), root / "thesis.tex")


@pytest.mark.parametrize(
    ("name", "content"),
    [("ports.json", "{}x"), ("ports.json", '{"kita": {"sae_api": 1}}'), ("ports.json", "[]"), ("scenario.toml", "x")],
)
def test_a_broken_directory_is_no_testbed(tmp_path, name, content):
    root = tmp_path / "bed"
    prepare(load_scenario("tiny"), root)
    (root / name).write_text(content)
    with pytest.raises(Rejected, match=r"is not a testbed|not valid TOML"):
        Layout.load(root)


def test_what_is_not_there_is_no_testbed(tmp_path: Path):
    with pytest.raises(Rejected, match=r"it has no ports.json"):
        Layout.load(tmp_path)


async def test_a_hybrid_network_plane_is_what_the_kmes_talk_over(tmp_path):
    layout = prepare(parse_scenario(SMALL + '[network]\nkey_exchange = "require-hybrid"\n'), tmp_path / "bed")
    near, far = (site.name for site in layout.scenario.sites[:2])
    configs = [load_kme_config(layout.process(site, ProcessRole.KME).config) for site in (near, far)]
    async with KmeProcess(configs[0]) as one, KmeProcess(configs[1]) as other:
        await until(lambda: one.link_states()[f"kme-{far}"]["connected"])
        await until(lambda: other.link_states()[f"kme-{near}"]["connected"])
        assert one.link_states()[f"kme-{far}"]["key_exchange_group"] == "X25519MLKEM768"
        assert set(other.peer_groups) == {"X25519MLKEM768"}


def test_a_hybrid_scenario_without_the_extra_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    def missing():
        raise Rejected("not installed", code="tls.extra_missing")

    monkeypatch.setattr(build, "binding", missing)
    with pytest.raises(Rejected):
        prepare(parse_scenario(SMALL + '[network]\nkey_exchange = "prefer-hybrid"\n'), tmp_path / "bed")
    assert list((tmp_path / "bed").iterdir()) == []


def test_a_key_exchange_that_does_not_exist_is_refused():
    with pytest.raises(Rejected, match="classical, prefer-hybrid, require-hybrid"):
        parse_scenario(SMALL + '[network]\nkey_exchange = "quantum"\n')
