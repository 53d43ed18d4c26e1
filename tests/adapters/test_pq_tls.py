"""Hybrid TLS between two ends in memory: what is agreed on, and who is refused."""

import gc
import importlib
import ssl
import sys
import tempfile
import weakref
from contextlib import suppress
from typing import Any

import psutil
import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from shosoin.adapters import openssl_binding, pq_tls
from shosoin.adapters.certificates import Authority, CertificateAlgorithm, CertificateProfile, Role
from shosoin.adapters.key_exchange import KeyExchange, client_context_by, server_context_by
from shosoin.adapters.memory_handshake import shake_hands
from shosoin.adapters.pq_tls import HYBRID_GROUP, hybrid_client_context, hybrid_server_context
from shosoin.adapters.tls import Identity, client_context, describe, negotiated_group, peer_identity, server_context
from shosoin.base import Rejected
from tests.support.pki import TestAuthority

REQUIRE, PREFER = KeyExchange.REQUIRE_HYBRID, KeyExchange.PREFER_HYBRID


class Plane:
    """An authority, a server ``kme-a`` and a client ``sae-a``."""

    def __init__(self, directory, *, ml_dsa=False):
        self.authority = TestAuthority(directory, "plane", ml_dsa=ml_dsa)
        self.ca = self.authority.certificate
        self.server_files = self.authority.issue("kme", "kme-a")
        self.client_files = self.authority.issue("sae", "sae-a")

    def server(self, mode=REQUIRE, ca=None):
        return hybrid_server_context(self.server_files.certificate, self.server_files.key, ca or self.ca, mode=mode)

    def client(self, mode=REQUIRE, ca=None):
        return hybrid_client_context(self.client_files.certificate, self.client_files.key, ca or self.ca, mode=mode)


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    return Plane(tmp_path_factory.mktemp("plane"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """Another plane whose authority has the same name."""
    return Plane(tmp_path_factory.mktemp("stranger"))


def groups(context, names):
    openssl_binding.binding().set_groups(context.below, names)
    return context


@pytest.mark.parametrize("ml_dsa", [False, True])
@pytest.mark.parametrize("client_mode", [REQUIRE, PREFER])
@pytest.mark.parametrize("server_mode", [REQUIRE, PREFER])
def test_both_ends_report_the_hybrid_group_and_know_each_other(tmp_path, server_mode, client_mode, ml_dsa):
    made = Plane(tmp_path, ml_dsa=ml_dsa)
    done = shake_hands(made.server(server_mode), made.client(client_mode), "kme-a")
    assert negotiated_group(done.client) == negotiated_group(done.server) == HYBRID_GROUP
    assert peer_identity(done.client) == Identity("kme", "kme-a")
    assert peer_identity(done.server) == Identity("sae", "sae-a")
    assert describe(done.client)["version"] == "TLSv1.3"
    assert done.server.selected_alpn_protocol() == done.client.selected_alpn_protocol() == "http/1.1"
    assert done.client.compression() is None


def test_our_own_ml_dsa_certificates_work_and_are_refused_by_a_stranger(tmp_path, stranger):
    profile = CertificateProfile(algorithm=CertificateAlgorithm.ML_DSA_65)
    Authority.create("plane", profile).issued.write(tmp_path / "ca.crt", tmp_path / "ca.key")
    authority = Authority.load(tmp_path / "ca.crt", tmp_path / "ca.key", profile)
    leaf = authority.issue(Role.KME, "kme-a", server=True, client=True)
    leaf.write(tmp_path / "a.crt", tmp_path / "a.key")
    assert (tmp_path / "a.key").stat().st_mode & 0o777 == 0o600
    files = tmp_path / "a.crt", tmp_path / "a.key", tmp_path / "ca.crt"
    done = shake_hands(hybrid_server_context(*files), hybrid_client_context(*files), "kme-a")
    assert peer_identity(done.client) == Identity("kme", "kme-a")
    assert b"2.16.840.1.101.3.4.3.18" in leaf.certificate.signature_algorithm_oid.dotted_string.encode()
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(hybrid_server_context(*files), stranger.client(), "kme-a")


@pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO >= (3, 5), reason="this Python's own TLS knows ML-DSA")
def test_an_ml_dsa_certificate_without_hybrid_tls_says_what_would_help(tmp_path):
    made = Plane(tmp_path, ml_dsa=True)
    files = made.server_files.certificate, made.server_files.key, made.ca
    for make in (server_context_by, client_context_by):
        with pytest.raises(Rejected) as caught:
            make(KeyExchange.CLASSICAL, *files)
        assert "prefer-hybrid" in str(caught.value.hint)


def test_an_ecdsa_leaf_of_an_ml_dsa_authority_is_verified_too(tmp_path):
    authority = Authority.create("plane", CertificateProfile(algorithm=CertificateAlgorithm.ML_DSA_65))
    authority.issued.write(tmp_path / "ca.crt", tmp_path / "ca.key")
    mixed = Authority(authority.issued).issue(Role.KME, "kme-a", server=True, client=True)
    mixed.write(tmp_path / "a.crt", tmp_path / "a.key")
    files = tmp_path / "a.crt", tmp_path / "a.key", tmp_path / "ca.crt"
    shake_hands(hybrid_server_context(*files), hybrid_client_context(*files), "kme-a")


def test_who_has_no_ml_kem_is_refused_where_it_is_required(plane):
    with pytest.raises(ssl.SSLError, match="no suitable key share"):
        shake_hands(plane.server(REQUIRE), groups(plane.client(PREFER), "X25519"), "kme-a")
    with pytest.raises(ssl.SSLError, match=r"key share|alert"):
        shake_hands(groups(plane.server(PREFER), "X25519"), plane.client(REQUIRE), "kme-a")


def test_who_has_no_ml_kem_is_served_where_it_is_preferred_and_the_group_says_so(plane):
    done = shake_hands(plane.server(PREFER), groups(plane.client(PREFER), "X25519"), "kme-a")
    assert negotiated_group(done.client) == negotiated_group(done.server) == "X25519"


@pytest.mark.parametrize("offer", ["X25519:X25519MLKEM768", "*X25519:X25519MLKEM768", "P-256:X25519:X25519MLKEM768"])
def test_a_client_that_begins_with_the_classical_group_is_asked_for_the_hybrid_one(plane, offer):
    done = shake_hands(plane.server(PREFER), groups(plane.client(PREFER), offer), "kme-a")
    assert negotiated_group(done.server) == HYBRID_GROUP


def test_a_client_that_begins_with_keys_of_128_bits_gets_256(plane):
    client = plane.client()
    client.below.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384")
    assert describe(shake_hands(plane.server(), client, "kme-a").server)["secret_bits"] == 256


def test_a_group_that_was_not_asked_for_ends_the_connection_after_the_handshake(plane):
    """The second look: here the library agrees on something that the context does not allow."""
    with pytest.raises(ssl.SSLError, match="agreed on"):
        shake_hands(groups(plane.server(REQUIRE), "X25519"), groups(plane.client(PREFER), "X25519"), "kme-a")


@pytest.mark.parametrize("name", ["kme-b", "kme-a.example", "ab", "127.0.0.2", "::1", "xn--kme-a"])
def test_a_server_of_another_name_is_refused(plane, name):
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch") as caught:
        shake_hands(plane.server(), plane.client(), name)
    assert caught.value.verify_code in {62, 64}


def test_a_common_name_is_no_host_name(tmp_path):
    profile = Authority.create("plane")
    profile.issued.write(tmp_path / "ca.crt", tmp_path / "ca.key")
    profile.issue(Role.SAE, "sae-a", client=True).write(tmp_path / "a.crt", tmp_path / "a.key")
    both = profile.issue(Role.KME, "kme-a", server=True)
    both.write(tmp_path / "s.crt", tmp_path / "s.key")
    server = hybrid_server_context(tmp_path / "s.crt", tmp_path / "s.key", tmp_path / "ca.crt")
    client = hybrid_client_context(tmp_path / "a.crt", tmp_path / "a.key", tmp_path / "ca.crt")
    shake_hands(server, client, "kme-a")
    with pytest.raises(ssl.SSLCertVerificationError):  # a client's certificate serves nobody, whatever it is called
        shake_hands(hybrid_server_context(tmp_path / "a.crt", tmp_path / "a.key", tmp_path / "ca.crt"), client, "sae-a")


@pytest.mark.parametrize("name", [None, "", b""])
def test_a_client_without_a_name_to_expect_does_not_begin(plane, name):
    with pytest.raises(ValueError, match="server_hostname"):
        plane.client().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)


