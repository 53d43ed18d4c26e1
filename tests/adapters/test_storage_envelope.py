"""The envelope of a storage key, and the secrets that open it: wrong, missing, readable by others, or damaged."""

import json
import os

import pytest

from shosoin.adapters.private_files import create_private, read_private, replace_private, settle
from shosoin.adapters.storage_envelope import Envelope, EnvelopeFile, new_storage_key
from shosoin.adapters.storage_keys import (
    BadStorageKey,
    FileKey,
    Passphrase,
    passphrase_from_environment,
    passphrase_from_file,
)
from shosoin.base import Denied, Rejected

PASSPHRASE = b"correct horse battery staple"
CHEAP = 14


def passphrase(content=PASSPHRASE):
    return Passphrase(lambda: content, CHEAP)


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "kek"
    create_private(path, os.urandom(32))
    return FileKey(path)


@pytest.fixture
def envelope(tmp_path, key_file):
    (tmp_path / "state").mkdir()
    envelope = EnvelopeFile(tmp_path / "state", "kme-a")
    envelope.create(key_file)
    return envelope


def private(path, content, mode=0o600):
    path.write_bytes(content)
    path.chmod(mode)
    return path


# Sealing and opening


def test_what_was_sealed_comes_back(envelope, key_file):
    first = envelope.open(key_file)
    assert first.is_settled
    assert len(first.keys[0]) == 32
    two = Envelope((*first.keys, new_storage_key()), ("old.key",))
    envelope.replace(two, passphrase())
    assert envelope.open(passphrase()) == two
    assert not two.is_settled
    assert sorted(path.name for path in envelope.path.parent.iterdir()) == ["storage-key.json"]
    assert envelope.path.stat().st_mode & 0o777 == 0o600


def test_nothing_secret_is_in_the_file_or_in_a_repr(envelope, key_file):
    (key,) = envelope.open(key_file).keys
    raw = envelope.path.read_text()
    assert key.hex() not in raw
    assert key.hex() not in repr(envelope.open(key_file))
    assert repr(key) not in repr(envelope.open(key_file))
    envelope.replace(Envelope((key,)), passphrase())
    assert PASSPHRASE.decode() not in envelope.path.read_text()


def test_an_envelope_is_made_once(envelope, key_file):
    key = envelope.open(key_file)
    envelope.create(key_file)
    assert envelope.open(key_file) == key


def test_sealing_again_takes_fresh_salt_and_nonce(envelope, key_file):
    before = json.loads(envelope.path.read_text())
    envelope.replace(envelope.open(key_file), key_file)
    after = json.loads(envelope.path.read_text())
    assert before["parameters"]["salt"] != after["parameters"]["salt"]
    assert before["sealed"][:24] != after["sealed"][:24]


def test_another_secret_does_not_open(envelope, tmp_path):
    other = FileKey(tmp_path / "other")
    create_private(other.path, os.urandom(32))
    with pytest.raises(BadStorageKey, match="file does not open") as raised:
        envelope.open(other)
    assert raised.value.code == "store.bad_key"
    envelope.replace(Envelope((new_storage_key(),)), passphrase())
    with pytest.raises(BadStorageKey, match="passphrase does not open"):
        envelope.open(passphrase(b"correct horse battery stable"))


def test_another_source_and_another_kme_are_named(envelope, key_file):
    with pytest.raises(Rejected, match="sealed for source 'file', configured is 'passphrase'"):
        envelope.open(passphrase())
    with pytest.raises(Rejected, match="belongs to KME 'kme-a', not kme-b"):
        EnvelopeFile(envelope.path.parent, "kme-b").open(key_file)
    envelope.path.write_text(envelope.path.read_text().replace("kme-a", "kme-b"))
    with pytest.raises(BadStorageKey):
        EnvelopeFile(envelope.path.parent, "kme-b").open(key_file)


@pytest.mark.parametrize("change", [lambda byte: byte ^ 1, lambda byte: byte ^ 0x20, lambda _: 0x30, lambda _: 0xFF])
@pytest.mark.parametrize("sealed_by", ["file", "passphrase"])
def test_no_altered_byte_leads_to_another_key(envelope, key_file, change, sealed_by):
    source = key_file if sealed_by == "file" else passphrase()
    key = Envelope((new_storage_key(),), ("old.key",))
    envelope.replace(key, source)
    raw = envelope.path.read_bytes()
    places = range(len(raw)) if sealed_by == "file" else range(0, len(raw), 23)
    refused = 0
    for place in places:
        altered = bytearray(raw)
        altered[place] = change(raw[place])
        envelope.path.write_bytes(altered)
        try:
            assert envelope.open(source) == key, f"byte {place}"
        except Rejected:
            refused += 1
    assert refused > len(places) * 0.7


@pytest.mark.parametrize("cut", [0, 1, 40, -2, -40])
def test_a_cut_off_envelope_is_none(envelope, key_file, cut):
    envelope.path.write_bytes(envelope.path.read_bytes()[:cut])
    with pytest.raises(Rejected, match="is no envelope") as raised:
        envelope.open(key_file)
    assert raised.value.code == "store.bad_envelope"


@pytest.mark.parametrize(
    "change",
    [
        {"format": "shosoin storage key 2"},
        {"more": 1},
        {"retire": "x"},
        {"retire": [1]},
        {"parameters": []},
        {"sealed": 5},
        {"sealed": "0"},
        {"sealed": ""},
        {"parameters": {}},
        {"parameters": {"salt": 5}},
        {"parameters": {"salt": None}},
    ],
)
def test_a_misshapen_envelope_is_refused(envelope, key_file, change):
    found = json.loads(envelope.path.read_text())
    envelope.path.write_text(json.dumps({**found, **change}))
    with pytest.raises(Rejected):
        envelope.open(key_file)


