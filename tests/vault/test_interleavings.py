"""Two writers and readers in many orders: one wins, none mixed, and the history of a name is linearizable."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from shosoin.base import Entropy, ShosoinError, Unavailable
from shosoin.vault.catalog import Conflict
from shosoin.vault.client import NotFound
from tests.vault.support import SITES, DirectLink, SeededEntropy, World, fetch, make_world, pattern, store

pytestmark = pytest.mark.any_kernels


@dataclass
class Operation:
    """One operation of a history; ``end`` is ``None`` while nobody knows whether it took effect."""

    kind: str
    value: bytes | None
    start: int
    end: int | None = None


@dataclass
class History:
    """What happened when, in ticks."""

    operations: list[Operation] = field(default_factory=list)
    tick: int = 0

    def now(self) -> int:
        self.tick += 1
        return self.tick

    def linearizable(self, initial: bytes | None) -> bool:
        """Whether some order of the operations explains every read and respects who ended before whom began."""
        certain = frozenset(i for i, op in enumerate(self.operations) if op.end is not None)
        seen: set[tuple[frozenset[int], bytes | None]] = set()

        def search(done: frozenset[int], value: bytes | None) -> bool:
            if certain <= done:
                return True
            if (done, value) in seen:
                return False
            seen.add((done, value))
            first_end = min(self.operations[i].end or 0 for i in certain - done)
            for i, op in enumerate(self.operations):
                if i in done or op.start > first_end:
                    continue
                if op.kind == "write" and search(done | {i}, op.value):
                    return True
                if op.kind == "read" and op.value == value and search(done | {i}, value):
                    return True
            return False

        return search(frozenset(), initial)


def test_the_checker_can_fail() -> None:
    new_then_old = [Operation("write", b"1", 1, 6), Operation("read", b"1", 2, 3), Operation("read", None, 4, 5)]
    assert not History(new_then_old).linearizable(None)
    assert History([new_then_old[0], new_then_old[2], Operation("read", b"1", 6, 7)]).linearizable(None)
    lost = [Operation("write", b"1", 1, 2), Operation("read", None, 3, 4)]
    assert not History(lost).linearizable(None)
    assert History([Operation("write", b"1", 1, None), lost[1]]).linearizable(None)


def scheduled(world: World, seed: int, slowness: int) -> None:
    """Delay every message and every answer by a seeded number of turns."""
    chance = random.Random(seed)

    async def pause(link: DirectLink, header: dict[str, Any]) -> None:
        for _ in range(chance.randrange(slowness)):
            await asyncio.sleep(0)

    world.on_all(before=pause, after=pause)


async def write(history: History, world: World, content: bytes, class_: str) -> str:
    operation = Operation("write", content, history.now())
    history.operations.append(operation)
    try:
        await store(world, "name", content, class_)
    except (Conflict, Unavailable, NotFound):
        return "refused"  # may have taken effect or not; which of the two it should say is an open question
    operation.end = history.now()
    return "written"


async def read(history: History, world: World) -> None:
    start = history.now()
    try:
        found: bytes | None = (await fetch(world.vault, "name"))[0]
    except NotFound:
        found = None
    except Unavailable:
        return  # the version was replaced under the reader; says nothing about order
    history.operations.append(Operation("read", found, start, history.now()))


@pytest.mark.parametrize("same_vault", [True, False])
@pytest.mark.parametrize("seed", range(10))
async def test_two_writers_of_one_name(seed: int, same_vault: bool) -> None:
    entropy: Entropy = SeededEntropy(seed)
    world = make_world(5 if seed % 2 else 3, "3-of-5" if seed % 2 else "2-of-3", entropy=entropy)
    other = world if same_vault else world.another_vault()
    class_ = ("pqc", "its")[seed % 3 == 0]
    history = History()
    contents = [pattern(150, number) for number in range(3)]
    await store(world, "name", contents[0], class_)
    scheduled(world, seed, 12)
    if not same_vault:
        scheduled(other, seed + 1000, 12)
    outcomes = await asyncio.gather(
        write(history, world, contents[1], class_),
        write(history, other, contents[2], class_),
        read(history, world),
        read(history, other),
    )
    await read(history, world.another_vault())
    await read(history, other)
    assert "written" in outcomes or "refused" in outcomes
    assert all(op.value in contents for op in history.operations if op.kind == "read")
    assert history.linearizable(contents[0]), history.operations


@pytest.mark.parametrize("seed", range(6))
async def test_writers_of_different_names_both_get_there(seed: int) -> None:
    world = make_world(3, "2-of-3", entropy=SeededEntropy(seed))
    other = world.another_vault()
    scheduled(world, seed, 20)
    scheduled(other, seed + 50, 20)
    names = [f"name-{number}" for number in range(4)]
    outcomes = await asyncio.gather(
        *(store((world, other)[number % 2], name, name.encode(), "pqc") for number, name in enumerate(names)),
        return_exceptions=True,
    )
    reader = world.another_vault().vault
    stored = [name for name, outcome in zip(names, outcomes, strict=True) if not isinstance(outcome, BaseException)]
    assert stored, outcomes
    assert all(isinstance(outcome, ShosoinError) for outcome in outcomes if isinstance(outcome, BaseException))
    assert set(stored) <= {listing.name for listing in await reader.ls()}
    assert await reader.get_many(stored) == {name: name.encode() for name in stored}


@pytest.mark.parametrize("seed", range(6))
async def test_a_removal_beside_a_put(seed: int) -> None:
    """Whoever wins, the name ends up either gone or with one whole content, and nothing that was removed returns."""
    world = make_world(3, "2-of-3", entropy=SeededEntropy(seed))
    await store(world, "name", b"old", "pqc")
    other = world.another_vault()
    scheduled(world, seed, 15)
    scheduled(other, seed + 9, 15)
    outcomes: Any = await asyncio.gather(
        world.vault.rm("name"), store(other, "name", b"new", "pqc"), return_exceptions=True
    )
    removed, put = outcomes
    reader = world.another_vault()
    try:
        found: bytes | None = (await fetch(reader.vault, "name"))[0]
    except NotFound:
        found = None
    if not isinstance(removed, BaseException):
        assert found != b"old"
    if not isinstance(put, BaseException) and isinstance(removed, BaseException):
        assert found == b"new"
    assert found in (None, b"old", b"new")


@pytest.mark.parametrize("seed", range(4))
async def test_writers_under_a_shaky_network(seed: int) -> None:
    """Every tenth message or answer is lost; three rounds of two writers; what is acknowledged is read."""
    world = make_world(5, "3-of-5", entropy=SeededEntropy(seed))
    other = world.another_vault()
    await store(world, "name", b"start", "pqc")
    chance = random.Random(seed)

    def shake(link: DirectLink, header: dict[str, Any]) -> None:
        if link.site in SITES[1:3] and chance.random() < 0.1:
            raise Unavailable("lost on the way")

    history = History()
    for round_ in range(3):
        world.on_all(before=shake, after=shake)
        other.on_all(before=shake, after=shake)
        await asyncio.gather(
            write(history, world, pattern(90, 2 * round_), "pqc"),
            write(history, other, pattern(90, 2 * round_ + 1), "pqc"),
        )
        world.on_all()
        await read(history, world.another_vault())
    assert history.linearizable(b"start"), history.operations


async def test_a_crashed_writers_uncertified_version_never_comes_back() -> None:
    """The writer dies after a quorum accepted and before anybody holds the certificate: nobody was told that it exists,
    so the next writer passes it over, and it must not turn up later."""
    world = make_world()
    await store(world, "name", b"old", "pqc")
    object_id = (await world.vault.stat("name")).listing.object_id
    writer = world.another_vault()

    def die(link: DirectLink, header: dict[str, Any]) -> None:
        if any(op["op"] in {"commit", "abort"} and object_id in op.values() for op in header.get("ops", ())):
            raise Unavailable("the writer is dead")

    writer.on_all(before=die)
    with pytest.raises(ShosoinError):
        await store(writer, "name", b"accepted everywhere", "pqc")
    assert (await fetch(world.vault, "name"))[0] == b"old"
    await store(world, "name", b"later", "pqc")
    assert (await fetch(world.vault, "name"))[0] == b"later"
    assert (await fetch(world.another_vault().vault, "name"))[0] == b"later"
