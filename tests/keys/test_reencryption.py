"""Copying a store into another: everything, what was overwritten included, in groups that do not grow."""

import pytest

from shosoin.keys import reencryption
from shosoin.keys.blocks import Block
from shosoin.keys.errors import StreamRefused
from shosoin.keys.messages import BlockState
from shosoin.keys.reencryption import copy_store, size_of
from shosoin.keys.store import Batch, WipeRange
from tests.keys.world import CountedEntropy, MemoryStore


class Watched(MemoryStore):
    """A disk that notes how many blocks each commit brings."""

    def __init__(self):
        super().__init__()
        self.commits: list[int] = []

    def commit(self, batch):
        self.commits.append(len(batch.blocks))
        super().commit(batch)


@pytest.fixture
def source():
    store, entropy = MemoryStore(), CountedEntropy()
    store.commit(Batch({"pair": b"{}"}))
    for index in range(7):
        block = Block("in", index, index * 5, 5, BlockState.READY)
        store.commit(Batch({block.record_name: block.dump()}, {block.name: entropy.random_bytes(160)}))
    store.commit(Batch(wipes=[WipeRange("in-000000000002", 0, 2), WipeRange("in-000000000002", 4, 1)]))
    return store


def test_all_is_copied_and_what_was_overwritten_stays_so(source):
    told: list[int] = []
    target = Watched()
    copy_store(source, target, told.append)
    assert target.load() == source.load()
    for name in source.blocks:
        assert target.read_block(name) == source.read_block(name)
    assert target.read_block("in-000000000002")[1] == [0, 1, 4]
    assert told == [size_of(source.load()).block_bytes] == [7 * 160]


def test_a_block_beyond_use_is_copied_as_one(source):
    del source.blocks["in-000000000001"]
    target = MemoryStore()
    records = dict(source.records)
    source.load = lambda: records
    copy_store(source, target, lambda _: None)
    content, damaged = target.read_block("in-000000000001")
    assert (bytes(content), damaged) == (bytes(160), [0, 1, 2, 3, 4])


def test_groups_are_bounded(source, monkeypatch):
    for name, value, expected in (("_GROUP_BLOCKS", 3, [3, 3, 1, 0]), ("_GROUP_GRANULES", 6, [2, 2, 2, 1, 0])):
        told: list[int] = []
        target = Watched()
        with monkeypatch.context() as patch:
            patch.setattr(reencryption, name, value)
            copy_store(source, target, told.append)
        assert target.commits == expected
        assert told == sorted(told)
        assert told[-1] == 7 * 160


def test_a_record_that_is_no_block_is_refused():
    with pytest.raises(StreamRefused):
        size_of({"block/in-000000000001": b"{}"})
