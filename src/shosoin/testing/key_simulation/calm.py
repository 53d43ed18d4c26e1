"""After the faults: everything runs, and what was promised for quiet times must come true within bounded time."""

from __future__ import annotations

from functools import partial

from shosoin.base import SaeId, ShosoinError
from shosoin.keys.errors import LeaseNeeded
from shosoin.keys.worker_stock import Draw
from shosoin.testing.key_simulation.operators import Order
from shosoin.testing.key_simulation.process import EXPIRY_S, OTHER, SAES, KmeProcess
from shosoin.testing.key_simulation.workers import workers_of
from shosoin.testing.key_simulation.world import Wish, World

__all__ = ["PROGRESS_S", "calm_down"]

PROGRESS_S = 30.0
"""Simulated seconds after the last fault within which keys must flow in both directions."""
_OVERWRITTEN_S = 1.0
"""Used bits leave the disks within this time."""
_STEP_S = 0.1
_LOST_MAX = 3
_DRAIN_STEPS = 600
_WORKER_DRAWS = 16


def calm_down(world: World, *, tls_was_broken: bool) -> None:
    """End all faults and hold both ends to their promises."""
    _end_faults(world, tls_was_broken=tls_was_broken)
    _finish_rekeying(world)
    for end in SAES:
        _keys_flow(world, end)
    for end in SAES:
        _copies_flow(world, end)
    _workers_serve(world)
    _workers_leave(world)
    world.producing = False
    _blocks_settle(world)
    _used_bits_are_overwritten(world)
    for end in SAES:
        _drain(world, end)
    _nothing_comes_again(world)
    _disks_are_clean(world)
    for process in (each for state in world.ends.values() for each in state.servers()):
        world.check_tallies(process)


def _end_faults(world: World, *, tls_was_broken: bool) -> None:
    world.quiet = True
    world.cut_until_s = 0.0
    for end in world.ends.values():
        world.fates[end.name].clear()
        world.request_fates[end.name].clear()
        world.wiretap.orders[end.name].clear()
        end.doom_at_start = None
        for process in end.servers():
            process.doom, process.frozen_until_s = None, 0.0
            process.disk.crash_after = process.disk.copies_crash_after = process.disk.full_after = None
        for zombie in end.zombies:
            if zombie.latest is not None:
                zombie.latest.end()
    main = world.ends["a"].main
    if tls_was_broken and main is not None and main.latest is not None:
        main.latest.end()  # what was dropped from a connection is said again on the next one


def _copies_flow(world: World, end: str) -> None:
    """Draw a key for several slaves at an end and have all of them fetch it, once."""
    began_s, master, slaves = world.now_s, SAES[end][0], (*SAES[OTHER[end]], SAES[end][1])
    while world.now_s < began_s + PROGRESS_S and not world.trace.violations:
        main = world.ends[end].main
        if main is not None and main.is_serving and main.pair.is_connected and main.pair.outgoing.pool_exhausted:
            return  # it may stay silent
        given: list[bool] = []
        if main is not None:
            main.copies.draw(Wish(master, slaves[0], 1, 256), slaves, partial(_fetch_copies, world, slaves, given))
        world.run_until(world.now_s + 1.0)
        if given == [True] * len(slaves) + [False] * len(slaves):
            world.trace.counts["multicast keys in calm"] += 1
            return
    world.trace.violate(f"no multicast key flows from {end} within {PROGRESS_S:g} s after the last fault")


def _fetch_copies(world: World, slaves: tuple[SaeId, ...], given: list[bool], key_ids: list[str]) -> None:
    master = world.judge.copies.keys[key_ids[0]].master
    for turn in range(2):
        for slave in slaves:
            main = world.ends["a" if slave in SAES["a"] else "b"].main
            if main is not None:
                world.after(0.3 * turn, partial(main.copies.fetch, slave, master, key_ids, then=given.append))


