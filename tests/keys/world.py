"""Two KMEs' ends of a pair in one process, advanced effect by effect, with every fault the design names.

Nothing here knows the rules of the protocol; it only moves messages, loses connections, tears commits, copies and
restores disks, keeps zombie processes alive, and writes down what anybody was ever given.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b, shake_128
from typing import Any

from shosoin.base import ShosoinError
from shosoin.base.ports import Event
from shosoin.keys.burning import burn_batch
from shosoin.keys.errors import LeaseNeeded
from shosoin.keys.key_id import GRANULE_BYTES, KeyAddress
from shosoin.keys.messages import Hello, Message, decode_message, encode_message
from shosoin.keys.pair import PairEnd, PairLimits, secret_check_of
from shosoin.keys.store import Batch, BurnCopies, Commit, Emit, Mac, ReadBlock, Send, Steps

LIMITS = PairLimits(lease_bytes=4 * GRANULE_BYTES, capacity_bytes=64 * GRANULE_BYTES, expiry_s=1000.0)


class Crash(Exception):
    """The process stops here."""


class CountedEntropy:
    """Bytes that never repeat and replay from the seed; shared, so that both ends' bits differ."""

    source = "test"
    physical = False

    def __init__(self) -> None:
        self.count = 0

    def random_bytes(self, size_bytes: int) -> bytes:
        self.count += 1
        return shake_128(b"entropy%d" % self.count).digest(size_bytes)


@dataclass
class MemoryStore:
    """A disk: ``commit`` happens in small steps, and a crash may fall between any two."""

    records: dict[str, bytes] = field(default_factory=dict)
    blocks: dict[str, bytes] = field(default_factory=dict)
    wiped: dict[str, set[int]] = field(default_factory=dict)
    crash_after: int | None = None

    def load(self) -> dict[str, bytes]:
        for name in list(self.blocks):
            if f"block/{name}" not in self.records:
                del self.blocks[name]
        return dict(self.records)

    def commit(self, batch: Batch) -> None:
        steps: list[Callable[[], Any]] = [
            *(lambda n=n, c=c: self._put(n, c) for n, c in batch.blocks.items()),
            lambda: self._journal(batch),
            *(lambda w=w: self._wipe(w) for w in batch.wipes),
            *(lambda n=n: self.blocks.pop(n, None) for n in batch.drops),
        ]
        for step in steps:
            if self.crash_after == 0:
                raise Crash
            if self.crash_after is not None:
                self.crash_after -= 1
            step()

    def read_block(self, name: str) -> tuple[bytearray, list[int]]:
        if name not in self.blocks:
            return bytearray(), [0]
        content = bytearray(self.blocks[name])
        for granule in self.wiped[name]:
            content[granule * GRANULE_BYTES : (granule + 1) * GRANULE_BYTES] = bytes(GRANULE_BYTES)
        return content, sorted(self.wiped[name])

    def close(self) -> None:
        pass

    def _put(self, name: str, content: bytes) -> None:
        self.blocks[name] = content
        self.wiped[name] = set()

    def _journal(self, batch: Batch) -> None:
        for name, value in batch.records.items():
            if value is None:
                self.records.pop(name, None)
            else:
                self.records[name] = value

    def _wipe(self, wipe: Any) -> None:
        if wipe.block in self.blocks:
            self.wiped[wipe.block].update(range(wipe.first, wipe.first + wipe.count))


