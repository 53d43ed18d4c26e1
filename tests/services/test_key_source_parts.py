"""The parts of key sources: what is held, repeated bits, questions, recordings, configuration."""

from __future__ import annotations

import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.adapters.entropy import SystemEntropy
from shosoin.base import PeerFault, Rejected
from shosoin.services.kme_config import load_kme_config
from shosoin.services.sources.build import facts_of
from shosoin.services.sources.held_keys import HeldKeys
from shosoin.services.sources.offers import (
    Greeting,
    Offer,
    Origin,
    read_note,
    read_question,
    write_note,
    write_question,
)
from shosoin.services.sources.port import Material
from shosoin.services.sources.recording import Recording, RecordingHeader, write_recording
from shosoin.services.sources.repeats import BitMemory, BitsRepeated
from tests.support.kme import KmePair
from tests.support.pki import TestAuthority


class Clock:
    now = 100.0

    def now_s(self):
        return self.now

    def wall_s(self):
        return self.now


# What is held


def test_held_material_is_taken_once_and_below_the_mark_never():
    held = HeldKeys(Clock(), capacity_bytes=1000, expiry_s=60)
    held.set_mark("s", 0, 4)
    assert held.refusal("s", 2, 10) == "used"
    assert held.refusal("s", 3, 10) == ""
    held.put("s", 3, bytearray(b"x" * 10))
    assert held.refusal("s", 3, 10) == "duplicate"
    held.put("s", 4, bytearray(b"y" * 10))
    assert held.choose(0, 10, 100) == ("s", [4])
    assert held.choose(1, 11, 100) is None
    assert held.take("s", 4) == bytearray(b"y" * 10)
    assert held.take("s", 4) is None
    held.set_mark("s", 1, 5)
    assert held.take("s", 3) is None
    assert held.held_bytes == 0


def test_held_material_is_bounded_and_old_gives_way():
    clock = Clock()
    held = HeldKeys(clock, capacity_bytes=100, expiry_s=60)
    for index in range(10):
        assert held.refusal("s", index, 10) == ""
        held.put("s", index, bytearray(10))
    assert held.refusal("s", 10, 10) == "full"
    clock.now += 5
    assert held.refusal("s", 10, 10) == ""
    held.put("s", 10, bytearray(10))
    assert held.held_bytes == 100
    assert held.present("s", range(12)) == list(range(1, 11))
    clock.now += 56
    assert held.present("s", range(12)) == [10]
    assert held.refusal("s", 11, 101) == "full"


def test_streams_with_material_are_bounded():
    held = HeldKeys(Clock(), capacity_bytes=1 << 20, expiry_s=60)
    for number in range(64):
        held.put(f"s{number}", 0, bytearray(1))
    assert held.refusal("more", 0, 1) == "too many streams"
    assert held.refusal("s0", 1, 1) == ""


@given(st.lists(st.tuples(st.sampled_from("pts"), st.integers(0, 9), st.integers(0, 3)), max_size=60))
def test_no_piece_is_ever_given_twice(steps):
    clock = Clock()
    held = HeldKeys(clock, capacity_bytes=40, expiry_s=5)
    given_: list[int] = []
    for what, index, wait in steps:
        clock.now += wait
        if what == "p" and not held.refusal("s", index, 8):
            held.put("s", index, bytearray([index] * 8))
        elif what == "t" and held.take("s", index) is not None:
            given_.append(index)
            held.set_mark("s", index % 2, index + 1)  # as a claim does
        elif what == "s":
            held.set_mark("s", index % 2, index)
        assert held.held_bytes <= 40
        present = held.present("s", range(10))  # first, because it lets go of what is too old
        assert held.held_bytes == 8 * len(present)
    assert len(given_) == len(set(given_))


# Repeated bits


