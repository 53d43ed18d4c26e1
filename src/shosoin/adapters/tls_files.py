"""Certificate, private key and authorities of one TLS endpoint, read from files and checked before they are used.

A TLS library says little about files that do not fit, and says it when the first client comes. Here they are read as
a whole, looked at, made into TLS contexts, and read again: what was replaced in the meantime is not used. When files
change while a program runs, ``losses`` tells what the new ones lack that the old ones had; a renewal that loses a name
is a mistake more often than a wish, and a restart remains for those who wish it.

Keys may be of any kind that ``cryptography`` knows, ML-DSA among them; whether TLS can use them is for the context.
Not here: revocation (``shosoin.adapters.revocation_lists``).
"""

from __future__ import annotations

import datetime
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from shosoin.adapters.private_files import check_tls_key
from shosoin.adapters.tls import Identity, peer_identity
from shosoin.base import Denied, Rejected

__all__ = [
    "TlsBytes",
    "TlsCredential",
    "TlsFiles",
    "issued_by",
    "issuer_id",
    "load_credential",
    "losses",
    "made_credential",
    "read_authorities",
    "read_bounded",
    "trace",
]

T = TypeVar("T")
_FILE_BYTES_MAX = 1 << 20
_CHAIN_MAX = 10


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the files of an endpoint are."""

    certificate: Path
    """PEM: ours, then intermediate authorities if there are any."""
    key: Path
    """PEM, not encrypted."""
    ca: Path
    """PEM: the authorities whose certificates we accept."""
    key_name: str = "private key"
    """What the configuration calls the key."""

    def traces(self) -> tuple[object, ...]:
        """Return what changes when one of the files does."""
        return tuple(trace(path) for path in (self.certificate, self.key, self.ca))


@dataclass(frozen=True, slots=True, repr=False)
class TlsBytes:
    """The content of those files; a secret because of the key."""

    certificate: bytes
    key: bytes
    ca: bytes


@dataclass(frozen=True, slots=True)
class TlsCredential:
    """What an endpoint shows and whom it trusts."""

    chain: tuple[x509.Certificate, ...]
    authorities: tuple[x509.Certificate, ...]
    raw: TlsBytes = field(repr=False, compare=False)
    """What it was made of."""

    @property
    def certificate(self) -> x509.Certificate:
        """Our certificate."""
        return self.chain[0]

    @property
    def digest(self) -> str:
        """SHA-256 of what we show."""
        return hashlib.sha256(b"".join(map(_der, self.chain))).hexdigest()

    @property
    def identity(self) -> Identity | None:
        """Whom our certificate names, ``None`` if nobody in our way of naming."""
        with suppress(Denied):
            return peer_identity(_der(self.certificate))
        return None

    @property
    def names(self) -> frozenset[str]:
        """DNS names and addresses in our certificate."""
        with suppress(x509.ExtensionNotFound, ValueError):
            found = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            addresses = map(str, found.get_values_for_type(x509.IPAddress))
            return frozenset([*found.get_values_for_type(x509.DNSName), *addresses])
        return frozenset()

    @property
    def purposes(self) -> frozenset[str] | None:
        """What our certificate may be used for (object identifiers), ``None`` if it may for anything."""
        with suppress(x509.ExtensionNotFound, ValueError):
            usage = self.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            return frozenset(each.dotted_string for each in usage)
        return None

    @property
    def is_of_its_authorities(self) -> bool:
        """Whether our own certificate chains to an authority that we accept (it need not: a server's may differ)."""
        last = self.chain[0]
        for above in self.chain[1:]:
            if issued_by(last, above):
                last = above
        return any(last == authority or issued_by(last, authority) for authority in self.authorities)

    @property
    def ends(self) -> datetime.datetime:
        """When our certificate expires."""
        return self.certificate.not_valid_after_utc

    @property
    def authority_ends(self) -> datetime.datetime:
        """When the first of the authorities expires."""
        return min(authority.not_valid_after_utc for authority in self.authorities)

    def fault(self, now: datetime.datetime) -> str:
        """Return why our certificate is not valid at a moment, empty if it is."""
        if now < self.certificate.not_valid_before_utc:
            return f"the certificate is not valid before {self.certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}"
        if now > self.ends:
            return f"the certificate expired at {self.ends:%Y-%m-%dT%H:%M:%SZ}"
        return ""


def load_credential(files: TlsFiles, make: Callable[[TlsFiles], T]) -> tuple[TlsCredential, T]:
    """Read files, check them, and return them with what ``make`` makes of the same files (TLS contexts).

    Raises:
        Rejected: a file cannot be read or parsed, the key is another certificate's, the files changed meanwhile, or
            ``make`` refuses them.
        Denied: others can read the key.
    """
    before = _raw(files)
    credential = _parsed(files, before)
    made = make(files)
    if _raw(files) != before:
        raise Rejected(f"{files.certificate}, its key or its authorities changed while they were read", code=_CHANGED)
    return credential, made


def made_credential(raw: TlsBytes, make: Callable[[TlsFiles], T]) -> tuple[TlsCredential, T]:
    """Return what ``load_credential`` returned when the files were like this, whatever is on the disk now.

    TLS libraries read files: these are in memory, have no name, and are gone at the end.

    Raises:
        Rejected: as there.
    """
    with ExitStack() as stack:
        certificate, key, ca = (_in_memory(stack, content) for content in (raw.certificate, raw.key, raw.ca))
        return load_credential(TlsFiles(certificate, key, ca), make)


def _in_memory(stack: ExitStack, content: bytes) -> Path:
    file = stack.enter_context(os.fdopen(os.memfd_create("tls"), "wb"))
    os.fchmod(file.fileno(), 0o600)
    file.write(content)
    file.flush()
    return Path(f"/proc/self/fd/{file.fileno()}")


_CHANGED = "tls.files_changed"
_BAD = "tls.bad_files"


def losses(old: TlsCredential, new: TlsCredential) -> list[str]:
    """Return what a new credential lacks that the old one had, in words."""
    lost = []
    if new.identity != old.identity:
        lost.append(f"names {_words(new.identity)} instead of {_words(old.identity)}")
    if missing := sorted(old.names - new.names):
        lost.append(f"lacks the names {', '.join(missing)}")
    if new.purposes is not None and (old.purposes is None or not new.purposes >= old.purposes):
        lost.append("may be used for fewer purposes")
    if old.is_of_its_authorities and not new.is_of_its_authorities:
        lost.append("does not chain to the authorities beside it, as the one in use does")
    return lost


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def issuer_id(authority: x509.Certificate) -> bytes:
    """Return what an authority's certificates and revocation lists have in common: its name and its key."""
    try:
        key = authority.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    except (ValueError, UnsupportedAlgorithm) as err:
        raise Rejected("an authority has a key of an unknown kind", code=_BAD) from err
    return hashlib.sha256(authority.subject.public_bytes() + b"\0" + key).digest()


def trace(path: Path) -> object:
    """Return what changes when a file is replaced or written to."""
    try:
        found = path.stat()
    except OSError as err:
        return err.errno
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_bounded(path: Path, most_bytes: int = _FILE_BYTES_MAX, *, key_name: str = "") -> bytes:
    """Return a file's content.

    Args:
        key_name: what to call it where it is a private key, which others must not be able to read.

    Raises:
        Rejected: it cannot be read, is not a file, or is longer than that.
        Denied: it is a private key that others can read.
    """
    try:
        with open(path, "rb", opener=_open_at_once) as stream:  # Path.open takes no opener
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Rejected(f"{path} is not a file", code=_BAD)
            if key_name:
                check_tls_key(path, key_name, found)
            raw = stream.read(most_bytes + 1)
    except OSError as err:
        raise Rejected(f"cannot read {path}: {err.strerror}", code=_BAD) from err
    if len(raw) > most_bytes:
        raise Rejected(f"{path} is longer than {most_bytes} bytes", code=_BAD)
    return raw


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting: a named pipe must not hold up whoever looks at all files."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def read_authorities(path: Path) -> tuple[x509.Certificate, ...]:
    """Return the certificates of a PEM file.

    Raises:
        Rejected: it cannot be read, or has none.
    """
    return _certificates(path, read_bounded(path))


def _raw(files: TlsFiles) -> TlsBytes:
    return TlsBytes(
        read_bounded(files.certificate), read_bounded(files.key, key_name=files.key_name), read_bounded(files.ca)
    )


def _parsed(files: TlsFiles, raw: TlsBytes) -> TlsCredential:
    chain, authorities = _certificates(files.certificate, raw.certificate), _certificates(files.ca, raw.ca)
    if len(chain) > _CHAIN_MAX:
        raise Rejected(f"{files.certificate} has {len(chain)} certificates, expected at most {_CHAIN_MAX}", code=_BAD)
    try:
        fits = serialization.load_pem_private_key(raw.key, password=None).public_key() == chain[0].public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as err:  # TypeError: it is encrypted
        raise Rejected(f"{files.key} is no private key in PEM without a passphrase", code=_BAD) from err
    if not fits:
        raise Rejected(f"{files.key} is not the private key of {files.certificate}", code="tls.key_mismatch")
    for authority in authorities:
        issuer_id(authority)
    return TlsCredential(chain, authorities, raw)


def _certificates(path: Path, raw: bytes) -> tuple[x509.Certificate, ...]:
    try:
        return tuple(x509.load_pem_x509_certificates(raw))
    except (ValueError, x509.InvalidVersion) as err:
        raise Rejected(f"{path} has no certificates in PEM, or a broken one", code=_BAD) from err


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _words(identity: Identity | None) -> str:
    return f"{identity.role} {identity.id}" if identity is not None else "nobody"
