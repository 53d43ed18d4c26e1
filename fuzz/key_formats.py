"""Harnesses of key delivery: messages between KMEs, key_IDs, ETSI GS QKD 014 at both of its ends, and SKIP."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.keys.world import World

from fuzz.harness import Finding, Harness
from fuzz.outside_formats import scratch
from shosoin.adapters.kme_client import KmeClient, _error, _parsed
from shosoin.base import SaeId
from shosoin.base.ports import DeliveredKey
from shosoin.keys.blocks import Block, load_record
from shosoin.keys.copies import CopyHead, open_copies, pad_bytes, read_head, seal_copies
from shosoin.keys.errors import PairProtocolError
from shosoin.keys.key_id import KeyAddress, KeyIdCodec
from shosoin.keys.messages import Message, Proven, decode_message, encode_message, statement_of
from shosoin.keys.wire004 import (
    HEADER_BYTES,
    NO_STREAM,
    CloseRequest,
    CloseResponse,
    GetKeyRequest,
    GetKeyResponse,
    Message004,
    OpenConnectRequest,
    OpenConnectResponse,
    Qos,
    decode_payload,
    encode_frame,
    parse_header,
)
from shosoin.services.etsi014 import _route
from shosoin.services.peer_channel import Channel, ChannelKind
from shosoin.services.sources.offers import Greeting, Offer, Origin, read_question, write_question
from shosoin.services.sources.push_http import read_pushed
from shosoin.services.sources.recording import Recording, RecordingHeader, write_recording
from shosoin.services.wire014 import parse_key_ids, parse_key_request
from shosoin.services.wire_skip import EntropyCall, FetchKeyCall, parse_call
from shosoin.vault.envelope import canonical_json

__all__ = ["HARNESSES"]

_CODEC = KeyIdCodec(bytes(range(64)))
_KEY_ID = "01234567-89ab-8def-8123-456789abcdef"


def peer_message(raw: bytes) -> None:
    """A message that is read is written back the same."""
    message = decode_message(raw)
    if decode_message(encode_message(message)) != message:
        raise Finding("a message does not survive a round trip")


def _talk() -> tuple[World, tuple[bytes, ...]]:
    """Return two KMEs in the middle of their work, and every message that they sent on the way."""
    world = World()
    sent: list[bytes] = []
    send = world.send

    def recorded(sender: Any, raw: bytes) -> None:
        sent.append(raw)
        send(sender, raw)

    world.send = recorded  # type: ignore[method-assign]
    world.heal()
    for name in ("a", "b"):
        world.produce(name, 8, arrives=True)
        world.settle()
        world.draw(world.ends[name].pair, 1, 64)
        world.settle()
    world.send = send  # type: ignore[method-assign]
    return world, tuple(sent)


def peer_conversation(raw: bytes) -> None:
    """A message in the middle of a running session: refused, or taken without harm to what was promised.

    Said by somebody else, and said by a peer that proves its lies. The world asserts that no bit is handed out twice;
    afterwards the two ends must find together again.
    """
    message = decode_message(raw)
    for proven in (False, True) if isinstance(message, Proven) else (False,):
        _say_between(message, proven=proven)


def _say_between(message: Message, *, proven: bool) -> None:
    world, _ = _talk()  # its entropy replays, and so do its sessions
    end, peer = world.ends["b"], world.ends["a"].pair
    if proven and isinstance(message, Proven):
        lie = replace(message, session=peer._session)
        message = replace(lie, proof=peer._proof("a", statement_of(lie)))
    end.later(lambda pair: end.receive(pair, message))
    world.settle()
    world.draw(end.pair, 1, 32)
    world.heal()
    world.settle()


def key_id(raw: bytes) -> None:
    """An ID that opens is the one that is made for that slice, and opens for nobody else."""
    text = raw.decode("utf-8", "replace")
    address = _CODEC.decode(text, "master", "slave", near=1 << 20)
    if address is None:
        return
    if _CODEC.encode(address, "master", "slave") != text.lower():
        raise Finding("two key_IDs of one slice")
    if _CODEC.decode(text, "slave", "master", near=1 << 20) is not None:
        raise Finding("a key_ID opens for others")


def peer_frame(raw: bytes) -> None:
    """Frames of the channel between KMEs: whole ones, or the end of the channel."""
    asyncio.run(_frames(raw))


async def _frames(raw: bytes) -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(raw)
    reader.feed_eof()
    channel = Channel.__new__(Channel)  # no socket, whose options the constructor sets
    channel.peer, channel.kind, channel.reader = "kme-a", ChannelKind.CLASSICAL, reader
    taken = 0
    while True:
        taken += 4 + len(await channel.receive())
        if taken > len(raw):
            raise Finding("more was read than came")


def multicast_record(raw: bytes) -> None:
    """A record with copies of keys: what its head claims fits its length, and nobody without the pad wrote it."""
    head = read_head(raw)
    if len(raw) < head.length_bytes * len(head.key_ids):
        raise Finding("a record shorter than its keys")
    try:
        keys = open_copies(head, raw, bytearray(pad_bytes(len(head.key_ids), head.length_bytes)))
    except PairProtocolError:
        return
    if [len(key) for key in keys] != [head.length_bytes] * len(head.key_ids):
        raise Finding("other keys than the head claims")


def key_request(raw: bytes) -> None:
    """Bodies of ``enc_keys`` and ``dec_keys``, and their queries."""
    if raw[:1] == b"?":
        query = {
            name: value
            for name, _, value in (part.partition("=") for part in raw[1:].decode("utf-8", "replace").split("&"))
        }
        for parse in (parse_key_request, parse_key_ids):
            parse(b"", query)
        return
    request = parse_key_request(raw, {})
    if type(request.number) is not int or type(request.size_bits) not in {int, type(None)}:
        raise Finding("a request without whole numbers")


def key_ids_request(raw: bytes) -> None:
    """Bodies of ``dec_keys``."""
    if not all(isinstance(each, str) for each in parse_key_ids(raw, {})):
        raise Finding("a key_ID that is no text")


def key_path(raw: bytes) -> None:
    """Paths of the SAE interface."""
    sae, call = _route(raw.decode("ascii", "replace"))
    if "/" in call or not sae:
        raise Finding("a path that was cut wrongly")


def skip_request(raw: bytes) -> None:
    """A request by SKIP: the path and the query of its target."""
    path, _, query = raw.decode("ascii", "replace").partition("?")
    call = parse_call("GET", path, query)
    if isinstance(call, FetchKeyCall) and call.key_id.replace("-", "") != path.removeprefix("/key/").lower():
        raise Finding("a keyId that was not asked for")
    if isinstance(call, EntropyCall) and not 0 < call.size_bytes <= 1 << 13:
        raise Finding("more entropy than the bound")


def frame_004(raw: bytes) -> None:
    """A frame of ETSI GS QKD 004, of a client or a server: what is read is written back and read the same."""
    service, length = parse_header(raw[:HEADER_BYTES])
    message = decode_payload(service, raw[HEADER_BYTES : HEADER_BYTES + length])
    again = encode_frame(message)
    if decode_payload(*_cut(again)) != message:
        raise Finding("a frame does not survive a round trip")


def _cut(frame: bytes) -> tuple[Any, bytes]:
    service, length = parse_header(frame[:HEADER_BYTES])
    if len(frame) != HEADER_BYTES + length:
        raise Finding("a header with a wrong length")
    return service, frame[HEADER_BYTES:]


def source_question(raw: bytes) -> None:
    """What the sources of two KMEs ask each other: read and written back, or refused."""
    question = read_question(raw)
    if read_question(write_question(question)) != question:
        raise Finding("a question does not survive a round trip")


def pushed_keys(raw: bytes) -> None:
    """What a QKD module delivers."""
    stream, keys = read_pushed(raw)
    if not stream.int or not keys or any(len(key.bits) < 16 or key.index < 0 for key in keys):
        raise Finding("a delivery of nothing")


def recording(raw: bytes) -> None:
    """A recorded run in a file."""
    path = scratch() / "recording"
    path.write_bytes(raw)
    opened = Recording(path)
    opened.header.check()
    if opened.header.chunks and len(opened.read(opened.header.chunks - 1)) != opened.header.chunk_bytes:
        raise Finding("a chunk of another size")


class _Answers(KmeClient):
    """The client with an answer at hand instead of a connection."""

    def __init__(self, status: int, raw: bytes) -> None:
        self._status = status
        self._raw = raw

    async def _call(self, method: str, sae: SaeId, call: str, body: Any, most: int) -> Mapping[str, Any]:
        if self._status != 200:
            raise _error(self._status, self._raw)
        return _parsed(self._raw)


def kme_answer(raw: bytes) -> None:
    """Answers of any vendor's KME; the first byte chooses the call and the status."""
    if not raw:
        return
    client = _Answers((200, 200, 400, 401, 503, 500)[raw[0] // 3 % 6], raw[1:])
    asyncio.run(_ask(client, raw[0] % 3))


async def _ask(client: KmeClient, call: int) -> None:
    if call == 0:
        status = await client.status(SaeId("sae-b"))
        canonical_json(dict(status.extension))
        return
    if call == 1:
        keys = await client.enc_keys(SaeId("sae-b"), number=1, size_bits=256)
    else:
        keys = await client.dec_keys(SaeId("sae-a"), [_KEY_ID])
    for key in keys:
        _check_key(key)


def _check_key(key: DeliveredKey) -> None:
    """A key's facts go into a signed value and a label: they must be text and numbers that can be written."""
    facts = {"kind": key.facts.kind, "simulated": key.facts.simulated, "epsilon": key.facts.epsilon, "id": key.key_id}
    canonical_json(facts)
    if len(key.facts.kind) > 200 or not key.facts.kind.isprintable():
        raise Finding(f"a source of kind {key.facts.kind[:40]!r}")


def journal_record(raw: bytes) -> None:
    """Records of a stream's journal (the store authenticates them)."""
    try:
        Block.load(raw)
    except (KeyError, ValueError, TypeError, AttributeError):
        load_record(raw)  # a record of another form, which its reader refuses


def _messages() -> list[bytes]:
    kinds: dict[str, bytes] = {}
    for raw in _talk()[1]:
        kinds.setdefault(decode_message(raw).type, raw)
    return list(kinds.values())


def _key_ids() -> list[bytes]:
    addresses = (KeyAddress(0, 32), KeyAddress(1 << 20, 1), KeyAddress((1 << 35) - 1, (1 << 21) - 32))
    return [_CODEC.encode(address, "master", "slave").encode() for address in addresses]


def _records() -> list[bytes]:
    found = []
    for number, length in ((1, 32), (3, 1)):
        names = tuple(str(uuid.UUID(int=place + 1, version=4)) for place in range(number))
        head = CopyHead(SaeId("sae-a"), (SaeId("sae-b"), SaeId("sae-c")), names, length, _KEY_ID, simulated=True)
        found.append(seal_copies(head, [bytes(length)] * number, bytearray(pad_bytes(number, length))))
    return found


def _kme_answers() -> list[bytes]:
    key = {"key_ID": _KEY_ID, "key": "A" * 43 + "="}
    source = {"shosoin_source": {"kind": "simulated-qkd", "simulated": True, "epsilon": 1e-10}}
    counts = (
        "key_size",
        "stored_key_count",
        "max_key_count",
        "max_key_per_request",
        "max_key_size",
        "min_key_size",
        "max_SAE_ID_count",
    )
    names = ("source_KME_ID", "target_KME_ID", "master_SAE_ID", "slave_SAE_ID")
    status = {**dict.fromkeys(counts, 8), **dict.fromkeys(names, "x"), "status_extension": {"shosoin_relays": ["a"]}}
    container = {"keys": [key], "key_container_extension": source}
    error = {"message": "dry", "details": [{"retry_after_s": 2.5}]}
    bodies = [(0, status), (1, container), (2, container), (6, error), (9, error), (12, error), (15, error)]
    return [bytes([number]) + json.dumps(body).encode() for number, body in bodies]


def _requests() -> list[bytes]:
    bodies: list[Any] = [
        {"number": 2, "size": 256},
        {"number": 1, "extension_optional": [], "additional_slave_SAE_IDs": []},
    ]
    return [json.dumps(body).encode() for body in bodies] + [b"?number=3&size=64", b"?key_ID=" + _KEY_ID.encode()]


def _frames_004() -> list[bytes]:
    qos = Qos(32, 1000, 10, 5, 1, 2000, 3600, "application/json")
    messages: list[Message004] = [
        OpenConnectRequest("qkd://sae-a@kme-a", "qkd://sae-b@kme-b", qos),
        OpenConnectResponse(0, qos, NO_STREAM),
        OpenConnectResponse(4),
        GetKeyRequest(NO_STREAM, 7, 64),
        GetKeyResponse(0, 7, bytes(32), b'{"age":1,"hops":0}'),
        GetKeyResponse(2),
        GetKeyResponse(8, metadata_size_needed=40),
        CloseRequest(NO_STREAM),
        CloseResponse(0),
    ]
    return [encode_frame(message) for message in messages]


def _source_questions() -> list[bytes]:
    origin = Origin("simulated-qkd", True, 1e-10)
    offer = Offer(origin, "ab" * 16, 77, 512, (_KEY_ID, f"{_KEY_ID}/3", f"{'0' * 32}/5"))
    return [write_question(question) for question in (Greeting(Origin("qkd", False, None), _KEY_ID), offer)]


def _deliveries() -> list[bytes]:
    key = {"index": 4, "Key_buffer": "A" * 24}
    return [json.dumps({"Key_stream_ID": _KEY_ID, "keys": [key, {**key, "index": 6}]}).encode()]


def _recordings() -> list[bytes]:
    path = scratch() / "recording-seed"
    write_recording(path, RecordingHeader("0" * 32, "qkd", 2, 32, 1e-10, 1000.0), bytes(64))
    return [path.read_bytes()]


def _skip_requests() -> list[bytes]:
    key_id = _KEY_ID.replace("-", "")
    targets = (
        "/capabilities",
        "/key?remoteSystemID=Bob&size=128",
        f"/key/{key_id}?remoteSystemID=Al%69ce",
        "/entropy?minentropy=8",
    )
    return [target.encode() for target in targets]


HARNESSES = (
    Harness("peer_message", peer_message, _messages),
    Harness("peer_conversation", peer_conversation, _messages),
    Harness("peer_frame", peer_frame, lambda: [b"\0\0\0\x03abc\0\0\0\0", b"\xff\xff\xff\xff"], size_max=512),
    Harness("key_id", key_id, _key_ids, size_max=64),
    Harness("key_request", key_request, _requests, size_max=2048),
    Harness(
        "key_ids_request",
        key_ids_request,
        lambda: [json.dumps({"key_IDs": [{"key_ID": _KEY_ID}]}).encode()],
        size_max=2048,
    ),
    Harness("key_path", key_path, lambda: [b"/api/v1/keys/sae-b/enc_keys", b"/api/v1/keys/%41/status"], size_max=256),
    Harness("skip_request", skip_request, _skip_requests, size_max=512),
    Harness("multicast_record", multicast_record, _records, size_max=2048),
    Harness("source_question", source_question, _source_questions, size_max=4096),
    Harness("pushed_keys", pushed_keys, _deliveries, (b"A" * 24,), size_max=4096),
    Harness("recording", recording, _recordings, size_max=1024),
    Harness("frame_004", frame_004, _frames_004, size_max=4096),
    Harness("kme_answer", kme_answer, _kme_answers, (bytes(32),)),
    Harness(
        "journal_record",
        journal_record,
        lambda: [
            b'{"direction":"out","index":1,"start":0,"granules":4,"state":"ready","keep":true,"reserve":"","entries":{"1":"00"}}'
        ],
    ),
)
