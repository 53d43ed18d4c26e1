"""A filter that forgets no name, in a table that does not grow without end."""

from __future__ import annotations

import sqlite3
import uuid

import pytest

from shosoin.adapters import ended_streams
from shosoin.adapters.ended_streams import SCHEMA, add_ended, is_ended


@pytest.fixture
def database():
    opened = sqlite3.connect(":memory:")
    opened.executescript(SCHEMA)
    yield opened
    opened.close()


def names(count):
    return [f"{uuid.uuid4()}/{number % 2}" for number in range(count)]


def test_what_is_over_is_found_and_what_is_new_is_not(database):
    over = names(20_000)
    for name in over:
        assert not is_ended(database, name)
        add_ended(database, name)
    assert all(is_ended(database, name) for name in over)
    assert not any(is_ended(database, name) for name in names(20_000))


def test_a_full_filter_still_forgets_nothing_and_does_not_grow(database, monkeypatch):
    monkeypatch.setattr(ended_streams, "_PLACES", 16)
    over = names(2000)
    for name in over:
        add_ended(database, name)
    assert all(is_ended(database, name) for name in over)
    rows = database.execute("SELECT COUNT(*), MAX(LENGTH(bits)) FROM ended").fetchone()
    assert rows == (16, 64)


def test_chances_of_a_mistake_are_as_told(database, monkeypatch):
    """Sixteen million streams over 2^18 blocks are 61 a block: one of forty new names is refused."""
    monkeypatch.setattr(ended_streams, "_PLACES", 64)
    for name in names(61 * 64):
        add_ended(database, name)
    wrong = sum(is_ended(database, name) for name in names(4000))
    assert 20 < wrong < 250
