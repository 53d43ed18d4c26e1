"""What may happen in a plan: one function for each kind of event.

Those of workers, operators and copies for several slaves are in modules of their own.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from shosoin.testing.key_simulation.disk import SimulatedDisk
from shosoin.testing.key_simulation.kinds import Group, Values, event
from shosoin.testing.key_simulation.network import Tamper
from shosoin.testing.key_simulation.process import EXPIRY_S, OTHER, SAES, KmeProcess
from shosoin.testing.key_simulation.world import BlockFate, Wish, World

if TYPE_CHECKING:
    from shosoin.testing.key_simulation.judge import DrawnKey

__all__ = ["fetch_later"]

_SIZES = ((1, 256), (1, 256), (2, 256), (3, 320), (1, 768), (1, 64), (16, 256), (4, 200))
"""Numbers and sizes in bits of what masters ask for."""
_SNAPSHOTS_MAX = 6


# What SAEs do


@event(40, Group.USE)
def draw(world: World, end: str, values: Values) -> None:
    """Let a master draw keys, and the slave fetch them as ``values`` say: soon, late, twice, in part, never."""
    process = world.server(end)
    if process is None:
        return
    master, slave = SAES[end][values[0] % 2], SAES[OTHER[end]][values[0] // 2 % 2]
    number, size_bits = _SIZES[values[1] % len(_SIZES)]
    world.draw(process, Wish(master, slave, number, size_bits), partial(fetch_later, world, values[2]))


@event(6, Group.USE)
def draw_local(world: World, end: str, values: Values) -> None:
    """Let a master draw keys for an SAE of its own KME."""
    process = world.server(end)
    if process is None:
        return
    master, slave = SAES[end] if values[0] % 2 else SAES[end][::-1]
    number, size_bits = _SIZES[values[1] % len(_SIZES)]
    world.draw(process, Wish(master, slave, number, size_bits), partial(fetch_later, world, values[2], process=process))


@event(6, Group.USE)
def greedy(world: World, end: str, values: Values) -> None:
    """Let masters of one end take all they can get from everybody, whatever the other end does."""
    master, slave = SAES[end][values[0] % 2], SAES[OTHER[end]][values[1] % 2]
    for process in world.ends[end].servers():
        for _ in range(4 + values[2] % 12):
            world.draw(process, Wish(master, slave, 1, 256), partial(fetch_later, world, values[2]))


@event(10, Group.USE)
def fetch_again(world: World, end: str, values: Values) -> None:
    """Let slaves of one end ask everybody for keys of any age, mostly had before."""
    keys = [key for key in world.judge.keys.values() if not key.local and key.end == OTHER[end]]
    for key in keys[values[0] % 97 :: 1 + len(keys) // 12]:
        for process in world.ends[end].servers():
            world.fetch(process, key.slave, key.master, [key.key_id])


@event(4, Group.USE)
def fetch_as_somebody_else(world: World, end: str, values: Values) -> None:
    """Let SAEs ask a KME for a key that is not theirs, and under wrong masters' names."""
    key = _some_key(world, values[0], local=values[2] % 4 == 0)
    process = world.ends[end].main
    if key is None or process is None:
        return
    for caller in SAES[end]:
        for master in {key.master: 1, key.slave: 1, SAES[OTHER[end]][values[1] % 2]: 1}:
            if (caller, master) != (key.slave, key.master):
                world.fetch(process, caller, master, [key.key_id])


@event(4, Group.USE)
def fetch_with_a_wrong_one(world: World, end: str, values: Values) -> None:
    """Let a request name a good key_ID beside a bad one, or one twice: nothing may come."""
    key = _some_key(world, values[0], end=OTHER[end])
    process = world.ends[end].main
    if key is None or process is None or key.fetched:
        return
    bad = [key.key_id.upper(), key.key_id[:-1] + ("0" if key.key_id[-1] != "0" else "1"), "no key_ID"][values[1] % 3]
    if world.fetch(process, key.slave, key.master, [key.key_id, bad]):
        world.trace.violate(f"{process.name}: a request with a wrong key_ID is served")


def _some_key(world: World, number: int, *, end: str = "", local: bool = False) -> DrawnKey | None:
    keys = [key for key in world.judge.keys.values() if key.local is local and end in {"", key.end}][-40:]
    return keys[number % len(keys)] if keys else None


