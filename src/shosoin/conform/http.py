"""One SAE's plain HTTP to a KME: nothing is mended on the way, so that what is wrong can be seen."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shosoin.base import PeerFault, Rejected, Unavailable

__all__ = ["Answer", "Caller", "Identity", "tls_context"]

ANSWER_BYTES_MAX = 64 << 20
"""What is read of an answer at most; a longer one counts as malformed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """An SAE's certificate and private key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Answer:
    """What a KME answered. The body may hold keys: it is in no text that this package makes."""

    status: int
    content_type: str
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        """The body as JSON, or ``None`` if it is none."""
        try:
            return json.loads(self.body.decode("utf-8"))
        except (ValueError, RecursionError):
            return None

    @property
    def message(self) -> str | None:
        """The message of an Error body, or ``None`` if the body is no Error."""
        body = self.json
        message = body.get("message") if isinstance(body, dict) else None
        return message if isinstance(message, str) else None


def tls_context(ca: Path, identity: Identity | None) -> ssl.SSLContext:
    """Return a client's context that trusts one authority alone.

    Raises:
        Rejected: a file that cannot be read or is no PEM of its kind.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(ca)
        if identity is not None:
            context.load_cert_chain(identity.certificate, identity.key)
    except (OSError, ssl.SSLError) as err:
        raise Rejected(
            f"certificates of the SAE cannot be used: {getattr(err, 'strerror', None) or err}",
            code="conform.bad_certificate",
            hint="give PEM files: --cert and --key of the SAE, --ca of the authority that issued the KME's certificate",
        ) from err
    return context


class _Connection(HTTPSConnection):
    """A connection that checks the KME's certificate for a name of its own, where its address is not that name."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, server_name: str, timeout_s: float) -> None:
        super().__init__(host, port, context=context, timeout=timeout_s)
        self._tls = context
        self._server_name = server_name

    def connect(self) -> None:
        """Connect, and verify the KME."""
        plain = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._tls.wrap_socket(plain, server_hostname=self._server_name)
        except BaseException:
            plain.close()
            raise


class Caller:
    """Calls a KME as one SAE, or as nobody if it has no certificate."""

    def __init__(
        self,
        url: str,
        ca: Path,
        identity: Identity | None,
        *,
        server_name: str | None = None,
        timeout_s: float = 30.0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.path.strip("/"):
            raise Rejected(
                f"{url!r} is not the address of a KME", code="conform.bad_url", hint="for example https://kme-a:443"
            )
        self.host, self.port = parts.hostname, parts.port or 443
        self.server_name = server_name or self.host
        self.ca = ca
        self.identity = identity
        self.timeout_s = timeout_s
        self._context = context or tls_context(ca, identity)
        self._open: _Connection | None = None

    def as_another(self, identity: Identity | None, context: ssl.SSLContext | None = None) -> Caller:
        """Return a caller of the same KME, on a connection of its own, with another identity or the same."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return Caller(
            f"https://{host}:{self.port}",
            self.ca,
            identity,
            server_name=self.server_name,
            timeout_s=self.timeout_s,
            context=context,
        )

    @property
    def is_open(self) -> bool:
        """Whether the last connection is kept."""
        return self._open is not None

    def close(self) -> None:
        """Close the connection that is kept."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request as it is and return what comes back; the connection is kept if the KME keeps it.

        Raises:
            Unavailable: nothing answers there.
            PeerFault: the handshake fails, or what comes back is no HTTP.
        """
        kept = self._open is not None
        try:
            return self._ask(method, path, body, headers or {})
        except (HTTPException, ConnectionError, BrokenPipeError) as err:
            self.close()
            if kept:  # it was closed meanwhile: once more on a new one
                return self.ask(method, path, body, headers)
            raise PeerFault(f"no answer to {method}: {type(err).__name__}", code="conform.no_answer") from err
        except ssl.SSLError as err:
            self.close()
            raise PeerFault(
                f"the TLS handshake failed: {err.reason or err}",
                code="conform.tls",
                hint="check --ca, and give --server-name if the KME's certificate names something else than its host",
            ) from err
        except OSError as err:
            self.close()
            raise Unavailable(
                f"nothing answers at {self.host}:{self.port}: {err.strerror or err}", code="conform.unreachable"
            ) from err

    def _ask(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        if self._open is None:
            self._open = _Connection(self.host, self.port, self._context, self.server_name, self.timeout_s)
            self._open.connect()
        connection = self._open
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read(ANSWER_BYTES_MAX + 1)
        if len(content) > ANSWER_BYTES_MAX or response.will_close:
            self.close()
        return Answer(response.status, response.headers.get("Content-Type", ""), content[:ANSWER_BYTES_MAX])

    def raw(self, content: bytes, *, wait_s: float) -> bytes:
        """Send bytes on a connection of their own and return what comes back until it closes or the time is up.

        Raises:
            Unavailable: nothing answers there.
        """
        try:
            plain = socket.create_connection((self.host, self.port), self.timeout_s)
            with self._context.wrap_socket(plain, server_hostname=self.server_name) as connection:
                connection.sendall(content)
                connection.settimeout(wait_s)
                return connection.recv(1 << 16)
        except TimeoutError as err:
            raise Unavailable(f"still open after {wait_s:g} s", code="conform.still_open") from err
        except OSError:
            return b""  # closed without a word
