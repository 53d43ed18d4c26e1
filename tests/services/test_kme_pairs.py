"""Burning and re-keying a pair between two real KMEs: what was before is gone, what comes after works."""

import json
import os
import shutil
from contextlib import closing

import pytest

from shosoin.adapters.private_files import create_private
from shosoin.adapters.stream_store import FileStreamStore
from shosoin.base import Denied, Rejected, Unavailable
from shosoin.keys.errors import StreamRefused
from shosoin.services import kme_pairs
from shosoin.services.kme_config import load_kme_config
from shosoin.services.kme_pairs import burn, heal, make_secret, peers_to_heal, rekey
from tests.services.test_etsi014 import Raw
from tests.support.kme import KmePair, until, until_stock

pytestmark = pytest.mark.processes

KMES = ("kme-a", "kme-b")


@pytest.fixture
def pair(tmp_path):
    return KmePair(tmp_path, stock_bits=1 << 17, speedup=20.0)


@pytest.fixture
def secret(tmp_path):
    make_secret(tmp_path / "new.secret")
    return tmp_path / "new.secret"


def config(pair, kme):
    return load_kme_config(pair.config(kme))


def other(kme):
    return "kme-b" if kme == "kme-a" else "kme-a"


def blocks(pair, kme):
    return {path.name for path in pair.directory(kme).glob("links/*/blocks/*")}


def events(pair, kme):
    """Return what a KME that ran in this process wrote down of its links."""
    return json.loads((pair.directory(kme) / "links.json").read_text())


async def before(pair):
    """Let both KMEs run; return two keys of each direction that nobody has fetched, and stop cleanly."""
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 8)
        await until_stock(b, "sae-a1", 8)
        drawn = await a.enc_keys("sae-b1", number=3, size_bits=256)
        back = await b.enc_keys("sae-a1", number=2, size_bits=256)
        await b.dec_keys("sae-a1", [drawn[0].key_id])
        return [key.key_id for key in drawn], [key.key_id for key in back]


async def assert_gone_and_new_keys_work(pair, a, b, drawn, back):
    for key_id in drawn:
        with pytest.raises(Rejected, match="not found"):
            await b.dec_keys("sae-a1", [key_id])
    for key_id in back:
        with pytest.raises(Rejected, match="not found"):
            await a.dec_keys("sae-b1", [key_id])
    for master, slave, here, there in (("sae-a1", "sae-b1", a, b), ("sae-b1", "sae-a1", b, a)):
        await until_stock(here, slave, 2)
        (key,) = await here.enc_keys(slave, number=1, size_bits=256)
        assert key.key_id not in [*drawn, *back]
        (fetched,) = await there.dec_keys(master, [key.key_id])
        assert fetched.material == key.material


# Burning


@pytest.mark.parametrize("kme", KMES)
async def test_a_burn_at_one_end_burns_both_and_the_pair_goes_on(pair, kme):
    drawn, back = await before(pair)
    old = {name: blocks(pair, name) for name in KMES}
    assert all(old.values())
    held = burn(config(pair, kme), other(kme), dry_run=False).held[other(kme)]
    assert held.blocks == len(old[kme])
    assert not blocks(pair, kme)
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 2)
        await assert_gone_and_new_keys_work(pair, a, b, drawn, back)
        for name in KMES:
            assert not old[name] & blocks(pair, name), "a block of before the burn is still there"


async def test_the_end_that_went_on_running_burns_when_the_other_comes_back(pair):
    async with pair.running("kme-b") as running, pair.client("sae-b1") as b:
        async with pair.running("kme-a"), pair.client("sae-a1") as a:
            await until_stock(a, "sae-b1", 8)
            drawn = [key.key_id for key in await a.enc_keys("sae-b1", number=3, size_bits=256)]
        old = blocks(pair, "kme-b")
        burn(config(pair, "kme-a"), "kme-b", dry_run=False)
        async with pair.running("kme-a"), pair.client("sae-a1") as a:
            await until(lambda: running["kme-b"].link_states()["kme-a"]["connected"])
            await until(lambda: not old & blocks(pair, "kme-b"))
            await assert_gone_and_new_keys_work(pair, a, b, drawn, [])


async def test_a_dry_run_and_a_running_kme_burn_nothing(pair):
    await before(pair)
    old = blocks(pair, "kme-a")
    assert burn(config(pair, "kme-a"), "kme-b", dry_run=True).held["kme-b"].blocks == len(old)
    async with pair.running("kme-a"):
        for dry_run in (True, False):
            with pytest.raises(Unavailable, match="in use by a running KME"):
                burn(config(pair, "kme-a"), "kme-b", dry_run=dry_run)
    assert blocks(pair, "kme-a") == old