def test_bits_are_noticed_under_any_name_and_the_memory_is_bounded():
    memory = BitMemory(SystemEntropy(), keep=100)
    first = SystemEntropy().random_bytes(32 * 10 + 20)
    memory.look_at([first])
    for part in (first, first[32:64], bytes(32) + first[64:96], first[320:]):
        with pytest.raises(BitsRepeated):
            memory.look_at([part])
    memory.look_at([first[1:33]])  # other bits, since keys are compared from their start
    for _ in range(10):
        memory.look_at([SystemEntropy().random_bytes(32 * 20)])
    memory.look_at([first[:32]])
    assert len(memory._seen) == 100


def test_short_ends_may_come_again():
    memory = BitMemory(SystemEntropy())
    memory.look_at([b"x" * 7, b"x" * 7])
    with pytest.raises(BitsRepeated):
        memory.look_at([b"x" * 8, b"x" * 8])


def test_material_is_joined_in_whole_granules_and_wiped():
    material = Material()
    material.add("a", b"1" * 40)
    material.add("b", bytearray(b"2" * 40))
    assert material.joined(32) == b"1" * 40 + b"2" * 24
    material.wipe()
    assert material.joined(32) == bytes(64)
    assert "1111" not in repr(material)


# Questions

text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60)
origins = st.builds(Origin, text, st.booleans(), st.none() | st.floats(0, 1))
questions = st.one_of(
    st.builds(Greeting, origins, text),
    st.builds(
        Offer,
        origins,
        text,
        st.integers(0, (1 << 63) - 1),
        st.integers(0, 16 << 20),
        st.lists(text, min_size=1, max_size=5).map(tuple),
    ),
)


@given(questions)
def test_a_question_is_read_as_it_was_written(question):
    assert read_question(write_question(question)) == question


@given(questions, st.data())
def test_a_damaged_question_is_refused_or_another_one(question, data):
    raw = bytearray(write_question(question))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_question(bytes(raw))
    except PeerFault:
        return
    assert read_question(write_question(found)) == found


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        b'{"origin":["qkd",1,null],"note":""}',
        b'{"origin":["qkd",true,1e999],"note":""}',
        b'{"origin":["qkd",true,' + b"9" * 400 + b'],"note":""}',
        b'{"origin":["qkd",true,null],"note":"\\u001b"}',
        b'{"origin":["qkd",true,null],"note":"","more":1}',
        b'{"origin":["qkd",true,null],"session":"","number":1,"size_bytes":1,"tickets":[]}',
        b'{"origin":["qkd",true,null],"session":"","number":1.0,"size_bytes":1,"tickets":["a"]}',
        b'{"origin":["qkd",true,null],"session":"","number":-1,"size_bytes":1,"tickets":["a"]}',
        json.dumps(
            {"origin": ["q", True, None], "session": "", "number": 1, "size_bytes": 1, "tickets": ["a"] * 4097}
        ).encode(),
    ],
)
def test_what_is_no_question_is_refused(raw):
    with pytest.raises(PeerFault):
        read_question(raw)
    with pytest.raises(PeerFault):
        read_note(raw)


def test_a_note_is_read_as_it_was_written():
    assert read_note(write_note("12")) == "12"


# Recordings

HEADER = RecordingHeader(uuid.uuid4().hex, "qkd", 4, 64)


def test_a_recording_is_read_as_it_was_written(tmp_path):
    bits = SystemEntropy().random_bytes(256)
    write_recording(tmp_path / "run", HEADER, bits)
    recording = Recording(tmp_path / "run")
    assert recording.header == HEADER
    assert b"".join(recording.read(index) for index in range(4)) == bits
    assert (tmp_path / "run").stat().st_mode & 0o077 == 0
    with pytest.raises(Rejected, match="no chunk 4"):
        recording.read(4)
    (tmp_path / "run").write_bytes((tmp_path / "run").read_bytes()[:-1])
    with pytest.raises(Rejected, match="no chunk 3"):
        recording.read(3)
    with pytest.raises(Rejected, match="shorter"):
        Recording(tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        {"run": "x"},
        {"origin": "my device"},
        {"chunks": -1},
        {"chunks": 1.5},
        {"chunks": True, "chunk_bytes": "64"},
        {"chunk_bytes": 16},
        {"epsilon": 2.0},
        {"epsilon": "small"},
        {"secret_key_rate_bps": -1.0},
        {"more": 1},
    ],
)
def test_a_wrong_header_is_no_recording(tmp_path, change):
    members = {"run": "0" * 32, "origin": "qkd", "chunks": 1, "chunk_bytes": 64, **change}
    encoded = json.dumps(members).encode()
    (tmp_path / "run").write_bytes(b"SHOSREC1" + len(encoded).to_bytes(4, "big") + encoded + bytes(64))
    with pytest.raises(Rejected, match="no recording"):
        Recording(tmp_path / "run")


