"""An owner's way to share nodes: HTTPS with mutual TLS 1.3, connections kept and shared.

>>> async with NodeSession(certificate, key, ca) as session:                              # doctest: +SKIP
...     link = HttpsNodeLink(session, SiteId("koganei"), SaeId("node-koganei"), url, server_name)
...     answer = await link.exchange("/v1/exchange", [body], response_bytes_max=4096, timeout_s=10)

The node's certificate must name the host and carry exactly the URI ``urn:shosoin:node:<id>``; both are checked inside
the handshake, before a byte of any request leaves. What a node answers is untrusted: length and time are bounded, no
redirect, cookie or compression is accepted, and its texts are cleaned before they reach a message.

Not here: retries and hedging (the vault decides those). A request that failed may have been carried out.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

from shosoin.adapters.http_parts import PartsPayload
from shosoin.adapters.tls import Identity, certificate_alert, client_context, reason_of, require_peer
from shosoin.base import Alarm, Denied, PeerFault, Rejected, SaeId, ShosoinError, SiteId, Unavailable
from shosoin.base.foreign_text import printable_text
from shosoin.vault.ports import Buffer, NodeSlow

__all__ = ["HttpsNodeLink", "NodeSession"]

CONNECT_TIMEOUT_S = 5.0
STALL_TIMEOUT_S = 10.0
"""Longest silence in the middle of an answer (before it starts, only the caller's own limit counts)."""
CONNECTIONS_PER_NODE = 8
CONNECTIONS = 128
KEEP_ALIVE_S = 15.0
"""Shorter than a node keeps an idle connection, so that we do not pick one that is just being closed."""
_ERROR_BYTES_MAX = 16 << 10
_TEXT_CHARACTERS_MAX = 300
_RETRY_AFTER_S_MAX = 300.0
_READ_BUFFER_BYTES = 1 << 20
_CODE = re.compile(r"[a-z][a-z0-9_]{0,31}(\.[a-z][a-z0-9_]{0,47}){1,3}")
_KINDS: dict[int, type[ShosoinError]] = {400: Rejected, 401: Denied, 503: Unavailable}


class WrongPeer(PeerFault):
    """The server is not the node we meant."""

    code = "vault.wrong_peer"


class NodeUnreachable(Unavailable):
    """The node does not answer, or not in time."""

    code = "vault.node_unreachable"


class MalformedAnswer(PeerFault):
    """The node's answer breaks the protocol."""

    code = "vault.malformed_answer"


class NodeSession:
    """Connections to all nodes, with one certificate of ours; use it as an async context manager."""

    def __init__(self, certificate: Path, key: Path, ca: Path) -> None:
        self._files = certificate, key, ca
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = _Connector(limit=CONNECTIONS, limit_per_host=CONNECTIONS_PER_NODE, keepalive_timeout=KEEP_ALIVE_S)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            read_bufsize=_READ_BUFFER_BYTES,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def client(self) -> aiohttp.ClientSession:
        """The HTTP client; only inside the ``async with``."""
        if self._session is None:
            raise RuntimeError("the node session is not open")
        return self._session

    def context_for(self, node: SaeId) -> ssl.SSLContext:
        """Return a context that completes a handshake with this node only.

        Raises:
            Rejected: the files cannot be read.
        """
        context = client_context(*self._files, minimum=ssl.TLSVersion.TLSv1_3)
        context.sslobject_class = _checking(Identity("node", node))
        return context


class _Connector(aiohttp.TCPConnector):
    """Cuts a connection that is given up in the middle of a request.

    aiohttp would say goodbye politely: flush what is buffered, wait for the peer, and forget about it. A peer that does
    not read would keep the socket open beyond the session, and what a cancelled request still sends helps nobody.
    """

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        transport = protocol.transport
        if transport is not None and (should_close or protocol.should_close):
            transport.abort()  # before anybody closes it: Python 3.11.2 cannot abort afterwards
        super()._release(key, protocol, should_close=should_close)


def _checking(expected: Identity) -> type[ssl.SSLObject]:
    """Return a kind of TLS connection that fails its own handshake when the certificate names somebody else."""

    class CheckedPeer(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            try:
                require_peer(self, expected)
            except PeerFault as err:
                raise ssl.SSLCertVerificationError(err.message) from err

    return CheckedPeer


class HttpsNodeLink:
    """``NodeLink`` to one share node."""

    def __init__(self, session: NodeSession, site: SiteId, node: SaeId, url: str, server_name: str) -> None:
        self._session = session
        self._site = site
        self._url = url.rstrip("/")
        self._server_name = server_name
        self._context = session.context_for(node)

    @property
    def site(self) -> SiteId:
        """The site that the node belongs to."""
        return self._site

    async def exchange(self, path: str, body: Sequence[Buffer], *, response_bytes_max: int, timeout_s: float) -> bytes:
        """POST ``body`` and return the answer.

        Raises:
            NodeSlow: too slow.
            Unavailable: unreachable, connection lost, or HTTP 503.
            Denied: HTTP 401, or our certificate was refused.
            Rejected: HTTP 400.
            Alarm: HTTP 500 of kind alarm.
            PeerFault: anything else, more than ``response_bytes_max`` bytes, not HTTP, or the wrong certificate.
        """
        try:
            async with self._session.client.post(
                self._url + path,
                data=PartsPayload(body),
                ssl=self._context,
                server_hostname=self._server_name,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            ) as response:
                if response.status == 200:
                    return await self._content(response, response_bytes_max)
                raise self._failure(response, await self._content(response, _ERROR_BYTES_MAX))
        except ShosoinError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as err:
            raise self._meaning(err, timeout_s) from err

    async def _content(self, response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
        if (response.content_length or 0) > bytes_max:
            response.close()
            raise self._too_long(bytes_max)
        parts: list[bytes] = []
        size = 0
        now_s = asyncio.get_running_loop().time
        async with asyncio.timeout(STALL_TIMEOUT_S) as silence:
            while part := await response.content.readany():
                silence.reschedule(now_s() + STALL_TIMEOUT_S)
                parts.append(part)
                size += len(part)
                if size > bytes_max:
                    response.close()
                    raise self._too_long(bytes_max)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _too_long(self, bytes_max: int) -> MalformedAnswer:
        return MalformedAnswer(f"{self._site} answered more than {bytes_max} bytes")

    def _failure(self, response: aiohttp.ClientResponse, raw: bytes) -> ShosoinError:
        """Return what an answer with another status than 200 means."""
        value = _error_object(raw)
        kind = _KINDS.get(response.status)
        if response.status == 500 and value.get("kind") == "alarm":
            kind = Alarm
        text = _clean(value.get("message")) or f"HTTP {response.status}"
        if kind is None:
            return MalformedAnswer(f"{self._site} answered HTTP {response.status}: {text}")
        found = value.get("code")
        code = found if isinstance(found, str) and _CODE.fullmatch(found) else None
        message = f"{self._site}: {text}"
        if kind is Unavailable:
            return Unavailable(message, code=code, retry_after_s=_retry_after(value, response))
        return kind(message, code=code)

    def _meaning(self, err: Exception, timeout_s: float) -> ShosoinError:
        """Return what a failed request means."""
        refused = certificate_alert(err)
        if refused:
            return Denied(f"{self._site} refused our certificate: {refused}", code="vault.certificate_refused")
        match err:
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
                return WrongPeer(f"{self._site} is not the expected node: {_clean(str(err))}")
            case aiohttp.ConnectionTimeoutError():
                return NodeSlow(f"{self._site} took no connection within {min(CONNECT_TIMEOUT_S, timeout_s):.3g} s")
            case TimeoutError():
                return NodeSlow(f"{self._site} did not answer in time (at most {timeout_s:.3g} s)")
            case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
                return MalformedAnswer(f"{self._site} did not answer in HTTP: {_clean(str(err))}")
            case aiohttp.ClientConnectorError():
                return NodeUnreachable(f"{self._site} is unreachable: {reason_of(err.os_error)}")
            case aiohttp.ClientPayloadError() | aiohttp.ClientConnectionError() | OSError():
                # asyncio's TLS server drops the alert that would say why
                return NodeUnreachable(f"{self._site} closed the connection; perhaps it refuses our certificate")
            case _:
                return MalformedAnswer(f"{self._site} answered what cannot be read: {type(err).__name__}")


def _error_object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _clean(text: Any) -> str:
    """Return a peer's text fit for a log line."""
    return printable_text(text, _TEXT_CHARACTERS_MAX)


def _retry_after(value: dict[str, Any], response: aiohttp.ClientResponse) -> float | None:
    for found in (value.get("retry_after_s"), response.headers.get("Retry-After")):
        try:
            seconds = float(found)  # type: ignore[arg-type]  # whatever a peer sent
        except (TypeError, ValueError, OverflowError):
            continue
        if seconds >= 0:
            return min(seconds, _RETRY_AFTER_S_MAX)
    return None
