"""Harnesses of a link's post-processing: messages as bytes, and both ends told anything by an authentic peer.

An input of ``link_conversation`` says which end, how much of an honest conversation comes first, and which messages the
peer then says instead, each under a right tag: what no forger can do, but a peer with a defect.
"""

from __future__ import annotations

from dataclasses import replace

from tests.link.postprocessing.world import SMALL, START_KEY, World, made_records

from fuzz.harness import Finding, Harness
from shosoin.link.postprocessing import KeyReady, Receiver, Transmitter
from shosoin.link.postprocessing.authentication import HEADER_BYTES, parse_header
from shosoin.link.postprocessing.messages import Detected, decode_message

__all__ = ["HARNESSES"]

PARAMETERS = replace(SMALL, block_bits=4096, epsilon_secrecy=0.5)
PULSES = 150_000
HONEST_MAX = 255


def link_message(raw: bytes) -> None:
    """A header and a body that are read are written the same; steps between pulses may be wider than they need be."""
    header = parse_header(raw)
    if header.pack() != raw[:HEADER_BYTES]:
        raise Finding("a header does not survive a round trip")
    body = raw[HEADER_BYTES:]
    message = decode_message(header.kind, body)
    if not isinstance(message, Detected) and message.encode() != body:
        raise Finding("a message does not survive a round trip")
    if message.key_bits < 0:
        raise Finding("a message that takes leak back")


def link_conversation(raw: bytes) -> None:
    """Whatever an authentic peer says, an end refuses it with a kind, or goes on; the other end's key stays its own."""
    is_receiver, honest, spoken = bool(raw[:1] and raw[0] & 1), raw[1] if len(raw) > 1 else 0, raw[2:]
    world = World(PARAMETERS, made_records(PULSES))
    transmitter, receiver = world.ends()
    target, peer = (receiver, transmitter) if is_receiver else (transmitter, receiver)
    converse(world, transmitter, receiver, honest)
    made = len([told for told in target.outcomes() if isinstance(told, KeyReady)])
    # What the peer sealed already never leaves it.
    peer._sealer._sequence = target._opener._sequence
    peer._sealer._deferred = list(target._opener._deferred)
    for kind, number, body in _messages(spoken):
        peer._commit(peer._sealer.prepare(peer._limit()))
        target.receive(peer._sealer.seal(kind, number, body))
    made += len([told for told in target.outcomes() if isinstance(told, KeyReady)])
    if made > 2:
        raise Finding("more keys than there are blocks")


def converse(world: World, transmitter: Transmitter, receiver: Receiver, count: int) -> list[bytes]:
    """Let both ends talk honestly for so many messages; return them."""
    said: list[bytes] = []
    todo = list(world.records.detections)
    receiver.start()
    has_fed = False
    while True:
        queue = [(receiver, transmitter), (transmitter, receiver)]
        before = len(said)
        for source, target in queue:
            for raw in source.outgoing():
                if len(said) >= count:
                    return said
                said.append(raw)
                target.receive(raw)
        if transmitter.is_open and not has_fed:
            transmitter.feed(world.records.sent)
            has_fed = True
        if receiver.wants_detections and todo:
            receiver.feed(todo.pop(0))
        elif receiver.wants_detections:
            receiver.feed_end()
        elif len(said) == before:
            return said


def _messages(raw: bytes) -> list[tuple[int, int, bytes]]:
    """Cut an input into messages: kind, number, length of the body in two octets, body."""
    found = []
    while len(raw) >= 4:
        size = int.from_bytes(raw[2:4], "little")
        found.append((raw[0] & 0x7F, raw[1], raw[4 : 4 + size]))
        raw = raw[4 + size :]
    return found


def _said() -> list[bytes]:
    world = World(PARAMETERS, made_records(PULSES))
    return converse(world, *world.ends(), 1 << 20)


def _message_seeds() -> list[bytes]:
    bare = [raw[: HEADER_BYTES + parse_header(raw).body_bytes] for raw in _said()]
    by_kind = {parse_header(raw).kind: raw for raw in reversed(bare) if len(raw) <= 8192}
    return [by_kind[kind] for kind in sorted(by_kind)]


def _conversation_seeds() -> list[bytes]:
    seeds = []
    for at, raw in enumerate(_said()):
        header = parse_header(raw)
        body = raw[HEADER_BYTES : HEADER_BYTES + header.body_bytes]
        if at <= HONEST_MAX and len(body) <= 8000 and header.kind != 8:
            spoken = bytes([header.kind, header.number]) + len(body).to_bytes(2, "little") + body
            seeds.append(bytes([1 - header.direction, at]) + spoken)
    return seeds


HARNESSES = (
    Harness("link_message", link_message, _message_seeds),
    Harness("link_conversation", link_conversation, _conversation_seeds, (START_KEY[:32],)),
)
