"""A vendor's key managers as the source of a link's bits, through ETSI GS QKD 004.

The transmitting end opens a key stream (OPEN_CONNECT without a Key_stream_ID) and tells the other end its ID; that one
joins it at the vendor's key manager there. A chunk of key is named by stream and index, and each end gets the chunks
of a block by the same names. Both directions of a link have a stream each, opened by the end that transmits. Every
failure ends the stream, and the next attempt opens another: no index of a stream is ever asked for twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from shosoin.adapters.etsi004_client import Etsi004Client
from shosoin.adapters.used_tickets import UsedMemory
from shosoin.base import PeerFault, ShosoinError, Unavailable
from shosoin.keys.wire004 import JSON_MIMETYPE, NO_STREAM, OpenConnectResponse, Qos, Status
from shosoin.services.sources.config import Etsi004Section
from shosoin.services.sources.offers import TICKETS_MAX
from shosoin.services.sources.port import Material, Supply, UndeclaredSimulation
from shosoin.services.tls_plane import TlsPlane

__all__ = ["Pull004"]

_INDEX_MAX = (1 << 32) - 1
_DRY = {Status.INSUFFICIENT_KEY, Status.TIMEOUT}
"""The stream is well and has no key now."""
_PATIENCE = 5
"""How often in a row a key manager may say that the peer has not joined, which some also say of streams they forgot."""
_TRIES, _TRY_AGAIN_S = 20, 0.1
"""For a chunk that the other end has and this end's key manager does not have yet."""
_FAREWELL_S = 2.0


class _Stream:
    """One key stream at one key manager: a connection of its own."""

    def __init__(self, section: Etsi004Section, plane: TlsPlane) -> None:
        self._section, self._plane = section, plane
        self._client: Etsi004Client | None = None
        self._context: ssl.SSLContext | None = None
        self._alone = 0
        self.id: UUID | None = None
        self.next_index = 0

    @property
    def is_outdated(self) -> bool:
        """Whether there is a newer certificate than its connection was made with."""
        return self._client is not None and self._context is not self._plane.client_context()

    async def open(self, wanted: UUID) -> None:
        """Open a stream, or join ``wanted``; a counter-proposal is taken if the chunks keep their size."""
        place = self._section
        context = self._context = self._plane.client_context()
        self._client = Etsi004Client(
            place.host,
            place.port,
            server_name=place.server_name,
            context=lambda: context,
            timeout_s=place.timeout_s,
            admit=self._plane.admit,
        )
        qos = Qos(
            key_chunk_size_bytes=place.chunk_bytes,
            max_bps=place.max_bps,
            timeout_ms=int(place.timeout_s * 500),
            ttl_s=place.ttl_s,
            metadata_mimetype=JSON_MIMETYPE,  # which may say that the keys are simulated
        )
        answer = await self._client.open_connect(place.source, place.destination, qos, wanted)
        if answer.status == Status.QOS_NOT_MET and answer.qos is not None:
            second = await self._client.open_connect(place.source, place.destination, answer.qos, wanted)
            # Some servers open the stream on their own proposal, and then find it in use.
            opened = second.status == Status.KSID_IN_USE and answer.key_stream_id == wanted != NO_STREAM
            answer = replace(answer, status=Status.SUCCESS) if opened else second
        self.id, self.next_index = self._accepted(answer, wanted), 0

    def _accepted(self, answer: OpenConnectResponse, wanted: UUID) -> UUID:
        if answer.status not in {Status.SUCCESS, Status.PEER_NOT_CONNECTED}:
            raise Unavailable(f"OPEN_CONNECT failed with status {answer.status}", code="source.open_connect")
        if answer.qos is None or answer.key_stream_id is None or answer.key_stream_id == NO_STREAM:
            raise PeerFault("OPEN_CONNECT succeeded without a stream", code="source.open_connect")
        if answer.qos.key_chunk_size_bytes != self._section.chunk_bytes:
            message = f"the key manager offers chunks of {answer.qos.key_chunk_size_bytes} bytes"
            raise Unavailable(message, code="source.chunk_size", hint="set chunk_bytes to that at both ends")
        if wanted not in {NO_STREAM, answer.key_stream_id}:
            raise PeerFault("OPEN_CONNECT opened another stream than asked for", code="source.open_connect")
        return answer.key_stream_id

    async def get(self, index: int) -> bytes | None:
        """Return the chunk at an index; ``None`` if there is none now."""
        if self._client is None or self.id is None:
            raise Unavailable("the key stream is not open", code="source.stream_not_open")
        answer = await self._client.get_key(self.id, index, chunk_bytes=self._section.chunk_bytes)
        alone = answer.status == Status.PEER_NOT_CONNECTED_GET_KEY
        self._alone = self._alone + 1 if alone else 0
        if answer.status in _DRY or (alone and self._alone < _PATIENCE):
            return None
        if answer.status != Status.SUCCESS:
            raise Unavailable(f"GET_KEY failed with status {answer.status}", code="source.get_key")
        if says_simulated(answer.metadata) and not self._section.simulated:
            raise UndeclaredSimulation("the key manager declares its keys simulated, this link's table does not")
        return bytes(answer.key)

    async def close(self) -> None:
        """Close the stream, if that can be done soon, and the connection in any case."""
        client, stream, self._client, self.id = self._client, self.id, None, None
        if client is None:
            return
        try:
            if stream is not None:
                with contextlib.suppress(ShosoinError, TimeoutError):
                    async with asyncio.timeout(_FAREWELL_S):
                        await client.close_stream(stream)
        finally:
            client.drop()

    def drop(self) -> None:
        """Drop the connection; the stream stays as it is at the key manager."""
        if self._client is not None:
            self._client.drop()
        self._client = None


