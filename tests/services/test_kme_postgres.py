"""Two KMEs that keep their streams in a real PostgreSQL server: both may be killed, and the database may go."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack

import pytest

from shosoin.base import Unavailable
from shosoin.services.kme_config import load_kme_config
from tests.services.test_kme_processes import (
    DIRECTIONS,
    Ledger,
    draw_for_ever,
    fetch_everything_again,
    fetch_for_ever,
    open_clients,
    restored_copies_named_by,
    works,
)
from tests.support.kme import KmePair, ServerProcess, until
from tests.support.postgres import running_postgres

pytestmark = pytest.mark.processes


@pytest.fixture
def server():
    with running_postgres() as running:
        yield running


def pair_on(tmp_path, server, **options):
    store = f'kind = "postgresql"\ndsn = "{server.dsn}"\nschema = "streams"\nhold_s = 5.0'
    return KmePair(tmp_path, stock_bits=1 << 20, speedup=20.0, limits={"lease_bytes": 8192}, store=store, **options)


@pytest.mark.slow
async def test_keys_flow_again_after_either_is_killed_and_none_is_used_twice(tmp_path, server):
    pair = pair_on(tmp_path, server, workers=2)
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    ledger, randomness = Ledger(), random.Random(3)
    async with AsyncExitStack() as stack:
        for each in servers.values():
            stack.push_async_callback(each.kill)
            await each.start()
        clients = await open_clients(stack, pair)
        await works(clients, ledger)
        load = [
            *(asyncio.create_task(draw_for_ever(clients, ledger, randomness, *each)) for each in DIRECTIONS),
            *(asyncio.create_task(fetch_for_ever(clients, ledger, randomness)) for _ in range(2)),
        ]
        for victims in (["kme-a"], ["database"], ["kme-b", "database"]):
            drawn = len(ledger.drawn) + randomness.randrange(1, 40)
            await until(lambda: any(task.done() for task in load) or len(ledger.drawn) >= drawn, timeout_s=60)  # noqa: B023
            if "database" in victims:
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            for victim in set(victims) & set(servers):
                await servers[victim].kill()
                await servers[victim].start()
        for task in load:
            task.cancel()
        for result in await asyncio.gather(*load, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result
        await works(clients, ledger)
        await fetch_everything_again(clients, ledger)
        assert len(ledger.fetched) > 20
        assert not list(tmp_path.glob("kme-*/state/links")), "nothing lies in files"


@pytest.mark.slow
async def test_without_the_database_nothing_is_served_and_with_it_again(tmp_path, server):
    pair = pair_on(tmp_path, server)
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        clients = await open_clients(stack, pair)
        await asyncio.to_thread(server.kill)
        processes = await stack.enter_async_context(pair.running())  # they start without it
        states = [lambda each=each: next(iter(each.link_states().values())) for each in processes.values()]
        assert all(state()["refused"] for state in states)
        await asyncio.to_thread(server.start)
        await works(clients, ledger)
        await asyncio.to_thread(server.kill)
        await until(lambda: all(state()["refused"] for state in states))
        for master, slave in DIRECTIONS:
            with pytest.raises(Unavailable):
                await clients[master].enc_keys(slave, number=1, size_bits=256)
            with pytest.raises(Unavailable):
                await clients[slave].dec_keys(master, [next(iter(ledger.drawn))])
        await asyncio.to_thread(server.start)
        await works(clients, ledger)
        await fetch_everything_again(clients, ledger)


async def test_a_failover_to_an_old_copy_is_named_burned_at_both_ends_and_reuses_nothing(tmp_path, server):
    pair = pair_on(tmp_path, server)
    there = pair.config("kme-b")  # whose own streams are in files: two ends that forget the same could not know
    there.write_text(there.read_text().split("[kme.store]")[0] + "[limits]" + there.read_text().split("[limits]")[1])
    servers = {name: ServerProcess(pair.config(name)) for name in ("kme-a", "kme-b")}
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        for each in servers.values():
            stack.push_async_callback(each.kill)
            await each.start()
        clients = await open_clients(stack, pair)
        await works(clients, ledger)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.copy, "standby")
        await asyncio.to_thread(server.start)
        for _ in range(3):
            await works(clients, ledger)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.put_back, "standby")
        await asyncio.to_thread(server.start)
        for _ in range(3):
            await works(clients, ledger)
        assert restored_copies_named_by(pair, "kme-a") == restored_copies_named_by(pair, "kme-b") == {"kme-a"}
        await fetch_everything_again(clients, ledger)


async def test_a_second_machine_with_the_same_pair_waits_or_is_refused(tmp_path, server):
    pair = pair_on(tmp_path, server)
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        clients = await open_clients(stack, pair)
        await stack.enter_async_context(pair.running())
        await works(clients, ledger)
        config = pair.config("kme-a")
        changes = {f"port = {pair.sae_port['kme-a']}": "port = 0", f"port = {pair.peer_port['kme-a']}": "port = 0"}
        changes |= {'directory = "state"': 'directory = "other"', "hold_s = 5.0": "hold_s = 5.0\nwait_s = 0.0"}
        text = config.read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        config.with_name("other.toml").write_text(text)
        second = ServerProcess(config.with_name("other.toml"), state="other")
        stack.push_async_callback(second.kill)
        await second.start()
        link = json.loads((config.parent / "other" / "links.json").read_text())["kme-b"]
        assert link["refused"]
        assert "in use by process" in (config.parent / "log").read_text()
        await works(clients, ledger)


def test_the_database_password_is_in_no_error(tmp_path, server):
    pair = pair_on(tmp_path, server)
    text = pair.config("kme-a").read_text()
    secret = tmp_path / "kme-a" / "dsn"
    secret.write_text("password=open-sesame host")
    secret.chmod(0o600)
    config = tmp_path / "kme-a" / "other.toml"
    config.write_text(text.replace(f'dsn = "{server.dsn}"', 'dsn_file = "dsn"'))
    with pytest.raises(Exception, match=r"\[kme.store\] the connection string") as caught:
        load_kme_config(config)
    assert "sesame" not in str(caught.value)
