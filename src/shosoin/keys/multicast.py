"""Keys for several slaves at once: what a KME decides about copies, as steps with effects.

The master's KME makes the bits and sends every other KME a record with a padded copy (``shosoin.keys.copies``); only
when all have stored it does the master get its answer. A slave fetches its copy at its own KME, which first *claims* it
from the master's: the row that allows it is removed there, durably, then the copy here, then it is served. So neither
KME's memory or disk alone decides whether a copy is still unused; the price is that the master's KME must be reachable.

The class is pure: questions and requests go in, generators of effects come out. The driver carries out the effects of
one generator one after the other, sends the result back or throws the error, and closes a generator that it abandons.
Effects of several generators may be carried out in any order.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar
from uuid import UUID

from shosoin.base import Entropy, KeyMaterial, KmeId, PeerFault, SaeId, ShosoinError
from shosoin.base.ports import Clock, Event, EventSink
from shosoin.keys.copies import COPY_BYTES_MAX, CopyHead, HeldCopy, open_copies, pad_bytes, read_head, seal_copies
from shosoin.keys.demands import Demands
from shosoin.keys.errors import (
    KeyNotFound,
    KeyOfAnotherSae,
    PairProtocolError,
    PeerRefused,
    RequestInvalid,
    StreamNotReady,
)
from shosoin.keys.key_id import GRANULE_BYTES, granules_of
from shosoin.keys.kme import Admit, Delivery, Key, Kme
from shosoin.link.port import LinkFacts

__all__ = [
    "CLAIM",
    "COPY",
    "READY",
    "Ask",
    "CopyTable",
    "DrawPad",
    "Effect",
    "MulticastKeys",
    "OnTable",
    "Ready",
    "Steps",
    "Together",
]

T = TypeVar("T")
COPY, CLAIM, READY = "multicast/copy", "multicast/claim", "multicast/ready"
"""Subjects of questions to another KME; the last is whether copies would be stored now."""
_HELD_MAX = 1 << 16
_HELD_BYTES_MAX = 64 << 20
"""Copies of one peer's masters that may await fetching here; of one master at most half of what the others leave."""
_Place = tuple[KmeId, str, SaeId]
_CLAIM_BYTES_MAX = 1 << 20


class CopyTable(Protocol):
    """What is held for slaves of this KME, and what other KMEs may claim; every method is durable when it returns."""

    def index(self) -> list[HeldCopy]:
        """Return what is held, without the bits."""
        ...

    def add_held(self, copies: Sequence[HeldCopy]) -> None:
        """Store copies for slaves of this KME."""
        ...

    def take_held(self, copies: Sequence[HeldCopy]) -> list[bytearray]:
        """Remove copies and return their bits; raise ``KeyNotFound`` if one is not there, and remove the others."""
        ...

    def drop_held(self, copies: Sequence[HeldCopy]) -> None:
        """Remove copies."""
        ...

    def add_sent(self, rows: Sequence[tuple[str, SaeId, KmeId]], born_s: float) -> None:
        """Write down what other KMEs may claim: key_ID, slave, KME of the slave."""
        ...

    def shared_with(self, peers: Sequence[KmeId], key_ids: Sequence[str]) -> list[KmeId]:
        """Return those of some KMEs that may claim a copy of one of these keys."""
        ...

    def claim(self, peer: KmeId, slave: SaeId, key_ids: Sequence[str]) -> bool:
        """Remove the rows of all these keys, if all are there; whether they were."""
        ...

    def expire(self, before_s: float, now_s: float) -> None:
        """Remove everything born before a time of the wall clock; what was born after ``now_s`` counts as born then."""
        ...


@dataclass(frozen=True, slots=True)
class OnTable:
    """Do something with the table of copies; the result is sent back."""

    work: Callable[[CopyTable], Any]


@dataclass(frozen=True, slots=True)
class Ready:
    """Wait until some peers answer and have room for a question; the room is given back when the steps end."""

    peers: tuple[KmeId, ...]


