"""Attacks on the way without promises: somebody goes on after a value that was replaced meanwhile.

Each returns what it broke, or ``None`` if nothing.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from shosoin.base import ObjectId, SiteId, Unavailable
from shosoin.vault.attestations import Certificate, SignatureSet
from shosoin.vault.envelope import cut, parse_json
from shosoin.vault.proposals import Done
from shosoin.vault.values import read_value
from tests.mutants.attacks_register import FIVE, Old, promises_of, said, seeded
from tests.vault.repair_support import committed
from tests.vault.support import OWNER, DirectLink, World, store
from tests.vault.test_register_liars import ask, register_of

__all__ = ["ballot_in_between", "old_value_as_the_one_before"]

QUORUM = FIVE[:4]


@dataclass(frozen=True)
class Scene:
    """An object in its first version, and two second versions that sites hold shares of and nobody decided about."""

    world: World
    register: ObjectId
    first: Old
    second: tuple[str, str]

    def of_second(self, number: int) -> list[str]:
        """Sites that hold one of the second versions."""
        digest = read_value(self.second[number]).digest
        return [site for site in FIVE if committed(self.world, site, self.register).digest == digest]


async def _scene() -> Scene:
    world = seeded()
    await store(world, "name", b"first", "pqc")
    register = await register_of(world, "name")
    tables = world.stores[FIVE[0]]._tables
    row = tables.registers[OWNER, register]
    first = Old(row, tables.signatures[str(row.signature_set)])
    done = world.context._memory.take(register)
    if done is None:
        raise AssertionError("whoever put the object should know")
    second = await _offered(world, register, done), await _offered(world, register, done)
    return Scene(world, register, first, second)


async def _offered(world: World, register: ObjectId, done: Done) -> str:
    """Have another client offer a second version, of which no site ever hears more than its shares."""
    seen: list[str] = []

    def lose(_: DirectLink, header: dict[str, Any]) -> None:
        seen.extend(op["value"] for op in header.get("ops", ()) if op["op"] == "accept" and op["register"] == register)
        if seen:
            raise Unavailable("lost")

    writer = world.another_vault()
    writer.context._memory.brought_about(register, done)  # no phase one: sites have promised nothing newer
    writer.on_all(before=lose)
    try:
        await store(writer, "name", b"second", "pqc")
    except Unavailable:
        return seen[0]
    raise AssertionError("the put should have failed")


async def _decided(scene: Scene, ballot: list[Any], text: str, operations: list[dict[str, Any]]) -> None:
    """Have a quorum accept a value and hold its certificate, if it does."""
    paths, signatures = dict[SiteId, bytes](), dict[SiteId, bytes]()
    for site in QUORUM:
        accept = {"op": "accept", "register": scene.register, "ballot": ballot, "value": text}
        accept |= operations[-1]
        results = await ask(scene.world, site, [*operations[:-1], accept])
        if results[-1].get("granted") is not True:
            return
        header = parse_json(cut(scene.world.links[site].answered[-1]).header)
        paths[SiteId(site)] = base64.b64decode(results[-1]["path"])
        signatures[SiteId(site)] = base64.b64decode(header["signatures"][0])
    signed = SignatureSet.of(signatures)
    commit = {
        "op": "commit",
        "register": scene.register,
        "ballot": ballot,
        "digest": read_value(text).digest,
        "value": text,
        "certificate": Certificate.of(signed.name, paths).text,
    }
    for site in QUORUM:
        await said(scene.world, site, [{"op": "signatures", "text": signed.text}, commit])


async def _one_after_the_other(scene: Scene, ballot: list[Any], later: list[Any]) -> str | None:
    """Decide about a second version as it must be done, then about another as if the first still stood."""
    promises, signed = await promises_of(scene.world, scene.register, ballot, FIVE)
    await _decided(scene, ballot, scene.second[0], [signed, {"promises": promises}])
    if len(scene.of_second(0)) < len(QUORUM):
        raise AssertionError("the first of the second versions should stand")
    shown = {"top": scene.first.shown}
    await _decided(scene, later, scene.second[1], [scene.first.operation, shown])
    lost = scene.of_second(1)
    return f"{', '.join(lost)} replaced an acknowledged version by one that never knew it" if lost else None


async def old_value_as_the_one_before() -> str | None:
    """A client goes on after the first version, under a ballot far beyond its own."""
    return await _one_after_the_other(await _scene(), [5, "a"], [9, "z"])


async def ballot_in_between() -> str | None:
    """A proposer's name begins with that of the first version's, and lies before what comes after it."""
    scene = await _scene()
    round_, name = scene.first.row.committed_ballot
    return await _one_after_the_other(scene, [round_, name + "5"], [round_, name + "z"])
