"""Burns against crashes, old copies of a disk and third KMEs: multicast copies of a burned pair are out of reach."""

from __future__ import annotations

from tests.keys.world import World


def test_an_old_copy_that_forgot_a_burn_burns_the_copies_that_came_back_with_it():
    """They are on the same disk; that of a third KME may claim one, and is told nothing of the burn."""
    world = World()
    world.heal()
    world.snapshot("a")
    world.burn("a")
    world.heal()
    assert world.ends["a"].copies_burned == 1
    world.restore("a", 0, zombie=False)
    world.heal()
    assert world.ends["a"].copies_burned == 2
    assert world.ends["b"].copies_burned == 1
