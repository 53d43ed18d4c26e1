"""What every ``CopyStorage`` must do: one suite for a file and for a real PostgreSQL server."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import count

import pytest

from shosoin.adapters.copy_reencryption import CopyStores
from shosoin.adapters.copy_store import COPIES_NAME, CopyStore, HeldCopy
from shosoin.adapters.copy_store_postgres import COPIES_PLACE, PostgresCopyStore, ReopenedCopyStore
from shosoin.adapters.postgres import PostgresDatabase
from shosoin.adapters.postgres_reencryption import PostgresCopies, PostgresStores
from shosoin.base import KmeId, SaeId
from shosoin.keys.errors import KeyDamaged, KeyNotFound, StoreUnavailable
from tests.support.postgres import running_postgres

OLD, NEW = bytes(32), bytes(range(32))
NUMBERS = count()


@pytest.fixture(scope="module")
def server():
    with running_postgres() as running:
        yield running


class InFile:
    def __init__(self, directory):
        self.directory = directory
        self.stores = CopyStores(directory)

    def open(self, key=OLD):
        return CopyStore(self.directory / COPIES_NAME, key)

    def spoil(self, key_id):
        with closing(sqlite3.connect(self.directory / COPIES_NAME)) as database, database:
            database.execute("UPDATE copy SET sealed = ? WHERE key_id = ?", (bytes(60), key_id))

    def stored(self):
        return b"".join(path.read_bytes() for path in self.directory.iterdir())


class InDatabase:
    def __init__(self, server, schema):
        self.server, self.schema = server, schema
        self.database = PostgresDatabase(server.dsn, schema)
        self.stores = PostgresCopies(self.database, "kme-a")

    def open(self, key=OLD, **options):
        return PostgresCopyStore(self.database, "kme-a", key, **{"wait_s": 5.0, **options})

    def spoil(self, key_id):
        self.server.execute(f"UPDATE {self.schema}.copy SET sealed = %s WHERE key_id = %s", bytes(60), key_id)

    def stored(self):
        return self.server.stored_bytes()


@pytest.fixture(params=["file", "postgres"])
def place(request, tmp_path):
    if request.param == "file":
        return InFile(tmp_path)
    return InDatabase(request.getfixturevalue("server"), f"copies_{next(NUMBERS)}")


def copy(key_id, peer="kme-b", slave="sae-a1", bits=None):
    named = frozenset({SaeId(slave), SaeId("sae-a9")})
    return HeldCopy(
        key_id, SaeId(slave), SaeId("sae-b1"), KmeId(peer), 1.5, 32, named, bits or key_id.encode() * 4, simulated=False
    )


ONE, TWO, THREE = copy("key-one1"), copy("key-two2"), copy("key-3333", "kme-c")
SENT = [("key-4444", SaeId("sae-b1"), KmeId("kme-b")), ("key-5555", SaeId("sae-c1"), KmeId("kme-c"))]


@pytest.fixture
def filled(place):
    with closing(place.open()) as store:
        store.add_held([ONE, TWO, THREE])
        store.add_sent(SENT, 1.0)
    return place


def names(store):
    return sorted(one.key_id for one in store.index())


def test_what_is_held_is_indexed_without_its_bits_and_taken_once_over_restarts(filled):
    with closing(filled.open()) as store:
        found = {one.key_id: one for one in store.index()}
        for one in (ONE, TWO, THREE):
            assert found[one.key_id] == HeldCopy(
                one.key_id, one.slave, one.master, one.peer, 1.5, 32, one.named, b"", simulated=False
            )
        assert store.take_held([ONE, THREE]) == [ONE.bits, THREE.bits]
    with closing(filled.open()) as store:
        assert names(store) == ["key-two2"]
        with pytest.raises(KeyNotFound):
            store.take_held([TWO, ONE])
        assert names(store) == [], "all are gone"
        store.tick()


def test_peers_may_choose_the_same_key_id_and_slaves_share_one(place):
    same = [copy("key-same"), copy("key-same", "kme-c", bits=b"c" * 32), copy("key-same", slave="sae-a2")]
    with closing(place.open()) as store:
        store.add_held(same)
        assert store.take_held([same[1]]) == [b"c" * 32]
        store.drop_held([same[2]])
        assert [one.place for one in store.index()] == [same[0].place]


def test_a_claim_takes_all_rows_or_none(filled):
    with closing(filled.open()) as store:
        store.add_sent([("key-6666", SaeId("sae-b1"), KmeId("kme-b"))], 1.0)
        for peer, slave, key_ids in (
            ("kme-b", "sae-b1", ["key-4444", "key-9999"]),
            ("kme-c", "sae-b1", ["key-4444"]),
            ("kme-b", "sae-b2", ["key-4444"]),
        ):
            assert not store.claim(KmeId(peer), SaeId(slave), key_ids)
        assert store.claim(KmeId("kme-b"), SaeId("sae-b1"), ["key-4444", "key-6666"])
        assert not store.claim(KmeId("kme-b"), SaeId("sae-b1"), ["key-4444"])


def test_what_is_too_old_goes(filled):
    with closing(filled.open()) as store:
        store.add_held([HeldCopy("key-7777", SaeId("sae-a1"), SaeId("sae-b1"), KmeId("kme-b"), 9.0, 32, frozenset())])
        store.expire(1.5, 99.0)
        assert names(store) == ["key-3333", "key-7777", "key-one1", "key-two2"]
        store.expire(2.0, 99.0)
        assert names(store) == ["key-7777"]
        assert not store.claim(KmeId("kme-c"), SaeId("sae-c1"), ["key-5555"])


def test_what_was_born_in_the_future_grows_old_from_now(filled):
    with closing(filled.open()) as store:
        store.expire(0.0, 0.5)
        assert {one.born_s for one in store.index()} == {0.5}
        store.expire(0.6, 0.7)
        assert names(store) == []
        assert not store.claim(KmeId("kme-c"), SaeId("sae-c1"), ["key-5555"])


def test_a_burn_removes_what_belongs_to_one_peer(filled):
    with closing(filled.open()) as store:
        store.burn(KmeId("kme-b"))
        assert names(store) == ["key-3333"]
        assert not store.claim(KmeId("kme-b"), SaeId("sae-b1"), ["key-4444"])
        assert store.claim(KmeId("kme-c"), SaeId("sae-c1"), ["key-5555"])


def test_a_burn_removes_what_others_may_claim_of_keys_that_the_peer_may_claim_too(place):
    b, c = (SaeId("sae-b1"), KmeId("kme-b")), (SaeId("sae-c1"), KmeId("kme-c"))
    with closing(place.open()) as store:
        store.add_sent([("key-both", *b), ("key-both", *c), ("key-gone", *b), ("key-gone", *c), ("key-only", *c)], 1.0)
        assert store.claim(b[1], b[0], ["key-gone"])
        store.burn(b[1])
        assert not store.claim(c[1], c[0], ["key-both"])
        assert store.claim(c[1], c[0], ["key-gone", "key-only"]), "what the peer has had already is in use"


def test_a_copy_that_was_altered_is_damage_and_gone(filled):
    filled.spoil("key-one1")
    with closing(filled.open()) as store:
        with pytest.raises(KeyDamaged):
            store.take_held([TWO, ONE])
        assert names(store) == ["key-3333"]


def test_every_copy_opens_under_the_new_key_and_none_under_the_old(filled):
    filled.spoil("key-two2")
    (name,) = filled.stores.names()
    assert filled.stores.check(name, [OLD]).records == 3
    for _ in range(2):  # again is fine
        filled.stores.reencrypt(name, OLD, NEW, lambda _: None)
    with closing(filled.open(NEW)) as store:
        assert names(store) == ["key-3333", "key-one1"], "what does not open is removed"
        assert store.take_held([ONE]) == [ONE.bits]
    with closing(filled.open(OLD)) as store, pytest.raises(KeyDamaged):
        store.take_held([THREE])


def test_without_copies_there_is_nothing_to_re_encrypt(place):
    assert list(place.stores.names()) == []


def test_no_bits_are_stored_in_the_clear(filled):
    assert ONE.bits not in filled.stored()


def test_a_row_of_another_type_is_removed(tmp_path):
    place = InFile(tmp_path)
    with closing(place.open()) as store:
        store.add_held([ONE, THREE])
    with closing(sqlite3.connect(tmp_path / COPIES_NAME)) as database, database:
        database.execute("UPDATE copy SET sealed = 5 WHERE key_id = 'key-one1'")
    place.stores.reencrypt(COPIES_NAME, OLD, NEW, lambda _: None)
    with closing(place.open(NEW)) as store:
        assert names(store) == ["key-3333"]


# In a database


def test_it_has_one_owner_and_whoever_lost_it_changes_nothing(server):
    place = InDatabase(server, f"copies_{next(NUMBERS)}")
    first = place.open()
    first.add_held([ONE])
    with pytest.raises(StoreUnavailable, match="in use by process"):
        place.open(wait_s=0.0)
    server.execute(f"UPDATE {place.schema}.pair SET token = token + 1")  # as a successor does
    for change in (
        lambda: first.take_held([ONE]),
        lambda: first.claim(KmeId("kme-b"), SaeId("sae-b1"), []),
        first.tick,
    ):
        with pytest.raises(StoreUnavailable):
            change()
    first.close()
    with closing(place.open()) as store:
        assert names(store) == ["key-one1"]


def test_what_a_running_kme_holds_comes_under_no_other_key(server):
    place = InDatabase(server, f"copies_{next(NUMBERS)}")
    store = ReopenedCopyStore(place.open)
    with closing(store):
        store.add_held([ONE])
        with pytest.raises(StoreUnavailable, match="in use by process") as refused:
            place.stores.reencrypt(COPIES_PLACE, OLD, NEW, lambda _: None)
        assert refused.value.code == "keys.store_unavailable"
        assert refused.value.hint
        assert store.take_held([ONE]) == [ONE.bits]


def test_kmes_share_a_schema_and_see_their_own_alone_and_copies_are_no_pair(server):
    schema = f"copies_{next(NUMBERS)}"
    database = PostgresDatabase(server.dsn, schema)
    with (
        closing(PostgresCopyStore(database, "kme-a", OLD)) as one,
        closing(PostgresCopyStore(database, "kme-b", OLD)) as two,
    ):
        one.add_held([ONE])
        assert names(two) == []
        two.expire(99.0, 99.0)
        two.burn(KmeId("kme-b"))
        assert names(one) == ["key-one1"]
    assert PostgresStores(database, "kme-a").names() == []
    assert PostgresCopies(database, "kme-b").names() == []


def test_it_is_opened_again_after_the_database_was_lost_and_says_so(server):
    place, now_s = InDatabase(server, f"copies_{next(NUMBERS)}"), 0.0
    opened: list[PostgresCopyStore] = []

    def open_store():
        opened.append(place.open())
        return opened[-1]

    store = ReopenedCopyStore(open_store, lambda: now_s)
    assert store.epoch == 0
    store.add_held([ONE])
    assert store.epoch == 1
    server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shosoin-kme'")
    with pytest.raises(StoreUnavailable):
        store.tick()
    store.tick()
    assert store.epoch == 2
    assert names(store) == ["key-one1"]
    stopped = place.server.dsn
    place.database = PostgresDatabase(stopped.replace("host=", "host=/nonexistent"), place.schema)
    server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'shosoin-kme'")
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.tick()
    assert len(opened) == 2, "one try to open it failed, and the next was refused at once"
    place.database = PostgresDatabase(stopped, place.schema)
    now_s = 1.0
    store.tick()
    assert (store.epoch, len(opened)) == (3, 3)
    store.close()