@pytest.mark.parametrize("raw", [b"[]", b"null", b"[" * 60000, b" " * 70000, b"\xff\xfe"])
def test_what_is_no_json_object_is_refused(envelope, key_file, raw):
    envelope.path.write_bytes(raw)
    with pytest.raises(Rejected, match="is no envelope"):
        envelope.open(key_file)


def test_an_envelope_that_asks_for_too_much_memory_is_refused(envelope):
    envelope.replace(Envelope((new_storage_key(),)), passphrase())
    found = json.loads(envelope.path.read_text())
    for change in ({"log2_n": 40}, {"log2_n": 1}, {"log2_n": 14.0}, {"log2_n": True}, {"r": 1 << 20}, {"kdf": "md5"}):
        altered = {**found, "parameters": {**found["parameters"], **change}}
        envelope.path.write_text(json.dumps(altered))
        with pytest.raises(BadStorageKey, match="does not know"):
            envelope.open(passphrase())


# Secrets


def test_a_passphrase_file_may_end_with_a_line_end(tmp_path):
    for ending in (b"", b"\n", b"\r\n"):
        read = passphrase_from_file(private(tmp_path / "passphrase", PASSPHRASE + ending))
        assert read() == PASSPHRASE
    assert passphrase_from_file(private(tmp_path / "two", b"one\ntwo\n"))() == b"one\ntwo"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o602, 0o666])
def test_a_secret_that_others_can_read_or_change_is_refused(tmp_path, mode):
    path = private(tmp_path / "passphrase", PASSPHRASE, mode)
    if os.geteuid() == 0:
        os.chown(path, -1, 65534)  # root's own group may read: so look a service manager's credentials
    with pytest.raises(Denied, match="can be read or changed by others") as raised:
        passphrase_from_file(path)()
    assert raised.value.code == "store.not_private"
    assert PASSPHRASE.decode() not in str(raised.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of root's")
def test_a_credential_of_the_service_manager_is_accepted(tmp_path):
    assert passphrase_from_file(private(tmp_path / "passphrase", PASSPHRASE, 0o440))() == PASSPHRASE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_secret_that_belongs_to_another_user_is_refused(tmp_path):
    path = private(tmp_path / "passphrase", PASSPHRASE)
    os.chown(path, 65534, -1)
    with pytest.raises(Denied):
        passphrase_from_file(path)()


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is empty"), (b"\n", "is empty"), (b"x" * 1025, "longer than 1024 bytes")]
)
def test_a_passphrase_file_without_a_passphrase_is_refused(tmp_path, content, message):
    with pytest.raises(Rejected, match=message):
        passphrase_from_file(private(tmp_path / "passphrase", content))()


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    for place, message in (("none", "No such file"), ("pipe", "not a file"), (".", "not a file|directory")):
        with pytest.raises(Rejected, match=message):
            passphrase_from_file(tmp_path / place)()


def test_a_passphrase_from_the_environment(monkeypatch):
    read = passphrase_from_environment("SHOSOIN_TEST_PASSPHRASE")
    with pytest.raises(Rejected, match="SHOSOIN_TEST_PASSPHRASE is not set"):
        read()
    monkeypatch.setenv("SHOSOIN_TEST_PASSPHRASE", "")
    with pytest.raises(Rejected, match="is empty"):
        read()
    monkeypatch.setenv("SHOSOIN_TEST_PASSPHRASE", PASSPHRASE.decode())
    assert read() == PASSPHRASE


def test_a_short_passphrase_seals_nothing(envelope, key_file):
    key = envelope.open(key_file)
    with pytest.raises(Rejected, match="has 6 bytes, expected at least 12"):
        envelope.replace(key, passphrase(b"secret"))
    assert envelope.open(key_file) == key


def test_a_key_file_of_another_length_is_refused(envelope, key_file):
    private(key_file.path, bytes(31))
    with pytest.raises(BadStorageKey, match="has 31 bytes, expected 32"):
        envelope.open(key_file)


# Private files


def test_a_file_is_never_overwritten_by_making_it(tmp_path):
    path = tmp_path / "secret"
    create_private(path, b"first")
    with pytest.raises(FileExistsError):
        create_private(path, b"second")
    assert path.read_bytes() == b"first"
    assert [item.name for item in tmp_path.iterdir()] == ["secret"]


def test_replacing_overwrites_the_old_content(tmp_path):
    path, witness = tmp_path / "secret", tmp_path / "witness"
    create_private(path, b"first")
    os.link(path, witness)
    replace_private(path, b"second")
    assert path.read_bytes() == b"second"
    assert witness.read_bytes() == bytes(5)
    assert read_private(path, "secret", bytes_max=9) == b"second"


@pytest.mark.parametrize("step", range(12))
def test_an_interrupted_replacement_leaves_one_content_or_the_other(tmp_path, monkeypatch, step):
    path, done = tmp_path / "secret", 0
    create_private(path, b"first")

    def counting(real):
        def call(*arguments, **options):
            nonlocal done
            done += 1
            if done > step:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("fsync", "link", "rename", "unlink"):
            patch.setattr(os, name, counting(getattr(os, name)))
        try:
            replace_private(path, b"second")
            finished = True
        except KeyboardInterrupt:
            finished = False
    assert path.read_bytes() in ([b"second"] if finished else [b"first", b"second"])
    assert finished == (step >= 8), "a step more or less: the numbers above should cover them all"
    content = path.read_bytes()
    settle(path)
    assert path.read_bytes() == content
    assert [item.name for item in tmp_path.iterdir()] == ["secret"]
    replace_private(path, b"third")
    assert path.read_bytes() == b"third"
    assert [item.name for item in tmp_path.iterdir()] == ["secret"]
