"""The OpenSSL inside ``cryptography``, through pyOpenSSL, and the few calls that pyOpenSSL has no public name for.

Python's own ``ssl`` uses whatever OpenSSL it was built with, often one that knows no ML-KEM. ``cryptography`` brings
one that does. pyOpenSSL reaches it, but has no methods to choose key-exchange groups, to expect a host name, to read
why a certificate was refused, or to hand over a pre-shared key of TLS 1.3. Those calls are here and nowhere else, each
with the private name that it needs; ``binding`` looks for all of them before the first use, so that another version of
either package is an error that says so and not a handshake that checks less.

Not here: anything about policy. ``shosoin.adapters.pq_tls`` says what a connection must be, and tries it out.
"""

from __future__ import annotations

import functools
import importlib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shosoin.base import Rejected

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["EXTRA", "OpenSslBinding", "binding"]

EXTRA = "pqtls"
_NAMES = (
    "SSL_CIPHER_find",
    "SSL_CTX_set1_curves_list",
    "SSL_CTX_set_psk_find_session_callback",
    "SSL_CTX_set_psk_use_session_callback",
    "SSL_SESSION_free",
    "SSL_SESSION_set1_master_key",
    "SSL_SESSION_set_cipher",
    "SSL_SESSION_set_protocol_version",
    "Cryptography_SSL_SESSION_new",
    "SSL_get0_group_name",
    "SSL_get0_param",
    "SSL_get_verify_result",
    "SSL_session_reused",
    "X509_CHECK_FLAG_NEVER_CHECK_SUBJECT",
    "X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS",
    "X509_VERIFY_PARAM_set1_host",
    "X509_VERIFY_PARAM_set1_ip",
    "X509_VERIFY_PARAM_set_hostflags",
    "X509_verify_cert_error_string",
    "ERR_clear_error",
)
_TLS13 = 0x0304
_IDENTITY_BYTES_MAX = 128
GetKey = Callable[[], bytearray | None]
FindKey = Callable[[bytes], bytearray | None]
"""Returns the pre-shared key of an identity, None for none."""


@functools.cache
def binding() -> OpenSslBinding:
    """Return the binding, checked for every name that is needed.

    Raises:
        Rejected: the extra is not installed, or its versions do not fit.
    """
    try:
        ssl_module = importlib.import_module("OpenSSL.SSL")
        crypto = importlib.import_module("OpenSSL.crypto")
        low = importlib.import_module("cryptography.hazmat.bindings.openssl.binding").Binding()
    except ImportError as err:
        message = "hybrid post-quantum TLS needs pyOpenSSL, which is not installed"
        raise Rejected(message, code="tls.extra_missing", hint=f"pip install 'shosoin[{EXTRA}]'") from err
    missing = [name for name in _NAMES if not hasattr(low.lib, name)]
    if missing:
        version = importlib.import_module("OpenSSL").__version__
        message = f"pyOpenSSL {version} with {_text(ssl_module)} lacks {', '.join(missing)}"
        raise Rejected(message, code="tls.extra_unusable", hint=f"pip install 'shosoin[{EXTRA}]' brings one that fits")
    return OpenSslBinding(ssl_module, crypto, low.lib, low.ffi)


def _text(ssl_module: Any) -> str:
    return str(ssl_module.OpenSSL_version(ssl_module.OPENSSL_VERSION).decode())


