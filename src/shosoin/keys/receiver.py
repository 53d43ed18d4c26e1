"""The receiving end of a key stream: where slave SAEs fetch the keys that masters drew at the other end.

A block passes *stored* and *ready*; only ready granules below the lease are served, each once. What was fetched is
kept in memory; it need not reach the disk before the answer does, because a process that does not remember starts
serving above the lease (see ``shosoin.keys.sender``), unless it stopped cleanly and its peer vouches for that.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from shosoin.base.ports import Event
from shosoin.keys.blocks import MAC_CONFIRMED, MAC_READY, MAC_STORED, Block, dump_record, load_record, mac_header
from shosoin.keys.cache import BlockCache
from shosoin.keys.claims import is_plausible_place
from shosoin.keys.errors import KeyDamaged, KeyNotFound, PairProtocolError
from shosoin.keys.intervals import IntervalSet, joined
from shosoin.keys.key_id import GRANULE_BYTES, KeyAddress, spans_of
from shosoin.keys.messages import (
    Announce,
    BlockState,
    Burn,
    Compare,
    Confirmed,
    Have,
    Lease,
    Leased,
    Passed,
    Proven,
    Ready,
    ReceiverView,
    Refused,
    Stored,
    no_proof,
    statement_of,
)
from shosoin.keys.pool import ENTRIES_PER_BLOCK, RESERVE_BYTES, VerificationPool
from shosoin.keys.reading import BlockTable, read_keys
from shosoin.keys.reconcile import Action, StreamPlan
from shosoin.keys.store import Batch, Commit, Emit, Mac, ReadBlock, Send, Steps, WipeRange
from shosoin.keys.tally import Burned, StreamTally

__all__ = ["FETCHED_RECORD", "ReceivingEnd"]

_STREAM_RECORD = "stream/in"
_POOL_RECORD = "pool/in"
FETCHED_RECORD = "fetched/in"
_WAITING_MAX, _WAITING_BYTES_MAX = 16, 32 << 20
_WAIT_S = 10.0
_BLOCKS_MAX = 1 << 16
"""A hello must be able to name all blocks."""
_WIPES_MAX = 256
"""Ranges overwritten at once, so that leases never wait long for the disk."""


class ReceivingEnd:
    """State of the stream at the KME where it ends."""

    def __init__(
        self,
        peer: str,
        cache: BlockCache,
        pool: VerificationPool,
        *,
        expiry_s: float,
        capacity_bytes: int,
        wall_s: Callable[[], float],
    ) -> None:
        self.peer = peer
        self.session = ""
        self.tally = StreamTally()
        self.proof_of: Callable[[str], str] = no_proof
        """Makes the proof that a statement of this session is ours."""
        self.max_age_s = 0
        """Age at which both ends burn bits, 0 for never."""
        self.era = ""
        """Of the pair secret, in the names of blocks that come under it."""
        self._wall_s = wall_s
        self._cache = cache
        self._pool = pool
        self._expiry_s = expiry_s
        self._capacity = capacity_bytes // GRANULE_BYTES
        self._blocks = BlockTable()
        self._ready = IntervalSet()
        self._fetched = IntervalSet()
        self._unwiped = IntervalSet()
        self._passed_at: dict[int, float] = {}
        self._next_index = 0
        self._next_start = 0
        self._lease = 0
        self._floor = 0
        self._passed = 0
        self._bits: dict[int, bytearray] = {}
        self._announced: dict[int, tuple[Announce, float]] = {}

    # Journal

    def restore(self, records: dict[str, bytes], resume: str) -> bool:
        """Take up what the journal holds; serves nothing until a handshake planned the stream.

        Returns whether what was fetched is known, because it was written together with the farewell ``resume``: in a
        copy made file by file the two may be of different moments.
        """
        stream = load_record(records[_STREAM_RECORD])
        self._next_index, self._next_start = stream["next_index"], stream["next_start"]
        self._lease, self._floor = stream["lease"], stream["floor"]
        farewell = load_record(records[FETCHED_RECORD]) if FETCHED_RECORD in records else {}
        known = resume != "" and farewell.get("resume") == resume
        for start, end in farewell["fetched"] if known else ():
            self._fetched.add(start, end)
        entries = load_record(records[_POOL_RECORD])
        self._pool = VerificationPool({int(number): bytes.fromhex(key) for number, key in entries.items()})
        blocks = (Block.load(raw) for name, raw in records.items() if name.startswith("block/in-"))
        for block in blocks:
            self._blocks.add(block)
        self.tally.restored_granules = self.left_granules()
        return known

    def fetched_record(self, resume: str) -> dict[str, bytes | None]:
        """Return the record of what was fetched, which only a clean stop writes and only the next handshake removes."""
        return {FETCHED_RECORD: dump_record({"resume": resume, "fetched": list(self._fetched)})}

    def records(self) -> dict[str, bytes | None]:
        """Return the stream's own records as they should be in the journal, except what was fetched."""
        stream = {
            "next_index": self._next_index,
            "next_start": self._next_start,
            "lease": self._lease,
            "floor": self._floor,
        }
        pool = {str(number): key.hex() for number, key in self._pool.items().items()}
        return {_STREAM_RECORD: dump_record(stream), _POOL_RECORD: dump_record(pool)}

    # Handshake

    def view(self) -> ReceiverView:
        """Return what the hello says about this end."""
        blocks = tuple(block.view() for block in self._blocks)
        return ReceiverView(self._next_index, self._next_start, self._lease, blocks, tuple(self._pool))

    def apply(self, plan: StreamPlan) -> Batch:
        """Adopt the agreed plan; the batch must be durable before the stream opens."""
        had = self.left_granules()
        self._next_index, self._next_start = plan.next_index, plan.next_start
        self._lease = plan.lease
        if plan.restart_receiver:
            self._floor, self._fetched, self._unwiped = plan.lease, IntervalSet(), IntervalSet()
        kept = {*plan.blocks, *plan.receiver_only}
        drops = [b for b in self._blocks if b.index not in kept or b.end <= self._floor]
        self._pool.retain(plan.entries)
        self._forget(drops)
        self._ready = IntervalSet()
        for block in self._blocks:
            self._make_ready(block)
            # Whatever an earlier run may not have overwritten any more is overwritten by the next flushes.
            self._unwiped.add(block.start, min(block.end, self._floor))
        for start, end in self._fetched:
            self._unwiped.add(start, end)
        self.tally.burn(Burned.HANDSHAKE, had - self.left_granules())
        batch = self._drop_batch(drops)
        return Batch(records={**batch.records, FETCHED_RECORD: None}, drops=batch.drops)

    def resume(self, plan: StreamPlan) -> Steps:
        """Send again what the other end still waits for."""
        for index, action in plan.blocks.items():
            block = self._blocks.get(index)
            if block is not None and action is Action.SEND_HAVE:
                yield self._say(Have(self.session, index))
            if block is not None and action is Action.SEND_CONFIRMED:
                yield from self._send_confirmed(block)

    # Blocks

    def forget_bits(self) -> None:
        """Forget bits that await an announcement: the link has started anew."""
        for bits in self._bits.values():
            bits[:] = bytes(len(bits))
        self._bits.clear()

    def forget_announcements(self) -> None:
        """Forget announcements that await bits: the handshake about to start does not mention them."""
        self._announced.clear()

    def on_bits(self, number: int, bits: bytearray) -> Steps:
        """Take a block that this end's device delivered; it counts once the sender has announced it."""
        self._bits[number] = bits
        while len(self._bits) > _WAITING_MAX or sum(map(len, self._bits.values())) > _WAITING_BYTES_MAX:
            oldest = self._bits.pop(next(iter(self._bits)))
            oldest[:] = bytes(len(oldest))
        waiting = self._announced.pop(number, None)
        if waiting is not None:
            yield from self._store(waiting[0])

    def on_announce(self, message: Announce, now_s: float) -> Steps:
        """Learn where in the stream a block lies that the sender has stored; store it too once its bits are here."""
        if message.index < self._next_index:
            return
        waiting = self._announced.pop(message.number, None)
        if waiting is not None and waiting[0].index != message.index:
            yield self._refusal(waiting[0])  # the link counts anew: bits of that number are no longer this block's
        if message.number in self._bits:
            yield from self._store(message)
        elif len(self._announced) < _WAITING_MAX:
            self._announced[message.number] = (message, now_s)
        else:
            yield self._refusal(message)

    def _store(self, message: Announce) -> Steps:
        bits = self._bits.pop(message.number)
        fits = len(bits) == RESERVE_BYTES + message.granules * GRANULE_BYTES and message.start >= self._next_start
        fits = fits and is_plausible_place(message, self._next_index, self._next_start)
        entries_right = len(set(message.entries)) == ENTRIES_PER_BLOCK and self._pool.has(message.entries)
        if not fits or not entries_right or message.index < self._next_index or not self._has_room(message.granules):
            yield self._refusal(message)
            return
        block = Block("in", message.index, message.start, message.granules, BlockState.STORED, era=self.era)
        block.born_s = self._wall_s()
        block.reserve = bytes(bits[:RESERVE_BYTES])
        block.entries = self._pool.take(message.entries)
        payload = bytes(bits[RESERVE_BYTES:])
        bits[:] = bytes(len(bits))
        self._next_index, self._next_start = block.index + 1, block.end
        self._blocks.add(block)
        self.tally.taken_granules += block.granules
        records = {**self.records(), block.record_name: block.dump()}
        yield Commit(Batch(records=records, blocks={block.name: payload}))
        yield self._say(Have(self.session, block.index))

    def on_compare(self, message: Compare) -> Steps:
        """Send the tag over a block that the sender is ready to compare."""
        block = self._blocks.get(message.index)
        if block is not None and block.state is BlockState.STORED:
            yield from self._send_stored(block)

    def on_ready(self, message: Ready) -> Steps:
        """Mark a block ready that the sender has compared, then say so."""
        block = self._blocks.get(message.index)
        if block is None or block.state is not BlockState.STORED:
            return
        block.keep = message.keep
        expected = yield Mac(block.entry(1), (mac_header(MAC_READY, block),))
        if not hmac.compare_digest(expected.hex().encode(), message.tag.encode()):
            fields = {"peer": self.peer, "stream": "in", "block": block.index}
            yield Emit(Event("keys.forged_ready", "alarm", fields))
            self._burn([block], Burned.REFUSED)
            yield Commit(self._drop_batch([block]))
            yield self._say(Refused(self.session, block.index, ()))
            return
        if block.keep:
            self._pool.put_reserve(block.index, block.reserve)
        block.state, block.reserve = BlockState.READY, b""
        yield Commit(Batch(records={**self.records(), block.record_name: block.dump()}))
        self._make_ready(block)
        yield from self._send_confirmed(block)

    def on_burn(self, message: Burn) -> Steps:
        """Forget a block that the sender gave up."""
        block = self._blocks.get(message.index)
        if block is None:
            return
        self._pool.put({number: block.entries[number] for number in message.returned if number in block.entries})
        # A block that was ready is given up for its age alone.
        self._burn([block], Burned.EXPIRED if block.state is BlockState.READY else Burned.REFUSED)
        yield Commit(self._drop_batch([block]))

    def on_lease(self, message: Lease) -> Steps:
        """Record durably that everything below the bound may have been handed out."""
        if message.upto > self._next_start:
            raise PairProtocolError(f"lease up to {message.upto} asked for, there is nothing above {self._next_start}")
        if message.upto > self._lease:
            self._lease = message.upto
            yield Commit(Batch(records=self.records()))
        yield self._say(Leased(self.session, message.upto))

    def on_passed(self, message: Passed) -> Steps:
        """Let what was handed out grow old from now on."""
        self._passed = max(self._passed, min(message.below, self._lease))
        yield from ()

    def _send_stored(self, block: Block) -> Steps:
        content, damaged = yield ReadBlock(block.name)
        if damaged:
            yield Emit(Event("keys.damaged", "alarm", {"peer": self.peer, "stream": "in", "block": block.index}))
            self._burn([block], Burned.DAMAGED)
            yield Commit(self._drop_batch([block]))
            yield self._say(Refused(self.session, block.index, ()))
            return
        tag = yield Mac(block.entry(0), (mac_header(MAC_STORED, block), block.reserve, content))
        content[:] = bytes(len(content))
        yield Send(Stored(self.session, block.index, tag.hex()))

    def _send_confirmed(self, block: Block) -> Steps:
        tag = yield Mac(block.entry(2), (mac_header(MAC_CONFIRMED, block),))
        yield Send(Confirmed(self.session, block.index, tag.hex()))

    def _say(self, message: Proven) -> Send:
        return Send(replace(message, proof=self.proof_of(statement_of(message))))

    def _refusal(self, message: Announce) -> Send:
        unused = tuple(number for number in message.entries if self._pool.has((number,)))
        return self._say(Refused(self.session, message.index, unused))

    def _has_room(self, granules: int) -> bool:
        room = self._capacity - sum(block.granules for block in self._blocks)
        return granules <= room and len(self._blocks) < _BLOCKS_MAX

    def _make_ready(self, block: Block) -> None:
        if block.state is BlockState.READY:
            self._ready.add(block.start, block.end)

    def _forget(self, blocks: Sequence[Block]) -> None:
        for block in blocks:
            self._blocks.remove(block)
            self._passed_at.pop(block.index, None)
            self._ready.remove(block.start, block.end)
            self._fetched.remove(block.start, block.end)
            self._unwiped.remove(block.start, block.end)
            self._cache.forget(block.name)

    def _burn(self, blocks: Sequence[Block], why: Burned) -> None:
        """Forget blocks; what nobody has fetched of them is lost."""
        if blocks:
            had = self.left_granules()
            self._forget(blocks)
            self.tally.burn(why, had - self.left_granules())

    def _drop_batch(self, blocks: Sequence[Block]) -> Batch:
        records = {**self.records(), **{block.record_name: None for block in blocks}}
        return Batch(records=records, drops=[block.name for block in blocks])

    # Keys

    @property
    def near(self) -> int:
        """An offset close to every key still in use, for widening addresses."""
        return self._lease

    def fetch(self, addresses: Sequence[KeyAddress], max_age_s: float | None = None) -> list[bytearray]:
        """Return the bits of keys, all or none; none can be fetched again.

        Raises:
            KeyNotFound: if any key was fetched before, expired, was burned or was never handed out, or is older than
                ``max_age_s``.
            KeyDamaged: if stored bytes fail their check; all keys of the request are burned.
        """
        spans = spans_of(addresses)
        taken = joined(spans)
        if taken.size() < sum([end - start for start, end in spans]):
            raise KeyNotFound  # a key named twice, or two that overlap
        if not all(self._servable(start, end) for start, end in taken):
            raise KeyNotFound
        if max_age_s is not None and any(self._age_s(address) > max_age_s for address in addresses):
            raise KeyNotFound
        for start, end in taken:
            self._fetched.add(start, end)
            self._unwiped.add(start, end)
        try:
            keys = read_keys(self._cache, self._blocks, addresses, taken)
        except KeyDamaged:
            self.tally.burn(Burned.DAMAGED, taken.size())
            raise
        self.tally.deliver(addresses, taken.size())
        return keys

    def spanned_by(self, addresses: Sequence[KeyAddress]) -> int:
        """Return of how many blocks the bits of one of these keys, just fetched, are at most."""
        return self._blocks.spanned_by(addresses)

    def _age_s(self, address: KeyAddress) -> float:
        block = self._blocks.at(address.offset)
        return self._wall_s() - (block.born_s if block is not None else 0.0)

    def _servable(self, low: int, high: int) -> bool:
        inside = self._floor <= low and high <= self._lease and self._ready.covers(low, high)
        return inside and not self._fetched.overlaps(low, high)

    def tick(self, now_s: float) -> Steps:
        """Refuse announcements whose bits never came, and overwrite what is fetched or too old."""
        for number, (message, since) in list(self._announced.items()):
            if now_s - since > _WAIT_S:
                del self._announced[number]
                yield self._refusal(message)
        old = self._too_old()
        batch = self._flush(now_s, old)
        if batch is not None:
            yield Commit(batch)
        for block in old:  # by our clock; the sender's may be behind, and it must not hand them out
            yield self._say(Refused(self.session, block.index, ()))

    def _flush(self, now_s: float, old: Sequence[Block]) -> Batch | None:
        drops = [*old, *self._finished(now_s)]
        self._burn(drops, Burned.EXPIRED)
        wipes: list[WipeRange] = []
        for start, end in list(self._unwiped)[:_WIPES_MAX]:
            self._unwiped.remove(start, end)
            wipes += self._wipes(start, end)
        if drops:
            batch = self._drop_batch(drops)
            return Batch(records=batch.records, wipes=wipes, drops=batch.drops)
        return Batch(wipes=wipes) if wipes else None

    def _wipes(self, start: int, end: int) -> Iterator[WipeRange]:
        while start < end:
            block = self._blocks.at(start)
            if block is None:
                return
            upto = min(end, block.end)
            yield WipeRange(block.name, start - block.start, upto - start)
            start = upto

    def _too_old(self) -> list[Block]:
        """Return blocks that have outlived the pair's limit; their birth counts as now if it was not written down."""
        if not self.max_age_s:
            return []
        now_s = self._wall_s()
        for block in self._blocks:
            if not 0.0 < block.born_s <= now_s:
                block.born_s = now_s  # written down with the block's next record; a restart begins anew
        return [
            block for block in self._blocks if block.state is BlockState.READY and now_s - block.born_s > self.max_age_s
        ]

    def _finished(self, now_s: float) -> list[Block]:
        """Return blocks that nobody can or will fetch from any more; oldest ones also when room runs out."""
        excess = sum(block.granules for block in self._blocks) - self._capacity * 3 // 4
        surplus = len(self._blocks) - _BLOCKS_MAX * 3 // 4
        finished = []
        for block in self._blocks:
            too_old = 0 < self.max_age_s < self._wall_s() - block.born_s
            if block.state is not BlockState.READY or block.end > self._passed or too_old:
                continue
            passed = self._passed_at.setdefault(block.index, now_s)
            old = now_s - passed > self._expiry_s
            if old or excess > 0 or surplus > 0 or self._fetched.covers(block.start, block.end):
                finished.append(block)
                excess -= block.granules
                surplus -= 1
        return finished

    def left_granules(self) -> int:
        """Return how many granules above what counts as fetched since the last handshake are still unfetched."""
        stored = sum(max(0, block.end - max(block.start, self._floor)) for block in self._blocks)
        return stored - self._fetched.size()

    def waiting_since_s(self) -> float | None:
        """Return since when the oldest block that was handed out whole waits for someone to fetch the rest of it."""
        return min(self._passed_at.values(), default=None)

    def held_granules(self) -> int:
        """Return how many granules are stored here and not yet fetched."""
        return sum(block.granules for block in self._blocks) - self._fetched.size()
