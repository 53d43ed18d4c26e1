"""Multicast copies under another storage key, and without those of a peer."""

import sqlite3
from contextlib import closing

import pytest

from shosoin.adapters.copy_reencryption import CopyStores
from shosoin.adapters.copy_store import COPIES_NAME, CopyStore, HeldCopy
from shosoin.base import KmeId, SaeId
from shosoin.keys.errors import KeyDamaged

OLD, NEW = bytes(32), bytes(range(32))


def copy(key_id, peer="kme-b"):
    slave, master = SaeId("sae-a1"), SaeId("sae-b1")
    return HeldCopy(key_id, slave, master, KmeId(peer), 1.0, 32, frozenset({slave}), key_id.encode() * 4)


@pytest.fixture
def filled(tmp_path):
    with closing(CopyStore(tmp_path / COPIES_NAME, OLD)) as store:
        store.add_held([copy("key-one1"), copy("key-two2"), copy("key-3333", "kme-c")])
        store.add_sent(
            [("key-4444", SaeId("sae-b1"), KmeId("kme-b")), ("key-5555", SaeId("sae-c1"), KmeId("kme-c"))], 1.0
        )
    return tmp_path


def taken(directory, key, *wanted):
    with closing(CopyStore(directory / COPIES_NAME, key)) as store:
        return [bytes(bits) for bits in store.take_held(wanted)]


def test_every_copy_opens_under_the_new_key_and_none_under_the_old(filled):
    stores = CopyStores(filled)
    assert stores.names() == [COPIES_NAME]
    assert stores.check(COPIES_NAME, [OLD]).records == 3
    for _ in range(2):  # again is fine
        stores.reencrypt(COPIES_NAME, OLD, NEW, lambda _: None)
    assert taken(filled, NEW, copy("key-one1"), copy("key-3333", "kme-c")) == [b"key-one1" * 4, b"key-3333" * 4]
    with pytest.raises(KeyDamaged):
        taken(filled, OLD, copy("key-two2"))


def test_a_copy_that_does_not_open_is_removed(filled):
    with closing(sqlite3.connect(filled / COPIES_NAME)) as database, database:
        database.execute("UPDATE copy SET sealed = ? WHERE key_id = 'key-one1'", (bytes(60),))
        database.execute("UPDATE copy SET sealed = 5 WHERE key_id = 'key-two2'")
    CopyStores(filled).reencrypt(COPIES_NAME, OLD, NEW, lambda _: None)
    with closing(CopyStore(filled / COPIES_NAME, NEW)) as store:
        assert [one.key_id for one in store.index()] == ["key-3333"]


def test_without_copies_there_is_nothing_to_do(tmp_path):
    assert CopyStores(tmp_path).names() == []
    assert not (tmp_path / COPIES_NAME).exists()


def test_a_burn_removes_what_belongs_to_one_peer(filled):
    with closing(CopyStore(filled / COPIES_NAME, OLD)) as store:
        store.burn(KmeId("kme-b"))
        assert [one.key_id for one in store.index()] == ["key-3333"]
        assert not store.claim(KmeId("kme-b"), SaeId("sae-b1"), ["key-4444"])
        assert store.claim(KmeId("kme-c"), SaeId("sae-c1"), ["key-5555"])
