"""A peer drove the numbers of a stream up as far as it is believed, and is honest from then on: work goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shosoin.keys.blocks import dump_record, load_record
from shosoin.keys.claims import BLOCKS_LEAP, is_plausible_place
from shosoin.keys.messages import Announce
from tests.keys.world import World


def driven_to(world, what, number):
    """Have both ends' journals say what a lie, told often enough, leaves there."""
    for name, end in world.ends.items():
        end.crash()
        stream = "stream/in" if name == "b" else "stream/out"
        record = load_record(end.disk.records[stream])
        end.disk.records[stream] = dump_record(record | {what: number})


@pytest.mark.parametrize(("what", "end"), [("next_index", 10**12 - BLOCKS_LEAP), ("next_start", 1 << 62)])
def test_honest_blocks_go_on_where_lies_left_the_numbers(what, end):
    """Believed were lies up to here, and beyond it nothing, honest or not."""
    world = World()
    world.heal()
    driven_to(world, what, end)
    works_on(world)


@pytest.mark.parametrize("what", ["next_index", "next_start"])
def test_honest_blocks_go_on_after_a_thousand_lies(what):
    """Each as large as is believed, by announcements, of which a session has many."""
    world = World()
    world.heal()
    at = {"next_index": 0, "next_start": 0}
    field, end = {"next_index": ("index", 10**12), "next_start": ("start", 1 << 63)}[what]
    for _ in range(1000):
        message = Announce("", 0, at["next_index"], at["next_start"], 1, ())
        most = max(bit for bit in range(63) if believed(message, field, at[what] + (1 << bit), at))
        at[what] += 1 << most
    assert at[what] < end
    driven_to(world, what, at[what])
    works_on(world)


def believed(message, field, number, at):
    return is_plausible_place(replace(message, **{field: number}), at["next_index"], at["next_start"])


def works_on(world):
    """Blocks come, and both ends meet again, after a lost connection and after a restart of both."""
    world.heal()
    a, b = (world.ends[name] for name in "ab")
    for _ in range(3):
        world.produce("a", 4, arrives=True)
        world.settle()
    assert a.pair.outgoing.stock_granules() == 12
    world.disconnect()
    world.heal()
    a.crash()
    b.crash()
    world.heal()
    assert a.pair.is_open
    assert b.pair.is_open
    assert not [event for event in world.events if event.name == "keys.implausible_claim"]
