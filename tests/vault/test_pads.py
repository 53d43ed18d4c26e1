"""Pads: whatever the limits of a KME, each bit is drawn once, used once and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shosoin.base import KeyMaterial, PeerFault, SaeId, Unavailable
from shosoin.base.ports import DeliveredKey
from shosoin.testing.memory_keys import MemoryKeyNetwork
from shosoin.vault.pads import PadSource, _requests, fetch_pad
from tests.vault.support import OWNER, SITES, World, fetch, make_world, pattern, store

OWNER_SAE, NODE_SAE = SaeId("owner-1"), SaeId("node-1")


@pytest.mark.parametrize("class_", ["its", "qkd"])
@pytest.mark.parametrize(("bits", "per_request"), [(256, 3), (256, 1), (64, 128)])
async def test_a_kme_with_tiny_limits_still_works_end_to_end(class_: str, bits: int, per_request: int) -> None:
    world = make_world(3, "2-of-3", max_key_size_bits=bits, max_key_per_request=per_request)
    content = pattern(300)
    await store(world, "object", content, class_)
    assert (await fetch(world.vault, "object"))[0] == content
    assert all(len(key) * 8 <= bits for _, key in world.keys.drawn)


async def test_every_bit_counted_was_delivered_and_no_key_twice() -> None:
    world = make_world()
    await store(world, "object", pattern(500), "its")
    receipt = (await fetch(world.vault, "object"))[1]
    drawn = world.keys.drawn
    assert len({key_id for key_id, _ in drawn}) == len(drawn)
    assert sum(world.context.bits_used().values()) == sum(8 * len(key) for _, key in drawn)
    assert world.network.delivered <= {key_id for key_id, _ in drawn}
    assert sum(receipt.key_bits_used.values()) > 0


@given(st.integers(1, 5000), st.sampled_from([8, 64, 256, 4096, 1 << 20]), st.sampled_from([1, 3, 128]))
def test_requests_stay_within_the_limits_and_suffice(size: int, largest_bits: int, per_request: int) -> None:
    network = MemoryKeyNetwork(1, max_key_size_bits=largest_bits, max_key_per_request=per_request)

    async def run() -> None:
        status = await network.kme(OWNER_SAE).status(NODE_SAE)
        requests = _requests(size, status)
        assert all(1 <= number <= per_request for number, _ in requests)
        assert all(8 <= bits <= largest_bits and bits % 8 == 0 for _, bits in requests)
        total = sum(number * bits for number, bits in requests)
        assert 8 * size <= total < 8 * size + largest_bits

    asyncio.run(run())


@given(st.integers(1, 700), st.sampled_from([64, 256]))
def test_both_ends_hold_the_same_pad(size: int, largest_bits: int) -> None:
    network = MemoryKeyNetwork(5, max_key_size_bits=largest_bits, max_key_per_request=2)

    async def run() -> None:
        source = PadSource(network.kme(OWNER_SAE), NODE_SAE)
        pad = await source.draw(size)
        assert len(pad.content) == size
        assert await fetch_pad(network.kme(NODE_SAE), OWNER_SAE, pad.key_ids, size) == pad.content
        assert "redacted" in repr(pad)

    asyncio.run(run())


class LongKeys:
    """A KME that gives more bits per key than were asked."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.status = inner.status

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        return await self._inner.enc_keys(slave, number=number, size_bits=2 * size_bits)


async def test_longer_keys_than_asked_are_refused_or_both_ends_cut_them_alike() -> None:
    network = MemoryKeyNetwork(5, max_key_size_bits=256, max_key_per_request=2)
    source = PadSource(LongKeys(network.kme(OWNER_SAE)), NODE_SAE)  # type: ignore[arg-type]
    try:
        pad = await source.draw(100)
    except PeerFault:
        return
    assert len(pad.content) == 100
    assert await fetch_pad(network.kme(NODE_SAE), OWNER_SAE, pad.key_ids, 100) == pad.content


