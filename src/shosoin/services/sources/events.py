"""A link whose keys are made the real way from simulated detections: pulse by pulse, then post-processing.

Each KME of the link has a simulated transmitter for the stream it sends and a simulated receiver for the stream it
receives. One connection carries both directions and is called the *simulated quantum channel*: frames of light (what a
transmitter made; nothing quantum about it) and the messages of both post-processing sessions, which authenticate
themselves with one-time keys and rely on nothing else. The transmitter's record never leaves its KME; the receiving
KME draws losses, noise and detections from a seed of its own. Every key made here is labelled simulated.

A finished key is taken out of its journal *before* the key stream gets it: a crash in between loses the bits, and
nothing can bring them twice. A connection that ends abandons the blocks in flight. When a block shows the mark of an
eavesdropper the link is suspended: nothing leaves any more until the KME is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from shosoin.adapters.link_journal import FileLinkJournal
from shosoin.base import Alarm, PeerFault, ShosoinError, SimulationRng
from shosoin.base.ports import Event
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.pool import RESERVE_BYTES
from shosoin.link.postprocessing import BlockVoid, KeyReady, Outcome, VoidReason
from shosoin.services.json_log import described, log
from shosoin.services.peer_channel import Channel
from shosoin.services.sources.coordinated import SourceParts
from shosoin.services.sources.event_line import EventLine
from shosoin.services.sources.event_session import BATCH_PULSES, EventSession

__all__ = ["EventDevices"]

_IDLE_S = 0.25
_SUSPENDING = frozenset({VoidReason.SUSPENDED, VoidReason.QBER_ABOVE_LIMIT})
"""Both ends stop, whichever of them saw it."""
_STOCK_NUMBERS = 1 << 62
"""Blocks of the initial stock are numbered from here, so that no block of the devices has their names."""
_STOCK_BLOCK_BYTES = 1 << 20


@dataclass(slots=True)
class _Tally:
    """What came of one direction since the KME started."""

    blocks: int = 0
    secret_bits: int = 0
    voids: dict[str, int] = field(default_factory=dict)
    last: Mapping[str, Any] = field(default_factory=dict)

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome, KeyReady):
            self.blocks += 1
            self.secret_bits += 8 * len(outcome.key)
            self.last = outcome.report
        else:
            self.voids[outcome.reason.code] = self.voids.get(outcome.reason.code, 0) + 1

    def to_json(self) -> dict[str, Any]:
        shown = {name: self.last[name] for name in ("qber", "test_qber", "f_ec", "leak_ec_bits") if name in self.last}
        return {"blocks": self.blocks, "secret_bits": self.secret_bits, "voids": dict(self.voids), **shown}


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
        self._driver = parts.driver
        self._peer = parts.driver.pair.peer
        self._rng = SimulationRng(seed)
        self._monitors = (line.monitor(), line.monitor())
        self._stock_bytes = stock_bits // 8 // GRANULE_BYTES * GRANULE_BYTES
        self._stock_number = _STOCK_NUMBERS
        self._channel: Channel | None = None
        self._session: EventSession | None = None
        self._turn = asyncio.Lock()
        self._suspension = ""
        self._tallies = {True: _Tally(), False: _Tally()}

    @property
    def condition(self) -> str:
        """Whether the devices see each other, and whether what they see may become key."""
        if self._suspension:
            return f"suspended: {self._suspension}"
        return "working" if self._session is not None and self._session.is_open else "not connected"

    def figures(self) -> dict[str, Any]:
        """Return what came of each direction."""
        return {"sent": self._tallies[True].to_json(), "received": self._tallies[False].to_json()}

    async def answer(self, question: bytes) -> bytes:
        """Refuse: devices see light, and ask nothing."""
        raise PeerFault("the source at this end simulates devices, the peer's does not", code="source.wrong_kind")

    def close(self) -> None:
        """Drop the channel."""
        if self._channel is not None:
            self._channel.close()

    # Sessions

    async def handle(self, channel: Channel) -> None:
        """Hold one session of each direction on a channel, until it ends."""
        self.close()  # the latest counts; the one before lets go of the journals first
        self._channel = channel
        async with self._turn:
            if self._channel is not channel:
                return
            try:
                await self._hold(channel)
            except ShosoinError as err:
                self._ended(err)
            except Exception as err:  # noqa: BLE001  # one link's defect must not end the KME
                log("source.defect", peer=self._peer, **described(err))
            finally:
                self._session = None
                channel.close()

    async def _hold(self, channel: Channel) -> None:
        self._driver.pair.incoming.forget_bits()
        with contextlib.ExitStack() as opened:
            journals = await asyncio.to_thread(self._open_journals)
            for journal in journals:
                opened.enter_context(contextlib.closing(journal))
            session = EventSession(
                channel,
                self._line,
                journals,
                self._monitors,
                self._parts.entropy,
                self._rng,
                sent=partial(self._deliver, transmitted=True),
                received=partial(self._deliver, transmitted=False),
                stock=self._stock_arrived,
            )
            self._session = session
            log("simulated_quantum_channel.open", peer=channel.peer, simulated="events")
            await session.run()

    def _ended(self, err: ShosoinError) -> None:
        log("simulated_quantum_channel.ended", peer=self._peer, code=err.code, reason=err.message)
        if isinstance(err, Alarm):
            self._parts.events.emit(Event("link.alarm", "alarm", {"peer": self._peer, "code": err.code}))

    # Keys

    async def _deliver(self, outcome: Outcome, *, transmitted: bool) -> None:
        if not isinstance(outcome, KeyReady):
            self._tallies[transmitted].add(outcome)
            self._void(outcome)
            return
        session = self._session
        if session is None:
            return  # told again by the next session
        await session.store(outcome.block, transmitted=transmitted)  # first: see above
        if not self._suspension:
            self._tallies[transmitted].add(outcome)
        bits = bytearray(outcome.key.take())
        del bits[len(bits) // GRANULE_BYTES * GRANULE_BYTES :]
        if self._suspension or len(bits) <= RESERVE_BYTES:
            bits[:] = bytes(len(bits))
            return
        pair = self._driver.pair
        take = pair.begin_block if transmitted else pair.bits_arrived
        await self._driver.do(partial(take, outcome.block, bits))

    def _void(self, void: BlockVoid) -> None:
        log("link.block_void", peer=self._peer, block=void.block, code=void.reason.code, **void.figures)
        if void.reason.is_alarm:
            fields = {"peer": self._peer, "block": void.block, "code": void.reason.code, **void.figures}
            self._parts.events.emit(Event("link.block_alarm", "alarm", fields))
        if void.reason in _SUSPENDING or any(monitor.suspended for monitor in self._monitors):
            self._suspend(void.reason.code)

    async def _stock_arrived(self, number: int, bits: bytearray) -> None:
        if number < _STOCK_NUMBERS or len(bits) > _STOCK_BLOCK_BYTES + RESERVE_BYTES:
            raise PeerFault(f"{len(bits)} bytes as block {number} of the initial stock", code="source.wrong_frame")
        if self._suspension:
            bits[:] = bytes(len(bits))
            return
        await self._driver.do(partial(self._driver.pair.bits_arrived, number, bits))

    def _suspend(self, reason: str) -> None:
        if not self._suspension:
            self._suspension = reason
            log("link.suspended", peer=self._peer, reason=reason)
            self._parts.events.emit(Event("link.suspended", "alarm", {"peer": self._peer, "reason": reason}))

    # Light

    async def transmit(self) -> None:
        """Send light at the configured pace, as long as there is room for keys and nothing is suspended."""
        batch_s = BATCH_PULSES / self._line.pulses_per_s
        while True:
            began_s = self._parts.clock.now_s()
            session = self._session
            if session is not None and not self._suspension and await self._transmit_or_end(session):
                await asyncio.sleep(max(0.0, began_s + batch_s - self._parts.clock.now_s()))
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
        if self._suspension:
            return
        await self._driver.do(partial(self._driver.pair.begin_block, number, bits))