class Pull004(Supply):
    """One of our KMEs as an application of a vendor's key manager.

    Args:
        plane: its TLS endpoint; a new certificate is shown before the next block.
    """

    def __init__(self, section: Etsi004Section, plane: TlsPlane, used: UsedMemory) -> None:
        super().__init__(used)
        self._outgoing, self._incoming = _Stream(section, plane), _Stream(section, plane)
        self._held = Material()
        """Chunks that do not make a block yet."""

    async def stop(self) -> None:
        """Close both streams."""
        await self.forget(transmitting=True)
        await self.forget(transmitting=False)

    async def forget(self, *, transmitting: bool) -> None:
        """Close the stream of a role: the next block comes from another one."""
        if transmitting:
            self._held.wipe()
            self._held = Material()
        await (self._outgoing if transmitting else self._incoming).close()

    async def prepare(self) -> str:
        """Have a stream open; its ID is the note."""
        if self._outgoing.next_index > _INDEX_MAX - TICKETS_MAX or self._outgoing.is_outdated:
            await self.forget(transmitting=True)
        if self._outgoing.id is None:
            await self._outgoing.open(NO_STREAM)
        return str(self._outgoing.id)

    async def greet(self, note: str) -> str:
        """Join the peer's stream."""
        await self._join(_stream_id(note))
        return ""

    async def draw(self, least_bytes: int, most_bytes: int) -> Material | None:
        """Get chunks until a block is full or there are no more now."""
        held, stream = self._held, self._outgoing
        while held.size_bytes < most_bytes and len(held.tickets) < TICKETS_MAX:
            index = stream.next_index
            chunk = await stream.get(index)
            if chunk is None:
                break
            stream.next_index = index + 1
            held.add(f"{stream.id}/{index}", chunk)
        if held.size_bytes < least_bytes:
            return None
        self._held = Material()
        return held

    async def fetch(self, tickets: Sequence[str], size_bytes: int) -> Material:
        """Get the chunks that the other end got."""
        material = Material()
        try:
            for ticket in tickets:
                stream, index = _chunk_of(ticket)
                await self._join(stream)
                material.add(ticket, await self._get(index))
        except BaseException:
            material.wipe()
            raise
        return material

    async def _join(self, wanted: UUID) -> None:
        if self._incoming.id != wanted:
            await self._incoming.close()
            await self._incoming.open(wanted)
        elif self._incoming.is_outdated:
            self._incoming.drop()
            await self._incoming.open(wanted)

    async def _get(self, index: int) -> bytes:
        for _ in range(_TRIES):
            chunk = await self._incoming.get(index)
            if chunk is not None:
                return chunk
            await asyncio.sleep(_TRY_AGAIN_S)
        raise Unavailable(f"the key manager has no chunk {index}, the peer's has", code="source.get_key")


def says_simulated(metadata: bytes) -> bool:
    """Whether the metadata of a chunk call it simulated, as those of our own key managers do.

    >>> says_simulated(b'{"age":7,"shosoin_simulated":true}'), says_simulated(b""), says_simulated(b"<age>7</age>")
    (True, False, False)
    """
    try:
        said = json.loads(metadata.rstrip(b"\0"))
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and said.get("shosoin_simulated") is True


def _chunk_of(ticket: str) -> tuple[UUID, int]:
    """Return stream and index of a ticket; each chunk has one spelling."""
    name, _, number = ticket.partition("/")
    stream = _stream_id(name)
    index = int(number) if number.isascii() and number.isdigit() and len(number) <= 10 else -1
    if not 0 <= index <= _INDEX_MAX or ticket != f"{stream}/{index}":
        raise PeerFault("a ticket that names no chunk", code="source.bad_offer")
    return stream, index


def _stream_id(text: str) -> UUID:
    try:
        stream = UUID(text)
    except ValueError as err:
        raise PeerFault("a note that names no key stream", code="source.bad_offer") from err
    if stream == NO_STREAM:
        raise PeerFault("a note that names no key stream", code="source.bad_offer")
    return stream
