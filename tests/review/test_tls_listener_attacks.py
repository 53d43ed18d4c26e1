"""Listener and hybrid TLS: closing races, and certificates that must not count."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shosoin.adapters.key_exchange import KeyExchange
from shosoin.adapters.memory_handshake import shake_hands
from shosoin.adapters.pq_tls import hybrid_client_context, hybrid_server_context
from shosoin.services.tls_listener import TlsListener
from tests.services.test_tls_listener import Plane, echoes, listening
from tests.support.kme import until


class Made(asyncio.Protocol):
    """Does something at the moment when the handshake is over and before anybody hears of it."""

    def __init__(self, at_once, made):
        self._at_once, self._made = at_once, made
        self.lost = False

    def connection_made(self, transport):
        self.transport = transport
        self._made.append(self)
        self._at_once()

    def connection_lost(self, exc):
        self.lost = True


async def test_a_handshake_given_up_when_it_was_just_over_leaves_no_socket_in_the_loop(tmp_path):
    plane, made = Plane(tmp_path, "one"), []
    listener = TlsListener(lambda: Made(listener.close, made), plane.server_context)
    await listener.start("127.0.0.1", 0)
    selector = asyncio.get_running_loop()._selector
    before = set(selector.get_map())
    _, writer = await asyncio.open_connection(
        "127.0.0.1", listener.port, ssl=plane.client_context(), server_hostname="kme-a"
    )
    await until(lambda: made)
    number = made[0].transport.get_extra_info("socket")
    await until(lambda: not listener.handshakes)
    stale = [fd for fd, key in selector.get_map().items() if fd not in before and number.fileno() == -1 and _dead(fd)]
    assert not stale
    writer.transport.abort()
    await until(lambda: made[0].lost)


def _dead(fd):
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


# Certificates


def _name(text):
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Maker:
    """An authority that also issues what it should not."""

    def __init__(self, place):
        self.place = place
        self.key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.UTC)
        self.now, self.day = now, datetime.timedelta(days=1)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name("ca"))
            .issuer_name(_name("ca"))
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 9 * self.day)
            .not_valid_after(now + 9 * self.day)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.ca = place / "ca.pem"
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def leaf(self, name, *, days=(-1, 1), usage=None):
        key = ec.generate_private_key(ec.SECP256R1())
        usages = usage or [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now + days[0] * self.day)
            .not_valid_after(self.now + days[1] * self.day)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        paths = self.place / f"{name}{days[0]}.pem", self.place / f"{name}{days[0]}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths


@pytest.mark.parametrize("mode", [KeyExchange.REQUIRE_HYBRID, KeyExchange.PREFER_HYBRID])
@pytest.mark.parametrize(
    "wrong",
    [{"days": (-3, -1)}, {"days": (1, 3)}, {"usage": [ExtendedKeyUsageOID.CODE_SIGNING]}],
    ids=["expired", "not yet valid", "for another use"],
)
@pytest.mark.parametrize("side", ["server", "client"])
def test_certificates_out_of_their_time_or_use_are_refused(tmp_path, side, wrong, mode):
    maker = Maker(tmp_path)
    good, bad = maker.leaf("good"), maker.leaf("bad", **wrong)
    server = hybrid_server_context(*(bad if side == "server" else good), maker.ca, mode=mode)
    client = hybrid_client_context(*(bad if side == "client" else good), maker.ca, mode=mode)
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client, "bad" if side == "server" else "good")
    right = hybrid_server_context(*good, maker.ca, mode=mode), hybrid_client_context(*good, maker.ca, mode=mode)
    shake_hands(*right, "good")


async def test_the_listener_serves_on_after_many_handshakes_were_cut_at_every_byte(tmp_path):
    plane = Plane(tmp_path, "one")
    hello = ssl.MemoryBIO()
    tls = plane.client_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="kme-a")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    raw = hello.read()
    async with listening(plane.server_context, handshakes_max=8) as listener:
        for cut in range(0, len(raw), max(1, len(raw) // 40)):
            _, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            writer.write(raw[:cut])
            writer.transport.abort()
        assert await echoes(listener, plane)
        await until(lambda: not listener.handshakes)