class End:
    """One KME: a disk, perhaps a process, and old processes that do not know they were replaced."""

    def __init__(self, world: World, name: str, peer: str) -> None:
        self.world, self.name, self.peer = world, name, peer
        self.disk = MemoryStore()
        self.pair: Any = None  # a PairEnd, or None while no process runs
        self.zombies: list[PairEnd] = []
        self.inbox: deque[Callable[[], Steps]] = deque()
        self.steps: Steps | None = None
        self.answer: Any = None
        self.suspect = False
        """Restored from an old copy and not yet told the truth by the other end."""
        self.planning = False
        self.copies_burned = 0

    def start(self) -> None:
        if self.pair is None:
            limits = self.world.limits.get(self.name, LIMITS)
            secret, entropy = self.world.secret, self.world.entropy
            self.pair = PairEnd(
                self.name, self.peer, secret, self.disk, entropy, limits, wall_s=lambda: self.world.wall_s
            )
            self.inbox.append(self.pair.start)

    def crash(self) -> None:
        if self.steps is not None:
            self.steps.close()
        self.pair, self.steps, self.answer = None, None, None
        self.planning = False
        self.inbox.clear()
        self.disk.crash_after = None
        self.world.disconnect()

    def advance(self) -> bool:
        """Carry out one effect; return whether there was anything to do."""
        if self.pair is None:
            return False
        if self.steps is None:
            if not self.inbox:
                return False
            self.steps = self.inbox.popleft()()
            self.answer = None
        try:
            effect = self.steps.send(self.answer)
            self.answer = self._perform(effect)
        except StopIteration:
            self.steps = None
        except Crash:
            self.crash()
        except ShosoinError:
            self.steps = None
            self.world.disconnect()
        return True

    def _perform(self, effect: Any) -> Any:
        match effect:
            case Commit(batch):
                self.disk.commit(batch)
                if self.planning:
                    # The plan of a handshake is durable: what the other end knew is known here as well.
                    self.planning = self.suspect = False
            case BurnCopies():
                self.copies_burned += 1
            case ReadBlock(name):
                return self.disk.read_block(name)
            case Mac(key, parts):
                return self.world.mac(key, b"".join(parts))
            case Send(message):
                self.world.send(self, encode_message(message))
            case Emit(event):
                self.world.events.append(event)
        return None

    def receive(self, pair: PairEnd, message: Message) -> Steps:
        self.planning = isinstance(message, Hello)
        yield from pair.receive(message, self.world.now_s)

    def stored_name(self, direction: str, index: int) -> str:
        """Return the name of a block's bytes on the disk."""
        return f"{direction}-{index:012d}-{secret_check_of(self.world.secret)[:16]}"

    def later(self, make: Callable[[PairEnd], Steps]) -> None:
        pair = self.pair
        if pair is not None:
            self.inbox.append(lambda: make(pair))


