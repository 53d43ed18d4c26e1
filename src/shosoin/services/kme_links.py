"""The links of a KME to others: the pair behind each, what drives it, where its bits come from, and its channels."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from shosoin.adapters.private_files import read_private
from shosoin.adapters.used_tickets import UsedMemory
from shosoin.base import Denied, Entropy, KmeId, Rejected, Unavailable
from shosoin.base.ports import Clock, EventSink
from shosoin.keys.burning import Holding, burn_store
from shosoin.keys.errors import StoreUnavailable, StreamNotReady, StreamRefused
from shosoin.keys.pair import PairEnd, PairLimits
from shosoin.keys.store import StreamStore
from shosoin.link.port import LinkFacts
from shosoin.services.json_log import log
from shosoin.services.kme_config import KmeConfig, LinkSection
from shosoin.services.kme_requests import PeerRequests
from shosoin.services.link_driver import LinkDriver
from shosoin.services.link_keeping import open_in_thread, serve_until_lost, tried_in_thread
from shosoin.services.link_origin import origin_of_stock
from shosoin.services.peer_channel import Channel, ChannelKind, dial_forever
from shosoin.services.sources.build import check_recordings, facts_of, make_source
from shosoin.services.sources.coordinated import SUBJECT, SourceParts
from shosoin.services.sources.port import LinkSource
from shosoin.services.sources.repeats import BitMemory
from shosoin.services.sources.suspension import Suspension
from shosoin.services.store_config import open_store, open_used
from shosoin.services.tls_plane import TlsPlane

__all__ = ["KmeLinks"]

_MESSAGE_BYTES_SPARE = 16 << 20
_SECRET_BYTES_MAX = 1 << 16
_FAREWELL_S = 1.0
_BURNED_S = 10.0
"""How long a burn waits until the pair is open anew at this end."""
_BURN_STOPPED = "stop the KME, then: shosoin kme burn"
_MIXED = "keys are called what the worst of the stock is, until the pair is burned: shosoin kme burn"
_REOPEN_S_MIN, _REOPEN_S_MAX = 0.5, 8.0
"""Pauses before a store that was lost is opened again."""


class KmeLinks:
    """All links of one KME. A link whose stored state cannot be used is refused, and the others work.

    Where the store could not be reached, or was lost, that is tried again; what is damaged stays refused.
    """

    def __init__(self, config: KmeConfig, clock: Clock, entropy: Entropy, events: EventSink) -> None:
        self._config, self._clock, self._entropy, self._events = config, clock, entropy, events
        self.drivers: dict[KmeId, LinkDriver] = {}
        self.pairs: dict[KmeId, PairEnd] = {}
        """The pair behind each link, from the moment it could be used first; a lost one is closed until it is back."""
        self._refusals: dict[KmeId, StreamRefused] = {}
        self._burns_due: set[KmeId] = set()
        """Peers of pairs whose burn could not be written: that comes before such a pair is opened anew."""
        self._storage_key = b""
        self._sources: dict[KmeId, LinkSource] = {}
        self._facts: dict[KmeId, LinkFacts] = {}
        self._suspensions: dict[KmeId, Suspension] = {}
        """They outlive the sources: what could not be written yet must not end because a link is opened anew."""
        self._repeats = BitMemory(entropy)
        self.requests = PeerRequests({KmeId(link.peer) for link in config.links})
        """Questions to and from the KMEs of all links."""
        self.admit: Callable[[asyncio.BaseTransport], bool] = lambda _: True
        """Says whether a connection with another KME may be used."""
        self.source_planes: Mapping[KmeId, TlsPlane] = {}
        """TLS endpoints of the links whose bits come over TLS."""
        self.burn_copies: Callable[[KmeId], Awaitable[None]] = _no_copies
        """Removes the multicast copies that came from a peer or were sent to it, durably."""
        self.requests.serve(SUBJECT, self._answer_source)
        self.groups: Counter[str] = Counter()
        """Connections by TLS key-exchange group; empty where the TLS library cannot tell."""

    # What others need to know

    @property
    def facts(self) -> Mapping[KmeId, LinkFacts]:
        """Origin of each link's bits, those in stock included; what changes shows here."""
        return MappingProxyType(self._facts)

    def states(self) -> dict[str, Any]:
        """Return what an operator wants to know of each link; nothing secret."""
        peers = [KmeId(link.peer) for link in self._config.links]
        return {peer: {**self._state(peer), **self._reason(peer)} for peer in peers}

    def _reason(self, peer: KmeId) -> dict[str, str]:
        """Return why a link does not work, as far as this end knows."""
        driver = self.drivers.get(peer)
        refusal = self._refusals.get(peer)
        why = driver.pair.refusal if driver is not None else refusal.message if refusal is not None else ""
        return {"reason": why} if why else {}

    def _state(self, peer: KmeId) -> dict[str, Any]:
        driver = self.drivers.get(peer)
        if driver is None or driver.failed:
            return {"refused": True, "open": False, "connected": False}
        pair, facts = driver.pair, self._facts[peer]
        return {
            "refused": False,
            "open": pair.is_open,
            "connected": driver.is_answered,
            "key_exchange_group": driver.key_exchange_group,
            "generation": pair.generation,
            "outgoing_stock_bits": pair.outgoing.stock_granules() * 256,
            "incoming_held_bits": pair.incoming.held_granules() * 256,
            "verification_entries": pair.outgoing.verification_entries,
            "kind": facts.kind,
            "simulated": facts.simulated,
            "secret_key_rate_bps": round(facts.secret_key_rate_bps, 3),
            "source": self._sources[peer].condition,
            "suspended": bool(self._sources[peer].suspension),
            "devices": self._sources[peer].figures(),
        }

    # Operating

    async def lift(self, peer: KmeId) -> str:
        """Let a link that an alarm has suspended make keys again; return the code of that alarm, empty without one.

        Raises:
            StreamNotReady: the link is not in use now.
            Unavailable: it could not be made durable; the link stays suspended.
        """
        self._driver(peer)
        return await self._sources[peer].lift()

    # Burning

    async def burn(self, peer: KmeId, *, dry_run: bool) -> Holding:
        """Burn what this end holds of a pair, durably, and open the pair anew; return what that was, or would be.

        From the first step on nothing of it is handed out; the other end burns when the two meet, as soon as they can.
        Multicast copies go as soon as nothing more is drawn, whether or not the pair's own state could be written. If
        they cannot, the pair stays shut and they are given to nobody, until that was made up for.

        Raises:
            StreamNotReady: the pair cannot be used now; whoever wants to burn it stops the KME.
            StreamRefused: what is stored cannot be read or written; this process hands out nothing of it any more.
        """
        driver = self.drivers.get(peer)
        if driver is None or driver.failed:
            why = f"what is stored of the stream with {peer} cannot be used now"
            raise StreamNotReady(why, hint=_BURN_STOPPED)
        try:
            found = await driver.on_store(lambda store: burn_store(store, dry_run=dry_run), and_open_anew=not dry_run)
        except StreamRefused as err:
            if not dry_run:
                self._burns_due.add(peer)
                err.hint = "until it is burned nothing is shared with it; tried again at once, else: " + _BURN_STOPPED
            raise
        finally:
            if not dry_run:
                driver.pair.mark_burned()
                await self._burn_copies(peer)
        held = found or Holding(0, 0, 0)
        if not dry_run:
            _log_burn(peer, held)
            with suppress(TimeoutError):  # it is burned, whenever the pair goes on
                async with asyncio.timeout(_BURNED_S):
                    await driver.replaced.wait()
        return held

    async def _burn_copies(self, peer: KmeId) -> None:
        try:
            await self.burn_copies(peer)
        except StreamRefused as err:
            why = f"the multicast copies shared with {peer} are to be burned and cannot be: {err.message}"
            raise StoreUnavailable(why, hint="until then nothing is shared with it; this is tried again") from err

    # Leases, for those who draw keys

    def refresh_lease(self, peer: str) -> None:
        """Extend the lease ahead of demand if it runs low."""
        driver = self.drivers.get(KmeId(peer))
        if driver is not None and driver.pair.outgoing.lease_low:
            driver.ask_lease()

    async def wait_lease(self, peer: str, granules: int) -> None:
        """Wait for a higher lease."""
        await self._driver(KmeId(peer)).wait_lease(granules)

    def _driver(self, peer: KmeId) -> LinkDriver:
        driver = self.drivers.get(peer)
        if driver is None:
            raise StreamNotReady(f"what is stored of the stream with {peer} cannot be used now", retry_after_s=1.0)
        return driver

    # Life

    async def open(self, storage_key: bytes) -> None:
        """Load what is stored of every link.

        Raises:
            Rejected: a pair secret cannot be read, or two links would get the same bits.
            Denied: others can read a pair secret.
        """
        self._storage_key = storage_key
        check_recordings(self._config.sources)
        # Side by side, since a store elsewhere may take its time. All are looked at, so that none is left half open.
        looked = await asyncio.gather(*map(self._open_link, self._config.links), return_exceptions=True)
        for each in looked:
            if isinstance(each, BaseException):
                raise each

    async def accept(self, channel: Channel) -> None:
        """Use a channel until it ends."""
        if not self.admit(channel.writer.transport):
            channel.close()
            return
        peer = KmeId(channel.peer)
        driver = self._driver(peer)
        self.groups[channel.group or ""] += 1
        log("peer.connected", peer=peer, kind=channel.kind, group=channel.group)
        match channel.kind:
            case ChannelKind.CLASSICAL:
                await driver.handle_classical(channel)
            case ChannelKind.SIMULATED_QUANTUM:
                await self._sources[peer].handle(channel)
            case ChannelKind.REQUESTS:
                await self.requests.handle(channel)

    def work(self, context: Callable[[], ssl.SSLContext]) -> list[Coroutine[Any, Any, None]]:
        """Return what must run as long as the KME does."""
        return [self._keep(link, context) for link in self._config.links]

    async def stop(self) -> None:
        """Leave word with every peer."""
        await asyncio.gather(*(driver.stop(_FAREWELL_S) for driver in self.drivers.values()))

    def release(self) -> None:
        """Let go of all stores, after the work has ended."""
        for driver in self.drivers.values():
            driver.release()

    # One link

    async def _keep(self, link: LinkSection, context: Callable[[], ssl.SSLContext]) -> None:
        peer, pause_s = KmeId(link.peer), _REOPEN_S_MIN
        replaced = asyncio.Event()
        while peer in self.drivers or isinstance(self._refusals.get(peer), StoreUnavailable):
            if peer in self.drivers:
                driver = self.drivers[peer]
                await serve_until_lost(driver, self._parts(link, context))
                pause_s, replaced = 0.0 if driver.is_changed else _REOPEN_S_MIN, driver.replaced
                await self._let_go(peer)
            await asyncio.sleep(pause_s)
            pause_s = min(_REOPEN_S_MAX, max(_REOPEN_S_MIN, 2 * pause_s))
            try:
                await self._open_link(link)
            except (Rejected, Denied) as err:  # at the start it would end the process; now others are served
                self._refuse(peer, StoreUnavailable(err.message, hint=err.hint))
            replaced.set()

    def _parts(self, link: LinkSection, context: Callable[[], ssl.SSLContext]) -> list[Coroutine[Any, Any, None]]:
        """Return what one link consists of; of two KMEs the one with the lower id dials."""
        peer = KmeId(link.peer)
        parts = [self.drivers[peer].run(), self._sources[peer].transmit()]
        unused = set() if self._sources[peer].uses_channel else {ChannelKind.SIMULATED_QUANTUM}
        if self._config.kme.id < link.peer:
            kinds = [kind for kind in ChannelKind if kind not in unused]
            parts += [dial_forever(link.peer, link.host, link.port, context, kind, self.accept) for kind in kinds]
        return parts

    async def _answer_source(self, peer: KmeId, question: bytes) -> bytes:
        source = self._sources.get(peer)
        if source is None:
            raise Unavailable("the link is not in use", code="source.no_link")
        return await source.answer(question)

    async def _let_go(self, peer: KmeId) -> None:
        self._sources.pop(peer).close()
        driver = self.drivers.pop(peer)
        await asyncio.to_thread(driver.release)  # a hanging commit may take its time to fail

    async def _open_link(self, link: LinkSection) -> None:
        peer, config = KmeId(link.peer), self._config
        self._facts[peer] = facts_of(link, config.sources.get(peer))
        self._refusals.pop(peer, None)
        secret = read_private(
            link.pair_secret_file, f"[[link]] of {peer}: pair_secret_file", bytes_max=_SECRET_BYTES_MAX
        )
        where, key = config.kme.directory, self._storage_key
        try:
            store = await open_in_thread(lambda: open_store(config.store, where, config.kme.id, peer, key))
        except StreamRefused as err:
            self._refuse(peer, err)
            return
        try:
            await self._start_pair(link, peer, secret, store)
        except BaseException as err:
            store.close()
            if not isinstance(err, StreamRefused):
                raise
            self._refuse(peer, err)

    def _refuse(self, peer: KmeId, err: StreamRefused) -> None:
        self._refusals[peer] = err
        log("stream.refused", peer=peer, reason=err.message, hint=err.hint)

    async def _start_pair(self, link: LinkSection, peer: KmeId, secret: bytes, store: StreamStore) -> None:
        limits = self._config.limits
        pair_limits = PairLimits(
            limits.lease_bytes,
            link.max_stock_bits // 8 * 2 + _MESSAGE_BYTES_SPARE,
            limits.key_expiry_s,
            link.max_age_s,
        )
        pair = PairEnd(self._config.kme.id, peer, secret, store, self._entropy, pair_limits, wall_s=self._clock.wall_s)
        burn_copies = partial(self._burn_copies, peer)  # if that is left of a burn
        driver = LinkDriver(pair, store, self._clock, self._events, burn_copies)
        if peer in self._burns_due:
            held = await asyncio.to_thread(burn_store, store, dry_run=False)
            self._burns_due.discard(peer)
            _log_burn(peer, held or Holding(0, 0, 0))
        await driver.start()
        declared = self._facts[peer]
        section, directory = self._config.sources.get(peer), self._config.kme.directory / "sources" / peer
        has_stock = bool(pair.outgoing.view().blocks or pair.incoming.view().blocks)
        self._facts[peer] = await asyncio.to_thread(origin_of_stock, directory, declared, has_stock=has_stock)
        if self._facts[peer] != declared:
            log("link.stock_of_another_origin", peer=peer, kind=self._facts[peer].kind, hint=_MIXED)
        parts = SourceParts(
            driver,
            self.requests,
            self._repeats,
            self._entropy,
            self._clock,
            self._events,
            link.max_stock_bits,
            directory,
            partial(self._suspension, peer, directory),
            secret,
        )
        used: Callable[[], UsedMemory] = partial(open_used, store, self._config.store.schema, directory)
        if section is not None:
            used = await tried_in_thread(used)
        plane = self.source_planes.get(peer)
        self._sources[peer] = make_source(link, section, parts, declared, used, plane)
        _follow(self.pairs.get(peer), pair)
        self.drivers[peer], self.pairs[peer] = driver, pair

    def _suspension(self, peer: KmeId, directory: Path) -> Suspension:
        if peer not in self._suspensions:
            simulated = self._facts[peer].simulated
            self._suspensions[peer] = Suspension(directory, peer, self._clock, self._events, simulated=simulated)
        return self._suspensions[peer]


def _log_burn(peer: KmeId, held: Holding) -> None:
    log("stream.burned", peer=peer, blocks=held.blocks, bits=held.granules * 256)


async def _no_copies(peer: KmeId) -> None:
    raise StreamRefused(f"those shared with {peer} are kept elsewhere")


def _follow(before: PairEnd | None, pair: PairEnd) -> None:
    """Let go on what was counted in this process, and what tells holders of drawn keys of a burn."""
    if before is not None:
        pair.burn_mark = before.burn_mark
        before.outgoing.tally.reopen(pair.outgoing.tally.restored_granules)
        before.incoming.tally.reopen(pair.incoming.tally.restored_granules)
        pair.outgoing.tally, pair.incoming.tally = before.outgoing.tally, before.incoming.tally
