"""The line between the process that owns the streams and one of its workers: frames over a pair of sockets.

The pair is made by the owner and inherited by the worker, so nobody else can ever speak on it, and it lives exactly as
long as both: what comes over it is of this owner and this worker, and its end is theirs. What is sent within one turn
of the event loop goes out as one write.

A frame is ``length u32 | kind u8 | number u64 | payload``; the number tells which call it is about.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any

from shosoin.base import Alarm, Denied, PeerFault, Rejected, ShosoinError, Unavailable
from shosoin.services.json_log import described, log

__all__ = ["Call", "FrameKind", "WorkerLine", "pack_call", "pack_error", "unpack_call", "unpack_error"]

_HEAD = struct.Struct(">IBQ")
_LENGTH = struct.Struct(">I")
_KINDS: dict[str, type[ShosoinError]] = {
    each.__name__: each for each in (Rejected, Denied, Unavailable, PeerFault, Alarm)
}


class FrameKind(IntEnum):
    """What a frame says; who sends it."""

    SETUP = 0
    """Owner: all that the worker needs to know."""
    READY = 1
    """Worker: it accepts connections."""
    CALL = 2
    """Worker: a request of an SAE."""
    ANSWER = 3
    """Owner: the body of its answer."""
    REFUSAL = 4
    """Owner: the error instead."""
    CANCEL = 5
    """Worker: the SAE has left."""
    RELEASE = 6
    """Worker: the answer is out of its memory."""
    REPORT = 7
    """Worker: what it has counted."""
    RELOAD = 12
    """Owner: certificate, key, authorities, lists and revoked names to use from now on."""
    SHOWS = 13
    """Worker: digest of the certificate that it shows from now on."""
    STOP = 8
    """Owner: accept no more, answer what is under way, end."""
    DRAW = 9
    """Worker: keys for an SAE, and some more ahead of demand."""
    USED = 10
    """Worker: how many keys of a DRAW were used since it said so last."""
    OVER = 11
    """Worker: the other keys of a DRAW are wiped."""


class WorkerLine(asyncio.Protocol):
    """One end of the line.

    Args:
        take: is told of each frame.
        ended: is told once when the other end is gone.
        frame_bytes_max: what the other end may send at once.
        unsent_bytes_max: what may wait, besides what the other end is told, until it reads on; with more the line ends.
    """

    def __init__(
        self,
        take: Callable[[FrameKind, int, bytes], None],
        ended: Callable[[], object],
        *,
        frame_bytes_max: int = (1 << 32) - 1,
        unsent_bytes_max: int | None = None,
    ) -> None:
        self._take, self._ended, self._frame_bytes_max = take, ended, frame_bytes_max
        self._unsent_bytes_max = unsent_bytes_max
        self._own_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._outgoing: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def send(self, kind: FrameKind, number: int = 0, payload: bytes = b"") -> None:
        """Send a frame, together with others of this turn of the event loop."""
        if not self._outgoing:
            self._loop.call_soon(self._flush)
        self._outgoing += (_HEAD.pack(len(payload), kind, number), payload)

    def tell(self, kind: FrameKind, payload: bytes) -> None:
        """Send what the other end never asked for, which may wait besides, two of the longest: one may follow another.

        It is as long as an operator's files, and no fault of an end that has not read it yet.
        """
        self._own_bytes = max(self._own_bytes, 2 * len(payload))
        self.send(kind, payload=payload)

    def close(self) -> None:
        """Send what is left and end the line."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # what create_connection makes
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._transport = None
        self._ended()

    def data_received(self, data: bytes) -> None:
        """Cut what came into frames; what is none, or cannot be dealt with, ends the line."""
        self._received += data
        try:
            self._cut()
        except Exception as err:  # noqa: BLE001  # a defect of one worker must not be one of all others
            log("worker.line_defect", **described(err))
            self._received[:] = bytes(len(self._received))
            self._received.clear()
            if self._transport is not None:
                self._transport.abort()

    def _cut(self) -> None:
        start = 0
        while len(self._received) - start >= _HEAD.size:
            length, kind, number = _HEAD.unpack_from(self._received, start)
            end = start + _HEAD.size + length
            if length > self._frame_bytes_max:
                raise ValueError("a frame that is too long")
            if len(self._received) < end:
                break
            payload = bytes(self._received[start + _HEAD.size : end])
            start = end
            self._take(FrameKind(kind), number, payload)
        self._received[:start] = bytes(start)  # there may be keys in it
        del self._received[:start]

    def _flush(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if outgoing and self._transport is not None:
            self._transport.write(b"".join(outgoing))
            unsent_bytes = self._transport.get_write_buffer_size()
            if self._unsent_bytes_max is not None and unsent_bytes > self._unsent_bytes_max + self._own_bytes:
                log("worker.line_full", unsent_bytes=unsent_bytes)
                self._transport.abort()


Call = tuple[str, str, str, Mapping[str, str], bytes]
"""Caller, SAE of the path, call, query and body."""


def pack_call(caller: str, sae: str, call: str, query: Mapping[str, str], body: bytes) -> bytes:
    """Return the payload of a call."""
    head = json.dumps([caller, sae, call, dict(query)]).encode()
    return _LENGTH.pack(len(head)) + head + body


def unpack_call(payload: bytes) -> Call:
    """Return what ``pack_call`` was given."""
    (length,) = _LENGTH.unpack_from(payload)
    body_at = _LENGTH.size + length
    caller, sae, call, query = json.loads(payload[_LENGTH.size : body_at])
    return caller, sae, call, query, payload[body_at:]


def pack_error(err: ShosoinError) -> bytes:
    """Return the payload of a refusal: the error's kind, code and message."""
    kind = next((name for name, each in _KINDS.items() if isinstance(err, each)), "Unavailable")
    return json.dumps([kind, err.code, err.message, getattr(err, "retry_after_s", None)]).encode()


def unpack_error(payload: bytes) -> ShosoinError:
    """Return an error of the same kind."""
    kind, code, message, retry_after_s = json.loads(payload)
    options: dict[str, Any] = {"retry_after_s": retry_after_s} if kind == "Unavailable" else {}
    return _KINDS[kind](message, code=code, **options)
