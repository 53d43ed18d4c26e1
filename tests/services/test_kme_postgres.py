"""Two KMEs that keep their streams in a real PostgreSQL server: both may be killed, and the database may go."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack, closing

import psycopg
import pytest

from shosoin.base import Rejected, Unavailable
from shosoin.keys.errors import StreamRefused
from shosoin.services.kme_config import load_kme_config
from shosoin.services.kme_pairs import burn, make_secret, rekey
from shosoin.services.kme_rotation import Rotation
from shosoin.services.kme_stores import discard_store, open_store, stored_peers
from shosoin.services.storage_key import storage_key
from shosoin.services.storage_key_config import FileSection
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
from tests.support.kme import KmePair, ServerProcess, until, until_stock
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
        for kme in ("kme-a", "kme-b"):  # whether there is state to which a missing key belongs, only the database knows
            storage_key(load_kme_config(pair.config(kme)))
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
    with pytest.raises(Rejected, match=r"\[kme.store\] the connection string") as caught:
        load_kme_config(config)
    assert "sesame" not in str(caught.value)


async def test_another_storage_key_a_burn_and_another_secret_reach_the_database(tmp_path, server):
    pair = pair_on(tmp_path, server)
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 8)
        drawn = [key.key_id for key in await a.enc_keys("sae-b1", number=3, size_bits=256)]
    config = load_kme_config(pair.config("kme-b"))
    assert stored_peers(config) == ["kme-a"]
    old_key = storage_key(config)
    sealed = FileSection("file", tmp_path / "kme-b" / "kek")
    with Rotation(config, sealed, reencrypt=True) as rotation:
        done = rotation.run(lambda _: None)
    assert done.reencrypts
    assert done.stores["kme-a"].block_bytes > 0
    text = pair.config("kme-b").read_text()
    table = f'[kme.storage_key]\nsource = "file"\nkey_file = "{sealed.key_file}"\n\n[kme.sae_api]'
    text = text.replace('storage_key_file = "storage.key"\n', "").replace("[kme.sae_api]", table)
    pair.config("kme-b").write_text(text)
    config = load_kme_config(pair.config("kme-b"))
    assert storage_key(config) != old_key
    with pytest.raises(StreamRefused), closing(open_store(config, "kme-a", old_key)) as store:
        store.load()
    # Keys under way survive the rotation.
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 8)
        await b.dec_keys("sae-a1", drawn[:1])
    burn(config, "kme-a", dry_run=False)
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 8)
        with pytest.raises(Rejected, match="not found"):
            await b.dec_keys("sae-a1", drawn[1:2])
    make_secret(tmp_path / "new.secret")
    for kme, peer in (("kme-a", "kme-b"), ("kme-b", "kme-a")):
        rekey(load_kme_config(pair.config(kme)), peer, tmp_path / "new.secret", dry_run=False)
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 8)
        (key,) = await a.enc_keys("sae-b1", number=1, size_bits=256)
        (fetched,) = await b.dec_keys("sae-a1", [key.key_id])
        assert fetched.material == key.material
    assert min(rows_of_kme_b(server)) > 0
    discard_store(config, "kme-a", storage_key(config))
    assert rows_of_kme_b(server) == [0, 0, 1], "the record that no key opens"
    with (
        pytest.raises(StreamRefused, match="damaged"),
        closing(open_store(config, "kme-a", storage_key(config))) as store,
    ):
        store.load()


def rows_of_kme_b(server):
    count = (
        "SELECT count(*) FROM streams.{} AS held JOIN streams.pair AS place ON held.pair = place.id WHERE kme = 'kme-b'"
    )
    with psycopg.connect(server.dsn) as outside:
        return [outside.execute(count.format(table)).fetchall()[0][0] for table in ("block", "piece", "record")]
