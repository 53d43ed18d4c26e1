"""ETSI GS QKD 004 over mutual TLS: frames in, frames out, one request of a connection after the other.

The caller is the SAE that its certificate names; no URI names anybody. Whatever is no frame of the protocol ends its
connection, as the standard has no status for it. Bounds: connections (of one SAE at most half), idle time, a request's
length, one request at work per connection. A connection that does not take its answer is idle.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress

from shosoin.adapters.tls import negotiated_group
from shosoin.base import Denied, SaeId, ShosoinError
from shosoin.base.ports import Clock
from shosoin.keys.metadata004 import MetadataTooLong
from shosoin.keys.stream004 import CallRefused
from shosoin.keys.wire004 import (
    HEADER_BYTES,
    REQUEST_BYTES_MAX,
    CloseRequest,
    CloseResponse,
    GetKeyRequest,
    GetKeyResponse,
    Message004,
    OpenConnectRequest,
    OpenConnectResponse,
    Service,
    Status,
    WireFault,
    decode_payload,
    encode_frame,
    parse_header,
)
from shosoin.services.etsi004_config import Etsi004Section
from shosoin.services.etsi004_streams import KeyStreams
from shosoin.services.guarded_connections import ConnectionGuard, GuardedConnection, identity_of
from shosoin.services.json_log import described, log
from shosoin.services.memory_budget import MemoryBudget
from shosoin.services.request_tally import RequestTally
from shosoin.services.sae_http import Allowed
from shosoin.services.tls_listener import TlsListener, listen_tls

__all__ = ["Etsi004Service"]

_READ_BYTES = 4096
_PAYLOAD_S = 10.0
Request = OpenConnectRequest | GetKeyRequest | CloseRequest
Response = OpenConnectResponse | GetKeyResponse | CloseResponse
_NAMES: dict[type[Request], str] = {
    OpenConnectRequest: "open_connect",
    GetKeyRequest: "get_key",
    CloseRequest: "close",
}
_REQUESTS = {Service.OPEN_CONNECT_REQUEST, Service.GET_KEY_REQUEST, Service.CLOSE_REQUEST}


class Etsi004Service:
    """The TLS side of a KME's key streams."""

    def __init__(self, streams: KeyStreams, limits: Etsi004Section, clock: Clock) -> None:
        self.streams = streams
        self.tally = RequestTally()
        self.guard: ConnectionGuard | None = None
        """The connections, once it listens."""
        self._limits, self._clock = limits, clock

    @property
    def memory(self) -> Mapping[str, MemoryBudget]:
        """What streams may hold at once, by name."""
        return {"chunks": self.streams.homes.reserved}

    async def listen(
        self, host: str, port: int, context: Callable[[], ssl.SSLContext], allowed: Allowed | None = None
    ) -> TlsListener:
        """Start serving; ``context`` and whether a connection is ``allowed`` are asked for each anew."""
        loop = asyncio.get_running_loop()

        def connect() -> asyncio.StreamReaderProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(_READ_BYTES, loop=loop), self._converse, loop=loop)

        limits = self._limits
        self.guard = ConnectionGuard(connect, limits.max_connections, limits.idle_timeout_s, _holder, allowed=allowed)
        return await listen_tls(self.guard, context, host, port)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer what comes over a connection until it ends."""
        connection, caller = GuardedConnection.of(writer.transport), _caller(writer.transport)

        group = negotiated_group(writer.get_extra_info("ssl_object"))
        if self.tally.connected(group or "", caller or ""):
            log("sae.connected", caller=caller, group=group)

        def gone() -> bool:
            return writer.is_closing() or reader.at_eof()

        try:
            while connection is not None and (request := await _next_request(reader)) is not None:
                connection.pause_begins()
                try:
                    response = await self._answer(caller, request, connection, gone)
                finally:
                    connection.pause_ends()
                await _send(writer, response)
        except WireFault as err:
            self._count_malformed(caller, err)
            writer.transport.abort()
        except (OSError, EOFError):  # ssl.SSLError and TimeoutError are OSErrors: a client that has left, or is slow
            writer.transport.abort()
        finally:
            self.streams.detach(connection)
            with suppress(OSError):
                writer.close()

    def _count_malformed(self, caller: SaeId | None, err: WireFault) -> None:
        self.tally.refused("etsi004.malformed")
        self.tally.answered("other", int(Status.NO_QKD_CONNECTION), 0.0)  # so that refusals never exceed answers
        log("etsi004.malformed", caller=caller, reason=err.message)

    async def _answer(
        self, caller: SaeId | None, request: Request, holder: object, gone: Callable[[], bool]
    ) -> Response:
        began_s = self._clock.now_s()
        try:
            response = await self._serve(caller, request, holder, gone)
        except Exception as err:  # noqa: BLE001  # the last line of defence of this process
            status, code = _status_of(request, err)
            self.tally.refused(code)
            response = _failure(request, status, err)
        self.tally.answered(_NAMES[type(request)], int(response.status), self._clock.now_s() - began_s)
        return response

    async def _serve(
        self, caller: SaeId | None, request: Request, holder: object, gone: Callable[[], bool]
    ) -> Response:
        if caller is None:
            raise Denied("the certificate names no SAE", code="tls.not_an_sae")
        match request:
            case OpenConnectRequest():
                return await self.streams.open(caller, request, holder, gone)
            case GetKeyRequest():
                return await self.streams.get(caller, request, gone)
            case CloseRequest():
                return await self.streams.close(caller, request)


async def _next_request(reader: asyncio.StreamReader) -> Request | None:
    """Return the next request, ``None`` when there are no more."""
    try:
        header = await reader.readexactly(HEADER_BYTES)
    except asyncio.IncompleteReadError as err:
        if err.partial:
            raise WireFault("the connection ended within a header") from err
        return None
    service, length = parse_header(header, REQUEST_BYTES_MAX)
    if service not in _REQUESTS:
        raise WireFault(f"{service.name} is no request")
    async with asyncio.timeout(_PAYLOAD_S):
        message: Message004 = decode_payload(service, await reader.readexactly(length))
    if not isinstance(message, OpenConnectRequest | GetKeyRequest | CloseRequest):
        raise WireFault("no request")
    return message


async def _send(writer: asyncio.StreamWriter, response: Response) -> None:
    writer.write(encode_frame(response))
    if isinstance(response, GetKeyResponse) and isinstance(response.key, bytearray):
        response.key[:] = bytes(len(response.key))
    await writer.drain()


def _failure(request: Request, status: Status, err: Exception) -> Response:
    match request:
        case OpenConnectRequest():
            return OpenConnectResponse(status)
        case GetKeyRequest():
            needed = err.needed if isinstance(err, MetadataTooLong) else 0
            return GetKeyResponse(status, metadata_size_needed=needed)
        case CloseRequest():
            return CloseResponse(status)


def _status_of(request: Request, err: Exception) -> tuple[Status, str]:
    """Return the status that an error becomes, and its code for the counters."""
    if isinstance(err, CallRefused):
        return err.status, err.code
    if not isinstance(err, ShosoinError):
        log("etsi004.defect", **described(err))
        return Status.NO_QKD_CONNECTION, "etsi004.defect"
    log("etsi004.refused", call=_NAMES[type(request)], code=err.code, reason=err.message)
    return Status.NO_QKD_CONNECTION, err.code


def _caller(transport: asyncio.BaseTransport) -> SaeId | None:
    identity = identity_of(transport)
    return SaeId(identity.id) if identity is not None and identity.role == "sae" else None


def _holder(transport: asyncio.Transport) -> str:
    """Under whom a connection is counted: all whose certificates name no SAE are one."""
    return _caller(transport) or ""