@pytest.mark.parametrize("raw", [b"", b"SHOSREC1", b"SHOSREC1\xff\xff\xff\xff", b"SHOSREC1\0\0\0\x02[]", b"something"])
def test_other_files_are_no_recordings(tmp_path, raw):
    (tmp_path / "run").write_bytes(raw)
    with pytest.raises(Rejected, match="no recording"):
        Recording(tmp_path / "run")
    with pytest.raises(Rejected, match="cannot read"):
        Recording(tmp_path / "absent")


# Configuration


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = KmePair(tmp_path_factory.mktemp("pair")).config("kme-a")
    return path.read_text().partition('kind = "simulated"')[0]


def load(tmp_path, base, link):
    path = tmp_path / "config.toml"
    path.write_text(base + link)
    return load_kme_config(path)


ETSI014 = """kind = "etsi014"
[link.etsi014]
url = "https://vendor.example:8443"
server_name = "vendor"
peer_sae = "our kme at the far side"
certificate = "a.crt"
key = "a.key"
ca = "ca.crt"
"""
ETSI004 = """kind = "etsi004"
[link.etsi004]
host = "vendor.example"
server_name = "vendor"
source = "qkd://a"
destination = "qkd://b"
certificate = "a.crt"
key = "a.key"
ca = "ca.crt"
"""
PUSH = """kind = "push"
[link.push]
host = "127.0.0.1"
port = 9000
certificate = "a.crt"
key = "a.key"
device_ca = "ca.crt"
device = "urn:shosoin:device:module-a"
"""
REPLAY = 'kind = "replay"\n[link.replay]\nfile = "run.recording"\n'


def test_every_kind_has_its_table(tmp_path, base):
    for link, name in ((ETSI014, "Etsi014"), (ETSI004, "Etsi004"), (PUSH, "Push"), (REPLAY, "Replay")):
        config = load(tmp_path, base, link)
        assert type(config.sources["kme-b"]).__name__ == f"{name}Section"
    assert load(tmp_path, base, REPLAY).sources["kme-b"].file == tmp_path / "run.recording"
    assert load(tmp_path, base, ETSI004).sources["kme-b"].port == 25575


def test_a_simulated_link_may_have_a_table_too(tmp_path, base):
    flat = load(tmp_path, base, 'kind = "simulated"\nattenuation_db = 9.5\nspeedup = 2.0\n')
    table = load(tmp_path, base, "[link.simulated]\nattenuation_db = 9.5\nspeedup = 2.0\n")
    assert flat.links == table.links
    assert not flat.sources
    assert not table.sources


