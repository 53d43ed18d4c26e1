"""Every message carries a tag that only the peer can make, whatever an adversary can compute.

Wegman and Carter: a polynomial hash over GF(2^128) under a secret key, masked by a pad of 128 bits that no other
message ever gets. Hash keys and pads are slices of a *key stream* that both ends hold, one stream for each direction,
addressed by position; a message names its two positions. The hash key stays for some messages, which is safe as long
as the pads are fresh (the tags then show nothing of it), and is renewed with every 64th message.

Three rules keep a pad from being used twice. A sender stores a watermark *ahead* of the positions it uses, in strides,
and a new session starts at the watermark: a crash burns what lies between. A receiver stores its own watermark in the
same strides and refuses positions below. Whatever is below a watermark can never be read again.

A message may be *deferred*: it travels without a tag and is hashed with the next tagged message of its direction.
Parities of Cascade are: hundreds of small messages to a block, none of which decides anything before a tagged one does.

What is hashed begins with the header (version, kind, direction, length, number, sequence, positions), then the name of
the session, then the body, then header and body of what was deferred, each with zeros to a whole element. The first
element is never zero and headers hold the lengths, so that two different conversations are two different polynomials.

Source: Wegman and Carter, JCSS 22, 1981; Krawczyk, CRYPTO '94 (almost XOR-universal hash and one-time pad); epsilon of
one message: L/2^128, L being the elements of the longest text that would be taken in its place. Composition over many
messages: Portmann, IEEE Trans. Inf. Theory 60, 2014.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from itertools import takewhile

from shosoin.kernels import polynomial_mac
from shosoin.link.postprocessing.errors import AuthenticationDry, MessageForged, MessageMalformed

__all__ = [
    "DEFERRED",
    "FORGERY_EPSILON",
    "HEADER_BYTES",
    "MESSAGE_BYTES_MAX",
    "STRIDE_BYTES",
    "TAG_BYTES",
    "Direction",
    "Header",
    "KeyStreams",
    "Opener",
    "Sealer",
    "message_bytes",
    "parse_header",
    "start_records",
]

VERSION = 2
TAG_BYTES = 16
STRIDE_BYTES = 64
"""What a watermark moves by, and so the most that the start of a session burns: 4 pads. A line that flaps must not use
up what it has before it makes more."""
MESSAGE_BYTES_MAX = 32 << 20
"""Longest body: the seed of a block of 10^8 bits fits."""

_HEADER = struct.Struct("<2sBBIQQQQ8x")
HEADER_BYTES = _HEADER.size
SESSION_BYTES = 32
DEFERRED = (1 << 64) - 1
"""The position of the pad of a message that carries no tag."""
_MAGIC = b"SL"
_ELEMENT = 16
FORGERY_EPSILON = (HEADER_BYTES + SESSION_BYTES + 2 * MESSAGE_BYTES_MAX) / _ELEMENT * 2.0**-128
"""The chance of a forger at one message: a forged one may be as long as any that is taken, deferred ones included."""


class Direction(IntEnum):
    """Who speaks."""

    TO_RECEIVER = 0
    TO_TRANSMITTER = 1

    @property
    def other(self) -> Direction:
        """The way back."""
        return Direction(1 - self)


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in front of a message, in clear."""

    kind: int
    direction: Direction
    body_bytes: int
    number: int
    """Of the block or batch that the message is about."""
    sequence: int
    """Counts the messages of one direction in one session."""
    hash_position: int
    pad_position: int

    def pack(self) -> bytes:
        """Return the 48 bytes."""
        flags = self.kind << 1 | self.direction
        return _HEADER.pack(
            _MAGIC, VERSION, flags, self.body_bytes, self.number, self.sequence, self.hash_position, self.pad_position
        )


def parse_header(raw: bytes | memoryview) -> Header:
    """Return what a header says; nothing of it is authentic yet.

    Raises:
        MessageMalformed: no header of this version, or a body beyond the limit.
    """
    if len(raw) < HEADER_BYTES:
        raise MessageMalformed(f"a header of {len(raw)} bytes, expected {HEADER_BYTES}")
    magic, version, flags, size, number, sequence, hash_position, pad_position = _HEADER.unpack(raw[:HEADER_BYTES])
    if magic != _MAGIC or version != VERSION or any(raw[HEADER_BYTES - 8 : HEADER_BYTES]):
        raise MessageMalformed(f"no message of version {VERSION}")
    if size > MESSAGE_BYTES_MAX:
        raise MessageMalformed(f"a body of {size} bytes, expected at most {MESSAGE_BYTES_MAX}")
    return Header(flags >> 1, Direction(flags & 1), size, number, sequence, hash_position, pad_position)


def message_bytes(header: Header) -> int:
    """Return how long a message is, header and tag included."""
    return HEADER_BYTES + header.body_bytes + (0 if header.pad_position == DEFERRED else TAG_BYTES)


