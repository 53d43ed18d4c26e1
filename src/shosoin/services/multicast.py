"""Keys for several slaves at once (ETSI GS QKD 014 V1.1.1, clause 5.4 and annex B).

The master's KME makes the bits and sends every other KME a record with a padded copy (``shosoin.keys.copies``); only
when all have stored it does the master get its answer. A slave fetches its copy at its own KME, which first *claims* it
from the master's: the row that allows it is removed there, durably, then the copy here, then it is served. So neither
KME's memory or disk alone decides whether a copy is still unused; the price is that the master's KME must be reachable.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar
from uuid import UUID

from shosoin.adapters.copy_store import CopyStore, HeldCopy
from shosoin.base import Entropy, KeyMaterial, KmeId, PeerFault, SaeId, ShosoinError
from shosoin.base.ports import Clock, Event, EventSink
from shosoin.keys.copies import COPY_BYTES_MAX, CopyHead, open_copies, pad_bytes, read_head, seal_copies
from shosoin.keys.demands import Demands
from shosoin.keys.errors import KeyNotFound, KeyOfAnotherSae, PairProtocolError, RequestInvalid, StreamNotReady
from shosoin.keys.key_id import GRANULE_BYTES, granules_of
from shosoin.keys.kme import Admit, Delivery, Key, Kme
from shosoin.link import LinkFacts
from shosoin.services.kme_requests import PeerRefused, PeerRequests
from shosoin.services.sae_http import Drawing

__all__ = ["Multicast"]

T = TypeVar("T")
_COPY, _CLAIM = "multicast/copy", "multicast/claim"
_ASK_S = 5.0
_HELD_MAX = 1 << 16
_HELD_BYTES_MAX = 64 << 20
"""Copies of one peer's masters that may await fetching here."""
_EXPIRE_EVERY_S = 60.0


