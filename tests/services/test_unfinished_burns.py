"""A burn that something ends between a pair's journal and its multicast copies: the copies are served to nobody.

The stores are real files and a real PostgreSQL server, and what ends the burn is SIGKILL.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager
from itertools import count

import pytest

from shosoin.adapters.copy_store import COPIES_NAME
from shosoin.base import KmeId, SaeId
from shosoin.keys.blocks import load_record
from shosoin.keys.copies import HeldCopy
from shosoin.keys.errors import StreamNotReady
from shosoin.keys.pair import PAIR_RECORD
from shosoin.services.kme_config import load_kme_config
from shosoin.services.kme_stores import open_store
from shosoin.services.storage_key import storage_key
from tests.services.test_etsi014 import Raw
from tests.support.admin import Administration
from tests.support.kme import KmePair, until, until_stock
from tests.support.postgres import running_postgres

pytestmark = pytest.mark.processes
B, C = KmeId("kme-b"), KmeId("kme-c")
SENT = [("key-sent", SaeId("sae-b1"), B), ("key-other", SaeId("sae-c1"), C)]
SCHEMAS = (f"burns_{number}" for number in count())

BURNING = """
import os, pathlib, signal, sys
from shosoin.services import kme_pairs
from shosoin.services.kme_config import load_kme_config

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(*values, real=kme_pairs.burn_copies):
    real(*values)
    die()

if sys.argv[2] == "before the journal":
    kme_pairs.burn_steps = die
else:
    kme_pairs.burn_copies = die if sys.argv[2] == "before the copies" else then_die
kme_pairs.burn(load_kme_config(pathlib.Path(sys.argv[1])), "kme-b", dry_run=False)
"""
STARTING = """
import os, pathlib, signal, sys
from shosoin.services import kme

def die():
    os.kill(os.getpid(), signal.SIGKILL)

async def burn_copies(self, peer, real=kme.KmeProcess._burn_copies):
    if sys.argv[2] == "before the copies":
        die()
    await real(self, peer)
    die()

