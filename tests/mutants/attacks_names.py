"""Two clients and one name, in one exact order.

Each returns what it broke, or ``None`` if nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from shosoin.base import ShosoinError, Unavailable
from shosoin.kernels import ELEMENT_BYTES, element_inv, element_mul, lagrange_weights, point_of
from shosoin.kernels.elements import pack
from shosoin.vault.catalog import Conflict
from shosoin.vault.index import index_register
from tests.mutants.attacks_register import FIVE, seeded
from tests.review.test_vault_attacks_review import touches
from tests.vault.repair_support import committed, share
from tests.vault.support import OWNER, DirectLink, fetch, kinds_of, store

_NAME_AT = 32
"""Where the first name stands in a part: after the number of entries and its own lengths."""


async def two_new_names() -> str | None:
    """Two clients put different contents under a name that neither finds taken; the second hears of no conflict."""
    world = seeded()
    await world.vault.ls()
    other = world.another_vault()
    await other.vault.ls()
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def hold(_: DirectLink, header: dict[str, Any]) -> None:
        if "write" in kinds_of(header):
            waiting.set()
            await go_on.wait()

    other.on_all(before=hold)
    late = asyncio.create_task(store(other, "name", b"theirs", "pqc"))
    await waiting.wait()
    await store(world, "name", b"ours", "pqc")
    go_on.set()
    with suppress(ShosoinError):
        await late
        return "a name went to another object, and nobody was told of the one that had it"
    return None if (await fetch(world.another_vault().vault, "name"))[0] == b"ours" else "the first content is gone"


async def conflict_after_the_name_was_entered() -> str | None:
    """A batch enters two names; others carry its index value on, give one name away, and it meets a conflict there."""
    world = seeded()
    await store(world, "b", b"old", "qkd")
    await store(world, "first", b"first", "pqc")
    index = index_register(OWNER, "pqc")
    other = world.another_vault()
    cut = [True]

    async def hold(link: DirectLink, header: dict[str, Any]) -> None:
        if cut[0] and touches(header, index, "commit"):
            if link.site == FIVE[0]:
                return
            if link.site == FIVE[1]:
                await store(other, "third", b"third", "pqc")
                await other.vault.rm("a")
                await store(other, "a", b"theirs", "pqc")
                cut[0] = False
            raise Unavailable("lost on the way")

    world.on_all(before=hold)
    with suppress(Conflict):
        await world.vault.put_many({"a": b"ours", "b": b"new"}, class_="pqc")
    reader = world.another_vault().vault
    try:
        found = (await fetch(reader, "b"))[0]
    except ShosoinError as error:
        return f"a name stands for an object that was removed: {error.code}"
    return None if found in (b"old", b"new") else f"{found.decode()!r} is served"


async def shifted_name() -> str | None:
    """A site shifts its share of the index by what turns one name into another; it needs to know nothing else."""
    world = seeded()
    await store(world, "name", b"content", "pqc")
    register = index_register(OWNER, "pqc")
    (body,) = committed(world, FIVE[1], register).bodies
    key = world.share_key(register, FIVE[1], body.version)
    place = body.layout.root_offset + _NAME_AT
    wanted = int.from_bytes(b"name", "little") ^ int.from_bytes(b"mine", "little")
    weight = lagrange_weights([point_of(at) for at in (1, 2, 3)])[1]
    held = share(world, FIVE[1], key)[place : place + ELEMENT_BYTES]
    moved = int.from_bytes(held, "little") ^ element_mul(element_inv(weight), wanted)
    world.stores[FIVE[1]].falsify(key, place, pack(moved))
    try:
        found = [entry.name for entry in await world.another_vault().vault.ls()]
    except ShosoinError as error:
        return f"one liar of five keeps every name from being read: {error.code}"
    return f"the names are {', '.join(found)}" if found != ["name"] else None