@dataclass(frozen=True, slots=True)
class DrawPad:
    """Draw a key that only the peer's KME can fetch (``Kme.draw_pad``), with patience; it is sent back with its ID."""

    peer: KmeId
    length_bytes: int
    caller: SaeId
    slaves: tuple[SaeId, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask a peer; its answer is sent back. ``Unavailable`` if none came, ``PeerRefused`` if it said no."""

    peer: KmeId
    subject: str
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Together:
    """Carry out several generators side by side, all of them to their end; then the first error of any is thrown."""

    steps: tuple[Generator[Effect, Any, None], ...]


Effect = OnTable | Ready | DrawPad | Ask | Together
Steps = Generator[Effect, Any, T]


class MulticastKeys:
    """Sends and serves multicast keys of one KME.

    Args:
        held: what the table holds.
        is_connected: whether a peer can be asked now.
        expiry_s: age after which copies that nobody fetched are destroyed.
    """

    def __init__(
        self,
        kme: Kme,
        held: Sequence[HeldCopy],
        is_connected: Callable[[KmeId], bool],
        *,
        entropy: Entropy,
        clock: Clock,
        events: EventSink,
        expiry_s: float,
    ) -> None:
        self._kme, self._is_connected = kme, is_connected
        self._entropy, self._clock, self._events = entropy, clock, events
        self._expiry_s = expiry_s
        self._held: dict[tuple[KmeId, str], dict[SaeId, HeldCopy]] = defaultdict(dict)
        """By the KME that chose the key_ID, for it may choose what is another's."""
        self._named: dict[tuple[KmeId, str], frozenset[SaeId]] = {}
        """Every slave here that a key was drawn for, as long as a copy waits."""
        self._taking: set[_Place] = set()
        self._claimed: dict[_Place, str] = {}
        """What the master's KME has let go and nobody has been given yet; and the pair's mark before that, for a burn
        since then is meant for it too."""
        self._burns: Counter[KmeId] = Counter()
        """Changes when the pair with a peer is burned: what is being sent then can be claimed by nobody."""
        self._number: Counter[tuple[KmeId, SaeId]] = Counter()
        self._bytes: Counter[tuple[KmeId, SaeId]] = Counter()
        self._remember(held)
        self._count(held, 1)

    # The master's KME

    def drawing(
        self, caller: SaeId, slaves: Sequence[SaeId], number: int, size_bits: int, admit: Admit, demands: Demands
    ) -> Steps[Delivery]:
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
        self._require_reachable(by_kme)
        yield Ready(tuple(kme for kme in by_kme if kme != self._kme.kme_id))
        self._kme.check_quota(caller, slaves, cost_bits)
        self._kme.require_local_room(caller, number * len(by_kme.get(self._kme.kme_id, ())), length)
        admit(number, total)
        keys = [(self._new_id(), self._entropy.random_bytes(length)) for _ in range(number)]
        self._kme.spend_quota(caller, slaves, cost_bits)  # before the next effect: others draw meanwhile
        yield from self._send_all(caller, by_kme, keys, facts)
        for slave in slaves:
            self._kme.drawn[caller, slave].add(number, number * size_bits)
        return Delivery(tuple(Key(key_id, KeyMaterial(bits)) for key_id, bits in keys), facts, 0.0)

    def _send_all(
        self,
        caller: SaeId,
        by_kme: Mapping[KmeId, Sequence[SaeId]],
        keys: Sequence[tuple[str, bytes]],
        facts: LinkFacts,
    ) -> Steps[None]:
        remote = {kme: slaves for kme, slaves in by_kme.items() if kme != self._kme.kme_id}
        burns = {kme: self._burns[kme] for kme in remote}
        yield Together(tuple(self._send(kme, caller, slaves, keys, facts.simulated) for kme, slaves in remote.items()))
        self._require_unburned(burns)
        rows = [(key_id, slave, kme) for kme, slaves in remote.items() for slave in slaves for key_id, _ in keys]
        if rows:
            born_s = self._clock.wall_s()
            yield OnTable(lambda table: table.add_sent(rows, born_s))
        self._require_unburned(burns)
        own = by_kme.get(self._kme.kme_id, ())
        if own:
            self._kme.hold_locally(caller, own, keys, facts, remote)

    def _require_unburned(self, burns: Mapping[KmeId, int]) -> None:
        if burned := [kme for kme in burns if self._burns[kme] != burns[kme]]:
            raise StreamNotReady(f"the stream with {burned[0]} was burned meanwhile", retry_after_s=1.0)

    def _send(
        self,
        peer: KmeId,
        caller: SaeId,
        slaves: Sequence[SaeId],
        keys: Sequence[tuple[str, bytes]],
        simulated: bool,
    ) -> Steps[None]:
        length = len(keys[0][1])
        size = pad_bytes(len(keys), length)
        pad_id, pad = yield DrawPad(peer, size, caller, tuple(slaves))
        head = CopyHead(caller, tuple(slaves), tuple(key_id for key_id, _ in keys), length, pad_id, simulated)
        record = seal_copies(head, [bits for _, bits in keys], pad)
        yield Ask(peer, COPY, record)

    def _require_reachable(self, kmes: Iterable[KmeId]) -> None:
        for peer in kmes:
            if peer != self._kme.kme_id and not self._is_connected(peer):
                raise StreamNotReady(f"{peer} cannot be reached", retry_after_s=1.0)

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

    def serving_claim(self, peer: KmeId, body: bytes) -> Steps[bytes]:
        """Let a peer serve copies: what allows it is gone here before it hears so.

        Raises:
            KeyNotFound: not all of them were there; none is gone then.
            StreamNotReady: the pair is being burned, or that with another KME which may claim a copy of the same key.
        """
        try:
            if len(body) > _CLAIM_BYTES_MAX:
                raise ValueError("too long")
            found = json.loads(body)
            slave, key_ids = SaeId(str(found["slave"])), [str(key_id) for key_id in found["key_ids"]]
        except (ValueError, KeyError, TypeError, RecursionError, ShosoinError) as err:
            raise PairProtocolError("not a claim") from err
        self._kme.require_settled(peer)
        in_doubt = self._kme.unsettled()  # a burn takes the copies of others along
        if in_doubt and (yield OnTable(lambda table: table.shared_with(in_doubt, key_ids))):
            raise StreamNotReady("whether a key was burned cannot be told now", retry_after_s=1.0)
        if len(set(key_ids)) < len(key_ids) or not (yield OnTable(lambda table: table.claim(peer, slave, key_ids))):
            raise KeyNotFound
        self._kme.require_settled(peer)  # a burn that has begun meanwhile is meant for these too
        return b"claimed"

    # A slave's KME

    def holds(self, master: SaeId, key_id: str) -> bool:
        """Whether copies of this key wait here."""
        return self._key(master, key_id) in self._held

    def holds_any(self, master: SaeId, key_ids: Sequence[str]) -> bool:
        """Whether copies of one of these keys wait here; nearly always nothing does."""
        return bool(self._held) and any(self.holds(master, key_id) for key_id in key_ids)

    def _key(self, master: SaeId, key_id: str) -> tuple[KmeId, str]:
        return self._kme.home_of(master) or self._kme.kme_id, key_id.lower()

    def check(self, caller: SaeId, master: SaeId, key_ids: Sequence[str]) -> list[HeldCopy]:
        """Return the copies that a caller may fetch; nothing is consumed.

        Raises:
            KeyOfAnotherSae, KeyNotFound: one of them is not for it, no longer there, or older than it may be given.
        """
        names = [self._key(master, key_id) for key_id in key_ids]
        if any(name in self._named and caller not in self._named[name] for name in names):
            raise KeyOfAnotherSae("a key was drawn for another SAE")
        copies = [self._held.get(name, {}).get(caller) for name in names]
        found = [copy for copy in copies if copy is not None and copy.master == master]
        busy = any(copy.place in self._taking for copy in found)
        max_age_s = self._kme.policies.of(master, caller).max_age_s
        too_old = any(0 < max_age_s < self._clock.wall_s() - copy.born_s for copy in found)
        if len(found) < len(names) or len(set(names)) < len(names) or busy or too_old:
            raise KeyNotFound
        return found

    def taking(self, copies: Sequence[HeldCopy], fetch_rest: Callable[[], T]) -> Steps[tuple[list[bytearray], T]]:
        """Claim and return copies that ``check`` found; none can be taken again.

        Args:
            fetch_rest: fetches what else belongs to the request, once all copies are claimed; if it fails, they wait
                on, claimed as they are.

        Raises:
            StreamNotReady: the master's KME cannot be asked, or the pair with it is paused or being burned; ask again.
            KeyNotFound: it says that they were claimed before.
        """
        places = {copy.place for copy in copies}
        if places & self._taking:
            raise KeyNotFound
        self._taking |= places
        try:
            peers = dict.fromkeys(copy.peer for copy in copies)
            for peer in peers:
                yield from self._claim(peer, [copy for copy in copies if copy.peer == peer])
            for peer in peers:
                self._kme.require_settled(peer)  # the others have taken their time
            if not all(copy.slave in self._held.get((copy.peer, copy.key_id), {}) for copy in copies):
                raise KeyNotFound  # they have expired meanwhile
            rest = fetch_rest()
            self._forget(copies)
            return (yield OnTable(lambda table: table.take_held(copies))), rest
        finally:
            self._taking -= places

    def _claim(self, peer: KmeId, copies: Sequence[HeldCopy]) -> Steps[None]:
        self._kme.require_unpaused(peer)
        self._kme.require_settled(peer)
        mark = self._kme.burn_mark(peer)
        copies = [copy for copy in copies if self._claimed.get(copy.place) != mark]
        if not copies:
            return
        body = json.dumps({"slave": copies[0].slave, "key_ids": [copy.key_id for copy in copies]}).encode()
        try:
            yield Ask(peer, CLAIM, body)
            self._claimed |= {copy.place: mark for copy in copies}
        except PeerRefused as err:
            if not err.code.endswith(KeyNotFound.code):
                raise StreamNotReady(f"{peer} cannot say now whether a key is unused", retry_after_s=1.0) from err
            self._forget(copies)
            yield OnTable(lambda table: table.drop_held(copies))
            self._events.emit(Event("keys.copy_claimed_before", "warning", {"peer": peer, "keys": len(copies)}))
            raise KeyNotFound from err

    def serving_copy(self, peer: KmeId, body: bytes) -> Steps[bytes]:
        """Open a peer's record and hold the copies in it.

        Raises:
            PairProtocolError: it is none, or was not made by the peer, or for SAEs of others.
        """
        head = read_head(body)
        if self._kme.home_of(head.master) != peer:
            raise PairProtocolError(f"{head.master} is no SAE of {peer}")
        for slave in head.slaves:
            self._kme.require_own(slave)
        if any((peer, key_id) in self._held for key_id in head.key_ids):
            raise PairProtocolError("a key_ID is in use")
        self._make_sure_of_room(peer, head)
        pad = self._kme.fetch_pad(peer, head.pad_id, pad_bytes(len(head.key_ids), head.length_bytes))
        try:
            keys = open_copies(head, body, pad)
        except PeerFault:
            self._events.emit(Event("keys.forged_copy", "alarm", {"peer": peer}))
            raise
        now_s = self._clock.wall_s()
        common = (head.master, peer, now_s, head.length_bytes, frozenset(head.slaves))
        simulated = head.simulated or self._kme.facts_of(head.master).simulated
        copies = [
            HeldCopy(key_id, slave, *common, bits, simulated=simulated)
            for key_id, bits in zip(head.key_ids, keys, strict=True)
            for slave in head.slaves
        ]
        self._count(copies, 1)  # before the first effect: others come meanwhile
        try:
            yield OnTable(lambda table: table.add_held(copies))
        except BaseException:
            self._count(copies, -1)
            raise
        finally:
            for bits in keys:
                bits[:] = bytes(len(bits))
        self._remember([replace(copy, bits=b"") for copy in copies])
        return b"stored"

    def _make_sure_of_room(self, peer: KmeId, head: CopyHead) -> None:
        number = len(head.key_ids) * len(head.slaves)
        total = number * head.length_bytes
        if not (
            _has_room(self._number, (peer, head.master), number, _HELD_MAX)
            and _has_room(self._bytes, (peer, head.master), total, _HELD_BYTES_MAX)
        ):
            raise StreamNotReady(f"too many multicast keys of {peer} await fetching", retry_after_s=1.0)

    def _remember(self, copies: Sequence[HeldCopy]) -> None:
        for copy in copies:
            self._held[copy.peer, copy.key_id][copy.slave] = copy
            self._named[copy.peer, copy.key_id] = copy.named

    def _count(self, copies: Sequence[HeldCopy], sign: int) -> None:
        for copy in copies:
            owner = copy.peer, copy.master
            self._number[owner] += sign
            self._bytes[owner] += sign * copy.length_bytes
            if not self._number[owner]:
                del self._number[owner], self._bytes[owner]

    def _forget(self, copies: Sequence[HeldCopy]) -> None:
        for copy in copies:
            key = copy.peer, copy.key_id
            waiting = self._held.get(key, {})
            if waiting.pop(copy.slave, None) is not None:
                self._count([copy], -1)
                self._claimed.pop(copy.place, None)
            if not waiting:
                self._held.pop(key, None)
                self._named.pop(key, None)

    def expiring(self) -> Steps[None]:
        """Destroy what is too old."""
        now_s = self._clock.wall_s()
        before_s = now_s - self._expiry_s
        self._redate(now_s)
        old = [copy for copies in self._held.values() for copy in copies.values() if copy.born_s < before_s]
        self._forget(old)
        with suppress(ShosoinError):  # the next round tries again
            yield OnTable(lambda table: table.expire(before_s, now_s))

    def _redate(self, now_s: float) -> None:
        """Let copies that were born in the future grow old from now: the clock was put back since they came."""
        for waiting in self._held.values():
            for slave, copy in waiting.items():
                if copy.born_s > now_s:
                    waiting[slave] = replace(copy, born_s=now_s)

    def learn(self, found: Sequence[HeldCopy]) -> None:
        """Take over what the table holds, where that may have changed without this object."""
        index = {copy.place: copy for copy in found}
        known = {copy.place: copy for held in self._held.values() for copy in held.values()}
        self._forget([copy for place, copy in known.items() if place not in index])
        fresh = [copy for place, copy in index.items() if place not in known]
        self._remember(fresh)
        self._count(fresh, 1)

    def forget_copies_of(self, peer: KmeId) -> None:
        """Forget the copies that came from a KME's masters and those of keys that were sent to it: the pair is burned.

        A key that was sent to others besides is gone as a whole: who made the operator burn may know its bits.
        """
        self._burns[peer] += 1
        self._kme.drop_local_copies(peer)
        self._forget([copy for place, held in self._held.items() if place[0] == peer for copy in held.values()])


def _has_room(counts: Counter[tuple[KmeId, SaeId]], owner: tuple[KmeId, SaeId], more: int, most: int) -> bool:
    others = sum(count for (peer, master), count in counts.items() if peer == owner[0] and master != owner[1])
    return counts[owner] + more <= (most - others) // 2