@pytest.mark.parametrize("name", ["kme-a\0.example", "kme a", "\n", "x" * 300, "kme-a.", "\u3042" * 80])
def test_a_name_that_no_host_can_have_is_rejected(plane, name):
    with pytest.raises(Rejected, match="no server"):
        plane.client().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)


def test_another_authority_is_refused_at_either_end(plane, stranger):
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake_hands(stranger.server(ca=plane.ca), plane.client(), "kme-a")
    assert caught.value.verify_code != 0
    with pytest.raises(ssl.SSLError, match="certificate verify failed"):
        shake_hands(plane.server(), stranger.client(ca=plane.ca), "kme-a")


def test_a_client_without_a_certificate_is_refused(plane):
    library = openssl_binding.binding()
    context = library.ssl.Context(library.ssl.TLS_CLIENT_METHOD)
    library.set_groups(context, HYBRID_GROUP)
    client = library.ssl.Connection(context, None)
    client.set_connect_state()
    server, to_server, to_client = served(plane.server())
    with pytest.raises(ssl.SSLError, match="peer did not return a certificate"):
        talk(client, server, to_server, to_client)
    with pytest.raises(ssl.SSLError):  # and nothing is handed up after that
        server.read()


def served(context):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    return context.wrap_bio(to_server, to_client, server_side=True), to_server, to_client


