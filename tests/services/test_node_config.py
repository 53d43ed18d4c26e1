"""A share node's configuration file: everything typed, every mistake named."""

from __future__ import annotations

from pathlib import Path

import pytest

from shosoin.base import OwnerId, Rejected, SiteId
from shosoin.services.node_config import load_node_config

GOOD = """
[node]
id = "node-a"
site = "koganei"
directory = "state"
signing_key = "site.key"

[node.api]
host = "127.0.0.1"
port = 8443
certificate = "node.crt"
key = "node.key"
client_ca = "../ca/sae.crt"

[node.kme]
id = "kme-a"
url = "https://127.0.0.1:9000"
server_name = "kme-a"
ca = "../ca/sae.crt"
certificate = "sae.crt"
key = "sae.key"
sae_id = "node-a"

[limits]
requests = 7
body_s = 2

[[owner]]
id = "owner-1"
home_site = "koganei"
signing_public_key = "owner-1.pub"
quota_bytes = 1000

[[site]]
name = "koganei"
signing_public_key = "site.pub"
"""


def load(tmp_path: Path, text: str):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load_node_config(path)


def test_a_good_file_is_read_and_paths_are_relative_to_it(tmp_path):
    config = load(tmp_path, GOOD)
    assert config.node.site == SiteId("koganei")
    assert config.node.directory == tmp_path / "state"
    assert config.store == tmp_path / "state" / "store"
    assert config.ready == tmp_path / "state" / "ready"
    assert config.api.client_ca == tmp_path.parent / "ca" / "sae.crt"
    assert (config.limits.requests, config.limits.body_s) == (7, 2.0)
    assert isinstance(config.limits.body_s, float)
    assert [owner.id for owner in config.owners] == [OwnerId("owner-1")]


def test_a_kme_of_others_has_no_name_of_ours(tmp_path):
    assert load(tmp_path, GOOD.replace('id = "kme-a"', 'id = ""')).kme.id == ""
    with pytest.raises(Rejected):
        load(tmp_path, GOOD.replace('id = "kme-a"', 'id = "kme a"'))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('site = "koganei"\ndirectory', 'sight = "koganei"\ndirectory', ["'sight'", "'site'", "[node]"]),
        ("[node.api]", "[node.apy]", ["apy"]),
        ("[limits]", "[limit]", ["'limit'", "'limits'"]),
        ("requests = 7", "request = 7", ["'request'", "'requests'", "[limits]"]),
        ("requests = 7", 'requests = "7"', ["[limits] requests", "whole number"]),
        ("requests = 7", "requests = true", ["[limits] requests", "whole number"]),
        ("requests = 7", "requests = -1", ["[limits] requests", "zero or more"]),
        ("body_s = 2", "body_s = nan", ["[limits] body_s"]),
        ('id = "node-a"', 'id = "node/a"', ["[node] id", "1 to 64 characters"]),
        ('id = "owner-1"', "id = 5", ["[owner] id", "text"]),
        ("quota_bytes = 1000\n", "", ["[owner]", "'quota_bytes'"]),
        ("port = 8443", "port = 70000", ["port", "65535"]),
        ('host = "127.0.0.1"\n', "", ["[node.api]", "'host'"]),
        ("https://127.0.0.1:9000", "http://127.0.0.1:9000", ["[node.kme] url", "https://"]),
        ("[[owner]]", "[owner]", ["[[owner]]"]),
        ("[node]", "[node", ["TOML"]),
        ("quota_bytes = 1000", "quota_bytes = 1000\n" + GOOD[GOOD.index("[[owner]]") :], ["twice"]),
        (GOOD, "", ["[node]"]),
        (GOOD, "node = 5", ["[node]"]),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, words):
    assert old in GOOD
    with pytest.raises(Rejected) as told:
        load(tmp_path, GOOD.replace(old, new, 1))
    for word in words:
        assert word in told.value.message, told.value.message
    assert "config.toml" in told.value.message


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(Rejected, match=r"nothing\.toml"):
        load_node_config(tmp_path / "nothing.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(Rejected, match="not TOML"):
        load_node_config(tmp_path / "binary.toml")
    (tmp_path / "long.toml").write_text("#" * (1 << 20) + "\n")
    with pytest.raises(Rejected, match="longer"):
        load_node_config(tmp_path / "long.toml")
