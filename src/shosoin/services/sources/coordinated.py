"""A key source whose two ends agree by name on which material makes a block.

Each block goes like this; the transmitting end does not begin it before the receiving end has the bits::

    transmitter                                        receiver
    draw material from its supply
    make its tickets durable as used; look for repeats
    offer: number, tickets, size  ------------------>  make the tickets durable as used
                                                       fetch the material from its supply; look for repeats
                                                       bits_arrived(number, bits)
    begin_block(number, bits)     <------------------  taken

Whatever goes wrong on the way, a lost answer included, burns that material at both ends: it is drawn and recorded as
used, and no second attempt names it. Numbers of blocks begin at random with every run and never come back, so bits that
stay behind at the receiver meet no later block. That both ends got the *same* bits is not checked here: the streams
compare every block under a one-time MAC. After a failure the next attempt waits, longer each time, first asks whether
the peer can fetch, and then risks the smallest block.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from shosoin.base import Alarm, Entropy, KmeId, PeerFault, Rejected, ShosoinError, Unavailable
from shosoin.base.ports import Clock, Event, EventSink
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.pool import RESERVE_BYTES
from shosoin.link.port import LinkFacts
from shosoin.services.json_log import described, log
from shosoin.services.kme_requests import PeerRequests
from shosoin.services.link_driver import LinkDriver
from shosoin.services.peer_channel import Channel
from shosoin.services.sources.offers import (
    Greeting,
    Offer,
    Origin,
    read_note,
    read_question,
    write_note,
    write_question,
)
from shosoin.services.sources.pauses import Pauses
from shosoin.services.sources.port import Material, Supply
from shosoin.services.sources.repeats import BitMemory, BitsRepeated
from shosoin.services.sources.suspension import Suspension

__all__ = ["SUBJECT", "CoordinatedSource", "Pace", "SourceParts"]

SUBJECT = "source"
"""Of the questions between two sources."""
_IDLE_S = 0.25
_OFFERS_WAITING_MAX = 4
_BLOCK_BYTES_LEAST = RESERVE_BYTES + GRANULE_BYTES


@dataclass(frozen=True, slots=True)
class Pace:
    """How much at once, and how often after failures."""

    min_block_bits: int = 8192
    max_block_bits: int = 1 << 19
    retry_min_s: float = 0.5
    retry_max_s: float = 30.0
    """Also how long a supply that has nothing is left alone at most."""
    offer_timeout_s: float = 60.0
    """How long the peer may take to fetch a block."""


@dataclass(frozen=True, slots=True)
class SourceParts:
    """What a source works with."""

    driver: LinkDriver
    requests: PeerRequests
    repeats: BitMemory
    entropy: Entropy
    clock: Clock
    events: EventSink
    max_stock_bits: int
    directory: Path
    """For what the source itself keeps."""
    suspension: Callable[[], Suspension]
    """Returns what outlives the source: the process has one of a link, however often it opens the link anew."""
    pair_secret: bytes = field(repr=False)


class CoordinatedSource:
    """Both roles of one KME on one link, over any ``Supply``."""

    uses_channel = False

    def __init__(self, supply: Supply, parts: SourceParts, facts: LinkFacts, pace: Pace) -> None:
        self._supply, self._parts, self._pace = supply, parts, pace
        self._driver = parts.driver
        self._peer = KmeId(parts.driver.pair.peer)
        self._origin = Origin.of(facts)
        self._session = parts.entropy.random_bytes(16).hex()
        self._number = int.from_bytes(parts.entropy.random_bytes(8), "big") >> 2
        self._started = False
        self._greeted: str | None = None
        self._sending, self._dry, self._taking = (Pauses(pace.retry_min_s, pace.retry_max_s) for _ in range(3))
        self._not_before_s = 0.0
        """Until when nothing is fetched, after failures."""
        self._peer_session = ""
        self._turn_to_take = asyncio.Lock()
        self._waiting = 0
        self.condition = "starting"

    async def handle(self, channel: Channel) -> None:
        """Refuse: this source has no channel of its own."""
        raise PeerFault(f"{channel.peer} opened a channel for another kind of source", code="source.wrong_kind")

    def figures(self) -> dict[str, Any]:
        """Return nothing: its devices tell nothing."""
        return {}

    @property
    def suspension(self) -> str:
        """Nothing: no monitor watches the devices from here."""
        return ""

    async def lift(self) -> str:
        """Nothing to lift."""
        return ""

    def close(self) -> None:
        """Nothing to drop: ``transmit`` lets go when it is cancelled."""

    # Transmitting

    async def transmit(self) -> None:
        """Make blocks until cancelled."""
        try:
            while True:
                pause_s = await self._turn()
                if pause_s > 0:
                    await self._pause(pause_s)
        finally:
            self._started = False
            try:
                await self._supply.stop()
            finally:
                self._supply.release()

    async def _pause(self, seconds: float) -> None:
        """Wait; if it is only for room or the peer, until something happened on the link."""
        if seconds > _IDLE_S:
            await asyncio.sleep(seconds)
            return
        self._driver.progress.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._driver.progress.wait()

    async def _turn(self) -> float:
        """Make one block if that is possible; return seconds to wait, 0 to go on at once."""
        try:
            if not self._started:
                await self._supply.start()
                self._started = True
            return await self._make_if_wanted()
        except ShosoinError as err:
            return await self._failed(err)
        except Exception as err:  # noqa: BLE001  # whatever a vendor provokes must not end the KME
            log("source.defect", peer=self._peer, **described(err))
            return await self._failed(Unavailable("a defect of this program", code="source.defect"))

    async def _make_if_wanted(self) -> float:
        pair = self._driver.pair
        askable = self._parts.requests.is_connected(self._peer)
        if not (pair.is_connected and askable and pair.outgoing.can_begin):
            return _IDLE_S
        room = self._parts.max_stock_bits // 8 - pair.outgoing.left_granules() * GRANULE_BYTES
        if room < self._least_bytes:
            self.condition = "full"
            return _IDLE_S
        most = self._least_bytes if self._sending.failures else self._pace.max_block_bits // 8
        if await self._make_block(max(self._least_bytes, min(room, most))):
            self.condition = "working"
            self._sending.reset()
            self._dry.reset()
            return 0.0
        self.condition = "dry"
        return self._dry.next_s()

    @property
    def _least_bytes(self) -> int:
        return max(_BLOCK_BYTES_LEAST, self._pace.min_block_bits // 8)

    async def _make_block(self, most_bytes: int) -> bool:
        note = await self._supply.prepare()
        if note != self._greeted or self._sending.failures:
            question = write_question(Greeting(self._origin, note))
            answer = await self._ask(question)
            await self._supply.greeted(read_note(answer))
            self._greeted = note
        material = await self._supply.draw(self._least_bytes, most_bytes)
        if material is None:
            return False
        try:
            await self._begin(material)
        finally:
            material.wipe()
        return True

    async def _begin(self, material: Material) -> None:
        await self._use(material)
        self._number += 1
        number, tickets = self._number, tuple(material.tickets)
        await self._ask(write_question(Offer(self._origin, self._session, number, material.size_bytes, tickets)))
        bits = material.joined(GRANULE_BYTES)
        await self._driver.do(lambda: self._driver.pair.begin_block(number, bits))
        bits[:] = bytes(len(bits))

    async def _ask(self, question: bytes) -> bytes:
        return await self._parts.requests.ask(self._peer, SUBJECT, question, self._pace.offer_timeout_s)

    async def _use(self, material: Material) -> None:
        """Make sure that material is used for the first time, and never again."""
        try:
            await self._supply.claim(material.tickets, transmitting=True)
        except BaseException:
            with contextlib.suppress(BitsRepeated):
                self._parts.repeats.look_at(material.pieces)
            raise
        self._parts.repeats.look_at(material.pieces)

    async def _failed(self, err: ShosoinError) -> float:
        self._tell(err, self._sending.failures, transmitting=True)
        self.condition = f"failed: {err.code}"
        await self._supply.forget(transmitting=True)
        retry_after_s = err.retry_after_s if isinstance(err, Unavailable) else None
        return max(self._sending.next_s(retry_after_s or 0.0), _IDLE_S)

    # Receiving

    async def answer(self, question: bytes) -> bytes:
        """Fetch what the peer's source drew, or say whether that could be done."""
        asked = read_question(question)
        if asked.origin != self._origin:
            ours, theirs = self._origin, asked.origin
            self._emit("source.origins_differ", "alarm", ours=ours.kind, theirs=theirs.kind)
            message = f"the two ends declare different origins: {theirs} there, {ours} here"
            raise Rejected(message, code="source.origins_differ", hint="configure both ends of the link alike")
        if not self._started or self._waiting >= _OFFERS_WAITING_MAX:
            raise Unavailable("the source is not ready or busy", code="source.busy")
        self._waiting += 1
        try:
            async with self._turn_to_take:
                return await self._answer_in_turn(asked)
        finally:
            self._waiting -= 1

    async def _answer_in_turn(self, asked: Greeting | Offer) -> bytes:
        if self._parts.clock.now_s() < self._not_before_s:
            raise Unavailable("the source failed a moment ago and is left alone", code="source.pausing")
        try:
            if isinstance(asked, Greeting):
                return write_note(await self._supply.greet(asked.note))
            await self._take(asked)
        except ShosoinError as err:
            await self._refused(err)
            raise
        except Exception as err:
            log("source.defect", peer=self._peer, **described(err))
            await self._refused(Unavailable("a defect of this program", code="source.defect"))
            raise
        self._taking.reset()
        return write_note("")

    async def _refused(self, err: ShosoinError) -> None:
        self._tell(err, self._taking.failures, transmitting=False)
        self._not_before_s = self._parts.clock.now_s() + self._taking.next_s()
        await self._supply.forget(transmitting=False)

    async def _take(self, offer: Offer) -> None:
        incoming = self._driver.pair.incoming
        if offer.session != self._peer_session:
            self._peer_session = offer.session
            incoming.forget_bits()  # of a run of the peer that is over
        if not self._driver.pair.is_open:
            raise Unavailable("the stream is not open", code="source.stream_not_open")
        # Before the fetch, so that no name is ever used for a second fetch, whatever becomes of the first.
        await self._supply.claim(offer.tickets, transmitting=False)
        material = await self._supply.fetch(offer.tickets, offer.size_bytes)
        try:
            self._parts.repeats.look_at(material.pieces)
            if material.size_bytes != offer.size_bytes:
                raise PeerFault(
                    f"the material has {material.size_bytes} bytes here and {offer.size_bytes} at the peer",
                    code="source.sizes_differ",
                )
            bits = material.joined(GRANULE_BYTES)
            await self._driver.do(partial(self._driver.pair.bits_arrived, offer.number, bits))
        finally:
            material.wipe()

    # Telling

    def _tell(self, err: ShosoinError, failures: int, *, transmitting: bool) -> None:
        """Report a failure: alarms always, others when they are the first, second, fourth, ... in a row."""
        severity = "alarm" if isinstance(err, Alarm) else "warning"
        if severity == "alarm" or failures & (failures - 1) == 0 or not failures:
            role = "transmitter" if transmitting else "receiver"
            name = err.code if severity == "alarm" else "source.failed"
            self._emit(name, severity, role=role, code=err.code, reason=err.message[:300], failures=failures + 1)

    def _emit(self, name: str, severity: str, **fields: object) -> None:
        self._parts.events.emit(Event(name, severity, {"peer": self._peer, **fields}))
