"""One TLS connection of ``shosoin.adapters.pq_tls``, in the form that asyncio expects of an ``ssl.SSLObject``.

asyncio hands bytes over in two ``ssl.MemoryBIO``. OpenSSL has two buffers of its own; what came in goes over there only
when OpenSSL asks for more, and what is to go out leaves at once. So the backpressure of asyncio works as with Python's
own TLS, and no buffer grows beyond a record or a flight of the handshake.

All errors are those of ``ssl``: asyncio ends a connection on them without a word and calls anything else a defect.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from shosoin.adapters.openssl_binding import OpenSslBinding

if TYPE_CHECKING:
    from OpenSSL import SSL

__all__ = ["HybridObject", "tls_error"]

T = TypeVar("T")
_RECORD_BYTES = 16 << 10
_CHUNK_BYTES = 32 << 10
_PROVOKED_BYTES_MAX = 64 << 10
"""What a connection may send only because the peer sent something (new traffic keys): about 2,900 answers, where a
lawful peer asks once in many gigabytes. One that asks and does not read would fill our memory."""


class HybridObject(ssl.SSLObject):
    """A connection between two memory buffers.

    Args:
        check: called once with this object after the handshake; what it raises ends the connection before a byte of
            the peer was handed up.
    """

    def __init__(
        self,
        owner: ssl.SSLContext,
        binding: OpenSslBinding,
        connection: SSL.Connection,
        buffers: tuple[ssl.MemoryBIO, ssl.MemoryBIO],
        server_hostname: str | None,
        check: Callable[[HybridObject], None],
    ) -> None:
        self._owner, self._binding, self._connection = owner, binding, connection
        self._incoming, self._outgoing = buffers
        self._server_hostname = server_hostname
        self._check: Callable[[HybridObject], None] | None = check
        self._failed: ssl.SSLError | None = None
        """Never raised itself: an error that was raised holds the frames it came through, and so this object."""
        self._provoked_bytes = 0
        self._certificate: bytes | None = None

    # What happens

    def do_handshake(self) -> None:
        """Take the handshake as far as it goes.

        Raises:
            ssl.SSLWantReadError: more must come in.
            ssl.SSLCertVerificationError: the peer's certificate is not accepted.
            ssl.SSLError: it failed otherwise.
        """
        if self._failed is not None:
            raise _alike(self._failed)
        try:
            self._run(self._connection.do_handshake)
            if self._check is not None:
                self._certificate = self._binding.certificate_of(self._connection)
                self._check(self)
                self._check = None
        except ssl.SSLWantReadError:
            raise
        except ssl.SSLError as err:
            self._failed = _alike(err)
            raise

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002  # the name that callers may use
        """Return bytes of the peer, or put them into ``buffer`` and return how many; none once the peer has closed."""
        if self._check is not None or self._failed is not None:
            self.do_handshake()
        before = self._outgoing.pending
        size = min(len, _RECORD_BYTES)
        if size == 0:
            return b"" if buffer is None else 0
        try:
            if buffer is None:
                return self._run(lambda: self._connection.recv(size))
            return self._run(lambda: self._connection.recv_into(buffer, size))
        except ssl.SSLZeroReturnError:
            return b"" if buffer is None else 0
        finally:
            self._count_provoked(self._outgoing.pending - before)

    def write(self, data: Any) -> int:
        """Encrypt all of ``data``; returns its length."""
        if self._check is not None or self._failed is not None:
            self.do_handshake()
        view = memoryview(data).cast("B")
        sent = 0
        while sent < len(view):
            sent += self._run(lambda: self._connection.send(view[sent:]))  # noqa: B023  # called at once
        return sent

    def unwrap(self) -> None:
        """Say goodbye, and wait for the peer's."""
        for _ in range(2):  # the first only says ours
            if self._run(self._connection.shutdown):
                return
        raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the peer has not said goodbye")

    # What it is

    def group(self) -> str:
        """Return the key-exchange group that both ends agreed on."""
        name = self._connection.get_group_name() or ""
        return name.upper() if name.islower() else name

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Return the peer's certificate as DER; without ``binary_form`` an empty dict, for nothing here reads more."""
        return self._certificate if binary_form else {}

    def get_verified_chain(self) -> list[bytes]:
        """Return the verified chain as DER, the peer's certificate first and the authority last (as Python 3.13)."""
        return self._binding.chain_of(self._connection) if self._check is None else []

    def get_unverified_chain(self) -> list[bytes]:
        """Return the verified chain: what was not verified is nobody's business."""
        return self.get_verified_chain()

    def verification(self) -> tuple[int, str]:
        """Return what came of checking the peer's certificate: 0 for good, and words."""
        return self._binding.verification(self._connection)

    def is_resumed(self) -> bool:
        """Whether the handshake rested on a key known before: here, a pre-shared one."""
        return self._binding.is_resumed(self._connection)

    def export_keying_material(self, label: bytes, size_bytes: int) -> bytes:
        """Return bytes that only the two ends of this connection can know (RFC 8446, 7.5)."""
        if self._check is not None:
            raise ValueError("there is no keying material before the handshake")
        return bytes(self._connection.export_keying_material(label, size_bytes))

    def cipher(self) -> tuple[str, str, int] | None:
        """Return name, protocol version and key bits of the cipher suite."""
        name = self._connection.get_cipher_name()
        if name is None:
            return None
        return name, self._connection.get_cipher_version() or "", self._connection.get_cipher_bits() or 0

    def version(self) -> str | None:
        """Return the protocol version."""
        return self._connection.get_protocol_version_name() if self.cipher() else None

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol that both ends agreed to speak inside."""
        return self._connection.get_alpn_proto_negotiated().decode("ascii", "replace") or None

    def pending(self) -> int:
        """Return how many bytes are decrypted and not read."""
        return self._connection.pending()

    def compression(self) -> None:
        """Return None: there is no compression."""

    def selected_npn_protocol(self) -> None:
        """Return None: TLS 1.3 has none."""

    def shared_ciphers(self) -> None:
        """Return None: not told."""

    def get_channel_binding(self, cb_type: str = "tls-unique") -> None:
        """Refuse: TLS 1.3 has no ``tls-unique``; see ``export_keying_material``."""
        raise ValueError(f"{cb_type} channel binding is not defined for TLS 1.3")

    def verify_client_post_handshake(self) -> None:
        """Refuse: who the client is was settled in the handshake."""
        raise tls_error("certificates are shown in the handshake only", "POST_HANDSHAKE_AUTH")

    @property
    def context(self) -> ssl.SSLContext:
        """The context that it was made by."""
        return self._owner

    @context.setter
    def context(self, _: ssl.SSLContext) -> None:
        raise ValueError("a hybrid connection keeps its context")

    @property
    def session(self) -> None:
        """None: sessions are not resumed."""
        return

    @session.setter
    def session(self, _: object) -> None:
        raise ValueError("sessions are not resumed")

    @property
    def session_reused(self) -> bool:
        """False: sessions are not resumed."""
        return False

    @property
    def server_side(self) -> bool:
        """Whether this is the server's end."""
        return self._owner.protocol == ssl.PROTOCOL_TLS_SERVER

    @property
    def server_hostname(self) -> str | None:
        """The name that the server's certificate must carry; None in a server."""
        return self._server_hostname

    # Between the buffers

    def _run(self, step: Callable[[], T]) -> T:
        """Repeat a step of OpenSSL while it asks for more and there is more."""
        want_more = self._binding.ssl.WantReadError
        while True:
            try:
                return step()
            except want_more:
                self._feed()
            except self._binding.ssl.Error as err:
                raise self._meaning(err) from err
            finally:
                self._drain()

    def _feed(self) -> None:
        chunk = self._incoming.read(_CHUNK_BYTES)
        if chunk:
            self._connection.bio_write(chunk)
        elif self._incoming.eof:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the peer closed the connection without saying so in TLS")
        else:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "more must come in")

    def _drain(self) -> None:
        try:
            while True:
                self._outgoing.write(self._connection.bio_read(_CHUNK_BYTES))
        except self._binding.ssl.WantReadError:
            return

    def _count_provoked(self, size_bytes: int) -> None:
        self._provoked_bytes += size_bytes
        if self._provoked_bytes > _PROVOKED_BYTES_MAX:
            raise tls_error("the peer asks for new traffic keys again and again", "KEY_UPDATES")

    def _meaning(self, err: Exception) -> ssl.SSLError:
        module = self._binding.ssl
        if isinstance(err, module.ZeroReturnError):
            return ssl.SSLZeroReturnError(ssl.SSL_ERROR_ZERO_RETURN, "the peer closed the connection")
        if isinstance(err, module.SysCallError):
            return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection ended within TLS")
        result, words = self.verification()
        reason = _reason_of(err)
        if result != 0 and reason == "CERTIFICATE_VERIFY_FAILED":
            return tls_error(f"certificate verify failed: {words}", reason, verify_code=result, words=words)
        return tls_error(reason.lower().replace("_", " ") or "TLS failed", reason)


def tls_error(message: str, reason: str, *, verify_code: int = 0, words: str = "") -> ssl.SSLError:
    """Return an error such as Python's own TLS would raise."""
    if not verify_code:
        err = ssl.SSLError(ssl.SSL_ERROR_SSL, message)
    else:
        err = ssl.SSLCertVerificationError(ssl.SSL_ERROR_SSL, message)
        err.verify_code, err.verify_message = verify_code, words
    err.library, err.reason = "SSL", reason
    return err


def _alike(err: ssl.SSLError) -> ssl.SSLError:
    """Return the same error without its history."""
    made = type(err)(*err.args)
    made.__dict__.update(err.__dict__)
    return made


def _reason_of(err: Exception) -> str:
    """Return OpenSSL's reason in the spelling of ``ssl``: ``TLSV13_ALERT_CERTIFICATE_REQUIRED``."""
    queue = err.args[0] if err.args else []
    if not isinstance(queue, list) or not queue or not isinstance(queue[0], tuple):
        return ""
    return str(queue[0][-1]).upper().replace(" ", "_").replace("-", "_")
