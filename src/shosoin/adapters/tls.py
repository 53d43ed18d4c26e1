"""Mutual TLS, and who is at the other end.

A certificate names its holder by exactly one URI ``urn:shosoin:<role>:<id>``; nothing a peer *says* counts as its
identity. Servers of this project accept TLS 1.2 (ETSI GS QKD 014 allows it) or 1.3 at the SAE port, only 1.3 between
KMEs. TLS protects the conversation today; class ``its`` never rests on it.
"""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from shosoin.base import Denied, PeerFault, Rejected

__all__ = [
    "Identity",
    "certificate_alert",
    "client_context",
    "describe",
    "negotiated_group",
    "peer_identity",
    "reason_of",
    "require_peer",
    "server_context",
]
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")

_URN = re.compile(r"urn:shosoin:(sae|kme|node|admin):([A-Za-z0-9][A-Za-z0-9._-]{0,63})")
_PREFIX = "urn:shosoin:"


@dataclass(frozen=True, slots=True)
class Identity:
    """Holder of a certificate."""

    role: str
    id: str


def server_context(
    certificate: Path, key: Path, client_ca: Path, *, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    """Return a context that demands a client certificate of ``client_ca`` and trusts no other authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, certificate, key, client_ca, minimum)
    context.verify_mode = ssl.CERT_REQUIRED
    # Sessions are resumed without the certificate being checked again; one handshake per connection is cheap enough.
    context.num_tickets = 0
    # TLS 1.2; and whoever was asked for a certificate once must not show another one later.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    return context


def client_context(
    certificate: Path, key: Path, ca: Path, *, minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
) -> ssl.SSLContext:
    """Return a context that presents our certificate and checks the server's chain and name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, certificate, key, ca, minimum)
    return context


def peer_identity(source: ssl.SSLObject | ssl.SSLSocket | bytes | None) -> Identity:
    """Return who the peer is, from its certificate (an SSL object or DER bytes).

    Raises:
        Denied: unless exactly one URI of ours is in it.
    """
    der = source if isinstance(source, bytes) or source is None else source.getpeercert(binary_form=True)
    if der is None:
        raise Denied("the peer sent no certificate", code="tls.no_certificate")
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.InvalidVersion, x509.ExtensionNotFound, x509.DuplicateExtension) as err:
        raise Denied("the peer's certificate names nobody", code="tls.no_identity") from err
    ours = [uri for uri in uris if uri.startswith(_PREFIX)]
    found = _URN.fullmatch(ours[0]) if len(ours) == 1 else None
    if found is None:
        raise Denied(f"expected exactly one {_PREFIX} URI in the certificate, got {len(ours)}", code="tls.no_identity")
    return Identity(found[1], found[2])


def require_peer(source: ssl.SSLObject | ssl.SSLSocket | None, expected: Identity) -> None:
    """Check that the server we called is the one we meant, beyond its DNS name.

    Raises:
        PeerFault: if it is another.
    """
    try:
        found = peer_identity(source)
    except Denied as err:
        raise PeerFault(f"expected {expected.role} {expected.id}: {err.message}", code="tls.wrong_peer") from err
    if found != expected:
        message = f"expected {expected.role} {expected.id}, the certificate says {found.role} {found.id}"
        raise PeerFault(message, code="tls.wrong_peer")


def describe(source: ssl.SSLObject | ssl.SSLSocket) -> dict[str, Any]:
    """Return protocol version, cipher and group of a connection, for ``doctor``."""
    cipher = source.cipher()
    return {
        "version": source.version(),
        "cipher": cipher[0] if cipher else None,
        "secret_bits": cipher and cipher[2],
        "group": negotiated_group(source),
    }


def negotiated_group(source: ssl.SSLObject | ssl.SSLSocket | None) -> str | None:
    """Return the key-exchange group of a connection; None where Python's TLS cannot tell (before Python 3.15)."""
    group = getattr(source, "group", None)
    return str(group()) if callable(group) else None


def _load(context: ssl.SSLContext, certificate: Path, key: Path, ca: Path, minimum: ssl.TLSVersion) -> None:
    context.minimum_version = minimum
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(cafile=str(ca))
    except (OSError, ssl.SSLError) as err:
        message = f"cannot load certificate {certificate}, key {key} or authority {ca}: {err.strerror or err}"
        raise Rejected(message, code="tls.bad_files") from err


def certificate_alert(err: BaseException | None) -> str:
    """Return the TLS alert about our certificate that an error stems from, if any (TLS 1.3 sends it late)."""
    while err is not None:
        reason = str(getattr(err, "reason", "") or "")
        if isinstance(err, ssl.SSLError) and "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
            return _UNPRINTABLE.sub(" ", reason)[:80]
        err = getattr(err, "os_error", None) or err.__cause__
    return ""


def reason_of(err: OSError) -> str:
    """Return why a connection failed, in the system's words and without the address that asyncio adds."""
    return os.strerror(err.errno) if isinstance(err.errno, int) and err.errno > 0 else "no connection"
