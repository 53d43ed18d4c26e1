"""The configuration file: every mistake is named."""

import pytest

from shosoin.base import Rejected
from shosoin.services.kme_config import load_kme_config
from tests.support.kme import KmePair


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return (
        KmePair(tmp_path_factory.mktemp("pair"), skip_systems={"sae-b1": "KP_BOB"}, etsi004={})
        .config("kme-a")
        .read_text()
    )


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
    assert config.skip is not None
    assert config.skip.systems == {"sae-a1": "sae-a1", "sae-a2": "sae-a2", "KP_BOB": "sae-b1", "sae-b2": "sae-b2"}


def test_without_its_section_there_is_no_skip(tmp_path, text):
    before, _, rest = text.partition("[skip]")
    _, _, after = rest.partition("[[link]]")
    assert load(tmp_path, f"{before}[[link]]{after}").skip is None


def test_key_streams_are_served_where_a_section_says_so(tmp_path, text):
    found = load(tmp_path, text).etsi004
    assert found is not None
    assert (found.ttl_s, found.max_chunk_bytes) == (3600, 65536)
    before, _, rest = text.partition("[etsi004]")
    _, _, after = rest.partition("[[link]]")
    assert load(tmp_path, f"{before}[[link]]{after}").etsi004 is None
    without_port = "".join(line for line in rest.splitlines(keepends=True) if not line.startswith("port"))
    section, _, _ = without_port.partition("[[link]]")
    standard = load(tmp_path, f"{before}[etsi004]{section}[[link]]{after}").etsi004
    assert standard is not None
    assert standard.port == 25575


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
        ("[limits]", "[operation]\nport = 1\n[limits]", "did you mean 'operations'"),
        ("[limits]", "[operations]\nprot = 1\n[limits]", "did you mean 'port'"),
        ("[limits]", "[operations]\nport = 1\nallow_remot = true\n[limits]", "did you mean 'allow_remote'"),
        ("[limits]", "[operations]\n[limits]", r"\[operations\] lacks 'port'"),
        ("[limits]", "[operations]\nport = 65536\n[limits]", "port must be at most 65535"),
        ("[limits]", "[operations]\nport = 1\nidle_timeout_s = 0\n[limits]", "above zero"),
        ("[limits]", "[operations]\nport = 1\nallow_remote = 'yes'\n[limits]", "must be true or false"),
        ("[limits]", "[operations]\nport = 1\nallow_remote = 1\n[limits]", "must be true or false"),
        ("[limits]", "[[operations]]\nport = 1\n[limits]", "missing or not a table"),
        ("[skip]", "[skyp]", "did you mean 'skip'"),
        ("[etsi004]", "[etsi04]", "did you mean 'etsi004'"),
        ("[etsi004]", "[etsi004]\nmax_stream = 1", "did you mean 'max_streams'"),
        ("[etsi004]", "[etsi004]\nminimum_tls = '1.1'", r"\[etsi004\] minimum_tls must be"),
        ("[etsi004]", "[etsi004]\nttl_s = 0", r"\[etsi004\] ttl_s must be above zero"),
        ("[etsi004]", "[etsi004]\ntimeout_ms = 70000", r"timeout_ms must be at most max_timeout_ms"),
        ("[etsi004]", "[etsi004]\nmax_bps = 5000000000", r"max_bps must be at most 4294967295"),
        ("[etsi004]", "[etsi004]\nmax_chunk_bytes = 2000000", r"max_chunk_bytes must be at most 1048576"),
        ("[etsi004]", "[etsi004]\nmax_reserved_bytes = 1", r"max_reserved_bytes must be at least four times"),
        ("[skip]", "[[skip]]", "missing or not a table|not TOML"),
        ("[skip]", "[skip]\nhots = 1", r"unknown key 'hots' in \[skip\]; did you mean 'host'"),
        ("[skip]", "[skip]\nminimum_tls = '1.1'", r"\[skip\] minimum_tls must be '1.2' or '1.3'"),
        ("[[skip.system]]", "[skip.system]", r"\[\[system\]\] must be an array of tables"),
        ('id = "KP_BOB"', 'id = "KP_*"', "SystemId must be 1 to 64 characters"),
        ('id = "KP_BOB"', 'id = "sae-a2"', "two SAEs have the same system ID"),
        ('id = "KP_BOB"\nsae = "sae-b1"', 'id = "KP_BOB"\nsae = "sae-c1"', "sae-c1 is in no"),
        (
            "[[skip.system]]",
            '[[skip.system]]\nid = "KP_BOB2"\nsae = "sae-b1"\n[[skip.system]]',
            r"an SAE appears twice in \[\[skip.system\]\]",
        ),
        (
            "[limits]",
            "[limits]\nmax_request_bytes = 2097152\nmax_key_per_request = 1\nmax_answers_bytes = 6000000",
            "for the longest key by SKIP",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path, text, old, new, message):
    assert old in text
    with pytest.raises(Rejected, match=message):
        load(tmp_path, text.replace(old, new))


