"""TLS 1.3 with a quantum key as external pre-shared key: one handshake that mixes it with ML-KEM-768 and X25519.

The identity of the key, sent in the clear, is its key_ID of ETSI GS QKD 014; each end has the key from its own KME. The
group is X25519MLKEM768 and the key exchange ``psk_dhe_ke``, so whoever recorded a connection must have got the quantum
key *and* broken both ML-KEM and X25519. A server first reads which key a client offers (``PskHello``), fetches it, and
then begins the handshake with what it has read.

Security: there are no certificates. Each end knows that the other holds the key, no more; who else could have fetched
it is between the KMEs. The key is for one cipher suite, TLS_AES_256_GCM_SHA384, as RFC 8446 (4.2.11) wants it for one
hash. A key is for one connection: the caller zeroes it afterwards, and a zeroed key is not used again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shosoin.adapters.openssl_binding import OpenSslBinding, binding
from shosoin.adapters.pq_tls_context import HYBRID_GROUP, HybridContext, bare_context
from shosoin.adapters.pq_tls_object import HybridObject, tls_error
from shosoin.base import PeerFault, Rejected

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["KEY_BYTES_MIN", "PskHello", "psk_client_context", "psk_server_context"]

KEY_BYTES_MIN = 32
_HELLO_BYTES_MAX = 16 << 10
_IDENTITY_BYTES_MAX = 128
_SUITE_NAME, _SUITE = b"TLS_AES_256_GCM_SHA384", 0x1302


def psk_client_context(identity: str, key: bytearray) -> HybridContext:
    """Return a context that offers one key.

    Args:
        key: at least 32 bytes; the caller zeroes it once the handshake is over.

    Raises:
        Rejected: the key is too short, the identity too long, or the extra is missing.
    """
    library, name = binding(), _checked(identity, key)
    context = bare_context(library, HYBRID_GROUP, server_side=False)
    context.set_tls13_ciphersuites(_SUITE_NAME)
    context.set_verify(library.ssl.VERIFY_PEER)  # a server that shows a certificate instead has none that we trust
    keep = library.use_psk_in_client(context, name, lambda: key if any(key) else None, _SUITE)
    context.set_app_data(keep)
    return HybridContext(context, server_side=False, accept=_accept, named=False)


def psk_server_context(identity: str, key: bytearray, heard: bytes) -> HybridContext:
    """Return a context for the one connection whose first bytes were read to learn which key it offers.

    Args:
        heard: those bytes (``PskHello.heard``).
    """
    library, name = binding(), _checked(identity, key)
    context = _server(library)
    keep = library.use_psk_in_server(context, lambda found: key if found == name and any(key) else None, _SUITE)
    context.set_app_data(keep)
    return HybridContext(context, server_side=True, accept=_accept, heard=heard)


class PskHello:
    """Reads which key a client offers first, without answering; the TLS library does the parsing."""

    def __init__(self) -> None:
        self._library = binding()
        self.heard = b""
        """What was fed so far."""
        self._identities: list[bytes] = []
        context = _server(self._library)
        # The list and not this object, which the callback would keep alive.
        context.set_app_data(self._library.use_psk_in_server(context, self._identities.append, _SUITE))
        self._connection = self._library.ssl.Connection(context, None)
        self._connection.set_accept_state()

    def feed(self, data: bytes) -> str | None:
        """Return the identity once enough was read, None while more is needed.

        Raises:
            PeerFault: this is no hello of TLS 1.3 that offers a key with an identity of printable ASCII.
        """
        self.heard += data
        if len(self.heard) > _HELLO_BYTES_MAX:
            raise PeerFault(f"a hello of more than {_HELLO_BYTES_MAX} bytes", code="tls.bad_hello")
        if data:
            self._connection.bio_write(data)
        module = self._library.ssl
        try:
            self._connection.do_handshake()
        except module.WantReadError:
            if not self._identities:
                return None
        except module.Error as err:  # this connection knows no key, so it fails in any case
            if not self._identities:
                raise PeerFault("the client offers no key", code="tls.bad_hello") from err
        return self._text()

    def _text(self) -> str:
        identity = self._identities[0]
        if not identity or not all(0x20 < byte < 0x7F for byte in identity):
            raise PeerFault("the client offers a key without a readable identity", code="tls.bad_hello")
        return identity.decode("ascii")


def _server(library: OpenSslBinding) -> SSL.Context:
    context = bare_context(library, HYBRID_GROUP, server_side=True)
    context.set_tls13_ciphersuites(_SUITE_NAME)
    return context


def _checked(identity: str, key: bytearray) -> bytes:
    if len(key) < KEY_BYTES_MIN:
        raise Rejected(f"a key of {len(key)} bytes, expected at least {KEY_BYTES_MIN}", code="tls.short_key")
    name = identity.encode("ascii", "replace")
    if not 0 < len(name) <= _IDENTITY_BYTES_MAX:
        raise Rejected(
            f"an identity of {len(name)} bytes, expected 1 to {_IDENTITY_BYTES_MAX}", code="tls.bad_identity"
        )
    return name


def _accept(tls: HybridObject) -> None:
    """Make sure that the key was used, and nothing else counted.

    Raises:
        ssl.SSLError: it was not.
    """
    suite = tls.cipher()
    if tls.version() != "TLSv1.3" or tls.group() != HYBRID_GROUP or not suite or suite[0].encode() != _SUITE_NAME:
        raise tls_error(f"agreed on {tls.version()}, {tls.group()} and {suite and suite[0]}", "WRONG_GROUP")
    if not tls.is_resumed() or tls.getpeercert(binary_form=True) is not None:
        raise tls_error("the handshake does not rest on the pre-shared key", "NO_PSK")
