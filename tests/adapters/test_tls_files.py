"""What is checked of certificates, keys and authorities before they are used, and what a renewal may not lose."""

import datetime
import pickle
import ssl

import pytest

from shosoin.adapters.key_exchange import KeyExchange, server_context_by
from shosoin.adapters.tls import Identity
from shosoin.adapters.tls_files import TlsFiles, load_credential, losses, made_credential
from shosoin.base import Rejected
from tests.support.pki import TestAuthority

NOW = datetime.datetime.now(datetime.UTC)


def nothing(_):
    return None


def load(authority, files, make=nothing):
    return load_credential(TlsFiles(files.certificate, files.key, authority.certificate), make)[0]


@pytest.fixture(params=[False, True], ids=["ecdsa", "ml-dsa"])
def authority(request, tmp_path):
    return TestAuthority(tmp_path / "pki", "plane", ml_dsa=request.param)


def test_what_fits_is_loaded_with_its_names_and_dates(authority):
    found = load(authority, authority.issue("kme", "kme-a"))
    assert found.identity == Identity("kme", "kme-a")
    assert found.names == {"kme-a", "127.0.0.1"}
    assert found.is_of_its_authorities
    assert found.fault(NOW) == ""
    assert found.ends < found.authority_ends + datetime.timedelta(minutes=1)


def test_a_key_of_another_certificate_is_refused(authority):
    one, other = authority.issue("kme", "kme-a"), authority.issue("kme", "kme-b")
    one.key.write_bytes(other.key.read_bytes())
    with pytest.raises(Rejected, match="is not the private key of") as caught:
        load(authority, one)
    assert caught.value.code == "tls.key_mismatch"


@pytest.mark.parametrize("which", ["certificate", "key"])
@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n", b"\0\xff" * 40])
def test_broken_and_missing_files_are_refused(authority, which, content):
    files = authority.issue("kme", "kme-a")
    path = getattr(files, which)
    path.write_bytes(content)
    with pytest.raises(Rejected, match=path.name):
        load(authority, files)
    path.unlink()
    with pytest.raises(Rejected, match="cannot read"):
        load(authority, files)


def test_half_a_file_is_refused(authority):
    files = authority.issue("kme", "kme-a")
    whole = files.certificate.read_bytes()
    files.certificate.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Rejected, match="broken"):
        load(authority, files)


def test_files_that_change_while_they_are_read_are_not_used(authority):
    files, other = authority.issue("kme", "kme-a"), authority.issue("kme", "kme-a", stem="other")

    def replaced(_):
        files.certificate.write_bytes(other.certificate.read_bytes())
        files.key.write_bytes(other.key.read_bytes())

    with pytest.raises(Rejected, match="changed while") as caught:
        load(authority, files, replaced)
    assert caught.value.code == "tls.files_changed"
    load(authority, files)


@pytest.mark.parametrize(("days", "words"), [((-2, -1), "expired at"), ((0.5, 1), "not valid before")])
def test_dates_are_told(authority, days, words):
    assert words in load(authority, authority.issue("kme", "kme-a", days=days)).fault(NOW)


def test_a_renewal_loses_no_identity_no_name_and_no_authority(authority, tmp_path):
    old = load(authority, authority.issue("kme", "kme-a", names=["kme-a", "kms.example"]))
    same = load(authority, authority.issue("kme", "kme-a", names=["kme-a", "kms.example", "more.example"]))
    assert losses(old, same) == []
    fewer = load(authority, authority.issue("kme", "kme-a"))
    assert losses(old, fewer) == ["lacks the names kms.example"]
    another = load(authority, authority.issue("kme", "kme-b", names=["kme-a", "kms.example"]))
    assert losses(old, another) == ["names kme kme-b instead of kme kme-a"]
    role = load(authority, authority.issue("sae", "kme-a", names=["kme-a", "kms.example"]))
    assert losses(old, role) == ["names sae kme-a instead of kme kme-a"]
    elsewhere = TestAuthority(tmp_path / "elsewhere", "plane", ml_dsa=authority.ml_dsa)
    foreign = load(authority, elsewhere.issue("kme", "kme-a", names=["kme-a", "kms.example"]))
    assert losses(old, foreign) == ["does not chain to the authorities beside it, as the one in use does"]


@pytest.mark.parametrize("key_exchange", list(KeyExchange))
def test_what_was_read_makes_contexts_after_the_files_are_gone(authority, key_exchange):
    if authority.ml_dsa and not key_exchange.is_hybrid:
        pytest.skip("Python's TLS library takes no ML-DSA certificates")
    files = authority.issue("kme", "kme-a")
    found = load(authority, files)
    for path in (files.certificate, files.key, authority.certificate):
        path.unlink()
    raw = pickle.loads(pickle.dumps(found.raw))  # as it reaches another process
    again, context = made_credential(
        raw, lambda each: server_context_by(key_exchange, each.certificate, each.key, each.ca)
    )
    assert again == found
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert "PRIVATE KEY" not in repr(found) + repr(raw)
