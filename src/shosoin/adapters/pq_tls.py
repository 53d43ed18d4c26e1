"""TLS 1.3 with the hybrid group X25519MLKEM768 and certificates of ML-DSA or of the classical kinds.

A recorded connection is safe as long as either X25519 or ML-KEM-768 is; an ML-DSA-65 certificate cannot be forged by a
quantum computer either. ``HybridContext`` is an ``ssl.SSLContext``, so asyncio servers and clients and aiohttp take it
as it is, over the OpenSSL that ``cryptography`` brings (``shosoin.adapters.openssl_binding``; extra ``pqtls``).

>>> from shosoin.adapters.pq_tls import hybrid_server_context  # server = await asyncio.start_server(..., ssl=context)

What every connection has, or it ends before a byte of the peer is handed up: TLS 1.3, one of the groups that were
asked for, a certificate chain to the one authority given, in a client the server's name in its certificate, in a
server a client certificate. Nothing shortens a handshake: no session is resumed, no ticket opens anything, there is no
renegotiation, no compression, no early data.

Security: the group X25519MLKEM768 is draft-ietf-tls-ecdhe-mlkem; ML-DSA in certificates is RFC 9881. Before the first
context is made a process shakes hands with itself in memory, once rightly and several times wrongly; a library that
lets a wrong one pass is refused. ECDSA certificates authenticate only against an attacker of today.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from shosoin.adapters.certificates import Authority, Role
from shosoin.adapters.key_exchange import KeyExchange
from shosoin.adapters.memory_handshake import shake_hands
from shosoin.adapters.openssl_binding import OpenSslBinding, binding
from shosoin.adapters.pq_tls_context import HYBRID_GROUP, HybridContext, bare_context
from shosoin.adapters.pq_tls_object import HybridObject, tls_error
from shosoin.base import Rejected

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["HYBRID_GROUP", "HybridContext", "hybrid_client_context", "hybrid_server_context"]

_CLASSICAL_GROUP = "X25519"
# A slash lets the server ask for the first group though the client began with the second; after a colon it would not,
# and take the classical group of a client that can do both. Stars make a client send a share of each at once.
_SERVER_GROUPS = {
    KeyExchange.REQUIRE_HYBRID: HYBRID_GROUP,
    KeyExchange.PREFER_HYBRID: f"{HYBRID_GROUP}/{_CLASSICAL_GROUP}",
}
_CLIENT_GROUPS = {
    KeyExchange.REQUIRE_HYBRID: HYBRID_GROUP,
    KeyExchange.PREFER_HYBRID: f"*{HYBRID_GROUP}:*{_CLASSICAL_GROUP}",
}
_ALPN = [b"http/1.1"]
_X509_OK = 0


def hybrid_server_context(
    certificate: Path, key: Path, client_ca: Path, *, mode: KeyExchange = KeyExchange.REQUIRE_HYBRID
) -> HybridContext:
    """Return a context that demands a client certificate of ``client_ca`` and trusts no other authority.

    Raises:
        Rejected: a file cannot be used, the extra is missing, or its library does not do what it must.
    """
    _self_test()
    return _context(certificate, key, client_ca, mode, server_side=True)


def hybrid_client_context(
    certificate: Path, key: Path, ca: Path, *, mode: KeyExchange = KeyExchange.REQUIRE_HYBRID
) -> HybridContext:
    """Return a context that presents our certificate and checks the server's chain and name; raises likewise."""
    _self_test()
    return _context(certificate, key, ca, mode, server_side=False)


def _context(certificate: Path, key: Path, ca: Path, mode: KeyExchange, *, server_side: bool) -> HybridContext:
    groups = (_SERVER_GROUPS if server_side else _CLIENT_GROUPS).get(mode)
    if groups is None:
        raise ValueError(f"{mode} is no hybrid key exchange")
    library = binding()
    context = bare_context(library, groups, server_side=server_side)
    _load(library, context, certificate, key, ca)
    module = library.ssl
    context.set_verify(module.VERIFY_PEER | module.VERIFY_FAIL_IF_NO_PEER_CERT)
    if server_side:
        context.set_alpn_select_callback(functools.partial(_choose, module.NO_OVERLAPPING_PROTOCOLS))
    else:
        context.set_alpn_protos(_ALPN)
    allowed = {HYBRID_GROUP} if mode is KeyExchange.REQUIRE_HYBRID else {HYBRID_GROUP, _CLASSICAL_GROUP}
    return HybridContext(context, server_side=server_side, accept=functools.partial(_accept, frozenset(allowed)))


