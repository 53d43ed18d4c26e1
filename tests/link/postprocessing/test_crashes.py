"""Every point at which an end can die: both ends agree afterwards, and nothing is used or told twice."""

from __future__ import annotations

import pytest

from tests.link.postprocessing.world import World


@pytest.fixture(scope="module")
def calm() -> World:
    """A run in which nobody dies."""
    return World().run().check()


def test_a_calm_run_takes_one_session_and_every_block_of_it_has_equal_keys(calm):
    assert calm.sessions == 1
    assert len(calm.keys[0]) == 3
    assert all(len(key) > 50 for key in calm.keys[0].values())


@pytest.mark.parametrize("end", [0, 1])
@pytest.mark.parametrize("is_durable", [False, True])
def test_whenever_an_end_dies_before_or_after_a_commit_both_agree_on_every_key(calm, end, is_durable):
    survived = set()
    for commit in range(calm.journals[end].commits):
        world = World()
        world.journals[end].crash_at = (commit, is_durable)
        world.run().check()
        assert world.sessions == 2
        survived.add(len(world.keys[0]))
    assert min(survived) < 3 == max(survived)  # a crash costs the blocks in flight, if there are any


def test_whenever_both_ends_lose_what_was_on_the_wire_they_agree_on_every_key(calm):
    tagged = [number for number, passed in enumerate(calm.wire) if passed.header.pad_position != (1 << 64) - 1]
    for number in tagged:
        world = World(kill_after=number)
        world.run().check()
        assert world.sessions == 2
