"""How the keys of a TLS connection come about, as an operator chooses it, and the contexts that do so.

>>> KeyExchange("require-hybrid").is_hybrid
True
>>> KeyExchange("require-hybird")
Traceback (most recent call last):
...
shosoin.base.errors.Rejected: unknown key exchange 'require-hybird'; did you mean 'require-hybrid'?

What cannot be had is an error, here and never later: nothing falls back to a classical handshake by itself.
"""

from __future__ import annotations

import difflib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Never

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import mldsa

from shosoin.adapters.tls import client_context, server_context
from shosoin.base import Rejected

__all__ = ["KeyExchange", "client_context_by", "server_context_by"]


class KeyExchange(StrEnum):
    """Which key exchange a TLS connection has."""

    CLASSICAL = "classical"
    """What Python's TLS library offers by itself."""
    PREFER_HYBRID = "prefer-hybrid"
    """TLS 1.3 with X25519MLKEM768, or X25519 with whoever cannot."""
    REQUIRE_HYBRID = "require-hybrid"
    """TLS 1.3 with X25519MLKEM768 or not at all."""

    @property
    def is_hybrid(self) -> bool:
        """Whether it needs the TLS library of the extra."""
        return self is not KeyExchange.CLASSICAL

    @classmethod
    def _missing_(cls, value: object) -> Never:
        known = [item.value for item in cls]
        near = difflib.get_close_matches(str(value)[:40], known, n=1)
        meant = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
        raise Rejected(f"unknown key exchange {str(value)[:40]!r}; {meant}", code="tls.unknown_key_exchange")


def server_context_by(
    key_exchange: KeyExchange,
    certificate: Path,
    key: Path,
    client_ca: Path,
    *,
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> ssl.SSLContext:
    """Return a server's context; hybrid ones speak TLS 1.3 only, whatever ``minimum`` says.

    Raises:
        Rejected: a file cannot be used, or the extra is missing.
    """
    if not key_exchange.is_hybrid:
        with _explained(certificate, client_ca):
            return server_context(certificate, key, client_ca, minimum=minimum)
    from shosoin.adapters.pq_tls import hybrid_server_context  # noqa: PLC0415  # needs an extra

    return hybrid_server_context(certificate, key, client_ca, mode=key_exchange)


def client_context_by(
    key_exchange: KeyExchange,
    certificate: Path,
    key: Path,
    ca: Path,
    *,
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
) -> ssl.SSLContext:
    """Return a client's context, likewise."""
    if not key_exchange.is_hybrid:
        with _explained(certificate, ca):
            return client_context(certificate, key, ca, minimum=minimum)
    from shosoin.adapters.pq_tls import hybrid_client_context  # noqa: PLC0415  # needs an extra

    return hybrid_client_context(certificate, key, ca, mode=key_exchange)


@contextmanager
def _explained(*certificates: Path) -> Iterator[None]:
    """Say what would help where Python's TLS library does not take ML-DSA certificates."""
    try:
        yield
    except Rejected as err:
        if any(map(_is_ml_dsa, certificates)):
            hint = 'certificates of ML-DSA need key_exchange = "prefer-hybrid" or "require-hybrid"'
            raise Rejected(err.message, code=err.code, hint=hint) from err
        raise


def _is_ml_dsa(path: Path) -> bool:
    try:
        key = x509.load_pem_x509_certificate(path.read_bytes()).public_key()
    except (OSError, ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(key, mldsa.MLDSA44PublicKey | mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey)
