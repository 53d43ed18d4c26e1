"""What every ``SiteStore`` must do: the same tests for the real store and for the one in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shosoin.base import ObjectId, OwnerId, Rejected
from shosoin.testing.memory_store import MemorySiteStore
from shosoin.testing.simulation.disk import SimulatedDisk
from shosoin.vault.ports import RegisterRow, ShareDamaged, ShareState, SiteStore
from tests.adapters.store_support import MIB, OWNER, Bench, content, key, open_store, put, row, stage

SIZES = [1, 5 << 10, 64 << 10, (64 << 10) + 1, 256 << 10, MIB + 768]


@pytest.fixture(params=["files", "memory", "simulated"])
async def bench(request: Any, tmp_path: Path) -> AsyncIterator[Bench]:
    if request.param != "files":
        memory = MemorySiteStore() if request.param == "memory" else SimulatedDisk()

        async def crash() -> SiteStore:
            memory.crash()
            return memory

        yield Bench(memory, crash)
        return
    opened = [open_store(tmp_path / "store")]

    async def reopen() -> SiteStore:
        await opened[-1].close()
        opened.append(open_store(tmp_path / "store"))
        return opened[-1]

    yield Bench(opened[0], reopen)
    await opened[-1].close()


@pytest.fixture
def store(bench: Bench) -> SiteStore:
    return bench.store


@pytest.mark.parametrize("size", SIZES)
async def test_what_was_put_is_read_back_whole_and_in_parts(store, size):
    data = content(size)
    made = await put(store, key(), data)
    assert await store.read(made, 0, size) == data
    for offset, length in [(0, 1), (size - 1, 1), (size // 2, size - size // 2), (size // 3, size // 3), (size, 0)]:
        assert await store.read(made, offset, length) == data[offset : offset + length]


@pytest.mark.parametrize("size", SIZES[1:])
async def test_pieces_may_come_in_any_order_and_at_the_same_time(store, size):
    data, step = content(size), 10_007
    offsets = list(range(0, size, step))
    await asyncio.gather(*(store.write(key(), at, data[at : at + step]) for at in reversed(offsets)))
    made = row(key(), size, await store.finish(key(), size))
    await store.transact(lambda tx: tx.put_share(made))
    assert await store.read(made, 0, size) == data


@pytest.mark.parametrize("size", [5000, 300_000])
async def test_a_range_written_again_counts_once_and_the_last_bytes_stay(store, size):
    data = content(size)
    await store.write(key(), 0, content(size, 9))
    await store.write(key(), size // 4, data[size // 4 : size // 2])
    await store.write(key(), 0, data)
    made = row(key(), size, await store.finish(key(), size))
    await store.transact(lambda tx: tx.put_share(made))
    assert await store.read(made, 0, size) == data


@pytest.mark.parametrize("size", [5000, 600_000])
async def test_a_part_written_again_with_other_bytes_replaces_that_part(store, size):
    old, new = content(size, 1), content(size, 2)
    await store.write(key(), 0, old)
    await store.write(key(), 1000, new[1000:2000])
    made = row(key(), size, await store.finish(key(), size))
    await store.transact(lambda tx: tx.put_share(made))
    assert await store.read(made, 0, size) == old[:1000] + new[1000:2000] + old[2000:]


@pytest.mark.parametrize("scale", [1, 100_000])
async def test_finish_demands_exactly_the_announced_range(store, scale):
    with pytest.raises(Rejected) as nothing:
        await store.finish(key(), 4)
    assert nothing.value.code == "vault.stage_incomplete"
    await store.write(key(), 0, content(2 * scale))
    await store.write(key(), 3 * scale, content(scale))
    for size in (2 * scale, 4 * scale, 5 * scale):
        with pytest.raises(Rejected) as gap:
            await store.finish(key(), size)
        assert gap.value.code == "vault.stage_incomplete"
    await store.write(key(), 2 * scale, content(scale))
    with pytest.raises(Rejected):
        await store.finish(key(), 3 * scale)
    assert await store.finish(key(), 4 * scale)
    with pytest.raises(Rejected):
        await store.finish(key(), 4 * scale)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(cuts=st.lists(st.integers(0, 700_000), max_size=12), seed=st.integers(0, 9), again=st.booleans())
async def test_any_cover_of_the_range_gives_the_bytes(store, cuts, seed, again):
    size = 700_000
    data, edges = content(size, seed), sorted({0, size, *cuts})
    pieces = list(itertools.pairwise(edges))
    if again:
        pieces.append(pieces[0])
    order = sorted(pieces, key=lambda piece: (piece[0] * 7919 + seed) % 104_729)
    await asyncio.gather(*(store.write(key(seed), low, data[low:high]) for low, high in order))
    made = row(key(seed), size, await store.finish(key(seed), size))
    await store.transact(lambda tx: tx.put_share(made))
    assert await store.read(made, 0, size) == data


@pytest.mark.parametrize("size", [5000, 300_000])
async def test_discard_forgets_staged_and_finished_bytes(store, size):
    await store.discard(key())
    await store.write(key(), 0, content(size))
    await store.discard(key())
    with pytest.raises(Rejected):
        await store.finish(key(), size)
    locator = await stage(store, key(), content(size))
    await store.discard(key())
    with pytest.raises(Rejected):
        await store.transact(lambda tx: tx.put_share(row(key(), size, locator)))


@pytest.mark.parametrize("size", [5000, 300_000])
async def test_a_record_takes_only_the_locator_that_was_given_out_for_it(store, size):
    locator = await stage(store, key(1), content(size))
    for wrong in (row(key(2), size, locator), row(key(1), size - 1, locator)):
        with pytest.raises(Rejected):
            await store.transact(lambda tx, wrong=wrong: tx.put_share(wrong))
    await store.transact(lambda tx: tx.put_share(row(key(1), size, locator)))
    assert await store.transact(lambda tx: tx.used_bytes(OWNER)) == size


@pytest.mark.parametrize("size", [5000, 300_000])
async def test_a_step_that_raises_keeps_nothing_and_can_be_tried_again(store, size):
    data = content(size)
    made = row(key(), size, await stage(store, key(), data))

    def fail(tx):
        tx.put_share(made)
        tx.put_register(OWNER, ObjectId("0" * 32), RegisterRow(promised=(1, "a")))
        tx.add_challenge(made.key, "ab")
        raise LookupError("on purpose")

    with pytest.raises(LookupError):
        await store.transact(fail)
    seen = await store.transact(
        lambda tx: (tx.share(made.key), tx.register(OWNER, ObjectId("0" * 32)), list(tx.challenges(made.key)))
    )
    assert seen == (None, None, [])
    assert await store.transact(lambda tx: tx.used_bytes(OWNER)) == 0
    await store.transact(lambda tx: tx.put_share(made))
    assert await store.read(made, 0, size) == data


async def test_a_failing_step_does_not_touch_its_neighbours(store):
    def good(number):
        return lambda tx: tx.put_register(OWNER, ObjectId(f"{number:032x}"), RegisterRow(promised=(number, "p")))

    def bad(tx):
        tx.put_register(OWNER, ObjectId("f" * 32), RegisterRow())
        raise LookupError

    steps = [store.transact(bad if number % 3 == 0 else good(number)) for number in range(30)]
    results = await asyncio.gather(*steps, return_exceptions=True)
    assert [isinstance(result, LookupError) for result in results] == [number % 3 == 0 for number in range(30)]
    for number in range(30):
        found = await store.transact(lambda tx, n=number: tx.register(OWNER, ObjectId(f"{n:032x}")))
        assert (found is None) == (number % 3 == 0)
    assert await store.transact(lambda tx: tx.register(OWNER, ObjectId("f" * 32))) is None


async def test_concurrent_steps_are_serial(store):
    register = ObjectId("1" * 32)

    def add(tx):
        old = tx.register(OWNER, register) or RegisterRow()
        tx.put_register(OWNER, register, RegisterRow(promised=(old.promised[0] + 1, "x")))

    await asyncio.gather(*(store.transact(add) for _ in range(200)))
    final = await store.transact(lambda tx: tx.register(OWNER, register))
    assert final is not None
    assert final.promised == (200, "x")


async def test_registers_keep_every_field(bench):
    full = RegisterRow((3, "a"), (2, "b"), '{"v":1}', (1, "c"), '{"v":0}', "cert")
    empty = RegisterRow()
    register, other = ObjectId("a" * 32), ObjectId("b" * 32)
    await bench.store.transact(lambda tx: tx.put_register(OWNER, register, full))
    await bench.store.transact(lambda tx: tx.put_register(OWNER, other, empty))
    store = await bench.restart()
    assert await store.transact(lambda tx: tx.register(OWNER, register)) == full
    assert await store.transact(lambda tx: tx.register(OWNER, other)) == empty
    assert await store.transact(lambda tx: tx.register(OwnerId("owner-2"), register)) is None


@pytest.mark.parametrize("size", [5000, 300_000])
async def test_a_restart_keeps_records_and_their_bytes_and_nothing_else(bench, size):
    data = content(size)
    made = await put(bench.store, key(1), data)
    await bench.store.write(key(2), 0, data)
    unclaimed = row(key(3), size, await stage(bench.store, key(3), data))
    store = await bench.restart()
    assert await store.read(made, 0, size) == data
    assert await store.transact(lambda tx: tx.share(key(1))) == made
    with pytest.raises(Rejected):
        await store.finish(key(2), size)
    with pytest.raises(Rejected):
        await store.transact(lambda tx: tx.put_share(unclaimed))
    with pytest.raises(ShareDamaged):
        await store.read(unclaimed, 0, 1)


@pytest.mark.parametrize("sizes", [(5000, 6000), (300_000, 5000), (5000, 300_000), (300_000, 400_000)])
async def test_a_replaced_share_serves_the_new_bytes_only(store, sizes):
    old = await put(store, key(), content(sizes[0], 1))
    new = await put(store, key(), content(sizes[1], 2))
    assert await store.read(new, 0, sizes[1]) == content(sizes[1], 2)
    with pytest.raises(ShareDamaged):
        await store.read(old, 0, sizes[0])
    assert await store.transact(lambda tx: tx.used_bytes(OWNER)) == sizes[1]
    assert len(await store.transact(lambda tx: list(tx.shares_of(OWNER, key().object_id)))) == 1


async def test_a_change_of_state_keeps_the_bytes(store):
    staged = await put(store, key(), content(300_000), ShareState.STAGED)
    pinned = staged.with_state(ShareState.PINNED)
    await store.transact(lambda tx: tx.put_share(pinned))
    assert await store.transact(lambda tx: tx.share(key())) == pinned
    assert await store.read(pinned, 7, 100) == content(300_000)[7:107]
    assert await store.transact(lambda tx: tx.used_bytes(OWNER)) == 300_000


@pytest.mark.parametrize("size", [5000, 300_000])
async def test_a_deleted_share_is_gone(store, size):
    made = await put(store, key(1), content(size))
    kept = await put(store, key(2), content(size))
    await store.transact(lambda tx: tx.delete_share(key(1)))
    await store.transact(lambda tx: tx.delete_share(key(1)))
    assert await store.transact(lambda tx: tx.share(key(1))) is None
    assert await store.transact(lambda tx: tx.used_bytes(OWNER)) == size
    with pytest.raises(ShareDamaged):
        await store.read(made, 0, 1)
    assert await store.read(kept, 0, size) == content(size)


async def test_challenges_are_kept_in_order_once_and_beyond_deletion(bench):
    store = bench.store
    await put(store, key(1), content(100))
    for challenge in ("cc" * 16, "aa" * 16, "cc" * 16, "bb" * 16):
        await store.transact(lambda tx, c=challenge: tx.add_challenge(key(1), c))
    await store.transact(lambda tx: tx.delete_share(key(1)))
    store = await bench.restart()
    assert list(await store.transact(lambda tx: tx.challenges(key(1)))) == ["cc" * 16, "aa" * 16, "bb" * 16]
    assert list(await store.transact(lambda tx: tx.challenges(key(1, epoch=1)))) == []


async def test_listing_pages_through_everything_and_never_cuts_an_object(store):
    names = [
        key(number, version=version, epoch=epoch) for number in (3, 1, 2) for version in (1, 2) for epoch in (0, 1)
    ]
    for name in names:
        await put(store, name, content(10))
    await put(store, key(9, owner=OwnerId("owner-2")), content(10))
    for limit in (1, 2, 3, 4, 5, 100):
        seen, after = [], ""
        while page := list(await store.transact(lambda tx, a=after: tx.list_shares(OWNER, a, limit))):  # noqa: B023
            seen += [found.key for found in page]
            after = page[-1].key.object_id
        assert seen == sorted(names, key=lambda name: (name.object_id, name.version, name.epoch)), limit


async def test_versions_epochs_and_owners_are_different_shares(store):
    names = [key(), key(version=2), key(epoch=1), key(owner=OwnerId("owner.2")), key(2)]
    made = [await put(store, name, content(100, seed)) for seed, name in enumerate(names)]
    for seed, found in enumerate(made):
        assert await store.read(found, 0, 100) == content(100, seed)
    assert await store.transact(lambda tx: tx.used_bytes(OWNER)) == 400
    assert await store.transact(lambda tx: tx.used_bytes(OwnerId("owner.2"))) == 100
    assert await store.transact(lambda tx: tx.used_bytes(OwnerId("nobody"))) == 0
    assert len(await store.transact(lambda tx: list(tx.shares_of(OWNER, key().object_id)))) == 3


async def test_impossible_ranges_are_refused(store):
    made = await put(store, key(), content(100))
    for offset, length in [(-1, 1), (0, 101), (100, 1), (0, -1)]:
        with pytest.raises(Rejected):
            await store.read(made, offset, length)
    with pytest.raises(Rejected):
        await store.write(key(2), -1, b"x")


async def test_an_attempt_is_begun_once_over_restarts_and_deletion(bench):
    store = bench.store
    made = await put(store, key(1), content(5000))
    assert await store.transact(lambda tx: tx.use_attempt(made.key, "aa" * 16))
    assert not await store.transact(lambda tx: tx.use_attempt(made.key, "aa" * 16))
    await store.transact(lambda tx: tx.delete_share(made.key))
    store = await bench.restart()
    assert not await store.transact(lambda tx: tx.use_attempt(made.key, "aa" * 16))
    assert await store.transact(lambda tx: tx.use_attempt(made.key, "bb" * 16))
    assert await store.transact(lambda tx: tx.use_attempt(key(1, epoch=1), "aa" * 16))


async def test_an_attempt_of_a_step_that_fails_is_not_begun(store):
    def fails(tx):
        assert tx.use_attempt(key(1), "aa" * 16)
        raise Rejected("after all")

    with pytest.raises(Rejected):
        await store.transact(fails)
    assert await store.transact(lambda tx: tx.use_attempt(key(1), "aa" * 16))


async def test_a_look_sees_what_was_acknowledged_and_one_that_fails_spoils_no_other(store):
    made = await put(store, key(), content(100))

    def fails(_):
        raise Rejected("on purpose")

    for many in (1, 100):
        found = await store.look_each([fails, *[lambda tx: tx.share(key())] * many, lambda tx: tx.share(key(2))])
        assert isinstance(found[0], Rejected)
        assert found[1:] == [made] * many + [None]
    assert await store.look_each([]) == []


async def test_looks_see_each_register_as_the_last_step_left_it(store):
    register = ObjectId("0" * 32)
    for number in range(1, 4):
        await store.transact(lambda tx, n=number: tx.put_register(OWNER, register, RegisterRow(promised=(n, "a"))))
        looks = [lambda tx: tx.register(OWNER, register)] * 2
        assert [row.promised for row in await store.look_each(looks)] == [(number, "a")] * 2
