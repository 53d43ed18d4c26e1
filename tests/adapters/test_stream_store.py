"""What every ``StreamStore`` must do, and what the one on disk does beyond that."""

import os
import stat

import pytest

from shosoin.adapters.stream_store import FileStreamStore, read_or_make_storage_key
from shosoin.base import Rejected
from shosoin.keys.errors import StreamRefused
from shosoin.keys.store import Batch, WipeRange
from tests.keys.world import MemoryStore

KEY = bytes(range(32))
NAME = "out-000000000001"
HEADER = 32


@pytest.fixture(params=["files", "memory"])
def reopen(request, tmp_path):
    """Return a function that opens the store anew, as a new process would."""
    opened = [FileStreamStore(tmp_path / "pair", KEY) if request.param == "files" else MemoryStore()]

    def again():
        opened[-1].close()
        if request.param == "files":
            opened.append(FileStreamStore(tmp_path / "pair", KEY))
        return opened[-1]

    yield again
    opened[-1].close()


def block(granules=4):
    return os.urandom(32 * granules)


def put(store, content, name=NAME):
    store.commit(Batch(records={f"block/{name}": b"here"}, blocks={name: content}))


def test_records_come_back(reopen):
    store = reopen()
    store.commit(Batch(records={"a": b"1", "b": b"2"}))
    store.commit(Batch(records={"a": None, "c": b""}))
    assert reopen().load() == {"b": b"2", "c": b""}


def test_a_block_comes_back(reopen):
    store, content = reopen(), block()
    put(store, content)
    assert store.read_block(NAME) == (content, [])
    again = reopen()
    assert again.load() == {f"block/{NAME}": b"here"}
    assert again.read_block(NAME) == (content, [])


def test_wiped_granules_are_gone_and_their_neighbours_are_not(reopen):
    store, content = reopen(), block(5)
    put(store, content)
    store.commit(Batch(wipes=[WipeRange(NAME, 1, 2)]))
    for opened in (lambda: store, reopen):
        each = opened()
        each.load()
        found, damaged = each.read_block(NAME)
        assert list(damaged) == [1, 2]
        assert found == content[:32] + bytes(64) + content[96:]


def test_a_dropped_block_cannot_be_read(reopen):
    store = reopen()
    put(store, block())
    store.commit(Batch(records={f"block/{NAME}": None}, drops=[NAME]))
    content, damaged = store.read_block(NAME)
    assert not content
    assert damaged


def test_a_block_without_a_record_does_not_survive_a_start(reopen):
    store = reopen()
    put(store, block())
    store.commit(Batch(blocks={"out-000000000002": block()}))
    again = reopen()
    again.load()
    assert again.read_block("out-000000000002")[0] == b""
    assert again.read_block(NAME)[0] != b""


# Beyond the contract: files


@pytest.fixture
def home(tmp_path):
    return tmp_path / "pair"


def open_store(home, key=KEY):
    return FileStreamStore(home, key)


def test_files_are_private_and_hold_no_plaintext(home):
    store, content = open_store(home), b"plaintext-of-32-bytes-repeated!!" * 8
    put(store, content)
    store.commit(Batch(records={"secret": b"a-record-that-nobody-should-read"}))
    store.close()
    for path in [home, *home.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path
        if path.is_file():
            raw = path.read_bytes()
            assert b"plaintext" not in raw
            assert b"nobody" not in raw


def test_every_flipped_bit_in_a_block_is_found(home):
    store, content = open_store(home), block(3)
    put(store, content)
    path = home / "blocks" / NAME
    sound = path.read_bytes()
    for place in range(HEADER, len(sound)):
        raw = bytearray(sound)
        raw[place] ^= 1 << place % 8
        path.write_bytes(raw)
        found, damaged = store.read_block(NAME)
        assert len(damaged) == 1
        good = [granule for granule in range(3) if granule not in damaged]
        assert all(found[g * 32 : g * 32 + 32] == content[g * 32 : g * 32 + 32] for g in good)
    store.close()


@pytest.mark.parametrize("cut", [0, 10, 40, -1])
def test_a_truncated_block_is_found(home, cut):
    store = open_store(home)
    put(store, block())
    path = home / "blocks" / NAME
    path.write_bytes(path.read_bytes()[:cut])
    assert store.read_block(NAME) == (bytearray(), (0,))
    store.close()


def test_two_granules_cannot_change_places(home):
    store = open_store(home)
    put(store, block(2))
    path = home / "blocks" / NAME
    raw = path.read_bytes()
    cells, checks = raw[HEADER : HEADER + 64], raw[HEADER + 64 :]
    path.write_bytes(raw[:HEADER] + cells[32:] + cells[:32] + checks[8:] + checks[:8])
    assert list(store.read_block(NAME)[1]) == [0, 1]
    store.close()


def test_two_processes_cannot_share_a_directory(home):
    store = open_store(home)
    with pytest.raises(StreamRefused, match="in use"):
        open_store(home)
    store.close()


def test_a_missing_journal_beside_blocks_is_refused(home):
    store = open_store(home)
    put(store, block())
    store.close()
    for path in home.glob("journal.sqlite*"):
        path.unlink()
    with pytest.raises(StreamRefused, match="missing"):
        open_store(home)


def test_an_emptied_journal_beside_blocks_is_refused(home):
    store = open_store(home)
    put(store, block())
    store.commit(Batch(records={f"block/{NAME}": None}))
    with pytest.raises(StreamRefused, match="empty"):
        store.load()
    store.close()


def test_a_journal_that_is_no_database_is_refused(home):
    open_store(home).close()
    for path in home.glob("journal.sqlite*"):
        path.unlink()
    (home / "journal.sqlite").write_bytes(os.urandom(8192))
    with pytest.raises(StreamRefused, match="damaged"):
        open_store(home)


def test_another_storage_key_is_refused(home):
    store = open_store(home)
    put(store, block())
    store.close()
    other = open_store(home, bytes(32))
    with pytest.raises(StreamRefused, match="damaged"):
        other.load()
    other.close()


def test_a_record_cannot_be_moved_to_another_name(home):
    store = open_store(home)
    store.commit(Batch(records={"a": b"1"}))
    store._database.execute("UPDATE record SET name = 'b'")
    with pytest.raises(StreamRefused):
        store.load()
    store.close()


def test_after_a_failed_write_nothing_more_is_written(home):
    store = open_store(home)
    (home / "blocks").rename(home / "gone")
    with pytest.raises(StreamRefused, match="failed"):
        put(store, block())
    (home / "gone").rename(home / "blocks")
    with pytest.raises(StreamRefused, match="earlier"):
        put(store, block())
    store.close()


def test_the_storage_key_is_made_once_and_private(tmp_path):
    path = tmp_path / "storage.key"
    key = read_or_make_storage_key(path)
    assert len(key) == 32
    assert read_or_make_storage_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.write_bytes(b"short")
    with pytest.raises(Rejected):
        read_or_make_storage_key(path)
