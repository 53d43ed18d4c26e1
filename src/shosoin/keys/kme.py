"""What a KME does for its SAEs, without any transport: status, enc_keys and dec_keys of ETSI GS QKD 014.

Everything is checked before anything is consumed; a request is served as a whole or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from shosoin.base import KeyMaterial, KmeId, SaeId
from shosoin.base.ports import Event, EventSink
from shosoin.keys.errors import (
    CallerUnknown,
    KeyDamaged,
    KeyNotFound,
    KeyOfAnotherSae,
    KeyStreamDry,
    RequestInvalid,
    StreamNotReady,
)
from shosoin.keys.key_id import GRANULE_BYTES, LENGTH_BYTES_MAX, KeyAddress, granules_of
from shosoin.keys.local import LocalKeys
from shosoin.keys.pair import PairEnd
from shosoin.keys.quota import Quota
from shosoin.keys.tally import KeyCount
from shosoin.link.port import LinkFacts

__all__ = ["Admit", "Delivery", "Key", "Kme", "KmeLimits", "KmeStatus"]

Admit = Callable[[int, int], None]
"""Told the number of keys and their bytes when all else is right and nothing is consumed; may still refuse."""


@dataclass(frozen=True, slots=True)
class KmeLimits:
    """Bounds on one request; sizes in bits as in the standard."""

    key_size_bits: int = 256
    min_key_size_bits: int = 8
    max_key_size_bits: int = LENGTH_BYTES_MAX * 8
    max_key_per_request: int = 128
    max_request_bytes: int = 64 << 20

    def check(self, number: int, size_bits: int) -> None:
        """Check a request.

        Raises:
            RequestInvalid: with what was expected.
        """
        if size_bits % 8:
            raise RequestInvalid("size shall be a multiple of 8")
        if not self.min_key_size_bits <= size_bits <= self.max_key_size_bits:
            raise RequestInvalid(
                f"size shall be {self.min_key_size_bits} to {self.max_key_size_bits} bits, got {size_bits}"
            )
        if not 1 <= number <= self.max_key_per_request:
            raise RequestInvalid(f"number shall be 1 to {self.max_key_per_request}, got {number}")
        if number * size_bits > self.max_request_bytes * 8:
            raise RequestInvalid(f"number times size shall be at most {self.max_request_bytes * 8} bits")


@dataclass(frozen=True, slots=True)
class Key:
    """One delivered key."""

    key_id: str
    material: KeyMaterial


@dataclass(frozen=True, slots=True)
class Delivery:
    """Keys and where their bits come from."""

    keys: tuple[Key, ...]
    facts: LinkFacts


@dataclass(frozen=True, slots=True)
class KmeStatus:
    """What a KME advertises for a pair of SAEs."""

    source_kme: KmeId
    target_kme: KmeId
    master: SaeId
    slave: SaeId
    limits: KmeLimits
    stored_key_count: int
    max_key_count: int
    facts: LinkFacts | None
    stream_open: bool


def _admit_all(number: int, total_bytes: int) -> None:
    """Refuse nothing."""


class Kme:
    """One key management entity.

    Args:
        directory: the KME of every SAE.
        pairs: streams to other KMEs, by their id.
        facts: origin of each pair's bits.
        max_stock_bits: how much stock each pair may build up.
        quota: bits that each SAE may draw.
        guesses: key_IDs of other people's making that each SAE may try.
    """

    def __init__(
        self,
        kme_id: KmeId,
        *,
        directory: Mapping[SaeId, KmeId],
        pairs: Mapping[KmeId, PairEnd],
        facts: Mapping[KmeId, LinkFacts],
        max_stock_bits: Mapping[KmeId, int],
        local: LocalKeys,
        quota: Quota,
        guesses: Quota,
        limits: KmeLimits,
        events: EventSink,
    ) -> None:
        self.kme_id = kme_id
        self.limits = limits
        self._directory = directory
        self._pairs = pairs
        self._facts = facts
        self._max_stock_bits = max_stock_bits
        self._local = local
        self._quota = quota
        self._guesses = guesses
        self._events = events
        self._own_saes = tuple(sae for sae, kme in directory.items() if kme == kme_id)
        self.drawn: defaultdict[tuple[SaeId, SaeId], KeyCount] = defaultdict(KeyCount)
        """What was handed out to masters, by master and slave; both are names of the directory."""
        self.fetched: defaultdict[tuple[SaeId, SaeId], KeyCount] = defaultdict(KeyCount)
        """What was handed out to slaves, likewise."""
        self._local_facts = LinkFacts("local-generator", False, None, 0.0)

    def kme_of(self, sae: SaeId) -> KmeId:
        """Return the KME that serves an SAE of the directory."""
        return self._directory[sae]

    def home_of(self, sae: SaeId) -> KmeId | None:
        """Return the KME that serves an SAE, ``None`` if the directory does not name it."""
        return self._directory.get(sae)

    def require_own(self, caller: SaeId) -> None:
        """Check that this KME serves an SAE.

        Raises:
            CallerUnknown: it does not.
        """
        if self._directory.get(caller) != self.kme_id:
            raise CallerUnknown(f"{caller} is not an SAE of {self.kme_id}")

    def partners(self, caller: SaeId) -> dict[SaeId, LinkFacts]:
        """Return the SAEs with which ``caller`` can share keys, itself included, and the origin of those keys."""
        self.require_own(caller)
        return {
            sae: self._facts.get(kme, self._local_facts)
            for sae, kme in self._directory.items()
            if kme == self.kme_id or kme in self._pairs
        }

    def status(self, caller: SaeId, slave: SaeId) -> KmeStatus:
        """Return what this KME holds for keys from ``caller`` to ``slave``."""
        target = self._target(caller, slave)
        size = granules_of(self.limits.key_size_bits // 8)
        if target == self.kme_id:
            room = self._local.room_keys(caller, self.limits.key_size_bits // 8)
            return self._status(caller, slave, target, room, room, self._local_facts, stream_open=True)
        pair = self._pairs.get(target)
        usable = pair is not None and pair.is_open
        stored = _drawable_granules(pair) // size if pair is not None and usable else 0
        most = self._max_stock_bits.get(target, 0) // (size * 256)
        return self._status(caller, slave, target, stored, most, self._facts.get(target), stream_open=usable)

    def enc_keys(self, caller: SaeId, slave: SaeId, number: int, size_bits: int, admit: Admit = _admit_all) -> Delivery:
        """Draw keys that ``slave`` can fetch from its own KME.

        Raises:
            LeaseNeeded: extend the pair's lease and call again; nothing was consumed.
        """
        target = self._target(caller, slave)
        self.limits.check(number, size_bits)
        length = size_bits // 8
        cost_bits = number * granules_of(length) * GRANULE_BYTES * 8
        self._quota.check(caller, cost_bits)
        admit(number, number * length)
        if target == self.kme_id:
            drawn = self._local.draw(caller, slave, number, length)
            keys = tuple(Key(key_id, _material(bits)) for key_id, bits in drawn)
        else:
            keys = tuple(self._draw(self._pair(target), target, caller, slave, number, length))
        self._quota.spend(caller, cost_bits)
        self.drawn[caller, slave].add(number, number * size_bits)
        return Delivery(keys, self._facts.get(target, self._local_facts))

    def dec_keys(self, caller: SaeId, master: SaeId, key_ids: Sequence[str], admit: Admit = _admit_all) -> Delivery:
        """Fetch keys that ``master`` drew for ``caller``: all of them, or none is consumed."""
        self.require_own(caller)
        self._guesses.check(caller, 1)
        if not 1 <= len(key_ids) <= self.limits.max_key_per_request:
            raise RequestInvalid(f"number of key_IDs shall be 1 to {self.limits.max_key_per_request}")
        source = self._directory.get(master)
        if source is None:
            raise KeyNotFound
        if source == self.kme_id:
            self._admit_fetch(len(key_ids), self._local.size_bytes(caller, master, key_ids), admit)
            contents = self._local.fetch(caller, master, key_ids)
        else:
            pair = self._pair(source)
            addresses = [self._address(pair, master, caller, key_id) for key_id in key_ids]
            self._admit_fetch(len(key_ids), sum(address.length_bytes for address in addresses), admit)
            contents = self._reading(source, lambda: pair.incoming.fetch(addresses))
        self.fetched[master, caller].add(len(contents), 8 * sum(map(len, contents)))
        keys = tuple(Key(key_id, _material(bits)) for key_id, bits in zip(key_ids, contents, strict=True))
        return Delivery(keys, self._facts.get(source, self._local_facts))

    def _admit_fetch(self, number: int, total_bytes: int, admit: Admit) -> None:
        if total_bytes > self.limits.max_request_bytes:
            raise RequestInvalid(f"the keys of one request shall have at most {self.limits.max_request_bytes * 8} bits")
        admit(number, total_bytes)

    def _draw(
        self, pair: PairEnd, target: KmeId, caller: SaeId, slave: SaeId, number: int, length: int
    ) -> Iterator[Key]:
        try:
            addresses = pair.outgoing.allocate(number, length)
        except KeyStreamDry as err:
            missing_bits = number * length * 8 - pair.outgoing.stock_granules() * 256
            facts = self._facts[target]
            rate_bps, unknown = facts.secret_key_rate_bps, facts.attenuation_db is None
            err.retry_after_s = max(0.1, missing_bits / rate_bps) if rate_bps > 0 else 10.0 if unknown else 3600.0
            raise
        contents = self._reading(target, lambda: pair.outgoing.read(addresses))
        for address, bits in zip(addresses, contents, strict=True):
            yield Key(pair.outgoing_ids.encode(address, caller, slave), _material(bits))

    def _reading(self, peer: KmeId, read: Callable[[], list[bytearray]]) -> list[bytearray]:
        try:
            return read()
        except KeyDamaged as err:
            self._events.emit(Event("keys.damaged", "alarm", {"peer": peer, "what": err.message}))
            raise

    def _address(self, pair: PairEnd, master: SaeId, caller: SaeId, key_id: str) -> KeyAddress:
        near = pair.incoming.near
        address = pair.incoming_ids.decode(key_id, master, caller, near=near)
        if address is not None:
            return address
        self._guesses.spend(caller, 1)  # whoever's key it is: a quota must not tell either
        others = (sae for sae in self._own_saes if sae != caller)
        if any(pair.incoming_ids.decode(key_id, master, other, near=near) for other in others):
            raise KeyOfAnotherSae("a key was drawn for another SAE")
        self._events.emit(Event("keys.unknown_id", "warning", {"caller": caller, "master": master}))
        raise KeyNotFound

    def _target(self, caller: SaeId, slave: SaeId) -> KmeId:
        self.require_own(caller)
        target = self._directory.get(slave)
        if target is None:
            raise RequestInvalid("slave_SAE_ID is not known to this KME")
        return target

    def _pair(self, peer: KmeId) -> PairEnd:
        pair = self._pairs.get(peer)
        if pair is None:
            raise StreamNotReady(f"no key stream between {self.kme_id} and {peer}", retry_after_s=3600.0)
        pair.require_open()
        return pair

    def _status(
        self,
        caller: SaeId,
        slave: SaeId,
        target: KmeId,
        stored: int,
        most: int,
        facts: LinkFacts | None,
        *,
        stream_open: bool,
    ) -> KmeStatus:
        return KmeStatus(self.kme_id, target, caller, slave, self.limits, stored, most, facts, stream_open)


def _drawable_granules(pair: PairEnd) -> int:
    """Return what could be drawn now: all stock, or without the peer only what is leased already."""
    return pair.outgoing.stock_granules() if pair.is_connected else pair.outgoing.leased_granules()


def _material(bits: bytearray) -> KeyMaterial:
    material = KeyMaterial(bits)
    bits[:] = bytes(len(bits))
    return material
