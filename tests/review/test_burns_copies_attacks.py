"""Burns against crashes, old copies of a disk and third KMEs: multicast copies of a burned pair are out of reach."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from itertools import count

import pytest

from shosoin.adapters.copy_store import COPIES_NAME, CopyStore, open_copy_store
from shosoin.adapters.copy_store_postgres import PostgresCopyStore
from shosoin.adapters.postgres import PostgresDatabase
from shosoin.adapters.stream_store import FileStreamStore
from shosoin.base import KmeId, SaeId
from shosoin.keys.burning import burn_store
from shosoin.keys.errors import KeyNotFound, StreamNotReady, StreamRefused
from shosoin.keys.kme import Kme
from shosoin.keys.local import LocalKeys
from shosoin.keys.multicast import MulticastKeys, OnTable
from shosoin.keys.pair import PAIR_RECORD, PairEnd
from shosoin.keys.policy import KmeLimits, PolicyBook
from shosoin.keys.quota import Quota
from shosoin.keys.store import BurnCopies, Commit
from tests.keys.test_kme import Events, Hands
from tests.keys.world import LIMITS, CountedEntropy, MemoryStore, World
from tests.services.test_etsi014 import Raw
from tests.services.test_kme_pairs import assert_gone_and_new_keys_work, blocks
from tests.services.test_unfinished_burns import drawn as drawn_for
from tests.services.test_unfinished_burns import fetched
from tests.support.admin import Administration
from tests.support.kme import KmePair, until, until_stock
from tests.support.postgres import running_postgres

A, B, C = KmeId("kme-a"), KmeId("kme-b"), KmeId("kme-c")
SLAVES = {B: SaeId("sae-b1"), C: SaeId("sae-c1")}
SCHEMAS = (f"third_{number}" for number in count())


@pytest.fixture(scope="module")
def server():
    with running_postgres(fsync=False) as running:
        yield running


@pytest.fixture(params=["files", "postgresql"])
def table(request, tmp_path):
    """What another KME may claim: a key that went to both, and one that went to C alone."""
    if request.param == "files":
        store = CopyStore(tmp_path / COPIES_NAME, bytes(32))
    else:
        dsn = request.getfixturevalue("server").dsn
        store = PostgresCopyStore(PostgresDatabase(dsn, next(SCHEMAS)), A, bytes(32))
    store.add_sent([("both", SLAVES[B], B), ("both", SLAVES[C], C), ("alone", SLAVES[C], C)], 4e9)
    yield store
    store.close()


class Owner:
    """``kme-a``, with a pair to each of two others."""

    def __init__(self, table):
        self.table, self.entropy, clock = table, CountedEntropy(), Hands()
        self.secrets = {peer: self.entropy.random_bytes(1024) for peer in (B, C)}
        self.disks = {peer: MemoryStore() for peer in (B, C)}
        self.pairs = {}
        kme = Kme(
            A,
            directory={slave: peer for peer, slave in SLAVES.items()},
            pairs=self.pairs,
            facts={},
            max_stock_bits=dict.fromkeys((B, C), 1 << 20),
            local=LocalKeys(self.entropy, clock, capacity_bytes=128, expiry_s=60.0),
            quota=Quota(clock, rate_bps=256.0, burst_bits=1024.0),
            guesses=Quota(clock, rate_bps=1.0, burst_bits=3.0),
            policies=PolicyBook(KmeLimits(), (), clock),
            events=Events(),
        )
        self.keys = MulticastKeys(
            kme, (), lambda _: True, entropy=self.entropy, clock=clock, events=Events(), expiry_s=60.0
        )

    def start(self, peer, *, copies_stuck=False):
        """Open a pair; with a table that cannot be written a burn that is left waits."""
        pair = self.pairs[peer] = PairEnd(A, peer, self.secrets[peer], self.disks[peer], self.entropy, LIMITS)
        for effect in pair.start():
            match effect:
                case Commit(batch):
                    self.disks[peer].commit(batch)
                case BurnCopies():
                    if copies_stuck:
                        return
                    self.table.burn(peer)

    def claimed_by_c(self, *key_ids):
        steps = self.keys.serving_claim(C, json.dumps({"slave": SLAVES[C], "key_ids": key_ids}).encode())
        answer = None
        try:
            while True:
                effect = steps.send(answer)
                assert isinstance(effect, OnTable)
                answer = effect.work(self.table)
        except StopIteration as done:
            return done.value


def test_a_third_kme_may_not_claim_what_an_unfinished_burn_is_about(table):
    """Its own pair is in order, and keys that went to it alone are served on."""
    owner = Owner(table)
    for peer in (B, C):
        owner.start(peer)
    assert burn_store(owner.disks[B], dry_run=False)
    owner.start(B, copies_stuck=True)
    with pytest.raises(StreamNotReady, match="a key was burned"):
        owner.claimed_by_c("both")
    with pytest.raises(StreamNotReady, match="a key was burned"):
        owner.claimed_by_c("alone", "both")
    assert owner.claimed_by_c("alone") == b"claimed"
    owner.start(B)
    with pytest.raises(KeyNotFound):
        owner.claimed_by_c("both")


def test_what_no_burn_is_about_waits_for_the_journal_of_the_other_pair_and_is_served_then(table):
    owner = Owner(table)
    owner.start(C)
    with pytest.raises(StreamNotReady, match="a key was burned"):
        owner.claimed_by_c("both")
    owner.start(B)
    assert owner.claimed_by_c("both", "alone") == b"claimed"


def test_an_old_copy_that_forgot_a_burn_burns_the_copies_that_came_back_with_it():
    """They are on the same disk; that of a third KME may claim one, and is told nothing of the burn."""
    world = World()
    world.heal()
    world.snapshot("a")
    world.burn("a")
    world.heal()
    assert world.ends["a"].copies_burned == 1
    world.restore("a", 0, zombie=False)
    world.heal()
    assert world.ends["a"].copies_burned == 2
    assert world.ends["b"].copies_burned == 1


@pytest.mark.processes
async def test_a_burn_that_could_not_be_written_is_made_up_for_before_anything_is_handed_out_again(
    tmp_path, monkeypatch
):
    """The disk, or a database, was away for a moment: whoever ordered the burn must not find the old stock served."""
    pair, commit, full = KmePair(tmp_path, stock_bits=1 << 17, speedup=20.0), FileStreamStore.commit, []
    admin = Administration(pair)

    def fail(store, batch):
        if not full and b'"owes_copies":true' in (batch.records.get(PAIR_RECORD) or b""):
            full.append(store)
            raise StreamRefused("the disk is full")
        commit(store, batch)

    async with pair.running() as processes, pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 8)
        drawn = [key.key_id for key in await a.enc_keys("sae-b1", number=3, size_bits=256)]
        old = blocks(pair, "kme-a")
        monkeypatch.setattr(FileStreamStore, "commit", fail)
        status, answer = await admin.ask("sec", "POST", "/v1/pairs/kme-b/burn", {})
        assert (status, answer["message"]) == (503, "the disk is full")
        assert "tried again" in answer["hint"]
        await until(lambda: processes["kme-a"].link_states()["kme-b"]["open"])
        assert not old & blocks(pair, "kme-a"), "a block of before the burn is still there"
        await assert_gone_and_new_keys_work(pair, a, b, drawn, [])


def test_a_burn_of_a_running_kme_leaves_no_damaged_file_with_the_copies(tmp_path):
    """It was set aside at the start; who has the storage key could read what is sealed in it."""
    path = tmp_path / COPIES_NAME
    path.write_bytes(b"?" * 8192)
    store, anew = open_copy_store(path, bytes(32))
    assert anew
    store.burn(B)
    store.close()
    assert [each.name for each in tmp_path.iterdir()] == [COPIES_NAME]


def test_a_burn_of_a_disk_that_forgot_an_earlier_one_is_heard_of_at_the_other_end():
    """Both burns have the same number; the other end has carried out the first, and had copies since."""
    world = World()
    world.heal()
    world.snapshot("a")
    world.burn("a")
    world.heal()
    assert world.ends["b"].copies_burned == 1
    world.restore("a", 0, zombie=False)
    world.burn("a")
    world.heal()
    assert world.ends["b"].copies_burned == 2
    for name in ("a", "b"):
        world.ends[name].crash()
    world.heal()
    assert world.ends["b"].copies_burned == 2, "once"


def ends(processes):
    return (processes["kme-a"], B), (processes["kme-b"], A)


@pytest.mark.processes
async def test_an_end_that_hears_of_a_burn_and_cannot_remove_its_copies_gives_none_out_meanwhile(tmp_path):
    pair = KmePair(tmp_path, stock_bits=1 << 17, speedup=20.0)
    admin = Administration(pair)
    async with (
        pair.running() as processes,
        pair.client("sae-a1") as a,
        pair.client("sae-b1") as b,
        Raw(pair, "sae-b1", "kme-b") as b1,
        Raw(pair, "sae-b2", "kme-b") as b2,
    ):
        await until_stock(a, "sae-b1", 64)
        await until_stock(b, "sae-a1", 64)
        async with Raw(pair, "sae-a1") as a1:
            held = await drawn_for(a1, "sae-b1", "sae-b2")
        own = await drawn_for(b1, "sae-a1", "sae-b2")
        hearing = processes["kme-b"]
        with closing(sqlite3.connect(pair.directory("kme-b") / COPIES_NAME)) as database:
            database.execute("CREATE TRIGGER stuck BEFORE DELETE ON sent BEGIN SELECT RAISE(ABORT, 'disk full'); END")
            assert (await admin.ask("sec", "POST", "/v1/pairs/kme-b/burn", {}))[0] == 200
            await until(lambda: "to be burned" in hearing.link_states()["kme-a"].get("reason", ""))
            assert not any(process.link_states()[other]["open"] for process, other in ends(processes))
            assert await fetched(b2, "sae-a1", held) in {400, 503}
            assert await fetched(b2, "sae-b1", own) == 400
            claim = json.dumps({"slave": "sae-a1", "key_ids": [own[0]["key_ID"]]}).encode()
            with pytest.raises(StreamNotReady, match="was burned"):
                next(hearing._multicast.serving_claim(A, claim))
            database.execute("DROP TRIGGER stuck")
        await until(lambda: all(process.link_states()[other]["open"] for process, other in ends(processes)))
        assert await fetched(b2, "sae-a1", held) == 400
        assert not hearing._multicast._held
