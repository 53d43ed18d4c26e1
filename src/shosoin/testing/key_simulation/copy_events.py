"""What SAEs ask for several slaves, and what goes wrong with copies."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from shosoin.base import SaeId
from shosoin.testing.key_simulation.disk import SimulatedDisk
from shosoin.testing.key_simulation.kinds import Group, Values, event
from shosoin.testing.key_simulation.operator_events import burn_pair
from shosoin.testing.key_simulation.process import OTHER, SAES
from shosoin.testing.key_simulation.world import Wish, World

__all__: list[str] = []

_BETWEEN = 1
"""After the first step of a burn, before the second."""


@event(14, Group.USE)
def draw_for_several(world: World, end: str, values: Values) -> None:
    """Let a master draw keys for several slaves, who fetch them soon, late, twice, or never."""
    process = world.server(end)
    if process is None:
        return
    master, own = SAES[end][values[0] % 2], SAES[end][1 - values[0] % 2]
    slaves = [(*SAES[OTHER[end]], own), SAES[OTHER[end]], (SAES[OTHER[end]][0], own)][values[0] // 2 % 3]
    number, size_bits = ((1, 256), (2, 64), (1, 320))[values[1] % 3]
    wish = Wish(master, slaves[0], number, size_bits)
    process.copies.draw(wish, slaves, partial(_fetch_copies_later, world, slaves, values[2]))


def _fetch_copies_later(world: World, slaves: Sequence[SaeId], how: int, key_ids: list[str]) -> None:
    for place, slave in enumerate(slaves):
        turn = how // (1 + 7 * place)
        delay_s = (0.002, 0.01, 0.05, 0.2, 1.0, 4.0)[turn % 6]
        for again in range(turn // 6 % 3):
            fetch = partial(_fetch_copies, world, [slave], key_ids, rest_fails=turn % 4 == again)
            world.after(delay_s * (again + 1), fetch)


def _fetch_copies(world: World, slaves: Sequence[SaeId], key_ids: list[str], *, rest_fails: bool = False) -> None:
    master = world.judge.copies.keys[key_ids[0]].master
    for slave in slaves:
        server = world.server("a" if slave in SAES["a"] else "b")
        if server is not None:
            server.copies.fetch(slave, master, key_ids, rest_fails=rest_fails)


def _draw_and_fetch(world: World, end: str, fetches: Sequence[tuple[float, bool]]) -> None:
    """Let slaves of the other end fetch a key at each of some times, or try together with another that is not there."""
    main, slaves = world.ends[end].main, SAES[OTHER[end]]

    def later(key_ids: list[str]) -> None:
        for at_s, rest_fails in fetches:
            world.after(at_s, partial(_fetch_copies, world, slaves, key_ids, rest_fails=rest_fails))

    if main is not None:
        main.copies.draw(Wish(SAES[end][0], slaves[0], 1, 256), slaves, later)


def _draw_for_both_ends(world: World, end: str, fetches_s: Sequence[float]) -> None:
    """Draw a key for a slave of the other end, who never fetches it, and one of this end, who does at some times."""
    main, (master, own) = world.ends[end].main, SAES[end]

    def later(key_ids: list[str]) -> None:
        for at_s in fetches_s:
            world.after(at_s, partial(_fetch_copies, world, [own], key_ids))

    if main is not None:
        main.copies.draw(Wish(master, own, 1, 256), (SAES[OTHER[end]][0], own), later)


@event(4)
def go_back_over_copies(world: World, end: str, values: Values) -> None:
    """Put an end back to a copy of its disk from before slaves fetched a key, as master's end or slaves' end."""
    copied: list[SimulatedDisk] = []

    def restore() -> None:
        if copied and world.may_restore(end):
            world.restore(end, copied[0], zombie=values[1] % 3 == 0)

    _draw_and_fetch(world, "ab"[values[2] % 2], [(0.15, False), (0.9, False), (1.6, False)])
    world.after(0.1 + values[0] % 50 / 1000, lambda: copied.append(world.ends[end].disk.copy()))
    world.after(0.25 + values[0] % 7 / 20, restore)


@event(2)
def burn_over_claims(world: World, end: str, values: Values) -> None:
    """Burn the pair at the master's end while slaves have claimed their copies and cannot have them yet.

    Mostly the operator's machine fails between the journal and the copies, and the KME starts over that, once
    or, since it dies over it, twice.
    """
    _draw_and_fetch(world, end, [(0.05, True), (0.5, False), (0.7, False), (0.9, False), (1.2, False), (1.6, False)])
    _draw_for_both_ends(world, OTHER[end], [1.2, 2.0, 2.8])

    def burn() -> None:
        if values[2] % 4:
            world.ends[end].doom_at_start = (None, None, 0, 1)[values[1] % 4]
            burn_pair(world, end, (0, _BETWEEN, 0))
        else:
            burn_pair(world, end, values)

    world.after(0.15 + values[0] % 20 / 100, burn)


@event(5, Group.USE)
def fetch_copies_again(world: World, end: str, values: Values) -> None:
    """Let the slaves of one end ask everybody for copies that they had before, or never."""
    known = list(world.judge.copies.keys.items())
    for key_id, key in known[values[0] % 7 :: 1 + len(known) // 12]:
        for process in world.ends[end].servers():
            process.copies.fetch(SAES[end][values[1] % 2], key.master, [key_id])


@event(5)
def crash_over_copies(world: World, end: str, values: Values) -> None:
    """Let a process die before or after one of its next changes of the table of copies."""
    world.ends[end].disk.copies_crash_after = values[0] % 7
    for each in SAES:
        draw_for_several(world, each, values)


@event(5)
def spoil_requests(world: World, end: str, values: Values) -> None:
    """Let the next question of an end about copies, or its answer, get lost, or arrive twice."""
    world.request_fates[end].extend([(0,), (1, 0), (2,), (1, 2), (1, 1, 1, 0)][values[0] % 5])
