"""ETSI GS QKD 004 V2.1.1 on the wire: the binary form of ETSI's own C code, for clients and servers alike.

The standard defines three calls and no encoding. ETSI's example code (forge.etsi.org, gs004-app-int) and QUBIP's Python
port of it exchange frames over TLS, which is what this module reads and writes, all integers big-endian::

    frame           version (3 bytes: 1 0 1) | service (1) | length of payload (4) | payload
    2 OPEN_CONNECT  source, 0 | destination, 0 | QoS | Key_stream_ID (16, all zero: make one)
    3   response    status (4) | QoS | Key_stream_ID        a failure may end after its status
    4 GET_KEY       Key_stream_ID | index (4) | Metadata_size (4)
    5   response    status | index | Key_chunk_size (4) | key | Metadata_size | metadata
                    a failure may end after its status; status 8 is followed by the Metadata_size needed
    8 CLOSE         Key_stream_ID
    9   response    status
    QoS             Key_chunk_size, Max_bps, Min_bps, Jitter, Priority, Timeout, TTL (4 each) | Metadata_mimetype (256)

Bytes in, values out; nothing here reads a socket or keeps state. ``parse_header`` bounds what is read.

>>> frame = encode_frame(CloseRequest(UUID(int=5)))
>>> service, length = parse_header(frame[:HEADER_BYTES])
>>> decode_payload(service, frame[HEADER_BYTES:])
CloseRequest(key_stream_id=UUID('00000000-0000-0000-0000-000000000005'))
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar
from uuid import UUID

from shosoin.base import PeerFault
from shosoin.keys.errors import KeysError

__all__ = [
    "DEFAULT_PORT",
    "HEADER_BYTES",
    "JSON_MIMETYPE",
    "NO_STREAM",
    "PAYLOAD_BYTES_MAX",
    "REQUEST_BYTES_MAX",
    "URI_BYTES_MAX",
    "CloseRequest",
    "CloseResponse",
    "GetKeyRequest",
    "GetKeyResponse",
    "Message004",
    "OpenConnectRequest",
    "OpenConnectResponse",
    "Qos",
    "Service",
    "Status",
    "WireFault",
    "decode_payload",
    "encode_frame",
    "parse_header",
]

DEFAULT_PORT = 25575
HEADER_BYTES = 8
URI_BYTES_MAX = 1024
REQUEST_BYTES_MAX = 2 * (URI_BYTES_MAX + 1) + 7 * 4 + 256 + 16
"""Longest payload of a request."""
PAYLOAD_BYTES_MAX = 8 << 20
"""Longest payload that either side need read; a chunk of key fills it, not more."""
JSON_MIMETYPE = "application/json"
NO_STREAM = UUID(int=0)
"""What a caller of OPEN_CONNECT sends who wants a Key_stream_ID."""

_VERSION = (1, 0, 1)
_HEADER = struct.Struct(">BBBBI")
_NUMBERS = struct.Struct(">7I")
_WORD = struct.Struct(">I")
_MIMETYPE_BYTES = 256
_ID_BYTES = 16
_WORD_MAX = (1 << 32) - 1


class WireFault(KeysError, PeerFault):
    """Bytes that are no message of this protocol."""

    code = "keys.wire004"


class Service(IntEnum):
    """The fourth byte of a frame."""

    OPEN_CONNECT_REQUEST = 2
    OPEN_CONNECT_RESPONSE = 3
    GET_KEY_REQUEST = 4
    GET_KEY_RESPONSE = 5
    CLOSE_REQUEST = 8
    CLOSE_RESPONSE = 9


class Status(IntEnum):
    """Table 2 of the standard; others may come, and are failures."""

    SUCCESS = 0
    PEER_NOT_CONNECTED = 1
    """OPEN_CONNECT succeeded, the peer application has not called yet."""
    INSUFFICIENT_KEY = 2
    PEER_NOT_CONNECTED_GET_KEY = 3
    NO_QKD_CONNECTION = 4
    KSID_IN_USE = 5
    TIMEOUT = 6
    QOS_NOT_MET = 7
    """The counter-proposal is in the response."""
    METADATA_SIZE_INSUFFICIENT = 8


@dataclass(frozen=True, slots=True)
class Qos:
    """What a stream is asked to give; every number is below 2^32, and 0 leaves the choice to the key manager."""

    key_chunk_size_bytes: int
    max_bps: int = 0
    min_bps: int = 0
    jitter_bps: int = 0
    priority: int = 0
    timeout_ms: int = 0
    ttl_s: int = 0
    metadata_mimetype: str = ""
    """Empty for no metadata, else ASCII of at most 256 characters."""

    def encode(self) -> bytes:
        """Return the 284 bytes of it."""
        numbers = (
            self.key_chunk_size_bytes,
            self.max_bps,
            self.min_bps,
            self.jitter_bps,
            self.priority,
            self.timeout_ms,
            self.ttl_s,
        )
        mimetype = _ascii(self.metadata_mimetype, _MIMETYPE_BYTES, "Metadata_mimetype")
        return b"".join(map(_word, numbers)) + mimetype.ljust(_MIMETYPE_BYTES, b"\0")

    @classmethod
    def decode(cls, raw: bytes) -> Qos:
        """Read it from exactly its bytes; what follows a zero in the mimetype is ignored."""
        mimetype = raw[_NUMBERS.size :].partition(b"\0")[0]
        chunk, most, least, jitter, priority, timeout, ttl = _NUMBERS.unpack_from(raw)
        return cls(chunk, most, least, jitter, priority, timeout, ttl, _text(mimetype, "Metadata_mimetype"))


_QOS_BYTES = _NUMBERS.size + _MIMETYPE_BYTES


@dataclass(frozen=True, slots=True)
class OpenConnectRequest:
    """OPEN_CONNECT; ``source`` calls, ``destination`` is its peer application."""

    service: ClassVar[Service] = Service.OPEN_CONNECT_REQUEST
    source: str
    destination: str
    qos: Qos
    key_stream_id: UUID = NO_STREAM

    def encode(self) -> bytes:
        """Return the payload."""
        source = _ascii(self.source, URI_BYTES_MAX, "source")
        destination = _ascii(self.destination, URI_BYTES_MAX, "destination")
        return source + b"\0" + destination + b"\0" + self.qos.encode() + self.key_stream_id.bytes

    @classmethod
    def decode(cls, raw: bytes) -> OpenConnectRequest:
        """Read the payload."""
        source, first, rest = raw.partition(b"\0")
        destination, second, tail = rest.partition(b"\0")
        if not first or not second or max(len(source), len(destination)) > URI_BYTES_MAX:
            raise WireFault("OPEN_CONNECT without a source and a destination of at most 1024 bytes")
        _expect("OPEN_CONNECT request", tail, _QOS_BYTES + _ID_BYTES)
        qos, stream = Qos.decode(tail[:_QOS_BYTES]), UUID(bytes=bytes(tail[_QOS_BYTES:]))
        return cls(_text(source, "source"), _text(destination, "destination"), qos, stream)


@dataclass(frozen=True, slots=True)
class OpenConnectResponse:
    """Answer to OPEN_CONNECT; QoS and Key_stream_ID may be absent from a failure, and only together."""

    service: ClassVar[Service] = Service.OPEN_CONNECT_RESPONSE
    status: int
    qos: Qos | None = None
    key_stream_id: UUID | None = None

    def encode(self) -> bytes:
        """Return the payload."""
        if self.qos is None or self.key_stream_id is None:
            return _word(self.status)
        return _word(self.status) + self.qos.encode() + self.key_stream_id.bytes

    @classmethod
    def decode(cls, raw: bytes) -> OpenConnectResponse:
        """Read the payload."""
        status, rest = _status_of(raw)
        if not rest and status not in {Status.SUCCESS, Status.PEER_NOT_CONNECTED}:
            return cls(status)
        _expect("OPEN_CONNECT response", rest, _QOS_BYTES + _ID_BYTES)
        return cls(status, Qos.decode(rest[:_QOS_BYTES]), UUID(bytes=bytes(rest[_QOS_BYTES:])))


@dataclass(frozen=True, slots=True)
class GetKeyRequest:
    """GET_KEY: the chunk at ``index``, and the room for metadata (0: none wanted)."""

    service: ClassVar[Service] = Service.GET_KEY_REQUEST
    key_stream_id: UUID
    index: int
    metadata_size: int = 0

    def encode(self) -> bytes:
        """Return the payload."""
        return self.key_stream_id.bytes + _word(self.index) + _word(self.metadata_size)

    @classmethod
    def decode(cls, raw: bytes) -> GetKeyRequest:
        """Read the payload."""
        _expect("GET_KEY request", raw, _ID_BYTES + 8)
        return cls(UUID(bytes=bytes(raw[:_ID_BYTES])), *struct.unpack(">II", raw[_ID_BYTES:]))


@dataclass(frozen=True, slots=True)
class GetKeyResponse:
    """Answer to GET_KEY; only a success has index, key and metadata."""

    service: ClassVar[Service] = Service.GET_KEY_RESPONSE
    status: int
    index: int = 0
    key: bytes | bytearray = field(default=b"", repr=False)
    metadata: bytes = b""
    metadata_size_needed: int = 0
    """With status 8."""

    def encode(self) -> bytes:
        """Return the payload."""
        if self.status == Status.METADATA_SIZE_INSUFFICIENT:
            return _word(self.status) + _word(self.metadata_size_needed)
        if self.status != Status.SUCCESS:
            return _word(self.status)
        head = _word(self.status) + _word(self.index) + _word(len(self.key))
        return b"".join((head, self.key, _word(len(self.metadata)), self.metadata))

    @classmethod
    def decode(cls, raw: bytes) -> GetKeyResponse:
        """Read the payload; whatever a failure carries besides its status does not count."""
        status, rest = _status_of(raw)
        if status == Status.METADATA_SIZE_INSUFFICIENT:
            # ETSI's order of members puts it last, QUBIP's server sends it alone.
            return cls(status, metadata_size_needed=_WORD.unpack(rest[-4:])[0] if len(rest) >= 4 else 0)
        if status != Status.SUCCESS:
            return cls(status)
        if len(rest) < 12:
            raise WireFault(f"GET_KEY response of {len(raw)} bytes")
        index, chunk = struct.unpack_from(">II", rest)
        if len(rest) < 12 + chunk:
            raise WireFault(f"GET_KEY response announces {chunk} bytes of key and ends before")
        (size,) = _WORD.unpack_from(rest, 8 + chunk)
        _expect("GET_KEY response", rest, 12 + chunk + size)
        return cls(status, index, bytes(rest[8 : 8 + chunk]), bytes(rest[12 + chunk :]))


@dataclass(frozen=True, slots=True)
class CloseRequest:
    """CLOSE."""

    service: ClassVar[Service] = Service.CLOSE_REQUEST
    key_stream_id: UUID

    def encode(self) -> bytes:
        """Return the payload."""
        return self.key_stream_id.bytes

    @classmethod
    def decode(cls, raw: bytes) -> CloseRequest:
        """Read the payload."""
        _expect("CLOSE request", raw, _ID_BYTES)
        return cls(UUID(bytes=bytes(raw)))


@dataclass(frozen=True, slots=True)
class CloseResponse:
    """Answer to CLOSE."""

    service: ClassVar[Service] = Service.CLOSE_RESPONSE
    status: int

    def encode(self) -> bytes:
        """Return the payload."""
        return _word(self.status)

    @classmethod
    def decode(cls, raw: bytes) -> CloseResponse:
        """Read the payload."""
        _expect("CLOSE response", raw, _WORD.size)
        return cls(_status_of(raw)[0])


Message004 = OpenConnectRequest | OpenConnectResponse | GetKeyRequest | GetKeyResponse | CloseRequest | CloseResponse
_DECODERS: dict[int, Callable[[bytes], Any]] = {
    kind.service: kind.decode
    for kind in (
        OpenConnectRequest,
        OpenConnectResponse,
        GetKeyRequest,
        GetKeyResponse,
        CloseRequest,
        CloseResponse,
    )
}


def encode_frame(message: Message004) -> bytes:
    """Return a message with its header.

    Raises:
        ValueError: a number does not fit 32 bits, or a text is not printable ASCII or too long: our own mistake.
    """
    payload = message.encode()
    return _HEADER.pack(*_VERSION, message.service, len(payload)) + payload


def parse_header(raw: bytes, most: int = PAYLOAD_BYTES_MAX) -> tuple[Service, int]:
    """Return service and length of payload from the 8 bytes of a header.

    Raises:
        WireFault: another major version, an unknown service, or a payload of more than ``most`` bytes.
    """
    _expect("header", raw, HEADER_BYTES)
    major, _, _, service, length = _HEADER.unpack(raw)
    if major != _VERSION[0]:
        raise WireFault(f"version {major} of the protocol, expected {_VERSION[0]}")
    if service not in _DECODERS:
        raise WireFault(f"unknown service {service}")
    if length > most:
        raise WireFault(f"payload of {length} bytes, expected at most {most}")
    return Service(service), length


def decode_payload(service: Service, raw: bytes) -> Message004:
    """Return the message in a payload.

    Raises:
        WireFault: it is none of that service.
    """
    message: Message004 = _DECODERS[service](raw)
    return message


def _status_of(raw: bytes) -> tuple[int, bytes]:
    if len(raw) < _WORD.size:
        raise WireFault(f"response of {len(raw)} bytes has no status")
    return _WORD.unpack_from(raw)[0], raw[_WORD.size :]


def _expect(what: str, raw: bytes, size: int) -> None:
    if len(raw) != size:
        raise WireFault(f"{what} of {len(raw)} bytes, expected {size}")


def _text(raw: bytes, what: str) -> str:
    if not all(0x20 <= byte <= 0x7E for byte in raw):
        raise WireFault(f"{what} is not printable ASCII")
    return bytes(raw).decode("ascii")


def _ascii(text: str, most: int, what: str) -> bytes:
    if len(text) > most or not all(" " <= letter <= "~" for letter in text):
        raise ValueError(f"{what} must be at most {most} printable ASCII characters")
    return text.encode("ascii")


def _word(number: int) -> bytes:
    if not 0 <= number <= _WORD_MAX:
        raise ValueError(f"{number} does not fit 32 bits")
    return _WORD.pack(number)
