"""A link whose keys are made the real way from simulated detections: pulse by pulse, then post-processing.

Each KME of the link has a simulated transmitter for the stream it sends and a simulated receiver for the stream it
receives. One connection carries both directions and is called the *simulated quantum channel*: frames of light (what a
transmitter made; nothing quantum about it) and the messages of both post-processing sessions, which authenticate
themselves with one-time keys and rely on nothing else. The transmitter's record never leaves its KME; the receiving
KME draws losses, noise and detections from a seed of its own. Every key made here is labelled simulated.

A finished key is taken out of its journal *before* the key stream gets it: a crash in between loses the bits, and
nothing can bring them twice. A connection that ends abandons the blocks in flight.

When a block shows the mark of an eavesdropper the link is suspended: nothing leaves any more until an operator lifts
that (``shosoin.services.sources.suspension``). It is durable before anybody is told, the peer included. Each end
decides and keeps for itself; while either is suspended they hold the channel and begin no session.

Sessions that break, or bring only blocks without a key, are followed by pauses
(``shosoin.services.sources.event_pace``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from shosoin.adapters.link_journal import FileLinkJournal
from shosoin.base import Alarm, PeerFault, ShosoinError, SimulationRng
from shosoin.base.ports import Event
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.pool import RESERVE_BYTES
from shosoin.link.postprocessing import BlockVoid, KeyReady, Outcome, VoidReason
from shosoin.link.postprocessing.errors import ParametersDiffer
from shosoin.services.json_log import described, log
from shosoin.services.peer_channel import Channel
from shosoin.services.sources.coordinated import SourceParts
from shosoin.services.sources.event_greeting import Greeting, read_greeting
from shosoin.services.sources.event_line import EventLine
from shosoin.services.sources.event_pace import SessionPace
from shosoin.services.sources.event_session import BATCH_PULSES, EventSession
from shosoin.services.sources.event_tally import Tally

__all__ = ["EventDevices"]

_IDLE_S = 0.25
_HEARD_S = 5.0
"""How long the peer may take to hear in what it differs, or that a block has no key."""
_HEARD = b"H"
_SUSPENDING = frozenset({VoidReason.SUSPENDED, VoidReason.QBER_ABOVE_LIMIT})
"""Both ends stop, whichever of them saw it."""
_STOCK_NUMBERS = 1 << 62
"""Blocks of the initial stock are numbered from here, so that no block of the devices has their names."""
_STOCK_BLOCK_BYTES = 1 << 20


class EventDevices:
    """Both simulated devices of one KME on one link, and the post-processing of both directions.

    Args:
        open_journals: opens the journals of what is sent and of what is received, exclusively.
        seed: of the simulated line; protects nothing.
    """

    uses_channel = True

    def __init__(
        self,
        parts: SourceParts,
        line: EventLine,
        open_journals: Callable[[], tuple[FileLinkJournal, FileLinkJournal]],
        *,
        stock_bits: int,
        seed: int,
    ) -> None:
        self._parts, self._line, self._open_journals = parts, line, open_journals
        self._driver, self._clock = parts.driver, parts.clock
        self._peer = parts.driver.pair.peer
        self._rng = SimulationRng(seed)
        self._monitors = (line.monitor(), line.monitor())
        self._stock_bytes = stock_bits // 8 // GRANULE_BYTES * GRANULE_BYTES
        self._stock_number = _STOCK_NUMBERS
        self._channel: Channel | None = None
        self._session: EventSession | None = None
        self._turn = asyncio.Lock()
        self._suspension = parts.suspension()
        self._lifts = 0
        """Outcomes of sessions from before the last one count no more."""
        self._waiting = ""
        """For what an end waits that has a channel and no session."""
        self._failure = ""
        """Code of what ended the last session, if somebody has to do something about it."""
        self._pace = SessionPace(parts.clock, parts.entropy, self._peer)
        self._is_ending = False
        """Whether this session makes no more light, and ends when the peer has heard why."""
        self._tallies = {True: Tally(), False: Tally()}

    # What an operator sees and does

    @property
    def condition(self) -> str:
        """Whether the devices see each other, and whether what they see may become key."""
        if self._suspension.reason:
            return f"suspended: {self._suspension.reason}"
        if self._session is not None and self._session.is_open:
            return "working"
        if self._failure:
            return f"failed: {self._failure}"
        if self._pace.is_pausing:
            return f"pausing: {self._pace.breaks} sessions broke before a block"
        return f"waiting: {self._waiting}" if self._waiting else "not connected"

    @property
    def suspension(self) -> str:
        """The code of the alarm since which nothing leaves; empty if there is none."""
        return self._suspension.reason

    async def lift(self) -> str:
        """Let the link make keys again; return why it did not.

        Raises:
            Unavailable: that could not be made durable.
        """
        reason = await self._suspension.lift()
        if reason:
            self._lifts += 1
            for monitor in self._monitors:
                monitor.resume()
            self._pace.reset()
            self.close()  # so that the ends greet each other anew
        return reason

    def figures(self) -> dict[str, Any]:
        """Return what came of each direction, and how many sessions in a row broke before they brought a block."""
        told = {"sent": self._tallies[True].to_json(), "received": self._tallies[False].to_json()}
        pausing = {"next_session": self._pace.next_session} if self._pace.is_pausing else {}
        return {**told, "broken_sessions": self._pace.breaks, **pausing}

    async def answer(self, question: bytes) -> bytes:
        """Refuse: devices see light, and ask nothing."""
        raise PeerFault("the source at this end simulates devices, the peer's does not", code="source.wrong_kind")

    def close(self) -> None:
        """Drop the channel."""
        if self._channel is not None:
            self._channel.close()

    # Sessions

    async def handle(self, channel: Channel) -> None:
        """Hold one session of each direction on a channel, until it ends, and not before the pause after the last."""
        self.close()  # the latest counts; the one before lets go of the journals first
        self._channel = channel
        async with self._turn:
            failure: ShosoinError | None = None
            try:
                if await self._pace.wait(lambda: channel.is_closed or self._channel is not channel):
                    await self._meet(channel)
                    await self._hold(channel)
            except ShosoinError as err:
                failure = err
                self._ended(err)
            except Exception as err:  # noqa: BLE001  # one link's defect must not end the KME
                log("source.defect", peer=self._peer, **described(err))
            finally:
                self._session, self._waiting = None, ""
                self._pace.end(differs=isinstance(failure, ParametersDiffer))
                channel.close()

    async def _meet(self, channel: Channel) -> None:
        """Greet; return when both ends are set alike and neither is suspended.

        Raises:
            ParametersDiffer: they are not alike; the peer knows it too.
            PeerFault: the channel ended, also where one of the two was suspended.
        """
        ours = Greeting(self._line.to_json(), bool(self._suspension.reason))
        self._waiting = "the peer's end does not greet yet"
        await channel.send(ours.encode())
        theirs = read_greeting(await channel.receive())
        try:
            ours.require_same(theirs)
        except ParametersDiffer:
            await channel.send(_HEARD)
            with contextlib.suppress(PeerFault, TimeoutError):
                async with asyncio.timeout(_HEARD_S):
                    await channel.receive()  # it has heard us by then
            raise
        self._failure = ""
        self._waiting = "the peer's end is suspended" if theirs.is_suspended else ""
        if ours.is_suspended or theirs.is_suspended:
            await channel.receive()  # whoever is no longer suspended ends the channel
            raise PeerFault("a frame on a link that is suspended", code="source.wrong_frame")

    async def _hold(self, channel: Channel) -> None:
        self._driver.pair.incoming.forget_bits()
        with contextlib.ExitStack() as opened:
            journals = await asyncio.to_thread(self._open_journals)
            for journal in journals:
                opened.enter_context(contextlib.closing(journal))
            lifts = self._lifts
            session = EventSession(
                channel,
                self._line,
                journals,
                self._monitors,
                self._parts.entropy,
                self._rng,
                sent=partial(self._deliver, lifts=lifts, transmitted=True),
                received=partial(self._deliver, lifts=lifts, transmitted=False),
                stock=self._stock_arrived,
            )
            self._session, self._is_ending = session, False
            self._pace.begin()
            log("simulated_quantum_channel.open", peer=channel.peer, simulated="events")
            try:
                await session.run()
            finally:
                if lifts == self._lifts and any(monitor.suspended for monitor in self._monitors):
                    await self._suspension.begin(VoidReason.SUSPENDED.code)  # if it ended before it could be told

    def _ended(self, err: ShosoinError) -> None:
        log("simulated_quantum_channel.ended", peer=self._peer, code=err.code, reason=err.message)
        if not isinstance(err, PeerFault):
            self._failure = err.code
        if isinstance(err, Alarm):
            self._emit("link.alarm", "alarm", code=err.code)
        elif isinstance(err, ParametersDiffer):
            self._emit(err.code, "warning", code=err.code, reason=err.message, hint=err.hint)

    def _emit(self, name: str, severity: str, **fields: object) -> None:
        self._parts.events.emit(Event(name, severity, {"peer": self._peer, "simulated": True, **fields}))

    # Keys

    async def _deliver(self, outcome: Outcome, *, lifts: int, transmitted: bool) -> None:
        session = self._session
        if lifts != self._lifts or session is None:
            return  # keys are told again by the next session
        if not isinstance(outcome, KeyReady):
            self._tallies[transmitted].add(outcome)
            await self._void(outcome)
            self._end_if_in_vain(session, outcome, transmitted=transmitted)
            return
        await session.store(outcome.block, transmitted=transmitted)  # first: see above
        self._pace.brought_block(transmitted=transmitted)
        if not self._suspension.reason:
            self._tallies[transmitted].add(outcome)
        bits = bytearray(outcome.key.take())
        del bits[len(bits) // GRANULE_BYTES * GRANULE_BYTES :]
        if self._suspension.reason or len(bits) <= RESERVE_BYTES:
            bits[:] = bytes(len(bits))
            return
        pair = self._driver.pair
        take = pair.begin_block if transmitted else pair.bits_arrived
        await self._driver.do(partial(take, outcome.block, bits))

    async def _void(self, void: BlockVoid) -> None:
        suspends = void.reason in _SUSPENDING or any(monitor.suspended for monitor in self._monitors)
        if suspends:
            code = (void.reason if void.reason in _SUSPENDING else VoidReason.SUSPENDED).code
            await self._suspension.begin(code)  # first: durable before anybody is told
        log("link.block_void", peer=self._peer, block=void.block, code=void.reason.code, **void.figures)
        if void.reason.is_alarm:
            self._emit("link.block_alarm", "alarm", block=void.block, code=void.reason.code, **void.figures)

    def _end_if_in_vain(self, session: EventSession, void: BlockVoid, *, transmitted: bool) -> None:
        """End a session after too many blocks without a key; a suspended link makes none anyway."""
        if self._suspension.reason or void.reason is VoidReason.ABANDONED:
            return
        if not self._pace.block_void(transmitted=transmitted) or self._is_ending:
            return
        self._is_ending = True
        asyncio.get_running_loop().call_later(_HEARD_S, session.close)
        self._emit("link.blocks_without_key", "warning", code=void.reason.code)

    async def _stock_arrived(self, number: int, bits: bytearray) -> None:
        if number < _STOCK_NUMBERS or len(bits) > _STOCK_BLOCK_BYTES + RESERVE_BYTES:
            raise PeerFault(f"{len(bits)} bytes as block {number} of the initial stock", code="source.wrong_frame")
        if self._suspension.reason:
            bits[:] = bytes(len(bits))
            return
        await self._driver.do(partial(self._driver.pair.bits_arrived, number, bits))

    # Light

    async def transmit(self) -> None:
        """Send light at the configured pace, as long as there is room for keys and nothing is suspended."""
        batch_s = BATCH_PULSES / self._line.pulses_per_s
        while True:
            began_s = self._clock.now_s()
            session = self._session
            await self._suspension.settle()
            is_wanted = not self._suspension.reason and not self._is_ending
            if session is not None and is_wanted and await self._transmit_or_end(session):
                await asyncio.sleep(max(0.0, began_s + batch_s - self._clock.now_s()))
                continue
            self._driver.progress.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE_S):
                    await self._driver.progress.wait()

    async def _transmit_or_end(self, session: EventSession) -> bool:
        """Transmit; what fails ends this session, never the task, on which the whole KME hangs."""
        try:
            return await self._transmit_some(session)
        except ShosoinError as err:
            self._ended(err)
        except Exception as err:  # noqa: BLE001  # one link's defect must not end the KME
            log("source.defect", peer=self._peer, **described(err))
        session.close()
        return False

    async def _transmit_some(self, session: EventSession) -> bool:
        pair = self._driver.pair
        room_bytes = self._parts.max_stock_bits // 8 - pair.outgoing.left_granules() * GRANULE_BYTES
        if not pair.is_connected or not pair.outgoing.can_begin or room_bytes <= 0:
            return False
        if self._stock_bytes:
            await self._send_stock(session)
            return True
        return await session.send_light()

    async def _send_stock(self, session: EventSession) -> None:
        """Deliver what the devices would hold if they had run before: from a generator, once."""
        size = min(self._stock_bytes, _STOCK_BLOCK_BYTES)
        bits = self._parts.entropy.random_bytes(size + RESERVE_BYTES)
        number = self._stock_number
        self._stock_number, self._stock_bytes = number + 1, self._stock_bytes - size
        await session.send_stock(number, bits)
        if self._suspension.reason:
            return
        await self._driver.do(partial(self._driver.pair.begin_block, number, bits))
