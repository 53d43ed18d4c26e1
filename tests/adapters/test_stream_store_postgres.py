"""What the store in PostgreSQL does beyond the contract: fencing, lost connections, a database of someone else."""

from __future__ import annotations

import json
import os
import signal
import threading
from itertools import count

import psycopg
import pytest

from shosoin.adapters import postgres_owner, stream_store_postgres
from shosoin.adapters.postgres import PostgresDatabase
from shosoin.adapters.stream_store_postgres import PostgresStreamStore
from shosoin.base import Rejected
from shosoin.keys.errors import StoreUnavailable, StreamRefused
from shosoin.keys.store import Batch
from shosoin.testbed.ports import free_ports
from tests.adapters.stream_store_places import KEY
from tests.adapters.test_stream_store_contract import NAME, ask, block, children, put
from tests.support.pki import TestAuthority
from tests.support.postgres import USER, running_postgres

NUMBERS = count()
PASSWORD = "pa ss'w\\ord-nobody-may-see"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return TestAuthority(tmp_path_factory.mktemp("pki"), "database")


@pytest.fixture(scope="module")
def server(authority):
    with running_postgres(port=free_ports(1)[0], tls=authority.issue("kme", "database.example")) as running:
        quoted = PASSWORD.replace("'", "''")
        running.execute(f"ALTER ROLE {USER} PASSWORD '{quoted}'")
        yield running


@pytest.fixture
def schema():
    return f"own_{next(NUMBERS)}"


def open_store(server, schema, **options):
    return PostgresStreamStore(PostgresDatabase(server.dsn, schema), "kme-a", "kme-b", KEY, **options)


# One owner


def test_a_successor_that_raised_the_token_ends_the_owner(server, schema):
    store = open_store(server, schema)
    put(store, block())
    server.execute(f"UPDATE {schema}.pair SET token = token + 1")
    with pytest.raises(StreamRefused, match="another process has taken"):
        store.read_block(NAME)
    other = open_store(server, f"{schema}_2")
    server.execute(f"UPDATE {schema}_2.pair SET token = token + 1")
    with pytest.raises(StreamRefused, match="another process has taken"):
        other.commit(Batch(records={"a": b"1"}))
    with pytest.raises(StreamRefused, match="earlier"):
        other.commit(Batch())
    assert server.execute(f"SELECT count(*) FROM {schema}_2.record") == [(0,)]
    for each in (store, other):
        each.close()


@pytest.mark.processes
def test_an_owner_that_sleeps_is_replaced_and_can_do_nothing_when_it_wakes(server, schema):
    with children() as maker:
        pid = int(ask(maker, "holds", spec=["postgres", server.dsn, schema], hold_s=0.2)[-1].split()[1])
        os.kill(pid, signal.SIGSTOP)
        try:
            successor = open_store(server, schema)
        finally:
            os.kill(pid, signal.SIGCONT)
        successor.commit(Batch(records={"mine": b"1"}))
        assert "failed" in ask(maker, "refused")[-1]
        assert successor.load() == {"mine": b"1"}
        assert successor.token == 2
        successor.close()


@pytest.mark.processes
def test_an_owner_whose_word_still_holds_is_not_replaced(server, schema):
    with children() as maker:
        ask(maker, "holds", spec=["postgres", server.dsn, schema], hold_s=60.0)
        with pytest.raises(StoreUnavailable, match=r"in use by process \d+ at "):
            open_store(server, schema, wait_s=0.3)
        assert ask(maker, "acked")


def test_a_second_start_waits_until_the_first_lets_go(server, schema):
    store = open_store(server, schema)
    timer = threading.Timer(0.3, store.close)
    timer.start()
    second = open_store(server, schema, wait_s=60.0)
    timer.join()
    assert second.token == store.token + 1
    second.close()


def test_pairs_and_schemas_do_not_know_each_other(server, schema):
    database = PostgresDatabase(server.dsn, schema)
    pairs = [("kme-a", "kme-b"), ("kme-b", "kme-a"), ("kme-a", "kme-c")]
    stores = [PostgresStreamStore(database, *pair, KEY) for pair in pairs]
    stores.append(open_store(server, f"{schema}_2"))
    for number, store in enumerate(stores):
        store.commit(Batch(records={"n": b"%d" % number}))
    assert [store.load()["n"] for store in stores] == [b"0", b"1", b"2", b"3"]
    # Nor does a record of one pass for another's.
    record = f"{schema}.record"
    server.execute(f"UPDATE {record} r SET value = s.value FROM {record} s WHERE r.pair = 1 AND s.pair = 2")
    with pytest.raises(StreamRefused, match="damaged"):
        stores[0].load()
    for store in stores:
        store.close()