def test_a_missing_file_is_rejected(tmp_path):
    with pytest.raises(Rejected, match="cannot read"):
        load_kme_config(tmp_path / "absent")


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "localhost.example", "kme.example", ""])
def test_metrics_for_other_machines_must_be_asked_for(tmp_path, text, host):
    section = f'[operations]\nport = 9014\nhost = "{host}"\n'
    with pytest.raises(Rejected, match=r"no loopback address.*allow_remote = true"):
        load(tmp_path, f"{text}\n{section}")
    config = load(tmp_path, f"{text}\n{section}allow_remote = true\n")
    assert config.operations is not None
    assert config.operations.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_metrics_for_this_machine_need_a_port_and_no_more(tmp_path, text, host):
    config = load(tmp_path, f'{text}\n[operations]\nport = 9014\nhost = "{host}"\n')
    assert config.operations is not None
    assert (config.operations.port, config.operations.allow_remote) == (9014, False)
    assert load(tmp_path, text).operations is None


def test_a_pair_that_takes_young_bits_alone_needs_links_whose_bits_die(tmp_path, text):
    policy = '\n[[policy]]\nmaster = "sae-a1"\nmax_age_s = 60\n'
    with pytest.raises(Rejected, match="has none"):
        load(tmp_path, text + policy)
    assert load(tmp_path, text.replace("[[link]]", "[[link]]\nmax_age_s = 3600") + policy).policies[0].max_age_s == 60


PUSH = """
[[link]]
peer = "kme-{name}"
host = "127.0.0.1"
port = 1
pair_secret_file = "pair.secret"
kind = "push"
[link.push]
host = "{host}"
port = 9100
certificate = "a.crt"
key = "a.key"
device_ca = "{name}.crt"
device = "CN=module"
"""


@pytest.mark.parametrize(
    ("section", "other", "host"),
    [
        ("kme.peer_api", "kme.sae_api", "127.0.0.1"),
        ("skip", "kme.sae_api", "0.0.0.0"),
        ("etsi004", "skip", "localhost"),
        ("etsi004", "kme.peer_api", ""),
    ],
)
def test_two_listeners_at_one_place_are_refused(tmp_path, text, section, other, host):
    config = load(tmp_path, text)
    places = config.listeners()
    port, old = places[f"[{other}]"][1], places[f"[{section}]"]
    before, head, after = text.partition(f"[{section}]")
    after = after.replace(f"port = {old[1]}", f"port = {port}", 1).replace('"127.0.0.1"', f'"{host}"', 1)
    with pytest.raises(Rejected, match=rf"listen at the same place, .* port {port}") as refused:
        load(tmp_path, before + head + after)
    assert f"[{section}]" in refused.value.message
    assert f"[{other}]" in refused.value.message


def test_so_are_operations_and_devices_of_two_links(tmp_path, text):
    port = load(tmp_path, text).sae_api.port
    with pytest.raises(Rejected, match=r"\[kme.sae_api\] and \[operations\] listen at the same place"):
        load(tmp_path, f"{text}[operations]\nport = {port}\n")
    two = [PUSH.format(name=name, host="10.0.0.5") for name in "cd"]
    with pytest.raises(Rejected, match=r"\[link.push\] of kme-c and \[link.push\] of kme-d listen at the same place"):
        load(tmp_path, text + "".join(two))
    load(tmp_path, text + two[0] + PUSH.format(name="d", host="10.0.0.6"))
    load(tmp_path, text + two[0] + PUSH.format(name="d", host="::"))


def test_ports_that_the_system_chooses_meet_nobody(tmp_path, text):
    for section in ("kme.sae_api", "kme.peer_api"):
        old = load(tmp_path, text).listeners()[f"[{section}]"][1]
        text = text.replace(f"port = {old}", "port = 0", 1)
    assert load(tmp_path, text).listeners()["[kme.peer_api]"] == ("127.0.0.1", 0)
