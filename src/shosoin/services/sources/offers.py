"""What the two ends of a coordinated source say to each other: names and sizes, never key bits.

JSON over the requests channel of the KMEs (``shosoin.services.kme_requests``), subject ``source``. The transmitting end
asks, the receiving end answers or refuses. Both questions repeat what the speaker declares of the origin of the bits,
so that two ends whose configurations differ notice before any key is labelled differently at its two ends.

>>> read_question(write_question(Greeting(Origin("qkd", False, None), "note"))).note
'note'
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from shosoin.base import PeerFault
from shosoin.link.port import LinkFacts

__all__ = ["TICKETS_MAX", "Greeting", "Offer", "Origin", "read_note", "read_question", "write_note", "write_question"]

TICKETS_MAX = 4096
_TICKET_CHARACTERS_MAX = 160
_NOTE_CHARACTERS_MAX = 1 << 17
_SIZE_BYTES_MAX = 16 << 20
_NUMBER_MAX = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Origin:
    """The part of a link's facts in which both ends must agree."""

    kind: str
    simulated: bool
    epsilon: float | None

    @classmethod
    def of(cls, facts: LinkFacts) -> Origin:
        """Return that part."""
        return cls(facts.kind, facts.simulated, facts.epsilon)


@dataclass(frozen=True, slots=True)
class Greeting:
    """Can you take blocks? With a note of the speaker's supply to its counterpart."""

    origin: Origin
    note: str


@dataclass(frozen=True, slots=True)
class Offer:
    """Fetch this material and hold it ready as block ``number``."""

    origin: Origin
    session: str
    """Differs for every run of the transmitting end."""
    number: int
    size_bytes: int
    """Of all material together."""
    tickets: tuple[str, ...]


def write_question(question: Greeting | Offer) -> bytes:
    """Return a question as bytes."""
    origin = [question.origin.kind, question.origin.simulated, question.origin.epsilon]
    members: dict[str, Any] = {"origin": origin}
    if isinstance(question, Greeting):
        members["note"] = question.note
    else:
        members |= {
            "session": question.session,
            "number": question.number,
            "size_bytes": question.size_bytes,
            "tickets": question.tickets,
        }
    return json.dumps(members, separators=(",", ":")).encode()


def read_question(raw: bytes) -> Greeting | Offer:
    """Read a question.

    Raises:
        PeerFault: it is none.
    """
    try:
        loaded = json.loads(raw.decode("ascii"))
        origin = _origin(loaded.pop("origin"))
        if set(loaded) == {"note"}:
            return Greeting(origin, _text(loaded["note"], _NOTE_CHARACTERS_MAX))
        tickets = tuple(_text(each, _TICKET_CHARACTERS_MAX) for each in loaded.pop("tickets"))
        if not 1 <= len(tickets) <= TICKETS_MAX or set(loaded) != {"session", "number", "size_bytes"}:
            raise ValueError("wrong members")
        number, size = _whole(loaded["number"], _NUMBER_MAX), _whole(loaded["size_bytes"], _SIZE_BYTES_MAX)
        return Offer(origin, _text(loaded["session"], 64), number, size, tickets)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as err:
        raise PeerFault("a question about a key source does not parse", code="source.bad_question") from err


def write_note(note: str) -> bytes:
    """Return the answer to a greeting."""
    return json.dumps({"note": note}).encode()


def read_note(raw: bytes) -> str:
    """Read the answer to a greeting.

    Raises:
        PeerFault: it is none.
    """
    try:
        loaded = json.loads(raw.decode("ascii"))
        if set(loaded) != {"note"}:
            raise ValueError("wrong members")
        return _text(loaded["note"], _NOTE_CHARACTERS_MAX)
    except (ValueError, KeyError, TypeError, RecursionError) as err:
        raise PeerFault("an answer about a key source does not parse", code="source.bad_answer") from err


def _origin(value: Any) -> Origin:
    kind, simulated, epsilon = value
    if type(simulated) is not bool:
        raise ValueError("wrong origin")
    if epsilon is not None and not (type(epsilon) in {int, float} and math.isfinite(epsilon)):
        raise ValueError("wrong epsilon")
    return Origin(_text(kind, 64), simulated, epsilon if epsilon is None else float(epsilon))


def _text(value: Any, most: int) -> str:
    if type(value) is not str or len(value) > most or not all(" " <= letter <= "~" for letter in value):
        raise ValueError("wrong text")
    return value


def _whole(value: Any, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("wrong number")
    return value
