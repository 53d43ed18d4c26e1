"""Both directions of an event-level link over one connection: simulated devices, and post-processing of what they see.

All work on the state of a session is done in one thread, one piece after the other; the loop only reads, writes and
delivers. Nothing waits for the peer to read: what may be unsent is bounded by the protocol. Light is made on credit, a
few batches ahead of what the receiving end has worked off, so that none is dropped: a monitor would take dropped light
for a loss of the line.

A receiver announces nothing of a block before it has all of its detections, which takes as much light as the line
wants. So that the transmitting end need not hold the record of all of it, credit says which pulses of the light that it
is for were detected; that says nothing of bases or bits. The rest of the record is forgotten.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from shosoin.base import Entropy, PeerFault, SimulationRng
from shosoin.link.events.devices import SimulatedMonitorDiode
from shosoin.link.events.monitoring import LinkMonitor
from shosoin.link.events.receiver import SimulatedReceiver
from shosoin.link.events.records import PULSES_MAX, QuantumSignal
from shosoin.link.events.transmitter import SimulatedTransmitter
from shosoin.link.postprocessing import Journal, KeyReady, Outcome, Receiver, Transmitter
from shosoin.services.peer_channel import Channel
from shosoin.services.sources.event_line import EventLine

__all__ = ["BATCH_PULSES", "EventSession"]

T = TypeVar("T")
Taker = Callable[[Outcome], Awaitable[None]]
StockTaker = Callable[[int, bytearray], Awaitable[None]]

_LIGHT, _CREDIT, _TO_TRANSMITTER, _TO_RECEIVER, _STOCK = b"L", b"C", b"T", b"R", b"S"
_WRONG = "source.wrong_frame"
_NUMBER = struct.Struct(">Q")
_CREDITED = struct.Struct(">QI")
"""First pulse and count of the light that credit is for; a bit for each pulse follows, low bits first."""
BATCH_PULSES = 1 << 20
_HELD_BLOCKS, _HELD_BATCHES = 3, 8
"""A transmitter holds the record of as many pulses: blocks of detections, and batches of which it knows none yet.

