"""What a KME does for its SAEs, without any transport: status, enc_keys and dec_keys of ETSI GS QKD 014.

Everything is checked before anything is consumed; a request is served as a whole or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from shosoin.base import KeyMaterial, KmeId, SaeId
from shosoin.base.ports import Event, EventSink
from shosoin.keys.demands import NO_DEMANDS, Demands
from shosoin.keys.errors import (
    CallerUnknown,
    DemandUnmet,
    KeyDamaged,
    KeyNotFound,
    KeyOfAnotherSae,
    KeyStreamDry,
    KeyTooOld,
    PairPaused,
    RequestInvalid,
    StreamNotReady,
)
from shosoin.keys.key_id import GRANULE_BYTES, KeyAddress, granules_of
from shosoin.keys.local import LocalKeys
from shosoin.keys.pair import PairEnd
from shosoin.keys.policy import KeyPolicy, KmeLimits, PolicyBook
from shosoin.keys.quota import Quota
from shosoin.keys.tally import KeyCount
from shosoin.link.port import LinkFacts

__all__ = ["Admit", "Delivery", "Key", "Kme", "KmeLimits", "KmeStatus"]

Admit = Callable[[int, int], None]
"""Told the number of keys and their bytes when all else is right and nothing is consumed; may still refuse."""


class Key(NamedTuple):
    """One delivered key."""

    key_id: str
    material: KeyMaterial


@dataclass(frozen=True, slots=True)
class Delivery:
    """Keys and where their bits come from."""

    keys: tuple[Key, ...]
    facts: LinkFacts
    """The epsilon is that of one key: of a block, times the blocks that a key lies in at most."""
    age_s: float | None = None
    """Age of the oldest bits, if the caller asked for young ones."""


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
        reserved_bits: how much of it only SAEs with a priority may use.
        quota: bits that each SAE may draw.
        policies: terms for pairs of SAEs.
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
        policies: PolicyBook,
        events: EventSink,
        reserved_bits: Mapping[KmeId, int] | None = None,
    ) -> None:
        self.kme_id = kme_id
        self.policies = policies
        self.limits = policies.limits
        """Bounds on any request; a pair of SAEs may have narrower ones."""
        self._reserved_bits = dict(reserved_bits or {})
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
        self.paused: set[KmeId] = set()
        """Pairs of which nothing is handed out until an operator says so."""
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

    def require_unpaused(self, peer: KmeId) -> None:
        """Check that keys shared with a peer may be handed out.

        Raises:
            PairPaused: an operator does not want that now.
        """
        if peer in self.paused:
            raise PairPaused(f"an operator has paused keys between {self.kme_id} and {peer}", retry_after_s=60.0)

    def require_settled(self, peer: KmeId) -> None:
        """Check that copies that came from a peer or were sent to it may be used: no burn of the pair is unfinished.

        Raises:
            StreamNotReady: one may be.
        """
        pair = self._pairs.get(peer)
        if pair is None or not pair.is_settled:
            raise StreamNotReady(f"whether the pair with {peer} was burned cannot be told now", retry_after_s=1.0)

    def unsettled(self) -> list[KmeId]:
        """Return the peers of all links of which a burn may be unfinished."""
        return [peer for peer in self._max_stock_bits if peer not in self._pairs or not self._pairs[peer].is_settled]

    def require_stream(self, peer: KmeId) -> None:
        """Check that keys drawn before may still be handed out: the stream is open, and nobody paused it.

        Raises:
            StreamNotReady: they may not now.
        """
        if peer != self.kme_id:
            self._pair(peer)

    def burn_mark(self, peer: KmeId) -> str:
        """Return what changes when all keys shared with a peer were burned, drawn or not."""
        pair = self._pairs.get(peer)
        return pair.burn_mark if pair is not None else ""

    def max_age_s(self, master: SaeId, slave: SaeId) -> float | None:
        """Return at which age bits between two SAEs are of no use any more, ``None`` for never."""
        pair = self._pairs.get(self._directory.get(slave, self.kme_id))
        ages = [self.policies.of(master, slave).max_age_s, pair.outgoing.max_age_s if pair is not None else 0]
        return min((float(age) for age in ages if age), default=None)

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
        policy = self.policies.of(caller, slave)
        size = granules_of(policy.limits.key_size_bits // 8)
        if target == self.kme_id:
            room = self._local.room_keys(caller, policy.limits.key_size_bits // 8)
            return self._status(caller, slave, target, room, room, self._local_facts, stream_open=True)
        pair = self._pairs.get(target)
        usable = pair is not None and pair.is_open and target not in self.paused
        drawable = _drawable_granules(pair) if pair is not None and usable else 0
        stored = max(0, drawable - self._kept_back_bits(target, policy) // 256) // size
        most = self._max_stock_bits.get(target, 0) // (size * 256)
        return self._status(caller, slave, target, stored, most, self._facts.get(target), stream_open=usable)

    def enc_keys(
        self,
        caller: SaeId,
        slave: SaeId,
        number: int,
        size_bits: int,
        admit: Admit = _admit_all,
        demands: Demands = NO_DEMANDS,
    ) -> Delivery:
        """Draw keys that ``slave`` can fetch from its own KME.

        Raises:
            LeaseNeeded: extend the pair's lease and call again; nothing was consumed.
            DemandUnmet: the demands cannot be met; nothing was consumed.
            KeyTooOld: the policy for this pair wants younger bits; nothing was consumed.
        """
        target = self._target(caller, slave)
        policy = self.policies.of(caller, slave)
        policy.limits.check(number, size_bits)
        facts = self._facts.get(target, self._local_facts)
        demands.check(facts)
        length = size_bits // 8
        cost_bits = number * granules_of(length) * GRANULE_BYTES * 8
        self.check_quota(caller, (slave,), cost_bits)
        admit(number, number * length)
        age_s = 0.0
        if target == self.kme_id:
            drawn = self._local.draw(caller, slave, number, length)
            keys = tuple(Key(key_id, KeyMaterial.of(bits)) for key_id, bits in drawn)
        else:
            pair = self._pair(target)
            addresses = self._allocate(pair, target, number, length, policy, demands)
            age_s = pair.outgoing.age_s(addresses) if demands.max_age_s is not None else 0.0
            contents = self._reading(target, lambda: pair.outgoing.read(addresses))
            facts = _of_blocks(facts, lambda: pair.outgoing.spanned_by(addresses))
            key_ids = pair.outgoing_ids.encode_all(addresses, caller, slave)
            keys = tuple(map(Key, key_ids, map(KeyMaterial.of, contents)))
        self.spend_quota(caller, (slave,), cost_bits)
        self.drawn[caller, slave].add(number, number * size_bits)
        return Delivery(keys, facts, age_s if demands.max_age_s is not None else None)

    def check_quota(self, caller: SaeId, slaves: Sequence[SaeId], cost_bits: int) -> None:
        """Check that neither the caller nor one of its pairs with the slaves has used up its share.

        Raises:
            QuotaExceeded: with the time until there is room.
        """
        self._quota.check(caller, cost_bits)
        for slave in slaves:
            pair_quota = self.policies.of(caller, slave).quota
            if pair_quota is not None:
                pair_quota.check(f"{caller} to {slave}", cost_bits)

    def spend_quota(self, caller: SaeId, slaves: Sequence[SaeId], cost_bits: int) -> None:
        """Record what was drawn."""
        self._quota.spend(caller, cost_bits)
        for slave in slaves:
            pair_quota = self.policies.of(caller, slave).quota
            if pair_quota is not None:
                pair_quota.spend(f"{caller} to {slave}", cost_bits)

    def dec_keys(self, caller: SaeId, master: SaeId, key_ids: Sequence[str], admit: Admit = _admit_all) -> Delivery:
        """Fetch keys that ``master`` drew for ``caller``: all of them, or none is consumed."""
        self.require_own(caller)
        self._guesses.check(caller, 1)
        if not 1 <= len(key_ids) <= self.limits.max_key_per_request:
            raise RequestInvalid(f"number of key_IDs shall be 1 to {self.limits.max_key_per_request}")
        source = self._directory.get(master)
        if source is None:
            raise KeyNotFound
        facts = self._facts.get(source, self._local_facts)
        max_age_s = self.policies.of(master, caller).max_age_s or None
        if source == self.kme_id:
            self._admit_fetch(len(key_ids), self._local.size_bytes(caller, master, key_ids), admit)
            facts = self._local.facts(caller, key_ids)
            contents = self._local.fetch(caller, master, key_ids, max_age_s)
        else:
            pair = self._pair(source)
            addresses = self._addresses(pair, master, caller, key_ids)
            self._admit_fetch(len(key_ids), sum(address.length_bytes for address in addresses), admit)
            contents = self._reading(source, lambda: pair.incoming.fetch(addresses, max_age_s))
            facts = _of_blocks(facts, lambda: pair.incoming.spanned_by(addresses))
        self.fetched[master, caller].add(len(contents), 8 * sum(map(len, contents)))
        keys = tuple(map(Key, key_ids, map(KeyMaterial.of, contents)))
        return Delivery(keys, facts)

    def may_be_named(self, caller: SaeId, master: SaeId, key_id: str) -> bool:
        """Whether a key_ID can be one of ``master``'s keys for ``caller``; no guess is counted, so no SAE may ask."""
        pair = self._pairs.get(self._directory.get(master, self.kme_id))
        if pair is None or not pair.is_open:
            return True
        return pair.incoming_ids.decode(key_id, master, caller, near=pair.incoming.near) is not None

    # Keys of one KME for another, and what multicast needs

    def facts_of(self, slave: SaeId) -> LinkFacts:
        """Return where the bits come from that reach an SAE of the directory."""
        return self._facts.get(self._directory[slave], self._local_facts)

    def draw_pad(self, peer: KmeId, length_bytes: int, caller: SaeId, slaves: Sequence[SaeId]) -> tuple[str, bytearray]:
        """Draw a key that only the peer's KME can fetch, on behalf of an SAE and under its terms with all the slaves.

        Raises:
            LeaseNeeded: extend the pair's lease and call again; nothing was consumed.
        """
        pair = self._pair(peer)
        policies = [self.policies.of(caller, slave) for slave in slaves]
        least = min(policies, key=lambda policy: policy.priority)
        ages = [policy.max_age_s for policy in policies if policy.max_age_s]
        least = replace(least, max_age_s=min(ages, default=0.0))
        addresses = self._allocate(pair, peer, 1, length_bytes, least, NO_DEMANDS)
        (content,) = self._reading(peer, lambda: pair.outgoing.read(addresses))
        return pair.outgoing_ids.encode(addresses[0], _as_party(self.kme_id), _as_party(peer)), content

    def fetch_pad(self, peer: KmeId, pad_id: str, length_bytes: int) -> bytearray:
        """Fetch a key that the peer's KME drew for this one.

        Raises:
            KeyNotFound: it is none, was fetched before, or has another length.
        """
        pair = self._pair(peer)
        ids = pair.incoming_ids
        address = ids.decode(pad_id, _as_party(peer), _as_party(self.kme_id), near=pair.incoming.near)
        if address is None or address.length_bytes != length_bytes:
            raise KeyNotFound
        return self._reading(peer, lambda: pair.incoming.fetch([address]))[0]

    def hold_locally(
        self,
        master: SaeId,
        slaves: Sequence[SaeId],
        keys: Sequence[tuple[str, bytes]],
        facts: LinkFacts,
        sent_to: Iterable[KmeId],
    ) -> None:
        """Hold copies of keys for SAEs of this KME; see ``LocalKeys.put``."""
        self._local.put(master, slaves, keys, facts, sent_to)

    def drop_local_copies(self, sent_to: KmeId) -> None:
        """Forget those of keys that a KME was sent copies of: the pair with it is burned."""
        self._local.drop_sent_to(sent_to)

    def require_local_room(self, master: SaeId, number: int, length_bytes: int) -> None:
        """Check that as many copies may be held here; see ``LocalKeys.require_room``."""
        self._local.require_room(master, number, length_bytes)

    def _admit_fetch(self, number: int, total_bytes: int, admit: Admit) -> None:
        if total_bytes > self.limits.max_request_bytes:
            raise RequestInvalid(f"the keys of one request shall have at most {self.limits.max_request_bytes * 8} bits")
        admit(number, total_bytes)

    def reserved_share(self, peer: KmeId) -> float:
        """Return the share of the stock with a peer that is for those with a priority, 0 to 1."""
        most = self._max_stock_bits.get(peer, 0)
        return min(1.0, self._reserved_bits.get(peer, 0) / most) if most else 0.0

    def _kept_back_bits(self, target: KmeId, policy: KeyPolicy) -> int:
        return 0 if policy.priority > 0 else self._reserved_bits.get(target, 0)

    def _allocate(
        self, pair: PairEnd, target: KmeId, number: int, length: int, policy: KeyPolicy, demands: Demands
    ) -> list[KeyAddress]:
        kept_back = (self._kept_back_bits(target, policy) + demands.leave_bits) // 256
        demanded_s = demands.max_age_s
        if kept_back and pair.outgoing.stock_granules() - number * granules_of(length) < kept_back:
            raise KeyStreamDry(f"what is left for {target} is reserved for SAEs with a priority", retry_after_s=1.0)
        max_age_s = policy.max_age_s or None
        if demanded_s is not None:
            max_age_s = demanded_s if max_age_s is None else min(max_age_s, demanded_s)
        try:
            return pair.outgoing.allocate(number, length, max_age_s)
        except KeyTooOld as err:
            if demanded_s is not None and demanded_s == max_age_s:
                raise DemandUnmet from err
            raise
        except KeyStreamDry as err:
            missing_bits = number * length * 8 - pair.outgoing.stock_granules() * 256
            facts = self._facts[target]
            rate_bps, unknown = facts.secret_key_rate_bps, facts.attenuation_db is None
            err.retry_after_s = max(0.1, missing_bits / rate_bps) if rate_bps > 0 else 10.0 if unknown else 3600.0
            raise

    def _reading(self, peer: KmeId, read: Callable[[], list[bytearray]]) -> list[bytearray]:
        try:
            return read()
        except KeyDamaged as err:
            self._events.emit(Event("keys.damaged", "alarm", {"peer": peer, "what": err.message}))
            raise

    def _addresses(self, pair: PairEnd, master: SaeId, caller: SaeId, key_ids: Sequence[str]) -> list[KeyAddress]:
        near = pair.incoming.near
        found = pair.incoming_ids.decode_all(key_ids, master, caller, near=near)
        addresses = [address for address in found if address is not None]
        if len(addresses) == len(key_ids):
            return addresses
        self._guesses.spend(caller, 1)  # whoever's key it is: a quota must not tell either
        unknown = key_ids[found.index(None)]
        others = (sae for sae in self._own_saes if sae != caller)
        if any(pair.incoming_ids.decode(unknown, master, other, near=near) for other in others):
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
        self.require_unpaused(peer)
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
        limits = self.policies.of(caller, slave).limits
        return KmeStatus(self.kme_id, target, caller, slave, limits, stored, most, facts, stream_open)


def _of_blocks(facts: LinkFacts, spanned: Callable[[], int]) -> LinkFacts:
    """Return the facts of keys of which none lies in more than so many blocks: each block may fail on its own."""
    blocks = spanned() if facts.epsilon is not None else 1
    return facts if blocks == 1 or facts.epsilon is None else replace(facts, epsilon=min(1.0, blocks * facts.epsilon))


def _drawable_granules(pair: PairEnd) -> int:
    """Return what could be drawn now: all stock, or without the peer only what is leased already."""
    return pair.outgoing.stock_granules() if pair.is_connected else pair.outgoing.leased_granules()


def _as_party(kme: KmeId) -> str:
    """Return the name of a KME where an SAE's would stand; no SAE can be called so."""
    return f"~{kme}"
