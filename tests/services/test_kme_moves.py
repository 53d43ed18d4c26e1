"""A KME that keeps its state in PostgreSQL goes on at another machine: what was under way comes along."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from shosoin.services.kme_config import load_kme_config
from shosoin.services.kme_pairs import burn, make_secret, rekey
from shosoin.services.kme_rotation import Rotation
from shosoin.services.kme_stores import discard_copies, stores_of
from shosoin.services.storage_key_config import FileSection
from tests.services.test_etsi014 import Raw
from tests.services.test_kme_postgres import pair_on
from tests.support.key_sources import Pull014Rig
from tests.support.kme import until, until_stock
from tests.support.postgres import running_postgres

pytestmark = pytest.mark.processes
WANTED = {"number": 4, "size": 256, "additional_slave_SAE_IDs": ["sae-b2"]}


@pytest.fixture
def server():
    with running_postgres(fsync=False) as running:
        yield running


def move(pair, kme, number=1):
    """Have a KME start with another directory, as at another machine: configuration and secrets are all it brings."""
    config = pair.config(kme)
    old = 'directory = "state"' if number == 1 else f'directory = "moved-{number - 1}"'
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, f'directory = "moved-{number}"'))


async def drawn(pair):
    async with pair.running(), pair.client("sae-a1") as client, Raw(pair, "sae-a1") as a1:
        await until_stock(client, "sae-b1", 64)
        status, body = await a1.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=WANTED)
        assert status == 200, body
    return body["keys"]


async def fetched(pair, key, *, processes=None):
    """Return status and answer of a slave that asks for its copy."""
    async with AsyncExitStack() as stack:
        if processes is None:
            await stack.enter_async_context(pair.running())
        client = await stack.enter_async_context(pair.client("sae-b1"))
        b2 = await stack.enter_async_context(Raw(pair, "sae-b2", "kme-b"))
        await until_stock(client, "sae-a1", 1)
        body = {"key_IDs": [{"key_ID": key["key_ID"]}]}
        return await b2.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=body)


async def test_copies_for_several_slaves_move_with_the_streams(tmp_path, server):
    pair = pair_on(tmp_path, server)
    keys = await drawn(pair)
    for kme in ("kme-a", "kme-b"):  # both halves of what makes a copy usable
        move(pair, kme)
    status, body = await fetched(pair, keys[0])
    assert (status, body["keys"][0]["key"]) == (200, keys[0]["key"])
    move(pair, "kme-b", 2)
    assert (await fetched(pair, keys[0]))[0] == 400, "nor is one served twice"
    assert (await fetched(pair, keys[1]))[1]["keys"][0]["key"] == keys[1]["key"]
    assert not list(tmp_path.glob("kme-*/*/copies.sqlite*")), "nothing lies in files"


async def test_copies_are_rekeyed_burned_and_discarded_with_the_rest(tmp_path, server):
    pair = pair_on(tmp_path, server)
    keys = await drawn(pair)
    config = load_kme_config(pair.config("kme-b"))
    sealed = FileSection("file", tmp_path / "kme-b" / "kek")
    with Rotation(config, sealed, reencrypt=True) as rotation:
        assert rotation.run(lambda _: None).stores["~copies"].records == 8
    text = pair.config("kme-b").read_text()
    table = f'[kme.storage_key]\nsource = "file"\nkey_file = "{sealed.key_file}"\n\n[kme.sae_api]'
    text = text.replace('storage_key_file = "storage.key"\n', "").replace("[kme.sae_api]", table)
    pair.config("kme-b").write_text(text)
    assert (await fetched(pair, keys[0]))[1]["keys"][0]["key"] == keys[0]["key"]
    config = load_kme_config(pair.config("kme-b"))
    burn(config, "kme-a", dry_run=True)
    assert stores_of(config)[1].names() == ["~copies"]
    burn(config, "kme-a", dry_run=False)
    assert stores_of(config)[1].names() == []
    assert (await fetched(pair, keys[1]))[0] == 400
    await drawn(pair)
    make_secret(tmp_path / "new.secret")
    rekey(config, "kme-a", tmp_path / "new.secret", dry_run=False)
    assert stores_of(config)[1].names() == []
    discard_copies(config)


async def test_while_the_database_is_away_copies_are_kept_and_nobody_is_told_that_they_are_not_there(tmp_path, server):
    pair = pair_on(tmp_path, server)
    keys = await drawn(pair)
    body = {"key_IDs": [{"key_ID": keys[0]["key_ID"]}]}
    await asyncio.to_thread(server.kill)
    async with pair.running() as processes, Raw(pair, "sae-b2", "kme-b") as b2:
        assert (await b2.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=body))[0] == 503
        await asyncio.to_thread(server.start)
        await until(lambda: processes["kme-b"]._multicast.is_indexed)
        status, answer = await fetched(pair, keys[0], processes=processes)
        assert (status, answer["keys"][0]["key"]) == (200, keys[0]["key"])
        await asyncio.to_thread(server.kill)
        await until(lambda: not processes["kme-b"]._multicast.is_indexed)
        body = {"key_IDs": [{"key_ID": keys[1]["key_ID"]}]}
        assert (await b2.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=body))[0] == 503
        await asyncio.to_thread(server.start)
        await until(lambda: processes["kme-b"]._multicast.is_indexed)
        assert (await fetched(pair, keys[1], processes=processes))[0] == 200


async def test_what_a_source_has_used_moves_with_the_streams(tmp_path, server):
    (tmp_path / "rig").mkdir()
    rig = Pull014Rig(tmp_path / "rig")
    await rig.start()
    try:
        pair = pair_on(tmp_path, server, source=rig.link)
        async with pair.running(), pair.client("sae-a1") as client:
            await until_stock(client, "sae-b1", 64)
        used = server.execute("SELECT kme, count(*) FROM streams.used JOIN streams.pair ON pair = id GROUP BY kme")
        assert dict(used)["kme-a"] > 0
        assert dict(used)["kme-b"] > 0
        assert not list(tmp_path.glob("kme-*/*/sources/*/used.sqlite*")), "nothing lies in files"
        for kme in ("kme-a", "kme-b"):
            move(pair, kme)
        before = dict(used)
        async with pair.running(), pair.client("sae-a1") as client:
            await until_stock(client, "sae-b1", 64)
            await until(lambda: count_of(server) > sum(before.values()))
    finally:
        await rig.stop()


def count_of(server):
    return server.execute("SELECT count(*) FROM streams.used")[0][0]