async def test_healing_burns_earlier_links_too(pair):
    await before(pair)
    links = pair.directory("kme-a") / "links"
    shutil.copytree(links / "kme-b", links / "kme-old")
    found = config(pair, "kme-a")
    assert peers_to_heal(found) == ["kme-b", "kme-old"]
    heal(found, dry_run=False, keep_secrets=True)
    assert not blocks(pair, "kme-a")


async def test_a_healed_pair_tells_the_other_end_to_burn_and_stays_closed_until_it_is_rekeyed(pair, secret):
    drawn, back = await before(pair)
    old = blocks(pair, "kme-b")
    heal(config(pair, "kme-a"), dry_run=False)
    burn(config(pair, "kme-a"), "kme-b", dry_run=False)  # does not take it back
    for _ in range(2):
        async with pair.running(), pair.client("sae-a1") as a:
            await until(lambda: "awaits another pair secret" in events(pair, "kme-a")["kme-b"].get("reason", ""))
            await until(lambda: not old & blocks(pair, "kme-b"))
            with pytest.raises(Unavailable, match="awaits another pair secret"):
                await a.enc_keys("sae-b1", number=1, size_bits=256)
            assert not blocks(pair, "kme-a")
    for kme in KMES:
        rekey(config(pair, kme), other(kme), secret, dry_run=False)
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 2)
        await assert_gone_and_new_keys_work(pair, a, b, drawn, back)


async def test_a_copy_of_a_disk_from_before_a_heal_stays_closed(pair, tmp_path):
    await before(pair)
    directory = pair.directory("kme-a")
    shutil.copytree(directory, tmp_path / "copy")
    heal(config(pair, "kme-a"), dry_run=False)
    async with pair.running():
        await until(lambda: "awaits another pair secret" in events(pair, "kme-b")["kme-a"].get("reason", ""))
    shutil.rmtree(directory)
    shutil.copytree(tmp_path / "copy", directory)
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        for kme in KMES:
            await until(lambda: "awaits another pair secret" in events(pair, kme)[other(kme)].get("reason", ""))  # noqa: B023
        for client, slave in ((a, "sae-b1"), (b, "sae-a1")):
            with pytest.raises(Unavailable, match="awaits another pair secret"):
                await client.enc_keys(slave, number=1, size_bits=256)


async def test_healing_burns_what_it_can_read_and_names_the_rest(pair):
    await before(pair)
    links = pair.directory("kme-a") / "links"
    shutil.copytree(links / "kme-b", links / "kme-0")
    for journal in (links / "kme-0").glob("journal.sqlite*"):
        journal.unlink()
    found = config(pair, "kme-a")
    done = heal(found, dry_run=False, keep_secrets=True)
    assert set(done.refused) == {"kme-0"}
    assert done.held["kme-b"].blocks > 0
    assert not list((links / "kme-b" / "blocks").iterdir())


async def test_a_burn_of_a_pair_that_never_ran_makes_nothing(pair):
    async with pair.running("kme-a"):
        pass
    shutil.rmtree(pair.directory("kme-a") / "links")
    assert burn(config(pair, "kme-a"), "kme-b", dry_run=False).held["kme-b"].blocks == 0
    assert not (pair.directory("kme-a") / "links").exists()


@pytest.mark.parametrize(("peer", "hint"), [("kme-c", "did you mean 'kme-b'"), ("x", "its peers are kme-b")])
async def test_an_unknown_peer_is_rejected(pair, secret, peer, hint):
    for action in (
        lambda: burn(config(pair, "kme-a"), peer, dry_run=False),
        lambda: rekey(config(pair, "kme-a"), peer, secret, dry_run=False),
    ):
        with pytest.raises(Rejected, match="has no pair with") as raised:
            action()
        assert hint in raised.value.hint


@pytest.mark.parametrize("kme", KMES)
async def test_copies_of_multicast_keys_are_burned_with_the_pair(pair, kme):
    wanted = {"number": 2, "size": 256, "additional_slave_SAE_IDs": ["sae-b2"]}
    async with pair.running(), pair.client("sae-a1") as client, Raw(pair, "sae-a1") as a1:
        await until_stock(client, "sae-b1", 64)
        status, body = await a1.ask("POST", "/api/v1/keys/sae-b1/enc_keys", json=wanted)
        assert status == 200, body
        first, second = ({"key_IDs": [{"key_ID": key["key_ID"]}]} for key in body["keys"])
    async with pair.running(), pair.client("sae-b1") as client, Raw(pair, "sae-b2", "kme-b") as b2:
        await until_stock(client, "sae-a1", 1)
        assert (await b2.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=first))[0] == 200
    burn(config(pair, kme), other(kme), dry_run=False)
    async with pair.running(), pair.client("sae-b1") as client, Raw(pair, "sae-b2", "kme-b") as b2:
        await until_stock(client, "sae-a1", 1)
        assert (await b2.ask("POST", "/api/v1/keys/sae-a1/dec_keys", json=second))[0] == 400