class Multicast:
    """Sends and serves multicast keys of one KME.

    Args:
        expiry_s: age after which copies that nobody fetched are destroyed.
    """

    def __init__(
        self,
        kme: Kme,
        drawing: Drawing,
        requests: PeerRequests,
        store: CopyStore,
        *,
        entropy: Entropy,
        clock: Clock,
        events: EventSink,
        expiry_s: float,
    ) -> None:
        self._kme, self._drawing, self._requests = kme, drawing, requests
        self._store, self._entropy, self._clock, self._events = store, entropy, clock, events
        self._expiry_s = expiry_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="multicast")
        self._held: dict[str, dict[SaeId, HeldCopy]] = defaultdict(dict)
        self._named: dict[str, frozenset[SaeId]] = {}
        """Every slave here that a key was drawn for, as long as a copy waits."""
        self._taking: set[tuple[str, SaeId]] = set()
        self._number: Counter[KmeId] = Counter()
        self._bytes: Counter[KmeId] = Counter()
        self._remember(store.index())
        requests.serve(_COPY, self._serve_copy)
        requests.serve(_CLAIM, self._serve_claim)

    async def run(self) -> None:
        """Destroy what is too old, until cancelled."""
        while True:
            await self._expire()
            await asyncio.sleep(min(_EXPIRE_EVERY_S, self._expiry_s))

    def close(self) -> None:
        """Let go of the store, after everything else has ended."""
        self._thread.shutdown(wait=True)
        self._store.close()

    # The master's KME

    async def draw(
        self, caller: SaeId, slaves: Sequence[SaeId], number: int, size_bits: int, admit: Admit, demands: Demands
    ) -> Delivery:
        """Make keys that every one of the slaves can fetch from its own KME, each once.

        Raises:
            RequestInvalid: too many or unknown slaves, or too many bits.
            Unavailable: a KME of theirs cannot be reached; what it was sent is never served.
        """
        by_kme = self._grouped(caller, slaves)
        facts = self._facts(slaves)
        self._check(caller, slaves, number, size_bits)
        demands.check(facts)
        length, total = size_bits // 8, number * size_bits // 8
        cost_bits = sum(
            granules_of(pad_bytes(number, length)) * GRANULE_BYTES * 8 for kme in by_kme if kme != self._kme.kme_id
        )
        cost_bits = max(cost_bits, total * 8)
        self._kme.check_quota(caller, slaves[0], cost_bits)
        admit(number, total)
        keys = [(self._new_id(), self._entropy.random_bytes(length)) for _ in range(number)]
        self._kme.spend_quota(caller, slaves[0], cost_bits)  # before the first await: others draw meanwhile
        await self._send_all(caller, by_kme, keys)
        for slave in slaves:
            self._kme.drawn[caller, slave].add(number, number * size_bits)
        return Delivery(tuple(Key(key_id, KeyMaterial(bits)) for key_id, bits in keys), facts, 0.0)

    async def _send_all(
        self, caller: SaeId, by_kme: Mapping[KmeId, Sequence[SaeId]], keys: Sequence[tuple[str, bytes]]
    ) -> None:
        remote = {kme: slaves for kme, slaves in by_kme.items() if kme != self._kme.kme_id}
        await asyncio.gather(*(self._send(kme, caller, slaves, keys) for kme, slaves in remote.items()))
        rows = [(key_id, slave, kme) for kme, slaves in remote.items() for slave in slaves for key_id, _ in keys]
        if rows:
            await self._stored(lambda: self._store.add_sent(rows, self._clock.wall_s()))
        own = by_kme.get(self._kme.kme_id, ())
        if own:
            self._kme.hold_locally(caller, own, keys)

    async def _send(
        self, peer: KmeId, caller: SaeId, slaves: Sequence[SaeId], keys: Sequence[tuple[str, bytes]]
    ) -> None:
        length = len(keys[0][1])
        if not self._requests.is_connected(peer):
            raise StreamNotReady(f"{peer} cannot be reached", retry_after_s=1.0)
        size = pad_bytes(len(keys), length)
        pad_id, pad = await self._drawing.patiently(lambda: self._kme.draw_pad(peer, size, caller, slaves[0]))
        head = CopyHead(caller, tuple(slaves), tuple(key_id for key_id, _ in keys), length, pad_id)
        record = seal_copies(head, [bits for _, bits in keys], pad)
        await self._requests.ask(peer, _COPY, record, _ASK_S)
        self._drawing.leases.refresh_lease(peer)

    def _grouped(self, caller: SaeId, slaves: Sequence[SaeId]) -> dict[KmeId, list[SaeId]]:
        self._kme.require_own(caller)
        by_kme: defaultdict[KmeId, list[SaeId]] = defaultdict(list)
        for slave in slaves:
            home = self._kme.home_of(slave)
            if home is None:
                raise RequestInvalid("an SAE in slave_SAE_ID or additional_slave_SAE_IDs is not known to this KME")
            by_kme[home].append(slave)
        return dict(by_kme)

    def _check(self, caller: SaeId, slaves: Sequence[SaeId], number: int, size_bits: int) -> None:
        most = self._kme.limits.max_additional_slaves
        if len(slaves) - 1 > most:
            raise RequestInvalid(f"additional_slave_SAE_IDs shall name at most {most} SAEs, got {len(slaves) - 1}")
        for slave in slaves:
            self._kme.policies.of(caller, slave).limits.check(number, size_bits)
        if number * size_bits > COPY_BYTES_MAX * 8:
            raise RequestInvalid(f"number times size shall be at most {COPY_BYTES_MAX * 8} bits for several slaves")

    def _facts(self, slaves: Sequence[SaeId]) -> LinkFacts:
        """Return what the label says: the bits come from a generator, and travelled over these links."""
        links = [self._kme.facts_of(slave) for slave in slaves]
        rates = [facts.secret_key_rate_bps for facts in links]
        return LinkFacts("multicast", any(facts.simulated for facts in links), None, min(rates, default=0.0))

    def _new_id(self) -> str:
        return str(UUID(bytes=self._entropy.random_bytes(16), version=4))

    async def _serve_claim(self, peer: KmeId, body: bytes) -> bytes:
        try:
            found = json.loads(body)
            slave, key_ids = SaeId(str(found["slave"])), [str(key_id) for key_id in found["key_ids"]]
        except (ValueError, KeyError, TypeError, RecursionError, ShosoinError) as err:
            raise PairProtocolError("not a claim") from err
        if len(set(key_ids)) < len(key_ids) or not await self._stored(lambda: self._store.claim(peer, slave, key_ids)):
            raise KeyNotFound
        return b"claimed"

    # A slave's KME

    def holds(self, key_id: str) -> bool:
        """Whether copies of this key wait here."""
        return key_id.lower() in self._held

    def check(self, caller: SaeId, master: SaeId, key_ids: Sequence[str]) -> list[HeldCopy]:
        """Return the copies that a caller may fetch; nothing is consumed.

        Raises:
            KeyOfAnotherSae, KeyNotFound: one of them is not for it, or no longer there.
        """
        names = [key_id.lower() for key_id in key_ids]
        if any(name in self._named and caller not in self._named[name] for name in names):
            raise KeyOfAnotherSae("a key was drawn for another SAE")
        copies = [self._held.get(name, {}).get(caller) for name in names]
        found = [copy for copy in copies if copy is not None and copy.master == master]
        busy = any((copy.key_id, copy.slave) in self._taking for copy in found)
        if len(found) < len(names) or len(set(names)) < len(names) or busy:
            raise KeyNotFound
        return found

    async def take(self, copies: Sequence[HeldCopy]) -> list[bytearray]:
        """Claim and return copies that ``check`` found; none can be taken again.

        Raises:
            StreamNotReady: the master's KME cannot be asked; ask again.
            KeyNotFound: it says that they were claimed before.
        """
        places = {(copy.key_id, copy.slave) for copy in copies}
        if places & self._taking:
            raise KeyNotFound
        self._taking |= places
        try:
            for peer in dict.fromkeys(copy.peer for copy in copies):
                await self._claim(peer, [copy for copy in copies if copy.peer == peer])
            self._forget(copies)
            return await self._stored(lambda: self._store.take_held(copies))
        finally:
            self._taking -= places

    async def _claim(self, peer: KmeId, copies: Sequence[HeldCopy]) -> None:
        body = json.dumps({"slave": copies[0].slave, "key_ids": [copy.key_id for copy in copies]}).encode()
        try:
            await self._requests.ask(peer, _CLAIM, body, _ASK_S)
        except PeerRefused as err:
            if not err.code.endswith(KeyNotFound.code):
                raise StreamNotReady(f"{peer} cannot say now whether a key is unused", retry_after_s=1.0) from err
            self._forget(copies)
            await self._stored(lambda: self._store.drop_held(copies))
            self._events.emit(Event("keys.copy_claimed_before", "warning", {"peer": peer, "keys": len(copies)}))
            raise KeyNotFound from err

    async def _serve_copy(self, peer: KmeId, body: bytes) -> bytes:
        head = read_head(body)
        if self._kme.home_of(head.master) != peer:
            raise PairProtocolError(f"{head.master} is no SAE of {peer}")
        for slave in head.slaves:
            self._kme.require_own(slave)
        self._make_sure_of_room(peer, head)
        pad = self._kme.fetch_pad(peer, head.pad_id, pad_bytes(len(head.key_ids), head.length_bytes))
        try:
            keys = open_copies(head, body, pad)
        except PeerFault:
            self._events.emit(Event("keys.forged_copy", "alarm", {"peer": peer}))
            raise
        now_s = self._clock.wall_s()
        copies = [
            HeldCopy(key_id, slave, head.master, peer, now_s, head.length_bytes, frozenset(head.slaves), bits)
            for key_id, bits in zip(head.key_ids, keys, strict=True)
            for slave in head.slaves
        ]
        await self._stored(lambda: self._store.add_held(copies))
        for bits in keys:
            bits[:] = bytes(len(bits))
        self._remember([replace(copy, bits=b"") for copy in copies])
        return b"stored"

    def _make_sure_of_room(self, peer: KmeId, head: CopyHead) -> None:
        if any(key_id in self._held for key_id in head.key_ids):
            raise PairProtocolError("a key_ID is in use")
        number = self._number[peer] + len(head.key_ids) * len(head.slaves)
        total = self._bytes[peer] + len(head.key_ids) * len(head.slaves) * head.length_bytes
        if number > _HELD_MAX or total > _HELD_BYTES_MAX:
            raise StreamNotReady(f"too many multicast keys of {peer} await fetching", retry_after_s=1.0)

    def _remember(self, copies: Sequence[HeldCopy]) -> None:
        for copy in copies:
            self._held[copy.key_id][copy.slave] = copy
            self._number[copy.peer] += 1
            self._bytes[copy.peer] += copy.length_bytes
            self._named[copy.key_id] = copy.named

    def _forget(self, copies: Sequence[HeldCopy]) -> None:
        for copy in copies:
            waiting = self._held.get(copy.key_id, {})
            if waiting.pop(copy.slave, None) is not None:
                self._number[copy.peer] -= 1
                self._bytes[copy.peer] -= copy.length_bytes
            if not waiting:
                self._held.pop(copy.key_id, None)
                self._named.pop(copy.key_id, None)

    async def _expire(self) -> None:
        before_s = self._clock.wall_s() - self._expiry_s
        old = [copy for copies in self._held.values() for copy in copies.values() if copy.born_s < before_s]
        self._forget(old)
        with suppress(ShosoinError):  # the next round tries again
            await self._stored(lambda: self._store.expire(before_s))

    async def _stored(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
