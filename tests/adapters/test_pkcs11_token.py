"""The storage key's wrapping key on a token: SoftHSM, with every mechanism, and everything that can be missing."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from shosoin.adapters.pkcs11_token import MECHANISMS, TokenKey
from shosoin.adapters.storage_envelope import EnvelopeFile
from shosoin.adapters.storage_keys import BadStorageKey
from shosoin.base import Denied, Rejected, Unavailable
from tests.support.softhsm import softhsm_at


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with one token and its key, made once; each test works on a copy."""
    root = tmp_path_factory.mktemp("softhsm")
    with softhsm_at(root) as hsm:
        hsm.init()
        hsm.make_key()
    return root


@pytest.fixture
def hsm(made, tmp_path):
    with softhsm_at(tmp_path / "hsm") as hsm:
        shutil.copytree(made / "tokens", hsm.root / "tokens", dirs_exist_ok=True)
        hsm.reload()
        yield hsm


def token_key(hsm, **changes):
    values = {"module": hsm.module, "token": "kme", "key": "kek", "pin_file": hsm.pin_file, "context": b"kme-a"}
    return TokenKey(**{**values, **changes})


def other(hexadecimal):
    return f"{int(hexadecimal[:2], 16) ^ 1:02x}{hexadecimal[2:]}"


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_what_the_token_wrapped_it_unwraps_again(hsm, mechanism):
    source = token_key(hsm, mechanism=mechanism)
    parameters, secret = source.new()
    assert parameters["mechanism"] == mechanism
    assert len(secret) == 32
    assert secret.hex() not in str(parameters)
    assert token_key(hsm).again(parameters) == secret, "the envelope's mechanism counts, not the configured one"
    assert source.new()[1] != secret


def test_the_best_mechanism_is_taken(hsm):
    assert token_key(hsm).new()[0]["mechanism"] == "aes-gcm"


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("part", ["wrapped", "iv"])
def test_altered_parameters_never_open_an_envelope(hsm, tmp_path, mechanism, part):
    envelope, source = EnvelopeFile(tmp_path, "kme-a"), token_key(hsm, mechanism=mechanism)
    envelope.create(source)
    key = envelope.open(source)
    raw = envelope.path.read_text()
    value = envelope._parsed()["parameters"][part]
    if value:
        envelope.path.write_text(raw.replace(value, other(value)))
        with pytest.raises(BadStorageKey):
            envelope.open(source)
        envelope.path.write_text(raw)
    assert envelope.open(source) == key


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"salt": "00"},
        {"mechanism": "aes-gcm", "iv": "00", "wrapped": "00"},
        {"mechanism": "x", "iv": "", "wrapped": ""},
    ],
)
def test_parameters_of_another_source_are_refused(hsm, parameters):
    with pytest.raises(BadStorageKey):
        token_key(hsm).again(parameters)


def test_a_wrong_pin_is_tried_once_and_said(hsm):
    parameters, secret = token_key(hsm).new()
    hsm.pin_file.write_text("000000")
    with pytest.raises(Denied, match="does not accept the PIN") as raised:
        token_key(hsm).again(parameters)
    assert raised.value.code == "store.bad_pin"
    assert "000000" not in str(raised.value)
    hsm.pin_file.write_text("271828")
    assert token_key(hsm).again(parameters) == secret


def test_a_pin_file_that_others_can_read_is_refused(hsm):
    hsm.pin_file.chmod(0o644)
    with pytest.raises(Denied, match="can be read or changed by others"):
        token_key(hsm).new()


def test_a_token_that_is_gone_is_unavailable(hsm):
    parameters, _ = token_key(hsm).new()
    shutil.rmtree(hsm.root / "tokens")
    (hsm.root / "tokens").mkdir()
    hsm.reload()
    with pytest.raises(Unavailable, match="there is no token labelled 'kme'") as raised:
        token_key(hsm).again(parameters)
    assert raised.value.code == "store.no_token"


def test_a_key_that_is_gone_is_named(hsm):
    with pytest.raises(Rejected, match="has 0 AES keys labelled 'other'"):
        token_key(hsm, key="other").new()


def test_another_key_of_the_token_does_not_open(hsm):
    parameters, _ = token_key(hsm).new()
    hsm.make_key("other")
    with pytest.raises(BadStorageKey, match="does not open the envelope"):
        token_key(hsm, key="other").again(parameters)


def test_two_keys_with_one_label_are_refused(hsm):
    hsm.make_key()
    with pytest.raises(Rejected, match="has 2 AES keys labelled 'kek'"):
        token_key(hsm).new()


def test_of_two_tokens_with_one_label_the_serial_number_decides(hsm):
    parameters, secret = token_key(hsm).new()
    (first,) = [token.serial for token in hsm.reload().get_tokens(token_label="kme")]
    hsm.init()
    hsm.reload()
    with pytest.raises(Rejected, match="several tokens are labelled 'kme'") as raised:
        token_key(hsm).again(parameters)
    assert "token_serial" in raised.value.hint
    assert token_key(hsm, serial=first.decode()).again(parameters) == secret
    with pytest.raises(Unavailable):
        token_key(hsm, serial="0").again(parameters)


@pytest.mark.parametrize("attributes", [{"EXTRACTABLE": True}, {"SENSITIVE": False}])
def test_a_key_that_the_token_would_give_away_is_refused(hsm, attributes):
    hsm.make_key("loose", **attributes)
    with pytest.raises(Rejected, match="would give key loose away"):
        token_key(hsm, key="loose").new()


def test_a_short_key_is_refused(hsm):
    hsm.make_key("short", bits=128)
    with pytest.raises(Rejected, match="has key short of 128 bits"):
        token_key(hsm, key="short").new()


def test_what_is_no_module_is_said(hsm, tmp_path):
    with pytest.raises(Rejected, match="no PKCS#11 module"):
        token_key(hsm, module=tmp_path / "nothing.so").new()


def test_the_context_belongs_to_what_the_token_wrapped(hsm):
    parameters, _ = token_key(hsm).new()
    with pytest.raises(BadStorageKey):
        token_key(hsm, context=b"kme-b").again(parameters)


def test_nothing_of_the_pin_shows(hsm):
    assert "271828" not in repr(token_key(hsm))
    assert Path(os.environ["SOFTHSM2_CONF"]) == hsm.conf


def test_without_the_extra_the_error_names_it(hsm, monkeypatch):
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(Rejected, match="needs python-pkcs11") as raised:
        token_key(hsm).new()
    assert "shosoin[pkcs11]" in raised.value.hint
