"""One end of a link's post-processing on a byte stream: messages read and written, the device's record fed on demand.

The protocol authenticates its own messages, so the transport may be plain TCP; what arrives is bounded by its header
before it is read. Nothing waits for the peer to read: how much may be unsent is bounded by the protocol (batches and
blocks in flight), and two ends that each wait for the other to read would wait for ever.
Reconciliation and hashing run in a thread, one call at a time, so that the loop keeps sending meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

from shosoin.base import Unavailable
from shosoin.link.events.records import Detections, SentPulses
from shosoin.link.postprocessing import Outcome, Receiver, Transmitter
from shosoin.link.postprocessing.authentication import HEADER_BYTES, message_bytes, parse_header
from shosoin.link.postprocessing.watching import readings_of

__all__ = ["ConnectionLost", "drive_receiver", "drive_transmitter"]

Taker = Callable[[Outcome], None]
_CLOSING_S = 10.0


class ConnectionLost(Unavailable):
    """The peer went away, or says nothing; blocks in flight are abandoned, and a new session goes on behind them."""

    code = "link.connection_lost"


async def drive_transmitter(
    end: Transmitter,
    record: Iterator[SentPulses],
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    take: Taker,
    *,
    timeout_s: float,
) -> None:
    """Hold one session until the receiver's record is used up.

    Args:
        record: the device's record from any pulse that is not behind the session's first.
        take: called with every outcome; a key is durable elsewhere when it returns.
        timeout_s: how long the peer may say nothing.

    Raises:
        ConnectionLost: the peer went away.
        Alarm, PeerFault, Rejected: as ``Transmitter``.
    """
    reader, writer = streams
    try:
        await _flush(end, writer, take)
        while not end.is_finished:
            if end.wants_pulses:
                part = next(record, None)
                await (asyncio.to_thread(end.feed_end) if part is None else asyncio.to_thread(end.feed, part))
            else:
                message = await _in_time(_message(reader), timeout_s)
                await asyncio.to_thread(end.receive, message)
            await _flush(end, writer, take)
    finally:
        await _close(end, writer)


async def drive_receiver(
    end: Receiver,
    record: Iterator[Detections],
    streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    take: Taker,
    *,
    timeout_s: float,
) -> None:
    """Hold one session until the own record is used up; arguments and errors as for ``drive_transmitter``."""
    reader, writer = streams
    is_over = False
    coming = asyncio.create_task(_message(reader))
    try:
        end.start()
        await _flush(end, writer, take)
        while not end.is_finished:
            # Messages first: the transmitter goes on while the next block is recorded, which may take long.
            if end.wants_detections and not is_over and not coming.done():
                part = next(record, None)
                is_over = part is None
                await (asyncio.to_thread(end.feed_end) if part is None else asyncio.to_thread(_feed, end, part))
            else:
                message = await _in_time(coming, timeout_s)
                coming = asyncio.create_task(_message(reader))
                await asyncio.to_thread(end.receive, message)
            await _flush(end, writer, take)
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        await _close(end, writer)


def _feed(end: Receiver, part: Detections) -> None:
    # What a session before used up was judged with the blocks of that session.
    end.feed(part, readings_of(part) if part.first >= end.first_pulse_wanted else None)


async def _message(reader: asyncio.StreamReader) -> bytes:
    try:
        head = await reader.readexactly(HEADER_BYTES)
        return head + await reader.readexactly(message_bytes(parse_header(head)) - HEADER_BYTES)
    except (asyncio.IncompleteReadError, OSError) as err:
        raise ConnectionLost("the peer closed the connection") from err


async def _in_time(coming: Awaitable[bytes], timeout_s: float) -> bytes:
    try:
        async with asyncio.timeout(timeout_s):
            return await coming
    except TimeoutError as err:
        raise ConnectionLost(f"the peer has said nothing for {timeout_s:g} s") from err


async def _flush(end: Transmitter | Receiver, writer: asyncio.StreamWriter, take: Taker) -> None:
    for outcome in end.outcomes():
        take(outcome)
    for message in end.outgoing():
        writer.write(message)
    await asyncio.sleep(0)


async def _close(end: Transmitter | Receiver, writer: asyncio.StreamWriter) -> None:
    """Send what is left to say, also after a failure: the other end should know in what the two differ."""
    try:
        for message in end.outgoing():
            writer.write(message)
        async with asyncio.timeout(_CLOSING_S):
            await writer.drain()
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError):
        return  # the peer had what it wanted, or is gone
