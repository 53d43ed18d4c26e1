"""Whose certificate it is and who issued it, read from a real handshake."""

import ssl

import pytest
from cryptography import x509

from shosoin.adapters.peer_chain import holder_of
from shosoin.adapters.tls import Identity, client_context, server_context
from shosoin.adapters.tls_files import issuer_id
from shosoin.base import Denied
from tests.support.pki import TestAuthority


def certificate(path):
    return x509.load_pem_x509_certificate(path.read_bytes())


def shake_hands(server, client):
    """Return the server's end of a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="kme-a"),
    ]
    for _ in range(10):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return ends[0]


@pytest.fixture
def root(tmp_path):
    return TestAuthority(tmp_path / "root", "root", path_length=1)


def met(root, files):
    ours = root.issue("kme", "kme-a")
    server = server_context(ours.certificate, ours.key, root.certificate)
    return shake_hands(server, client_context(files.certificate, files.key, root.certificate))


def test_a_holder_has_the_serial_numbers_of_its_whole_chain(tmp_path, root):
    middle = TestAuthority(tmp_path / "middle", "middle", under=root)
    files = middle.issue("sae", "sae-1")
    leaf = certificate(files.certificate)
    files.certificate.write_bytes(files.certificate.read_bytes() + middle.certificate.read_bytes())
    holder = holder_of(met(root, files), (certificate(root.certificate),))
    ids = [issuer_id(certificate(each.certificate)) for each in (middle, root)]
    assert holder.identity == Identity("sae", "sae-1")
    assert holder.serial == leaf.serial_number
    assert holder.links == ((ids[0], leaf.serial_number), (ids[1], certificate(middle.certificate).serial_number))
    assert holder.anchor == ids[1]


class LeafOnly:
    """A connection of a TLS library that tells the holder's certificate and nothing above it."""

    def __init__(self, tls):
        self._tls = tls

    def getpeercert(self, binary_form=False):
        return self._tls.getpeercert(binary_form=binary_form)


def test_where_the_chain_is_not_told_the_issuer_is_looked_for(tmp_path, root):
    other = TestAuthority(tmp_path / "other", "root", path_length=1)  # the same name, another key
    tls = met(root, root.issue("sae", "sae-1"))
    whole = holder_of(tls, ())
    told = holder_of(LeafOnly(tls), (certificate(other.certificate), certificate(root.certificate)))
    assert (told.links, told.anchor) == (whole.links, None)


def test_nobody_is_a_holder_without_a_certificate():
    with pytest.raises(Denied):
        holder_of(None, ())