class KeyStreams:
    """The two key streams of an end, and their watermarks as the journal has them.

    Records: ``auth/mark/DIRECTION`` is a watermark; ``auth/key/DIRECTION/POSITION`` is a piece of the stream.
    This class computes which records change; whoever owns the journal commits them.

    Security: what lies below a watermark was used or burned and is never handed out again.
    """

    def __init__(self, records: Mapping[str, bytes]) -> None:
        found: dict[Direction, dict[int, bytes]] = {direction: {} for direction in Direction}
        for name, value in records.items():
            if name.startswith("auth/key/"):
                direction, position = name.removeprefix("auth/key/").split("/")
                found[Direction(int(direction))][int(position)] = value
        # In the order of the stream, which `extend` keeps: what is used next lies at the front.
        self._pieces = {direction: dict(sorted(pieces.items())) for direction, pieces in found.items()}
        self.marks = {way: int.from_bytes(records.get(f"auth/mark/{way}", b""), "little") for way in Direction}
        self._ends = {
            way: max((at + len(piece) for at, piece in self._pieces[way].items()), default=self.marks[way])
            for way in Direction
        }

    def end(self, direction: Direction) -> int:
        """Return the position at which a stream ends for now."""
        return self._ends[direction]

    def reserve(self, direction: Direction, end: int) -> dict[str, bytes | None]:
        """Move a watermark to the stride that holds ``end``; return the records to commit *before* use.

        Pieces that lie below the old watermark go.
        """
        old = self.marks[direction]
        mark = -(-end // STRIDE_BYTES) * STRIDE_BYTES
        if mark <= old:
            return {}
        changes: dict[str, bytes | None] = {f"auth/mark/{int(direction)}": mark.to_bytes(8, "little")}
        pieces = self._pieces[direction]
        past = takewhile(lambda at: at + len(pieces[at]) <= old - STRIDE_BYTES, pieces)
        for at in list(past):
            del pieces[at]
            changes[f"auth/key/{int(direction)}/{at}"] = None
        self.marks[direction] = mark
        return changes

    def extend(self, direction: Direction, material: bytes) -> dict[str, bytes | None]:
        """Add bytes at the end of a stream; return the records to commit."""
        at = self._ends[direction]
        self._pieces[direction][at] = material
        self._ends[direction] = at + len(material)
        return {f"auth/key/{int(direction)}/{at}": material}

    def read(self, direction: Direction, position: int) -> bytes:
        """Return the 16 bytes at a position that was reserved.

        Raises:
            AuthenticationDry: the stream ends before.
        """
        for at, piece in self._pieces[direction].items():
            if at <= position and position + _ELEMENT <= at + len(piece):
                return piece[position - at : position - at + _ELEMENT]
        raise AuthenticationDry(f"the authentication key of one direction ends before position {position}")

    def __repr__(self) -> str:
        return f"KeyStreams(marks={dict(self.marks)}, ends={dict(self._ends)}, redacted)"


def start_records(start_key: bytes) -> dict[str, bytes | None]:
    """Return the records of two streams made from the key that both ends were given: half for each direction.

    Raises:
        ValueError: the halves are no whole number of strides, or none.
    """
    if not start_key or len(start_key) % (2 * STRIDE_BYTES):
        raise ValueError(f"got a start key of {len(start_key)} bytes, expected a multiple of {2 * STRIDE_BYTES}")
    half = len(start_key) // 2
    return {
        f"auth/key/{int(way)}/{at}": start_key[way * half + at : way * half + at + STRIDE_BYTES]
        for way in Direction
        for at in range(0, half, STRIDE_BYTES)
    }


def _deferred_size(header: Header) -> int:
    return HEADER_BYTES + -(-header.body_bytes // _ELEMENT) * _ELEMENT


class _Side:
    """What sealing and opening share: the session's name, the sequence, the hash key, the place in the stream."""

    def __init__(self, streams: KeyStreams, direction: Direction) -> None:
        self._streams = streams
        self._direction = direction
        self._sequence = 0
        self._hash_position = 0
        self._hash_key = b""
        self._next = streams.marks[direction]
        self._deferred: list[bytes] = []
        self._deferred_bytes = 0
        self.session = bytes(SESSION_BYTES)

    def _tag(self, header: Header, body: bytes | memoryview, pad: bytes) -> bytes:
        text = b"".join((header.pack(), self.session, body, bytes(-header.body_bytes % _ELEMENT), *self._deferred))
        self._deferred, self._deferred_bytes = [], 0
        return polynomial_mac(self._hash_key + pad, text)

    def _defer(self, header: Header, body: bytes | memoryview) -> None:
        self._deferred += (header.pack(), bytes(body), bytes(-header.body_bytes % _ELEMENT))
        self._deferred_bytes += _deferred_size(header)


class Sealer(_Side):
    """Makes messages of one direction. ``prepare`` says what must be durable before ``seal`` may use the stream."""

    def __init__(self, streams: KeyStreams, direction: Direction) -> None:
        super().__init__(streams, direction)
        self._renew = True

    def renew(self) -> None:
        """Take a fresh hash key with the next message."""
        self._renew = True

    def prepare(self, limit: int) -> dict[str, bytes | None]:
        """Return the records to commit before the next ``seal``.

        Args:
            limit: position that must not be passed: the peer has not confirmed what lies behind.

        Raises:
            AuthenticationDry: too little is left.
        """
        end = self._next + (2 if self._renew else 1) * _ELEMENT
        if end > limit:
            raise AuthenticationDry(f"the authentication key ends at position {limit}, the next message needs {end}")
        return self._streams.reserve(self._direction, end)

    def seal(self, kind: int, number: int, body: bytes) -> bytes:
        """Return header, body and tag of the next message; ``prepare`` came first."""
        if self._renew:
            self._hash_position, self._next = self._next, self._next + _ELEMENT
            self._hash_key = self._streams.read(self._direction, self._hash_position)
            self._renew = False
        position, self._next = self._next, self._next + _ELEMENT
        header = Header(kind, self._direction, len(body), number, self._sequence, self._hash_position, position)
        self._sequence += 1
        tag = self._tag(header, body, self._streams.read(self._direction, position))
        return b"".join((header.pack(), body, tag))

    def defer(self, kind: int, number: int, body: bytes) -> bytes:
        """Return header and body of the next message, whose tag is that of the next tagged one."""
        header = Header(kind, self._direction, len(body), number, self._sequence, self._hash_position, DEFERRED)
        self._sequence += 1
        self._defer(header, body)
        return header.pack() + body


class Opener(_Side):
    """Reads messages of one direction and refuses every one but the next.

    Args:
        deferrable: kinds that may come without a tag.
    """

    def __init__(self, streams: KeyStreams, direction: Direction, deferrable: frozenset[int]) -> None:
        super().__init__(streams, direction)
        self._deferrable = deferrable

    def open(self, raw: bytes | memoryview) -> tuple[Header, memoryview, dict[str, bytes | None]]:
        """Return header, body, and the records to commit before acting on them.

        Raises:
            MessageForged: no right tag, or not the next message of this session.
            MessageMalformed: no message at all.
        """
        view = memoryview(raw)
        header = parse_header(view)
        if header.direction is not self._direction or header.sequence != self._sequence:
            raise MessageForged(f"got message {header.sequence} of one direction, expected {self._sequence}")
        if header.pad_position == DEFERRED:
            return self._open_deferred(header, view)
        if len(view) != HEADER_BYTES + header.body_bytes + TAG_BYTES:
            raise MessageForged(f"a message of {len(view)} bytes whose header says {header.body_bytes} of body")
        self._check_positions(header)
        body, tag = view[HEADER_BYTES:-TAG_BYTES], view[-TAG_BYTES:]
        try:
            if header.hash_position != self._hash_position or not self._hash_key:
                self._hash_key = self._streams.read(self._direction, header.hash_position)
            pad = self._streams.read(self._direction, header.pad_position)
        except AuthenticationDry as err:
            raise MessageForged("a message under key that we do not have") from err
        if not hmac.compare_digest(self._tag(header, body, pad), tag):
            raise MessageForged(f"message {header.sequence} of {header.body_bytes} bytes carries a wrong tag")
        self._hash_position = header.hash_position
        self._next = header.pad_position + _ELEMENT
        self._sequence += 1
        return header, body, self._streams.reserve(self._direction, self._next)

    def _open_deferred(self, header: Header, view: memoryview) -> tuple[Header, memoryview, dict[str, bytes | None]]:
        is_short = self._deferred_bytes + _deferred_size(header) <= MESSAGE_BYTES_MAX
        is_allowed = header.kind in self._deferrable and is_short
        if not is_allowed or len(view) != HEADER_BYTES + header.body_bytes:
            raise MessageForged(f"message {header.sequence} of kind {header.kind} carries no tag")
        self._defer(header, view[HEADER_BYTES:])
        self._sequence += 1
        return header, view[HEADER_BYTES:], {}

    def _check_positions(self, header: Header) -> None:
        is_same_hash = bool(self._hash_key) and header.hash_position == self._hash_position
        first = header.pad_position if is_same_hash else header.hash_position
        if first < self._next or (not is_same_hash and header.pad_position < header.hash_position + _ELEMENT):
            raise MessageForged(
                f"a message under position {first} of the authentication key, of which {self._next} bytes are used",
                code="link.authentication_reused",
                hint="a replay, or the peer's state was restored from a backup: then give both ends a new start key",
            )
