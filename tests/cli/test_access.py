"""Whose certificate opens what: an owner who is refused is told so, not that the sites are away."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.pki import TestAuthority

from shosoin.testbed.control import Testbed
from shosoin.testbed.scenario import load_scenario

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    testbed = asyncio.run(Testbed.up(load_scenario("tiny"), tmp_path_factory.mktemp("access") / "bed"))
    yield testbed
    testbed.down(grace_s=2.0)


def config_with(bed: Testbed, certificate: Path, key: Path) -> Path:
    """The owner's configuration with somebody else's certificate."""
    own = bed.layout.owner_config(None)
    text = own.read_text(encoding="utf-8")
    for name, path in (("certificate", certificate), ("key", key)):
        text, count = re.subn(rf'(?m)^{name} = ".*"$', f'{name} = "{path}"', text)
        assert count == 1, name
    config = own.with_name(f"owner-{certificate.stem}.toml")
    config.write_text(text, encoding="utf-8")
    return config


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
def test_the_certificate_of_another_sae_opens_nothing(shosoin, bed, tmp_path, class_):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    own = ("--config", bed.layout.owner_config(None))
    assert shosoin("put", file, f"mine-{class_}", *own, "--class", class_).code == 0
    sae = json.loads(bed.layout.testbed_json.read_text(encoding="utf-8"))["sites"][0]["saes"][0]
    other = ("--config", config_with(bed, Path(sae["cert"]), Path(sae["key"])))
    for command in (
        ("put", file, "other", *other, "--class", class_),
        ("get", f"mine-{class_}", tmp_path / "copy", *other),
        ("ls", *other),
        ("rm", f"mine-{class_}", *other),
    ):
        answer = shosoin(*command)
        assert answer.code == 3, (command[0], answer.err)
        assert "certificate" in answer.hints[0]
        assert "start the missing sites" not in answer.err
    assert not (tmp_path / "copy").exists()
    assert shosoin("get", f"mine-{class_}", tmp_path / "copy", *own).code == 0


@pytest.mark.parametrize("class_", ["its", "qkd", "pqc"])
def test_a_certificate_of_an_unknown_authority_opens_nothing(shosoin, bed, tmp_path, class_):
    """TLS ends before anybody can say why; the message names what it may be."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    forged = TestAuthority(tmp_path / "pki", "elsewhere").issue("sae", "owner-1")
    other = ("--config", config_with(bed, forged.certificate, forged.key))
    for command in (("put", file, "other", *other, "--class", class_), ("ls", *other)):
        answer = shosoin(*command)
        assert answer.code == 4, (command[0], answer.err)
        assert "certificate" in answer.errors[0]


def test_an_audit_finds_the_site_whose_share_was_altered(shosoin, bed, tmp_path):
    from shosoin.testbed.tamper import alter_share

    file = tmp_path / "file"
    file.write_bytes(bytes(5000))
    owner = ("--testbed", bed.layout.root)
    for name in ("a", "b"):
        assert shosoin("put", file, f"audited-{name}", *owner, "--class", "qkd").code == 0
    good = shosoin("audit", "audited-a", "audited-b", *owner, "--json")
    assert good.code == 0
    sites = {"kita", "naka", "minami"}
    assert {name: set(states) for name, states in good.json["objects"].items()} == {
        "audited-a": sites,
        "audited-b": sites,
    }
    assert shosoin("audit", "--all", *owner).code == 0
    object_id = shosoin("stat", "audited-a", *owner, "--json").json["object_id"]
    asyncio.run(alter_share(bed, "naka", "owner-1", object_id))
    found = shosoin("audit", "--all", *owner, "--json")
    assert found.code == 6
    assert set(found.json["objects"]["audited-a"].values()) == {"doubtful"}  # three answers: one too few to tell whose
    assert set(found.json["objects"]["audited-b"].values()) == {"ok"}
    assert "audited-a" in found.errors[0]
    assert "verify" in found.hints[0]
    assert shosoin("audit", *owner).code == 2
    assert shosoin("audit", "--all", "audited-a", *owner).code == 2
    assert shosoin("audit", "no such name", *owner).code == 2
