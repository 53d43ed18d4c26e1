"""Keys between two SAEs of one KME: no link is crossed, so they come from the KME's own generator.

Delivered keys await the slave in memory; a restart loses, that is burns, what was not fetched. Same rules as for
streams: each key once, to the SAE it was drawn for. The container says ``local-generator``.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from shosoin.base import Entropy, KmeId, SaeId
from shosoin.base.ports import Clock
from shosoin.keys.errors import KeyNotFound, KeyOfAnotherSae, KeyStreamDry
from shosoin.keys.key_id import KeyAddress, KeyIdCodec
from shosoin.link.port import LinkFacts

__all__ = ["LocalKeys"]


_FACTS = LinkFacts("local-generator", False, None, 0.0)
_KEYS_MAX = 1 << 16
"""Keys of one master that may await fetching: the smallest take some hundred bytes of memory each."""


@dataclass(slots=True)
class _Waiting:
    master: SaeId
    slave: SaeId
    named: frozenset[SaeId]
    """All slaves of this KME that the key was drawn for."""
    since_s: float
    bits: bytearray = field(repr=False)
    facts: LinkFacts
    """Where else the key has been."""
    sent_to: frozenset[KmeId] = frozenset()
    """KMEs that were sent copies."""


class LocalKeys:
    """Keys drawn and not yet fetched, bounded in bytes and number for each master, and in age."""

    def __init__(self, entropy: Entropy, clock: Clock, *, capacity_bytes: int, expiry_s: float) -> None:
        self._entropy, self._clock = entropy, clock
        self._capacity_bytes, self._expiry_s = capacity_bytes, expiry_s
        self._waiting: OrderedDict[tuple[str, SaeId], _Waiting] = OrderedDict()
        self._named: dict[str, frozenset[SaeId]] = {}
        """Slaves of every key of which a copy still waits."""
        self._copies: Counter[str] = Counter()
        self._held_bytes: Counter[SaeId] = Counter()
        self._held_keys: Counter[SaeId] = Counter()
        self._serial = 0
        self._ids = KeyIdCodec(entropy.random_bytes(64))

    def room_keys(self, master: SaeId, length_bytes: int) -> int:
        """Return how many more keys of that length ``master`` may draw."""
        self._expire()
        room_bytes = self._capacity_bytes - self._held_bytes[master]
        return min(room_bytes // length_bytes, _KEYS_MAX - self._held_keys[master])

    def draw(self, master: SaeId, slave: SaeId, number: int, length_bytes: int) -> list[tuple[str, bytearray]]:
        """Make keys for ``slave``.

        Raises:
            KeyStreamDry: if too many keys await fetching.
        """
        self.require_room(master, number, length_bytes)
        return [self._draw_one(master, slave, length_bytes) for _ in range(number)]

    def fetch(
        self, slave: SaeId, master: SaeId, key_ids: Sequence[str], max_age_s: float | None = None
    ) -> list[bytearray]:
        """Return the keys, all or none, and forget them; none may be older than ``max_age_s``."""
        self._expire()
        names = [key_id.lower() for key_id in key_ids]
        waiting = [self._waiting.get((name, slave)) for name in names]
        if any(name in self._named and slave not in self._named[name] for name in names):
            raise KeyOfAnotherSae("a key was drawn for another SAE")
        if any(entry is None or entry.master != master for entry in waiting) or len(set(names)) < len(names):
            raise KeyNotFound
        if max_age_s is not None and any(one and self._clock.now_s() - one.since_s > max_age_s for one in waiting):
            raise KeyNotFound
        return [self._remove((name, slave)).bits for name in names]

    def facts(self, slave: SaeId, key_ids: Sequence[str]) -> LinkFacts:
        """Return what keys rest on: on the generator, and where copies went to other KMEs, on their links too."""
        waiting = (self._waiting.get((key_id.lower(), slave)) for key_id in key_ids)
        found = {one.facts for one in waiting if one is not None} - {_FACTS}
        return max(found, key=lambda facts: facts.simulated, default=_FACTS)

    def put(
        self,
        master: SaeId,
        slaves: Sequence[SaeId],
        keys: Sequence[tuple[str, bytes]],
        facts: LinkFacts = _FACTS,
        sent_to: Iterable[KmeId] = (),
    ) -> None:
        """Hold copies of keys that were made elsewhere, one for each slave.

        Args:
            sent_to: KMEs that were sent copies of the same keys.

        Raises:
            KeyStreamDry: if too many keys await fetching; none is held then.
        """
        length_bytes = max((len(bits) for _, bits in keys), default=1)
        self.require_room(master, len(keys) * len(slaves), length_bytes)
        for key_id, bits in keys:
            for slave in slaves:
                now_s, named = self._clock.now_s(), frozenset(slaves)
                entry = _Waiting(master, slave, named, now_s, bytearray(bits), facts, frozenset(sent_to))
                self._hold(key_id, entry)

    def drop_sent_to(self, kme: KmeId) -> None:
        """Overwrite and forget the copies of keys that a KME was sent copies of."""
        for place in [place for place, one in self._waiting.items() if kme in one.sent_to]:
            bits = self._remove(place).bits
            bits[:] = bytes(len(bits))

    def size_bytes(self, slave: SaeId, master: SaeId, key_ids: Sequence[str]) -> int:
        """Return how many bytes those of the named keys have that ``master`` drew for ``slave``; others say nothing."""
        waiting = (self._waiting.get((key_id.lower(), slave)) for key_id in key_ids)
        return sum(len(one.bits) for one in waiting if one is not None and one.master == master)

    def require_room(self, master: SaeId, number: int, length_bytes: int) -> None:
        """Check that ``master`` may draw so many more keys.

        Raises:
            KeyStreamDry: too many of its keys await fetching.
        """
        if number > self.room_keys(master, length_bytes):
            held = f"{self._held_keys[master]} local keys of {master}, {self._held_bytes[master]} bytes"
            raise KeyStreamDry(f"{held}, await fetching", retry_after_s=1.0)

    def _draw_one(self, master: SaeId, slave: SaeId, length_bytes: int) -> tuple[str, bytearray]:
        key_id = self._ids.encode(KeyAddress(self._serial, length_bytes), master, slave)
        self._serial += 1
        bits = self._entropy.random_bytes(length_bytes)
        self._hold(key_id, _Waiting(master, slave, frozenset({slave}), self._clock.now_s(), bytearray(bits), _FACTS))
        return key_id, bytearray(bits)

    def _hold(self, key_id: str, entry: _Waiting) -> None:
        self._waiting[key_id, entry.slave] = entry
        self._named[key_id] = entry.named
        self._copies[key_id] += 1
        self._held_bytes[entry.master] += len(entry.bits)
        self._held_keys[entry.master] += 1

    def _remove(self, place: tuple[str, SaeId]) -> _Waiting:
        entry, key_id = self._waiting.pop(place), place[0]
        self._copies[key_id] -= 1
        if not self._copies[key_id]:
            del self._copies[key_id], self._named[key_id]
        self._held_bytes[entry.master] -= len(entry.bits)
        self._held_keys[entry.master] -= 1
        return entry

    def _expire(self) -> None:
        oldest_s = self._clock.now_s() - self._expiry_s
        while self._waiting and next(iter(self._waiting.values())).since_s < oldest_s:
            bits = self._remove(next(iter(self._waiting))).bits
            bits[:] = bytes(len(bits))
