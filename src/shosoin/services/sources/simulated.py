"""The simulated quantum channel: what stands where a pair of QKD devices would.

The transmitting KME draws a block of secret bits from its entropy source whenever the link model says that the
devices would have delivered one, keeps it, and sends it over a TLS connection to the other KME. Code and logs call that
connection the *simulated quantum channel*; nothing about it is quantum, and every key made of these bits is labelled
simulated. From here on the two ends treat the block exactly as if two devices had delivered it.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from functools import partial
from typing import Any

from shosoin.base import Entropy, PeerFault
from shosoin.base.ports import Clock
from shosoin.keys.key_id import GRANULE_BYTES
from shosoin.keys.pool import RESERVE_BYTES
from shosoin.link import SimulatedLink
from shosoin.services.json_log import log
from shosoin.services.link_driver import LinkDriver
from shosoin.services.peer_channel import Channel

__all__ = ["SimulatedDevices"]

_NUMBER = struct.Struct(">Q")


class SimulatedDevices:
    """Both simulated devices of one KME on one link: a transmitter and a receiver."""

    uses_channel = True

    def __init__(
        self, driver: LinkDriver, link: SimulatedLink, entropy: Entropy, clock: Clock, *, max_stock_bits: int
    ) -> None:
        self._driver, self._link = driver, link
        self._entropy, self._clock = entropy, clock
        self._max_stock_bytes = max_stock_bits // 8
        self._channel: Channel | None = None
        self._running_s = 0.0

    @property
    def condition(self) -> str:
        """Whether the devices see each other."""
        return "working" if self._channel is not None else "not connected"

    async def answer(self, question: bytes) -> bytes:
        """Refuse: devices see light, and ask nothing."""
        raise PeerFault("the source at this end is simulated, the peer's is not", code="source.wrong_kind")

    async def handle(self, channel: Channel) -> None:
        """Receive blocks on a channel until it ends; transmit on the latest one."""
        if self._channel is not None:
            self._channel.close()
        self._channel = channel
        self._driver.pair.incoming.forget_bits()
        log("simulated_quantum_channel.open", peer=channel.peer)
        try:
            while True:
                frame = bytearray(await channel.receive())
                if len(frame) <= _NUMBER.size:
                    raise PeerFault("short frame on the simulated quantum channel")
                (number,) = _NUMBER.unpack_from(frame)
                del frame[: _NUMBER.size]
                await self._driver.do(partial(self._driver.pair.bits_arrived, number, frame))
        except PeerFault as err:
            log("simulated_quantum_channel.ended", peer=channel.peer, reason=err.message)
        finally:
            if self._channel is channel:
                self._channel = None

    def figures(self) -> dict[str, Any]:
        """Return nothing: its devices tell nothing."""
        return {}

    @property
    def suspension(self) -> str:
        """Nothing: a rate model raises no alarm."""
        return ""

    async def lift(self) -> str:
        """Nothing to lift."""
        return ""

    def close(self) -> None:
        """Drop the channel."""
        if self._channel is not None:
            self._channel.close()

    async def transmit(self) -> None:
        """Make blocks at the link's pace until cancelled."""
        before_s = self._clock.now_s()
        while True:
            now_s = self._clock.now_s()
            working = self._channel is not None and self._driver.pair.is_connected
            if working:
                self._running_s += now_s - before_s
            before_s = now_s
            if not (working and await self._transmit_due()):
                await self._pause()

    async def _transmit_due(self) -> bool:
        outgoing = self._driver.pair.outgoing
        channel = self._channel
        if channel is None or not outgoing.can_begin:
            return False
        room = self._max_stock_bytes - outgoing.left_granules() * GRANULE_BYTES
        block = self._link.due(self._running_s, room_bytes=room)
        if block is None:
            return False
        bits = self._entropy.random_bytes(block.size_bytes + RESERVE_BYTES)
        await channel.send(_NUMBER.pack(block.number), bits)
        await self._driver.do(lambda: self._driver.pair.begin_block(block.number, bits))
        return True

    async def _pause(self) -> None:
        self._driver.progress.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._link.wait_s(self._running_s)):
                await self._driver.progress.wait()
