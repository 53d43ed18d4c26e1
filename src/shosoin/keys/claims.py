"""How far one statement of a peer may move what this end will remember for good.

Generations, burns, block indexes and offsets only ever grow, and each end adopts the larger of both views. A peer that
holds the pair secret and lies could name numbers so large that nothing is left above them, and no honest statement of
either end would count again. So a claim may be above what is on record here by as much as the oldest copy of a disk
that anybody would put back explains, and takes a small part of what is left of the numbers at most: only thousands of
lies use them up, and before that honest work goes on wherever they have led. What is above that is believed by nobody
and changes nothing: an alarm, and the pair stays closed until the peer says something else or the pair is re-keyed,
which begins all numbers anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from shosoin.keys.messages import Announce, Hello, ReceiverView, SenderView

__all__ = ["BLOCKS_LEAP", "COUNTS_LEAP", "GRANULES_LEAP", "implausible_claim", "is_plausible_place"]

COUNTS_LEAP = 1 << 20
"""Starts, or burns, that one end has not heard of: a start every half minute for a year."""
BLOCKS_LEAP = 1 << 32
"""A hundred blocks in a second for a year."""
GRANULES_LEAP = 1 << 52
"""4 Gbit/s of key for nine years."""
_BLOCKS_END = 10**12
"""Names of blocks have twelve digits."""
_NUMBERS_END = (1 << 63) - 1
"""The most that messages can state."""
_SHARES = 128
"""Of so many parts of the numbers left one claim takes at most one."""


def implausible_claim(mine: Hello, theirs: Hello) -> str:
    """Return what is wrong with the numbers of a hello that the peer has proved to be its own, empty if nothing is."""
    for what, claimed, known, leap, end in _claims(mine, theirs):
        if claimed > _reach(known, leap, end):
            return f"{what} {claimed} where at most {known} was known"
    for view in (theirs.outgoing, theirs.incoming):
        if view.lease > view.next_start:
            return f"lease {view.lease} above everything there is ({view.next_start})"
    return ""


def is_plausible_place(message: Announce, next_index: int, next_start: int) -> bool:
    """Whether a block may be where its announcement says, given the next place in the receiver's records."""
    near = message.index <= _reach(next_index, BLOCKS_LEAP, _BLOCKS_END)
    return near and message.start <= _reach(next_start, GRANULES_LEAP, _NUMBERS_END)


def _reach(known: int, leap: int, end: int) -> int:
    """Return how far a claim may go from what is known."""
    return known + min(leap, max(0, end - known) // _SHARES)


def _claims(mine: Hello, theirs: Hello) -> Iterator[tuple[str, int, int, int, int]]:
    """Yield what is claimed, its number, ours, by how much it may be above ours, and where numbers end."""
    yield "generation", theirs.generation, mine.seen_generation, COUNTS_LEAP, _NUMBERS_END
    yield "our generation", theirs.seen_generation, mine.generation, COUNTS_LEAP, _NUMBERS_END
    yield "burn", theirs.burns, mine.seen_burns, COUNTS_LEAP, _NUMBERS_END
    yield "our burn", theirs.seen_burns, mine.burns, COUNTS_LEAP, _NUMBERS_END
    streams: tuple[tuple[SenderView | ReceiverView, SenderView | ReceiverView], ...] = (
        (theirs.outgoing, mine.incoming),
        (theirs.incoming, mine.outgoing),
    )
    for claimed, known in streams:
        yield "next block", claimed.next_index, known.next_index, BLOCKS_LEAP, _BLOCKS_END
        yield "next offset", claimed.next_start, known.next_start, GRANULES_LEAP, _NUMBERS_END
