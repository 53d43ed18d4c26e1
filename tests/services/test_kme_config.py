"""The configuration file: every mistake is named."""

import pytest

from shosoin.base import Rejected
from shosoin.services.kme_config import load_kme_config
from tests.support.kme import KmePair


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return KmePair(tmp_path_factory.mktemp("pair")).config("kme-a").read_text()


def load(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return load_kme_config(path)


def test_a_good_file_loads_with_paths_relative_to_it(tmp_path, text):
    config = load(tmp_path, text)
    assert config.kme.directory == tmp_path / "state"
    assert config.directory["sae-b1"] == "kme-b"
    assert config.links[0].attenuation_db == 13.5
    assert config.limits.max_key_size_bits == 16776960


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[limits]", "[limits]\nmax_key_per_requst = 5", "did you mean 'max_key_per_request'"),
        ('site = "a"', 'sight = "a"', "did you mean 'site'"),
        ('site = "a"', "", r"\[kme\] lacks 'site'"),
        ("length_km = 45.0", 'length_km = "45"', "must be a number"),
        ("length_km = 45.0", "length_km = -1.0", "zero or more"),
        ("speedup = 1.0", "speedup = true", "must be a number"),
        ('kind = "simulated"', 'kind = "quantum"', "expected 'simulated'"),
        ("[limits]", "[limits]\nkey_size_bits = 12", "multiples of 8|key sizes"),
        ("[limits]", "[limits]\nmax_key_size_bits = 99999999", "key sizes"),
        ("[limits]", "[limits]\nmax_body_bytes = 9000000", "max_bodies_bytes must be"),
        ("[limits]", "[limits]\nmax_request_bytes = 200000000", "max_answers_bytes must be"),
        ("[limits]", "[[limits]]", "missing or not a table"),
        ("[limits]", "[limitz]", "did you mean 'limits'"),
        ('id = "sae-b2"', 'id = "sae-b1"', "appears twice"),
        ('id = "sae-b2"', 'id = "sae b2"', "SaeId"),
        ('peer = "kme-b"', 'peer = "kme-a"', "peer of its own"),
        ("[kme]", "[kme", "is not TOML"),
        ("[kme.peer_api]", "[kme.pear_api]", "did you mean 'peer_api'"),
    ],
)
def test_a_mistake_is_named(tmp_path, text, old, new, message):
    assert old in text
    with pytest.raises(Rejected, match=message):
        load(tmp_path, text.replace(old, new))


def test_a_missing_file_is_rejected(tmp_path):
    with pytest.raises(Rejected, match="cannot read"):
        load_kme_config(tmp_path / "absent")