def talk(client, server, to_server, to_client, *, turns=6):
    """Shake hands between a bare pyOpenSSL client and one of our servers."""
    library = openssl_binding.binding()
    for _ in range(turns):
        with suppress(library.ssl.WantReadError):
            client.do_handshake()
        with suppress(library.ssl.WantReadError):
            to_server.write(client.bio_read(1 << 20))
        with suppress(ssl.SSLWantReadError):
            server.do_handshake()
        if to_client.pending:
            client.bio_write(to_client.read())


def test_a_ticket_opens_nothing(plane):
    """A client that keeps its session and offers it again has to show its certificate again."""
    library, server_context = openssl_binding.binding(), plane.server()
    context = plane.client().below
    context.set_session_cache_mode(library.ssl.SESS_CACHE_CLIENT)
    session = None
    for _ in range(3):
        client = library.ssl.Connection(context, None)
        if session is not None:
            client.set_session(session)
        client.set_connect_state()
        server, to_server, to_client = served(server_context)
        talk(client, server, to_server, to_client)
        server.write(b"x")
        client.bio_write(to_client.read())
        assert client.recv(1) == b"x"  # and with it the tickets, if there were any
        assert not library.is_resumed(client)
        assert not server.is_resumed()
        assert peer_identity(server) == Identity("sae", "sae-a")
        session = client.get_session()


def test_nothing_is_read_or_written_before_the_handshake_is_accepted(plane):
    """A client that was refused for its name gets no byte, though the server has sent some."""
    client, server, _, _ = both(plane.server(), plane.client(), name="another")
    for end in (client, server):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    for call in (client.do_handshake, client.read, lambda: client.write(b"secret"), client.do_handshake):
        with pytest.raises(ssl.SSLCertVerificationError):
            call()


def test_records_of_any_size_arrive_and_goodbyes_are_said(plane):
    done = shake_hands(plane.server(), plane.client(), "kme-a")
    sent = bytes(range(256)) * 1024
    assert done.client.write(b"") == 0
    assert done.client.write(memoryview(sent)) == len(sent)
    got = bytearray(len(sent))
    at = 0
    while at < len(sent):
        at += int(done.server.read(len(sent) - at, memoryview(got)[at:]))
    assert got == sent
    with pytest.raises(ssl.SSLWantReadError):
        done.server.read()
    with pytest.raises(ssl.SSLWantReadError):
        done.client.unwrap()
    assert done.server.read() == b""
    done.server.unwrap()
    done.client.unwrap()


def test_an_end_without_goodbye_is_not_a_goodbye(plane):
    client, server, to_server, _ = both(plane.server(), plane.client())
    for end in (client, server, client, server):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    client.write(b"half a request")
    to_server.write_eof()
    assert server.read(100) == b"half a request"
    with pytest.raises(ssl.SSLEOFError):
        server.read(100)


def test_what_came_in_stays_with_asyncio_until_it_is_read(plane):
    """Otherwise its backpressure would see nothing."""
    client, server, to_server, _ = both(plane.server(), plane.client())
    for end in (client, server, client, server):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    client.write(bytes(8 << 20))
    assert len(server.read(1)) == 1
    assert to_server.pending > (8 << 20) - (64 << 10)


def der(path):
    return ssl.PEM_cert_to_DER_cert(path.read_text())


