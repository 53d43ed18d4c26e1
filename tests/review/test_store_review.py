"""REVIEW: promises of the share store and of the KME's log that do not hold yet."""

import asyncio
import logging
import sqlite3
from contextlib import closing

import pytest

from shosoin.adapters.share_store_errors import RecordsLost
from shosoin.adapters.tls import client_context
from tests.adapters.store_support import content, key, open_store, put
from tests.support.kme import KmePair

BIG = 300_000


async def test_s01_an_old_copy_of_the_records_of_the_same_run_does_not_erase_newer_shares(tmp_path):
    """The generation only tells copies from before the last start; the files themselves must tell the others."""
    store = open_store(tmp_path / "store")
    await put(store, key(1), content(BIG))
    await store.compact_log()
    records = tmp_path / "store" / "records.sqlite"
    old = records.read_bytes()
    made = await put(store, key(2), content(BIG, 2))
    await store.close()
    new = records.read_bytes()
    records.write_bytes(old)
    try:
        store = open_store(tmp_path / "store")
    except RecordsLost:
        pass
    else:
        store._eraser.wait_idle(10.0)
        await store.close()
    records.write_bytes(new)
    with closing(sqlite3.connect(records)) as connection:  # let the operator bring the right records back
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'generation'")
        connection.commit()
    store = open_store(tmp_path / "store")
    try:
        assert await store.read(made, 0, BIG) == content(BIG, 2)
    finally:
        await store.close()


@pytest.mark.processes
async def test_s02_a_client_that_hangs_up_is_no_defect_of_the_kme(tmp_path, caplog):
    """Each hang-up writes a traceback at level error, without any bound: any SAE can fill the log."""
    pair = KmePair(tmp_path)
    files = pair.saes["sae-a1"]
    context = client_context(files.certificate, files.key, pair.sae_plane.certificate)
    with caplog.at_level(logging.ERROR, logger="shosoin.kme"):
        async with pair.running("kme-a"):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", pair.sae_port["kme-a"], ssl=context, server_hostname="kme-a"
            )
            writer.write(b"POST /api/v1/keys/sae-b1/enc_keys HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{}")
            await writer.drain()
            await asyncio.sleep(0.3)
            writer.transport.abort()
            await asyncio.sleep(0.3)
    assert not [record for record in caplog.records if record.getMessage() == "etsi014.defect"]
