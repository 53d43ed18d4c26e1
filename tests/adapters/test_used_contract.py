"""What every memory of used key material must do, over restarts, crashes and when full: one suite for both kinds."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from itertools import count
from pathlib import Path

import pytest

from shosoin.adapters import used_tickets, used_tickets_postgres
from shosoin.adapters.postgres import PostgresDatabase
from shosoin.adapters.stream_store_postgres import PostgresStreamStore
from shosoin.adapters.used_tickets import TicketUsed, UsedTickets
from shosoin.adapters.used_tickets_postgres import PostgresUsedTickets
from shosoin.base import Unavailable
from shosoin.services.store_config import open_used
from tests.adapters.stream_store_places import KEY
from tests.support.postgres import running_postgres

ROOT = Path(__file__).resolve().parents[2]
NUMBERS = count()


@pytest.fixture(scope="module")
def server():
    with running_postgres() as running:
        yield running


def open_pair(dsn, schema, **options):
    return PostgresStreamStore(PostgresDatabase(dsn, schema), "kme-a", "kme-b", KEY, **options)


class InFile:
    def __init__(self, path):
        self.path, self.spec = path, ["file", str(path)]

    def open(self, **options):
        self.used = UsedTickets(self.path, **options)
        return self.used

    def close(self):
        self.used.close()

    def rows(self, table="used"):
        return sqlite3.connect(self.path).execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]


class InDatabase:
    def __init__(self, server, schema):
        self.server, self.schema, self.spec = server, schema, ["postgres", server.dsn, schema]

    def open(self, **options):
        self.store = open_pair(self.server.dsn, self.schema, wait_s=5.0)
        return PostgresUsedTickets(self.store.owner, self.schema, **options)

    def close(self):
        self.store.close()

    def rows(self, table="used"):
        return self.server.execute(f"SELECT COUNT(*) FROM {self.schema}.{table}")[0][0]


@pytest.fixture(params=["file", "postgres"])
def place(request, tmp_path):
    if request.param == "file":
        return InFile(tmp_path / "used.sqlite")
    return InDatabase(request.getfixturevalue("server"), f"used_{next(NUMBERS)}")


def ticket(number):
    return number.to_bytes(16, "big")


async def test_a_ticket_is_good_once_and_the_rest_of_a_refused_claim_is_spent(place):
    used = place.open()
    await used.claim([ticket(1), ticket(2)])
    for repeated in ([ticket(2), ticket(3)], [ticket(3)], [ticket(4), ticket(4)], [ticket(4)]):
        with pytest.raises(TicketUsed):
            await used.claim(repeated)
    await used.claim([ticket(5)])
    await used.claim([])
    place.close()
    used = place.open()
    with pytest.raises(TicketUsed):
        await used.claim([ticket(6), ticket(1)])
    place.close()


async def test_only_the_newest_are_kept(place):
    used = place.open(keep=10)
    for number in range(100):
        await used.claim([ticket(number)])
    with pytest.raises(TicketUsed):
        await used.claim([ticket(95)])
    await used.claim([ticket(3)])
    place.close()
    assert place.rows() <= 11


async def test_a_mark_only_rises(place):
    used = place.open()
    assert await used.mark("s") == 0
    await used.raise_mark("s", 0, 5)
    await used.raise_mark("s", 9, 12)
    for first, last in ((12, 20), (0, 99), (30, 29)):
        with pytest.raises(TicketUsed):
            await used.raise_mark("s", first, last)
    place.close()
    used = place.open()
    assert (await used.mark("s"), await used.mark("other")) == (13, 0)
    place.close()


async def test_streams_that_were_used_long_ago_are_over_and_new_ones_begin(place, monkeypatch):
    for module in (used_tickets, used_tickets_postgres):
        monkeypatch.setattr(module, "MARKS_MAX", 3)
    used = place.open()
    for number in range(20):
        await used.raise_mark(f"s{number}", 0, 5)
        await used.raise_mark("lasting", number, number)
    assert place.rows("mark") <= 3
    place.close()
    used = place.open()
    for number in range(18):
        assert await used.mark(f"s{number}") > 1 << 60
        with pytest.raises(TicketUsed, match="the stream is over"):
            await used.raise_mark(f"s{number}", 6, 1 << 53)
    assert await used.mark("lasting") == 20
    await used.raise_mark("s19", 6, 6)
    await used.raise_mark("new", 0, 0)
    place.close()


async def test_two_at_once_share_nothing(place):
    used = place.open()
    claims = [used.claim([ticket(number), ticket(number + 1)]) for number in range(0, 40, 2)]
    assert await asyncio.gather(*claims) == [None] * 20
    outcomes = await asyncio.gather(*(used.claim([ticket(99)]) for _ in range(5)), return_exceptions=True)
    assert sorted(map(type, outcomes), key=str) == sorted([type(None), *[TicketUsed] * 4], key=str)
    place.close()


async def test_a_claim_survives_a_process_that_is_killed(place):
    """The claim returned, then the process died without closing anything."""
    code = (
        "import asyncio, os, pathlib, sys\n"
        "from shosoin.adapters.used_tickets import UsedTickets\n"
        "from shosoin.adapters.used_tickets_postgres import PostgresUsedTickets\n"
        "from tests.adapters.test_used_contract import open_pair\n"
        "kind, where, *schema = sys.argv[1:]\n"
        "if kind == 'file':\n"
        "    used = UsedTickets(pathlib.Path(where))\n"
        "else:\n"
        "    used = PostgresUsedTickets(open_pair(where, *schema).owner, *schema)\n"
        "asyncio.run(used.claim([bytes(15) + bytes([7])]))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *place.spec, cwd=ROOT)
    assert await process.wait() == -9
    used = place.open()
    with pytest.raises(TicketUsed):
        await used.claim([ticket(7)])
    place.close()


async def test_what_cannot_be_recorded_cannot_be_used(place):
    used = place.open()
    place.close()
    with pytest.raises(Unavailable, match="cannot be recorded") as refused:
        await used.claim([ticket(1)])
    assert refused.value.code == "source.record"


# Beside the streams of a pair


async def test_whoever_has_lost_the_pair_records_nothing(server):
    place = InDatabase(server, f"used_{next(NUMBERS)}")
    used = place.open()
    server.execute(f"UPDATE {place.schema}.pair SET token = token + 1")  # as a successor does
    with pytest.raises(Unavailable, match="another process has taken"):
        await used.claim([ticket(1)])
    assert place.rows() == 0
    place.close()


async def test_pairs_know_nothing_of_each_other(server):
    schema = f"used_{next(NUMBERS)}"
    stores = [
        PostgresStreamStore(PostgresDatabase(server.dsn, schema), "kme-a", peer, KEY) for peer in ("kme-b", "kme-c")
    ]
    one, other = (PostgresUsedTickets(store.owner, schema) for store in stores)
    await one.claim([ticket(1)])
    await one.raise_mark("s", 0, 9)
    await other.claim([ticket(1)])
    assert await other.mark("s") == 0
    for store in stores:
        store.close()


async def test_what_a_file_remembers_moves_into_the_database(server, tmp_path, monkeypatch):
    monkeypatch.setattr(used_tickets, "MARKS_MAX", 2)
    before = UsedTickets(tmp_path / "used.sqlite")
    await before.claim([ticket(1), ticket(2)])
    for stream in ("old", "s", "t"):
        await before.raise_mark(stream, 0, 9)
    assert await before.mark("old") > 1 << 60
    before.close()
    schema = f"used_{next(NUMBERS)}"
    store = open_pair(server.dsn, schema)
    copy = (tmp_path / "used.sqlite").read_bytes()
    for _ in range(2):
        used = open_used(store, schema, tmp_path)
        with pytest.raises(TicketUsed):
            await used.claim([ticket(2)])
        assert await used.mark("s") == 10
        assert await used.mark("old") > 1 << 60
        assert not list(tmp_path.iterdir()), "the file is not needed any more"
    monkeypatch.setattr(used_tickets_postgres, "MARKS_MAX", 2)
    for stream in ("u", "v", "w"):  # until "s" is over
        await used.raise_mark(stream, 0, 0)
    (tmp_path / "used.sqlite").write_bytes(copy)  # as a crash may bring it back
    used = open_used(store, schema, tmp_path)
    assert await used.mark("s") > 1 << 60
    store.close()


def test_tables_of_the_first_version_get_what_they_lack(server):
    schema = f"used_{next(NUMBERS)}"
    open_pair(server.dsn, schema).close()
    for name in ("copy", "sent", "used", "mark", "ended"):
        server.execute(f"DROP TABLE {schema}.{name}")
    server.execute(f"UPDATE {schema}.format SET version = 1")
    open_pair(server.dsn, schema).close()
    assert server.execute(f"SELECT COUNT(*) FROM {schema}.used") == [(0,)]
