"""Certificates and signing keys: who may call whom, written down as X.509.

Two planes have a certificate authority (CA) each, so that a leaf of one plane opens nothing on the other.
The *SAE plane* holds the servers that SAEs call (a KME's ETSI GS QKD 014 port) and every SAE's client certificate;
the *node plane* holds KME to KME links and the share nodes' servers. Every leaf names its holder three ways that must
agree: common name, one URI ``urn:shosoin:<role>:<id>`` and, for servers, the DNS name. The URI carries the *role*, so
a KME's certificate is never mistaken for that of an SAE with the same name.

Owners also have an ML-DSA-65 key pair (FIPS 204) with which they sign what they write to the catalog.

>>> from shosoin.adapters.certificates import Authority, Role
>>> authority = Authority.create("example SAE plane")
>>> leaf = authority.issue(Role.SAE, "sae-koganei-1", client=True)
>>> role_urn(Role.SAE, "sae-koganei-1")
'urn:shosoin:sae:sae-koganei-1'

A third authority may vouch for those who administer a KME (role ``admin``).

Not here: revocation, enrolment by request, hardware keys. Private keys are written unencrypted, readable by their
owner only.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shosoin.base import Rejected, SaeId

__all__ = [
    "DEFAULT_PROFILE",
    "Authority",
    "CertificateAlgorithm",
    "CertificateProfile",
    "IssuedCertificate",
    "Role",
    "make_private_directory",
    "role_urn",
    "write_private",
    "write_signing_key",
]

CertificateKey = ec.EllipticCurvePrivateKey | mldsa.MLDSA65PrivateKey
_PublicKey = ec.EllipticCurvePublicKey | mldsa.MLDSA65PublicKey
PRIVATE_FILE_MODE = 0o600
PRIVATE_DIRECTORY_MODE = 0o700


class Role(StrEnum):
    """What the holder of a certificate is."""

    SAE = "sae"
    KME = "kme"
    NODE = "node"
    ADMIN = "admin"


def role_urn(role: Role, identifier: str) -> str:
    """Return the URI that names a holder in its certificate."""
    return f"urn:shosoin:{role.value}:{SaeId(identifier)}"


class CertificateAlgorithm(StrEnum):
    """With what certificates are signed, and with what their holders sign in handshakes."""

    ECDSA_P256 = "ecdsa-p256"
    """With SHA-256; every TLS 1.3 peer understands it."""
    ML_DSA_65 = "ml-dsa-65"
    """FIPS 204, as RFC 9881 writes it in certificates; OpenSSL understands it from 3.5 on (``adapters.pq_tls``)."""

    def new_key(self) -> CertificateKey:
        """Make a private key."""
        if self is CertificateAlgorithm.ML_DSA_65:
            return mldsa.MLDSA65PrivateKey.generate()
        return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True, slots=True)
class CertificateProfile:
    """How keys are made and how long certificates live.

    ECDSA protects against whoever is on the wire *today*, ML-DSA against a quantum computer as well; confidentiality
    of class ``its`` rests on neither.
    """

    authority_lifetime_days: int = 3650
    leaf_lifetime_days: int = 397
    backdate_minutes: int = 5
    """Tolerance for a peer whose clock is behind."""
    algorithm: CertificateAlgorithm = CertificateAlgorithm.ECDSA_P256

    def new_key(self) -> CertificateKey:
        """Make a private key."""
        return self.algorithm.new_key()

    def validity(self, lifetime_days: int) -> tuple[datetime.datetime, datetime.datetime]:
        """Return the first and last moment of a certificate that is issued now."""
        now = datetime.datetime.now(datetime.UTC)
        return now - datetime.timedelta(minutes=self.backdate_minutes), now + datetime.timedelta(days=lifetime_days)


DEFAULT_PROFILE = CertificateProfile()


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """A certificate with its private key; the key stays out of ``repr``."""

    certificate: x509.Certificate
    key: CertificateKey = field(repr=False)

    def certificate_pem(self) -> bytes:
        """Return the certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def key_pem(self) -> bytes:
        """Return the private key as unencrypted PKCS #8 PEM."""
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def write(self, certificate_path: Path, key_path: Path) -> None:
        """Write both files; the key first, so that a certificate on disk always has its key."""
        write_private(key_path, self.key_pem())
        write_private(certificate_path, self.certificate_pem())


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority that issues leaf certificates of one plane."""

    issued: IssuedCertificate
    profile: CertificateProfile = DEFAULT_PROFILE

    @classmethod
    def create(cls, common_name: str, profile: CertificateProfile = DEFAULT_PROFILE) -> Self:
        """Make a self-signed authority that may sign leaves only (path length 0)."""
        key = profile.new_key()
        name = _name(common_name)
        builder = _builder(name, name, key.public_key(), key.public_key(), profile, profile.authority_lifetime_days)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
        return cls(IssuedCertificate(_signed(builder, key), key), profile)

    @classmethod
    def load(cls, certificate_path: Path, key_path: Path, profile: CertificateProfile = DEFAULT_PROFILE) -> Self:
        """Read an authority back from its two PEM files; what it issues has keys of the profile's algorithm.

        Raises:
            Rejected: the files are unreadable, are not PEM, or do not belong together.
        """
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as err:
            raise Rejected(f"cannot read a certificate authority from {certificate_path}: {err}") from err
        if not isinstance(key, CertificateKey) or certificate.public_key() != key.public_key():
            raise Rejected(f"{key_path} is not the private key of {certificate_path}")
        return cls(IssuedCertificate(certificate, key), profile)

    def issue(
        self, role: Role, identifier: str, *, server: bool = False, client: bool = False, loopback: bool = True
    ) -> IssuedCertificate:
        """Issue a leaf certificate.

        Args:
            role: what the holder is.
            identifier: its id; becomes common name, URI and (for servers) DNS name.
            server: may serve TLS.
            client: may authenticate itself to a TLS server.
            loopback: a server's certificate also names 127.0.0.1.

        Raises:
            Rejected: neither ``server`` nor ``client`` was asked for, or the id is malformed.
        """
        if not (server or client):
            raise Rejected(f"a certificate for {identifier!r} must be for a server, a client or both")
        names = x509.SubjectAlternativeName(_alternative_names(role, identifier, server=server, loopback=loopback))
        key = self.profile.new_key()
        issuer = self.issued.certificate.subject
        builder = _builder(
            _name(identifier),
            issuer,
            key.public_key(),
            self.issued.key.public_key(),
            self.profile,
            self.profile.leaf_lifetime_days,
        )
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(_extended_usage(server=server, client=client), critical=False)
        return IssuedCertificate(_signed(builder, self.issued.key), key)


def write_signing_key(key_path: Path, public_path: Path) -> bytes:
    """Make an owner's ML-DSA-65 key pair, write it, and return the raw public key (1952 bytes).

    The private file holds the 32-byte seed of FIPS 204, the public file the encoded public key; both raw.
    """
    private = mldsa.MLDSA65PrivateKey.generate()
    public_bytes = private.public_key().public_bytes_raw()
    write_private(key_path, private.private_bytes_raw())
    write_private(public_path, public_bytes)
    return public_bytes


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, so that a crash leaves the old content or the new one.

    The file never exists with wider permissions, not even for a moment, and is durable when this returns.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def make_private_directory(path: Path) -> Path:
    """Create a directory (and missing parents) that only its owner can enter, and return it."""
    for missing in reversed([path, *path.parents]):
        if not missing.exists():
            missing.mkdir(mode=PRIVATE_DIRECTORY_MODE, exist_ok=True)
    path.chmod(PRIVATE_DIRECTORY_MODE)
    return path


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: _PublicKey,
    issuer_key: _PublicKey,
    profile: CertificateProfile,
    lifetime_days: int,
) -> x509.CertificateBuilder:
    not_before, not_after = profile.validity(lifetime_days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: CertificateKey) -> x509.Certificate:
    if isinstance(key, mldsa.MLDSA65PrivateKey):
        return builder.sign(key, None)  # ML-DSA hashes by itself
    return builder.sign(key, hashes.SHA256())


def _alternative_names(role: Role, identifier: str, *, server: bool, loopback: bool) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(role_urn(role, identifier))]
    if server:
        names.append(x509.DNSName(identifier))
        if loopback:
            names.append(x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")))
    return names


def _extended_usage(*, server: bool, client: bool) -> x509.ExtendedKeyUsage:
    usages = [ExtendedKeyUsageOID.SERVER_AUTH] * server + [ExtendedKeyUsageOID.CLIENT_AUTH] * client
    return x509.ExtendedKeyUsage(usages)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