def test_what_is_declared_becomes_the_facts_and_nothing_declared_stays_undeclared(tmp_path, base):
    def facts(link):
        config = load(tmp_path, base, link)
        made = facts_of(config.links[0], config.sources["kme-b"])
        return made.kind, made.simulated, made.epsilon, made.secret_key_rate_bps

    assert facts(ETSI014) == ("undeclared", False, None, 0.0)
    said = 'origin = "qkd"\nepsilon = 1e-10\nsecret_key_rate_bps = 1000\n'
    assert facts(ETSI014 + said) == ("qkd", False, 1e-10, 1000.0)
    assert facts(ETSI014 + "simulated = true\n") == ("simulated-qkd", True, None, 0.0)
    assert facts(PUSH + 'simulated = true\norigin = "relay"\n') == ("simulated-relay", True, None, 0.0)
    write_recording(tmp_path / "run.recording", RecordingHeader("0" * 32, "qkd", 1, 64, 1e-9, 5000.0), bytes(range(64)))
    assert facts(REPLAY + "speedup = 2") == ("replayed-qkd", True, 1e-9, 5000.0)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ('kind = "etsi-014"\n', "did you mean 'etsi014'"),
        ("kind = 7\n", "expected 'simulated'"),
        ('kind = "simulated"\n', "lacks 'attenuation_db'"),
        ('kind = "simulated"\nattenuation_db = 1\n[link.push]\n', "[link.push] in a [[link]] of kind 'simulated'"),
        ('kind = "simulated"\nspeedup = 1\n[link.simulated]\nattenuation_db = 1\nspeedup = 2\n', "'speedup' is in"),
        ("[link.simulated]\natenuation_db = 1\n", "did you mean 'attenuation_db'"),
        ('kind = "simulated"\natenuation_db = 1\n', "did you mean 'attenuation_db'"),
        (ETSI014.replace("[link.etsi014]", "[link.etsi14]"), "did you mean 'etsi014'"),
        (REPLAY.replace("[link.replay]", "speedd = 1\n[link.replay]"), "unknown key 'speedd' in [link]"),
        ('kind = "push"\n', "[link.push] is missing"),
        (PUSH.replace("[link.push]", "speedup = 2\n[link.push]"), "speedup is for links of kind 'simulated'"),
        (PUSH.replace("device_ca", "device_caa"), "did you mean 'device_ca'"),
        (PUSH.replace("9000", "90000"), "port must be at most"),
        (PUSH + "max_held_bits = 1000\n", "max_held_bits must be"),
        (PUSH.replace("urn:shosoin:device:module-a", ""), "device must name"),
        (ETSI014.replace("peer_sae", "peer_say"), "did you mean 'peer_sae'"),
        (ETSI014.replace("https://vendor", "http://vendor"), "url must be https"),
        (ETSI014.replace("https://vendor.example:8443", "https://["), "url must be https"),
        (ETSI014 + "key_size_bits = 350\n", "multiple of 8"),
        (ETSI014 + "keys_per_request = 5000\n", "keys_per_request at most 1024"),
        (ETSI014 + "timeout_s = 0\n", "timeout_s must be above 0"),
        (ETSI014 + "retry_min_s = 5\nretry_max_s = 1\n", "retry_min_s"),
        (ETSI014 + "min_block_bits = 100\n", "min_block_bits"),
        (ETSI014 + 'origin = "QKD device"\n', "origin must be"),
        (ETSI014 + "epsilon = 2\n", "epsilon is a probability"),
        (ETSI004 + "chunk_bytes = 4\n", "chunk_bytes must be"),
        (ETSI004.replace("qkd://a", "a b"), "source must be a URI"),
        (ETSI004 + "ttl_s = 5000000000\n", "32 bits"),
        (REPLAY + "speedup = 0\n", "speedup must be above 0"),
        (REPLAY + "fiel = 1\n", "did you mean 'file'"),
    ],
)
def test_a_mistake_is_named(tmp_path, base, link, message):
    with pytest.raises(Rejected) as wrong:
        load(tmp_path, base, link)
    assert message in wrong.value.message


def test_a_device_is_known_by_its_uri_or_its_subject(tmp_path):
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from shosoin.services.sources.push_http import certificate_names

    files = TestAuthority(tmp_path, "devices").issue("device", "module-a")
    der = x509.load_pem_x509_certificate(files.certificate.read_bytes()).public_bytes(Encoding.DER)
    assert certificate_names(der) == {"urn:shosoin:device:module-a", "CN=module-a"}
    assert certificate_names(b"no certificate") == set()


def test_devices_and_kmes_must_not_trust_the_same_authority(tmp_path):
    pair = KmePair(tmp_path, source=lambda _: PUSH.replace('"ca.crt"', f'"{tmp_path}/pki-kme/kme-plane.crt"'))
    with pytest.raises(Rejected, match=r"\[kme.peer_api\] and \[link.push\] of kme-b trust the same authority"):
        load_kme_config(pair.config("kme-a"))
