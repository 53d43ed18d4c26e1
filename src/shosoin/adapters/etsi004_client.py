"""Client of a key manager through ETSI GS QKD 004, in the binary form of ``shosoin.keys.wire004`` over mutual TLS.

One connection, one call at a time. A call that fails, times out or is cancelled half way closes the connection, because
what comes next on it would be the answer to something else. Nothing is repeated: whether a chunk whose answer was lost
is asked for again is the caller's decision.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

from shosoin.adapters.tls import certificate_alert, reason_of
from shosoin.base import Denied, PeerFault, Unavailable
from shosoin.keys.wire004 import (
    HEADER_BYTES,
    NO_STREAM,
    PAYLOAD_BYTES_MAX,
    CloseRequest,
    CloseResponse,
    GetKeyRequest,
    GetKeyResponse,
    Message004,
    OpenConnectRequest,
    OpenConnectResponse,
    Qos,
    Status,
    decode_payload,
    encode_frame,
    parse_header,
)

__all__ = ["Etsi004Client"]

M = TypeVar("M", OpenConnectResponse, GetKeyResponse, CloseResponse)
_METADATA_BYTES = 1024
"""Room for metadata at first."""
_METADATA_BYTES_MAX = 1 << 16


class Etsi004Client:
    """One connection to a key manager; made on the first call.

    Args:
        server_name: DNS name that the key manager's certificate must carry.
        context: of TLS, asked for each connection anew.
        timeout_s: for each call, connecting included; longer than the timeout of the QoS.
        admit: asked of each new connection, before anything is sent on it, whether it may be used.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        server_name: str,
        context: Callable[[], ssl.SSLContext],
        timeout_s: float = 30.0,
        admit: Callable[[asyncio.BaseTransport], bool] = lambda _: True,
    ) -> None:
        self._host, self._port, self._server_name = host, port, server_name
        self._context, self._timeout_s, self._admit = context, timeout_s, admit
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open_connect(
        self, source: str, destination: str, qos: Qos, key_stream_id: UUID = NO_STREAM
    ) -> OpenConnectResponse:
        """Open a key stream, or join one; a failure is in the status."""
        request = OpenConnectRequest(source, destination, qos, key_stream_id)
        return await self._call(request, OpenConnectResponse, 4096)

    async def get_key(self, key_stream_id: UUID, index: int, *, chunk_bytes: int) -> GetKeyResponse:
        """Get the chunk at ``index``; a failure is in the status.

        A key manager that wants more room for metadata is given it.
        """
        answer = await self._get(key_stream_id, index, _METADATA_BYTES, chunk_bytes)
        needed = answer.metadata_size_needed
        if answer.status == Status.METADATA_SIZE_INSUFFICIENT and 0 < needed <= _METADATA_BYTES_MAX:
            answer = await self._get(key_stream_id, index, needed, chunk_bytes)
        if answer.status == Status.SUCCESS and (answer.index != index or len(answer.key) != chunk_bytes):
            self.drop()
            message = f"asked for {chunk_bytes} bytes at {index}, got {len(answer.key)} at {answer.index}"
            raise PeerFault(message, code="etsi004_client.wrong_chunk")
        return answer

    async def close_stream(self, key_stream_id: UUID) -> CloseResponse:
        """Close a key stream."""
        return await self._call(CloseRequest(key_stream_id), CloseResponse, 4096)

    def drop(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection[1].transport.abort()
            self._connection = None

    async def _get(self, key_stream_id: UUID, index: int, metadata_size: int, chunk_bytes: int) -> GetKeyResponse:
        most = min(PAYLOAD_BYTES_MAX, 16 + chunk_bytes + _METADATA_BYTES_MAX)
        return await self._call(GetKeyRequest(key_stream_id, index, metadata_size), GetKeyResponse, most)

    async def _call(self, request: Message004, expected: type[M], most: int) -> M:
        done = False
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await self._exchange(request, most)
            if not isinstance(answer, expected):
                raise PeerFault(f"a {type(answer).__name__} came, expected {expected.__name__}")
            done = True
            return answer
        except TimeoutError as err:
            message = f"the key manager at {self._host} did not answer in time"
            raise Unavailable(message, code="etsi004_client.timeout") from err
        except (OSError, EOFError) as err:
            raise self._meaning(err) from err
        finally:
            if not done:
                self.drop()

    async def _exchange(self, request: Message004, most: int) -> Message004:
        if self._connection is None:
            self._connection = await asyncio.open_connection(
                self._host, self._port, ssl=self._context(), server_hostname=self._server_name
            )
            if not self._admit(self._connection[1].transport):
                message = f"the certificate of the key manager at {self._host} is not admitted"
                raise PeerFault(message, code="tls.not_admitted")
        reader, writer = self._connection
        writer.write(encode_frame(request))
        await writer.drain()
        service, length = parse_header(await reader.readexactly(HEADER_BYTES), most)
        return decode_payload(service, await reader.readexactly(length))

    def _meaning(self, err: OSError | EOFError) -> Denied | PeerFault | Unavailable:
        refused = certificate_alert(err)
        if refused:
            message = f"the key manager at {self._host} refused our certificate: {refused}"
            return Denied(message, code="etsi004_client.certificate_refused")
        if isinstance(err, ssl.SSLError):
            return PeerFault(f"TLS with the key manager at {self._host} failed", code="etsi004_client.tls")
        reason = reason_of(err) if isinstance(err, OSError) else "it closed the connection"
        message = f"the key manager at {self._host} is unreachable: {reason}"
        return Unavailable(message, code="etsi004_client.unreachable")
