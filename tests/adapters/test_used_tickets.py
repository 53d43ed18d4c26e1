"""What was used stays used: over restarts, crashes and a full memory."""

import asyncio
import sqlite3
import sys

import pytest

from shosoin.adapters import used_tickets
from shosoin.adapters.used_tickets import TicketUsed, UsedTickets
from shosoin.base import Unavailable


def ticket(number):
    return number.to_bytes(16, "big")


async def test_a_ticket_is_good_once_and_the_rest_of_a_refused_claim_is_spent(tmp_path):
    used = UsedTickets(tmp_path / "used.sqlite")
    await used.claim([ticket(1), ticket(2)])
    for repeated in ([ticket(2), ticket(3)], [ticket(3)], [ticket(4), ticket(4)], [ticket(4)]):
        with pytest.raises(TicketUsed):
            await used.claim(repeated)
    await used.claim([ticket(5)])
    used.close()
    used = UsedTickets(tmp_path / "used.sqlite")
    with pytest.raises(TicketUsed):
        await used.claim([ticket(6), ticket(1)])
    used.close()


async def test_only_the_newest_are_kept(tmp_path):
    used = UsedTickets(tmp_path / "used.sqlite", keep=10)
    for number in range(100):
        await used.claim([ticket(number)])
    with pytest.raises(TicketUsed):
        await used.claim([ticket(95)])
    await used.claim([ticket(3)])
    used.close()
    (rows,) = sqlite3.connect(tmp_path / "used.sqlite").execute("SELECT COUNT(*) FROM used").fetchone()
    assert rows <= 11


async def test_a_mark_only_rises(tmp_path):
    used = UsedTickets(tmp_path / "used.sqlite")
    assert await used.mark("s") == 0
    await used.raise_mark("s", 0, 5)
    await used.raise_mark("s", 9, 12)
    for first, last in ((12, 20), (0, 99), (30, 29)):
        with pytest.raises(TicketUsed):
            await used.raise_mark("s", first, last)
    used.close()
    used = UsedTickets(tmp_path / "used.sqlite")
    assert (await used.mark("s"), await used.mark("other")) == (13, 0)
    used.close()


async def test_streams_that_were_used_long_ago_are_over_and_new_ones_begin(tmp_path, monkeypatch):
    monkeypatch.setattr(used_tickets, "MARKS_MAX", 3)
    used = UsedTickets(tmp_path / "used.sqlite")
    for number in range(20):
        await used.raise_mark(f"s{number}", 0, 5)
        await used.raise_mark("lasting", number, number)
    rows = sqlite3.connect(tmp_path / "used.sqlite").execute("SELECT COUNT(*) FROM mark").fetchone()
    assert rows[0] <= 3
    used.close()
    used = UsedTickets(tmp_path / "used.sqlite")
    for number in range(18):
        assert await used.mark(f"s{number}") > 1 << 60
        with pytest.raises(TicketUsed, match="the stream is over"):
            await used.raise_mark(f"s{number}", 6, 1 << 53)
    assert await used.mark("lasting") == 20
    await used.raise_mark("s19", 6, 6)
    await used.raise_mark("new", 0, 0)
    used.close()


async def test_a_record_of_an_earlier_version_counts(tmp_path):
    with sqlite3.connect(tmp_path / "used.sqlite") as old:
        old.execute("CREATE TABLE mark (stream TEXT PRIMARY KEY, below INTEGER NOT NULL) WITHOUT ROWID")
        old.execute("INSERT INTO mark VALUES ('s', 7)")
    old.close()
    for _ in range(2):
        used = UsedTickets(tmp_path / "used.sqlite")
        assert await used.mark("s") >= 7
        used.close()
    used = UsedTickets(tmp_path / "used.sqlite")
    await used.raise_mark("s", 7, 8)
    assert await used.mark("s") == 9
    used.close()


async def test_what_cannot_be_recorded_cannot_be_used(tmp_path):
    used = UsedTickets(tmp_path / "used.sqlite")
    used.close()
    with pytest.raises(Unavailable, match="cannot be recorded"):
        await used.claim([ticket(1)])
    (tmp_path / "broken").write_bytes(b"no database at all" * 100)
    with pytest.raises(Unavailable, match="cannot be recorded"):
        UsedTickets(tmp_path / "broken")


async def test_a_claim_survives_a_process_that_is_killed(tmp_path):
    """The claim returned, then the process died without closing anything."""
    code = (
        "import asyncio, os, pathlib, sys\n"
        "from shosoin.adapters.used_tickets import UsedTickets\n"
        "used = UsedTickets(pathlib.Path(sys.argv[1]))\n"
        "asyncio.run(used.claim([bytes(15) + bytes([7])]))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path / "used.sqlite"))
    assert await process.wait() == -9
    used = UsedTickets(tmp_path / "used.sqlite")
    with pytest.raises(TicketUsed):
        await used.claim([ticket(7)])
    used.close()


def test_the_file_is_private(tmp_path):
    UsedTickets(tmp_path / "a" / "used.sqlite").close()
    assert (tmp_path / "a" / "used.sqlite").stat().st_mode & 0o077 == 0
