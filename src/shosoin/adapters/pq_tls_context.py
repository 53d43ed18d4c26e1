"""An ``ssl.SSLContext`` over another TLS library, and what all contexts of that kind have.

asyncio and aiohttp want an ``ssl.SSLContext`` and call nothing of it but ``wrap_bio``. Everything else that such a
context offers would change Python's own TLS library, which is not used, so it is refused. Policy is given from outside
(``shosoin.adapters.pq_tls``, ``shosoin.adapters.tls_psk``): how the library's own context is set up, and what a
connection must have come to when its handshake is over.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Never, Self

from shosoin.adapters.openssl_binding import OpenSslBinding, binding
from shosoin.adapters.pq_tls_object import HybridObject

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["HYBRID_GROUP", "HybridContext", "bare_context"]

HYBRID_GROUP = "X25519MLKEM768"


class HybridContext(ssl.SSLContext):
    """An ``ssl.SSLContext`` over another TLS library; made whole, and never changed afterwards.

    Args:
        accept: looks at every connection after its handshake, and raises ``ssl.SSLError`` if it must end.
        named: whether the server's certificate must carry the name that was called; false where there is none.
        heard: what a server has read of its one connection already.
    """

    _sealed = False

    def __new__(cls, _context: SSL.Context, **options: Any) -> Self:
        """Make what ``ssl`` needs; what it says of itself is what the other library does."""
        server_side = options["server_side"]
        made = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.verify_mode = ssl.CERT_REQUIRED
        return made

    def __init__(
        self,
        context: SSL.Context,
        *,
        server_side: bool,
        accept: Callable[[HybridObject], None],
        named: bool = True,
        heard: bytes = b"",
    ) -> None:
        self._library = binding()
        self.below, self._accept = context, accept
        self._named, self._heard = named, heard
        self._server_side = server_side
        self._sealed = True

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> HybridObject:
        """Return a connection between two buffers."""
        if server_side != self._server_side or session is not None:
            raise ValueError("a hybrid context is for one side, and resumes no session")
        connection = self._library.ssl.Connection(self.below, None)
        name = server_hostname.decode("ascii") if isinstance(server_hostname, bytes) else server_hostname
        if server_side:
            connection.set_accept_state()
        else:
            if not name:
                raise ValueError("a client needs server_hostname, or it would talk to anybody")
            if self._named:
                self._library.expect_host(connection, name)
            connection.set_connect_state()
        incoming.write(self._heard)
        return HybridObject(self, self._library, connection, (incoming, outgoing), name, self._accept)

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: it would change the TLS library that is not used."""
        if self._sealed:
            self._refuse()
        super().__setattr__(name, value)

    def _refuse(self, *_: object, **__: object) -> Never:
        raise TypeError("a hybrid context is made whole; make another one instead of changing it")

    load_cert_chain = _refuse
    load_default_certs = _refuse
    load_dh_params = _refuse
    load_verify_locations = _refuse
    set_alpn_protocols = _refuse
    set_ciphers = _refuse
    set_default_verify_paths = _refuse
    set_ecdh_curve = _refuse
    wrap_socket = _refuse


def bare_context(library: OpenSslBinding, groups: str, *, server_side: bool) -> SSL.Context:
    """Return a context of TLS 1.3 with these groups and nothing that shortens a handshake, but no certificates."""
    module = library.ssl
    context: SSL.Context = module.Context(module.TLS_SERVER_METHOD if server_side else module.TLS_CLIENT_METHOD)
    context.set_min_proto_version(module.TLS1_3_VERSION)
    context.set_max_proto_version(module.TLS1_3_VERSION)
    context.set_options(module.OP_NO_TICKET | module.OP_NO_COMPRESSION | module.OP_NO_RENEGOTIATION)
    context.set_options(module.OP_CIPHER_SERVER_PREFERENCE)  # keys of 256 bits with whoever can
    # Together with OP_NO_TICKET: tickets are bare names of sessions, and nobody keeps a session. There is no call to
    # keep the server from sending two such names.
    context.set_session_cache_mode(module.SESS_CACHE_OFF)
    context.set_mode(library.lib.SSL_MODE_RELEASE_BUFFERS)
    library.set_groups(context, groups)
    return context
