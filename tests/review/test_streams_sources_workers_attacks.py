"""Attacks on key streams by ETSI GS QKD 004, on key sources and on worker processes."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from dataclasses import replace

import psutil
import pytest

from shosoin.adapters.entropy import SystemEntropy
from shosoin.adapters.postgres import PostgresDatabase
from shosoin.base import KmeId, Rejected
from shosoin.keys.wire004 import GetKeyResponse, Status
from shosoin.keys.worker_stock import Grant, KeyStocks
from shosoin.services.kme_config import load_kme_config
from shosoin.services.kme_pairs import burn
from shosoin.services.sources.build import check_recordings
from shosoin.services.sources.port import UndeclaredSimulation
from shosoin.services.sources.recording import Recording, RecordingHeader, write_recording
from shosoin.services.sources.repeats import BitMemory, BitsRepeated
from tests.services.test_etsi004 import QOS, chunk, joined, running
from tests.services.test_pull004 import ends, rig, works  # noqa: F401  # a fixture
from tests.support.client004 import Client004
from tests.support.key_sources import PACE
from tests.support.kme import KmePair, ServerProcess, until

pytestmark = pytest.mark.processes


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 18, etsi004={})


IMPATIENT = replace(QOS, timeout_ms=2_000)


async def test_a_paused_pair_gives_no_reserved_chunk_either(pair):
    """A pause says that nothing of the pair is drawn or fetched: what waits in memory is no exception."""
    async with running(pair, "sae-a1", "sae-b1") as (kmes, a, b):
        ksid = await joined(a, b, IMPATIENT)
        mine, theirs = await chunk(a, ksid, 0), await chunk(b, ksid, 1)
        kmes["kme-a"].kme.paused.add(KmeId("kme-b"))
        assert (await a.get(ksid, 1)).status != Status.SUCCESS
        kmes["kme-b"].kme.paused.add(KmeId("kme-a"))
        assert (await b.get(ksid, 0)).status != Status.SUCCESS
        for kme in kmes.values():
            kme.kme.paused.clear()
        assert (await chunk(a, ksid, 1), await chunk(b, ksid, 0)) == (theirs, mine)


async def test_what_the_other_end_burned_is_not_given_from_memory(pair):
    """A heal at far's KME burns everything both hold: near's reserved copies are of it."""
    far = ServerProcess(pair.config("kme-b"))
    async with pair.running("kme-a") as running_here, Client004(pair, "sae-a1") as a:
        kme_a = running_here["kme-a"]
        try:
            await far.start()
            await until(lambda: kme_a.kme.status("sae-a1", "sae-b1").stored_key_count > 8)
            async with Client004(pair, "sae-b1") as b:
                ksid = await joined(a, b, IMPATIENT)
                await chunk(b, ksid, 0)
            await far.stop()
            assert burn(load_kme_config(pair.config("kme-b")), "kme-a", dry_run=False).held
            await far.start()
            await until(lambda: kme_a.links.pairs["kme-b"]._seen_burns == 1)
            await until(lambda: kme_a.links.states()["kme-b"]["connected"])
            assert (await a.get(ksid, 0)).status != Status.SUCCESS
        finally:
            await far.kill()


async def test_reserved_bits_grow_no_older_than_the_pair_allows(tmp_path):
    """``max_age_s`` of a link burns bits at both ends, handed out or not; the TTL of a stream does not stretch it."""
    pair = KmePair(tmp_path, stock_bits=1 << 18, etsi004={})
    for kme in ("kme-a", "kme-b"):
        text = pair.config(kme).read_text()
        pair.config(kme).write_text(text.replace("[[link]]", "[[link]]\nmax_age_s = 3"))
    async with running(pair, "sae-a1", "sae-b1") as (_, a, b):
        ksid = await joined(a, b, IMPATIENT)
        await chunk(b, ksid, 0)
        await asyncio.sleep(5)
        assert (await a.get(ksid, 0)).status != Status.SUCCESS


async def test_a_key_manager_whose_metadata_say_simulated_feeds_no_link_that_says_otherwise(tmp_path, rig):  # noqa: F811
    """As by ETSI GS QKD 014: whoever declares real devices and pulls from a simulation gets an alarm and no bits."""

    async def twist(site, call, answer):
        if isinstance(answer, GetKeyResponse) and answer.key:
            metadata = json.dumps({"age": 1, "hops": 0, "shosoin_kind": "simulated-qkd", "shosoin_simulated": True})
            return replace(answer, metadata=metadata.encode())
        return answer

    rig.vendor.twist = twist
    async with ends(tmp_path, rig) as (here, there):
        await there.greet(await here.prepare())
        with pytest.raises(UndeclaredSimulation):
            await here.draw(512, 512)


async def test_our_own_simulated_key_managers_feed_no_link_that_says_otherwise(tmp_path):
    """The lower pair is simulated; the upper pair's configuration calls its bits ``qkd``."""
    (tmp_path / "below").mkdir()
    (tmp_path / "above").mkdir()
    below = KmePair(tmp_path / "below", stock_bits=1 << 20, etsi004={})

    def link(kme):
        own, peer = ("sae-a1", "sae-b1") if kme == "kme-a" else ("sae-b1", "sae-a1")
        files = below.saes[own]
        return f"""kind = "etsi004"
[link.etsi004]
{PACE}
host = "127.0.0.1"
port = {below.etsi004_port[kme]}
server_name = "{kme}"
source = "qkd://{own}"
destination = "qkd://{peer}"
certificate = "{files.certificate}"
key = "{files.key}"
ca = "{below.sae_plane.certificate}"
chunk_bytes = 512
timeout_s = 4
origin = "qkd"
"""

    above = KmePair(tmp_path / "above", stock_bits=1 << 20, source=link)
    async with below.running(), above.running() as kmes:
        source = kmes["kme-a"].links._sources["kme-b"]
        await until(lambda: source.condition == "failed: source.undeclared_simulation" or _stock(kmes) > 0)
        assert _stock(kmes) == 0


