"""What two KMEs say to each other about their ETSI GS QKD 004 streams: JSON, key_IDs and never a key bit.

Each question travels as subject ``etsi004`` of ``shosoin.services.kme_requests``, which says for sure who asks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar, get_type_hints
from uuid import UUID

from shosoin.base import PeerFault
from shosoin.keys.wire004 import Qos, Status

__all__ = [
    "KEY_IDS_MAX",
    "SUBJECT",
    "AskChunk",
    "AskState",
    "ChunkTold",
    "Join",
    "Joined",
    "Leave",
    "Left",
    "Question",
    "State",
    "Void",
    "ksid_of",
    "pack",
    "qos_list",
    "qos_of",
    "refusal_of",
    "texts",
    "unpack_answer",
    "unpack_question",
]

SUBJECT = "etsi004"
KEY_IDS_MAX = 4096
_TEXT_MAX = 512
_WORD_MAX = (1 << 32) - 1
_REFUSALS = (
    Status.INSUFFICIENT_KEY,
    Status.PEER_NOT_CONNECTED_GET_KEY,
    Status.NO_QKD_CONNECTION,
    Status.KSID_IN_USE,
    Status.TIMEOUT,
)
_INT_MAX = 1 << 62

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Join:
    """An application at the asking KME calls OPEN_CONNECT with a KSID."""

    ksid: str
    caller: str
    other: str
    qos: list[Any]


@dataclass(frozen=True, slots=True)
class Joined:
    """Answer: the stream is here and the caller its far end; or ``known`` is false, and it may be made there."""

    known: bool
    met: bool = True
    connected: bool = False
    token: str = ""
    """Names this join; a KME that restarted has forgotten it, and so the stream."""
    run: str = ""
    """Names the stream, which another may follow under the same KSID."""
    qos: list[Any] | None = None
    following: int = 0


@dataclass(frozen=True, slots=True)
class AskState:
    """Asks whether the stream lives, and near is there."""

    ksid: str
    token: str


@dataclass(frozen=True, slots=True)
class State:
    """Answer."""

    connected: bool


@dataclass(frozen=True, slots=True)
class AskChunk:
    """Asks which key is the chunk at a position."""

    ksid: str
    token: str
    position: int


@dataclass(frozen=True, slots=True)
class ChunkTold:
    """Answer: the key_ID, or the status that ends the call."""

    status: int
    key_id: str = ""
    age_ms: int = 0


@dataclass(frozen=True, slots=True)
class Leave:
    """Far called CLOSE, or gave up."""

    ksid: str
    token: str


@dataclass(frozen=True, slots=True)
class Left:
    """Answer: key_IDs that far will not ask for; also the answer to ``Void``, without any."""

    key_ids: list[Any]


@dataclass(frozen=True, slots=True)
class Void:
    """From the home: these keys of near for far will never be asked for; with ``over`` the stream has ended."""

    ksid: str
    run: str
    near: str
    far: str
    key_ids: list[Any]
    over: bool


_QUESTIONS: dict[str, type[Any]] = {
    "join": Join,
    "state": AskState,
    "chunk": AskChunk,
    "leave": Leave,
    "void": Void,
}
_NAMES = {kind: name for name, kind in _QUESTIONS.items()}
Question = Join | AskState | AskChunk | Leave | Void


def pack(message: Any) -> bytes:
    """Return a question or an answer as bytes."""
    content = asdict(message)
    if type(message) in _NAMES:
        content["op"] = _NAMES[type(message)]
    return json.dumps(content).encode()


def unpack_question(raw: bytes) -> Question:
    """Read a question.

    Raises:
        PeerFault: it is none.
    """
    content = _object(raw)
    kind = _QUESTIONS.get(str(content.pop("op", "")))
    if kind is None:
        raise PeerFault("unknown question about a key stream", code="etsi004.bad_question")
    question: Question = _read(kind, content)
    return question


def unpack_answer(kind: type[T], raw: bytes) -> T:
    """Read an answer.

    Raises:
        PeerFault: it is none of that kind.
    """
    return _read(kind, _object(raw))


def qos_list(qos: Qos) -> list[Any]:
    """Return a QoS as a message carries it."""
    return list(asdict(qos).values())


def qos_of(values: list[Any] | None) -> Qos:
    """Read a QoS of a message.

    Raises:
        PeerFault: it is none.
    """
    numbers, mimetype = (values[:-1], values[-1]) if values else ([], None)
    fit = all(type(number) is int and 0 <= number <= _WORD_MAX for number in numbers)
    printable = isinstance(mimetype, str) and len(mimetype) <= 256 and mimetype.isascii() and mimetype.isprintable()
    if len(numbers) != 7 or not fit or not printable:
        raise PeerFault("no QoS of a key stream", code="etsi004.bad_question")
    chunk, most, least, jitter, priority, timeout, ttl = numbers
    return Qos(chunk, most, least, jitter, priority, timeout, ttl, str(mimetype))


def ksid_of(text: str) -> UUID:
    """Read a KSID of a message.

    Raises:
        PeerFault: it is none.
    """
    try:
        return UUID(text)
    except ValueError as err:
        raise PeerFault("no KSID", code="etsi004.bad_question") from err


def texts(values: list[Any]) -> list[str]:
    """Return the texts of a list; whatever else is in it names no key."""
    return [value for value in values if isinstance(value, str)]


def refusal_of(number: int) -> Status:
    """Return the status that another KME refuses with; what is no refusal, or not known here, is a failure like others.

    For an application status 0 comes with a key, and 1, 7 and 8 with something to go on with: none is a KME's to say.
    """
    known = {int(status): status for status in _REFUSALS}
    return known.get(number, Status.NO_QKD_CONNECTION)


def _object(raw: bytes) -> dict[str, Any]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as err:
        raise PeerFault("a message about a key stream is not JSON", code="etsi004.bad_question") from err
    if not isinstance(content, dict):
        raise PeerFault("a message about a key stream is no object", code="etsi004.bad_question")
    return content


def _read(kind: type[T], content: Mapping[str, Any]) -> T:
    types = get_type_hints(kind)
    names = {item.name for item in fields(kind)}  # type: ignore[arg-type]  # always a dataclass
    if set(content) != names or not all(_fits(types[name], value) for name, value in content.items()):
        raise PeerFault("a message about a key stream has other members", code="etsi004.bad_question")
    return kind(**content)


def _fits(declared: Any, value: Any) -> bool:
    if declared in {str, bool, int}:
        return type(value) is declared and _bounded(value)
    if value is None:
        return bool(declared == list[Any] | None)
    plain = isinstance(value, list) and len(value) <= KEY_IDS_MAX
    return plain and all(type(item) in {str, int} and _bounded(item) for item in value)


def _bounded(value: str | int) -> bool:
    return len(value) <= _TEXT_MAX if isinstance(value, str) else 0 <= value <= _INT_MAX