def test_the_whole_verified_chain_is_told_once_it_is_verified(plane):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    before = plane.client().wrap_bio(to_client, to_server, server_hostname="kme-a")
    assert before.get_verified_chain() == []
    done = shake_hands(plane.server(), plane.client(), "kme-a")
    assert done.client.get_verified_chain() == [der(plane.server_files.certificate), der(plane.ca)]  # type: ignore[attr-defined]
    assert done.server.get_verified_chain() == [der(plane.client_files.certificate), der(plane.ca)]  # type: ignore[attr-defined]


def test_nothing_read_is_nothing(plane):
    done = shake_hands(plane.server(), plane.client(), "kme-a")
    assert done.client.read(0) == b""


def test_where_there_is_no_place_for_temporary_files_it_says_so(plane, monkeypatch):
    pq_tls._self_test.cache_clear()
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    try:
        with pytest.raises(Rejected, match="no place"):
            plane.server()
    finally:
        monkeypatch.undo()
        plane.server()


def test_both_ends_can_bind_something_to_the_connection(plane):
    done = shake_hands(plane.server(), plane.client(), "kme-a")
    other = shake_hands(plane.server(), plane.client(), "kme-a")
    label = b"EXPORTER-test"
    made = done.client.export_keying_material(label, 32)  # type: ignore[attr-defined]
    assert made == done.server.export_keying_material(label, 32)  # type: ignore[attr-defined]
    assert made != other.client.export_keying_material(label, 32)  # type: ignore[attr-defined]


def test_many_connections_leave_no_memory_behind(plane):
    server, client = plane.server(), plane.client()

    def grown():
        return psutil.Process().memory_info().rss

    for _ in range(50):
        shake_hands(server, client, "kme-a")
    before = grown()
    for _ in range(400):
        done = shake_hands(server, client, "kme-a")
        done.client.write(bytes(100_000))
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(server, client, "kme-b")
    assert grown() - before < 16 << 20


def test_what_failed_is_gone_at_once_and_does_not_wait_for_the_garbage_collector(plane):
    """Our services collect rarely; until then each stranger's connection would hold what OpenSSL keeps for it."""
    left: list[Any] = []

    def refused():
        client, server, _, _ = both(plane.server(), plane.client(), name="kme-b")
        left.extend(weakref.ref(end) for end in (client, server))
        for end in (client, server, client, client):
            with suppress(ssl.SSLError):
                end.do_handshake()

    def garbage():
        server, to_server, _ = served(plane.server())
        left.append(weakref.ref(server))
        to_server.write(b"GET / HTTP/1.1")
        with suppress(ssl.SSLError):
            server.do_handshake()

    def unfinished():
        client, _, _, _ = both(plane.server(), plane.client())
        left.append(weakref.ref(client))
        with suppress(ssl.SSLError):
            client.do_handshake()

    gc.disable()
    try:
        for happens in (refused, garbage, unfinished):
            happens()
        still_there = [each() for each in left]
    finally:
        gc.enable()
    assert still_there == [None] * 4


def both(server_context, client_context, name="kme-a"):
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    return client, server_context.wrap_bio(to_server, to_client, server_side=True), to_server, to_client


def flight(plane):
    outgoing = ssl.MemoryBIO()
    hello = plane.client().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="kme-a")
    with pytest.raises(ssl.SSLWantReadError):
        hello.do_handshake()
    return outgoing.read()


