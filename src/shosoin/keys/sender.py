"""The sending end of a key stream: where blocks enter and master SAEs draw keys.

A block passes *pending* (stored here), *offered* (the receiver has it too and may use the first verification entry),
*verified* (the receiver's tag over the whole block was right) and *confirmed* (the receiver has durably marked it
ready); only confirmed granules are handed out. They are handed out in ascending
order, below a *lease*: an upper bound that both ends have made durable beforehand. After a crash, or when either end
turns out to be a restored copy, everything below the lease counts as used. So no disk is touched per key, and no
memory of either end alone decides whether a bit is still unused.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import repeat

from shosoin.base.ports import Event
from shosoin.keys.blocks import MAC_CONFIRMED, MAC_READY, MAC_STORED, Block, dump_record, load_record, mac_header
from shosoin.keys.cache import BlockCache
from shosoin.keys.errors import KeyDamaged, KeyStreamDry, KeyTooOld, LeaseNeeded, PairProtocolError
from shosoin.keys.intervals import IntervalSet, joined
from shosoin.keys.key_id import GRANULE_BYTES, KeyAddress, granules_of, spans_of
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
    Refused,
    SenderView,
    Stored,
    no_proof,
    statement_of,
)
from shosoin.keys.pool import (
    CONTRIBUTED_PER_BLOCK,
    ENTRIES_PER_BLOCK,
    POOL_ENTRIES_MAX,
    RESERVE_BYTES,
    VerificationPool,
)
from shosoin.keys.reading import BlockTable, read_keys
from shosoin.keys.reconcile import Action, StreamPlan
from shosoin.keys.store import Batch, Commit, Emit, Mac, ReadBlock, Send, Steps, WipeRange
from shosoin.keys.tally import Burned, StreamTally

__all__ = ["SendingEnd"]

_STREAM_RECORD = "stream/out"
_POOL_RECORD = "pool/out"
_IN_FLIGHT_MAX = 4
_EARLY_S = 10.0
"""How long before their time bits are no longer handed out."""
_EXPIRE_MAX = 64
"""Blocks burned for their age at once; the next tick takes the next."""
_BLOCKS_MAX = 1 << 16
"""A hello must be able to name all blocks."""


class SendingEnd:
    """State of the stream at the KME where it starts."""

    def __init__(
        self, peer: str, cache: BlockCache, pool: VerificationPool, *, lease_bytes: int, wall_s: Callable[[], float]
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
        self._lease_step = max(1, lease_bytes // GRANULE_BYTES)
        self._blocks = BlockTable()
        self._available = IntervalSet()
        self._begun: set[int] = set()
        """Blocks that are under way and were begun since the last handshake, hence by nobody but this process."""
        self._next_index = 0
        self._next_start = 0
        self._lease = 0
        self._leased = 0
        self._cursor = 0
        self._wiped = 0
        self._reported = 0

    # Journal

    def restore(self, records: dict[str, bytes]) -> None:
        """Take up what the journal holds; hands out nothing until a handshake planned the stream."""
        stream = load_record(records[_STREAM_RECORD])
        self._next_index, self._next_start = stream["next_index"], stream["next_start"]
        self._lease = stream["lease"]
        entries = load_record(records[_POOL_RECORD])
        self._pool = VerificationPool({int(number): bytes.fromhex(key) for number, key in entries.items()})
        blocks = (Block.load(raw) for name, raw in records.items() if name.startswith("block/out-"))
        for block in blocks:
            self._blocks.add(block)
        self.tally.restored_granules = self.left_granules()

    def records(self) -> dict[str, bytes | None]:
        """Return the stream's own records as they should be in the journal."""
        stream = {"next_index": self._next_index, "next_start": self._next_start, "lease": self._lease}
        pool = {str(number): key.hex() for number, key in self._pool.items().items()}
        return {_STREAM_RECORD: dump_record(stream), _POOL_RECORD: dump_record(pool)}

    # Handshake

    def view(self) -> SenderView:
        """Return what the hello says about this end."""
        blocks = tuple(block.view() for block in self._blocks)
        return SenderView(self._next_index, self._next_start, self._lease, blocks, tuple(self._pool))

    def apply(self, plan: StreamPlan) -> Batch:
        """Adopt the agreed plan; the batch must be durable before the stream opens."""
        had = self.left_granules()
        self._begun.clear()
        self._next_index, self._next_start = plan.next_index, plan.next_start
        self._lease = plan.lease
        if plan.restart_sender:
            self._leased = self._cursor = plan.lease
        used_up = self._cursor
        drops = [b for b in self._blocks if b.index not in plan.blocks or b.end <= used_up]
        for block in drops:
            self._pool.put({number: key for number, key in block.entries.items() if number in plan.entries})
            self._blocks.remove(block)
            self._cache.forget(block.name)
        self._pool.retain(plan.entries)
        self._available = IntervalSet()
        for block in self._blocks:
            self._make_available(block)
        self.tally.burn(Burned.HANDSHAKE, had - self.left_granules())
        # Whatever an earlier run may not have overwritten any more is overwritten by the next flush.
        self._wiped = min([self._cursor, *(block.start for block in self._blocks)])
        return Batch(
            records={**self.records(), **{block.record_name: None for block in drops}},
            drops=[block.name for block in drops],
        )

    def resume(self, plan: StreamPlan) -> Steps:
        """Send again what the other end still waits for."""
        for index, action in plan.blocks.items():
            block = self._blocks.get(index)
            if action is Action.SEND_READY and block is not None:
                yield from self._send_ready(block)
            if action is Action.SEND_COMPARE and block is not None:
                yield self._say(Compare(self.session, index))
            if block is None and action in {Action.SEND_COMPARE, Action.SEND_READY}:
                # Keys were drawn beyond it meanwhile, so nobody will ever compare it; the receiver cannot know.
                yield self._say(Burn(self.session, index, ()))
        self._reported = 0
        if self._lease > self._leased:
            yield self._ask_lease(self._lease)

    # Blocks

    @property
    def can_begin(self) -> bool:
        """Whether another block may be announced now."""
        if len(self._blocks) >= _BLOCKS_MAX:
            return False
        in_flight = sum(block.state is not BlockState.CONFIRMED for block in self._blocks)
        lavish = len(self._pool) >= CONTRIBUTED_PER_BLOCK * _IN_FLIGHT_MAX
        return len(self._pool) >= ENTRIES_PER_BLOCK and in_flight < (_IN_FLIGHT_MAX if lavish else 1)

    @property
    def verification_entries(self) -> int:
        """How many one-time keys are left to verify blocks with."""
        return len(self._pool)

    @property
    def pool_exhausted(self) -> bool:
        """Whether no block can ever be verified again without a new pair secret."""
        waiting = any(block.state is not BlockState.CONFIRMED for block in self._blocks)
        return len(self._pool) < ENTRIES_PER_BLOCK and not waiting

    def begin(self, number: int, bits: bytes | bytearray) -> Steps:
        """Store a block that this end's device delivered and announce it."""
        granules = (len(bits) - RESERVE_BYTES) // GRANULE_BYTES
        if granules <= 0 or len(bits) % GRANULE_BYTES:
            raise PairProtocolError(f"link delivered a block of {len(bits)} bytes")
        block = Block("out", self._next_index, self._next_start, granules, BlockState.PENDING, era=self.era)
        block.born_s = self._wall_s()
        block.reserve = bytes(bits[:RESERVE_BYTES])
        block.entries = self._pool.take_newest()
        promised = sum(b.keep and b.state is not BlockState.CONFIRMED for b in self._blocks)
        block.keep = len(self._pool) + CONTRIBUTED_PER_BLOCK * (promised + 1) <= POOL_ENTRIES_MAX
        self._next_index += 1
        self._next_start += granules
        self._blocks.add(block)
        self._begun.add(block.index)
        self.tally.taken_granules += granules
        records = {**self.records(), block.record_name: block.dump()}
        yield Commit(Batch(records=records, blocks={block.name: bytes(bits[RESERVE_BYTES:])}))
        entries = tuple(sorted(block.entries))
        yield self._say(Announce(self.session, number, block.index, block.start, granules, entries))

    def on_have(self, message: Have) -> Steps:
        """Ask for the receiver's tag, after writing down that the entry for it is spent."""
        block = self._blocks.get(message.index)
        if block is None:
            yield self._say(Burn(self.session, message.index, ()))
        elif block.state is BlockState.PENDING:
            block.state = BlockState.OFFERED
            yield Commit(Batch(records={block.record_name: block.dump()}))
            yield self._say(Compare(self.session, block.index))

    def on_stored(self, message: Stored) -> Steps:
        """Compare the receiver's tag over the block with our own copy, read back from the store."""
        block = self._blocks.get(message.index)
        if block is None or block.state is not BlockState.OFFERED:
            return
        content, damaged = yield ReadBlock(block.name)
        expected = yield Mac(block.entry(0), (mac_header(MAC_STORED, block), block.reserve, content))
        content[:] = bytes(len(content))
        if damaged or not _equal(expected, message.tag):
            fields = {"peer": self.peer, "stream": "out", "block": block.index, "rotten": bool(damaged)}
            yield Emit(Event("keys.block_mismatch", "alarm", fields))
            # In a restored copy, which believes a block to be under way, the second entry may long be spent.
            unused = sorted(block.entries)[1:] if block.index in self._begun else []
            yield from self._burn(block, returned=unused)
            return
        block.state = BlockState.VERIFIED
        yield Commit(Batch(records={block.record_name: block.dump()}))
        yield from self._send_ready(block)

    def on_confirmed(self, message: Confirmed) -> Steps:
        """Make a block available that the receiver has durably marked ready."""
        block = self._blocks.get(message.index)
        if block is None or block.state is not BlockState.VERIFIED:
            return
        expected = yield Mac(block.entry(2), (mac_header(MAC_CONFIRMED, block),))
        if not _equal(expected, message.tag):
            fields = {"peer": self.peer, "stream": "out", "block": block.index}
            yield Emit(Event("keys.forged_confirmation", "alarm", fields))
            yield from self._burn(block, returned=[])
            return
        if block.keep:
            self._pool.put_reserve(block.index, block.reserve)
        block.state, block.reserve, block.entries = BlockState.CONFIRMED, b"", {}
        self._begun.discard(block.index)
        yield Commit(Batch(records={**self.records(), block.record_name: block.dump()}))
        self._make_available(block)

    def on_refused(self, message: Refused) -> Steps:
        """Burn a block that the receiver cannot use, or that is too old by its clock."""
        block = self._blocks.get(message.index)
        if block is None:
            return
        if block.state is BlockState.CONFIRMED:
            yield from self._burn_old([], [block])
            return
        ours = {BlockState.PENDING: sorted(block.entries), BlockState.OFFERED: sorted(block.entries)[1:]}
        unused = [number for number in ours.get(block.state, []) if number in message.unused]
        yield from self._burn(block, returned=unused)

    def _burn(self, block: Block, returned: Sequence[int]) -> Steps:
        had = self.left_granules()
        self._begun.discard(block.index)
        self._blocks.remove(block)
        self.tally.burn(Burned.REFUSED, had - self.left_granules())
        self._pool.put({number: block.entries[number] for number in returned})
        self._cache.forget(block.name)
        yield Commit(Batch(records={**self.records(), block.record_name: None}, drops=[block.name]))
        yield self._say(Burn(self.session, block.index, tuple(returned)))

    def _send_ready(self, block: Block) -> Steps:
        tag = yield Mac(block.entry(1), (mac_header(MAC_READY, block),))
        yield Send(Ready(self.session, block.index, block.keep, tag.hex()))

    def _make_available(self, block: Block) -> None:
        if block.state is BlockState.CONFIRMED:
            self._available.add(max(block.start, self._cursor), block.end)

    # Keys

    def extend_lease(self, granules: int) -> Steps:
        """Ask the peer to record a higher bound: at least ``granules`` more, as far as there is stock."""
        wanted = max(self._leased + granules, self._cursor + self._lease_step)
        upto = max(self._lease, min(self._available.end, wanted))
        if upto <= self._leased:
            return
        if upto > self._lease:
            self._lease = upto
            yield Commit(Batch(records=self.records()))
        yield self._ask_lease(upto)

    def _ask_lease(self, upto: int) -> Send:
        return self._say(Lease(self.session, upto))

    def _say(self, message: Proven) -> Send:
        return Send(replace(message, proof=self.proof_of(statement_of(message))))

    def on_leased(self, message: Leased) -> Steps:
        """Hand out up to a bound that the peer has recorded durably."""
        if message.upto > self._lease:
            raise PairProtocolError(f"lease up to {message.upto} acknowledged, asked for {self._lease}")
        self._leased = max(self._leased, message.upto)
        yield from ()

    @property
    def lease_low(self) -> bool:
        """Whether it is time to extend the lease ahead of demand."""
        return self._leased - self._cursor < self._lease_step // 2 and self._available.end > self._leased

    def leased_granules(self) -> int:
        """Return how many granules may be handed out without asking the peer."""
        return min(self._leased - self._cursor, self._available.size())

    def stock_granules(self) -> int:
        """Return how many granules may still be handed out, leased or not."""
        return self._available.size()

    @property
    def produced_granules(self) -> int:
        """How many granules the stream has had since the pair was installed."""
        return self._next_start

    def left_granules(self) -> int:
        """Return how many granules of stock there are or soon will be: of all blocks, above what was handed out."""
        return sum(max(0, block.end - max(block.start, self._cursor)) for block in self._blocks)

    def age_s(self, addresses: Sequence[KeyAddress]) -> float:
        """Return the age of the oldest bits among these keys."""
        born_s = [self._born_s(address) for address in addresses]
        return max(0.0, self._wall_s() - min(born_s, default=0.0))

    def spanned_by(self, addresses: Sequence[KeyAddress]) -> int:
        """Return of how many blocks the bits of one of these keys are, at most."""
        return self._blocks.spanned_by(addresses)

    def _born_s(self, address: KeyAddress) -> float:
        block = self._blocks.at(address.offset)  # the stream is in order of birth: its first granule is the oldest
        return block.born_s if block is not None else 0.0

    def expire(self) -> Steps:
        """Burn what has grown too old, and tell the peer; a little early, so that nobody is given what expires on him.

        Bits whose birth was not written down, or lies in the future, count as born now.
        """
        if not self.max_age_s:
            return
        now_s = self._wall_s()
        oldest_s = now_s - self.max_age_s + min(_EARLY_S, self.max_age_s / 10)
        undated: list[Block] = []
        old: list[Block] = []
        for block in self._blocks:
            if block.state is not BlockState.CONFIRMED:
                continue
            if not 0.0 < block.born_s <= now_s:
                block.born_s = now_s
                undated.append(block)
            if block.born_s > oldest_s or len(old) >= _EXPIRE_MAX:
                break
            old.append(block)
        if undated or old:
            yield from self._burn_old(undated, old)

    def _burn_old(self, undated: Sequence[Block], old: Sequence[Block]) -> Steps:
        had = self.left_granules()
        records: dict[str, bytes | None] = {block.record_name: block.dump() for block in undated}
        for block in old:
            self._available.remove(block.start, block.end)
            self._blocks.remove(block)
            self._cache.forget(block.name)
            records[block.record_name] = None
        self.tally.burn(Burned.EXPIRED, had - self.left_granules())
        yield Commit(Batch(records=records, drops=[block.name for block in old]))
        for block in old:
            if block.start >= self._cursor:  # or somebody was just given keys of it, which the slave may still fetch
                yield self._say(Burn(self.session, block.index, ()))

    def allocate(self, number: int, length_bytes: int, max_age_s: float | None = None) -> list[KeyAddress]:
        """Reserve the addresses of ``number`` keys, all or none.

        Raises:
            KeyStreamDry: too few granules; nothing is consumed.
            KeyTooOld: the first of them is older than ``max_age_s``; nothing is consumed.
            LeaseNeeded: enough granules, but the peer has not yet recorded that they are handed out.
        """
        need = granules_of(length_bytes)
        offsets = self._places(number, need)
        addresses = list(map(KeyAddress, offsets, repeat(length_bytes)))
        cursor = offsets[-1] + need
        if max_age_s is not None and self.age_s(addresses[:1]) > max_age_s:
            raise KeyTooOld(f"the oldest stock for {self.peer} is older than {max_age_s:g} s")
        if cursor > self._leased:
            raise LeaseNeeded(self.peer, cursor - self._leased)
        leaps = cursor - self._cursor > need * number
        had = self.left_granules() if leaps else 0
        self._available.remove(self._cursor, cursor)
        self._cursor = cursor
        if leaps:
            self.tally.burn(Burned.GAP, had - self.left_granules() - need * number)
        return addresses

    def _places(self, number: int, need: int) -> Sequence[int]:
        """Return the offsets of the next keys of ``need`` granules each, side by side where the stock allows."""
        first = self._available.first_fit(self._cursor, need)
        if first is not None and self._available.covers(first, first + need * number):
            return range(first, first + need * number, need)
        offsets, cursor = [], self._cursor
        for _ in range(number):
            offset = self._available.first_fit(cursor, need)
            if offset is None:
                missing = need * number - self._available.size()
                raise KeyStreamDry(f"the stream to {self.peer} lacks {max(missing, need) * 32} bytes")
            offsets.append(offset)
            cursor = offset + need
        return offsets

    def read(self, addresses: Sequence[KeyAddress]) -> list[bytearray]:
        """Return the bits of keys just allocated; they are gone from memory here.

        Raises:
            KeyDamaged: if stored bytes fail their check; all these keys are burned.
        """
        runs = joined(spans_of(addresses))
        try:
            keys = read_keys(self._cache, self._blocks, addresses, runs)
        except KeyDamaged:
            self.tally.burn(Burned.DAMAGED, runs.size())
            raise
        self.tally.deliver(addresses, runs.size())
        return keys

    def report(self) -> Steps:
        """Tell the receiver how far keys were handed out, when that has changed."""
        if self._cursor != self._reported:
            self._reported = self._cursor
            yield self._say(Passed(self.session, self._cursor))

    def flush(self) -> Batch | None:
        """Return the overwriting that is due, or ``None``."""
        low, high = self._wiped, self._cursor
        if low == high:
            return None
        self._wiped = high
        touched = [b for b in self._blocks if b.state is BlockState.CONFIRMED and b.start < high]
        drops = [block for block in touched if block.end <= high]
        for block in drops:
            self._blocks.remove(block)
            self._cache.forget(block.name)
        wipes = [
            WipeRange(block.name, max(low, block.start) - block.start, high - max(low, block.start))
            for block in touched
            if block.end > high
        ]
        records: dict[str, bytes | None] = {block.record_name: None for block in drops}
        return Batch(records=records, wipes=wipes, drops=[block.name for block in drops])


def _equal(tag: bytes, claimed: str) -> bool:
    return hmac.compare_digest(tag.hex().encode(), claimed.encode())
