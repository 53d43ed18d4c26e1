"""What both ends of a stream conclude from the two hellos: one pure function, computed at both ends alike.

The rule is: a bit is served later only if both ends' records, taken together, prove that it was never served before.
Any end may have been restored from an old copy without knowing; its records are then an earlier state of the truth,
while the other end's are current. Hence addresses and indexes move to the larger of the two views, and verification
entries and blocks to what both still have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from shosoin.keys.messages import BlockState, BlockView, Hello, ReceiverView, SenderView
from shosoin.keys.pool import contributed_by

__all__ = [
    "Action",
    "StreamPlan",
    "is_new",
    "must_burn",
    "plan_stream",
    "resumes_cleanly",
    "was_counted_back",
    "was_restored",
]


class Action(Enum):
    """What becomes of a block that both ends know."""

    KEEP = "keep"
    SEND_HAVE = "receiver sends have again"
    SEND_COMPARE = "sender sends compare again"
    SEND_READY = "sender sends ready again"
    SEND_CONFIRMED = "receiver sends confirmed again"


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """The agreed state of a stream."""

    lease: int
    next_index: int
    next_start: int
    blocks: Mapping[int, Action]
    """Blocks that stay; all others are dropped at both ends."""
    receiver_only: frozenset[int]
    """Blocks the sender has handed out completely and dropped; the receiver may still serve them."""
    entries: frozenset[int]
    """The verification pool at both ends."""
    restart_sender: bool
    """The sender forgets how far it had handed out: everything below ``lease`` counts as used."""
    restart_receiver: bool
    """The receiver forgets what was fetched: everything below ``lease`` counts as fetched."""


def is_new(own: Hello, other: Hello) -> bool:
    """Whether the process that said ``own`` may lack memory of what it did before."""
    known = (other.seen_generation, other.seen_incarnation) == (own.generation, own.incarnation)
    return own.fresh or not known


def was_restored(own: Hello, other: Hello) -> bool:
    """Whether the disk of ``own`` is an old copy.

    Either it claims a generation that another run had already claimed, or (a copy of a running end starts one
    generation above, as an honest restart does) it has forgotten what it had made durable before it said so.
    """
    return was_counted_back(own, other) or _sender_forgot(own, other) or _receiver_forgot(own, other)


def was_counted_back(own: Hello, other: Hello) -> bool:
    """Whether the disk of ``own`` is an old copy by its counts, which no plan raises at the other end alone."""
    if own.generation < other.seen_generation or own.burns < other.seen_burns:
        return True
    return own.generation == other.seen_generation and own.incarnation != other.seen_incarnation


def must_burn(one: Hello, other: Hello) -> bool:
    """Whether either end was burned by its operator and the other has not yet made that durable."""
    return one.burns > other.seen_burns or other.burns > one.seen_burns


def _sender_forgot(own: Hello, other: Hello) -> bool:
    """Whether the receiver knows a block or a lease of which the sender's records know nothing."""
    out, inc = own.outgoing, other.incoming
    return out.lease < inc.lease or out.next_index < inc.next_index or out.next_start < inc.next_start


def _receiver_forgot(own: Hello, other: Hello) -> bool:
    """Whether the sender holds a block that the receiver once said to have, and now knows nothing of."""
    said = (block.index for block in other.outgoing.blocks if block.state is not BlockState.PENDING)
    return max(said, default=-1) >= own.incoming.next_index


def resumes_cleanly(own: Hello, other: Hello) -> bool:
    """Whether ``own`` continues from a clean shutdown, which the other end recorded as the last thing it did."""
    return own.resume != "" and own.resume == other.seen_resume


def plan_stream(sender: Hello, receiver: Hello) -> StreamPlan:
    """Return the plan for the stream from ``sender`` to ``receiver``."""
    out, inc = sender.outgoing, receiver.incoming
    lease = max(out.lease, inc.lease)
    next_index = max(out.next_index, inc.next_index)
    next_start = max(out.next_start, inc.next_start, lease)
    sender_new, receiver_new = is_new(sender, receiver), is_new(receiver, sender)
    entries = frozenset(out.unused_entries) & frozenset(inc.unused_entries)
    if was_restored(sender, receiver) or was_restored(receiver, sender) or must_burn(sender, receiver):
        return StreamPlan(next_start, next_index, next_start, {}, frozenset(), entries, True, True)
    blocks = _agreed_blocks(out, inc)
    forget = receiver_new and not resumes_cleanly(receiver, sender)
    return StreamPlan(
        lease=lease,
        next_index=next_index,
        next_start=next_start,
        blocks=blocks,
        receiver_only=frozenset() if forget else _handed_out_blocks(out, inc, lease),
        entries=entries | _returned_entries(out, inc, blocks) | _contributed_entries(inc, blocks),
        restart_sender=sender_new or receiver_new,
        restart_receiver=forget,
    )


_ACTIONS = {
    (BlockState.PENDING, BlockState.STORED): Action.SEND_HAVE,
    (BlockState.OFFERED, BlockState.STORED): Action.SEND_COMPARE,
    (BlockState.VERIFIED, BlockState.STORED): Action.SEND_READY,
    (BlockState.VERIFIED, BlockState.READY): Action.SEND_CONFIRMED,
    (BlockState.CONFIRMED, BlockState.READY): Action.KEEP,
}


def _agreed_blocks(out: SenderView, inc: ReceiverView) -> dict[int, Action]:
    theirs = {block.index: block for block in inc.blocks}
    agreed = {}
    for block in out.blocks:
        other = theirs.get(block.index)
        if other is None or (other.start, other.granules) != (block.start, block.granules):
            continue
        action = _ACTIONS.get((block.state, other.state))
        if action is not None:
            agreed[block.index] = action
    return agreed


def _handed_out_blocks(out: SenderView, inc: ReceiverView, lease: int) -> frozenset[int]:
    known = {block.index for block in out.blocks}
    return frozenset(
        block.index
        for block in inc.blocks
        if block.index not in known and block.state is BlockState.READY and block.start + block.granules <= lease
    )


def _returned_entries(out: SenderView, inc: ReceiverView, blocks: Mapping[int, Action]) -> frozenset[int]:
    """Entries that a lost block had reserved and that neither end can have used.

    The first entry of an *offered* block is not among them: a receiver restored from an old copy may have used it
    without knowing. That of a pending block is, for the receiver uses it only when asked to compare.
    """
    lost: list[BlockView] = [block for block in out.blocks if block.index not in blocks]
    free = (block.entries[1:] if block.state is BlockState.OFFERED else block.entries for block in lost)
    return frozenset(entry for entries in free for entry in entries) & frozenset(inc.unused_entries)


def _contributed_entries(inc: ReceiverView, blocks: Mapping[int, Action]) -> frozenset[int]:
    """Entries of a block that the receiver added already and the sender adds once it hears ``confirmed``."""
    waiting = (index for index, action in blocks.items() if action is Action.SEND_CONFIRMED)
    return frozenset(entry for index in waiting for entry in contributed_by(index)) & frozenset(inc.unused_entries)
