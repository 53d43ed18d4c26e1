"""The event loop of the simulation: time, death, ice, and a disk that forgets."""

from __future__ import annotations

import pytest

from shosoin.base import OwnerId
from shosoin.testing.simulation.disk import SimulatedDisk
from shosoin.testing.simulation.kernel import Cancelled, Kernel, Killed
from shosoin.vault.concurrency import collect, gather, succeeded
from shosoin.vault.ports import RegisterRow
from tests.adapters.store_support import content, key, row


async def nap(runtime, seconds, log, name):
    await runtime.sleep(seconds)
    log.append((name, runtime.now_s()))
    return name


def test_time_passes_only_when_nothing_can_run():
    kernel = Kernel(1)
    log: list = []
    process = kernel.process("p")
    for seconds in (3.0, 1.0, 2.0):
        process.start(nap(process.runtime, seconds, log, seconds))
    kernel.run(until_s=2.5)
    assert log == [(1.0, 1.0), (2.0, 2.0)]
    kernel.run(until_s=9.0)
    assert log[-1] == (3.0, 3.0)


def test_the_order_of_what_is_ready_follows_the_seed():
    def order(seed):
        kernel = Kernel(seed)
        log: list = []
        process = kernel.process("p")
        for name in range(6):
            process.start(nap(process.runtime, 0.0, log, name))
        kernel.run(until_s=1.0)
        return [name for name, _ in log]

    assert order(5) == order(5)
    assert len({tuple(order(seed)) for seed in range(20)}) > 10
    assert sorted(order(5)) == list(range(6))


def test_waiting_ends_with_the_first_with_all_or_with_the_time():
    kernel = Kernel(1)
    log: list = []
    process = kernel.process("p")

    async def main():
        runtime = process.runtime
        tasks = [runtime.start(nap(runtime, seconds, log, seconds)) for seconds in (1.0, 4.0)]
        await runtime.wait(tasks, timeout_s=None, first=True)
        assert (runtime.now_s(), [task.done() for task in tasks]) == (1.0, [True, False])
        await runtime.wait(tasks, timeout_s=0.5, first=False)
        assert runtime.now_s() == 1.5
        await runtime.wait(tasks, timeout_s=None, first=False)
        return runtime.now_s()

    task = process.start(main())
    kernel.run(until_s=10.0)
    assert task.result() == 4.0


def test_a_cancelled_task_cleans_up_and_a_killed_one_does_not():
    kernel = Kernel(1)
    log: list = []

    async def careful(runtime):
        try:
            await runtime.sleep(5.0)
        finally:
            await runtime.sleep(0.0)
            log.append("cleaned up")

    for end in ("cancel", "kill"):
        process = kernel.process(end)
        task = process.start(careful(process.runtime))
        kernel.run(until_s=kernel.now_s + 1.0)
        task.cancel() if end == "cancel" else process.kill()
        kernel.run(until_s=kernel.now_s + 10.0)
        with pytest.raises(Cancelled if end == "cancel" else Killed):
            task.result()
    assert log == ["cleaned up"]


def test_a_dead_process_reaches_nothing():
    kernel = Kernel(1)
    process = kernel.process("p")
    process.kill()
    for use in (process.runtime.now_s, process.runtime.wall_s, process.check):
        with pytest.raises(Killed):
            use()


def test_a_process_that_kills_itself_stops_at_its_next_port():
    kernel = Kernel(1)
    log: list = []
    process = kernel.process("p")

    async def suicide():
        process.kill()
        log.append("still here")
        await process.runtime.sleep(0.0)
        log.append("never")

    task = process.start(suicide())
    kernel.run(until_s=1.0)
    assert log == ["still here"]
    with pytest.raises(Killed):
        task.result()


def test_a_frozen_process_goes_on_where_it_was():
    kernel = Kernel(1)
    log: list = []
    process = kernel.process("p")
    process.start(nap(process.runtime, 1.0, log, "a"))
    kernel.run(until_s=0.5)
    process.freeze()
    kernel.at(20.0, process.thaw)
    kernel.run(until_s=10.0)
    assert log == []
    kernel.run(until_s=30.0)
    assert log == [("a", 20.0)]


def test_the_vaults_own_helpers_run_on_it():
    kernel = Kernel(3)
    log: list = []
    process = kernel.process("p")
    runtime = process.runtime

    async def main():
        assert await gather(runtime, [nap(runtime, 2.0, log, "x"), nap(runtime, 1.0, log, "y")]) == ["x", "y"]
        tasks = await collect(runtime, (nap(runtime, s, log, s) for s in (1.0, 2.0, 50.0)), enough=2, grace_s=0.5)
        return [succeeded(task) for task in tasks], runtime.now_s()

    task = process.start(main())
    kernel.run(until_s=100.0)
    assert task.result() == ([True, True, False], 4.5)


def disk_with_a_crash(number, phase):
    kernel = Kernel(1)
    disk, process = SimulatedDisk(3, latency_s=0.01), kernel.process("node")
    disk.mount(process)
    disk.crash_points[number] = phase

    def crash():
        process.kill()
        disk.crash()

    disk.on_crash = crash
    return kernel, disk, process


def put_register(disk, owner, value):
    return disk.transact(lambda tx: tx.put_register(owner, key().object_id, RegisterRow(committed_value=value)))


@pytest.mark.parametrize(("phase", "found"), [("before", {"a"}), ("during", {"a", "b"}), ("after", {"b"})])
def test_a_crash_at_a_transaction_keeps_all_or_nothing_of_it(phase, found):
    seen, owner = set(), OwnerId("o")
    for seed in range(12):
        kernel, disk, process = disk_with_a_crash(2, phase)
        disk._rng = type(disk._rng)(seed)

        async def two(disk=disk):
            await put_register(disk, owner, "a")
            await put_register(disk, owner, "b")

        task = process.start(two())
        kernel.run(until_s=1.0)
        with pytest.raises(Killed):
            task.result()
        seen.add(disk.committed(owner, key().object_id))
    assert seen == found


def test_a_snapshot_brings_old_records_back():
    kernel, owner = Kernel(1), OwnerId("o")
    disk, process = SimulatedDisk(1), kernel.process("node")
    disk.mount(process)
    assert not disk.set_back()

    async def work():
        await put_register(disk, owner, "a")
        disk.save()
        await put_register(disk, owner, "b")
        await disk.write(key(), 0, content(40))
        made = row(key(), 40, await disk.finish(key(), 40))
        await disk.transact(lambda tx: tx.put_share(made))

    process.start(work())
    kernel.run(until_s=1.0)
    assert len(disk.shares()) == 1
    assert disk.set_back()
    assert disk.committed(owner, key().object_id) == "a"
    assert disk.shares() == []