def _load(library: OpenSslBinding, context: SSL.Context, certificate: Path, key: Path, ca: Path) -> None:
    for path in (certificate, ca):
        try:
            path.open("rb").close()
        except OSError as err:
            raise Rejected(f"cannot read {path}: {err.strerror}", code="tls.bad_files") from err
    try:  # OpenSSL would ask for a passphrase on the terminal
        serialization.load_pem_private_key(key.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as err:
        reason = getattr(err, "strerror", None) or "not an unencrypted private key in PEM"
        raise Rejected(f"cannot read {key}: {reason}", code="tls.bad_files") from err
    try:
        context.use_certificate_chain_file(str(certificate))
        context.use_privatekey_file(str(key))
        context.check_privatekey()
        context.load_verify_locations(str(ca))
    except library.ssl.Error as err:
        message = f"cannot load certificate {certificate}, key {key} or authority {ca}: {_words(err)}"
        raise Rejected(message, code="tls.bad_files") from err


def _words(err: Exception) -> str:
    queue = err.args[0] if err.args else None
    return str(queue[0][-1]) if isinstance(queue, list) and queue else "not what it should be"


def _choose(none: Any, _: object, offered: list[bytes]) -> Any:
    return next((name for name in _ALPN if name in offered), none)


def _accept(groups: frozenset[str], tls: HybridObject) -> None:
    """Look once more at what a handshake came to: what the library was told is not yet what it did.

    Raises:
        ssl.SSLError: it is not what it must be.
    """
    if tls.version() != "TLSv1.3" or tls.group() not in groups:
        raise tls_error(f"agreed on {tls.version()} and {tls.group()}", "WRONG_GROUP")
    result, words = tls.verification()
    if result != _X509_OK or tls.getpeercert(binary_form=True) is None:
        raise tls_error(f"certificate verify failed: {words}", "CERTIFICATE_VERIFY_FAILED", verify_code=result or 1)
    if tls.is_resumed():
        raise tls_error("a session was resumed without a certificate", "RESUMED")


@functools.cache
def _self_test() -> None:
    """Shake hands in memory: once as it must be, and in ways that must fail.

    Raises:
        Rejected: something passes that must not, or nothing does.
    """
    with _folder() as folder:
        files = _Ends.make(folder)
        require, other = KeyExchange.REQUIRE_HYBRID, KeyExchange.PREFER_HYBRID
        server, client = files.server(require), files.client(require)
        try:
            shake_hands(server, client, "self-test")
        except ssl.SSLError as err:
            raise _unusable(f"a handshake failed: {err}") from err
        classical = files.client(other)
        binding().set_groups(classical.below, _CLASSICAL_GROUP)
        _must_fail("a wrong host name", server, client, "another")
        _must_fail("a client without ML-KEM", server, classical, "self-test")
        _must_fail("a client of another authority", files.server(require, files.strangers), client, "self-test")
        _must_fail("a server of another authority", server, files.client(require, files.strangers), "self-test")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Make a folder for files that live a moment."""
    try:
        made = tempfile.TemporaryDirectory(prefix="shosoin-tls-")
    except OSError as err:
        message = f"hybrid TLS is tried out with temporary files, for which there is no place: {err.strerror}"
        raise Rejected(message, code="tls.no_temporary_files", hint="set TMPDIR to a folder that exists") from err
    with made as folder:
        yield Path(folder)


def _must_fail(what: str, server: HybridContext, client: HybridContext, name: str) -> None:
    with contextlib.suppress(ssl.SSLError):
        shake_hands(server, client, name)
        raise _unusable(f"it accepts {what}")


def _unusable(why: str) -> Rejected:
    return Rejected(f"{binding().version} cannot be used for hybrid TLS: {why}", code="tls.extra_unusable")


@dataclass(frozen=True, slots=True)
class _Ends:
    """Files of two ends that nobody else uses, in a directory that is about to be removed."""

    leaf: tuple[Path, Path]
    friends: Path
    strangers: Path

    @classmethod
    def make(cls, folder: Path) -> Self:
        ends = cls((folder / "leaf.crt", folder / "leaf.key"), folder / "friends.crt", folder / "strangers.crt")
        authority = Authority.create("self-test")
        authority.issue(Role.NODE, "self-test", server=True, client=True).write(*ends.leaf)
        ends.friends.write_bytes(authority.issued.certificate_pem())
        ends.strangers.write_bytes(Authority.create("self-test").issued.certificate_pem())
        return ends

    def server(self, mode: KeyExchange, trusted: Path | None = None) -> HybridContext:
        return _context(*self.leaf, trusted or self.friends, mode, server_side=True)

    def client(self, mode: KeyExchange, trusted: Path | None = None) -> HybridContext:
        return _context(*self.leaf, trusted or self.friends, mode, server_side=False)
