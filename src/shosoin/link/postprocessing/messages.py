"""What the two ends say to each other, as bytes: ``docs/specs/link-postprocessing.md`` is the specification.

A message is a frozen value with ``kind``, ``encode`` and ``decode``. Integers are little-endian; bit strings are packed
with bit i as bit i mod 8 of byte i div 8, unused bits zero. ``decode`` takes authentic bytes, and bounds everything all
the same: a peer with a defect must not take this end down. ``key_bits`` is how many bits of a message depend on key
bits of either end, from which the leak is counted.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from shosoin.kernels.sifting import pulses_of, steps_of
from shosoin.link.postprocessing.errors import MessageMalformed, VoidReason

__all__ = [
    "KINDS",
    "Amplify",
    "Decoded",
    "Detected",
    "Done",
    "End",
    "Frames",
    "Hello",
    "Message",
    "Opened",
    "Parities",
    "Settled",
    "Sifted",
    "Verified",
    "Verify",
    "Void",
    "decode_message",
]

Bytes = npt.NDArray[np.uint8]

INTENSITIES_MAX = 4
BLOCKS_MAX = 64
FRAMES_MAX = 1 << 16
DETECTIONS_MAX = 1 << 23
NONCE_BYTES = 16
PARAMETERS_BYTES_MAX = 1 << 16
TAG_BYTES = 16


class Kind(IntEnum):
    """The number of a message in its header."""

    HELLO = 1
    DETECTED = 2
    SIFTED = 3
    END = 4
    FRAMES = 5
    DECODED = 6
    OPENED = 7
    PARITIES = 8
    VERIFY = 9
    VERIFIED = 10
    AMPLIFY = 11
    DONE = 12
    SETTLED = 13
    VOID = 14


class Message(Protocol):
    """One message."""

    kind: ClassVar[Kind]

    def encode(self) -> bytes:
        """Return its body."""
        ...

    @property
    def key_bits(self) -> int:
        """How many of its bits depend on key bits of either end."""
        ...


class _Reader:
    """Takes bytes off the front, never more than there are."""

    def __init__(self, body: bytes | memoryview) -> None:
        self._rest = memoryview(body)

    def take(self, size_bytes: int) -> memoryview:
        if size_bytes > len(self._rest):
            raise MessageMalformed(f"a body ends {size_bytes - len(self._rest)} bytes early")
        taken, self._rest = self._rest[:size_bytes], self._rest[size_bytes:]
        return taken

    def number(self, size_bytes: int, most: int) -> int:
        value = int.from_bytes(self.take(size_bytes), "little")
        if value > most:
            raise MessageMalformed(f"got {value}, expected at most {most}")
        return value

    def packed(self, bits: int) -> Bytes:
        """Take a bit string; its unused bits must be zero, so that a value has one spelling."""
        taken = np.frombuffer(self.take((bits + 7) // 8), np.uint8)
        if bits % 8 and taken[-1] >> bits % 8:
            raise MessageMalformed("unused bits are set")
        return taken

    def end(self) -> None:
        if len(self._rest):
            raise MessageMalformed(f"a body with {len(self._rest)} bytes too many")


@dataclass(frozen=True, slots=True)
class _Bare:
    """A message without a body."""

    def encode(self) -> bytes:
        """Return nothing."""
        return b""

    @property
    def key_bits(self) -> int:
        """None."""
        return 0


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of either end in a session; the receiver speaks first."""

    kind: ClassVar[Kind] = Kind.HELLO
    parameters: bytes
    """``SessionParameters.encode``; both ends must send the same."""
    nonce: bytes
    next_block: int
    """Blocks below were begun in earlier sessions."""
    next_pulse: int
    """Pulses below were announced in earlier sessions and are never announced again."""
    blocks: tuple[int, ...] = ()
    """Receiver: blocks whose keys it holds and that the transmitter has not settled. Transmitter: none."""

    def encode(self) -> bytes:
        """Return the body."""
        head = struct.pack(
            "<16sQQIH", self.nonce, self.next_block, self.next_pulse, len(self.parameters), len(self.blocks)
        )
        return b"".join((head, self.parameters, struct.pack(f"<{len(self.blocks)}Q", *self.blocks)))

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Hello:
        """Read a body."""
        reader = _Reader(body)
        nonce = bytes(reader.take(NONCE_BYTES))
        next_block, next_pulse = reader.number(8, 1 << 62), reader.number(8, 1 << 62)
        size, count = reader.number(4, PARAMETERS_BYTES_MAX), reader.number(2, BLOCKS_MAX)
        parameters = bytes(reader.take(size))
        blocks = tuple(reader.number(8, 1 << 62) for _ in range(count))
        reader.end()
        if list(blocks) != sorted(set(blocks)):
            raise MessageMalformed("block numbers must rise")
        return cls(parameters, nonce, next_block, next_pulse, blocks)

    @property
    def key_bits(self) -> int:
        """None."""
        return 0


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """Which pulses the receiver detected, in which bases, and its bits in the test basis."""

    kind: ClassVar[Kind] = Kind.DETECTED
    pulses: npt.NDArray[np.int64]
    """Rising numbers."""
    is_test: npt.NDArray[np.bool_]
    test_bits: Bytes
    """One value (0 or 1) for each detection in the test basis."""

    def encode(self) -> bytes:
        """Return the body: count, first pulse, width of a step, steps less one, bases, test bits."""
        width, steps = steps_of(self.pulses)
        first = int(self.pulses[0]) if len(self.pulses) else 0
        head = struct.pack("<IQB", len(self.pulses), first, width)
        return b"".join((head, steps.data, _packed(self.is_test), _packed(self.test_bits)))

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Detected:
        """Read a body."""
        reader = _Reader(body)
        count, first, width = reader.number(4, DETECTIONS_MAX), reader.number(8, 1 << 62), reader.number(1, 8)
        if width not in {1, 2, 4, 8} or not count:
            raise MessageMalformed(f"got {count} detections in steps of {width} bytes")
        steps = reader.take((count - 1) * width)
        if width == 8 and int(np.frombuffer(steps, "<u8").max(initial=0)) > 1 << 38:
            raise MessageMalformed("a step beyond 2^38 pulses")
        is_test = np.unpackbits(reader.packed(count), count=count, bitorder="little").view(np.bool_)
        tests = int(np.count_nonzero(is_test))
        test_bits = np.unpackbits(reader.packed(tests), count=tests, bitorder="little")
        reader.end()
        return cls(pulses_of(first, steps, width), is_test, test_bits)

    @property
    def key_bits(self) -> int:
        """None: bits of the test basis never become key."""
        return 0