def _fetch_from_main(world: World, end: str, key: DrawnKey) -> None:
    process = world.ends[end].main
    if process is not None:
        world.fetch(process, key.slave, key.master, [key.key_id])


def fetch_later(world: World, how: int, key_ids: list[str], *, process: KmeProcess | None = None) -> None:
    """Let the slave fetch: at once or late, in one request or several, from whoever answers; or never."""
    key = world.judge.keys[key_ids[0]]
    delay_s = (0.005, 0.01, 0.02, 0.05, 0.2, 1.0, 3.0, EXPIRY_S)[how % 8]
    if how // 8 % 8 == 0:
        return  # never

    def fetch(ids: list[str]) -> None:
        server = process or world.server(OTHER[key.end])
        if server is not None:
            world.fetch(server, key.slave, key.master, ids)

    times = 2 if how // 64 % 8 == 0 else 1
    for turn in range(times):
        portions = [key_ids] if how // 512 % 2 else [[key_id] for key_id in key_ids]
        for portion in portions:
            world.after(delay_s * (turn + 1), partial(fetch, portion))


# Processes


@event(6)
def crash(world: World, end: str, _: Values) -> None:
    """Let a process die now."""
    process = world.ends[end].main
    if process is not None:
        world.ended(process, "dies")


@event(10)
def crash_at_an_effect(world: World, end: str, values: Values) -> None:
    """Let a process die before one of its next effects."""
    process = world.ends[end].main
    if process is not None:
        process.doom = values[0] % 40


@event(10)
def crash_inside_a_commit(world: World, end: str, values: Values) -> None:
    """Let a process die between two steps of one of its next commits."""
    world.ends[end].disk.crash_after = values[0] % 16


@event(4)
def crash_both(world: World, end: str, values: Values) -> None:
    """Let both ends die at once."""
    for each in (end, OTHER[end]):
        crash(world, each, values)


@event(5)
def stop_cleanly(world: World, end: str, _: Values) -> None:
    """Tell a process to stop; slaves fetch up to the last moment, and ask for the same once it is back."""
    process = world.ends[end].main
    if process is None or not process.started:
        return
    process.stop()
    keys = [key for key in world.judge.keys.values() if not key.local and key.end == OTHER[end] and not key.fetched]
    for turn, key in enumerate(keys[-8:]):
        fetch = partial(_fetch_from_main, world, end, key)
        world.after(0.0004 * turn, fetch)
        for again_s in (0.3, 0.8, 1.5):
            world.after(again_s, fetch)


@event(3)
def freeze(world: World, end: str, values: Values) -> None:
    """Let a process stand still for a while."""
    process = world.ends[end].main
    if process is not None:
        process.frozen_until_s = world.now_s + 0.02 + values[0] % 1500 / 1000


@event(3)
def step_clock(world: World, end: str, values: Values) -> None:
    """Let a machine sleep, so that both its clocks jump forwards; or set its wall clock."""
    if values[0] % 2:
        world.clock_steps_s[end] += (0.5, 11.0, 100.0)[values[1] % 3]
    else:
        world.wall_steps_s[end] += (0.5, 11.0, 1e6, -0.5, -11.0, -1e6)[values[1] % 6]


# Wires


@event(8)
def break_connection(world: World, end: str, values: Values) -> None:
    """Break the connection; one side may notice much later."""
    process = world.ends[end].main
    if process is not None and process.latest is not None:
        process.latest.end(notice_s=1.5 if values[0] % 3 == 0 else 0.05)


@event(3)
def cut_off(world: World, end: str, values: Values) -> None:
    """Let nothing through for a while."""
    world.cut_until_s = world.now_s + 0.1 + values[0] % 2500 / 1000
    break_connection(world, end, values)


# Disks


@event(10)
def copy_disk(world: World, end: str, values: Values) -> None:
    """Take a copy of a disk as it is."""
    snapshots = world.ends[end].snapshots
    snapshots.append(world.ends[end].disk.copy())
    if len(snapshots) > _SNAPSHOTS_MAX:
        del snapshots[values[0] % _SNAPSHOTS_MAX]


