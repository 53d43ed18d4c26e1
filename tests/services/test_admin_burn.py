"""An administrator burns a pair while both KMEs run: what was before is gone at both ends, what comes after works."""

from __future__ import annotations

import pytest

from shosoin.adapters.admin_log import read_entries
from shosoin.adapters.stream_store import FileStreamStore
from shosoin.keys.errors import StreamRefused
from shosoin.keys.pair import PAIR_RECORD
from tests.services.test_etsi014 import Raw
from tests.services.test_kme_pairs import assert_gone_and_new_keys_work, blocks
from tests.support.admin import Administration
from tests.support.kme import KmePair, until, until_stock
from tests.support.postgres import running_postgres

pytestmark = pytest.mark.processes
PATH = "/v1/pairs/kme-b/burn"


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 17, speedup=20.0)


@pytest.fixture
def admin(pair):
    return Administration(pair)


async def burned_while_running(pair, admin):
    async with pair.running() as processes, pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 8)
        await until_stock(b, "sae-a1", 8)
        drawn = [key.key_id for key in await a.enc_keys("sae-b1", number=3, size_bits=256)]
        back = [key.key_id for key in await b.enc_keys("sae-a1", number=2, size_bits=256)]
        status, looked = await admin.ask("sec", "POST", PATH, {"dry_run": True})
        assert (status, looked["dry_run"]) == (200, True)
        assert len(await b.dec_keys("sae-a1", drawn[:1])) == 1, "a dry run burns nothing"
        old = {name: blocks(pair, name) for name in ("kme-a", "kme-b")}
        status, done = await admin.ask("sec", "POST", PATH, {"reason": "a stolen disk"})
        assert (status, done["dry_run"], done["peer"]) == (200, False, "kme-b")
        assert 0 < looked["blocks"] <= done["blocks"]
        assert done["bits"] > 0
        await until(lambda: processes["kme-a"].link_states()["kme-b"]["open"])
        await assert_gone_and_new_keys_work(pair, a, b, drawn, back)
        for name, before in old.items():
            assert not before & blocks(pair, name), "a block of before the burn is still there"


async def test_both_ends_burn_and_the_pair_goes_on(pair, admin):
    await burned_while_running(pair, admin)
    told = [(each["call"], each["on"], each["result"], each.get("with")) for each in read_entries(admin.folder)]
    assert told == [
        ("burn", "kme-b", "begun", {"dry_run": True}),
        ("burn", "kme-b", "done", None),
        ("burn", "kme-b", "begun", {"reason": "a stolen disk"}),
        ("burn", "kme-b", "done", None),
    ]


async def test_streams_in_postgresql_burn_likewise(tmp_path):
    with running_postgres(fsync=False) as server:
        pair = KmePair(tmp_path, stock_bits=1 << 17, speedup=20.0, store=f'kind = "postgresql"\ndsn = "{server.dsn}"')
        await burned_while_running(pair, Administration(pair))


async def test_without_the_other_end_it_burns_here_at_once_and_there_later(pair, admin):
    async with pair.running("kme-a"):
        async with pair.running("kme-b"), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
            await until_stock(a, "sae-b1", 8)
            await until_stock(b, "sae-a1", 8)
            drawn = [key.key_id for key in await a.enc_keys("sae-b1", number=3, size_bits=256)]
        old, left = blocks(pair, "kme-a"), blocks(pair, "kme-b")
        assert (await admin.ask("sec", "POST", PATH, {}))[0] == 200
        assert old
        assert not old & blocks(pair, "kme-a")
        async with pair.running("kme-b"), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
            await until_stock(a, "sae-b1", 2)
            await until(lambda: not left & blocks(pair, "kme-b"))
            await assert_gone_and_new_keys_work(pair, a, b, drawn, [])


async def test_copies_for_several_slaves_go_with_it(pair, admin):
    wanted = {"number": 2, "size": 256, "additional_slave_SAE_IDs": ["sae-b2"]}
    async with pair.running() as processes, pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 64)
        await until_stock(b, "sae-a1", 64)
        async with Raw(pair, "sae-a1") as a1, Raw(pair, "sae-b2", "kme-b") as b2, Raw(pair, "sae-b1", "kme-b") as b1:
            status, body = await a1.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=wanted)
            assert status == 200, body
            sent, _ = ({"key_IDs": [{"key_ID": key["key_ID"]}]} for key in body["keys"])
            more = {**wanted, "additional_slave_SAE_IDs": ["sae-a2"]}
            status, body = await b1.ask("POST", "/api/v1/keys/sae-a1/enc_keys", json=more)
            assert status == 200, body
            held, _ = ({"key_IDs": [{"key_ID": key["key_ID"]}]} for key in body["keys"])
            local = {}
            for raw, slave, own in ((a1, "sae-b1", "sae-a2"), (b1, "sae-a1", "sae-b2")):
                wish = {"number": 1, "additional_slave_SAE_IDs": [own]}
                status, body = await raw.ask("POST", f"/api/v1/keys/{slave}/enc_keys", json=wish)
                assert status == 200, body
                local[own] = {"key_IDs": [{"key_ID": body["keys"][0]["key_ID"]}]}
            assert (await admin.ask("sec", "POST", PATH, {}))[0] == 200
            assert not processes["kme-a"]._multicast._held
            await until_stock(a, "sae-b1", 1)
            await until_stock(b, "sae-a1", 1)
            await until(lambda: processes["kme-a"].links.requests.is_connected("kme-b"))
            assert (await b2.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=sent))[0] == 400
            async with Raw(pair, "sae-a2", "kme-a") as a2:
                assert (await a2.ask("POST", "/api/v1/keys/sae-b1/dec_keys", json=held))[0] == 400
                # Nor are those left that wait at the master's own KME, at either end.
                assert (await a2.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=local["sae-a2"]))[0] == 400
            assert (await b2.ask("POST", "/api/v1/keys/sae-b1/dec_keys", json=local["sae-b2"]))[0] == 400
            assert not any(each._multicast._copies.store.index() for each in processes.values())


async def test_who_may_not_and_what_there_is_not(pair, admin):
    async with pair.running("kme-a"):
        assert (await admin.ask("olga", "POST", PATH, {}))[1]["code"] == "admin.denied"
        assert (await admin.ask("sec", "POST", "/v1/pairs/kme-c/burn", {}))[0] == 404
        for body in ({"dry_run": "yes"}, {"dry_run": 1}, {"dryrun": True}):
            assert (await admin.ask("sec", "POST", PATH, body))[0] == 400


async def test_a_burn_that_cannot_be_written_says_so_and_hands_out_nothing(pair, admin, monkeypatch):
    commit, full = FileStreamStore.commit, list[FileStreamStore]()

    def fail(store, batch):
        """Fail from the burn on; what else is written before it, by either KME, must not end the pair first."""
        if full or b'"owes_copies":true' in (batch.records.get(PAIR_RECORD) or b""):
            full.append(store)
            raise StreamRefused("the disk is full")
        commit(store, batch)

    async with pair.running() as processes, pair.client("sae-a1") as a:
        await until_stock(a, "sae-b1", 8)
        with monkeypatch.context() as spoilt:
            spoilt.setattr(FileStreamStore, "commit", fail)
            status, answer = await admin.ask("sec", "POST", PATH, {})
            assert (status, answer["message"]) == (503, "the disk is full")
            assert (await a.status("sae-b1")).stored_key_count == 0
            await until(lambda: processes["kme-a"].link_states()["kme-b"]["refused"])
            status, answer = await admin.ask("sec", "POST", PATH, {})
            assert status == 503
            assert "shosoin kme burn" in answer["hint"]