# Re-keying


async def test_both_ends_rekeyed_leave_nothing_of_the_old_pair(pair, secret):
    drawn, back = await before(pair)
    old = pair.root / "kme-a" / "pair.secret"
    old_bytes, witness = old.read_bytes(), pair.root / "witness"
    os.link(old, witness)
    for kme in KMES:
        done = rekey(config(pair, kme), other(kme), secret, dry_run=False)
        assert done.held.blocks > 0
        assert not done.was_installed
        assert not blocks(pair, kme)
        assert (pair.root / kme / "pair.secret").read_bytes() == secret.read_bytes()
    assert witness.read_bytes() == bytes(1024)
    assert not any(old_bytes in path.read_bytes() for path in pair.root.rglob("*") if path.is_file())
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 2)
        await assert_gone_and_new_keys_work(pair, a, b, drawn, back)


async def test_with_one_end_rekeyed_the_pair_refuses_with_the_reason_and_opens_after(pair, secret):
    drawn, back = await before(pair)
    rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False)
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until(lambda: all("reason" in events(pair, kme)[other(kme)] for kme in KMES))
        for kme in KMES:
            assert "one end was re-keyed and the other was not" in events(pair, kme)[other(kme)]["reason"]
        for client, slave in ((a, "sae-b1"), (b, "sae-a1")):
            with pytest.raises(Unavailable, match="does not prove that it holds our pair secret"):
                await client.enc_keys(slave, number=1, size_bits=256)
        with pytest.raises(Unavailable):
            await b.dec_keys("sae-a1", [drawn[1]])
    rekey(config(pair, "kme-b"), "kme-a", secret, dry_run=False)
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 2)
        await assert_gone_and_new_keys_work(pair, a, b, drawn, back)
        await until(lambda: all("reason" not in events(pair, kme)[other(kme)] for kme in KMES))


async def test_interrupted_between_journal_and_secret_the_pair_refuses_until_it_is_repeated(pair, secret, monkeypatch):
    await before(pair)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kme_pairs, "replace_private", die)
        with pytest.raises(KeyboardInterrupt):
            rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False)
    assert not blocks(pair, "kme-a")
    async with pair.running("kme-a") as running:
        state = running["kme-a"].link_states()["kme-b"]
        assert state["refused"] is True
        assert "another pair, format or pair secret" in state["reason"]
    assert rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False).was_installed
    assert rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False).was_installed
    async with pair.running("kme-a") as running:
        assert not running["kme-a"].link_states()["kme-b"]["refused"]


@pytest.mark.parametrize("moment", range(2))
async def test_a_crash_in_the_store_leaves_the_old_pair_or_the_new_one(pair, secret, monkeypatch, moment):
    await before(pair)
    seen, real = 0, os.fdatasync

    def sync(descriptor):
        nonlocal seen
        seen += 1
        if seen > moment:
            raise KeyboardInterrupt
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", sync)
        with pytest.raises(KeyboardInterrupt):
            burn(config(pair, "kme-a"), "kme-b", dry_run=False)
    assert burn(config(pair, "kme-a"), "kme-b", dry_run=False).held["kme-b"].blocks == 0
    assert not blocks(pair, "kme-a")
    with monkeypatch.context() as patch:
        patch.setattr(FileStreamStore, "commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False)
    assert (pair.root / "kme-a" / "pair.secret").read_bytes() != secret.read_bytes()
    assert not rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False).was_installed


async def test_a_secret_of_before_is_refused(pair, secret, tmp_path):
    await before(pair)
    old = tmp_path / "old.secret"
    create_private(old, (pair.root / "kme-a" / "pair.secret").read_bytes())
    assert rekey(config(pair, "kme-a"), "kme-b", old, dry_run=False).was_installed
    assert blocks(pair, "kme-a"), "the secret in place burns nothing"
    rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False)
    with pytest.raises(Rejected, match="used this secret before"):
        rekey(config(pair, "kme-a"), "kme-b", old, dry_run=False)


