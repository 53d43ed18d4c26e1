"""KMEs whose SAEs talk to worker processes: the same answers, and whoever is killed, no bit is used twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
from collections import Counter
from contextlib import AsyncExitStack, suppress
from typing import Any

import psutil
import pytest

from shosoin.base import Denied, Rejected, Unavailable
from shosoin.conform import Outcome, chosen, run_checks
from shosoin.keys.tally import Burned
from shosoin.services.kme_config import load_kme_config
from tests.conform.test_conform import session_of
from tests.services.test_kme_processes import (
    DIRECTIONS,
    Ledger,
    draw_for_ever,
    fetch_everything_again,
    fetch_for_ever,
    open_clients,
    works,
)
from tests.support.admin import Administration
from tests.support.kme import KmePair, ServerProcess, until, until_stock
from tests.support.operations import Scraper, with_operations

pytestmark = pytest.mark.processes
PROGRAM = "shosoin.services.worker_process"


def pair_with_workers(tmp_path, **options):
    options = {"stock_bits": 1 << 21, "speedup": 20.0, "workers": 2, **options}
    return KmePair(tmp_path, **options)


def workers_of(server: Any) -> list[psutil.Process]:
    """Return the workers that a KME has, whatever it says of them."""
    return [each for each in psutil.Process(server.process.pid).children() if PROGRAM in command_of(each)]


def command_of(process):
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
        return process.cmdline()
    return []


async def gone(processes):
    await until(lambda: not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes))


async def test_a_kme_with_workers_passes_the_conformance_kit(tmp_path):
    pair = pair_with_workers(tmp_path, limits={"max_key_size_bits": 4096})
    async with session_of(pair) as session:
        report = await asyncio.to_thread(run_checks, session, chosen(()))
    failed = {found.check.name: found.seen for found in report.findings if found.outcome is not Outcome.PASSED}
    assert list(failed) == ["transport.cuts_slow_clients_off"], failed  # which only --slow runs


WRONG = [
    ({"number": 0}, "number shall be 1 to"),
    ({"number": 129, "size": 8}, "number shall be 1 to"),
    ({"number": 1, "size": 12}, "multiple of 8"),
    ({"number": 1, "size": 99999999}, "size shall be"),
    ({"number": True}, "number shall be an integer"),
    ({"size": "256"}, "size shall be an integer"),
]
"""Short requests, which a worker looks at itself: what is wrong is told as by the owner."""


async def test_both_workers_serve_and_are_counted_as_one(tmp_path):
    pair = pair_with_workers(tmp_path)
    with_operations(pair)
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(pair.running())
        scraper = await stack.enter_async_context(Scraper(processes["kme-a"]))
        clients = [await stack.enter_async_context(pair.client("sae-a1")) for _ in range(12)]
        slave = await stack.enter_async_context(pair.client("sae-b1"))
        await until_stock(clients[0], "sae-b1", 64)
        drawn = [key for client in clients for key in await client.enc_keys("sae-b1", number=2, size_bits=512)]
        fetched = await slave.dec_keys("sae-a1", [key.key_id for key in drawn])
        assert [key.material for key in fetched] == [key.material for key in drawn]
        with pytest.raises(Rejected, match="not found"):
            await slave.dec_keys("sae-a1", [drawn[0].key_id])
        with pytest.raises(Denied):
            await (await stack.enter_async_context(pair.client("sae-b2"))).dec_keys("sae-a1", [drawn[0].key_id])
        for body, message in WRONG:
            with pytest.raises(Rejected, match=message):
                await clients[0]._call("POST", "sae-b1", "enc_keys", body, 1 << 20)
        pool = processes["kme-a"].workers
        ends = [psutil.Process(pid).net_connections("tcp") for pid in pool.pids]
        serving = [sum(each.status == psutil.CONN_ESTABLISHED for each in connections) for connections in ends]
        await until(lambda: pool.counts.connections == 12 and pool.tally.latencies["enc_keys", 200].counts)
        await until(lambda: sum(pool.tally.latencies["enc_keys", 200].counts) == 12)
        samples = await scraper.samples()
        assert samples.value("request_seconds_count", method="enc_keys", status="200") == 12
        assert samples.value("sae_keys_total", master="sae-a1", slave="sae-b1") == 24
        assert samples.value("connections", interface="etsi014") == 12
        assert samples.value("workers") == samples.value("workers_configured") == 2
        assert samples.value("memory_held_bytes", interface="etsi014", budget="answers") == 0
    assert sum(serving) == 12, serving


def adds_up(tally):
    """Whether every bit that came in was used, burned, or is left; delivered keys here take a granule each."""
    return tally.used_granules == tally.delivered.keys


async def test_keys_drawn_ahead_of_demand_come_out_once_and_the_rest_counts_as_burned(tmp_path):
    pair = pair_with_workers(tmp_path, stock_bits=1 << 24)
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(pair.running())
        pool, kme = processes["kme-a"].workers, processes["kme-a"].kme
        master, slave = [await stack.enter_async_context(pair.client(name)) for name in ("sae-a1", "sae-b1")]
        await until_stock(master, "sae-b1", 1 << 14)
        asked = spy_on(pool)
        drawn = [(await master.enc_keys("sae-b1", number=1, size_bits=256))[0] for _ in range(300)]
        assert asked["DRAW"] < 60, "most were served from what the worker had"
        for start in range(0, 300, 100):
            some = drawn[start : start + 100]
            fetched = await slave.dec_keys("sae-a1", [key.key_id for key in some])
            assert [key.material for key in fetched] == [key.material for key in some]
        asked.clear()
        for _ in range(10):
            await master.enc_keys("sae-a2", number=1, size_bits=256)
        assert asked["DRAW"] == 10, "keys within a KME wait for their slaves in memory: none is drawn ahead"
        tally = processes["kme-a"].links.pairs["kme-b"].outgoing.tally
        await until(lambda: tally.delivered.keys == 300 and adds_up(tally))
        assert kme.drawn["sae-a1", "sae-b1"].keys == 300
        assert tally.burned_granules[Burned.UNUSED] > 0


def spy_on(pool):
    """Count the frames that workers send from now on."""
    seen: Counter[str] = Counter()
    take = pool._take

    def counted(worker, kind, number, payload):
        seen[kind.name] += 1
        take(worker, kind, number, payload)

    pool._take = counted
    return seen


async def test_what_a_killed_worker_held_is_burned_and_never_seen_again(tmp_path):
    pair = pair_with_workers(tmp_path, stock_bits=1 << 24)
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(pair.running())
        pool, ledger = processes["kme-a"].workers, Ledger()
        tally = None
        for _ in range(2):
            async with pair.client("sae-a1") as master:
                await until_stock(master, "sae-b1", 1 << 14)
                for _ in range(40):
                    ledger.draw("sae-a1", "sae-b1", await master.enc_keys("sae-b1", number=1, size_bits=256))
            held = {pid: dict(worker.grants._held) for pid, worker in pool._workers.items()}
            assert any(held.values())
            for pid in pool.pids:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: len(pool.pids) == 2 and not any(w.grants._held for w in pool._workers.values()))
            tally = processes["kme-a"].links.pairs["kme-b"].outgoing.tally
            assert adds_up(tally)
        assert tally is not None
        assert tally.burned_granules[Burned.UNUSED] > 0
        assert pool.restarts == 4


async def test_a_quota_is_one_whichever_worker_is_asked(tmp_path):
    pair = pair_with_workers(tmp_path, limits={"sae_bits_per_s": 1e-3, "sae_burst_bits": 2560.0})
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(pair.running())
        clients = [await stack.enter_async_context(pair.client("sae-a1")) for _ in range(12)]
        await until_stock(clients[0], "sae-b1", 64)
        asked, granted = spy_on(processes["kme-a"].workers), 0
        for client in clients * 2:
            with suppress(Unavailable):
                granted += len(await client.enc_keys("sae-b1", number=1, size_bits=256))
        assert granted == 10
        assert asked["DRAW"] == 0, "nothing is drawn ahead of demand where each bit is somebody's share"


async def test_who_leaves_and_who_does_not_read_gives_the_memory_back(tmp_path):
    pair = pair_with_workers(
        tmp_path, stock_bits=1 << 24, limits={"max_answers_bytes": 1 << 22, "max_request_bytes": 1 << 20}
    )
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(pair.running())
        client = await stack.enter_async_context(pair.client("sae-a1", timeout_s=20))
        await until_stock(client, "sae-b1", 1 << 15)
        pool = processes["kme-a"].workers
        tasks = [asyncio.create_task(client.enc_keys("sae-b1", number=8, size_bits=1 << 19)) for _ in range(6)]
        held = pool.memory["answers"]
        while not held.held_bytes and not any(task.done() for task in tasks):
            await asyncio.sleep(0)
        assert [task.cancel() for task in tasks[::2]] != [False, False, False]
        await asyncio.gather(*tasks, return_exceptions=True)
        await until(lambda: pool.memory["answers"].held_bytes == 0)
        assert await client.enc_keys("sae-b1", number=8, size_bits=1 << 19)


async def test_a_worker_that_dies_is_replaced_and_a_stopped_kme_leaves_none(tmp_path):
    pair = pair_with_workers(tmp_path)
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        for server in servers.values():
            stack.push_async_callback(server.kill)
            await server.start()
        clients = await open_clients(stack, pair)
        await works(clients, ledger)
        first = workers_of(servers["kme-a"])
        assert len(first) == 2
        first[0].kill()
        await until(lambda: len(workers_of(servers["kme-a"])) == 2 and not first[0].is_running())
        await works(await open_clients(stack, pair), ledger)
        log = (pair.config("kme-a").parent / "log").read_text()
        assert '"worker.ended"' in log
        seen = [*first, *workers_of(servers["kme-a"])]
        process: Any = servers["kme-a"].process
        await servers["kme-a"].stop()
        assert process.returncode == 0
        await gone(seen)


async def test_workers_end_with_their_owner_even_those_that_sleep_and_not_before(tmp_path):
    pair = pair_with_workers(tmp_path)
    server = ServerProcess(pair.config("kme-a"))
    try:
        await server.start()
        workers = workers_of(server)
        ready = json.loads((pair.directory("kme-a") / "ready").read_text())
        assert sorted(ready["worker_pids"]) == sorted(each.pid for each in workers)
        workers[0].send_signal(signal.SIGSTOP)
        await server.kill()
        await gone(workers)
        await server.start()  # nobody holds the port
        process: Any = server.process
        workers = workers_of(server)
        for each in workers:  # as whoever ends a whole group of processes does
            each.send_signal(signal.SIGTERM)
            each.send_signal(signal.SIGINT)
        await server.stop()
        assert process.returncode == 0
        await gone(workers)
        assert '"worker.ended"' not in (pair.config("kme-a").parent / "log").read_text()
    finally:
        await server.kill()


@pytest.mark.slow
async def test_kill_9_of_workers_and_owners_under_load_reuses_nothing(tmp_path):
    pair = pair_with_workers(tmp_path, stock_bits=1 << 23, limits={"lease_bytes": 8192}, workers_at_b=2)
    randomness = random.Random(7)
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        for server in servers.values():
            stack.push_async_callback(server.kill)
            await server.start()
        clients = await open_clients(stack, pair)
        await works(clients, ledger)
        load = [
            *(asyncio.create_task(draw_for_ever(clients, ledger, randomness, *each)) for each in DIRECTIONS * 2),
            *(asyncio.create_task(fetch_for_ever(clients, ledger, randomness)) for _ in range(4)),
        ]
        for fault in ["worker", "both", "pause", "owner", "all workers"]:
            drawn = len(ledger.drawn) + randomness.randrange(1, 60)
            await until(lambda: any(task.done() for task in load) or len(ledger.drawn) >= drawn, timeout_s=60)  # noqa: B023
            await strike(servers, fault, randomness)
        for task in load:
            task.cancel()
        for result in await asyncio.gather(*load, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result
        await works(await open_clients(stack, pair), ledger)
        await fetch_everything_again(clients, ledger)
        assert len(ledger.fetched) > 50


async def strike(servers, fault, randomness):
    victim = servers[randomness.choice(["kme-a", "kme-b"])]
    workers = workers_of(victim)
    if fault in {"worker", "both"}:
        randomness.choice(workers).kill()
    if fault == "all workers":
        for worker in workers:
            worker.kill()
    if fault == "pause":
        os.kill(workers[0].pid, signal.SIGSTOP)
        await asyncio.sleep(0.3)
        os.kill(workers[0].pid, signal.SIGCONT)
    if fault in {"owner", "both"}:
        await victim.kill()
        await victim.start()


async def test_the_number_of_workers_is_bounded_and_so_are_their_bodies(tmp_path):
    pair = pair_with_workers(tmp_path)
    config = pair.config("kme-a")
    text = config.read_text()
    for change, message in (("workers = 65", "at most 64"), ("workers = 2\nworkerz = 1", "did you mean 'workers'")):
        config.write_text(text.replace("workers = 2", change))
        with pytest.raises(Rejected, match=message):
            load_kme_config(config)
    config.write_text(text.replace("[limits]", "[limits]\nmax_bodies_bytes = 200000"))
    with pytest.raises(Rejected, match="for each worker"):
        load_kme_config(config)


# What operators see


async def test_administrators_and_metrics_see_what_workers_do_also_after_one_died(tmp_path):
    pair = pair_with_workers(tmp_path)
    with_operations(pair, "kme-a")
    admin = Administration(pair)
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(pair.running("kme-a"))
        scraper = await stack.enter_async_context(Scraper(processes["kme-a"]))
        pool = processes["kme-a"].workers
        clients = [await stack.enter_async_context(pair.client("sae-a1")) for _ in range(5)]
        clients += [await stack.enter_async_context(pair.client("sae-a2")) for _ in range(3)]
        for client in clients:
            await client.enc_keys("sae-a2", number=1, size_bits=256)
        with pytest.raises(Rejected):
            await clients[0].dec_keys("sae-a1", ["00000000-0000-4000-8000-000000000000"])
        await until(lambda: pool.counts.callers == {"sae-a1": 5, "sae-a2": 3} and answered(pool) == 9)
        saes = (await admin.ask("vic", "GET", "/v1/saes"))[1]["saes"]
        assert {name: each["connections"] for name, each in saes.items()} == {
            "sae-a1": 5, "sae-a2": 3, "sae-b1": 0, "sae-b2": 0
        }  # fmt: skip
        await check_interfaces(admin, scraper, connections=8, restarts=0)
        victim = max(pool.counts_by_pid(), key=lambda pid: pool.counts_by_pid()[pid].connections)
        left = 8 - pool.counts_by_pid()[victim].connections
        os.kill(victim, signal.SIGKILL)
        await until(lambda: pool.restarts == 1 and len(pool.pids) == 2)
        await check_interfaces(admin, scraper, connections=left, restarts=1)


def answered(pool):
    return pool.tally.latencies["enc_keys", 200].count + pool.tally.latencies["dec_keys", 400].count


async def check_interfaces(admin, scraper, *, connections, restarts):
    answer = (await admin.ask("vic", "GET", "/v1/interfaces"))[1]
    told, workers = answer["interfaces"]["etsi014"], answer["workers"]
    assert told["connections"] == connections
    assert {name: each["answers"] for name, each in told["requests"].items()} == {
        "enc_keys": {"200": 8},
        "dec_keys": {"400": 1},
    }
    assert told["requests"]["enc_keys"]["mean_ms"] > 0
    assert told["refusals"] == {"keys.not_found": 1}
    assert set(told["memory"]) == {"bodies", "answers"}
    assert (workers["configured"], workers["serving"], workers["restarts"]) == (2, 2, restarts)
    assert sum(each["connections"] for each in workers["each"]) == connections
    samples = await scraper.samples()
    assert samples.value("connections", interface="etsi014") == connections
    assert samples.value("worker_connections") == connections
    assert samples.value("request_seconds_count", interface="etsi014") == 9
    assert samples.value("refusals_total", code="keys.not_found") == 1
    assert samples.value("memory_limit_bytes", interface="etsi014", budget="bodies") == 16 << 20


async def test_a_revoked_sae_loses_its_connections_with_workers_and_is_counted(tmp_path):
    pair = pair_with_workers(tmp_path)
    with_operations(pair, "kme-a")
    admin = Administration(pair)
    async with pair.running("kme-a") as processes, Scraper(processes["kme-a"]) as scraper:
        pool = processes["kme-a"].workers
        async with pair.client("sae-a1") as client:
            await client.status("sae-a2")
            await until(lambda: pool.counts.callers == {"sae-a1": 1})
            status, answer = await admin.ask("sec", "POST", "/v1/saes/sae-a1/revoke", {})
            assert (status, answer["connections_ended"]) == (200, 1)
            await until(lambda: pool.counts.cut == 1 and not pool.counts.callers)
            samples = await scraper.samples()
            assert samples.value("revoked_connections_total", endpoint="sae_api", result="cut") == 1
