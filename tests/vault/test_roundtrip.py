"""Put, get, ls, stat, rm, verify, batches and ranges, for every class and around every boundary."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shosoin.base import Rejected
from shosoin.vault import Scheme
from shosoin.vault.client import NotFound
from shosoin.vault.naming import padme_bytes
from shosoin.vault.writing import SourceChanged
from tests.vault.support import SITES, PiecewiseSource, fetch, make_world, pattern, store

CLASSES = ("its", "qkd", "pqc")
S = 2048  # the segment of ``small_segments``


@pytest.mark.parametrize("class_", CLASSES)
async def test_sizes_around_every_boundary(class_: str, small_segments: int) -> None:
    world = make_world(4, "2-of-4")
    # inline entries end at 2 segments, a page at 4, two pages at 8
    sizes = [0, 1, 16, 64, 65, S - 1, S, S + 1, 2 * S, 2 * S + 1, 4 * S, 4 * S + 1, 8 * S]
    if class_ == "qkd":
        sizes = sizes[::4]
    for size in sizes:
        receipt = await store(world, f"object-{size}", pattern(size), class_)
        assert receipt.size_bytes == size
        assert receipt.durable_at == 4
    reader = world.another_vault()
    for size in sizes:
        found, receipt = await fetch(reader.vault, f"object-{size}")
        assert found == pattern(size)
        assert (receipt.size_bytes, receipt.alarms, receipt.freshness) == (size, [], "proven")
        if size:
            assert len(receipt.sites_used) == 2


@pytest.mark.parametrize("class_", CLASSES)
async def test_the_life_of_an_object(class_: str) -> None:
    world = make_world()
    first = await store(world, "a/記録.txt", b"one", class_)
    second = await store(world, "a/記録.txt", b"two!", class_)
    assert first.object_id == second.object_id
    assert first.version != second.version
    assert (await fetch(world.vault, "a/記録.txt"))[0] == b"two!"
    (listing,) = await world.another_vault().vault.ls("a/")
    assert (listing.name, listing.size_bytes, listing.class_, listing.scheme) == ("a/記録.txt", 4, class_, Scheme(3, 5))
    assert listing.content_type == "text/plain"
    stat = await world.vault.stat("a/記録.txt")
    assert stat.listing == listing
    assert stat.placement == list(SITES[:5])
    report = await world.vault.verify("a/記録.txt")
    assert report.ok
    assert set(report.per_site.values()) == {"ok"}
    removed = await world.vault.rm("a/記録.txt")
    assert removed.pending_at == []
    assert await world.another_vault().vault.ls() == []
    for attempt in (world.vault.rm, world.vault.stat, world.vault.verify):
        with pytest.raises(NotFound):
            await attempt("a/記録.txt")
    with pytest.raises(NotFound):
        await fetch(world.vault, "a/記録.txt")
    assert not any(row.key.object_id == first.object_id for site in world.stores.values() for row in site.shares())


async def test_a_removed_name_can_be_taken_again_and_stays_taken() -> None:
    world = make_world(3, "2-of-3")
    for round_ in range(3):
        receipt = await store(world, "name", f"round {round_}".encode(), "pqc")
        assert (await fetch(world.another_vault().vault, "name"))[0] == f"round {round_}".encode()
        await world.vault.rm("name")
        with pytest.raises(NotFound):
            await fetch(world.another_vault().vault, "name")
    assert receipt.object_id


async def test_a_name_moves_between_classes_and_the_old_shares_go() -> None:
    world = make_world(3, "2-of-3")
    ids = []
    for class_ in ("pqc", "its", "qkd", "pqc"):
        ids.append((await store(world, "name", class_.encode(), class_)).object_id)
        reader = world.another_vault()
        assert (await fetch(reader.vault, "name"))[0] == class_.encode()
        assert [listing.class_ for listing in await reader.vault.ls()] == [class_]
    held = {row.key.object_id for site in world.stores.values() for row in site.shares()}
    assert not held & set(ids[:-1])
    await world.vault.rm("name")
    assert await world.another_vault().vault.ls() == []


@pytest.mark.parametrize("class_", CLASSES)
async def test_batches(class_: str) -> None:
    world = make_world(4, "3-of-4")
    contents = {f"dir/{number}": pattern(number * 37, number) for number in range(13)}
    receipts = await world.vault.put_many(contents, class_=class_)
    assert [receipt.name for receipt in receipts] == list(contents)
    assert {receipt.durable_at for receipt in receipts} == {4}
    reader = world.another_vault().vault
    assert await reader.get_many(list(contents)) == contents
    assert [listing.name for listing in await reader.ls("dir/1")] == sorted(
        n for n in contents if n.startswith("dir/1")
    )
    changed = {name: content + b"!" for name, content in list(contents.items())[::2]}
    await world.vault.put_many(changed, class_=class_)
    assert await reader.get_many(list(contents)) == contents | changed
    with pytest.raises(NotFound):
        await reader.get_many(["dir/1", "none"])


async def test_a_batch_reads_over_all_classes_and_schemes() -> None:
    world = make_world()
    contents = {}
    for number, class_ in enumerate(CLASSES):
        for scheme in (Scheme(2, 3), Scheme(3, 5)):
            name = f"{class_}-{scheme}"
            contents[name] = pattern(100 + number)
            await store(world, name, contents[name], class_, scheme=scheme)
    assert await world.another_vault().vault.get_many(list(contents)) == contents


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(start=st.integers(0, 6 * S), length=st.none() | st.integers(0, 3 * S))
async def test_every_range_is_the_slice(small_segments: int, start: int, length: int | None) -> None:
    content = pattern(5 * S + 77)
    if not hasattr(test_every_range_is_the_slice, "world"):
        world = make_world(3, "2-of-3")
        await store(world, "object", content, "pqc")
        test_every_range_is_the_slice.world = world  # type: ignore[attr-defined]
    vault = test_every_range_is_the_slice.world.another_vault().vault  # type: ignore[attr-defined]
    if start > len(content):
        with pytest.raises(Rejected):
            await fetch(vault, "object", start=start, length=length)
        return
    found, receipt = await fetch(vault, "object", start=start, length=length)
    assert found == content[start : None if length is None else start + length]
    assert receipt.size_bytes == len(found)


async def test_a_small_range_reads_little(small_segments: int) -> None:
    world = make_world(3, "2-of-3")
    await store(world, "object", pattern(20 * S), "pqc")
    for link in world.links.values():
        link.answered.clear()
    await fetch(world.vault, "object", start=11 * S + 3, length=10)
    assert sum(len(raw) for link in world.links.values() for raw in link.answered) < 3 * (2 * S + 4 * 1024 + 4 * 8192)
    with pytest.raises(Rejected):
        await fetch(world.vault, "object", start=-1)
    with pytest.raises(Rejected):
        await fetch(world.vault, "object", start=0, length=-1)


@pytest.mark.parametrize("class_", ["its", "pqc"])
async def test_the_length_that_sites_see_is_the_class_of_the_length(class_: str) -> None:
    sizes = set()
    for size in (5000, 5001, 5100, padme_bytes(5000)):
        world = make_world(3, "2-of-3")
        receipt = await store(world, "object", bytes(size), class_)
        rows = [row for row in world.stores[SITES[1]].shares() if row.key.object_id == receipt.object_id]
        sizes.add(rows[0].size_bytes)
    assert len(sizes) == 1


async def test_a_stream_of_unknown_length_is_stored_as_it_comes(small_segments: int) -> None:
    world = make_world(3, "2-of-3")
    pieces = [pattern(700, number) for number in range(9)]
    receipt = await world.vault.put(PiecewiseSource(*pieces), "stream", class_="its")
    assert receipt.size_bytes == 6300
    assert (await fetch(world.vault, "stream"))[0] == b"".join(pieces)


@pytest.mark.parametrize("announced", [100, 6000])
async def test_a_source_that_changes_is_refused_and_leaves_nothing(small_segments: int, announced: int) -> None:
    world = make_world(3, "2-of-3")
    await store(world, "name", b"old", "pqc")
    held = {name: len(site.shares()) for name, site in world.stores.items()}
    with pytest.raises(SourceChanged):
        await world.vault.put(PiecewiseSource(pattern(5000), size_hint=announced), "name", class_="pqc")
    assert {name: len(site.shares()) for name, site in world.stores.items()} == held
    assert (await fetch(world.vault, "name"))[0] == b"old"


async def test_progress_is_told_and_ends_at_the_size(small_segments: int) -> None:
    world = make_world(3, "2-of-3")
    told: list[int] = []
    await store(world, "object", pattern(3 * S + 1), "pqc", progress=told.append)
    assert told == [S, 2 * S, 3 * S, 3 * S + 1]
    told.clear()
    await fetch(world.vault, "object", progress=told.append)
    assert told[-1] == 3 * S + 1
    assert told == sorted(told)


async def test_replaced_versions_and_folded_index_parts_are_erased() -> None:
    world = make_world(3, "2-of-3")
    for round_ in range(12):
        await store(world, f"name-{round_ % 3}", bytes([round_]) * 40, "pqc")
    for site in world.stores.values():
        objects = [row for row in site.shares() if row.mask_elements]
        assert len({(row.key.object_id, row.key.version) for row in objects}) <= 3 + 4
        assert all(row.state.value == "committed" for row in site.shares())
        assert site.staged == 0


async def test_a_plan_is_an_upper_bound_for_a_small_index() -> None:
    for size in (0, 100, 5000, 40_000):
        world = make_world()
        plan = await world.vault.plan(size)
        await store(world, "object", pattern(size), "its")
        for site, bits in world.context.bits_used().items():
            assert bits <= plan.needed_bits[site]
    assert plan.enough


async def test_any_scheme_up_to_the_number_of_sites() -> None:
    world = make_world(8, "3-of-8")
    for k, n in ((2, 2), (2, 8), (4, 5), (5, 8), (8, 8)):
        for class_ in ("its", "pqc"):
            receipt = await store(world, f"{class_}-{k}-{n}", pattern(50, k), class_, scheme=Scheme(k, n))
            assert receipt.durable_at == n
            assert (await fetch(world.vault, f"{class_}-{k}-{n}"))[0] == pattern(50, k)