@dataclass(frozen=True, slots=True, eq=False)
class Sifted:
    """Which detections remain, from which intensities they came, and the transmitter's bits in the test basis."""

    kind: ClassVar[Kind] = Kind.SIFTED
    intensity_bits: int
    """1 for two intensities, 2 for three or four."""
    is_kept: npt.NDArray[np.bool_]
    """One for each detection of the batch."""
    key_intensities: Bytes
    """One index for each that is kept in the key basis."""
    test_intensities: Bytes
    """One index for each that is kept in the test basis."""
    test_bits: Bytes
    """One value for each of those."""

    def encode(self) -> bytes:
        """Return the body."""
        levels = (self.key_intensities, self.test_intensities)
        planes = [part & np.uint8(1 << plane) for part in levels for plane in range(self.intensity_bits)]
        counts = len(self.is_kept), len(self.key_intensities), len(self.test_intensities), self.intensity_bits
        head = struct.pack("<IIIB", *counts)
        return b"".join((head, _packed(self.is_kept), *map(_packed, planes), _packed(self.test_bits)))

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Sifted:
        """Read a body."""
        reader = _Reader(body)
        count = reader.number(4, DETECTIONS_MAX)
        keys, tests, planes = reader.number(4, count), reader.number(4, count), reader.number(1, 2)
        is_kept = np.unpackbits(reader.packed(count), count=count, bitorder="little").view(np.bool_)
        levels = [_levels(reader, size, planes) for size in (keys, tests)]
        test_bits = np.unpackbits(reader.packed(tests), count=tests, bitorder="little")
        reader.end()
        if int(np.count_nonzero(is_kept)) != keys + tests or not planes:
            raise MessageMalformed(f"{keys} and {tests} intensities for another number of detections")
        return cls(planes, is_kept, levels[0], levels[1], test_bits)

    @property
    def key_bits(self) -> int:
        """None."""
        return 0