@pytest.mark.parametrize(
    ("content", "mode", "kind", "message"),
    [
        (b"x" * 1024, 0o600, Rejected, "1 different values"),
        (os.urandom(1000), 0o600, Rejected, "has 1024 bytes, got 1000"),
        (os.urandom(1025), 0o600, Rejected, "longer than 1024"),
        (os.urandom(1024), 0o644, Denied, "can be read or changed by others"),
    ],
)
async def test_what_is_no_pair_secret_changes_nothing(pair, tmp_path, content, mode, kind, message):
    await before(pair)
    path = tmp_path / "bad.secret"
    path.write_bytes(content)
    path.chmod(mode)
    old = (pair.root / "kme-a" / "pair.secret").read_bytes()
    with pytest.raises(kind, match=message):
        rekey(config(pair, "kme-a"), "kme-b", path, dry_run=False)
    assert blocks(pair, "kme-a")
    assert (pair.root / "kme-a" / "pair.secret").read_bytes() == old


async def test_a_dry_run_of_rekeying_changes_nothing(pair, secret):
    await before(pair)
    old = (pair.root / "kme-a" / "pair.secret").read_bytes()
    assert rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=True).held.blocks == len(blocks(pair, "kme-a")) > 0
    assert (pair.root / "kme-a" / "pair.secret").read_bytes() == old


async def test_a_damaged_journal_is_discarded_only_when_told_to(pair, secret, tmp_path):
    drawn, back = await before(pair)
    for journal in pair.directory("kme-a").glob("links/*/journal.sqlite*"):
        journal.unlink()
    found, old = config(pair, "kme-a"), tmp_path / "old.secret"
    create_private(old, (pair.root / "kme-a" / "pair.secret").read_bytes())
    with pytest.raises(StreamRefused) as raised:
        rekey(found, "kme-b", secret, dry_run=False)
    assert "--discard-damaged" in raised.value.hint
    with pytest.raises(Rejected, match="used this secret before"):
        rekey(found, "kme-b", old, dry_run=False, discard_damaged=True)
    assert rekey(found, "kme-b", secret, dry_run=True, discard_damaged=True).discarded
    assert blocks(pair, "kme-a")
    assert rekey(found, "kme-b", secret, dry_run=False, discard_damaged=True).discarded
    assert not blocks(pair, "kme-a")
    rekey(config(pair, "kme-b"), "kme-a", secret, dry_run=False)
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 2)
        await assert_gone_and_new_keys_work(pair, a, b, drawn, back)


async def test_damaged_copies_hinder_no_burn_and_are_discarded_only_when_told_to(pair, secret):
    await before(pair)
    copies = pair.directory("kme-a") / "copies.sqlite"
    copies.write_bytes(b"damaged" * 1000)
    assert set(heal(config(pair, "kme-a"), dry_run=False, keep_secrets=True).refused) == {"kme-b"}
    assert not blocks(pair, "kme-a")
    with pytest.raises(StreamRefused):
        rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False)
    assert rekey(config(pair, "kme-a"), "kme-b", secret, dry_run=False, discard_damaged=True).discarded
    assert not copies.exists()


async def test_rekeying_installs_the_first_secret_as_well(pair, secret):
    for kme in KMES:
        (pair.root / kme / "pair.secret").unlink()
        rekey(config(pair, kme), other(kme), secret, dry_run=False)
        assert (pair.root / kme / "pair.secret").stat().st_mode & 0o777 == 0o600
    async with pair.running(), pair.client("sae-a1") as a, pair.client("sae-b1") as b:
        await until_stock(a, "sae-b1", 2)
        await assert_gone_and_new_keys_work(pair, a, b, [], [])


def test_a_new_secret_is_private_random_and_never_overwrites(tmp_path):
    for name in ("one", "two"):
        make_secret(tmp_path / name)
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    first, second = ((tmp_path / name).read_bytes() for name in ("one", "two"))
    assert len(first) == len(second) == 1024
    assert first != second
    with pytest.raises(Rejected, match="exists already"):
        make_secret(tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == first


def test_stores_are_closed_whatever_happens(pair):
    with pytest.raises(Rejected):
        burn(config(pair, "kme-a"), "kme-b", dry_run=False)
    pair.directory("kme-a").mkdir()
    place = pair.directory("kme-a") / "links" / "kme-b"
    create_private(pair.root / "kme-a" / "storage.key", bytes(range(32)))
    for _ in range(2):
        with closing(FileStreamStore(place, bytes(range(32)))) as store:
            assert store.load() == {}
        assert burn(config(pair, "kme-a"), "kme-b", dry_run=False).held["kme-b"].blocks == 0