async def test_keys_shorter_than_the_header_claims_are_the_peers_fault() -> None:
    network = MemoryKeyNetwork(5)
    pad = await PadSource(network.kme(OWNER_SAE), NODE_SAE).draw(64)
    with pytest.raises(PeerFault):
        await fetch_pad(network.kme(NODE_SAE), OWNER_SAE, pad.key_ids, 65)


async def test_a_size_beyond_all_measure_is_refused() -> None:
    network = MemoryKeyNetwork(5, max_key_size_bits=8)
    with pytest.raises(PeerFault):
        await PadSource(network.kme(OWNER_SAE), NODE_SAE).draw(1 << 20)


async def test_a_dry_stream_is_unavailable_and_says_when() -> None:
    world = make_world()
    for name in SITES[1:5]:
        world.network.stock_bits[SaeId(OWNER), SaeId(f"node-{name}")] = 60_000
    with pytest.raises(Unavailable) as caught:
        await store(world, "object", pattern(20_000), "its")
    assert caught.value.code == "vault.too_little_key"
    assert world.keys.drawn == []
    with pytest.raises(Unavailable):
        await world.vault.put_many({"object": pattern(20_000)}, class_="its")
    assert all(store_.shares() == [] for store_ in world.stores.values())


class Doubling:
    """A KME that hands one key out twice is caught by nobody but the peer, which delivers it once."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.status = inner.status
        self._last: list[tuple[str, bytes]] = []

    async def enc_keys(self, slave: SaeId, *, number: int, size_bits: int) -> list[DeliveredKey]:
        if not self._last:
            keys: Sequence[DeliveredKey] = await self._inner.enc_keys(slave, number=number, size_bits=size_bits)
            self._last = [(key.key_id, key.material.take()) for key in keys]
        return [DeliveredKey(key_id, KeyMaterial(content)) for key_id, content in self._last]


async def test_a_key_that_comes_twice_is_refused_by_the_other_end() -> None:
    network = MemoryKeyNetwork(5)
    source = PadSource(Doubling(network.kme(OWNER_SAE)), NODE_SAE)  # type: ignore[arg-type]
    node = network.kme(NODE_SAE)
    first, second = await source.draw(32), await source.draw(32)
    await fetch_pad(node, OWNER_SAE, first.key_ids, 32)
    with pytest.raises(Exception, match="not found"):
        await fetch_pad(node, OWNER_SAE, second.key_ids, 32)


def stocks(world: World) -> dict[tuple[SaeId, SaeId], int]:
    """Key bits left per link of the owner."""
    return {pair: bits for pair, bits in world.network.stock_bits.items() if pair[0] == OWNER_SAE}


async def test_a_get_without_enough_key_takes_none_for_the_content() -> None:
    """A reading that cannot be finished must not drain the links that still have something."""
    world = make_world()
    await store(world, "name", pattern(100_000), "its")
    owner = SaeId(OWNER)
    for name, bits in zip(SITES[1:5], (900_000, 400_000, 300_000, 200_000), strict=True):
        world.network.stock_bits[owner, SaeId(f"node-{name}")] = bits
    before = stocks(world)
    with pytest.raises(Unavailable) as refused:
        await fetch(world.vault, "name")
    assert refused.value.code == "vault.too_little_key"
    spent = {pair: before[pair] - bits for pair, bits in stocks(world).items()}
    assert max(spent.values()) <= 8192  # the exchanges that look the name up, and no share


async def test_a_get_goes_by_the_links_that_have_key() -> None:
    world = make_world()
    content = pattern(100_000)
    await store(world, "name", content, "its")
    owner = SaeId(OWNER)
    dry = SITES[1:3]  # these would be asked next after home
    for name in dry:
        world.network.stock_bits[owner, SaeId(f"node-{name}")] = 100_000
    found, receipt = await fetch(world.vault, "name")
    assert found == content
    assert set(receipt.sites_used) == {SITES[0], *SITES[3:5]}
    assert not receipt.alarms
    assert all(world.network.stock_bits[owner, SaeId(f"node-{name}")] >= 90_000 for name in dry)
