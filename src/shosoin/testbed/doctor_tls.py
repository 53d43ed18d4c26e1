"""What the TLS libraries of this machine can do: each claim is a handshake in memory, never a version number.

Python's ``ssl`` cannot say which groups it offers (before Python 3.15). So it is asked to talk to a server of ours that
takes X25519MLKEM768 and nothing else.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm

from shosoin.adapters.certificates import Authority, CertificateAlgorithm, CertificateProfile, Role
from shosoin.adapters.key_exchange import KeyExchange, client_context_by, server_context_by
from shosoin.adapters.memory_handshake import MemoryHandshake, shake_hands
from shosoin.adapters.openssl_binding import EXTRA, binding
from shosoin.adapters.tls import describe
from shosoin.base import Rejected
from shosoin.base.messages import text
from shosoin.testbed.finding import Finding

__all__ = ["classical_handshake", "hybrid", "ml_dsa", "openssl"]

_NAME = "doctor"
_REQUIRE = KeyExchange.REQUIRE_HYBRID


@dataclass(frozen=True, slots=True)
class _Ends:
    """Certificates of a server and a client, in a directory."""

    root: Path

    def server(self, key_exchange: KeyExchange) -> ssl.SSLContext:
        return server_context_by(key_exchange, self.root / "server.crt", self.root / "server.key", self.root / "ca.crt")

    def client(self, key_exchange: KeyExchange, *, ca: str = "ca.crt") -> ssl.SSLContext:
        return client_context_by(key_exchange, self.root / "client.crt", self.root / "client.key", self.root / ca)


@contextmanager
def _ends(algorithm: CertificateAlgorithm) -> Iterator[_Ends]:
    profile = CertificateProfile(algorithm=algorithm)
    with tempfile.TemporaryDirectory(prefix="shosoin-doctor-") as folder:
        root = Path(folder)
        authority = Authority.create("shosoin doctor", profile)
        (root / "ca.crt").write_bytes(authority.issued.certificate_pem())
        (root / "other.crt").write_bytes(Authority.create("shosoin doctor", profile).issued.certificate_pem())
        authority.issue(Role.NODE, _NAME, server=True).write(root / "server.crt", root / "server.key")
        authority.issue(Role.SAE, _NAME, client=True).write(root / "client.crt", root / "client.key")
        yield _Ends(root)


def classical_handshake() -> ssl.SSLObject:
    """Return the client's end after a handshake with the contexts that our services use by default."""
    with _ends(CertificateAlgorithm.ECDSA_P256) as ends:
        classical = KeyExchange.CLASSICAL
        return shake_hands(ends.server(classical), ends.client(classical), _NAME).client


def openssl() -> Finding:
    """Which library Python's TLS is, and whether it agrees on X25519MLKEM768."""
    details: dict[str, object] = {"version": ssl.OPENSSL_VERSION, "hybrid_key_exchange": None}
    try:
        with _ends(CertificateAlgorithm.ECDSA_P256) as ends:
            server, client = ends.server(_REQUIRE), ends.client(KeyExchange.CLASSICAL)
            details["hybrid_key_exchange"] = _refusal(server, client) is None
    except Rejected:
        return Finding("openssl", ssl.OPENSSL_VERSION, "openssl_untried", False, details)
    hybrid_works = bool(details["hybrid_key_exchange"])
    means = "openssl_pq" if hybrid_works else "openssl_classical"
    return Finding("openssl", ssl.OPENSSL_VERSION, means, hybrid_works, details)


def hybrid() -> Finding:
    """Whether ``key_exchange = "require-hybrid"`` works here."""
    return _adapter("hybrid", CertificateAlgorithm.ECDSA_P256)


def ml_dsa() -> Finding:
    """Whether certificates of ML-DSA-65 work from end to end, and wrong ones are refused."""
    return _adapter("ml_dsa", CertificateAlgorithm.ML_DSA_65)


def _adapter(topic: str, algorithm: CertificateAlgorithm) -> Finding:
    try:
        library = binding().version
        with _ends(algorithm) as ends:
            done = _checked(ends)
    except Rejected as err:
        missing = err.code == "tls.extra_missing"
        found = text("doctor.found_extra_missing", extra=EXTRA) if missing else err.message
        return Finding(topic, found, f"{topic}_missing", False, {"library": None, "works": False, "reason": err.code})
    except (ssl.SSLError, UnsupportedAlgorithm) as err:
        details = {"library": library, "works": False, "reason": str(err)}
        return Finding(topic, f"{library}: {err}", f"{topic}_missing", False, details)
    seen = describe(done.client)
    found = f"{seen['version']}, {seen['group']}, {algorithm}, {library}"
    return Finding(topic, found, f"{topic}_ok", True, {"library": library, "works": True, "group": seen["group"]})


def _checked(ends: _Ends) -> MemoryHandshake:
    """Return a handshake that went well, after two that had to fail.

    Raises:
        ssl.SSLError: not so.
    """
    server, client = ends.server(_REQUIRE), ends.client(_REQUIRE)
    if _refusal(server, client, "another") is None:
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, "a server of another name is accepted")
    if _refusal(server, ends.client(_REQUIRE, ca="other.crt")) is None:
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, "a server of another authority is accepted")
    return shake_hands(server, client, _NAME)


def _refusal(server: ssl.SSLContext, client: ssl.SSLContext, name: str = _NAME) -> ssl.SSLError | None:
    try:
        shake_hands(server, client, name)
    except ssl.SSLError as err:
        return err
    return None
