"""Keys drawn ahead of demand: each comes out once, those left over are overwritten, and the owner hears of all."""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import KeyMaterial
from shosoin.keys.kme import Delivery, Key
from shosoin.keys.worker_stock import HOLD_S, Grant, KeyStock, KeyStocks
from shosoin.link import LinkFacts
from shosoin.services.request_tally import RequestTally
from shosoin.services.wire014 import container_json
from shosoin.services.worker_counts import WorkerCounts

FACTS = LinkFacts("simulated-qkd", True, 1e-10, 1000.0)


def container(count, size_bytes=32):
    keys = [(f"{i:08x}-0000-8000-8000-{os.urandom(6).hex()}", os.urandom(size_bytes)) for i in range(count)]
    made = tuple(Key(key_id, KeyMaterial(bits)) for key_id, bits in keys)
    return bytearray(container_json(Delivery(made, FACTS)))


def grant(text, number=1, until_s=10.0):
    return Grant(number, bytearray(text), until_s)


@given(st.integers(1, 128), st.sampled_from([1, 2, 3, 32, 33, 512]), st.data())
def test_a_container_is_cut_into_containers_of_the_same_keys(count, size_bytes, data):
    text = container(count, size_bytes)
    whole, pieces, cut = json.loads(text), [], grant(text)
    assert cut.keys == count
    while cut.keys:
        number = data.draw(st.integers(1, cut.keys))
        piece = json.loads(cut.take(number))
        assert len(piece["keys"]) == number
        assert piece["key_container_extension"] == whole["key_container_extension"]
        pieces += piece["keys"]
    assert pieces == whole["keys"]


def test_what_came_out_is_not_left_in_memory():
    text = container(5)
    keys, cut = [each["key"].encode() for each in json.loads(text)["keys"]], grant(text)
    cut.take(2)
    assert [key in cut.text for key in keys] == [False, False, True, True, True]
    cut.wipe()
    assert not any(cut.text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"keys":[]}',
        b'{"message":"no"}',
        b'{"keys":[{"a":1},{"a":11}],"x":1}',
        b'{"keys":[{"a":1},{"a":1},{"a":123456}],"x":1}',
    ],
)
def test_what_cannot_be_cut_evenly_is_refused(text):
    with pytest.raises(ValueError, match=r"Key container|found"):
        grant(text)


class Owner:
    """Hears what a worker tells."""

    def __init__(self):
        self.used: Counter[int] = Counter()
        self.over: list[int] = []

    def __call__(self, number, used, is_over):
        self.used[number] += used
        if is_over:
            self.over.append(number)


async def test_what_is_too_old_is_not_served_and_told():
    owner = Owner()
    stock, text = KeyStock(owner), container(4)
    held = grant(text, 7, until_s=5.0)
    stock.put(held)
    assert stock.take(1, 4.9) is not None
    assert stock.take(1, 5.0) is None
    assert (owner.used[7], owner.over) == (1, [7])
    assert not any(held.text)


async def test_the_owner_hears_of_each_key_once():
    owner = Owner()
    stock = KeyStock(owner)
    stock.put(grant(container(6), 1))
    stock.take(2, 0.0)
    stock.report(0.0)
    stock.report(0.0)
    assert (owner.used[1], owner.over) == (2, [])
    stock.take(1, 0.0)
    stock.put(grant(container(3), 2))
    assert (owner.used[1], owner.over) == (3, [1])
    stock.take(3, 0.0)
    assert (owner.used[2], owner.over) == (3, [1, 2])
    stock.give_up()
    assert owner.over == [1, 2]


async def test_more_is_asked_for_only_where_more_was_asked_lately():
    stock = KeyStock(Owner())
    for now_s, expected in ((100.0, 0), (100.1, 2), (100.2, 2), (102.0, 0)):
        assert stock.take(1, now_s) is None
        assert stock.ahead(now_s) == expected
    stock.put(grant(container(5), until_s=200.0))
    for _ in range(5):
        assert stock.take(1, 102.0 + HOLD_S / 2)
    assert stock.take(1, 102.0 + HOLD_S / 2) is None
    assert stock.ahead(102.0 + HOLD_S / 2) == 12


async def test_the_number_of_stocks_is_bounded_and_the_oldest_goes():
    owner = Owner()
    stocks = KeyStocks(owner)
    for number in range(300):
        stocks.begin("master", f"slave {number}", 256).put(grant(container(2), number, until_s=50.0))
        stocks.get("master", "slave 0", 256)
    assert stocks.get("master", "slave 0", 256)
    assert stocks.get("master", "slave 1", 256) is None
    assert len(owner.over) == 300 - 256
    stocks.report(60.0)
    assert sorted(owner.over) == list(range(300))


def test_counts_of_workers_add_up_and_survive_the_line():
    first, second = WorkerCounts(RequestTally(), 3, 1, 100), WorkerCounts()
    for counts in (first, second):
        counts.tally.answered("enc_keys", 200, 0.002)
        counts.tally.refused("keys.dry", "kme-b", "outgoing")
        counts.tally.connection_refused()
        counts.tally.connected("x25519", "sae-a1")
        counts.turned_away, counts.cut, counts.callers["sae-a1"] = 1, 2, 3
    second.tally.answered("status", 503, 7.0)
    total = WorkerCounts.total([WorkerCounts.load(first.dump()), WorkerCounts.load(second.dump()).over()])
    assert sum(total.tally.latencies["enc_keys", 200].counts) == 2
    assert total.tally.latencies["status", 503].total_s == 7.0
    assert total.tally.refusals == {("kme-b", "outgoing", "keys.dry"): 2}
    assert (total.connections, total.connections_refused, total.bodies_bytes) == (3, 1, 100)
    assert total.tally.connections_refused == 2
    assert total.tally.groups == {"x25519": 2}
    assert (total.turned_away, total.cut, total.callers) == (2, 4, {"sae-a1": 3}), "who has ended has no connections"
