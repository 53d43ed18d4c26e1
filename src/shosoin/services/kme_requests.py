"""Questions that one KME asks another beside the key streams: each has one answer, and many may be open at once.

The *requests* channel of a link (``shosoin.services.peer_channel``) carries frames of this form::

    kind (1 byte: 0 question, 1 answer, 2 refusal) | number (8 bytes) | subject (1 byte length, ASCII) | body

Both KMEs ask over the same connection, each with numbers of its own. TLS says who asks; what must stay secret for ever
is padded with key bits by whoever asks. A question may be answered twice, or never: whoever serves one makes that
harmless, and whoever asks says how long it waits.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from shosoin.base import KmeId, PeerFault, ShosoinError, Unavailable
from shosoin.base.foreign_text import printable_text
from shosoin.keys.errors import PeerRefused
from shosoin.services.json_log import described, log
from shosoin.services.peer_channel import Channel

__all__ = ["BODY_BYTES_MAX", "PeerRefused", "PeerRequests", "Serve"]

BODY_BYTES_MAX = 8 << 20
_HEAD = struct.Struct(">BQB")
_QUESTION, _ANSWER, _REFUSAL = 0, 1, 2
_CODE = re.compile(r"[a-z0-9_]{1,40}(\.[a-z0-9_]{1,40}){0,2}")
_OPEN_MAX = 256
"""Questions of one peer that are being answered at once, and ours to it that wait."""
_OPEN_BYTES_MAX = 32 << 20
"""Their bodies: no more are read meanwhile."""
_UNSENT_BYTES_MAX = 16 << 20
"""What may wait until a peer reads on."""

Serve = Callable[[KmeId, bytes], Awaitable[bytes]]
"""Answers a question of a peer; a ``ShosoinError`` becomes a refusal that carries its code and message."""


@dataclass(slots=True)
class _Line:
    """What goes on with one peer."""

    channel: Channel | None = None
    waiting: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    bytes: int = 0
    """Bodies of questions that are being answered."""
    answered: asyncio.Event = field(default_factory=asyncio.Event)


class _Room:
    """What the body of one question takes until it is given back, once."""

    def __init__(self, line: _Line, size_bytes: int) -> None:
        self._line, self._size_bytes = line, size_bytes
        line.bytes += size_bytes

    def give_back(self, _: object = None) -> None:
        self._line.bytes -= self._size_bytes
        self._size_bytes = 0
        self._line.answered.set()


class PeerRequests:
    """All questions of one KME: those it asks and those it is asked."""

    def __init__(self, peers: set[KmeId]) -> None:
        self._lines = {peer: _Line() for peer in peers}
        self._serving: dict[str, Serve] = {}
        self._number = 0

    def serve(self, subject: str, answer: Serve) -> None:
        """Answer questions about a subject from now on."""
        self._serving[subject] = answer

    def is_connected(self, peer: KmeId) -> bool:
        """Whether a peer can be asked now."""
        line = self._lines.get(peer)
        return line is not None and line.channel is not None

    async def ask(self, peer: KmeId, subject: str, body: bytes, timeout_s: float) -> bytes:
        """Ask a peer and return its answer.

        Raises:
            Unavailable: it cannot be asked, or did not answer in time; it may have acted on the question.
            PeerRefused: it said no.
        """
        line = self._lines.get(peer)
        channel = line.channel if line is not None else None
        if line is None or channel is None:
            raise Unavailable(f"{peer} cannot be asked now", code="peer.not_connected", hint="its KME is not connected")
        if len(line.waiting) >= _OPEN_MAX or channel.unsent_bytes >= _UNSENT_BYTES_MAX:
            raise Unavailable(f"{len(line.waiting)} questions to {peer} are open", code="peer.busy")
        self._number += 1
        number = self._number
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        line.waiting[number] = answer
        try:
            async with asyncio.timeout(timeout_s):
                await channel.send(_frame(_QUESTION, number, subject, body))
                return await answer
        except TimeoutError as err:
            raise Unavailable(f"{peer} did not answer", code="peer.no_answer") from err
        finally:
            line.waiting.pop(number, None)

    async def handle(self, channel: Channel) -> None:
        """Ask and answer over a channel until it ends; the latest one counts."""
        line = self._lines[KmeId(channel.peer)]
        if line.channel is not None:
            line.channel.close()
            self._end(line, line.channel)  # whoever waits for an answer from there waits in vain
        line.channel = channel
        try:
            while True:
                while line.bytes >= _OPEN_BYTES_MAX:
                    line.answered.clear()
                    await line.answered.wait()
                self._take(line, channel, await channel.receive())
        except ShosoinError as err:
            log("peer.channel_ended", peer=channel.peer, kind=channel.kind, reason=err.message)
        finally:
            self._end(line, channel)

    def _end(self, line: _Line, channel: Channel) -> None:
        if line.channel is not channel:
            return
        line.channel = None
        for answer in line.waiting.values():
            if not answer.done():
                answer.set_exception(Unavailable(f"the connection to {channel.peer} ended", code="peer.not_connected"))
        for task in line.tasks:
            task.cancel()

    def _take(self, line: _Line, channel: Channel, frame: bytes) -> None:
        kind, number, subject, body = _read(frame)
        if kind == _QUESTION:
            if len(line.tasks) >= _OPEN_MAX:
                raise PeerFault(f"more than {_OPEN_MAX} questions at once", code="peer.too_many_questions")
            room = _Room(line, len(body))
            task = asyncio.get_running_loop().create_task(self._answer(channel, room, number, subject, body))
            line.tasks.add(task)
            task.add_done_callback(line.tasks.discard)
            task.add_done_callback(room.give_back)
            return
        waiting = line.waiting.get(number)
        if waiting is None or waiting.done():
            return  # it came too late
        if kind == _ANSWER:
            waiting.set_result(body)
        else:
            waiting.set_exception(_refusal(channel.peer, body))

    async def _answer(self, channel: Channel, room: _Room, number: int, subject: str, body: bytes) -> None:
        serve = self._serving.get(subject)
        try:
            if serve is None:
                raise PeerFault(f"nothing is known about {subject!r}", code="unknown_subject")
            frame = _frame(_ANSWER, number, "", await serve(KmeId(channel.peer), body))
        except ShosoinError as err:
            frame = _frame(_REFUSAL, number, "", f"{err.code}\0{err.message[:1000]}".encode())
        except Exception as err:  # noqa: BLE001  # whatever one peer provokes must not end the channel of others
            log("peer.request_defect", peer=channel.peer, subject=subject, **described(err))
            frame = _frame(_REFUSAL, number, "", b"defect\0a defect of the peer's program")
        # Before it is sent: if neither KME read on until the other has taken an answer, both would wait for ever.
        room.give_back()
        await channel.send(frame)


def _refusal(peer: str, body: bytes) -> PeerRefused:
    code, _, message = body.decode("utf-8", "replace").partition("\0")
    said = f".{code}" if _CODE.fullmatch(code) else ""
    return PeerRefused(f"{peer}: {printable_text(message)}", code=f"{PeerRefused.code}{said}")


def _frame(kind: int, number: int, subject: str, body: bytes) -> bytes:
    if len(body) > BODY_BYTES_MAX:
        raise PeerFault(f"{len(body)} bytes about {subject}, expected at most {BODY_BYTES_MAX}", code="peer.too_long")
    name = subject.encode("ascii")
    return _HEAD.pack(kind, number, len(name)) + name + body


def _read(frame: bytes) -> tuple[int, int, str, bytes]:
    if len(frame) < _HEAD.size:
        raise PeerFault("short frame on the requests channel")
    kind, number, length = _HEAD.unpack_from(frame)
    name = frame[_HEAD.size : _HEAD.size + length]
    if kind > _REFUSAL or len(name) < length or not name.isascii():
        raise PeerFault("unknown frame on the requests channel")
    return kind, number, name.decode(), frame[_HEAD.size + length :]
