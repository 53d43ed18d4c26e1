"""Messages between the two KMEs of a pair, as values and as JSON.

They travel over mutual TLS, but nothing rests on that alone: every message carries a proof keyed from the pair secret,
or is a tag over a block under a one-time key. Whoever breaks TLS can withhold messages, and cannot make one, nor
have one count twice or out of turn.
``docs/specs/key-streams.md`` is the specification; this module is its wire format.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, get_args

from shosoin.keys.errors import PairProtocolError

__all__ = [
    "HELLO_BYTES_MAX",
    "MESSAGE_BYTES_MAX",
    "OTHER_VERSION",
    "PROTOCOL_VERSION",
    "Announce",
    "BlockState",
    "BlockView",
    "Burn",
    "Closed",
    "Closing",
    "Compare",
    "Confirmed",
    "Have",
    "Hello",
    "Lease",
    "Leased",
    "Message",
    "Passed",
    "Proven",
    "Ready",
    "ReceiverView",
    "Refused",
    "SenderView",
    "Stored",
    "Welcome",
    "decode_message",
    "encode_message",
    "no_proof",
    "statement_of",
]

PROTOCOL_VERSION = 2
"""Both KMEs of a pair must speak the same one; a hello says which."""
OTHER_VERSION = "keys.protocol_version"
"""Code of the error that says that the two ends speak different ones."""
HELLO_BYTES_MAX = 8 << 20
"""Room for the blocks of a full stock, both ways."""
MESSAGE_BYTES_MAX = 1 << 16
"""Of any other message: what a peer may have us parse at once is bounded by its kind."""
_BLOCKS_MAX = 1 << 16
_NUMBERS_MAX = 256
"""Entries of a verification pool, and more."""
INTEGER_MAX = (1 << 63) - 1


class BlockState(StrEnum):
    """How far a block has come; the first four at the sending end, the last two at the receiving end."""

    PENDING = "pending"
    OFFERED = "offered"
    VERIFIED = "verified"
    CONFIRMED = "confirmed"
    STORED = "stored"
    READY = "ready"


_STATES = {state.value: state for state in BlockState}


@dataclass(frozen=True, slots=True)
class BlockView:
    """What one end says about a block in the handshake."""

    index: int
    start: int
    granules: int
    state: BlockState
    entries: tuple[int, ...] = ()
    """Verification entries that a pending or offered block has reserved."""


@dataclass(frozen=True, slots=True)
class SenderView:
    """What the sending end of a stream knows."""

    next_index: int
    next_start: int
    lease: int
    blocks: tuple[BlockView, ...]
    unused_entries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReceiverView:
    """What the receiving end of a stream knows."""

    next_index: int
    next_start: int
    lease: int
    blocks: tuple[BlockView, ...]
    unused_entries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Hello:
    """Opens a handshake."""

    type: ClassVar[str] = "hello"
    kme: str
    generation: int
    incarnation: str
    fresh: bool
    """No handshake of this process run has completed yet."""
    nonce: str
    resume: str
    """Token of a clean shutdown that the peer recorded, or empty."""
    seen_generation: int
    seen_incarnation: str
    """Highest generation of the receiver of this message that the speaker has on record."""
    seen_resume: str
    outgoing: SenderView
    incoming: ReceiverView
    max_age_s: int = 0
    """Age at which the speaker burns bits of the pair, 0 for never; the lower one counts for both."""
    proof: str = ""
    """Keyed hash over all the rest, so that nobody else can move the streams or have blocks burned."""
    burns: int = 0
    """How often the speaker's end of the pair was burned by its operator."""
    seen_burns: int = 0
    """The same count of the other end, as far as the speaker has durably carried it out."""
    awaits_rekey: bool = False
    """An intruder may know the pair secret: neither end opens the pair under it again."""
    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Welcome:
    """Both hellos were seen and the plan they lead to is durable here."""

    type: ClassVar[str] = "welcome"
    session: str
    proof: str = ""
    """Keyed hash that only the peer of this pair can make."""


@dataclass(frozen=True, slots=True)
class Announce:
    """Sender: a block of the link was stored here under this address."""

    type: ClassVar[str] = "announce"
    session: str
    number: int
    """Number of the block on the link."""
    index: int
    start: int
    granules: int
    entries: tuple[int, ...]
    proof: str = ""
    """Keyed hash that only the sender of this session can make: the receiver never goes back to a lower address."""


@dataclass(frozen=True, slots=True)
class Have:
    """Receiver: stored durably; ready to be compared."""

    type: ClassVar[str] = "have"
    session: str
    index: int
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Compare:
    """Sender: the first entry is now spent on this block, durably; send the tag."""

    type: ClassVar[str] = "compare"
    session: str
    index: int
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """Receiver: tag over the whole block as stored here."""

    type: ClassVar[str] = "stored"
    session: str
    index: int
    tag: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Sender: the tag was right, the block may be served."""

    type: ClassVar[str] = "ready"
    session: str
    index: int
    keep: bool
    """Whether the block's reserved bytes join the verification pool."""
    tag: str


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Receiver: durably ready."""

    type: ClassVar[str] = "confirmed"
    session: str
    index: int
    tag: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Receiver: the block cannot be used (bits lost, or a check failed)."""

    type: ClassVar[str] = "refused"
    session: str
    index: int
    unused: tuple[int, ...]
    """Entries of the block that the receiver has not used and keeps."""
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Burn:
    """Sender: forget the block; these of its entries are back in the pool."""

    type: ClassVar[str] = "burn"
    session: str
    index: int
    returned: tuple[int, ...]
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Lease:
    """Sender: record that everything below this granule may have been handed out."""

    type: ClassVar[str] = "lease"
    session: str
    upto: int
    proof: str = ""
    """Keyed hash that only the sender of this session can make: the receiver never goes back to a lower lease."""


