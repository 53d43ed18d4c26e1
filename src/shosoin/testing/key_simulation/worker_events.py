"""What SAEs ask of workers, and what happens to workers."""

from __future__ import annotations

from functools import partial

from shosoin.keys.worker_stock import Draw
from shosoin.testing.key_simulation.events import fetch_later
from shosoin.testing.key_simulation.kinds import Group, Values, event
from shosoin.testing.key_simulation.process import OTHER, SAES
from shosoin.testing.key_simulation.workers import Worker
from shosoin.testing.key_simulation.world import World

__all__: list[str] = []


@event(12, Group.USE)
def draw_by_worker(world: World, end: str, values: Values) -> None:
    """Let a master ask a worker for key after key, so that it draws ahead of demand."""
    worker = world.worker(end)
    if worker is not None:
        _draw_in_a_row(world, worker, end, values)


def _draw_in_a_row(world: World, worker: Worker, end: str, values: Values) -> None:
    master, slave = SAES[end][values[0] % 2], SAES[OTHER[end]][values[0] // 2 % 2]
    size_bits, number = (256, 256, 64, 768)[values[1] % 4], 1 + values[1] // 4 % 2
    pause_s = (0.002, 0.01, 0.04, 0.2)[values[2] % 4]
    for turn in range(6 + values[1] // 8 % 12):
        draw = partial(worker.draw, Draw(master, slave, size_bits, number), partial(fetch_later, world, values[2]))
        world.after(turn * pause_s, draw)


@event(3)
def kill_worker(world: World, end: str, _: Values) -> None:
    """Let a worker die with what it holds."""
    worker = world.worker(end)
    if worker is not None:
        worker.die()


@event(2)
def freeze_worker(world: World, end: str, values: Values) -> None:
    """Let a worker stand still in the middle of a row of requests, and go on with what it holds."""
    worker = world.worker(end)
    if worker is not None:
        _draw_in_a_row(world, worker, end, values)
        world.after(values[1] % 97 / 400, partial(worker.freeze, 0.05 + values[0] % 2500 / 1000))


@event(2)
def stall_line(world: World, end: str, values: Values) -> None:
    """Let nothing pass between a worker and its owner for a while: answers come when nobody waits for them."""
    worker = world.worker(end)
    if worker is not None:
        worker.stalled_until_s = world.now_s + 0.05 + values[0] % 900 / 1000
