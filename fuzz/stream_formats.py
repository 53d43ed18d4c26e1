"""Harnesses of what two KMEs say to each other about ETSI GS QKD 004 streams."""

from __future__ import annotations

from uuid import UUID

from fuzz.harness import Finding, Harness
from shosoin.keys.uri004 import sae_of_uri
from shosoin.keys.wire004 import Qos
from shosoin.services.etsi004_messages import (
    AskChunk,
    AskState,
    ChunkTold,
    Join,
    Joined,
    Leave,
    Left,
    State,
    Void,
    ksid_of,
    pack,
    qos_list,
    qos_of,
    texts,
    unpack_answer,
    unpack_question,
)

__all__ = ["HARNESSES"]

_QOS = Qos(32, 1000, 10, 5, 1, 2000, 3600, "application/json")
_KSID, _TOKEN = str(UUID(int=7)), "0f" * 16
_ANSWERS: tuple[type[Joined | State | ChunkTold | Left], ...] = (Joined, State, ChunkTold, Left)


def stream_question(raw: bytes) -> None:
    """A question that is read is written back the same, and says what can be acted on."""
    question = unpack_question(raw)
    if unpack_question(pack(question)) != question:
        raise Finding("a question does not survive a round trip")
    ksid_of(question.ksid)
    if isinstance(question, Join):
        qos_of(question.qos).encode()
    if isinstance(question, Void) and not all(isinstance(key_id, str) for key_id in texts(question.key_ids)):
        raise Finding("a key_ID that is no text")


def stream_answer(raw: bytes) -> None:
    """An answer, whatever was asked: the first byte says what."""
    kind = _ANSWERS[raw[0] % len(_ANSWERS)] if raw else State
    answer = unpack_answer(kind, raw[1:])
    if unpack_answer(kind, pack(answer)) != answer:
        raise Finding("an answer does not survive a round trip")
    if isinstance(answer, Joined):
        qos_of(answer.qos).encode()


def stream_uri(raw: bytes) -> None:
    """A Source or Destination: it names an application that may have that name, or none."""
    sae = sae_of_uri(raw.decode("utf-8", "replace"))
    if sae is not None and sae_of_uri(f"qkd://{sae}") != sae:
        raise Finding("a name that does not name itself")


def _questions() -> list[bytes]:
    questions = (
        Join(_KSID, "sae-a", "sae-b", qos_list(_QOS)),
        AskState(_KSID, _TOKEN),
        AskChunk(_KSID, _TOKEN, 3),
        Leave(_KSID, _TOKEN),
        Void(_KSID, _TOKEN, "sae-a", "sae-b", [_KSID], over=True),
    )
    return [pack(question) for question in questions]


def _answers() -> list[bytes]:
    answers = (
        Joined(True, True, True, _TOKEN, _TOKEN, qos_list(_QOS), 5),
        State(True),
        ChunkTold(0, _KSID, 12),
        Left([_KSID]),
    )
    return [bytes([number]) + pack(answer) for number, answer in enumerate(answers)]


HARNESSES = (
    Harness("stream_question", stream_question, _questions),
    Harness("stream_answer", stream_answer, _answers),
    Harness("stream_uri", stream_uri, lambda: [b"qkd://sae-a:25575/x", b"sae-a@kme", b"urn:shosoin:sae:sae-a"]),
)
