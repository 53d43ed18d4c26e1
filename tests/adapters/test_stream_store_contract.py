"""What every ``StreamStore`` must do: one suite for files and for a real PostgreSQL server."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from shosoin.keys.errors import StreamRefused
from shosoin.keys.store import Batch, WipeRange
from tests.adapters.stream_store_child import BATCHES, block_bytes, expected_after
from tests.adapters.stream_store_places import FilesPlace, Place, PostgresPlace
from tests.support.postgres import running_postgres

ROOT = Path(__file__).resolve().parents[2]
NAME, OTHER = "out-000000000001", "in-000000000002"
NUMBERS = count()


@pytest.fixture(scope="module")
def server():
    with running_postgres() as running:
        yield running


@pytest.fixture(params=["files", "postgres"])
def place(request, tmp_path) -> Place:
    if request.param == "files":
        return FilesPlace(tmp_path / "pair")
    return PostgresPlace(request.getfixturevalue("server"), f"contract_{next(NUMBERS)}")


@pytest.fixture
def reopen(place):
    """Return a function that opens the store anew, as a new process would."""
    opened = [place.open()]

    def again():
        opened[-1].close()
        opened.append(place.open())
        return opened[-1]

    yield again
    opened[-1].close()


def block(granules=4):
    return os.urandom(32 * granules)


def put(store, content, name=NAME):
    store.commit(Batch(records={f"block/{name}": b"here"}, blocks={name: content}))


# What was committed is there


def test_records_come_back(reopen):
    store = reopen()
    store.commit(Batch(records={"a": b"1", "b": b"2"}))
    store.commit(Batch(records={"a": None, "c": b"", "b": b"3"}))
    assert reopen().load() == {"b": b"3", "c": b""}


@pytest.mark.parametrize("granules", [1, 31, 32, 33, 100])
def test_a_block_comes_back(reopen, granules):
    store, content = reopen(), block(granules)
    put(store, content)
    assert store.read_block(NAME) == (content, [])
    again = reopen()
    assert again.load() == {f"block/{NAME}": b"here"}
    assert again.read_block(NAME) == (content, [])


def test_a_block_written_again_is_the_new_one(reopen):
    store, content = reopen(), block(3)
    put(store, block(40))
    put(store, content)
    assert store.read_block(NAME) == (content, [])


def test_an_empty_batch_is_nothing(reopen):
    store = reopen()
    store.commit(Batch())
    assert reopen().load() == {}


def test_a_big_batch_is_one(reopen):
    store, contents = reopen(), {f"in-{i:012d}": block(1 << 15) for i in range(8)}
    records = {f"record {i}": os.urandom(600) for i in range(3000)} | {f"block/{name}": b"" for name in contents}
    store.commit(Batch(records=records, blocks=contents))
    again = reopen()
    assert again.load() == records
    for name, content in contents.items():
        assert again.read_block(name) == (content, [])
    again.commit(Batch(records=dict.fromkeys(records), drops=list(contents)))
    assert reopen().load() == {}


# What was consumed is gone


@pytest.mark.parametrize(
    ("granules", "ranges"),
    [(5, [(1, 2)]), (100, [(0, 100)]), (100, [(31, 2)]), (100, [(10, 70)]), (70, [(64, 6), (0, 32), (40, 1)])],
)
def test_wiped_granules_are_gone_and_their_neighbours_are_not(reopen, granules, ranges):
    store, content = reopen(), block(granules)
    put(store, content)
    store.commit(Batch(wipes=[WipeRange(NAME, first, number) for first, number in ranges]))
    wiped = sorted(granule for first, number in ranges for granule in range(first, first + number))
    for opened in (lambda: store, reopen):
        each = opened()
        each.load()
        found, damaged = each.read_block(NAME)
        assert list(damaged) == wiped
        for granule in range(granules):
            kept = bytes(32) if granule in wiped else content[32 * granule : 32 * granule + 32]
            assert found[32 * granule : 32 * granule + 32] == kept


def test_what_is_wiped_is_not_there_any_more_as_it_was_stored(place, reopen):
    store = reopen()
    put(store, block(70))
    cells, checks = place.cells(NAME), place.checks(NAME)
    store.commit(Batch(wipes=[WipeRange(NAME, 3, 40)]))
    left, left_checks = place.cells(NAME), place.checks(NAME)
    for granule in range(70):
        gone = 3 <= granule < 43
        assert (cells[32 * granule : 32 * granule + 32] in left) is not gone
        assert (checks[8 * granule : 8 * granule + 8] in left_checks) is not gone


def test_wiping_a_block_that_is_not_there_is_nothing(reopen):
    store = reopen()
    store.commit(Batch(wipes=[WipeRange(NAME, 0, 5)], drops=[OTHER]))
    assert store.read_block(NAME) == (bytearray(), (0,))


def test_a_dropped_block_cannot_be_read(place, reopen):
    store = reopen()
    put(store, block())
    store.commit(Batch(records={f"block/{NAME}": None}, drops=[NAME]))
    assert store.read_block(NAME) == (bytearray(), (0,))
    assert place.blocks() == set()


# Orphans and damage


def test_a_block_without_a_record_does_not_survive_a_start(place, reopen):
    store = reopen()
    put(store, block())
    store.commit(Batch(blocks={OTHER: block()}))
    place.add_orphan("in-000000000003", NAME)
    assert place.blocks() == {NAME, OTHER, "in-000000000003"}
    again = reopen()
    again.load()
    assert place.blocks() == {NAME}
    assert again.read_block(OTHER)[0] == b""
    assert again.read_block(NAME)[0] != b""


def test_every_flipped_bit_in_a_block_is_found(place, reopen):
    store, content = reopen(), block(34)
    put(store, content)
    for sound, change in ((place.cells(NAME), place.put_cells), (place.checks(NAME), place.put_checks)):
        unit = len(sound) // 34
        for at in [*range(0, 3 * unit, 5), len(sound) - 1]:
            raw = bytearray(sound)
            raw[at] ^= 1 << at % 8
            change(NAME, bytes(raw))
            found, damaged = store.read_block(NAME)
            assert list(damaged) == [at // unit]
            good = [granule for granule in range(34) if granule not in damaged]
            assert all(found[g * 32 : g * 32 + 32] == content[g * 32 : g * 32 + 32] for g in good)
        change(NAME, sound)
    assert store.read_block(NAME) == (content, [])


def test_two_granules_cannot_change_places(place, reopen):
    store = reopen()
    put(store, block(2))
    cells, checks = place.cells(NAME), place.checks(NAME)
    place.put_cells(NAME, cells[32:] + cells[:32])
    place.put_checks(NAME, checks[8:] + checks[:8])
    assert list(store.read_block(NAME)[1]) == [0, 1]


def test_one_block_does_not_pass_for_another(place, reopen):
    store = reopen()
    put(store, block(3))
    put(store, block(3), OTHER)
    place.put_cells(NAME, place.cells(OTHER))
    place.put_checks(NAME, place.checks(OTHER))
    assert list(store.read_block(NAME)[1]) == [0, 1, 2]


def test_a_block_that_is_lost_costs_its_keys_and_no_more(place, reopen):
    store = reopen()
    put(store, block())
    put(store, block(), OTHER)
    place.remove_block(NAME)
    again = reopen()
    assert set(again.load()) == {f"block/{NAME}", f"block/{OTHER}"}
    assert again.read_block(NAME) == (bytearray(), (0,))
    assert again.read_block(OTHER)[1] == []


def test_a_record_that_changed_is_refused(place, reopen):
    store = reopen()
    store.commit(Batch(records={"a": b"1", "b": b"2"}))
    place.spoil_record("b")
    with pytest.raises(StreamRefused, match="damaged"):
        reopen().load()


def test_a_record_cannot_be_moved_to_another_name(place, reopen):
    store = reopen()
    store.commit(Batch(records={"a": b"1"}))
    place.rename_record("a", "b")
    with pytest.raises(StreamRefused, match="damaged"):
        reopen().load()


def test_an_emptied_journal_beside_blocks_is_refused(place, reopen):
    store = reopen()
    put(store, block())
    place.delete_records()
    with pytest.raises(StreamRefused, match="empty"):
        reopen().load()


def test_another_storage_key_is_refused(place):
    store = place.open()
    put(store, block())
    store.close()
    other = place.open(bytes(32))
    with pytest.raises(StreamRefused, match="damaged"):
        other.load()
    other.close()


# Secrets


def test_nothing_is_stored_in_clear(place):
    store, content = place.open(), b"plaintext-of-32-bytes-repeated!!" * 40
    put(store, content)
    store.commit(Batch(records={"secret": b"a-record-that-nobody-should-read"}))
    raw = place.stored()
    assert place.cells(NAME)[:32] in raw, "this looks at what is stored"
    assert b"plaintext" not in raw
    assert b"nobody" not in raw
    store.close()


# Owners and crashes


@contextmanager
def children():
    """Run the process that makes processes; it ends when what it reads does."""
    command = [sys.executable, "-m", "tests.adapters.stream_store_child"]
    maker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    assert maker.stdin is not None
    assert maker.stdout is not None
    guard = threading.Timer(200, maker.kill)
    guard.start()
    try:
        yield maker
    finally:
        guard.cancel()
        maker.stdin.close()
        maker.wait()
        maker.stdout.close()


def ask(maker, word, **asked):
    """Ask for a process and return what is said until a line begins with ``word``."""
    maker.stdin.write(json.dumps(asked) + "\n")
    maker.stdin.flush()
    lines = []
    for line in maker.stdout:
        lines.append(line.strip())
        if line.startswith(word):
            return lines
    raise AssertionError(f"ended after {lines}")


def test_two_processes_cannot_own_one_pair(place):
    with children() as maker:
        ask(maker, "holds", spec=place.spec, hold_s=30.0)
        with pytest.raises(StreamRefused, match="in use by"):
            place.open()
    place.open().close()


@pytest.mark.processes
@pytest.mark.slow
def test_wherever_a_process_is_killed_what_it_acknowledged_is_there(place):
    randomness = random.Random(5)
    fates = set()
    line = 1
    with children() as maker:
        while "whole" not in fates:
            fresh = place.fresh(next(NUMBERS))
            lines = ask(maker, "over", spec=fresh.spec, line=line)
            acked = sum(word.startswith("acked") for word in lines)
            fates.add("whole" if "whole" in lines else acked)
            check(fresh, acked)
            line += randomness.randrange(1, 24)
    assert fates >= {*range(len(BATCHES)), "whole"}


def check(place, acked):
    store = place.open()
    try:
        records = store.load()
        state = next((n for n in (acked, acked + 1) if expected_after(n)[0] == records), None)
        assert state is not None, f"{acked} batches were acknowledged; found {records}"
        for name, wiped in expected_after(state)[1].items():
            whole = block_bytes(int(name[-12:]), int(records[f"block/{name}"]))
            found, damaged = store.read_block(name)
            assert state > acked or set(damaged) == wiped
            assert set(damaged) <= wiped
            for granule in range(len(whole) // 32):
                kept = bytes(32) if granule in damaged else whole[32 * granule : 32 * granule + 32]
                assert found[32 * granule : 32 * granule + 32] == kept
        store.commit(Batch(records={"stream": b"goes on"}))
    finally:
        store.close()
