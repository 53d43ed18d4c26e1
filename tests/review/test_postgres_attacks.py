"""Attacks on copies in files and in PostgreSQL and on owners there: settings of its operator, names a peer made up."""

from __future__ import annotations

import threading
import time
from contextlib import closing, suppress
from itertools import count

import pytest

from shosoin.adapters import postgres_owner
from shosoin.adapters.copy_store import COPIES_NAME, open_copy_store
from shosoin.adapters.copy_store_postgres import PostgresCopyStore, ReopenedCopyStore
from shosoin.adapters.postgres import PostgresDatabase
from shosoin.adapters.stream_store_postgres import PostgresStreamStore
from shosoin.base import KmeId, SaeId, ShosoinError
from shosoin.keys.copies import HeldCopy
from shosoin.keys.errors import KeyNotFound, StoreUnavailable
from shosoin.keys.store import Batch
from tests.adapters.test_copy_store_contract import InDatabase, InFile
from tests.support.postgres import running_postgres

KEY = bytes(32)
SERIAL = count()
B, SLAVE = KmeId("kme-b"), SaeId("sae-b1")


@pytest.fixture(scope="module")
def server():
    with running_postgres() as running:
        yield running


@pytest.fixture
def schema():
    return f"attacked_{next(SERIAL)}"


@pytest.fixture(params=["file", "postgres"])
def place(request, tmp_path):
    if request.param == "file":
        return InFile(tmp_path)
    return InDatabase(request.getfixturevalue("server"), f"attacked_{next(SERIAL)}")


def with_setting(server, name, value):
    server.execute(f"ALTER DATABASE postgres SET {name} = '{value}'")


@pytest.fixture
def setting(server):
    changed = []

    def change(name, value):
        changed.append(name)
        with_setting(server, name, value)

    yield change
    for name in changed:
        server.execute(f"ALTER DATABASE postgres RESET {name}")


def open_store(server, schema, **options):
    return PostgresStreamStore(PostgresDatabase(server.dsn, schema), "kme-a", "kme-b", KEY, **options)


@pytest.mark.parametrize("name", ["k\0", "\ud800", "key-4444\0"])
def test_a_claim_of_names_that_nothing_can_have_takes_nothing_and_disturbs_nobody(place, name):
    """A peer may ask for any JSON text: no answer to it may leave a change half done, or cost the place."""
    with closing(place.open()) as store:
        store.add_sent([("key-4444", SLAVE, B)], 1.0)
        assert not store.claim(B, SLAVE, ["key-4444", name])
        store.add_held([HeldCopy("key-1111", SaeId("sae-a1"), SaeId("sae-b1"), B, 1.0, 32, frozenset(), bytes(32))])
        assert [one.key_id for one in store.index()] == ["key-1111"]
        assert store.claim(B, SLAVE, ["key-4444"])


def test_a_claim_of_many_made_up_names_is_over_at_the_first(tmp_path):
    """All copies of a KME have one thread: a peer that lies must not hold up those of others."""
    with closing(InFile(tmp_path).open()) as store:
        done: list[str] = []
        store._database.set_trace_callback(done.append)
        assert not store.claim(B, SLAVE, [f"{number:x}" for number in range(1000)])
        assert len(done) < 10


def test_copies_of_names_that_are_there_are_refused_and_cost_nothing_else(place):
    """A peer may send two records with one key_ID at once."""
    one, two = (
        HeldCopy(name, SaeId("sae-a1"), SaeId("sae-b1"), B, 1.0, 32, frozenset(), bytes([number] * 32))
        for number, name in enumerate(["key-1111", "key-2222"])
    )
    with closing(place.open()) as store:
        store.add_held([one])
        with pytest.raises(ShosoinError):
            store.add_held([two, one])
        store.tick()
        assert [each.key_id for each in store.index()] == ["key-1111"], "all or none"
        assert store.take_held([one]) == [bytes(32)]


