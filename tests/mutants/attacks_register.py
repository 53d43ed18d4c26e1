"""Attacks on registers that no plan of the simulation makes: by clients that keep to no rules, or in one exact order.

Each returns what it broke, or ``None`` if nothing.
"""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass, replace
from typing import Any

from shosoin.base import ObjectId, Rejected, ShosoinError, SiteId, Unavailable
from shosoin.vault.attestations import SignatureSet
from shosoin.vault.catalog import PROVEN, Proposal
from shosoin.vault.envelope import cut, parse_json
from shosoin.vault.ports import RegisterRow
from shosoin.vault.values import Body, RegisterValue
from tests.vault.repair_support import committed
from tests.vault.support import OWNER, SITES, SeededEntropy, Signed, World, failing, fetch, make_world, store
from tests.vault.test_register_liars import (
    ask,
    down,
    register_of,
    roll_back,
    rolled_back_reader,
    snapshot_of,
    two_writers,
)

A, B, C, D, E, F = SITES[:6]
FIVE = SITES[:5]
SEED = 11
"""Another one than that of the key network: bytes that come out twice would be one unknown to the checker."""


def seeded(n: int = 5, scheme: str = "3-of-5") -> World:
    """A world that is the same in every run."""
    return make_world(n, scheme, entropy=SeededEntropy(SEED))


@dataclass(frozen=True)
class Old:
    """What a site held of a register's first version."""

    row: RegisterRow
    signatures: str

    @property
    def operation(self) -> dict[str, Any]:
        """Brings the signatures of its certificate."""
        return {"op": "signatures", "text": self.signatures}

    @property
    def shown(self) -> dict[str, Any]:
        """The version as a proposer shows it."""
        row = self.row
        return {"ballot": list(row.committed_ballot), "certificate": row.certificate, "value": row.committed_value}


async def replaced(away: str | None = None) -> tuple[World, ObjectId, Old]:
    """An object in its second version, whose first version's shares are still there; one site may know the first."""
    world = seeded()
    await store(world, "name", b"old", "pqc")
    register = await register_of(world, "name")
    tables = world.stores[away or B]._tables
    row = tables.registers[OWNER, register]
    old = Old(row, tables.signatures[str(row.signature_set)])
    world.on_all(before=failing("erase"))
    if away:
        world.links[away].down = True
    await store(world, "name", b"new", "pqc")
    down(world)
    world.on_all()
    return world, register, old


async def old_version_again(world: World, register: ObjectId) -> str | None:
    """Whether the register went back to its first version."""
    values = [committed(world, site, register) for site in FIVE]
    back = [site for site, value in zip(FIVE, values, strict=True) if value.counter == 1]
    return f"{', '.join(back)} hold the first version again, after the second was acknowledged" if back else None


async def said(world: World, site: str, operations: list[dict[str, Any]]) -> None:
    """Tell a site something, whatever it answers."""
    with contextlib.suppress(ShosoinError):
        await ask(world, site, operations)


def accepted_again(world: World, register: ObjectId, old: Old) -> str | None:
    """Whether a quorum accepted the first version after the second."""
    rows = [world.stores[site]._tables.registers[OWNER, register] for site in FIVE]
    count = sum(row.accepted_value == old.row.committed_value for row in rows)
    return f"{count} sites accept the first version after the second" if count >= 4 else None


async def rolled_back_site() -> str | None:
    """One site is rolled back to its state before a put; a reader meets it and those that missed the put."""
    content = await rolled_back_reader(seeded(5, "2-of-5"))
    return f"{content.decode()!r} is served after a newer version was acknowledged" if content != b"new" else None


async def old_value_without_promises() -> str | None:
    """A client has an old value accepted again and shows no promises."""
    world, register, old = await replaced()
    accept = {"op": "accept", "register": register, "ballot": [9, "z"], "value": old.row.committed_value}
    for site in FIVE:
        await said(world, site, [accept])
    return accepted_again(world, register, old)


async def promises_of(world: World, register: ObjectId, ballot: list[Any], sites: tuple[str, ...]) -> Any:
    """Have sites promise a ballot; return their promises as a proposer shows them, and the signatures."""
    given, signatures = [], {}
    for site in sites:
        (result,) = await ask(world, site, [{"op": "prepare", "register": register, "ballot": ballot}])
        digest = committed(world, site, register).digest
        given.append([site, result["committed_ballot"], digest, result["path"]])
        header = parse_json(cut(world.links[site].answered[-1]).header)
        signatures[SiteId(site)] = base64.b64decode(header["signatures"][0])
    signed = SignatureSet.of(signatures)
    return {"set": signed.name, "given": given}, {"op": "signatures", "text": signed.text}


async def propose_old(world: World, register: ObjectId, old: Old, promising: tuple[str, ...]) -> str | None:
    """Propose the first version again on top of itself, with true promises of some sites."""
    ballot = [9, "z"]
    promises, signed = await promises_of(world, register, ballot, promising)
    accept = {"op": "accept", "register": register, "ballot": ballot, "value": old.row.committed_value}
    for site in FIVE:
        await said(world, site, [signed, old.operation, {**accept, "promises": promises, "top": old.shown}])
    return accepted_again(world, register, old)