@event(7)
def restore_disk(world: World, end: str, values: Values) -> None:
    """Put an end back to an old copy; the process may run on beside it."""
    snapshots = world.ends[end].snapshots
    if snapshots and world.may_restore(end):
        disk = snapshots[-1 - values[0] % len(snapshots)].copy()
        if values[2] % 3 == 0:
            disk.secret = world.ends[end].disk.secret  # that file lies elsewhere
        world.restore(end, disk, zombie=values[1] % 3 > 0)


@event(7)
def go_back_a_moment(world: World, end: str, values: Values) -> None:
    """Copy a disk and put it back soon after, while blocks are under way; the other end may die meanwhile."""
    disk = world.ends[end].disk.copy()
    delay_s = 0.002 + values[0] % 60 / 1000

    def restore() -> None:
        if world.may_restore(end):
            world.restore(end, disk, zombie=values[1] % 3 == 0)
            if values[1] % 5 == 0 and disk.blocks:
                disk.rot(max(disk.blocks), 0)

    if values[2] % 2:
        world.after(delay_s * (values[2] % 7) / 6, lambda: crash(world, OTHER[end], values))
    world.after(delay_s, restore)


@event(2)
def restore_files_of_two_moments(world: World, end: str, values: Values) -> None:
    """Put an end back to the journal of one copy beside block files of another."""
    snapshots = world.ends[end].snapshots
    if snapshots and world.may_restore(end):
        journal, files = (snapshots[-1 - value % len(snapshots)] for value in values[:2])
        mixed = journal.mixed_with(files, lambda name: (hash_of_name(name) ^ values[2]) % 3 > 0)
        world.restore(end, mixed, zombie=values[2] % 2 == 0)


@event(1)
def lose_disk(world: World, end: str, values: Values) -> None:
    """Let an end start from nothing but its pair secret."""
    if world.may_restore(end):
        world.restore(end, SimulatedDisk(world.ends[end].disk.secret), zombie=values[0] % 2 == 0)


@event(3)
def old_process_dials(world: World, end: str, values: Values) -> None:
    """Connect a process that was replaced by an old copy of its disk to the other end."""
    zombies, other = world.ends[end].zombies, world.ends[OTHER[end]].main
    if zombies and other is not None:
        world.connect(zombies[values[0] % len(zombies)], other)


@event(1)
def old_process_ends(world: World, end: str, values: Values) -> None:
    """Let a process die that was replaced."""
    zombies = world.ends[end].zombies
    if zombies:
        world.ended(zombies[values[0] % len(zombies)], "dies")


@event(3)
def rot(world: World, end: str, values: Values) -> None:
    """Let a granule of a stored block rot."""
    blocks = world.ends[end].disk.blocks
    if blocks:
        name = sorted(blocks)[values[0] % len(blocks)]
        world.ends[end].disk.rot(name, values[1] % max(1, len(blocks[name].content) // 32))


@event(1)
def lose_file(world: World, end: str, values: Values) -> None:
    """Remove a block file."""
    blocks = world.ends[end].disk.blocks
    if blocks:
        del blocks[sorted(blocks)[values[0] % len(blocks)]]


@event(2)
def fill_disk(world: World, end: str, values: Values) -> None:
    """Let one of the next commits fail half done."""
    world.ends[end].disk.full_after = values[0] % 12


# Links


@event(8)
def spoil_blocks(world: World, end: str, values: Values) -> None:
    """Let the next blocks of the link arrive at one end only, late, twice, with other bits, or under old numbers."""
    fates = list(BlockFate)
    world.fates[end].extend(fates[(values[0] + turn * values[1]) % len(fates)] for turn in range(1 + values[2] % 3))


@event(1)
def restart_device(world: World, end: str, _: Values) -> None:
    """Let the link count its blocks from zero again."""
    world.restart_numbers(end)


# Somebody who broke TLS


@event(12, Group.WIRE)
def tamper(world: World, end: str, values: Values) -> None:
    """Drop, repeat, swap or alter the next message."""
    world.wiretap.orders[end].append(list(Tamper)[values[0] % len(Tamper)])


@event(8, Group.WIRE)
def say_again(world: World, end: str, values: Values) -> None:
    """Send an old message to an end again."""
    process, history = world.ends[end].main, world.wiretap.history[end]
    if process is not None and process.latest is not None and history:
        process.latest.put(end, history[-1 - values[0] % len(history)])


def hash_of_name(name: str) -> int:
    """Return a number that follows from the name of a file."""
    return sum(map(ord, name))