def _stock(kmes):
    return sum(kme.kme.status(*saes).stored_key_count for kme, saes in _masters(kmes))


def _masters(kmes):
    return ((kmes["kme-a"], ("sae-a1", "sae-b1")), (kmes["kme-b"], ("sae-b1", "sae-a1")))


def recording(path, run, bits):
    write_recording(path, RecordingHeader(run, "qkd", len(bits) // 512, 512), bits)


def test_a_recording_that_another_was_put_in_the_place_of_is_not_read_under_the_old_name(tmp_path):
    """Else the new run's chunks are used under the old run's marks, and after a restart once more under its own."""
    path = tmp_path / "run"
    recording(path, uuid.uuid4().hex, os.urandom(8 * 512))
    open_one = Recording(path)
    open_one.read(0)
    path.unlink()
    recording(path, uuid.uuid4().hex, os.urandom(8 * 512))
    with pytest.raises(Rejected):
        open_one.read(2)


def test_one_run_feeds_one_link(tmp_path):
    """Two links of a KME that replay one run would share their bits: what one peer holds is the other pair's key."""
    recording(tmp_path / "run", uuid.uuid4().hex, os.urandom(8 * 512))
    recording(tmp_path / "other", uuid.uuid4().hex, os.urandom(8 * 512))
    (tmp_path / "copy").write_bytes((tmp_path / "run").read_bytes())

    def replay(name):
        return f'kind = "replay"\n[link.replay]\nfile = "{tmp_path / name}"\n'

    def config_with(second):
        root = tmp_path / second
        pair = KmePair(_made(tmp_path / f"of-{second}"), source=lambda _: replay("run"))
        text = pair.config("kme-a").read_text()
        port = pair.peer_port["kme-b"]
        more = f'[[link]]\npeer = "kme-c"\nhost = "127.0.0.1"\nport = {port}\nmax_stock_bits = 4194304\n'
        pair.config("kme-a").write_text(text + more + 'pair_secret_file = "pair.secret2"\n' + replay(second))
        assert root.exists()
        return load_kme_config(pair.config("kme-a"))

    check_recordings(config_with("other").sources)
    for second in ("run", "copy"):
        with pytest.raises(Rejected, match="replay the same run"):
            check_recordings(config_with(second).sources)


def _made(path):
    path.mkdir()
    return path


@pytest.mark.parametrize(
    "dsn",
    [
        "host=localhost.example.org dbname=keys",
        "host=127.example.org dbname=keys",
        "host=localhost hostaddr=192.0.2.7 dbname=keys",
        "host=::1234 dbname=keys",
    ],
)
def test_a_database_elsewhere_must_show_who_it_is_whatever_it_is_called(dsn):
    assert PostgresDatabase(dsn).parameters()["sslmode"] == "verify-full"
    with pytest.raises(Rejected, match="which server answers"):
        PostgresDatabase(f"{dsn} sslmode=prefer").parameters()


@pytest.mark.parametrize("dsn", ["host=localhost", "host=127.0.0.1", "host=/run/postgresql", "hostaddr=::1", ""])
def test_a_database_here_needs_no_certificate(dsn):
    assert "sslmode" not in PostgresDatabase(dsn).parameters()


def test_a_block_that_no_draw_can_fill_is_a_mistake_of_the_configuration(tmp_path):
    """4096 chunks make a block at most; a source that waits for more is dry for ever and says nothing wrong."""

    def link(_):
        files = 'certificate = "c"\nkey = "k"\nca = "a"\n'
        ends = 'host = "h"\nserver_name = "h"\nsource = "qkd://a"\ndestination = "qkd://b"\n'
        block = "chunk_bytes = 16\nmin_block_bits = 1048576\nmax_block_bits = 1048576\n"
        return f'kind = "etsi004"\n[link.etsi004]\n{ends}{files}{block}'

    with pytest.raises(Rejected, match="chunk_bytes"):
        load_kme_config(KmePair(tmp_path, source=link).config("kme-a"))


def test_keys_that_come_for_a_stock_that_gave_way_are_given_up_at_once():
    """Else they lie in memory past their second, and the owner counts them as held for as long as the worker lives."""
    told = []
    stocks = KeyStocks(lambda *what: told.append(what))
    first = stocks.begin("sae-a1", "sae-b1", 256)
    for size_bits in range(264, 264 + 8 * 300, 8):  # while a request of the first waits for the owner
        stocks.begin("sae-a1", "sae-b1", size_bits)
    grant = Grant(7, bytearray(b'{"keys":[{"key_ID":"x","key":"abcd"},{"key_ID":"y","key":"efgh"}]}'), 1e9)
    grant.take(1)
    first.put(grant)
    assert told[-1] == (7, 1, True)
    assert b"efgh" not in grant.text


async def test_workers_do_not_inherit_what_opens_the_stores(tmp_path, monkeypatch):
    """They face the network: neither the passphrase of the storage key nor the database's password is there."""
    monkeypatch.setenv("KME_PASSPHRASE", "open sesame, and be quick about it")
    monkeypatch.setenv("PGPASSWORD", "open sesame of the database")
    pair = KmePair(tmp_path, workers=2)
    text = pair.config("kme-a").read_text().replace('storage_key_file = "storage.key"\n', "")
    table = '[kme.storage_key]\nsource = "passphrase"\nscrypt_log2_n = 14\npassphrase_env = "KME_PASSPHRASE"\n\n'
    pair.config("kme-a").write_text(text.replace("[kme.sae_api]", f"{table}[kme.sae_api]"))
    async with pair.running("kme-a") as kmes:
        for pid in kmes["kme-a"].workers.pids:
            environment = psutil.Process(pid).environ()
            assert "PATH" in environment
            assert "sesame" not in str(environment)


def test_the_shortest_keys_of_a_vendor_do_not_come_twice_either():
    """ETSI GS QKD 014 allows keys of 64 bits, and so do we."""
    memory, key = BitMemory(SystemEntropy()), os.urandom(8)
    memory.look_at([key])
    with pytest.raises(BitsRepeated):
        memory.look_at([key])
