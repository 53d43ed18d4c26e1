"""Certificates for tests: two authorities, leaves with one URI each. Independent of the product's own maker."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Files:
    certificate: Path
    key: Path


class TestAuthority:
    """A certificate authority in a directory; ``ml_dsa`` makes all its keys ML-DSA-65 instead of ECDSA P-256.

    One that is ``under`` another is intermediate; the other needs a ``path_length`` of one more.
    """

    __test__ = False

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        ml_dsa: bool = False,
        path_length: int = 0,
        under: TestAuthority | None = None,
    ) -> None:
        self.ml_dsa = ml_dsa
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = self._new_key()
        self.certificate = directory / f"{name}.crt"
        public = self.key.public_key()
        constraints = x509.BasicConstraints(ca=True, path_length=path_length)
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        above = under or self
        built = (
            above._builder(self.name, public)
            .add_extension(constraints, critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(above.key, None if above.ml_dsa else hashes.SHA256())
        )
        self.certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        role: str,
        name: str,
        *,
        uris: list[str] | None = None,
        stem: str = "",
        names: list[str] | None = None,
        days: tuple[float, float] = (-1, 1),
    ) -> Files:
        """Issue a leaf; ``days`` are its beginning and end from now, ``names`` its DNS names."""
        key = self._new_key()
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternatives: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(uri)
            for uri in (uris if uris is not None else [f"urn:shosoin:{role}:{name}"])
        ]
        alternatives += [x509.DNSName(each) for each in (names if names is not None else [name])]
        alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        built = (
            self._builder(subject, key.public_key(), days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(issuer_id, critical=False)
            .sign(self.key, None if self.ml_dsa else hashes.SHA256())
        )
        stem = stem or f"{role}-{name}"
        files = Files(self.directory / f"{stem}.crt", self.directory / f"{stem}.key")
        files.certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files.key.chmod(0o600)
        return files

    def _new_key(self) -> Any:
        return mldsa.MLDSA65PrivateKey.generate() if self.ml_dsa else ec.generate_private_key(ec.SECP256R1())

    def revoke(
        self,
        *revoked: Files,
        path: Path | None = None,
        days: tuple[float, float] = (-0.01, 1),
        der: bool = False,
        extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> Path:
        """Write a revocation list of those certificates; ``days`` are when it was made and when the next is due."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name)
        builder = builder.last_update(now + days[0] * DAY).next_update(now + days[1] * DAY)
        for files in revoked:
            serial = x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now)
            builder = builder.add_revoked_certificate(entry.build())
        for value, critical in extensions:
            builder = builder.add_extension(value, critical=critical)
        built = builder.sign(self.key, None if self.ml_dsa else hashes.SHA256())
        encoding = serialization.Encoding.DER if der else serialization.Encoding.PEM
        path = path or self.directory / "revoked.crl"
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(built.public_bytes(encoding))
        part.replace(path)
        return path

    def _builder(self, subject: x509.Name, public: Any, days: tuple[float, float] = (-1, 1)) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * DAY)
            .not_valid_after(now + days[1] * DAY)
        )
