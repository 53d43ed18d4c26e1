"""Who is at the other end of a TLS connection, as far as revocation is concerned: a name, and serial numbers by issuer.

Read once, when the connection begins, so that a list that comes later, and time, can be held against connections that
are open.
The whole chain is looked at where Python tells it (every version does for its own TLS; other TLS libraries may tell the
holder's certificate only, and then its issuer is looked for among the authorities).
"""

from __future__ import annotations

import _ssl
import datetime
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cryptography import x509

from shosoin.adapters.tls import Identity, peer_identity
from shosoin.adapters.tls_files import issued_by, issuer_id
from shosoin.base import Denied, Rejected

__all__ = ["Holder", "holder_of"]


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a certificate that TLS has accepted."""

    identity: Identity | None
    serial: int
    """Of its own certificate."""
    links: tuple[tuple[bytes, int], ...]
    """Issuer (``tls_files.issuer_id``) and serial number of each certificate below an authority; the holder's first."""
    anchor: bytes | None
    """The authority at the end of the chain; ``None`` where the TLS library does not tell."""
    ends: datetime.datetime
    """When the first certificate below the authority expires."""


def holder_of(tls: Any, authorities: Sequence[x509.Certificate]) -> Holder:
    """Return the peer of a TLS connection (an ``ssl.SSLObject`` or what behaves like one).

    Raises:
        Denied: there is no certificate, or one that cannot be read.
    """
    chain = [_parsed(each) for each in _chain(tls)]
    if not chain:
        raise Denied("the peer sent no certificate", code="tls.no_certificate")
    identity = None
    with suppress(Denied):
        identity = peer_identity(tls)
    try:
        links = tuple(_links(chain, authorities))
        if not links and getattr(tls, "session_reused", False):
            raise Denied("a session was resumed, and whose authority is not known", code="tls.resumed")
        ends = min(each.not_valid_after_utc for each in chain[:-1] or chain)
        return Holder(identity, chain[0].serial_number, links, _anchor(chain), ends)
    except Rejected as err:
        raise Denied("the peer's certificates cannot be read", code="tls.bad_certificate") from err


def _chain(tls: Any) -> list[bytes]:
    """Return the verified chain in DER, the authority last; the peer's certificate alone where that is all we hear."""
    get = getattr(tls, "get_verified_chain", None)  # from Python 3.13
    inner = getattr(tls, "_sslobj", None)
    chain: list[bytes] = []
    if get is not None:
        chain = [bytes(each) for each in get()]
    elif inner is not None and hasattr(inner, "get_verified_chain"):
        chain = [each.public_bytes(_ssl.ENCODING_DER) for each in inner.get_verified_chain() or ()]
    if chain:
        return chain
    # A resumed session (TLS 1.2: nothing in Python's TLS switches that off) remembers the holder's certificate only.
    der = tls.getpeercert(binary_form=True) if tls is not None else None
    return [der] if der else []


def _parsed(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except (ValueError, x509.InvalidVersion) as err:
        raise Denied("the peer's certificates cannot be read", code="tls.bad_certificate") from err


def _links(chain: list[x509.Certificate], authorities: Sequence[x509.Certificate]) -> Iterator[tuple[bytes, int]]:
    for below, above in pairwise(chain):
        yield issuer_id(above), below.serial_number
    if len(chain) == 1:
        yield from _links_above(chain[0], authorities)


def _links_above(holder: x509.Certificate, authorities: Sequence[x509.Certificate]) -> Iterator[tuple[bytes, int]]:
    """Yield the links of all chains that the authorities make up."""
    waiting, seen = [holder], {holder}
    while waiting:
        below = waiting.pop(0)
        for authority in authorities:
            if authority != below and issued_by(below, authority):
                yield issuer_id(authority), below.serial_number
                if authority not in seen:
                    seen.add(authority)
                    waiting.append(authority)


def _anchor(chain: list[x509.Certificate]) -> bytes | None:
    return issuer_id(chain[-1]) if len(chain) > 1 else None
