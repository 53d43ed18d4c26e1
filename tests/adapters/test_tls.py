"""Who a certificate names."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from shosoin.adapters.certificates import Authority, Role
from shosoin.adapters.tls import Identity, client_context, peer_identity, server_context
from shosoin.base import Denied, Rejected
from tests.support.pki import TestAuthority


@pytest.fixture
def authority(tmp_path):
    return TestAuthority(tmp_path, "plane")


def der(files):
    return x509.load_pem_x509_certificate(files.certificate.read_bytes()).public_bytes(Encoding.DER)


@pytest.mark.parametrize("role", ["sae", "kme", "node"])
def test_role_and_id_come_from_the_one_uri(authority, role):
    assert peer_identity(der(authority.issue(role, "name-1"))) == Identity(role, "name-1")


def test_the_products_own_certificates_name_their_holder():
    leaf = Authority.create("plane").issue(Role.SAE, "sae-1", client=True)
    assert peer_identity(leaf.certificate.public_bytes(Encoding.DER)) == Identity("sae", "sae-1")


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["urn:other:sae:x"],
        ["urn:shosoin:sae:x", "urn:shosoin:sae:y"],
        ["urn:shosoin:sae:x", "urn:shosoin:kme:x"],
        ["urn:shosoin:owner:x"],
        ["urn:shosoin:sae:"],
        ["urn:shosoin:sae:x/../y"],
        ["urn:shosoin:sae:x%00"],
        ["URN:SHOSOIN:SAE:x"],
    ],
)
def test_anything_but_exactly_one_name_is_denied(authority, uris):
    with pytest.raises(Denied):
        peer_identity(der(authority.issue("sae", "x", uris=uris)))


@pytest.mark.parametrize("raw", [b"", b"\x30\x00", None])
def test_no_certificate_is_denied(raw):
    with pytest.raises(Denied):
        peer_identity(raw)


def test_missing_files_are_rejected(authority, tmp_path):
    files = authority.issue("sae", "x")
    for make in (server_context, client_context):
        with pytest.raises(Rejected):
            make(files.certificate, files.key, tmp_path / "absent")
        with pytest.raises(Rejected):
            make(files.certificate, tmp_path / "absent", authority.certificate)