def test_tables_of_another_version_are_refused(server, schema):
    open_store(server, schema).close()
    server.execute(f"UPDATE {schema}.format SET version = 3")
    with pytest.raises(StreamRefused, match="version 3, expected 2"):
        open_store(server, schema)


def test_everything_comes_under_another_storage_key_at_once(server, schema):
    store, contents = open_store(server, schema), {name: block(40) for name in (NAME, "in-000000000002")}
    for name, content in contents.items():
        put(store, content, name)
    put(store, block(), "in-000000000003")
    server.execute(f"UPDATE {schema}.block SET key = substr(key, 2) WHERE name = 'in-000000000003'")
    store.reseal(bytes(32))
    assert store.read_block(NAME) == (contents[NAME], [])
    store.commit(Batch(records={"more": b"under the new key"}))
    store.close()
    old = open_store(server, schema)
    with pytest.raises(StreamRefused, match="damaged"):
        old.load()
    old.close()
    again = PostgresStreamStore(PostgresDatabase(server.dsn, schema), "kme-a", "kme-b", bytes(32))
    assert set(again.load()) == {*(f"block/{name}" for name in (*contents, "in-000000000003")), "more"}
    assert all(again.read_block(name) == (content, []) for name, content in contents.items())
    assert again.read_block("in-000000000003") == (bytearray(), (0,))
    again.close()


# A connection that is gone


def test_after_the_connection_is_lost_nothing_is_served(server, schema):
    store = open_store(server, schema)
    content = block()
    put(store, content)
    server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shosoin-kme'")
    with pytest.raises(StoreUnavailable, match="failed"):
        store.commit(Batch(records={"a": b"1"}))
    with pytest.raises(StoreUnavailable, match="earlier"):
        store.read_block(NAME)
    with pytest.raises(StoreUnavailable, match="earlier"):
        store.load()
    store.close()
    again = open_store(server, schema)
    assert again.load() == {f"block/{NAME}": b"here"}
    assert again.read_block(NAME) == (content, [])
    again.close()


@pytest.mark.processes
def test_what_was_committed_survives_a_killed_server(schema):
    with running_postgres() as server:
        store = open_store(server, schema)
        contents = {f"out-{i:012d}": block(40) for i in range(5)}
        for name, content in contents.items():
            put(store, content, name)
        server.kill()
        with pytest.raises(StoreUnavailable):
            store.read_block("out-000000000000")
        with pytest.raises(StoreUnavailable, match="no connection"):
            open_store(server, schema)
        server.start()
        with pytest.raises(StoreUnavailable, match="earlier"):
            store.commit(Batch())
        store.close()
        again = open_store(server, schema)
        assert set(again.load()) == {f"block/{name}" for name in contents}
        assert all(again.read_block(name) == (content, []) for name, content in contents.items())
        again.close()


@pytest.mark.processes
def test_a_server_that_does_not_answer_holds_nobody_up(server, schema, monkeypatch):
    monkeypatch.setattr(stream_store_postgres, "_READ_S", 0.3)
    store = open_store(server, schema)
    put(store, block())
    pid = store._reader.info.backend_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StoreUnavailable, match="failed"):
            store.read_block(NAME)
    finally:
        os.kill(pid, signal.SIGCONT)
    store.close()


@pytest.mark.parametrize("end", ["nobody waits any more", "the wait is cut short"])
def test_a_commit_that_a_synchronous_standby_may_lack_is_none(server, schema, monkeypatch, end):
    store = open_store(server, schema)
    server.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
    server.execute("SELECT pg_reload_conf()")
    writer = store.owner.connection.info.backend_pid
    if end == "nobody waits any more":
        monkeypatch.setattr(postgres_owner, "_COMMIT_S", 1.0)
        timer = None
    else:
        timer = threading.Timer(0.5, lambda: cancel_when_it_waits(server, writer))
        timer.start()
    try:
        with pytest.raises(StoreUnavailable, match="failed" if timer is None else "in doubt"):
            commit_until_refused(store)  # the server learns of the setting in its own time
        with pytest.raises(StoreUnavailable, match="earlier"):
            store.commit(Batch())
    finally:
        if timer is not None:
            timer.join()
        server.execute("ALTER SYSTEM RESET synchronous_standby_names")
        server.execute("SELECT pg_reload_conf()")
        store.close()