class End(_Bare):
    """The receiver's record is over; the last block is as long as it is."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.END

    @classmethod
    def decode(cls, body: bytes | memoryview) -> End:
        """Read a body."""
        _Reader(body).end()
        return cls()


@dataclass(frozen=True, slots=True)
class Frames:
    """What the transmitter discloses of every frame of a block."""

    kind: ClassVar[Kind] = Kind.FRAMES
    qber_millionths: int
    """The error rate for which the frames were planned; the plans follow from it."""
    messages: tuple[bytes, ...]
    """One for each frame, and the rest in full if there is one; packed."""
    message_bits: tuple[int, ...]
    """Length of each."""

    def encode(self) -> bytes:
        """Return the body."""
        count = len(self.messages)
        head = struct.pack(f"<II{count}I", self.qber_millionths, count, *self.message_bits)
        return b"".join((head, *self.messages))

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Frames:
        """Read a body."""
        reader = _Reader(body)
        qber, count = reader.number(4, 500_000), reader.number(4, FRAMES_MAX)
        bits = tuple(reader.number(4, 1 << 27) for _ in range(count))
        messages = tuple(reader.packed(size).tobytes() for size in bits)
        reader.end()
        return cls(qber, messages, bits)

    @property
    def key_bits(self) -> int:
        """All of the messages."""
        return sum(self.message_bits)


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """Which frames the receiver could correct."""

    kind: ClassVar[Kind] = Kind.DECODED
    is_decoded: npt.NDArray[np.bool_]

    def encode(self) -> bytes:
        """Return the body."""
        return struct.pack("<I", len(self.is_decoded)) + np.packbits(self.is_decoded, bitorder="little").tobytes()

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Decoded:
        """Read a body."""
        reader = _Reader(body)
        count = reader.number(4, FRAMES_MAX)
        flags = np.unpackbits(reader.packed(count), count=count, bitorder="little").view(np.bool_)
        reader.end()
        return cls(flags)

    @property
    def key_bits(self) -> int:
        """One a frame: whether it converged depends on both ends' bits."""
        return len(self.is_decoded)


@dataclass(frozen=True, slots=True)
class Opened:
    """The bits of the frames that did not converge, in full."""

    kind: ClassVar[Kind] = Kind.OPENED
    frames: tuple[bytes, ...]
    frame_bits: tuple[int, ...]

    def encode(self) -> bytes:
        """Return the body."""
        head = struct.pack(f"<I{len(self.frames)}I", len(self.frames), *self.frame_bits)
        return head + b"".join(self.frames)

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Opened:
        """Read a body."""
        reader = _Reader(body)
        count = reader.number(4, FRAMES_MAX)
        bits = tuple(reader.number(4, 1 << 27) for _ in range(count))
        frames = tuple(reader.packed(size).tobytes() for size in bits)
        reader.end()
        return cls(frames, bits)

    @property
    def key_bits(self) -> int:
        """All of them."""
        return sum(self.frame_bits)


@dataclass(frozen=True, slots=True)
class Parities:
    """Cascade: parities of the sets that both ends know to be next."""

    kind: ClassVar[Kind] = Kind.PARITIES
    count: int
    parities: bytes
    """Packed."""

    def encode(self) -> bytes:
        """Return the body."""
        return struct.pack("<I", self.count) + self.parities

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Parities:
        """Read a body."""
        reader = _Reader(body)
        count = reader.number(4, 1 << 27)
        parities = reader.packed(count).tobytes()
        reader.end()
        return cls(count, parities)

    @property
    def key_bits(self) -> int:
        """All of them, whoever sends them."""
        return self.count


@dataclass(frozen=True, slots=True)
class Verify:
    """A hash of the whole block under a function drawn after the receiver had corrected it."""

    kind: ClassVar[Kind] = Kind.VERIFY
    function: bytes
    """32 public random bytes: the point and the factor of ``verification.hash_block``."""
    hash_bits: int
    value: bytes

    def encode(self) -> bytes:
        """Return the body."""
        return self.function + struct.pack("<B", self.hash_bits) + self.value

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Verify:
        """Read a body."""
        reader = _Reader(body)
        function, bits = bytes(reader.take(32)), reader.number(1, 128)
        value = reader.packed(bits).tobytes()
        reader.end()
        return cls(function, bits, value)

    @property
    def key_bits(self) -> int:
        """Of the hash; the proof subtracts them under the name of correctness, not of the leak."""
        return self.hash_bits


