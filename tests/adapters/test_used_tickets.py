"""What the memory of used key material in a file does beyond the contract."""

import sqlite3

import pytest

from shosoin.adapters.used_tickets import UsedTickets
from shosoin.base import Unavailable


def ticket(number):
    return number.to_bytes(16, "big")


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


def test_the_file_is_private(tmp_path):
    UsedTickets(tmp_path / "a" / "used.sqlite").close()
    assert (tmp_path / "a" / "used.sqlite").stat().st_mode & 0o077 == 0