kme.KmeProcess._burn_copies = burn_copies
kme.run(pathlib.Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def server():
    with running_postgres(fsync=False) as running:
        yield running


class Place:
    """Where KMEs keep their state."""

    def __init__(self, root, server):
        self.server, self.schema = server, next(SCHEMAS)
        dsn = "" if server is None else f'kind = "postgresql"\ndsn = "{server.dsn}"\nschema = "{self.schema}"'
        self.pair = KmePair(root, stock_bits=1 << 17, speedup=20.0, store=dsn)

    def killed(self, program, at):
        """Run a program that kills itself at a place on its way."""
        done = subprocess.run(
            [sys.executable, "-c", program, str(self.pair.config("kme-a")), at], capture_output=True, check=False
        )
        assert done.returncode == -9, done.stderr[-2000:]

    @contextmanager
    def copies_stuck(self):
        """Let ``kme-a``'s database refuse to remove copies."""
        if self.server is None:
            with closing(sqlite3.connect(self.pair.directory("kme-a") / COPIES_NAME)) as database:
                database.execute(
                    "CREATE TRIGGER stuck BEFORE DELETE ON copy BEGIN SELECT RAISE(ABORT, 'disk I/O error'); END"
                )
                yield
                database.execute("DROP TRIGGER stuck")
            return
        self.server.execute(
            f"CREATE FUNCTION {self.schema}.stuck() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN RAISE EXCEPTION ''disk full'' USING ERRCODE = ''53100''; END'"
        )
        self.server.execute(
            f"CREATE TRIGGER stuck BEFORE DELETE ON {self.schema}.copy"
            f" FOR EACH STATEMENT EXECUTE FUNCTION {self.schema}.stuck()"
        )
        yield
        self.server.execute(f"DROP TRIGGER stuck ON {self.schema}.copy")

    def owes_copies(self):
        config = load_kme_config(self.pair.config("kme-a"))
        with closing(open_store(config, "kme-b", storage_key(config))) as store:
            return load_record(store.load()[PAIR_RECORD])["owes_copies"]


@pytest.fixture(params=["files", "postgresql"])
def place(request, tmp_path):
    return Place(tmp_path, request.getfixturevalue("server") if request.param == "postgresql" else None)


def copy(key_id, peer):
    slave = SaeId("sae-a1")
    return HeldCopy(
        key_id, slave, SaeId("sae-b1"), peer, 4e9, 32, frozenset({slave}), key_id.encode() * 4, simulated=False
    )


async def filled(pair):
    """Let ``kme-a`` run alone, and hold what came from two KMEs and was sent to two."""
    async with pair.running("kme-a") as processes:
        copies = processes["kme-a"]._copies
        await copies.do(lambda store: store.add_held([copy("key-held", B), copy("key-else", C)]))
        await copies.do(lambda store: store.add_sent(SENT, 4e9))


async def still_there(pair):
    """Let ``kme-a`` run alone; return what may be fetched there, and which of the other KMEs may claim something."""
    async with pair.running("kme-a") as processes:
        process = processes["kme-a"]
        assert process.links.pairs[B].is_settled
        held = {key_id for _, key_id in process._multicast._held}
        assert held == {one.key_id for one in await process._copies.do(lambda store: store.index())}
        claimed = [
            await process._copies.do(lambda store, row=row: store.claim(row[2], row[1], [row[0]])) for row in SENT
        ]
        return held, {row[2] for row, was_there in zip(SENT, claimed, strict=True) if was_there}


KEPT, GONE = ({"key-held", "key-else"}, {B, C}), ({"key-else"}, {C})


@pytest.mark.parametrize(
    ("burning", "starting", "left"),
    [
        ("before the journal", None, KEPT),
        ("before the copies", None, GONE),
        ("before the copies", "before the copies", GONE),
        ("before the copies", "after the copies", GONE),
        ("after the copies", "before the copies", GONE),
    ],
)
async def test_wherever_kill_9_ends_a_burn_the_next_start_finishes_what_became_durable(place, burning, starting, left):
    await filled(place.pair)
    place.killed(BURNING, burning)
    assert place.owes_copies() == (left is GONE)
    if starting is not None:
        place.killed(STARTING, starting)
        assert place.owes_copies()
    assert await still_there(place.pair) == left
    assert not place.owes_copies()


async def drawn(raw, slave, more):
    wanted = {"number": 1, "size": 256, "additional_slave_SAE_IDs": [more]}
    status, body = await raw.ask("POST", f"/api/v1/keys/{slave}/enc_keys", json=wanted)
    assert status == 200, body
    return body["keys"]


async def fetched(raw, master, keys):
    wanted = {"key_IDs": [{"key_ID": key["key_ID"]} for key in keys]}
    return (await raw.ask("POST", f"/api/v1/keys/{master}/dec_keys", json=wanted))[0]


async def test_copies_that_a_running_kme_cannot_burn_are_given_to_nobody_until_they_are(place):
    pair, admin = place.pair, Administration(place.pair)
    async with (
        pair.running() as processes,
        pair.client("sae-a1") as a,
        pair.client("sae-b1") as b,
        Raw(pair, "sae-a1") as a1,
        Raw(pair, "sae-a2") as a2,
        Raw(pair, "sae-b1", "kme-b") as b1,
        Raw(pair, "sae-b2", "kme-b") as b2,
    ):
        process = processes["kme-a"]
        await until_stock(a, "sae-b1", 64)
        await until_stock(b, "sae-a1", 64)
        sent, held = await drawn(a1, "sae-b1", "sae-b2"), await drawn(b1, "sae-a1", "sae-a2")
        with place.copies_stuck():
            status, answer = await admin.ask("sec", "POST", "/v1/pairs/kme-b/burn", {})
            assert status == 503
            assert "copies shared with kme-b are to be burned and cannot be" in answer["message"]
            await until(lambda: "to be burned" in process.link_states()["kme-b"].get("reason", ""))
            await process._multicast.refresh()  # a store that failed is read anew
            claim = json.dumps({"slave": "sae-b2", "key_ids": [sent[0]["key_ID"]]}).encode()
            with pytest.raises(StreamNotReady, match="was burned"):
                next(process._multicast.serving_claim(B, claim))
            assert await fetched(b2, "sae-a1", sent) == 503
            assert await fetched(a2, "sae-b1", held) in {400, 503}
        await until(lambda: process.link_states()["kme-b"]["open"])
        await until(lambda: all(each.links.requests.is_connected(other) for each, other in both(processes)))
        assert await fetched(b2, "sae-a1", sent) == 400
        assert await fetched(a2, "sae-b1", held) == 400
        await until_stock(a, "sae-b1", 64)
        new = await drawn(a1, "sae-b1", "sae-b2")
        assert await fetched(b2, "sae-a1", new) == 200


def both(processes):
    return (processes["kme-a"], B), (processes["kme-b"], KmeId("kme-a"))


async def test_of_a_pair_whose_journal_cannot_be_read_no_copy_is_given_out(tmp_path):
    """Whether it says that a burn is unfinished cannot be told."""
    place = Place(tmp_path, None)
    await filled(place.pair)
    (journal,) = place.pair.directory("kme-a").glob("links/kme-b/journal.sqlite")
    journal.write_bytes(b"?" * 8192)
    async with place.pair.running("kme-a") as processes:
        process = processes["kme-a"]
        assert process.link_states()["kme-b"]["refused"]
        multicast = process._multicast
        with pytest.raises(StreamNotReady, match="was burned"):
            next(multicast.serving_claim(B, json.dumps({"slave": "sae-b1", "key_ids": ["key-sent"]}).encode()))
        waiting = multicast.check(SaeId("sae-a1"), SaeId("sae-b1"), ["key-held"])
        with pytest.raises(StreamNotReady, match="was burned"):
            next(multicast.taking(waiting, bool))