@dataclass(frozen=True, slots=True)
class Verified:
    """Whether the hashes agree, and how many bits were wrong."""

    kind: ClassVar[Kind] = Kind.VERIFIED
    is_equal: bool
    errors: tuple[int, ...]
    """Errors in the key basis, by intensity; all zero when the hashes differ."""
    error_bits: tuple[int, ...]
    """Width of each count: enough for the detections of that intensity."""

    def encode(self) -> bytes:
        """Return the body."""
        counts = zip(self.error_bits, self.errors, strict=True)
        return struct.pack("<BB", self.is_equal, len(self.errors)) + b"".join(
            struct.pack("<BI", bits, errors) for bits, errors in counts
        )

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Verified:
        """Read a body."""
        reader = _Reader(body)
        is_equal, count = bool(reader.number(1, 1)), reader.number(1, INTENSITIES_MAX)
        pairs = []
        for _ in range(count):
            bits = reader.number(1, 28)
            pairs.append((bits, reader.number(4, (1 << bits) - 1)))
        reader.end()
        return cls(is_equal, tuple(errors for _, errors in pairs), tuple(bits for bits, _ in pairs))

    @property
    def key_bits(self) -> int:
        """The counts, and one for the answer."""
        return 1 + sum(self.error_bits)


@dataclass(frozen=True, slots=True)
class Amplify:
    """How long the key is, which part of it will authenticate later messages, and the seed of the extractor."""

    kind: ClassVar[Kind] = Kind.AMPLIFY
    secret_bits: int
    refill_bytes: tuple[int, int]
    """For the direction to the receiver and for the way back."""
    seed_bits: int
    seed: bytes

    def encode(self) -> bytes:
        """Return the body."""
        return struct.pack("<QIIQ", self.secret_bits, *self.refill_bytes, self.seed_bits) + self.seed

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Amplify:
        """Read a body."""
        reader = _Reader(body)
        secret, there, back = reader.number(8, 1 << 27), reader.number(4, 1 << 24), reader.number(4, 1 << 24)
        bits = reader.number(8, 1 << 28)
        seed = reader.packed(bits).tobytes()
        reader.end()
        return cls(secret, (there, back), bits, seed)

    @property
    def key_bits(self) -> int:
        """None: the seed is fresh and public."""
        return 0


class Done(_Bare):
    """The receiver has the key of a block on its disk."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.DONE

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Done:
        """Read a body."""
        _Reader(body).end()
        return cls()


class Settled(_Bare):
    """The transmitter knows that the receiver has the key."""

    __slots__ = ()
    kind: ClassVar[Kind] = Kind.SETTLED

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Settled:
        """Read a body."""
        _Reader(body).end()
        return cls()


@dataclass(frozen=True, slots=True)
class Void:
    """A block ends without a key."""

    kind: ClassVar[Kind] = Kind.VOID
    reason: VoidReason

    def encode(self) -> bytes:
        """Return the body."""
        return bytes((self.reason,))

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Void:
        """Read a body."""
        reader = _Reader(body)
        reason = reader.number(1, 255)
        reader.end()
        try:
            return cls(VoidReason(reason))
        except ValueError as err:
            raise MessageMalformed(f"no reason {reason}") from err

    @property
    def key_bits(self) -> int:
        """None: whether there is a key follows from counts that are public already."""
        return 0


_Decodable = (
    type[Hello]
    | type[Detected]
    | type[Sifted]
    | type[End]
    | type[Frames]
    | type[Decoded]
    | type[Opened]
    | type[Parities]
    | type[Verify]
    | type[Verified]
    | type[Amplify]
    | type[Done]
    | type[Settled]
    | type[Void]
)
_CLASSES: Sequence[_Decodable] = (
    Hello, Detected, Sifted, End, Frames, Decoded, Opened, Parities, Verify, Verified, Amplify, Done, Settled, Void,
)  # fmt: skip
KINDS: dict[int, _Decodable] = {int(known.kind): known for known in _CLASSES}


def decode_message(kind: int, body: bytes | memoryview) -> Message:
    """Read the body of a message of a kind.

    Raises:
        MessageMalformed: no such kind, or its bytes do not follow the format.
    """
    known = KINDS.get(kind)
    if known is None:
        raise MessageMalformed(f"no message of kind {kind}")
    return known.decode(body)


def _packed(values: Bytes | npt.NDArray[np.bool_]) -> memoryview:
    return np.packbits(values, bitorder="little").data


def _levels(reader: _Reader, count: int, planes: int) -> Bytes:
    unpacked = [np.unpackbits(reader.packed(count), count=count, bitorder="little") for _ in range(planes)]
    if planes == 2:
        unpacked[0] += unpacked[1] + unpacked[1]
    return unpacked[0] if planes else np.zeros(count, np.uint8)
