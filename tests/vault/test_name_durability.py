"""A name is found as long as its object is: what happens to the index while sites come and go."""

from __future__ import annotations

from itertools import combinations

import pytest

from shosoin.base import Unavailable
from shosoin.vault.client import NotFound
from tests.vault.support import SITES, World, fetch, make_world, pattern, store

FIVE = SITES[:5]


def away(world: World, *names: str) -> None:
    """Exactly these sites are down."""
    for name, link in world.links.items():
        link.down = name in names


@pytest.mark.parametrize("class_", ["its", "qkd"])
@pytest.mark.parametrize("lost", list(combinations(FIVE[1:], 2)))
@pytest.mark.parametrize("absent", FIVE[1:])
async def test_a_put_while_a_site_is_away_takes_nothing_from_older_names(
    class_: str, lost: tuple[str, str], absent: str
) -> None:
    """Acknowledged at five sites means any two may be lost, whatever was stored since."""
    world = make_world()
    receipt = await store(world, "first", b"first", class_)
    assert receipt.durable_at == receipt.label.durable_at == 5
    away(world, absent)
    receipt = await store(world, "second", b"second", class_)
    assert receipt.durable_at == receipt.label.durable_at == 4
    away(world, *lost)
    other = world.another_vault()
    content, found = await fetch(other.vault, "first")
    assert (content, found.label.durable_at) == (b"first", 5)
    if absent in lost:  # four sites held the second, one of them is lost
        content, found = await fetch(other.vault, "second")
        assert (content, found.label.durable_at) == (b"second", 4)


async def test_what_can_be_read_is_read_and_the_rest_is_not_denied() -> None:
    """A name in the part that too few sites give now is unavailable, not gone; nothing may be written meanwhile."""
    world = make_world()
    await store(world, "first", b"first", "qkd")
    away(world, FIVE[1])
    await store(world, "second", b"second", "qkd")
    away(world, FIVE[2], FIVE[3])
    other = world.another_vault()
    assert (await other.vault.stat("first")).label.freshness == "unproven"
    for work in (
        other.vault.stat("second"),
        other.vault.stat("no such name"),
        other.vault.ls(),
        other.vault.rm("first"),
        store(other, "third", b"third", "qkd"),
    ):
        with pytest.raises(Unavailable):
            await work
    away(world)
    again = world.another_vault()
    assert [listing.name for listing in await again.vault.ls()] == ["first", "second"]
    with pytest.raises(NotFound):
        await again.vault.stat("no such name")


@pytest.mark.parametrize("class_", ["its", "qkd"])
async def test_the_next_commit_after_a_site_is_back_heals_the_index(class_: str) -> None:
    world = make_world()
    away(world, FIVE[4])
    for number in range(3):
        await store(world, f"name-{number}", pattern(50, number), class_)
    away(world)
    receipt = await store(world, "last", b"last", class_)
    assert receipt.durable_at == 5
    state = world.vault._names.states[class_]
    assert {len(part.body.good) for part in state.parts} == {5}
    assert (await world.vault.stat("name-0")).label.durable_at == 4  # the object itself is as it was
    away(world, FIVE[0], FIVE[1])
    assert sorted(world.vault._names.entries()) == ["last", "name-0", "name-1", "name-2"]


async def test_a_site_that_goes_away_in_the_middle_of_a_commit_takes_nothing_from_older_names() -> None:
    """The commit folds the older part, and only then learns that a site is gone."""
    world = make_world()
    await store(world, "first", b"first", "qkd")
    gone = world.links[FIVE[3]]
    register = world.vault._names.states["qkd"].register_id

    def leave(link: object, header: dict) -> None:
        if any(op.get("object") == register for op in header.get("ops", ())):
            raise Unavailable("gone")

    gone.before = leave
    receipt = await store(world, "second", b"second", "qkd")
    assert receipt.durable_at == 4
    parts = world.vault._names.states["qkd"].parts
    assert [len(part.body.good) for part in parts] == [5, 4]
    assert world.vault._names.durable_at("first") == 5


async def test_class_pqc_needs_no_key_manager() -> None:
    world = make_world()

    async def dead(*_: object, **__: object) -> object:
        raise Unavailable("no KME")

    world.keys.enc_keys = world.keys.dec_keys = world.keys.status = dead  # type: ignore[method-assign,assignment]
    await store(world, "name", b"content", "pqc")
    assert (await fetch(world.vault, "name"))[0] == b"content"
    assert [listing.name for listing in await world.vault.ls()] == ["name"]
    await world.vault.rm("name")


async def test_without_keys_an_index_that_needs_them_is_not_taken_for_empty() -> None:
    world = make_world()
    await store(world, "secret", b"content", "qkd")
    await store(world, "open", b"content", "pqc")
    other = world.another_vault()

    async def dead(*_: object, **__: object) -> object:
        raise Unavailable("no KME")

    other.keys.enc_keys = other.keys.status = dead  # type: ignore[method-assign,assignment]
    assert (await fetch(other.vault, "open"))[0] == b"content"
    for work in (other.vault.stat("secret"), store(other, "secret", b"other", "pqc"), other.vault.ls()):
        with pytest.raises(Unavailable):
            await work