@dataclass(frozen=True, slots=True)
class Leased:
    """Receiver: recorded durably."""

    type: ClassVar[str] = "leased"
    session: str
    upto: int
    proof: str = ""
    """Keyed hash that only the receiver of this session can make."""


@dataclass(frozen=True, slots=True)
class Passed:
    """Sender: everything below this granule has been handed out; from now on it grows old."""

    type: ClassVar[str] = "passed"
    session: str
    below: int
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Closing:
    """Either end stops cleanly; the peer records the token and lets it resume once with it."""

    type: ClassVar[str] = "closing"
    session: str
    resume: str
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Closed:
    """The token is on record."""

    type: ClassVar[str] = "closed"
    session: str
    resume: str
    proof: str = ""


Message = (
    Hello
    | Welcome
    | Announce
    | Have
    | Compare
    | Stored
    | Ready
    | Confirmed
    | Refused
    | Burn
    | Lease
    | Leased
    | Passed
    | Closing
    | Closed
)
Proven = Announce | Have | Compare | Refused | Burn | Lease | Leased | Passed | Closing | Closed
"""Messages of a session that carry a proof; the others of a session carry a tag under a one-time key."""
_TYPES: dict[str, type[Message]] = {kind.type: kind for kind in get_args(Message)}


def statement_of(message: Proven) -> str:
    """Return what the proof of a message is about: its type and its members in their order, with a space between."""
    parts: list[object] = [message.type]
    for item in fields(message):
        value = getattr(message, item.name)
        if item.name not in {"session", "proof"}:
            parts += value if isinstance(value, tuple) else [value]
    return " ".join(map(str, parts))


def no_proof(_: str) -> str:
    """Stand for the proofs of a session before there is one: what is said then counts for nobody."""
    return ""


def encode_message(message: Message) -> bytes:
    """Return the message as UTF-8 JSON."""
    members = {item.name: _plain(getattr(message, item.name)) for item in fields(message)}
    return json.dumps({"type": message.type, **members}, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    """Return a member as JSON: views as objects, their many blocks as short arrays."""
    if isinstance(value, SenderView | ReceiverView):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple) and value and isinstance(value[0], BlockView):
        return [[block.index, block.start, block.granules, block.state.value, list(block.entries)] for block in value]
    return value


def decode_message(raw: bytes) -> Message:
    """Parse a message.

    Raises:
        PairProtocolError: if it is not exactly a message of this protocol.
    """
    if len(raw) > HELLO_BYTES_MAX:
        raise PairProtocolError(f"message of {len(raw)} bytes, expected at most {HELLO_BYTES_MAX}")
    try:
        loaded = json.loads(raw)
        kind = _TYPES[loaded.pop("type")]
        if kind is not Hello and len(raw) > MESSAGE_BYTES_MAX:
            raise ValueError("longer than any of its kind")
        if kind is Hello:
            _check_version(loaded.get("version", 1))
        message: Message = _build(kind, loaded)
        return message
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise PairProtocolError("message does not parse") from err


def _check_version(version: Any) -> None:
    if type(version) is not int or version != PROTOCOL_VERSION:
        theirs = version if type(version) is int and abs(version) <= INTEGER_MAX else "?"
        raise PairProtocolError(
            f"the peer's KME speaks version {theirs} of the pair protocol, this KME version {PROTOCOL_VERSION}: "
            "upgrade the older one",
            code=OTHER_VERSION,
        )


def _build(kind: type[Any], loaded: Mapping[str, Any]) -> Any:
    declared = {item.name: item.type for item in fields(kind)}
    if set(declared) != set(loaded):
        raise ValueError("wrong members")
    return kind(**{name: _value(str(declared[name]), loaded[name]) for name in declared})


def _is_entry(value: Any) -> bool:
    """Whether a value numbers a verification entry; those of the pair secret are negative."""
    return type(value) is int and abs(value) <= INTEGER_MAX


def _block_view(item: Any) -> BlockView:
    index, start, granules, state, entries = item
    for number in (index, start, granules):
        if type(number) is not int or not 0 <= number <= INTEGER_MAX:
            raise ValueError("wrong type")
    return BlockView(
        index, start, granules, _STATES[state], _value("tuple[int, ...]", entries) if entries != [] else ()
    )


def _value(declared: str, value: Any) -> Any:
    if declared == "int" and type(value) is int and 0 <= value <= INTEGER_MAX:
        return value
    if declared == "bool" and type(value) is bool:
        return value
    if declared == "str" and type(value) is str and len(value) <= 128 and value.isascii():
        return value
    if type(value) is list and len(value) > (_BLOCKS_MAX if declared == "tuple[BlockView, ...]" else _NUMBERS_MAX):
        raise ValueError("too many")
    if declared == "tuple[int, ...]" and type(value) is list and all(map(_is_entry, value)):
        return tuple(value)
    if declared == "tuple[BlockView, ...]" and type(value) is list:
        return tuple(_block_view(item) for item in value)
    if declared in {"SenderView", "ReceiverView"}:
        return _build(SenderView if declared == "SenderView" else ReceiverView, value)
    raise ValueError("wrong type")
