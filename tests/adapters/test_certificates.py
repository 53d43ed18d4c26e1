"""Certificates: who may call whom, checked by the X.509 verifier of ``cryptography`` and by real TLS handshakes."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from shosoin.adapters.certificates import (
    Authority,
    CertificateProfile,
    Role,
    make_private_directory,
    role_urn,
    write_private,
    write_signing_key,
)
from shosoin.base import Rejected


@pytest.fixture(scope="module")
def authority():
    return Authority.create("test plane")


def alternative_names(issued):
    return issued.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_leaf_names_its_holder_three_ways(authority):
    leaf = authority.issue(Role.KME, "kme-koganei", server=True)
    names = alternative_names(leaf)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:shosoin:kme:kme-koganei"]
    assert names.get_values_for_type(x509.DNSName) == ["kme-koganei"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    assert leaf.certificate.subject.rfc4514_string() == "CN=kme-koganei"


def test_a_client_has_no_dns_name(authority):
    names = alternative_names(authority.issue(Role.SAE, "sae-koganei-1", client=True))
    assert names.get_values_for_type(x509.DNSName) == []
    assert names.get_values_for_type(x509.IPAddress) == []


@pytest.mark.parametrize(
    ("server", "client", "expected"),
    [
        (True, False, {ExtendedKeyUsageOID.SERVER_AUTH}),
        (False, True, {ExtendedKeyUsageOID.CLIENT_AUTH}),
        (True, True, {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}),
    ],
)
def test_extended_usage_is_what_was_asked_for(authority, server, client, expected):
    leaf = authority.issue(Role.KME, "kme-a", server=server, client=client)
    usage = leaf.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == expected


def test_a_leaf_for_nothing_is_refused(authority):
    with pytest.raises(Rejected):
        authority.issue(Role.SAE, "sae-a")


@pytest.mark.parametrize("identifier", ["", "a/b", "a:b", "-a", "a" * 65, "a\n", "urn:shosoin:kme:x", "\u3042"])
def test_an_id_cannot_smuggle_another_name(authority, identifier):
    with pytest.raises(Rejected):
        authority.issue(Role.SAE, identifier, client=True)


def test_the_verifier_accepts_a_server(authority):
    leaf = authority.issue(Role.KME, "kme-koganei", server=True)
    store = Store([authority.issued.certificate])
    verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("kme-koganei"))
    assert len(verifier.verify(leaf.certificate, [])) == 2
    wrong_name = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("kme-otemachi"))
    with pytest.raises(VerificationError):
        wrong_name.verify(leaf.certificate, [])


def test_the_verifier_accepts_a_client_and_tells_its_role(authority):
    leaf = authority.issue(Role.SAE, "owner-1", client=True)
    verified = (
        PolicyBuilder()
        .store(Store([authority.issued.certificate]))
        .build_client_verifier()
        .verify(leaf.certificate, [])
    )
    assert [str(name.value) for name in verified.subjects or []] == ["urn:shosoin:sae:owner-1"]


def test_a_server_is_no_client_and_a_client_no_server(authority):
    store = Store([authority.issued.certificate])
    with pytest.raises(VerificationError):
        PolicyBuilder().store(store).build_client_verifier().verify(
            authority.issue(Role.KME, "kme-a", server=True).certificate, []
        )
    with pytest.raises(VerificationError):
        PolicyBuilder().store(store).build_server_verifier(x509.DNSName("sae-a")).verify(
            authority.issue(Role.SAE, "sae-a", client=True).certificate, []
        )


def test_planes_do_not_trust_each_other(authority):
    other = Authority.create("test plane")  # the same name does not help
    leaf = other.issue(Role.SAE, "owner-1", client=True)
    verifier = PolicyBuilder().store(Store([authority.issued.certificate])).build_client_verifier()
    with pytest.raises(VerificationError):
        verifier.verify(leaf.certificate, [])


def test_a_leaf_cannot_issue(authority):
    leaf = authority.issue(Role.KME, "kme-a", server=True, client=True)
    grandchild = Authority(leaf).issue(Role.SAE, "owner-1", client=True)
    verifier = PolicyBuilder().store(Store([authority.issued.certificate])).build_client_verifier()
    with pytest.raises(VerificationError):
        verifier.verify(grandchild.certificate, [leaf.certificate])


def test_validity_follows_the_profile():
    profile = CertificateProfile(authority_lifetime_days=30, leaf_lifetime_days=2, backdate_minutes=1)
    leaf = Authority.create("short", profile).issue(Role.SAE, "sae-a", client=True).certificate
    assert leaf.not_valid_after_utc - leaf.not_valid_before_utc == datetime.timedelta(days=2, minutes=1)


@pytest.mark.parametrize("role", list(Role))
def test_the_urn_has_the_agreed_form(role):
    assert role_urn(role, "x-1") == f"urn:shosoin:{role.value}:x-1"


def shake_hands(server_context, client_context, server_name):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=server_name)
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    waiting = [client, server]
    for _ in range(10):
        waiting = [end for end in waiting if not advanced(end)]
    return server.getpeercert()


def advanced(end):
    try:
        end.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


@pytest.fixture
def contexts(authority, tmp_path):
    """Server and client contexts of the standard library, strict about X.509."""
    ca = tmp_path / "ca.crt"
    authority.issued.write(ca, tmp_path / "ca.key")
    made = {}
    for name, protocol in (("server", ssl.PROTOCOL_TLS_SERVER), ("client", ssl.PROTOCOL_TLS_CLIENT)):
        issued = authority.issue(Role.NODE, f"{name}-1", server=name == "server", client=name == "client")
        issued.write(tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
        context = ssl.SSLContext(protocol)
        context.load_cert_chain(tmp_path / f"{name}.crt", tmp_path / f"{name}.key")
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        made[name] = context
    return made


@pytest.mark.parametrize("server_name", ["server-1", "127.0.0.1"])
def test_openssl_shakes_hands_by_name_and_by_address(contexts, server_name):
    peer = shake_hands(contexts["server"], contexts["client"], server_name)
    assert ("URI", "urn:shosoin:node:client-1") in peer["subjectAltName"]


def test_openssl_refuses_the_wrong_name(contexts):
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(contexts["server"], contexts["client"], "server-2")


def test_private_files_are_private_whatever_the_umask(authority, tmp_path):
    before = os.umask(0)
    try:
        directory = make_private_directory(tmp_path / "a" / "b")
        authority.issued.write(directory / "ca.crt", directory / "ca.key")
        write_signing_key(directory / "signing.key", directory / "signing.pub")
    finally:
        os.umask(before)
    assert mode_of(directory) == mode_of(directory.parent) == 0o700
    for name in ("ca.key", "ca.crt", "signing.key", "signing.pub"):
        assert mode_of(directory / name) == 0o600


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "secret"
    write_private(path, b"old")

    def fail(descriptor):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_authority_is_read_back(authority, tmp_path):
    authority.issued.write(tmp_path / "ca.crt", tmp_path / "ca.key")
    again = Authority.load(tmp_path / "ca.crt", tmp_path / "ca.key")
    leaf = again.issue(Role.SAE, "sae-a", client=True)
    PolicyBuilder().store(Store([authority.issued.certificate])).build_client_verifier().verify(leaf.certificate, [])
    assert again.issued.certificate == authority.issued.certificate


def test_an_authority_with_anothers_key_is_refused(authority, tmp_path):
    authority.issued.write(tmp_path / "ca.crt", tmp_path / "ca.key")
    Authority.create("other").issued.write(tmp_path / "other.crt", tmp_path / "other.key")
    with pytest.raises(Rejected, match="is not the private key"):
        Authority.load(tmp_path / "ca.crt", tmp_path / "other.key")
    (tmp_path / "other.crt").write_bytes(b"not PEM")
    with pytest.raises(Rejected, match="cannot read"):
        Authority.load(tmp_path / "other.crt", tmp_path / "ca.key")
    with pytest.raises(Rejected, match="cannot read"):
        Authority.load(tmp_path / "nothing", tmp_path / "ca.key")


def test_the_signing_key_is_the_seed_of_the_public_key(tmp_path):
    public = write_signing_key(tmp_path / "signing.key", tmp_path / "signing.pub")
    seed = (tmp_path / "signing.key").read_bytes()
    assert len(seed) == 32
    assert (tmp_path / "signing.pub").read_bytes() == public
    signature = mldsa.MLDSA65PrivateKey.from_seed_bytes(seed).sign(b"message")
    mldsa.MLDSA65PublicKey.from_public_bytes(public).verify(signature, b"message")


def test_a_private_key_is_not_shown(authority):
    assert "key=" not in repr(authority.issued)
    assert "PRIVATE" not in repr(authority)