def test_a_connection_that_is_seldom_used_is_not_ended(server, schema, setting):
    """Blocks are read once in a while: a bound on idle sessions must not cost a pair its bits."""
    setting("idle_session_timeout", "300ms")
    with closing(open_store(server, schema)) as store:
        store.commit(Batch(blocks={"in-000000000000": bytes(range(256))}, records={"block/in-000000000000": b"x"}))
        for _ in range(8):
            time.sleep(0.1)
            store.commit(Batch())
        assert store.read_block("in-000000000000")[0] == bytes(range(256))


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_pairs_that_write_at_once_do_not_hinder_each_other_whatever_isolation_is_usual_there(
    server, schema, setting, level
):
    setting("default_transaction_isolation", level)
    failures: list[BaseException] = []
    start = threading.Barrier(3)

    def work(peer):
        try:
            start.wait()
            store = PostgresStreamStore(PostgresDatabase(server.dsn, schema), "kme-a", peer, KEY)
            with closing(store):
                for number in range(40):
                    name = f"in-{number:012d}"
                    store.commit(Batch(blocks={name: bytes(2048)}, records={f"block/{name}": b"x"}))
                    store.load()
        except BaseException as err:  # noqa: BLE001
            failures.append(err)

    threads = [threading.Thread(target=work, args=(f"kme-{one}",)) for one in "bcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


@pytest.mark.parametrize("end", ["hangs", "commits"])
def test_a_transaction_in_flight_ends_before_the_place_changes_hands(server, schema, monkeypatch, end):
    """What the old owner had begun is either there for the new one, or never comes; and it holds up nobody for ever."""
    first = open_store(server, schema, hold_s=0.5)
    begun, go, outcome = threading.Event(), threading.Event(), []

    def slow():
        try:
            with first.owner.transaction() as cursor:
                cursor.execute(first._do["put_record"], [first._pair, "late", first._seal.seal("late", b"x")])
                begun.set()
                go.wait(20)
        except StoreUnavailable:
            outcome.append("refused")
        else:
            outcome.append("committed")

    monkeypatch.setattr(postgres_owner, "_COMMIT_S", 600.0)  # its own bound says nothing while a process is stopped
    thread = threading.Thread(target=slow)
    thread.start()
    try:
        assert begun.wait(10)
        monkeypatch.setattr(postgres_owner, "_COMMIT_S", 2.0)
        if end == "commits":
            go.set()
            thread.join()
        second = open_store(server, schema, wait_s=5.0)
    finally:
        go.set()
        thread.join()
    with closing(second):
        assert ("late" in second.load(), outcome) == (
            (True, ["committed"]) if end == "commits" else (False, ["refused"])
        )
        for change in (lambda: first.commit(Batch(records={"later": b"x"})), first.load, lambda: first.read_block("x")):
            with pytest.raises(StoreUnavailable):
                change()
        second.commit(Batch(records={"mine": b"y"}))
        assert "later" not in second.load()
    first.close()


def test_two_that_take_copies_from_each_other_take_each_once(server, schema):
    """Two processes that both believe to own the copies: every copy goes to one of them at most."""
    database = PostgresDatabase(server.dsn, schema)
    copies = [
        HeldCopy(f"key-{number:04d}", SaeId("sae-a1"), SaeId("sae-b1"), B, 1.0, 32, frozenset(), bytes([number] * 32))
        for number in range(30)
    ]
    with closing(PostgresCopyStore(database, "kme-a", KEY)) as store:
        store.add_held(copies)
    taken: list[bytes] = []

    def work():
        store = ReopenedCopyStore(
            lambda: PostgresCopyStore(database, "kme-a", KEY, hold_s=0.01, wait_s=0.3), lambda: next(SERIAL)
        )
        with closing(store):
            for _ in range(4):
                for one in copies:
                    with suppress(StoreUnavailable, KeyNotFound):
                        taken.extend(map(bytes, store.take_held([one])))
                        time.sleep(0.02)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 20 < len(taken) == len(set(taken))


@pytest.mark.parametrize("began_anew", [True, False])
def test_a_damaged_file_of_copies_that_was_put_aside_does_not_stay_under_the_old_key(tmp_path, began_anew):
    """When everything is under another key, nothing is left for whoever has the old one."""
    place, one = InFile(tmp_path), HeldCopy("k", SaeId("sae-a1"), SaeId("sae-b1"), B, 1.0, 32, frozenset(), bytes(32))
    path = tmp_path / COPIES_NAME
    with closing(place.open()) as store:
        store.add_held([one])
    content = bytearray(path.read_bytes())
    content[100:108] = b"\xff" * 8
    path.write_bytes(content)
    store, is_new = open_copy_store(path, KEY)
    store.close()
    assert is_new
    assert len(list(tmp_path.iterdir())) == 2
    if not began_anew:
        path.unlink()
    for name in place.stores.names():
        assert place.stores.check(name, [KEY]).records == 0
        place.stores.reencrypt(name, KEY, bytes(range(32)), lambda _: None)
    assert [each.name for each in tmp_path.iterdir()] == ([COPIES_NAME] if began_anew else [])