@given(data=st.data())
def test_whatever_comes_instead_of_a_hello_is_an_error_of_ssl(plane, data):
    raw = bytearray(flight(plane))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    written = data.draw(st.sampled_from([bytes(raw), bytes(raw[: len(raw) // 2]) + b"\xff" * 40])) + data.draw(
        st.binary()
    )
    server, to_server, _ = served(plane.server())
    to_server.write(written)
    with pytest.raises(ssl.SSLError):
        server.do_handshake()


@given(data=st.data())
def test_whatever_comes_after_the_handshake_is_data_or_an_error_of_ssl(plane, data):
    client, server, to_server, _ = both(plane.server(), plane.client())
    for end in (client, server, client, server):
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    client.write(b"before")
    assert server.read() == b"before"
    client.write(data.draw(st.binary(min_size=1)))
    raw = bytearray(to_server.read())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    to_server.write(bytes(raw) + data.draw(st.binary()))
    with pytest.raises(ssl.SSLError):
        server.read()


@pytest.mark.parametrize(
    "change",
    [
        lambda context: setattr(context, "verify_mode", ssl.CERT_NONE),
        lambda context: setattr(context, "check_hostname", False),
        lambda context: setattr(context, "minimum_version", ssl.TLSVersion.TLSv1_2),
        lambda context: setattr(context, "options", 0),
        lambda context: context.load_default_certs(),
        lambda context: context.set_ciphers("ALL"),
        lambda context: context.wrap_socket(None),
    ],
)
def test_a_context_cannot_be_weakened_afterwards(plane, change):
    with pytest.raises(TypeError, match="made whole"):
        change(plane.client())


def test_a_context_is_for_one_side(plane):
    with pytest.raises(ValueError, match="one side"):
        plane.client().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    with pytest.raises(ValueError, match="no hybrid"):
        plane.client(KeyExchange.CLASSICAL)


def test_files_that_do_not_fit_are_rejected_by_name(plane, stranger, tmp_path):
    ours, theirs = plane.server_files, stranger.server_files
    empty = tmp_path / "empty"
    empty.touch()
    for make in (hybrid_server_context, hybrid_client_context):
        for files in (
            (ours.certificate, theirs.key, plane.ca),
            (ours.certificate, tmp_path / "absent", plane.ca),
            (tmp_path / "absent", ours.key, plane.ca),
            (ours.certificate, ours.key, tmp_path / "absent"),
            (ours.certificate, ours.key, empty),
            (empty, ours.key, plane.ca),
        ):
            with pytest.raises(Rejected) as caught:
                make(*files)
            assert caught.value.code == "tls.bad_files"


def test_an_encrypted_key_is_rejected_and_nobody_is_asked_for_its_passphrase(plane, tmp_path):
    key = serialization.load_pem_private_key(plane.server_files.key.read_bytes(), None)
    sealed = serialization.BestAvailableEncryption(b"passphrase")
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key").write_bytes(key.private_bytes(encoding, form, sealed))
    with pytest.raises(Rejected):
        hybrid_server_context(plane.server_files.certificate, tmp_path / "key", plane.ca)


def test_without_the_extra_hybrid_is_an_error_that_names_it_and_classical_works(plane, monkeypatch):
    openssl_binding.binding.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "OpenSSL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "OpenSSL", None)
    files = plane.server_files.certificate, plane.server_files.key, plane.ca
    try:
        for make in (server_context_by, client_context_by):
            assert isinstance(make(KeyExchange.CLASSICAL, *files), ssl.SSLContext)
            for mode in (PREFER, REQUIRE):
                with pytest.raises(Rejected) as caught:
                    make(mode, *files)
                assert caught.value.code == "tls.extra_missing"
                assert "shosoin[pqtls]" in str(caught.value.hint)
    finally:
        monkeypatch.undo()
        openssl_binding.binding.cache_clear()
        importlib.import_module("OpenSSL.SSL")


def test_a_library_without_the_names_we_need_is_an_error_that_says_which(monkeypatch):
    openssl_binding.binding.cache_clear()
    monkeypatch.setattr(openssl_binding, "_NAMES", (*openssl_binding._NAMES, "SSL_never_heard_of"))
    try:
        with pytest.raises(Rejected, match="SSL_never_heard_of") as caught:
            openssl_binding.binding()
        assert caught.value.code == "tls.extra_unusable"
    finally:
        openssl_binding.binding.cache_clear()


def test_python_s_own_tls_is_refused_or_served_by_what_it_can(plane):
    """Whatever OpenSSL this Python has: with X25519MLKEM768 it is served, without it is refused."""
    client = client_context(plane.client_files.certificate, plane.client_files.key, plane.ca)
    if ssl.OPENSSL_VERSION_INFO >= (3, 5):
        assert negotiated_group(shake_hands(plane.server(REQUIRE), client, "kme-a").server) == HYBRID_GROUP
        return
    with pytest.raises(ssl.SSLError):
        shake_hands(plane.server(REQUIRE), client, "kme-a")
    assert negotiated_group(shake_hands(plane.server(PREFER), client, "kme-a").server) == "X25519"
    ours = server_context(plane.server_files.certificate, plane.server_files.key, plane.ca)
    with pytest.raises(ssl.SSLError):
        shake_hands(ours, plane.client(REQUIRE), "kme-a")
    assert negotiated_group(shake_hands(ours, plane.client(PREFER), "kme-a").client) == "X25519"
