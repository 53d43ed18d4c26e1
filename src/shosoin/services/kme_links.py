"""The links of a KME to others: the pair behind each, what drives it, where its bits come from, and its channels."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from shosoin.adapters.stream_store import FileStreamStore
from shosoin.base import Entropy, KmeId, Rejected
from shosoin.base.ports import Clock, EventSink
from shosoin.keys.errors import StreamRefused
from shosoin.keys.pair import PairEnd, PairLimits
from shosoin.link import SimulatedLink
from shosoin.link.port import LinkFacts
from shosoin.services.json_log import log
from shosoin.services.kme_config import KmeConfig, LinkSection
from shosoin.services.kme_requests import PeerRequests
from shosoin.services.link_driver import LinkDriver
from shosoin.services.peer_channel import Channel, ChannelKind, dial_forever
from shosoin.services.simulated_quantum_channel import SimulatedDevices

__all__ = ["KmeLinks"]

_MESSAGE_BYTES_SPARE = 16 << 20
_FAREWELL_S = 1.0


class KmeLinks:
    """All links of one KME. A link whose stored state cannot be used is refused, and the others work."""

    def __init__(self, config: KmeConfig, clock: Clock, entropy: Entropy, events: EventSink) -> None:
        self._config, self._clock, self._entropy, self._events = config, clock, entropy, events
        self.drivers: dict[KmeId, LinkDriver] = {}
        self._devices: dict[KmeId, SimulatedDevices] = {}
        self._simulated: dict[KmeId, SimulatedLink] = {}
        self._refusals: dict[KmeId, str] = {}
        """Why stored state could not be used."""
        self.requests = PeerRequests({KmeId(link.peer) for link in config.links})
        """Questions to and from the KMEs of all links."""
        self.groups: Counter[str] = Counter()
        """Connections by TLS key-exchange group; empty where the TLS library cannot tell."""

    # What others need to know

    @property
    def facts(self) -> dict[KmeId, LinkFacts]:
        """Origin of each link's bits."""
        return {peer: link.facts for peer, link in self._simulated.items()}

    @property
    def pairs(self) -> dict[KmeId, PairEnd]:
        """The pair behind each usable link."""
        return {peer: driver.pair for peer, driver in self.drivers.items()}

    def states(self) -> dict[str, Any]:
        """Return what an operator wants to know of each link; nothing secret."""
        peers = [KmeId(link.peer) for link in self._config.links]
        return {peer: {**self._state(peer), **self._reason(peer)} for peer in peers}

    def _reason(self, peer: KmeId) -> dict[str, str]:
        """Return why a link does not work, as far as this end knows."""
        driver = self.drivers.get(peer)
        why = self._refusals.get(peer, "") if driver is None else driver.pair.refusal
        return {"reason": why} if why else {}

    def _state(self, peer: KmeId) -> dict[str, Any]:
        driver = self.drivers.get(peer)
        if driver is None or driver.failed:
            return {"refused": True, "open": False, "connected": False}
        pair = driver.pair
        return {
            "refused": False,
            "open": pair.is_open,
            "connected": driver.is_answered,
            "key_exchange_group": driver.key_exchange_group,
            "generation": pair.generation,
            "outgoing_stock_bits": pair.outgoing.stock_granules() * 256,
            "incoming_held_bits": pair.incoming.held_granules() * 256,
            "verification_entries": pair.outgoing.verification_entries,
            "kind": "simulated-qkd",
            "simulated": True,
            "secret_key_rate_bps": round(self._simulated[peer].facts.secret_key_rate_bps, 3),
        }

    # Leases, for those who draw keys

    def refresh_lease(self, peer: str) -> None:
        """Extend the lease ahead of demand if it runs low."""
        driver = self.drivers.get(KmeId(peer))
        if driver is not None and driver.pair.outgoing.lease_low:
            driver.ask_lease()

    async def wait_lease(self, peer: str, granules: int) -> None:
        """Wait for a higher lease."""
        await self.drivers[KmeId(peer)].wait_lease(granules)

    # Life

    async def open(self, storage_key: bytes) -> None:
        """Load what is stored of every link.

        Raises:
            Rejected: a pair secret cannot be read.
        """
        for link in self._config.links:
            await self._open_link(link, storage_key)

    async def accept(self, channel: Channel) -> None:
        """Use a channel until it ends."""
        peer = KmeId(channel.peer)
        self.groups[channel.group or ""] += 1
        log("peer.connected", peer=peer, kind=channel.kind, group=channel.group)
        match channel.kind:
            case ChannelKind.CLASSICAL:
                await self.drivers[peer].handle_classical(channel)
            case ChannelKind.SIMULATED_QUANTUM:
                await self._devices[peer].handle(channel)
            case ChannelKind.REQUESTS:
                await self.requests.handle(channel)

    def work(self, context: Callable[[], ssl.SSLContext]) -> list[Coroutine[Any, Any, None]]:
        """Return what must run as long as the KME does; of two KMEs the one with the lower id dials."""
        work: list[Coroutine[Any, Any, None]] = []
        for link in self._config.links:
            driver = self.drivers.get(KmeId(link.peer))
            if driver is None:
                continue
            work += [driver.run(), self._devices[KmeId(link.peer)].transmit()]
            if self._config.kme.id < link.peer:
                work += [
                    dial_forever(link.peer, link.host, link.port, context, kind, self.accept) for kind in ChannelKind
                ]
        return work

    async def stop(self) -> None:
        """Leave word with every peer."""
        await asyncio.gather(*(driver.stop(_FAREWELL_S) for driver in self.drivers.values()))

    def release(self) -> None:
        """Let go of all stores, after the work has ended."""
        for driver in self.drivers.values():
            driver.release()

    # One link

    async def _open_link(self, link: LinkSection, storage_key: bytes) -> None:
        peer = KmeId(link.peer)
        self._simulated[peer] = _simulated(link, stock_bits=0)
        try:
            secret = link.pair_secret_file.read_bytes()
        except OSError as err:
            raise Rejected(f"cannot read pair secret {link.pair_secret_file}: {err.strerror}") from err
        try:
            store = FileStreamStore(self._config.kme.directory / "links" / peer, storage_key)
        except StreamRefused as err:
            self._refuse(peer, err)
            return
        try:
            await self._start_pair(link, peer, secret, store)
        except StreamRefused as err:
            store.close()
            self._refuse(peer, err)

    def _refuse(self, peer: KmeId, err: StreamRefused) -> None:
        self._refusals[peer] = err.message
        log("stream.refused", peer=peer, reason=err.message, hint=err.hint)

    async def _start_pair(self, link: LinkSection, peer: KmeId, secret: bytes, store: FileStreamStore) -> None:
        limits = self._config.limits
        pair_limits = PairLimits(
            limits.lease_bytes,
            link.max_stock_bits // 8 * 2 + _MESSAGE_BYTES_SPARE,
            limits.key_expiry_s,
            link.max_age_s,
        )
        pair = PairEnd(self._config.kme.id, peer, secret, store, self._entropy, pair_limits, wall_s=self._clock.wall_s)
        driver = LinkDriver(pair, store, self._clock, self._events)
        await driver.start()
        initial_bits = max(0, link.stock_bits_at_start - pair.outgoing.produced_granules * 256)
        simulated = self._simulated[peer] = _simulated(link, stock_bits=initial_bits)
        self.drivers[peer] = driver
        self._devices[peer] = SimulatedDevices(
            driver, simulated, self._entropy, self._clock, max_stock_bits=link.max_stock_bits
        )


def _simulated(link: LinkSection, *, stock_bits: int) -> SimulatedLink:
    return SimulatedLink(
        attenuation_db=link.attenuation_db,
        length_km=link.length_km,
        speedup=link.speedup,
        stock_bits_at_start=stock_bits,
    )
