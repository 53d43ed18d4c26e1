"""Attacks on registers by a client that proposes what it should not: twice, too late, after a removal, unsigned.

Each returns what it broke, or ``None`` if nothing.
"""

from __future__ import annotations

from typing import Any

from shosoin.base import ObjectId, VersionId
from shosoin.vault.signing import OwnerSigner
from shosoin.vault.values import RegisterValue, ValueDraft, sign_values
from tests.mutants.attacks_register import FIVE, promises_of, proposed, said, seeded
from tests.vault.repair_support import committed
from tests.vault.support import OWNER, SIGNER, SITES, World, failing, fetch, store
from tests.vault.test_register_liars import Liar, register_of

A, B, C, D, E = FIVE
QUORUM = 4


def successor(value: RegisterValue, number: int, *, kind: str = "tombstone", signer: Any = SIGNER) -> RegisterValue:
    """A value without bodies that follows another one."""
    draft = ValueDraft(
        kind=kind,
        register_id=value.register_id,
        owner=OWNER,
        version=VersionId(f"{number:032x}"),
        parent=value,
        scheme=value.scheme,
        class_=value.class_,
        placement=value.placement,
        electorate=value.electorate,
        bodies=(),
        added=0,
        created_wall_s=1.0,
        facts={},
    )
    return sign_values([draft], signer)[0]


async def stored() -> tuple[World, ObjectId, RegisterValue]:
    """A world with an object, its register, and the register's value."""
    world = seeded()
    await store(world, "name", b"content", "pqc")
    register = await register_of(world, "name")
    return world, register, committed(world, A, register)


async def offered(world: World, value: RegisterValue, ballot: list[Any], promises: Any) -> int:
    """Have all sites asked to accept a value with promises for its ballot; how many do."""
    given, signed = promises
    op = {"op": "accept", "register": value.register_id, "ballot": ballot, "value": value.text, "promises": given}
    for site in FIVE:
        await said(world, site, [signed, op])
    rows = [world.stores[site]._tables.registers[OWNER, value.register_id] for site in FIVE]
    return sum(row.accepted_value == value.text for row in rows)


async def two_values_under_one_ballot() -> str | None:
    """A client with promises for one ballot proposes two values under it."""
    world, register, value = await stored()
    ballot = [9, "z"]
    promises = await promises_of(world, register, ballot, FIVE)
    counts = [await offered(world, successor(value, number), ballot, promises) for number in (1, 2)]
    return "two values are certified under one ballot" if min(counts) >= QUORUM else None


async def older_ballot_after_a_newer_promise() -> str | None:
    """Two clients have promises; the one with the older ballot proposes when all sites have promised the newer one."""
    world, register, value = await stored()
    older, newer = [8, "z"], [9, "z"]
    first = await promises_of(world, register, older, FIVE)
    second = await promises_of(world, register, newer, FIVE)
    counts = [
        await offered(world, successor(value, number), ballot, promises)
        for number, ballot, promises in ((1, older, first), (2, newer, second))
    ]
    return "two certified values replace the same version" if min(counts) >= QUORUM else None


async def version_after_a_removal() -> str | None:
    """A client that knows the tombstone of an object proposes a version that follows it."""
    world, register, _ = await stored()
    await world.vault.rm("name")
    gone = committed(world, A, register)
    await proposed(world, successor(gone, 1, kind="object"))
    now = committed(world, A, register)
    return "an object that was removed has a version again" if gone.tombstone and not now.tombstone else None


async def value_that_the_owner_never_signed() -> str | None:
    """Who has the owner's channels and not its signing key removes an object."""
    world, register, value = await stored()
    ballot = [9, "z"]
    forged = successor(value, 1, signer=OwnerSigner(bytes(32)))
    count = await offered(world, forged, ballot, await promises_of(world, register, ballot, FIVE))
    return f"{count} sites accept what the owner never signed" if count >= QUORUM else None


async def value_of_another_register() -> str | None:
    """A site answers with the value and certificate of another object, which has seen more ballots."""
    world, register, _ = await stored()
    await store(world, "other", b"first", "pqc")
    other = await register_of(world, "other")
    world.on_all(before=failing("erase"))
    await store(world, "other", b"other", "pqc")
    row = world.stores[D]._tables.registers[OWNER, other]
    text = world.stores[D]._tables.signatures[str(row.signature_set)]

    def swap(op: dict[str, Any], result: dict[str, Any]) -> None:
        if op["op"] == "register" and op.get("register") == register:
            result |= {"committed": row.committed_value, "committed_ballot": list(row.committed_ballot)}
            result |= {"certificate": row.certificate, "set": row.signature_set}

    Liar(world, D, swap)
    operations: Any = world.links[D].node._operations
    run = operations.run

    async def with_set(*given: Any) -> Any:
        header, out = await run(*given)
        return {**header, "sets": [*header.get("sets", []), text]}, out

    operations.run = with_set
    reader = world.another_vault()
    reader.links[SITES[1]].down = True
    content = (await fetch(reader.vault, "name"))[0]
    return f"{content.decode()!r} is served for another name" if content != b"content" else None
