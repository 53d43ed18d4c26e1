"""What both ends of the example share: their SAE at its KME, and the proof of who is at the other end.

A pre-shared key says that the other end holds the key, not who it is. So each end signs what only this connection has
(exported keying material, RFC 8446, 7.5) with the key of its SAE certificate, and checks that of the other.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from shosoin.adapters.key_exchange import KeyExchange
from shosoin.adapters.kme_client import KmeClient
from shosoin.adapters.tls import Identity, peer_identity
from shosoin.base import Denied

KEY_BITS = 384
"""As long as the hash of the cipher suite."""
PATIENCE_S = 10.0
_LABEL = b"EXPORTER-shosoin-example-tls-psk"
_LENGTH = struct.Struct(">I")
_FRAME_BYTES_MAX = 16 << 10


@dataclass(frozen=True)
class Sae:
    """One SAE: its files, its KME, and the SAE that it talks to."""

    certificate: Path
    key: Path
    ca: Path
    kme: str
    kme_name: str
    peer: str
    key_exchange: KeyExchange

    @classmethod
    def arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Declare what ``of`` reads."""
        for name in ("certificate", "key", "ca"):
            parser.add_argument(f"--{name}", type=Path, required=True, help=f"{name} of this SAE, PEM")
        parser.add_argument("--kme", required=True, help="https://host:port of the KME of this SAE")
        parser.add_argument("--kme-name", required=True, help="name in the KME's certificate")
        parser.add_argument("--peer", required=True, help="ID of the SAE at the other end")
        parser.add_argument("--key-exchange", choices=list(KeyExchange), default="classical", help="with the KME")

    @classmethod
    def of(cls, given: argparse.Namespace) -> Sae:
        """Return the SAE that the command line describes."""
        files = given.certificate, given.key, given.ca
        return cls(*files, given.kme, given.kme_name, given.peer, KeyExchange(given.key_exchange))

    def client(self) -> KmeClient:
        """Return a client of the KME."""
        return KmeClient(
            self.kme,
            server_name=self.kme_name,
            certificate=self.certificate,
            key=self.key,
            ca=self.ca,
            timeout_s=PATIENCE_S,
            key_exchange=self.key_exchange,
        )

    async def prove(self, stream: Stream, *, is_client: bool) -> None:
        """Show who we are and check who the other end is.

        Raises:
            Denied: it is somebody else, or cannot prove it.
        """
        certificate = x509.load_pem_x509_certificate(self.certificate.read_bytes())
        stream.send(certificate.public_bytes(serialization.Encoding.DER))
        stream.send(_signature(self.key, _bound(stream, by_client=is_client)))
        shown, signature = await stream.receive(), await stream.receive()
        self._check(shown, signature, _bound(stream, by_client=not is_client))

    def _check(self, shown: bytes, signature: bytes, message: bytes) -> None:
        authority = x509.load_pem_x509_certificate(self.ca.read_bytes())
        try:
            certificate = x509.load_der_x509_certificate(shown)
            PolicyBuilder().store(Store([authority])).build_client_verifier().verify(certificate, [])
            _verify(certificate.public_key(), signature, message)
        except (ValueError, VerificationError, InvalidSignature) as err:
            raise Denied("the other end cannot prove who it is") from err
        found = peer_identity(shown)
        if found != Identity("sae", self.peer):
            raise Denied(f"the other end is {found.role} {found.id}, expected {self.peer}")


@dataclass(frozen=True)
class Stream:
    """A connection that carries frames."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def tls(self) -> Any:
        """The TLS connection."""
        return self.writer.get_extra_info("ssl_object")

    def send(self, frame: bytes) -> None:
        """Send one frame."""
        self.writer.write(_LENGTH.pack(len(frame)) + frame)

    async def receive(self) -> bytes:
        """Return the next frame.

        Raises:
            Denied: it is too long, or the connection ends.
        """
        try:
            (size,) = _LENGTH.unpack(await self.reader.readexactly(_LENGTH.size))
            if size > _FRAME_BYTES_MAX:
                raise Denied(f"a frame of {size} bytes")
            return await self.reader.readexactly(size)
        except (OSError, EOFError) as err:
            raise Denied("the other end has gone") from err


def _bound(stream: Stream, *, by_client: bool) -> bytes:
    """Return what one end signs: it fits this connection and this end only, so nobody can play it back."""
    side = b"client" if by_client else b"server"
    return _LABEL + b" " + side + b"\0" + bytes(stream.tls.export_keying_material(_LABEL, 32))


def _signature(path: Path, message: bytes) -> bytes:
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if isinstance(key, mldsa.MLDSA65PrivateKey):
        return bytes(key.sign(message))
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return bytes(key.sign(message, ec.ECDSA(hashes.SHA384())))
    raise Denied("a certificate's key must be ECDSA or ML-DSA-65")


def _verify(key: object, signature: bytes, message: bytes) -> None:
    if isinstance(key, mldsa.MLDSA65PublicKey):
        key.verify(signature, message)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        key.verify(signature, message, ec.ECDSA(hashes.SHA384()))
    else:
        raise InvalidSignature