@dataclass(frozen=True, slots=True, eq=False)
class OpenSslBinding:
    """pyOpenSSL's module and what lies below it."""

    ssl: Any
    """``OpenSSL.SSL``"""
    crypto: Any
    """``OpenSSL.crypto``"""
    lib: Any
    ffi: Any

    @property
    def version(self) -> str:
        """Name and version of the library."""
        return _text(self.ssl)

    def set_groups(self, context: SSL.Context, groups: str) -> None:
        """Let a context agree on these key-exchange groups only, in OpenSSL's notation.

        Raises:
            Rejected: the library does not know one of them.
        """
        if self.lib.SSL_CTX_set1_curves_list(context._context, groups.encode()) != 1:  # noqa: SLF001
            self.lib.ERR_clear_error()
            raise Rejected(f"{self.version} does not know the groups {groups}", code="tls.no_group")

    def expect_host(self, connection: SSL.Connection, name: str) -> None:
        """Refuse, within the handshake, a server certificate without this DNS name or IP address.

        The name must be among the alternative names; the common name does not count.

        Raises:
            Rejected: the library does not take it for the name of a host.
        """
        lib, parameters = self.lib, self.lib.SSL_get0_param(connection._ssl)  # noqa: SLF001
        flags = lib.X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | lib.X509_CHECK_FLAG_NEVER_CHECK_SUBJECT
        lib.X509_VERIFY_PARAM_set_hostflags(parameters, flags)
        address = _address(name)
        if address is not None:
            done = lib.X509_VERIFY_PARAM_set1_ip(parameters, address, len(address))
        else:
            raw = _host_bytes(name)
            done = lib.X509_VERIFY_PARAM_set1_host(parameters, raw, len(raw))
            connection.set_tlsext_host_name(raw)
        if done != 1:
            lib.ERR_clear_error()
            raise _no_host(name)

    def verification(self, connection: SSL.Connection) -> tuple[int, str]:
        """Return what came of checking the peer's certificate: 0 where nothing was wrong, and the library's words."""
        result = int(self.lib.SSL_get_verify_result(connection._ssl))  # noqa: SLF001
        return result, self.ffi.string(self.lib.X509_verify_cert_error_string(result)).decode()

    def is_resumed(self, connection: SSL.Connection) -> bool:
        """Whether the handshake rests on a key that both ends had before: a session, or a pre-shared key."""
        return bool(self.lib.SSL_session_reused(connection._ssl))  # noqa: SLF001

    def certificate_of(self, connection: SSL.Connection) -> bytes | None:
        """Return the peer's certificate as DER, unparsed."""
        certificate = connection.get_peer_certificate()
        return None if certificate is None else self._der(certificate)

    def chain_of(self, connection: SSL.Connection) -> list[bytes]:
        """Return the chain that was verified, the peer's certificate first, the authority last."""
        return [self._der(certificate) for certificate in connection.get_verified_chain() or ()]

    def _der(self, certificate: Any) -> bytes:
        return bytes(self.crypto.dump_certificate(self.crypto.FILETYPE_ASN1, certificate))

    def use_psk_in_client(self, context: SSL.Context, identity: bytes, key: GetKey, cipher: int) -> object:
        """Offer one pre-shared key of TLS 1.3; the returned object must live as long as the context.

        Args:
            key: asked in each handshake; None offers nothing.
            cipher: number of the one cipher suite that the key is for.
        """
        kept = self.ffi.from_buffer(identity)

        def offer(tls: Any, _digest: Any, identity_at: Any, length_at: Any, session_at: Any) -> int:
            session_at[0] = self.ffi.NULL
            secret = key()
            if secret is not None:
                session_at[0] = self._session(tls, secret, cipher)
                identity_at[0], length_at[0] = self.ffi.cast("unsigned char *", kept), len(identity)
            return 1

        signature = "int (*)(SSL *, const EVP_MD *, const unsigned char **, size_t *, SSL_SESSION **)"
        callback = self.ffi.callback(signature, offer, error=0)
        self.lib.SSL_CTX_set_psk_use_session_callback(context._context, callback)  # noqa: SLF001
        return callback, kept

    def use_psk_in_server(self, context: SSL.Context, find: FindKey, cipher: int) -> object:
        """Look up the key of every identity that a client offers; otherwise as ``use_psk_in_client``."""

        def found(tls: Any, identity: Any, length: int, session_at: Any) -> int:
            session_at[0] = self.ffi.NULL
            key = find(bytes(self.ffi.buffer(identity, length))) if length <= _IDENTITY_BYTES_MAX else None
            if key is not None:
                session_at[0] = self._session(tls, key, cipher)
            return 1

        signature = "int (*)(SSL *, const unsigned char *, size_t, SSL_SESSION **)"
        callback = self.ffi.callback(signature, found, error=0)
        self.lib.SSL_CTX_set_psk_find_session_callback(context._context, callback)  # noqa: SLF001
        return callback

    def _session(self, tls: Any, key: bytearray, cipher: int) -> Any:
        """Return a session that stands for a pre-shared key; OpenSSL frees it."""
        lib, session = self.lib, self.lib.Cryptography_SSL_SESSION_new()
        suite = lib.SSL_CIPHER_find(tls, cipher.to_bytes(2, "big"))
        made = (
            self.ffi.NULL not in (session, suite)
            and lib.SSL_SESSION_set1_master_key(session, self.ffi.from_buffer(key), len(key)) == 1
            and lib.SSL_SESSION_set_cipher(session, suite) == 1
            and lib.SSL_SESSION_set_protocol_version(session, _TLS13) == 1
        )
        if not made:
            if session != self.ffi.NULL:
                lib.SSL_SESSION_free(session)
            raise RuntimeError("the TLS library cannot make a session of a pre-shared key")
        return session


def _host_bytes(name: str) -> bytes:
    try:
        raw = name.encode("ascii") if name.isascii() else name.encode("idna")
    except UnicodeError as err:
        raise _no_host(name) from err
    if not raw or len(raw) > 253 or min(raw) <= 0x20:
        raise _no_host(name)
    return raw


def _no_host(name: str) -> Rejected:
    return Rejected(f"no server can be called by the name {name[:80]!r}", code="tls.bad_name")


def _address(name: str) -> bytes | None:
    try:
        return ipaddress.ip_address(name).packed
    except ValueError:
        return None