No receiver that keeps to the protocol lets it come to that; for any other no more light is made.
"""
_CREDIT_BATCHES = 4
_OUTBOX_MAX, _OUTBOX_LIGHT_MAX = 1024, 16
"""Frames that wait for the peer to read: beyond the first it is as good as gone, beyond the second no light is made."""
_DIODE_DARK_PROBABILITY = 1e-7


class EventSession:
    """One session of both directions.

    Args:
        journals: of what is sent, and of what is received.
        monitors: likewise; they outlive a session, because a suspended link stays suspended.
        rng: seeds the simulated line and devices; protects nothing.
        sent: takes outcomes of the direction that this end transmits; a void block before the peer is told of it, so
            that what an alarm makes durable is so by then. It must not call this session for one.
        received: takes outcomes of the other.
        stock: takes blocks of the peer's initial stock.
    """

    def __init__(
        self,
        channel: Channel,
        line: EventLine,
        journals: tuple[Journal, Journal],
        monitors: tuple[LinkMonitor, LinkMonitor],
        entropy: Entropy,
        rng: SimulationRng,
        *,
        sent: Taker,
        received: Taker,
        stock: StockTaker,
    ) -> None:
        self._channel, self._line, self._entropy, self._rng = channel, line, entropy, rng
        self._transmitter = Transmitter(line.parameters, journals[0], entropy, monitor=monitors[0])
        self._receiver = Receiver(line.parameters, journals[1], entropy, monitor=monitors[1])
        self._sending: SimulatedTransmitter | None = None
        self._receiving: SimulatedReceiver | None = None
        self._diode = SimulatedMonitorDiode(
            rng, dark_probability=_DIODE_DARK_PROBABILITY, effects=line.effects, fraction=line.eavesdropper_share
        )
        self._held_pulses_max = _HELD_BLOCKS * line.parameters.block_detections + _HELD_BATCHES * BATCH_PULSES
        self._credit = _CREDIT_BATCHES
        self._uncredited: deque[tuple[int, int]] = deque()
        """First pulse and count of the light that was made and that no credit came for, in order."""
        self._owed: deque[bytes] = deque()
        """Credit that is given when there is room for more detections."""
        self._light_due, self._light_end = _CREDIT_BATCHES, -1
        self._is_over = False
        self._sent, self._received, self._stock = sent, received, stock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"link-{channel.peer}")
        self._outbox: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()
        self._turn = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether both directions have greeted each other."""
        return self._transmitter.is_open and self._receiver.is_open

    async def run(self) -> None:
        """Work until the connection ends.

        Raises:
            ShosoinError: the peer went away, lied, or this end cannot go on.
        """
        writer = asyncio.create_task(self._write())
        try:
            await self._do(self._receiver.start)
            while True:
                await self._take(await self._channel.receive())
        finally:
            writer.cancel()
            self._channel.close()
            async with self._turn:
                self._is_over = True
                await asyncio.to_thread(self._thread.shutdown)

    async def send_light(self) -> bool:
        """Send the light of one batch of pulses; return whether there was room for it."""
        is_full = self._transmitter.held_pulses > self._held_pulses_max or self._outbox.qsize() > _OUTBOX_LIGHT_MAX
        if not self._transmitter.is_open or not self._credit or is_full:
            return False
        self._credit -= 1
        light = await self._do(self._make_light)
        self._outbox.put_nowait((_LIGHT, _NUMBER.pack(light.first) + light.states.tobytes()))
        return True

    def close(self) -> None:
        """End the session: ``run`` sees its connection go."""
        self._channel.close()

    async def send_stock(self, number: int, bits: bytes) -> None:
        """Send a block of the initial stock."""
        await self._channel.send(_STOCK, _NUMBER.pack(number), bits)

    # What happens in the thread

    def _make_light(self) -> QuantumSignal:
        if self._sending is None:
            first = self._transmitter.first_pulse_wanted
            if first > PULSES_MAX >> 1:
                raise PeerFault(f"a peer that wants light from pulse {first} on", code=_WRONG)
            self._sending = SimulatedTransmitter(self._line.settings, self._entropy, first_pulse=first)
        sent, light = self._sending.send(BATCH_PULSES)
        self._uncredited.append((light.first, light.count))
        self._transmitter.feed(sent, self._diode.read(sent.count))
        return light

    def _detect(self, light: QuantumSignal) -> None:
        if self._receiving is None:
            line = self._line
            self._receiving = SimulatedReceiver(
                line.settings,
                line.line,
                self._rng,
                eavesdropper=line.eavesdropper,
                fraction=line.eavesdropper_share,
                first_pulse=light.first,
            )
        detections, _ = self._receiving.receive(light)
        is_detected = np.zeros(light.count, np.bool_)
        is_detected[detections.pulses - light.first] = True
        packed = np.packbits(is_detected, bitorder="little")
        self._owed.append(_CREDITED.pack(light.first, light.count) + packed.tobytes())
        self._receiver.feed(detections, self._receiving.take_readings())

    def _take_credit(self, body: memoryview) -> None:
        first, count = _CREDITED.unpack_from(body)
        packed = np.frombuffer(body, np.uint8, offset=_CREDITED.size)
        # In order and once, so that what is kept of undetected pulses becomes one part, however few were detected.
        is_next = bool(self._uncredited) and self._uncredited[0] == (first, count)
        if not is_next or len(packed) != (count + 7) // 8:
            raise PeerFault(f"credit for {count} pulses of light from {first}, which are not the next", code=_WRONG)
        detected = np.flatnonzero(np.unpackbits(packed, count=count, bitorder="little"))
        self._transmitter.forget_undetected(first, first + detected)
        self._uncredited.popleft()
        self._credit += 1

    # Messages

    async def _take(self, frame: bytes) -> None:
        kind, body = frame[:1], memoryview(frame)[1:]
        if kind == _TO_TRANSMITTER:
            await self._do(lambda: self._transmitter.receive(body))
        elif kind == _TO_RECEIVER:
            await self._do(lambda: self._receiver.receive(body))
        elif kind == _CREDIT and len(body) > _CREDITED.size:
            await self._do(lambda: self._take_credit(body))
        elif kind in {_LIGHT, _STOCK} and len(body) > _NUMBER.size:
            (number,) = _NUMBER.unpack_from(body)
            if kind == _STOCK:
                await self._stock(number, bytearray(body[_NUMBER.size :]))
            else:
                light = QuantumSignal(number, np.frombuffer(body, np.uint8, offset=_NUMBER.size))
                self._require_light(light)
                await self._do(lambda: self._detect(light))
        else:
            raise PeerFault("a frame of no known kind on the simulated quantum channel", code=_WRONG)

    def _require_light(self, light: QuantumSignal) -> None:
        """Check that light is what a transmitter would send now; it was made ahead of what we worked off at most."""
        states = len(self._line.settings.intensities) << 2
        is_next = light.first == self._light_end if self._light_end >= 0 else light.first <= PULSES_MAX >> 1
        is_sound = light.count <= BATCH_PULSES and int(light.states.max()) < states
        if not self._receiver.is_open or not self._light_due or not is_next or not is_sound:
            raise PeerFault(f"{light.count} pulses of light from {light.first} that nobody waits for", code=_WRONG)
        self._light_due -= 1
        self._light_end = light.first + light.count

    async def _do(self, work: Callable[[], T]) -> T:
        """Do a piece of work in turn, send what came of it, and deliver what is finished."""
        async with self._turn:
            self._require_running()
            try:
                result = await asyncio.get_running_loop().run_in_executor(self._thread, work)
            except Exception:
                await self._tell_voids(self._transmitter.outcomes(), self._receiver.outcomes())
                raise
            sent, received = self._transmitter.outcomes(), self._receiver.outcomes()
            await self._tell_voids(sent, received)  # before the peer hears of them
            for message in self._receiver.outgoing():
                self._outbox.put_nowait((_TO_TRANSMITTER, message))
            for message in self._transmitter.outgoing():
                self._outbox.put_nowait((_TO_RECEIVER, message))
            while self._owed and self._receiver.wants_detections:
                self._light_due += 1
                self._outbox.put_nowait((_CREDIT, self._owed.popleft()))
            if self._outbox.qsize() > _OUTBOX_MAX:
                raise PeerFault("the peer reads nothing of what it asks for", code=_WRONG)
        for take, outcomes in ((self._sent, sent), (self._received, received)):
            for outcome in outcomes:
                if isinstance(outcome, KeyReady):
                    await take(outcome)
        return result

    async def _tell_voids(self, sent: list[Outcome], received: list[Outcome]) -> None:
        for take, outcomes in ((self._sent, sent), (self._received, received)):
            for outcome in outcomes:
                if not isinstance(outcome, KeyReady):
                    await take(outcome)

    async def store(self, block: int, *, transmitted: bool) -> None:
        """Say that the key of a block was taken out; the journal forgets it, durably."""
        self._require_running()
        end: Transmitter | Receiver = self._transmitter if transmitted else self._receiver
        await asyncio.get_running_loop().run_in_executor(self._thread, end.stored, block)

    def _require_running(self) -> None:
        if self._is_over:
            raise PeerFault("this session is over", code="link.session_over")

    async def _write(self) -> None:
        try:
            while True:
                kind, body = await self._outbox.get()
                await self._channel.send(kind, body)
        finally:
            self._channel.close()