class World:
    """Both ends and everything anybody was ever given."""

    def __init__(self) -> None:
        self.entropy = CountedEntropy()
        self.secret = self.entropy.random_bytes(1024)
        self.ends = {"a": End(self, "a", "b"), "b": End(self, "b", "a")}
        self.connected = False
        self.link_number = 0
        self.now_s = 0.0
        self.wall_s = 0.0
        self.limits: dict[str, PairLimits] = {}
        self.events: list[Event] = []
        self.macs: dict[bytes, bytes] = {}
        """Content that each verification key authenticated in a message that left."""
        self.tags: dict[str, tuple[bytes, bytes]] = {}
        self.drawn: dict[str, tuple[str, bytes]] = {}
        self.fetched: dict[str, bytes] = {}
        self.places_drawn: set[tuple[str, int]] = set()
        self.granules_drawn: set[bytes] = set()
        self.snapshots: dict[str, list[MemoryStore]] = {"a": [], "b": []}

    # Faults

    def connect(self) -> None:
        if not self.connected and all(end.pair is not None for end in self.ends.values()):
            self.connected = True
            for end in self.ends.values():
                end.later(lambda pair: pair.connected())

    def disconnect(self) -> None:
        self.connected = False
        for end in self.ends.values():
            if end.pair is not None:
                # What is under way at this end goes on; what had not begun came over the dead channel and is void.
                pair = end.pair
                starting = [item for item in end.inbox if item == pair.start]
                end.inbox.clear()
                end.inbox.extend(starting)
                end.later(_disconnected)

    def snapshot(self, name: str) -> None:
        disk = copy.deepcopy(self.ends[name].disk)
        disk.crash_after = None
        self.snapshots[name].append(disk)

    def restore(self, name: str, which: int, *, zombie: bool) -> None:
        end, other = self.ends[name], self.ends["b" if name == "a" else "a"]
        if other.suspect or not self.snapshots[name]:
            return
        old = end.pair
        end.crash()
        if old is not None and zombie:
            end.zombies.append(old)
        disk = copy.deepcopy(self.snapshots[name][which % len(self.snapshots[name])])
        if old is not None and zombie:
            old._cache._store = end.disk
        end.disk = disk
        end.suspect = True

    def burn(self, name: str, crash_after: int | None = None) -> bool:
        """Burn the pair at one end, whose process is ended first; return whether the burn became durable."""
        end = self.ends[name]
        end.crash()
        records, burned_before = end.disk.load(), end.disk.records.get("pair")
        if not records:
            return False
        end.disk.crash_after = crash_after
        with suppress(Crash):
            end.disk.commit(burn_batch(records))
        end.disk.crash_after = None
        return end.disk.records.get("pair") != burned_before

    def send(self, sender: End, raw: bytes) -> None:
        other = self.ends[sender.peer]
        tag = getattr(decode_message(raw), "tag", None)
        if tag in self.tags:
            key, content = self.tags[tag]
            assert self.macs.setdefault(key, content) == content, "a verification key authenticated two contents"
            assert key not in self.granules_drawn, "a verification key was handed out before"
        if self.connected and other.pair is not None:
            message = decode_message(raw)
            other.later(lambda pair: other.receive(pair, message))

    # Work

    def produce(self, name: str, granules: int, *, arrives: bool) -> None:
        end, other = self.ends[name], self.ends[self.ends[name].peer]
        if end.pair is None or not end.pair.is_connected or not end.pair.outgoing.can_begin:
            return
        number, bits = self.link_number, self.entropy.random_bytes(128 + granules * GRANULE_BYTES)
        self.link_number += 1
        end.later(lambda pair: pair.begin_block(number, bits))
        if arrives:
            other.later(lambda pair: pair.bits_arrived(number, bytearray(bits)))

    def draw(self, pair: PairEnd, number: int, length: int) -> list[str]:
        try:
            pair.require_open()
            addresses = pair.outgoing.allocate(number, length)
        except LeaseNeeded as need:
            end = self.ends[pair.own]
            if end.pair is pair:
                granules = need.granules
                end.later(lambda p: p.extend_lease(granules))
            return []
        except ShosoinError:
            return []
        return [self._drawn(pair, address) for address in addresses]

    def _drawn(self, pair: PairEnd, address: KeyAddress) -> str:
        bits = bytes(pair.outgoing.read([address])[0])
        assert len(bits) == address.length_bytes
        key_id = pair.outgoing_ids.encode(address, "m", "s")
        assert key_id not in self.drawn, "a key_ID was given out twice"
        places = {(pair.own, granule) for granule in range(address.offset, address.end)}
        assert not places & self.places_drawn, "a place in a stream was given out twice"
        self.places_drawn |= places
        for granule in (bits[i : i + GRANULE_BYTES] for i in range(0, len(bits), GRANULE_BYTES)):
            if len(granule) < 8:
                continue  # so short that two may agree by chance
            assert granule not in self.granules_drawn, "a bit was handed out twice"
            assert granule not in self.macs, "a verification key was handed out"
            self.granules_drawn.add(granule)
        self.drawn[key_id] = (pair.own, bits)
        return key_id

    def fetch(self, pair: PairEnd, key_ids: list[str]) -> bool:
        try:
            pair.require_open()
            found = [pair.incoming_ids.decode(key_id, "m", "s", near=pair.incoming.near) for key_id in key_ids]
            if not all(found):
                return False
            contents = pair.incoming.fetch([address for address in found if address is not None])
        except ShosoinError:
            return False
        for key_id, bits in zip(key_ids, contents, strict=True):
            assert key_id not in self.fetched, "a key was fetched twice"
            assert self.drawn[key_id][1] == bits, "the two ends gave different bits for one key_ID"
            self.fetched[key_id] = bytes(bits)
        return True

    def mac(self, key: bytes, content: bytes) -> bytes:
        tag = blake2b(content, key=key, digest_size=16).digest()
        self.tags[tag.hex()] = (key, content)
        return tag

    # Healing

    def settle(self, *, most: int = 100_000) -> None:
        for _ in range(most):
            moved = [end.advance() for end in self.ends.values()]
            if not any(moved):
                return
        raise AssertionError("the ends never come to rest")

    def heal(self) -> None:
        for end in self.ends.values():
            end.disk.crash_after = None
        for _ in range(4):
            for end in self.ends.values():
                end.start()
            self.settle()
            self.connect()
            self.settle()
            if all(end.pair is not None and end.pair.is_connected for end in self.ends.values()):
                return
        raise AssertionError("the pair does not open after healing")


def _disconnected(pair: PairEnd) -> Steps:
    pair.disconnected()
    yield from ()