def _workers_serve(world: World) -> None:
    """Have both workers of each end draw key after key; over it one stands still for a while, then the other dies."""
    for end in SAES:
        main = world.ends[end].main
        for worker in workers_of(main) if main is not None and main.started else []:
            for turn in range(_WORKER_DRAWS):
                draw = Draw(SAES[end][0], SAES[OTHER[end]][0], 256, 1)
                world.after(turn * 0.02, partial(worker.draw, draw, lambda _: None))
    world.run_until(world.now_s + 0.15)
    workers = [state.main.workers for state in world.ends.values() if state.main is not None and state.main.workers]
    for each in workers:
        each[-1].freeze(1.2)
    world.run_until(world.now_s + 0.3)
    for each in workers:
        each[0].die()
    world.run_until(world.now_s + 1.2)


def _workers_leave(world: World) -> None:
    """Have all workers overwrite what they hold: the judge compares what their owners count then."""
    for process in (each for state in world.ends.values() for each in state.servers()):
        for worker in process.workers:
            worker.frozen_until_s = worker.stalled_until_s = 0.0
            if worker.alive:
                worker.give_up()
    world.run_until(world.now_s + 1.0)


def _finish_rekeying(world: World) -> None:
    """Let operators finish what they have begun; if that leaves the ends apart, both get a fresh secret."""
    began_s = world.now_s
    forgot_alike = all(
        end.disk.suspect for end in world.ends.values()
    )  # both had the same secret before, and went back
    if forgot_alike or not all(operator.is_in_step() for operator in world.operators.values()):
        world.make_secret()
    while not all(operator.is_in_step() for operator in world.operators.values()) or _any_awaits_rekey(world):
        for end in SAES:
            if not world.operators[end].is_in_step() or world.operators[end].awaits_rekey:
                world.operators[end].begin(Order.REKEY, (0, 0, 0), at_last=True)
        world.run_until(world.now_s + 0.5)
        if world.trace.violations:
            return
        if world.now_s > began_s + PROGRESS_S:
            world.trace.violate("the pair cannot be re-keyed")


def _any_awaits_rekey(world: World) -> bool:
    operators = world.operators.values()
    return any(operator.awaits_rekey for operator in operators) or any(
        end.in_maintenance for end in world.ends.values()
    )


def _keys_flow(world: World, end: str) -> None:
    """Draw a fresh key at an end and fetch it at the other."""
    began_s = world.now_s
    while world.now_s < began_s + PROGRESS_S and not world.trace.violations:
        sender, receiver = world.ends[end].main, world.ends[OTHER[end]].main
        if sender is not None and receiver is not None:
            if sender.is_serving and sender.pair.is_connected and sender.pair.outgoing.pool_exhausted:
                world.trace.counts["streams without verification keys"] += 1
                return
            if _flows(world, sender, receiver):
                taken_ms = int(1000 * (world.now_s - began_s))
                world.trace.counts["progress_ms_max"] = max(world.trace.counts["progress_ms_max"], taken_ms)
                return
        world.run_until(world.now_s + _STEP_S)
    world.trace.violate(f"no key flows from {end} within {PROGRESS_S:g} s after the last fault")


def _blocks_settle(world: World) -> None:
    """See every block under way confirmed or burned within bounded time."""
    began_s = world.now_s
    while world.now_s < began_s + PROGRESS_S and not world.trace.violations:
        world.run_until(world.now_s + 0.5)
        mains = [end.main for end in world.ends.values() if end.main is not None and end.main.pair.is_connected]
        sides = [process.pair.outgoing for process in mains]
        if len(sides) == 2 and all(side.left_granules() == side.stock_granules() for side in sides):
            return
    world.trace.violate(f"blocks are stranded {PROGRESS_S:g} s after the last fault")


def _flows(world: World, sender: KmeProcess, receiver: KmeProcess) -> bool:
    """Try one key; once the two ends have agreed, none that is drawn may be lost, unless it rotted."""
    channel, rotten = sender.channel, world.trace.counts["keys.damaged"]
    agreed = channel is not None and channel.is_up and channel is receiver.channel
    agreed = agreed and sender.pair.is_connected and receiver.pair.is_connected
    done = _exchange(world, sender, receiver)
    if done == -1 and agreed and world.trace.counts["keys.damaged"] == rotten:
        _lose(world, f"a fresh key of {sender.end} cannot be fetched")
    return done == 1