async def old_value_on_an_old_top() -> str | None:
    """A client with the promises of all sites shows the first certified value instead of the newest."""
    return await propose_old(*await replaced(), FIVE)


async def old_value_on_few_promises() -> str | None:
    """A client shows the promise of one site alone, which was away when the second version came."""
    return await propose_old(*await replaced(E), (E,))


async def made_up_certificate() -> str | None:
    """A client commits the first version again under a high ballot, with signatures that are of something else."""
    world, register, old = await replaced()
    signatures = SignatureSet.parse(old.signatures)
    moved = SignatureSet.of({SiteId(site): signatures.signatures[SiteId(A)] for site in FIVE})
    certificate = json.dumps({**json.loads(str(old.row.certificate)), "set": moved.name})
    commit = {"op": "commit", "register": register, "ballot": [9, "z"], "value": old.row.committed_value, "digest": ""}
    for site in FIVE:
        await said(world, site, [{"op": "signatures", "text": moved.text}, {**commit, "certificate": certificate}])
    return await old_version_again(world, register)


async def certificate_of_one_liar() -> str | None:
    """One lying site accepts the first version again and certifies it alone."""
    world, register, old = await replaced()
    value = str(old.row.committed_value)
    certified = Signed(register).certified((9, "z"), RegisterValue.parse(value), [D])
    commit = {"op": "commit", "register": register, "ballot": [9, "z"], "value": value, "digest": ""}
    signed = {"op": "signatures", "text": certified.signatures.text}
    for site in FIVE:
        await said(world, site, [signed, {**commit, "certificate": certified.certificate.text}])
    return await old_version_again(world, register)


async def other_value_under_the_same_signatures() -> str | None:
    """A client moves the acceptances of one value to another value of the same register and ballot."""
    world, register, old = await replaced(E)
    row = world.stores[B]._tables.registers[OWNER, register]
    signed = {"op": "signatures", "text": world.stores[B]._tables.signatures[str(row.signature_set)]}
    commit = {"op": "commit", "register": register, "ballot": list(row.committed_ballot), "digest": ""}
    await said(world, E, [signed, {**commit, "value": old.row.committed_value, "certificate": row.certificate}])
    found = world.stores[E]._tables.registers[OWNER, register]
    if found.committed_ballot == row.committed_ballot and found.committed_value != row.committed_value:
        return "two values are certified under one ballot"
    return None


async def two_writers_of_one_version() -> str | None:
    """A writer's commits arrive when a second writer has its promises; both may not replace the same version."""
    acknowledged, last = await two_writers(seeded())
    if sum(acknowledged) == 2 and last.counter == 2:
        return "two writers are told that they replaced the same version"
    return None


async def new_members_alone() -> str | None:
    """A site is replaced while one of the others is cut off; a client of the old members meets a site rolled back."""
    world = seeded(6)
    old = world.another_vault()
    old.context.sites = tuple(site for site in old.context.sites if site.name != F)
    await store(old, "name", b"start", "pqc")
    new = world.another_vault()
    new.context.sites = tuple(site for site in new.context.sites if site.name != E)
    before = snapshot_of(world, A)
    down(new, D)
    new.on_all(before=failing("erase"))
    try:
        await store(new, "name", b"new", "pqc")
    except (Rejected, Unavailable):
        return None  # a quorum of the old members has to take part
    roll_back(world, A, before)
    reader = world.another_vault()
    reader.context.sites = old.context.sites
    down(reader, B, C)
    content, receipt = await fetch(reader.vault, "name")
    if content != b"new" and receipt.freshness == PROVEN:
        return f"{content.decode()!r} is served as proven after a newer version was acknowledged"
    return None


async def two_changes_of_one_version() -> str | None:
    """Two clients have a register count on the rebuilt shares of two sites at once, from the same site part."""
    world = seeded(7, "3-of-7")
    receipt = await store(world, "name", b"content", "pqc")
    register = ObjectId(receipt.object_id)
    value = committed(world, A, register)
    await proposed(world, value.with_bodies([with_good(body, *FIVE[:3], F, SITES[6]) for body in value.bodies]))
    value = committed(world, A, register)
    first, second = (value.with_bodies([with_good(body, *body.good, site) for body in value.bodies]) for site in (D, E))
    told = await proposed(world, first)
    await proposed(world.another_vault(), second)
    good = committed(world, A, register).bodies[0].good
    return f"that {D} holds its share was acknowledged, and is forgotten" if told and D not in good else None


def with_good(body: Body, *sites: str) -> Body:
    """A body with other good sites."""
    return replace(body, good=tuple(map(SiteId, sites)))


async def proposed(world: World, value: RegisterValue) -> bool:
    """Propose a value; whether it is acknowledged."""
    proposal = Proposal(value.register_id, value, fresh=False)
    (outcome,) = await world.context.catalog.propose(world.context.channels("pqc"), [proposal])
    return outcome.done and outcome.error is None
