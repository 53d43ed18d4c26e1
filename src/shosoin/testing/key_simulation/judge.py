"""The omniscient judge: hears of every key that is given, every tag that leaves, every commit, and knows the promises.

* A granule of a stream is given to one master and to one slave, once each, whichever processes of an end were asked.
* Master and slave get the same bits for a key_ID, and these bits are a link's, where the key_ID says they are.
* A key_ID opens for its slave and its master's name only.
* Nothing is drawn above the leases that both disks hold, nor before the other end holds it ready.
* No end is named an old copy that is none.
* A one-time key authenticates one content, and is never handed out.
* What an operator burned at an end is given to nobody there, nor by the other end once it has heard of it; an end that
  awaits another pair secret gives nothing.
* What an owner drew for a worker that worker gives to one SAE, ahead of demand for a second at most; what a worker took
  along is counted as burned, and nothing that an SAE got from one that lives.
* A key that a KME's own generator made is given once at each side, to the two SAEs it was made for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from shosoin.base import SaeId
from shosoin.keys.blocks import Block, load_record
from shosoin.keys.intervals import IntervalSet
from shosoin.keys.key_id import GRANULE_BYTES, KeyAddress, granules_of
from shosoin.keys.kme import Delivery
from shosoin.keys.messages import BlockState
from shosoin.keys.pool import ENTRY_BYTES, RESERVE_BYTES
from shosoin.keys.store import Batch
from shosoin.keys.tally import Burned
from shosoin.keys.worker_stock import HOLD_S
from shosoin.testing.key_simulation.copy_judge import CopyJudge
from shosoin.testing.simulation.trace import Trace

if TYPE_CHECKING:
    from shosoin.testing.key_simulation.process import KmeProcess

__all__ = ["DrawnKey", "Judge", "Wish"]

_PIECE_BYTES_MIN = 8
"""Shorter pieces may agree by chance."""
_NO_GRANULE = ("", b"", float("inf"))
_Stream = tuple[int, str]
"""Which pair secret, and an end."""


class Wish(NamedTuple):
    """What a master asks for."""

    master: SaeId
    slave: SaeId
    number: int
    size_bits: int


@dataclass(slots=True)
class DrawnKey:
    """A key that a master was given."""

    key_id: str
    master: SaeId
    slave: SaeId
    end: str
    """Where it was drawn."""
    bits: bytes = field(repr=False)
    local: bool
    """Both SAEs are at that end."""
    drawn_s: float
    fetched_s: float | None = None

    @property
    def fetched(self) -> bool:
        """Whether the slave was given it."""
        return self.fetched_s is not None


@dataclass(slots=True)
class HandedKey:
    """A key that a worker was given."""

    owner: str
    worker: str
    granules: int
    is_ahead: bool
    """Nobody had asked for it."""
    served: bool = False


class Judge:
    """Everything anybody was ever given."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.keys: dict[str, DrawnKey] = {}
        self._granules: dict[bytes, tuple[str, bytes, float]] = {}
        """Direction, bits and time of every granule that a link made, by its first bytes."""
        self._places: dict[tuple[int, str, int], str] = {}
        """key_ID of the key that a granule of a stream went into, by pair secret and direction."""
        self._drawn: dict[bytes, str] = {}
        self._leases: Counter[_Stream] = Counter()
        """Highest lease that a disk of each end ever held as the receiver."""
        self._tags: dict[bytes, bytes] = {}
        self._ready: defaultdict[_Stream, IntervalSet] = defaultdict(IntervalSet)
        """What a disk of each end ever held ready as the receiver."""
        self.copies = CopyJudge(trace)
        self._handed: dict[str, HandedKey] = {}
        """Keys that owners drew for workers."""
        self._gone: set[str] = set()
        """Workers that are no more, as their owners know."""
        self.restored: set[str] = set()
        """Ends that were put back to old copies."""
        self.names_can_be_forged = False
        """Old hellos are said again, which makes their end look like an old copy."""

    # What links, disks and wires carry

    def produced(self, end: str, bits: bytes, now_s: float) -> None:
        """Hear of a block that a link made for the stream that starts at ``end``."""
        for start in range(RESERVE_BYTES, len(bits), GRANULE_BYTES):
            granule = bits[start : start + GRANULE_BYTES]
            self._granules[granule[:_PIECE_BYTES_MIN]] = end, granule, now_s

    def committed(self, process: KmeProcess, batch: Batch) -> None:
        """Hear of a commit that is durable."""
        raw, stream = batch.records.get("stream/in"), (process.era, process.end)
        if raw is not None:
            self._leases[stream] = max(self._leases[stream], load_record(raw)["lease"])
        for name, record in batch.records.items():
            if name.startswith("block/in-") and record is not None:
                block = Block.load(record)
                if block.state is BlockState.READY:
                    self._ready[stream].add(block.start, block.end)

    def accused(self, process: KmeProcess, end: str) -> None:
        """Hear that an end is said to be an old copy.

        When one was, and one of them dies before both have made the burning durable, the other may be named too: that
        is let pass.
        """
        if not self.restored and not self.names_can_be_forged:
            self._trace.violate(f"{process.name}: takes an honest {end} for an old copy")

    def authenticated(self, process: KmeProcess, key: bytes, content: bytes) -> None:
        """Hear of a tag that leaves."""
        if self._tags.setdefault(key, content) != content:
            self._trace.violate(f"{process.name}: a one-time key authenticates two contents")
        if key in self._drawn:
            self._trace.violate(f"{process.name}: a one-time key was handed out in a key before")

    # Keys

    def drawn(self, process: KmeProcess, wish: Wish, delivery: Delivery) -> list[str]:
        """Hear what a master was given; return the key_IDs."""
        master, slave, number, size_bits = wish
        local = process.kme.home_of(slave) == process.kme.kme_id
        contents = [(key.key_id, key.material.take()) for key in delivery.keys]
        if [len(bits) * 8 for _, bits in contents] != [size_bits] * number:
            self._trace.violate(f"{process.name}: asked for {number} keys of {size_bits} bits, got other ones")
        for key_id, bits in contents:
            if key_id in self.keys:
                self._trace.violate(f"{process.name}: key_ID {key_id} is given to two masters")
            self.keys[key_id] = DrawnKey(key_id, master, slave, process.end, bits, local, process.world.now_s)
            if not local:
                self._check_stream_key(process, self.keys[key_id])
            self._check_bits(process, key_id, bits)
        return [key_id for key_id, _ in contents]

    def fetched(
        self, process: KmeProcess, caller: SaeId, master: SaeId, key_ids: Sequence[str], delivery: Delivery
    ) -> None:
        """Hear what a slave was given."""
        if [key.key_id for key in delivery.keys] != list(key_ids):
            self._trace.violate(f"{process.name}: other keys than were asked for")
        for key in delivery.keys:
            bits = key.material.take()
            known = self.keys.get(key.key_id.lower())
            if known is None:
                self._trace.violate(f"{process.name}: a key that nobody drew is given to {caller}")
                continue
            if (known.master, known.slave) != (master, caller):
                self._trace.violate(f"{process.name}: a key of {known.master} for {known.slave} is given to {caller}")
            if known.bits != bits:
                self._trace.violate(f"{process.name}: the two ends give different bits for {known.key_id}")
            if known.fetched:
                self._trace.violate(f"{process.name}: {known.key_id} is fetched twice")
            known.fetched_s = process.world.now_s
            if not known.local:
                self._check_unburned(process, known)

    # Workers

    def handed_to_worker(self, owner: str, worker: str, key_ids: Sequence[str], *, ahead_from: int) -> None:
        """Hear which keys an owner drew for a worker; those from the place ``ahead_from`` on are ahead of demand."""
        for place, key_id in enumerate(key_ids):
            granules = granules_of(len(self.keys[key_id].bits))
            self._handed[key_id] = HandedKey(owner, worker, granules, place >= ahead_from)

    def served(self, worker: str, keys: Sequence[tuple[str, bytes]], *, from_stock: bool, now_s: float) -> None:
        """Hear what a worker gave to an SAE."""
        for key_id, bits in keys:
            handed, known = self._handed.get(key_id), self.keys.get(key_id)
            if handed is None or known is None or handed.worker != worker or known.bits != bits:
                self._trace.violate(f"{worker}: gives an SAE what its owner did not draw for it")
                continue
            if handed.served:
                self._trace.violate(f"{worker}: {key_id} is given to two SAEs")
            if from_stock and now_s - known.drawn_s > HOLD_S:
                self._trace.violate(f"{worker}: {key_id} was drawn {now_s - known.drawn_s:.3f} s ago and is given out")
            handed.served = True

    def check_workers(self, owner: KmeProcess, gone: str) -> None:
        """Check what an owner counts as burned when it has noticed that a worker is gone."""
        self._gone.add(gone)
        ahead = [handed for handed in self._handed.values() if handed.owner == owner.name and handed.is_ahead]
        least = sum(handed.granules for handed in ahead if not handed.served and handed.worker in self._gone)
        most = sum(handed.granules for handed in ahead if not handed.served or handed.worker in self._gone)
        burned = owner.pair.outgoing.tally.burned_granules[Burned.UNUSED]
        if not least <= burned <= most:
            self._trace.violate(f"{owner.name}: {burned} granules of workers count as burned, not {least} to {most}")

    # Multicast

    def pad_drawn(self, process: KmeProcess, pad_id: str, pad: bytes) -> None:
        """Hear of a key that one KME drew for the other, to pad a record."""
        near = load_record(process.disk.records["stream/out"])["lease"]
        own, peer = f"~kme-{process.end}", f"~kme-{process.peer}"
        address = process.pair.outgoing_ids.decode(pad_id, own, peer, near=near)
        if address is None or address.length_bytes != len(pad):
            self._trace.violate(f"{process.name}: {pad_id} does not name the pad")
            return
        self._check_places(process, pad_id, address)
        self._check_bits(process, pad_id, pad)

    def used_granules(self, before_s: float, *, fetched: bool) -> Iterator[bytes]:
        """Iterate over the granules of all keys that were drawn, or fetched, before a time."""
        for key in self.keys.values():
            used_s = key.fetched_s if fetched else key.drawn_s
            if not key.local and used_s is not None and used_s < before_s:
                yield from _pieces(key.bits)

    def _check_stream_key(self, process: KmeProcess, key: DrawnKey) -> None:
        near = load_record(process.disk.records["stream/out"])["lease"]
        address = process.pair.outgoing_ids.decode(key.key_id, key.master, key.slave, near=near)
        if address is None or address.length_bytes != len(key.bits):
            self._trace.violate(f"{process.name}: key_ID {key.key_id} does not name the key")
            return
        if address.end > min(near, self._leases[process.era, process.peer]):
            self._trace.violate(f"{process.name}: drawn before both disks held the lease")
        if not self._ready[process.era, process.peer].covers(address.offset, address.end):
            self._trace.violate(f"{process.name}: drawn before the other end held it ready")
        self._check_places(process, key.key_id, address)
        self._check_unburned(process, key)
        for piece in _pieces(key.bits):
            end, granule, _ = self._granules.get(piece[:_PIECE_BYTES_MIN], _NO_GRANULE)
            if end != process.end or not granule.startswith(piece):
                self._trace.violate(f"{process.name}: bits of {key.key_id} are no link's")

    def _check_unburned(self, process: KmeProcess, key: DrawnKey) -> None:
        if process.disk.awaits_rekey:
            self._trace.violate(f"{process.name}: {key.key_id} is given out while the pair awaits another secret")
        for piece in _pieces(key.bits):
            _, _, born_s = self._granules.get(piece[:_PIECE_BYTES_MIN], _NO_GRANULE)
            if born_s < process.burned_before_s:
                self._trace.violate(f"{process.name}: burned bits are given out in {key.key_id}")

    def _check_places(self, process: KmeProcess, key_id: str, address: KeyAddress) -> None:
        for place in range(address.offset, address.end):
            before = self._places.setdefault((process.era, process.end, place), key_id)
            if before != key_id:
                self._trace.violate(f"{process.name}: granule {place} is given out again")

    def _check_bits(self, process: KmeProcess, key_id: str, bits: bytes) -> None:
        for piece in _pieces(bits):
            before = self._drawn.setdefault(piece[:_PIECE_BYTES_MIN], key_id)
            if before != key_id:
                self._trace.violate(f"{process.name}: bits are given out again")
            if len(piece) == ENTRY_BYTES:
                self._drawn[piece] = key_id
                if piece in self._tags:
                    self._trace.violate(f"{process.name}: a one-time key is handed out")


def _pieces(bits: bytes) -> Iterator[bytes]:
    for start in range(0, len(bits), GRANULE_BYTES):
        piece = bits[start : start + GRANULE_BYTES]
        if len(piece) >= _PIECE_BYTES_MIN:
            yield piece