def commit_until_refused(store):
    for _ in range(10_000):
        store.commit(Batch(records={"a": b"1"}))


def cancel_when_it_waits(server, pid):
    while not server.execute(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'"):
        pass
    server.execute(f"SELECT pg_cancel_backend({pid})")


# Who the server is, and what nobody may see


def over_tcp(server, authority, host, mode="verify-full"):
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
    return (
        f"host={host} hostaddr=127.0.0.1 port={server.port} user={USER} dbname=postgres password='{quoted}'"
        f" sslmode={mode} sslrootcert={authority.certificate}"
    )


def test_a_database_elsewhere_shows_who_it_is(server, authority, schema):
    database = PostgresDatabase(over_tcp(server, authority, "database.example"), schema)
    store = PostgresStreamStore(database, "kme-a", "kme-b", KEY)
    assert store.owner.connection.pgconn.ssl_in_use
    store.close()
    assert PASSWORD not in repr(database)
    other = PostgresDatabase(over_tcp(server, authority, "other.example"), schema)
    with pytest.raises(StoreUnavailable, match="certificate") as caught:
        PostgresStreamStore(other, "kme-a", "kme-b", KEY)
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require"])
def test_a_database_elsewhere_that_is_not_checked_is_refused(server, authority, schema, mode):
    with pytest.raises(Rejected, match="does not make sure which server answers") as caught:
        PostgresDatabase(over_tcp(server, authority, "database.example", mode), schema)
    assert PASSWORD not in str(caught.value)


def test_what_says_nothing_asks_for_a_checked_server(monkeypatch):
    assert PostgresDatabase("host=database.example").parameters()["sslmode"] == "verify-full"
    assert "sslmode" not in PostgresDatabase("host=/run/postgresql").parameters()
    assert "sslmode" not in PostgresDatabase("host=127.0.0.1").parameters()
    monkeypatch.setenv("PGHOST", "database.example")
    assert PostgresDatabase("dbname=keys").parameters()["sslmode"] == "verify-full"


def test_a_service_that_is_not_checked_is_refused(server, schema, tmp_path, monkeypatch):
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    service = f"[keys]\nhost=database.example\nhostaddr=127.0.0.1\nport={server.port}\nuser={USER}\ndbname=postgres\n"
    (tmp_path / "services").write_text(service + "sslmode=require\n")
    with pytest.raises(Rejected, match="sslmode=require"):
        PostgresStreamStore(PostgresDatabase("service=keys", schema), "kme-a", "kme-b", KEY)


def test_a_wrong_password_is_told_without_it(server, authority, schema):
    right = over_tcp(server, authority, "database.example")
    database = PostgresDatabase(f"{right} password=open-sesame", schema)
    with pytest.raises(StoreUnavailable, match="password authentication failed") as caught:
        database.connect()
    assert "open-sesame" not in json.dumps([str(caught.value), repr(caught.value), repr(database)])


@pytest.mark.parametrize("dsn", [f"host=x password={PASSWORD}", "postgresql://user:secret@[bad", "no-password-here"])
def test_a_string_that_does_not_parse_is_not_quoted(dsn):
    with pytest.raises(Rejected, match="neither") as caught:
        PostgresDatabase(dsn)
    assert dsn not in str(caught.value)
    assert "nobody" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "Keys", "a b", 'a"; DROP SCHEMA x; --', "a" * 64])
def test_a_schema_is_a_plain_name(name):
    with pytest.raises(Rejected, match="schema"):
        PostgresDatabase("host=/run", name)


def test_without_psycopg_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(Rejected, match="not installed") as caught:
        PostgresDatabase("host=/run")
    assert "shosoin[postgres]" in caught.value.hint


def test_a_role_that_may_not_make_tables_is_told_so(server, schema):
    server.execute(f"CREATE ROLE {schema}_reader LOGIN")
    with psycopg.connect(server.dsn, autocommit=True):
        dsn = server.dsn.replace(f"user={USER}", f"user={schema}_reader")
        with pytest.raises(StoreUnavailable, match="permission denied"):
            PostgresStreamStore(PostgresDatabase(dsn, schema), "kme-a", "kme-b", KEY)