def _lose(world: World, what: str) -> None:
    """Judge a key that cannot be fetched: bits may just have grown too old at one end, whose clock is ahead."""
    world.trace.counts["keys lost in calm"] += 1
    if not any(world.max_ages_s.values()) or world.trace.counts["keys lost in calm"] > _LOST_MAX:
        world.trace.violate(what)


def _exchange(world: World, sender: KmeProcess, receiver: KmeProcess) -> int:
    """Draw one key and fetch it; return 1 if that went well, 0 if none was drawn, -1 if it could not be fetched."""
    master, slave = SAES[sender.end][0], SAES[receiver.end][0]
    wish = Wish(master, slave, 1, 256)
    try:
        delivery = sender.enc_keys(*wish)
    except LeaseNeeded as need:
        sender.ask_lease(need.granules)
        return 0
    except ShosoinError:
        return 0
    ids = world.judge.drawn(sender, wish, delivery)
    return 1 if _fetch_patiently(world, receiver, slave, master, ids) else -1


def _fetch_patiently(world: World, receiver: KmeProcess, slave: SaeId, master: SaeId, ids: list[str]) -> bool:
    for _ in range(20):
        before = world.trace.counts["dec_keys keys.quota_exceeded"]
        if world.fetch(receiver, slave, master, ids):
            return True
        if world.trace.counts["dec_keys keys.quota_exceeded"] == before:
            return False
        world.run_until(world.now_s + _STEP_S)
    return False


def _drain(world: World, end: str) -> None:
    """Draw all stock that a sender still offers, and fetch all that is drawn, unless it rotted."""
    for _ in range(_DRAIN_STEPS):
        sender, receiver = world.ends[end].main, world.ends[OTHER[end]].main
        if world.trace.violations or sender is None or receiver is None:
            return
        if not sender.pair.is_open or not sender.pair.outgoing.stock_granules():
            return
        rotten = world.trace.counts["keys.damaged"]
        done = _exchange(world, sender, receiver)
        if done == -1 and world.trace.counts["keys.damaged"] == rotten:
            _lose(world, f"stock of {end} can be drawn and not be fetched")
        if done == 1:
            world.trace.counts["keys drained"] += 1
        else:
            world.run_until(world.now_s + _STEP_S)
    world.trace.violate(f"the stock of {end} cannot be drawn")


def _nothing_comes_again(world: World) -> None:
    """Ask everybody once more for what was fetched; the judge hears what comes."""
    for key in [key for key in world.judge.keys.values() if key.fetched][-100:]:
        for process in world.ends[key.end if key.local else OTHER[key.end]].servers():
            world.fetch(process, key.slave, key.master, [key.key_id])


def _disks_are_clean(world: World) -> None:
    """See that no block is left once all is old, and before that no used bits."""
    for _ in range(2):  # first the receivers notice that blocks are handed out, then these grow old
        world.run_until(world.now_s + 1.5)
        _used_bits_are_overwritten(world)
        for end in SAES:
            world.clock_steps_s[end] += EXPIRY_S + 1.0
    world.run_until(world.now_s + 1.5)
    for state in world.ends.values():
        if state.disk.blocks and not world.trace.violations:
            world.trace.violate(f"{state.name} keeps blocks that nobody can have: {sorted(state.disk.blocks)}")


def _used_bits_are_overwritten(world: World) -> None:
    before_s = world.now_s - _OVERWRITTEN_S
    used = {
        "out": set(world.judge.used_granules(before_s, fetched=False)),
        "in": set(world.judge.used_granules(before_s, fetched=True)),
    }
    for end in world.ends.values():
        for name, block in end.disk.blocks.items():
            granules = (block.content[start : start + 32] for start in range(0, len(block.content), 32))
            if any(granule in used[name.partition("-")[0]] for granule in granules):
                world.trace.violate(f"{end.name} keeps bits of a used key in {name}")
